"""Other nodes in `priorities`, and a device that is forgotten, under a service that goes on writing; on a real Pacemaker."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ElementTree
from typing import List

import pytest

from tests.lab.api import wait_until
from tests.ns.cluster import DRIVER, LOCATION_RULE, NODES, NsCluster

pytestmark = pytest.mark.ns


def forget(cluster: NsCluster, node: str, *options: str) -> str:
    done = cluster.nodes[node].run(["heartgate", "forget", "r0", *options], check=False, timeout_s=60)
    return f"exit {done.rc}\n{done.stdout}{done.stderr}"


def pcs(cluster: NsCluster, *words: str, check: bool = True) -> str:
    done = cluster.nodes["nodea"].run(["pcs", *words], check=check, timeout_s=60)
    return f"{done.stdout}{done.stderr}"


def rules_of_the_attribute(cluster: NsCluster) -> List[str]:
    found = cluster.nodes["nodea"].run(["cibadmin", "-Q", "-o", "constraints"]).stdout
    places = ElementTree.fromstring(found).iter("rsc_location")
    return [str(each.get("id")) for each in places if any(e.get("attribute") == "heartgate-r0" for e in each.iter("expression"))]


def goes_on(cluster: NsCluster) -> None:
    cluster.wait_served_by("nodea", since=time.monotonic(), timeout_s=60)


def guard_runs(cluster: NsCluster, node: str) -> bool:
    return bool(cluster.status(node).get("active"))


@pytest.mark.req("E1")
def test_other_nodes_are_refused_and_the_service_goes_on(cluster: NsCluster) -> None:
    cluster.set_up()
    pcs(cluster, "resource", "update", "guard", "priorities=nodea:1 nodez:2", check=False)

    def said() -> str:
        shown = cluster.nodes["nodea"].run(["sh", "-c", "cat /var/log/pacemaker/pacemaker.log; crm_mon -1 -r"], check=False).stdout
        return shown if "the record of r0 on this node is for the nodes nodea nodeb" in shown else ""

    wait_until("the reason in Pacemaker's log", said, timeout_s=60)
    time.sleep(3)
    for node in NODES:
        status = cluster.status(node)
        assert status["priorities"] == {"nodea": 1, "nodeb": 2} and status["standing"] == "synced" and not status["broken"]
    goes_on(cluster)
    pcs(cluster, "resource", "update", "guard", "priorities=nodea:1 nodeb:2", check=False)
    pcs(cluster, "resource", "cleanup", "guard", check=False)
    for node in NODES:
        wait_until(f"the guard on {node}", lambda node=node: guard_runs(cluster, node), timeout_s=60)  # type: ignore[misc]
    goes_on(cluster)
    cluster.judge()


@pytest.mark.req("E8")
def test_forgotten_and_guarded_anew_under_a_service(cluster: NsCluster) -> None:
    cluster.set_up()
    assert "replica-guard is registered for r0" in forget(cluster, "nodea", "--yes-forget", "nodea")
    for each in rules_of_the_attribute(cluster):
        pcs(cluster, "constraint", "delete", each)
    pcs(cluster, "resource", "delete", "guard")
    for node in NODES:
        wait_until(f"the guard's stop on {node}", lambda node=node: not guard_runs(cluster, node), timeout_s=60)  # type: ignore[misc]
    printed = forget(cluster, "nodeb")
    assert "exit 1" in printed and "nodea says that it is synced and in sync with this copy" in printed
    assert cluster.standing("nodeb") == "synced"
    printed = forget(cluster, "nodeb", "--yes-forget", "nodeb")
    assert "exit 0" in printed and "Pacemaker does not answer" not in printed, printed
    printed = forget(cluster, "nodea")
    assert "exit 1" in printed and "r0 is Primary here" in printed
    assert "exit 0" in forget(cluster, "nodea", "--yes-forget", "nodea")
    for node in NODES:
        assert cluster.status(node) == {}
        told = cluster.nodes[node].run(["attrd_updater", "-n", "heartgate-r0", "-Q", "-N", node], check=False)
        assert "synced" not in told.stdout
        left = cluster.nodes[node].run(["sh", "-c", "ls /var/lib/heartgate | grep ^r0"], check=False).stdout.split()
        assert left == ["r0.verdicts"]
    goes_on(cluster)
    pcs(cluster, "resource", "create", "guard", "ocf:heartgate:replica-guard", "device=r0", "driver=exec",
        f"exec_program={DRIVER}", "priorities=nodeb:1 nodea:2", "clone")  # fmt: skip
    cluster.wait_synced()
    pcs(cluster, "constraint", "location", "r0-clone", "rule", "role=Promoted", "score=-INFINITY", *LOCATION_RULE.split())
    goes_on(cluster)
    since = time.monotonic()
    cluster.lab.cut("sync0")
    cluster.wait_standing("nodeb", "solo")
    cluster.wait_standing("nodea", "blocked")
    cluster.wait_served_by("nodeb", since=since)
    cluster.lab.mend("sync0")
    cluster.judge()
