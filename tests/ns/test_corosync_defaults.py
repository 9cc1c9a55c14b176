"""The times that we say are in force are those of a running corosync: it is started alone, in namespaces of its own."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Dict

import pytest

from heartgate.checks import corosync_conf

pytestmark = [
    pytest.mark.ns,
    pytest.mark.skipif(not shutil.which("corosync", path="/usr/sbin"), reason="corosync is not installed"),
]
RUN = """
set -e
for place in /run /dev/shm /var/lib/corosync /var/log; do mount -t tmpfs none $place; done
mkdir -p /var/log/corosync
ip link set lo up; ip address add 10.9.0.1/24 dev lo; ip address add 10.9.1.1/24 dev lo
corosync -f -c "$1" >&2 & daemon=$!
trap 'kill -KILL $daemon; wait $daemon || true' EXIT
for try in $(seq 600); do corosync-cmapctl -g runtime.config.totem.token >/dev/null 2>&1 && break; sleep 0.1; done
corosync-cmapctl
"""
NODE = "node {{\nnodeid: {0}\nname: n{0}\nring0_addr: 10.9.0.{0}\nring1_addr: 10.9.1.{0}\n}}\n"
SITUATIONS = {
    "two nodes": (2, ""),
    "three nodes": (3, ""),
    "five nodes, no coefficient": (5, "token_coefficient: 0"),
    "four nodes, own token": (4, "token: 1700\ntoken_coefficient: 111"),
    "own consensus and join": (2, "token: 4000\nconsensus: 4100\njoin: 77"),
    "token 0 is the default": (2, "token: 0\nconsensus: 0"),
    "knet on one link": (3, "interface {\nlinknumber: 1\nknet_ping_interval: 200\n}"),
    "knet pongs": (2, "interface {\nlinknumber: 0\nknet_pong_count: 5\n}\ninterface {\nlinknumber: 1\nknet_ping_timeout: 900\n}"),
}


@pytest.mark.req("E5")
@pytest.mark.parametrize("name", SITUATIONS)
def test_a_running_corosync_has_the_same_times(name: str, tmp_path: Path) -> None:
    count, totem = SITUATIONS[name]
    nodes = "".join(NODE.format(number) for number in range(1, count + 1))
    quorum = "quorum {\nprovider: corosync_votequorum\n}\n"
    text = f"totem {{\nversion: 2\ncluster_name: x\n{totem}\n}}\n{quorum}nodelist {{\n{nodes}}}\n"
    path = tmp_path / "corosync.conf"
    path.write_text(text)
    argv = ["unshare", "-nmpf", "--uts", "--ipc", "--mount-proc", "--kill-child", "bash", "-c", RUN, "bash", str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    shown = re.finditer(r"^runtime\.config\.totem\.(\S+) \(u32\) = (\d+)$", done.stdout, re.M)
    running: Dict[str, int] = {match.group(1): int(match.group(2)) for match in shown}
    assert running, done.stderr[-2000:]
    ours = corosync_conf.effective(corosync_conf.parse(text))
    assert set(ours) <= set(running)
    assert {key: running[key] for key in ours} == dict(ours)
