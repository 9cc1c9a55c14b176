"""In the namespace lab: agents' monitors against stock ones, and the daemon with 1 and with 100 devices."""

from __future__ import annotations

import time
from typing import Dict, List, Sequence, Tuple

from tests.bench.table import Row, median
from tests.lab.api import wait_until
from tests.lab.ns.lab import NsLab, NsNode
from tests.ns.cluster import NODES, NsCluster

ROUNDS = 40
FAKE = "/usr/lib/lab-replication/fake-replica"
# A replication without replication: its facts are the lines of a file, so that a hundred of them cost nothing.
FAKE_PROGRAM = """#!/bin/sh
peer=nodeb; [ "$HEARTGATE_NODE" = nodeb ] && peer=nodea
case "$1" in
    describe)
        printf '{"protocol": 1, "resource": "%s", "peers": ["%s"], "device": null, "can_freeze": true}\\n' "$2" "$peer" ;;
    watch) exec tail -n +1 -f "/run/fake/$2" ;;
    block) echo '{"how": "outdated"}' ;;
esac
"""
OCF = {
    "OCF_ROOT": "/usr/lib/ocf",
    "OCF_RESOURCE_INSTANCE": "bench",
    "OCF_RESKEY_CRM_meta_interval": "10000",
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
}


def measure(progress_s: float = 60.0) -> List[Row]:
    with NsLab.start() as lab:
        return [*_monitors(lab), *_devices(lab, progress_s)]


def _timed(node: NsNode, agent: str, action: str, parameters: Dict[str, str]) -> Tuple[int, float]:
    """Seconds of one call, measured inside the node, so that the way into it does not count."""
    words = [f"OCF_RESKEY_{name}={value}" for name, value in parameters.items()]
    script = 's=$(date +%s%N); "$0" "$1" >/dev/null 2>&1; rc=$?; e=$(date +%s%N); echo $rc $((e-s))'
    argv = ["env", *(f"{k}={v}" for k, v in OCF.items()), *words, "sh", "-c", script, f"/usr/lib/ocf/resource.d/{agent}", action]
    rc, nanoseconds = node.run(argv, timeout_s=30).stdout.split()
    return int(rc), int(nanoseconds) / 1e9


def _monitors(lab: NsLab) -> List[Row]:
    cluster = NsCluster(lab)
    cluster.set_up()
    node = cluster.nodes["nodea"]
    ping = {"host_list": "10.77.10.2", "dampen": "5s", "name": "bench", "use_fping": "1", "attempts": "1", "timeout": "2"}
    agents: Sequence[Tuple[str, Dict[str, str]]] = (
        ("heartgate/replica-guard", {"device": "r0"}),
        ("pacemaker/ping", ping),
        ("heartbeat/Dummy", {"state": "/run/dummy.state"}),
    )
    _timed(node, "heartbeat/Dummy", "start", agents[2][1])
    _timed(node, "pacemaker/ping", "start", ping)
    times: Dict[str, List[float]] = {name: [] for name, _ in agents}
    for _ in range(ROUNDS):  # in turns, so that a busy moment hits all of them
        for name, parameters in agents:
            rc, seconds = _timed(node, name, "monitor", parameters)
            if rc not in (0, 8):
                raise AssertionError(f"{name} monitor ended with {rc}")
            times[name].append(seconds * 1000)
    ours = median(times["heartgate/replica-guard"])
    return [
        Row("one monitor", ours, "ms", "ocf:pacemaker:ping (fping)", median(times["pacemaker/ping"]), "0.5"),
        Row("one monitor", ours, "ms", "ocf:heartbeat:Dummy", median(times["heartbeat/Dummy"])),
    ]


def _facts(peer: str, link: str, incarnation: int, role: str, frozen: bool) -> str:
    disk = "uptodate" if link == "up" else "unknown"
    return (
        f'{{"disk": "uptodate", "role": "{role}", "frozen": {str(frozen).lower()}, "generation": "1", "peers": '
        f'{{"{peer}": {{"link": "{link}", "connection": {incarnation}, "disk": "{disk}", "out_of_sync_bytes": 0}}}}}}\n'
    )


def _tell(lab: NsLab, devices: Sequence[str], link: str, incarnation: int) -> None:
    for name, peer, role in (("nodea", "nodeb", "primary"), ("nodeb", "nodea", "secondary")):
        line = _facts(peer, link, incarnation, role, link == "down" and role == "primary")
        script = f"for d in {' '.join(devices)}; do cat /run/fake/.new >> /run/fake/$d; done"
        lab.ns_nodes[name].run(["sh", "-c", "cat > /run/fake/.new"], stdin=line)
        lab.ns_nodes[name].run(["sh", "-c", script], timeout_s=60)


def _devices(lab: NsLab, idle_s: float) -> List[Row]:
    rows: List[Row] = []
    for count in (1, 100):
        lab.reset()
        cluster = NsCluster(lab)
        devices = [f"d{number}" for number in range(count)]
        for node in lab.ns_nodes.values():
            node.put(FAKE, FAKE_PROGRAM, 0o755)
            node.run(["mkdir", "-p", "/run/fake"])
        _tell(lab, devices, "up", 1)
        for node in lab.ns_nodes.values():
            for device in devices:
                _register(node, device)
        _wait_all(cluster, devices, {"nodea": "synced", "nodeb": "synced"})
        rows += _idle(cluster, count, idle_s)
        started = time.monotonic()
        _tell(lab, devices, "down", 1)
        _wait_all(cluster, devices, {"nodea": "solo", "nodeb": "blocked"})
        rows.append(Row(f"all of {count} devices decided", time.monotonic() - started, "s"))
    return rows


def _register(node: NsNode, device: str) -> None:
    parameters = {"device": device, "driver": "exec", "exec_program": FAKE, "priorities": "nodea:1 nodeb:2"}
    words = [f"OCF_RESKEY_{name}={value}" for name, value in parameters.items()]
    node.run(["env", "OCF_ROOT=/usr/lib/ocf", *words, "/usr/lib/ocf/resource.d/heartgate/replica-guard", "start"], timeout_s=60)


def _wait_all(cluster: NsCluster, devices: Sequence[str], wanted: Dict[str, str]) -> None:
    import json

    def reached() -> bool:
        for name in NODES:
            result = cluster.nodes[name].run(["heartgate", "status", "--json", "--quick"], check=False, timeout_s=30)
            told = {d["device"]: d["standing"] for d in json.loads(result.stdout)["devices"]}
            if any(told.get(device) != wanted[name] for device in devices):
                return False
        return True

    wait_until(f"{len(devices)} devices to be {wanted}", reached, timeout_s=120, interval_s=0.05)


def _idle(cluster: NsCluster, count: int, idle_s: float) -> List[Row]:
    node, pid = cluster.nodes["nodea"], cluster.daemon_pid("nodea")

    def ticks() -> int:
        fields = node.run(["cat", f"/proc/{pid}/stat"]).stdout.rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    before = ticks()
    time.sleep(idle_s)
    used_s = (ticks() - before) / 100
    status = node.run(["cat", f"/proc/{pid}/status"]).stdout
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    devices = f"{count} device{'s' if count > 1 else ''}"
    return [
        Row(f"daemon, resident memory, {devices}", resident / 1024, "MiB"),
        Row(f"daemon, CPU while idle, {devices}", 100 * used_s / idle_s, "% of one CPU"),
    ]
