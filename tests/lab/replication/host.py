"""The test's side of the lab's replication: set it up, look at it, and check what writers were promised."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Mapping, Optional, Sequence

from tests.lab.api import LabError, wait_until
from tests.lab.ns import seed as seeds
from tests.lab.ns.lab import NsLab, NsNode, Record

SYNC_LINK = "sync0"


def configure(lab: NsLab, resource: str = "r0", nodes: Sequence[str] = ("nodea", "nodeb"), **options: Any) -> None:
    """Write /etc/replicad/RESOURCE.json on both nodes. Options and their defaults: engine.OPTIONS."""
    names = list(lab.ns_nodes)
    addresses = {name: seeds.addresses(names.index(name) + 1, lab.links)[SYNC_LINK].split("/")[0] for name in nodes}
    content = json.dumps({"resource": resource, "nodes": addresses, **options})
    for name in nodes:
        lab.nodes[name].put(f"/etc/replicad/{resource}.json", content)


def start(lab: NsLab, resource: str = "r0", nodes: Sequence[str] = ("nodea", "nodeb")) -> None:
    """Start replicad by hand (without Pacemaker) and wait until the copies are connected and up to date."""
    for name in nodes:
        lab.nodes[name].spawn(["replicad", resource])
    wait_connected(lab, resource, nodes)


def wait_connected(lab: NsLab, resource: str = "r0", nodes: Sequence[str] = ("nodea", "nodeb"), *,
                   timeout_s: float = 60.0) -> None:
    for name in nodes:
        node = lab.nodes[name]

        def equal(node: NsNode = node) -> bool:
            facts = status(node, resource)
            return bool(facts) and facts["disk"] == "uptodate" and all(
                peer["link"] == "up" and peer["disk"] == "uptodate" for peer in facts["peers"].values())
        wait_until(f"{resource} to be connected and up to date on {name}", equal, timeout_s=timeout_s, interval_s=0.05)


def status(node: NsNode, resource: str = "r0") -> Dict[str, Any]:
    """Empty when replicad does not run there."""
    answer = node.run(["replicactl", resource, "status"], check=False, timeout_s=5)
    value: Dict[str, Any] = json.loads(answer.stdout) if answer.rc == 0 else {}
    return value


def dump(node: NsNode, resource: str = "r0") -> Dict[int, str]:
    """The records on this node's disk, whatever state it is in."""
    text = node.run(["cat", f"/var/lib/replicad/{resource}/data"]).stdout
    pairs = (line.partition(" ") for line in text.split("\n")[:-1])
    return {int(number): value for number, _, value in pairs}


def missing(lab: NsLab, node: str, resource: str = "r0") -> List[Record]:
    """Records acknowledged before the copy is read that it does not hold (or holds with another content)."""
    promised = [record for record in lab.records if record.resource == resource]
    copy = dump(lab.nodes[node], resource)
    return [record for record in promised if copy.get(record.number) != record.value]


def longest_pause_s(lab: NsLab, resource: str = "r0", *, since_s: float = 0.0,
                    until_s: Optional[float] = None) -> float:
    """Longest time without an acknowledged write, between since_s and until_s (of time.monotonic())."""
    times = [record.at_s for record in lab.records if record.resource == resource and record.at_s >= since_s]
    if until_s is not None:
        times = [at for at in times if at <= until_s] + [until_s]
    if since_s:
        times.insert(0, since_s)
    if not times:
        raise LabError(f"no acknowledged write of {resource}")
    return max((later - earlier for earlier, later in zip(times, times[1:])), default=0.0)


def pacemaker_resources(resource: str = "r0", interval_s: float = 0.03) -> List[List[str]]:
    """pcs commands for a promotable replica and a writer on its promoted side."""
    return [
        ["pcs", "resource", "create", resource, "ocf:lab:replica", f"resource={resource}", "promotable", "notify=true",
         "promoted-max=1"],
        ["pcs", "resource", "create", f"{resource}-writer", "ocf:lab:writer", f"resource={resource}",
         f"interval={interval_s}"],
        ["pcs", "constraint", "colocation", "add", f"{resource}-writer", "with", "Promoted", f"{resource}-clone"],
        ["pcs", "constraint", "order", "promote", f"{resource}-clone", "then", "start", f"{resource}-writer"],
    ]


def driver_environment(node: str) -> Mapping[str, str]:
    return {"HEARTGATE_NODE": node}
