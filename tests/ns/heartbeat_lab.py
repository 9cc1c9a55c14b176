"""What the tests of `heartgate heartbeat` need on a lab node: ssh between the nodes, pcsd, names, traffic that is judged."""

from __future__ import annotations

import json
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Dict, List, Tuple

from tests.lab.api import LabError, wait_until
from tests.lab.ns.lab import NsLab, NsNode
from tests.lab.ns.seed import Seed

CONF = "/etc/corosync/corosync.conf"
KEPT = CONF + ".heartgate-before"
NODES = ("nodea", "nodeb")

HOSTS = """10.77.30.1 nodea-c0
10.77.30.2 nodeb-c0
10.77.11.1 nodea-hb1
10.77.11.2 nodeb-hb1
10.77.20.1 many
10.77.30.1 many
10.99.0.1 elsewhere
127.0.0.1 looped
fd00::1 nodea-six
"""

SSHD = """#!/bin/sh
# dropbear: one small program, no users and no configuration of its own
dropbear -r /etc/lab/host_key -s -p 22 -P /run/dropbear.pid
"""

# The lab has no systemd, and pcsd asks it whether Corosync runs before it reloads it: answered by the truth.
SYSTEMCTL = """#!/bin/sh
case "$1" in
  is-active) for word; do name=${word%.service}; done; pgrep -x "$name" >/dev/null || { echo inactive; exit 3; }; echo active ;;
  *) exit 1 ;;
esac
"""

TRAFFIC = """
import json, os, select, sys, time
sys.path.insert(0, "/usr/lib/python3/dist-packages")
from heartgate.adapters.base import CarrierBusy, View
from heartgate.adapters.cpg import CpgCarrier
me, carrier = os.uname().nodename, CpgCarrier(b"traffic")
state = {"sent": 0, "heard": 0, "gap_max_ms": 0, "views": 0, "out_of_order": 0}
last, expected, saved, due = None, None, 0.0, 0.0
while True:
    select.select([carrier.fileno()], [], [], 0.02)
    for event in carrier.dispatch():
        now = time.monotonic()
        if isinstance(event, View):
            state["views"] += 1
            state["nobody"] = len(event.reachable) < 2
        elif event.node != me:
            number = int(event.payload)
            state["out_of_order"] += expected is not None and number != expected
            state["gap_max_ms"] = max(state["gap_max_ms"], 0 if last is None else int((now - last) * 1000))
            last, expected, state["heard"] = now, number + 1, state["heard"] + 1
    if time.monotonic() >= due:
        due = time.monotonic() + 0.02
        try:
            carrier.send(b"%d" % state["sent"])
            state["sent"] += 1
        except CarrierBusy:
            pass
    if time.monotonic() - saved > 0.1:
        saved = time.monotonic()
        with open("/run/traffic.new", "w") as file:
            json.dump(state, file)
        os.rename("/run/traffic.new", "/run/traffic.json")
"""


@cache
def keys() -> Tuple[bytes, str, bytes, str]:
    """root's key and its public half, the hosts' key and its public half. Made for this run, thrown away with it."""
    with tempfile.TemporaryDirectory() as directory:
        own, host = Path(directory) / "own", Path(directory) / "host"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(own)], check=True, timeout=60)
        make = ["dropbearkey", "-t", "ed25519", "-f", str(host)]
        made = subprocess.run(make, check=True, timeout=60, capture_output=True, text=True)
        public = next(line for line in made.stdout.splitlines() if line.startswith("ssh-ed25519 "))
        return own.read_bytes(), own.with_suffix(".pub").read_text(), host.read_bytes(), public


def install(seed: Seed) -> None:
    own, public, host, host_public = keys()
    seed.file("/root/.ssh/id_ed25519", own, 0o600)
    seed.file("/root/.ssh/authorized_keys", public, 0o600)
    seed.file("/root/.ssh/known_hosts", "".join(f"{node} {host_public}\n" for node in NODES), 0o600)
    seed.file("/etc/lab/host_key", host, 0o600)
    seed.file("/usr/bin/systemctl", SYSTEMCTL, 0o755)
    seed.file("/root/traffic.py", TRAFFIC)
    seed.boot_script("60-ssh", SSHD)


class HeartbeatLab:
    """A cluster of nodea and nodeb over hb0 and hb1, whose links are as in the beginning after `restore`."""

    def __init__(self, lab: NsLab) -> None:
        self.lab = lab
        self.a, self.b = lab.ns_nodes["nodea"], lab.ns_nodes["nodeb"]
        self.base = self.text(self.a)
        hosts = self.a.run(["cat", "/etc/hosts"]).stdout
        for node in (self.a, self.b):
            node.put("/etc/hosts", hosts + HOSTS)

    def text(self, node: NsNode) -> str:
        return node.run(["cat", CONF]).stdout

    def kept(self, node: NsNode) -> bool:
        return node.run(["test", "-e", KEPT], check=False).rc == 0

    def connected(self, node: NsNode, peer: int) -> Dict[int, bool]:
        """Link -> connected, as Corosync says (not as heartgate does)."""
        lines = node.run(["corosync-cmapctl", "-m", "stats"]).stdout
        found = {}
        for line in lines.splitlines():
            key, _, value = line.partition(" (u8) = ")
            words = key.split(".")
            if words[:3] == ["stats", "knet", f"node{peer}"] and words[-1] == "connected":
                found[int(words[3][4:])] = value == "1"
        return found

    def links(self) -> Tuple[Dict[int, bool], Dict[int, bool]]:
        return self.connected(self.a, 2), self.connected(self.b, 1)

    def ring(self, node: NsNode) -> str:
        """Identity of the membership: another value means that somebody left or joined."""
        lines = node.run(["corosync-quorumtool", "-s"], check=False).stdout.splitlines()
        return next((line.split(":")[1].strip() for line in lines if line.startswith("Ring ID:")), "")

    def unchanged(self) -> bool:
        """Nothing of a change is left on either node."""
        return all(self.text(node) == self.base and not self.kept(node) for node in (self.a, self.b))

    def restore(self) -> None:
        for link in self.lab.links:
            self.lab.mend(link)
        for node in (self.a, self.b):
            node.put(CONF, self.base)
            node.run(["rm", "-f", KEPT])
        self.a.run(["corosync-cfgtool", "-R"])
        both = {0: True, 1: True}
        wait_until("both links", lambda: self.links() == (both, both), timeout_s=60)

    # --- traffic

    def start_traffic(self) -> None:
        self.stop_traffic()
        for node in (self.a, self.b):
            node.spawn(["/usr/bin/python3", "/root/traffic.py"])
        for node in (self.a, self.b):
            wait_until("traffic", lambda node=node: self.traffic(node).get("heard", 0) > 20, timeout_s=60)  # type: ignore[misc]

    def stop_traffic(self) -> None:
        for node in (self.a, self.b):
            node.run(["pkill", "-f", "/root/[t]raffic.py"], check=False)  # of this node: it has a process namespace of its own
            node.run(["rm", "-f", "/run/traffic.json"])

    def traffic(self, node: NsNode) -> Dict[str, Any]:
        try:
            found: Dict[str, Any] = json.loads(node.run(["cat", "/run/traffic.json"]).stdout)
            return found
        except (LabError, ValueError):
            return {}

    # --- pcs

    def start_pcsd(self) -> None:
        for node in (self.a, self.b):
            node.run(["sh", "-c", "mkdir -p /var/log/pcsd; rm -f /var/lib/pcsd/*; echo hacluster:lab-only | chpasswd"])
            node.spawn(["sh", "-c", "cd /usr/share/pcsd && exec /usr/share/pcsd/pcsd >/var/log/pcsd/ruby.log 2>&1"])
            node.spawn(["sh", "-c", "exec /usr/sbin/pcsd >/var/log/pcsd/start.log 2>&1"])
        auth = ["pcs", "host", "auth", *NODES, "-u", "hacluster", "-p", "lab-only"]
        seen: List[str] = []

        def answered() -> bool:
            done = self.a.run(auth, check=False, timeout_s=60)
            seen.append(done.stdout + done.stderr)
            return done.rc == 0

        try:
            wait_until("pcsd", answered, timeout_s=60, interval_s=1.0)
        except LabError as error:
            logs = self.a.run(["sh", "-c", "tail -n 20 /var/log/pcsd/*"], check=False).stdout
            raise LabError(f"{error}: {seen[-1]}\n{logs}") from error
        done = self.b.run(auth, timeout_s=60)
        assert done.rc == 0, done

    def stop_pcsd(self, node: NsNode) -> None:
        node.run(["pkill", "-f", "/usr/sbin/[p]csd"], check=False)

    def forget_pcs(self) -> None:
        for node in (self.a, self.b):
            node.run(["rm", "-f", "/var/lib/pcsd/known-hosts"])
