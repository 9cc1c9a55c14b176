"""A person decides on a real cluster in namespaces: both nodes lost power, one of them is started alone."""

from __future__ import annotations

import time
from typing import Iterator

import pytest

from tests.lab.api import wait_until
from tests.ns.cluster import NODES, NsCluster, other

pytestmark = pytest.mark.ns


@pytest.fixture
def off(cluster: NsCluster) -> Iterator[NsCluster]:
    """Both machines are off. Fencing cannot bring the other one back."""
    cluster.set_up()
    cluster.lab.fencing("unreachable")
    for node in cluster.nodes.values():
        node.power_off()
    yield cluster
    cluster.lab.fencing("ok")


LOOKED = "//lrm_resource[@type='replica']/lrm_rsc_op[@operation='monitor']"


def start_alone(cluster: NsCluster, node: str) -> None:
    """One that starts alone is not quorate (wait_for_all): Pacemaker starts nothing, systemd would start heartgated."""
    machine = cluster.nodes[node]
    machine.power_on()
    machine.spawn(["heartgated", "--respawn"])
    # Without quorum Pacemaker stops what it finds running when it looks first, so the replication comes after that.
    wait_until("Pacemaker to have looked", lambda: machine.run(["cibadmin", "-Q", "--xpath", LOOKED], check=False).rc == 0,
               timeout_s=60)  # fmt: skip
    machine.spawn(["replicad", "r0"])
    cluster.wait_standing(node, "unproven", timeout_s=60)
    wait_until("replicad", lambda: cluster.status(node).get("disk") in ("uptodate", "consistent"), timeout_s=60)


def mark(cluster: NsCluster, node: str, name: str) -> str:
    done = cluster.nodes[node].run(["heartgate", "mark-synchronized", "r0", "--yes-lose-data", name], check=False, timeout_s=60)
    return f"exit {done.rc}\n{done.stdout}{done.stderr}"


@pytest.mark.req("E8", "D8")
@pytest.mark.parametrize("node", NODES)
def test_one_alone_waits_says_why_and_a_person_ends_it(off: NsCluster, node: str) -> None:
    start_alone(off, node)
    peer = other(node)
    told = wait_until("what it waits for", lambda: off.status(node).get("waits"), timeout_s=60)
    assert told.startswith(f"waits to hear {peer} over a heartbeat")
    assert off.status(node)["ends_wait"] == "heartgate mark-synchronized r0"
    time.sleep(5)
    assert off.standing(node) == "unproven", "it must not decide by itself"
    assert "exit 1" in mark(off, node, peer), "the name of the other node"
    assert off.standing(node) == "unproven"
    printed = mark(off, node, node)
    assert "exit 0" in printed, printed
    assert "last heard 2" in printed and "LOST IF YOU GO ON" in printed
    now = off.status(node)
    assert now["standing"] == "solo"
    assert [(p["node"], p["kind"]) for p in now["proofs"]] == [(peer, "operator")]
    off.lab.fencing("ok")
    since = time.monotonic()
    off.nodes[peer].power_on()
    off.lab.wait_online(timeout_s=60)
    off.judge()
    wait_until("a service", lambda: len(off.acks(since=since)) > 10, timeout_s=60)


@pytest.mark.req("E8")
def test_a_peer_that_serves_is_a_reason_against(cluster: NsCluster) -> None:
    cluster.set_up()
    cluster.lab.cut("sync0")
    cluster.wait_standing("nodea", "solo")
    cluster.wait_standing("nodeb", "blocked")
    printed = mark(cluster, "nodeb", "nodeb")
    assert "exit 1" in printed and "refused: nodea can be heard, is solo" in printed
    assert cluster.standing("nodeb") == "blocked"
    cluster.lab.mend("sync0")
    cluster.judge()
    assert not cluster.acks("nodeb")
