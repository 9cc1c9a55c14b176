"""In the namespace lab: heartbeat-link against ocf:heartbeat:ethmonitor and ocf:pacemaker:ifspeed, on the same link."""

from __future__ import annotations

import time
from typing import Dict, List

from tests.bench.nodes import ROUNDS, _timed
from tests.bench.table import Row, median
from tests.lab.api import wait_until
from tests.lab.ns.lab import NsLab, NsNode

CUTS = 3
OURS, ETHMONITOR, IFSPEED = "heartgate/heartbeat-link", "heartbeat/ethmonitor", "pacemaker/ifspeed"
PARAMETERS: Dict[str, Dict[str, str]] = {
    OURS: {"interface": "hb0"},
    ETHMONITOR: {"interface": "hb0"},
    IFSPEED: {"iface": "hb0", "name": "bench"},
}


def measure() -> List[Row]:
    with NsLab.start() as lab:
        return [*_monitors(lab), *_losses(lab)]


def _monitors(lab: NsLab) -> List[Row]:
    node = lab.ns_nodes["nodea"]
    for agent, parameters in PARAMETERS.items():
        _timed(node, agent, "start", parameters)
    times: Dict[str, List[float]] = {agent: [] for agent in PARAMETERS}
    for _ in range(ROUNDS):  # in turns, so that a busy moment hits all of them
        for agent, parameters in PARAMETERS.items():
            rc, seconds = _timed(node, agent, "monitor", parameters)
            if rc == 0:
                times[agent].append(seconds * 1000)
    for agent, parameters in PARAMETERS.items():
        _timed(node, agent, "stop", parameters)
    if len(times[OURS]) < ROUNDS or len(times[ETHMONITOR]) < ROUNDS // 2:
        raise AssertionError(f"monitors that worked: { {agent: len(each) for agent, each in times.items()} }")
    ours, aims = median(times[OURS]), {ETHMONITOR: "0.1", IFSPEED: ""}
    # ifspeed cannot tell the speed of every kind of interface.
    return [
        Row("one monitor of a link", ours, "ms", f"ocf:{agent.replace('/', ':')}", median(times[agent]), aim)
        for agent, aim in aims.items()
        if times[agent]
    ]


def _losses(lab: NsLab) -> List[Row]:
    """From the cut until the other node's attribute daemon has the new value. ethmonitor as fast as it goes with a monitor every
    10 s: it does not try again before it believes a loss."""
    lab.reset()
    first = lab.ns_nodes["nodea"]
    monitor = ["op", "monitor", "interval=10s", "timeout=60s", "clone"]
    create = ["pcs", "resource", "create"]
    first.run([*create, "ours", "ocf:heartgate:heartbeat-link", "interface=hb0", *monitor], timeout_s=60)
    theirs = ["interface=hb0", "repeat_count=1", "link_status_only=true"]
    first.run([*create, "theirs", "ocf:heartbeat:ethmonitor", *theirs, *monitor], timeout_s=60)
    names = {"ours": "heartgate-link-hb0", "theirs": "ethmonitor-hb0"}
    seconds: Dict[str, List[float]] = {which: [] for which in names}
    for _ in range(CUTS):
        _wait_values(lab, names, "1")
        lab.cut("hb0")
        for which, at_s in _wait_values(lab, names, "0").items():
            seconds[which].append(at_s)
        lab.mend("hb0")
    what = "carrier lost until the other node knows"
    return [Row(what, median(seconds["ours"]), "s", "ocf:heartbeat:ethmonitor", median(seconds["theirs"]), "0.1")]


def _wait_values(lab: NsLab, names: Dict[str, str], value: str) -> Dict[str, float]:
    """Seconds until nodeb knows each of nodea's attributes to have the value."""
    started, found = time.monotonic(), {}

    def reached() -> bool:
        for which, name in names.items():
            if which not in found and _attribute(lab.ns_nodes["nodeb"], name) == value:
                found[which] = time.monotonic() - started
        return len(found) == len(names)

    wait_until(f"attributes of {value}", reached, timeout_s=90, interval_s=0.01)
    return found


def _attribute(node: NsNode, name: str) -> str:
    done = node.run(["attrd_updater", "--query", "--name", name, "--node", "nodea"], check=False)
    return done.stdout.partition('value="')[2].partition('"')[0]
