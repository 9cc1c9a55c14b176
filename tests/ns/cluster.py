"""heartgate on a real cluster in namespaces, with the lab's replication through the `exec` driver."""

from __future__ import annotations

import json
import time
from typing import Any, Dict, List, Optional

from tests.lab.api import LabError, wait_until
from tests.lab.ns.lab import NsLab, NsNode
from tests.lab.replication import host

NODES = ("nodea", "nodeb")
DRIVER = "/usr/lib/lab-replication/replica-driver"
LOCATION_RULE = "not_defined heartgate-r0 or heartgate-r0 eq blocked or heartgate-r0 eq unproven"


class NsCluster:
    """A formed cluster with replica-guard, the promotable replica and a writer; judged by the lab's records."""

    def __init__(self, lab: NsLab) -> None:
        self.lab = lab
        self.nodes: Dict[str, NsNode] = dict(lab.ns_nodes)
        self.since = time.monotonic()

    def set_up(
        self,
        *,
        policy: str = "priority",
        active: str = "nodea",
        service: bool = True,
        gate: bool = False,
        replication: Optional[Dict[str, Any]] = None,
        **guard: str,
    ) -> None:
        """Resources by pcs; returns when both are synced and the writer writes on `active`. gate: fence_heartgate decides who may
        shoot. replication: options of replicad; guard: parameters of replica-guard."""
        host.configure(self.lab, **(replication or {}))
        for node in self.nodes.values():  # an attribute lives as long as the node does; the test before this one set it
            node.run(["attrd_updater", "-n", "heartgate-r0", "-D"], check=False)
        parameters = {"priorities": "nodea:1 nodeb:2", "policy": policy, **guard}
        create = ["pcs", "resource", "create", "guard", "ocf:heartgate:replica-guard", "device=r0", "driver=exec",
                  f"exec_program={DRIVER}", *(f"{n}={v}" for n, v in parameters.items()), "clone"]  # fmt: skip
        commands = [create]
        if service:
            commands = [
                *host.pacemaker_resources(),
                create,
                ["pcs", "constraint", "order", "start", "r0-clone", "then", "start", "guard-clone"],
                ["pcs", "constraint", "location", "r0-clone", "rule", "role=Promoted", "score=-INFINITY",
                 *LOCATION_RULE.split()],
                ["pcs", "constraint", "location", "r0-clone", "rule", "role=Promoted", "score=100000", "#uname", "eq", active],
            ]  # fmt: skip
        else:
            host.start(self.lab)
        first = self.nodes["nodea"]
        if gate:
            commands += [
                ["pcs", "stonith", "create", "gate", "fence_heartgate", "pcmk_host_list=nodea nodeb", "--force"],
                *(["pcs", "stonith", "level", "add", "1", node, "gate", "power"] for node in NODES),
            ]
        if service:  # all at once: the guard looks at the replica when it starts
            first.run(["pcs", "cluster", "cib", "/root/new.xml"], timeout_s=60)
            commands = [["pcs", "-f", "/root/new.xml", *command[1:]] for command in commands]
            commands.append(["pcs", "cluster", "cib-push", "/root/new.xml", "--config"])
        for command in commands:
            first.run(command, timeout_s=60)
        self.wait_synced()
        if service:
            self.wait_served_by(active, since=self.since)

    # --- asking

    def status(self, node: str) -> Dict[str, Any]:
        result = self.nodes[node].run(["heartgate", "status", "--json", "--quick"], check=False, timeout_s=10)
        try:
            devices: List[Dict[str, Any]] = json.loads(result.stdout)["devices"]
        except (ValueError, KeyError):
            return {}
        return next((device for device in devices if device["device"] == "r0"), {})

    def standing(self, node: str) -> str:
        return str(self.status(node).get("standing", "")) if self.nodes[node].powered() else ""

    def wait_standing(self, node: str, *standings: str, timeout_s: float = 60.0) -> str:
        def reached() -> Optional[str]:
            try:
                now = self.standing(node)
            except LabError:
                return None
            return now if now in standings else None

        return wait_until(f"{node} to be {' or '.join(standings)}", reached, timeout_s=timeout_s)

    def wait_synced(self, timeout_s: float = 60.0) -> None:
        for node in NODES:
            self.wait_standing(node, "synced", timeout_s=timeout_s)

    def acks(self, node: Optional[str] = None, since: float = 0.0) -> List[Any]:
        return [r for r in self.lab.records if r.at_s >= since and node in (None, r.node)]

    def wait_served_by(self, node: str, *, since: float, timeout_s: float = 60.0, count: int = 10) -> None:
        wait_until(f"{node} to serve", lambda: len(self.acks(node, since)) >= count, timeout_s=timeout_s)

    def daemon_pid(self, node: str) -> str:
        """Of the daemon that works (not of the one that watches over it)."""
        return self.nodes[node].run(["cat", "/run/heartgate/lock"], check=False).stdout.strip()

    # --- judging

    def judge(self) -> None:
        """Healed, both copies hold every acknowledged record, and no two writers at a time."""
        self.wait_synced()
        host.wait_connected(self.lab, timeout_s=60)
        for node in NODES:
            lacking = host.missing(self.lab, node)
            assert not lacking, f"{node} lacks {len(lacking)} acknowledged records, first {lacking[0]}"


def other(node: str) -> str:
    return NODES[1 - NODES.index(node)]
