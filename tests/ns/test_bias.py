"""on_isolation=bias and freeze on a real cluster in namespaces without STONITH: every link is lost at once."""

from __future__ import annotations

import time
from typing import Iterator

import pytest

from tests.lab.api import wait_until
from tests.ns.cluster import NODES, NsCluster

pytestmark = pytest.mark.ns
LINKS = ("sync0", "hb0", "hb1")


@pytest.fixture
def unfenced(cluster: NsCluster) -> Iterator[NsCluster]:
    cluster.nodes["nodea"].run(["pcs", "property", "set", "stonith-enabled=false"], timeout_s=60)
    yield cluster
    for link in LINKS:
        cluster.lab.mend(link)
    cluster.nodes["nodea"].run(["pcs", "property", "set", "stonith-enabled=true"], check=False, timeout_s=60)


def cut_everything(cluster: NsCluster) -> float:
    """Returns when: what is acknowledged from then on is acknowledged alone."""
    for link in LINKS:
        cluster.lab.cut(link)
    return time.monotonic()


def mend_everything(cluster: NsCluster) -> None:
    for link in LINKS:
        cluster.lab.mend(link)


def wait_agreed(cluster: NsCluster, bias: str) -> None:
    def agreed() -> bool:
        return all(cluster.status(node).get("bias_agreed") == bias for node in NODES)

    wait_until(f"the bias to be agreed with {bias}", agreed, timeout_s=60)


@pytest.mark.req("A7", "D8", "E1")
@pytest.mark.parametrize("policy, active, bias", [
    ("priority", "nodea", "nodea"), ("priority", "nodeb", "nodea"), ("active-first", "nodea", "nodeb")])  # fmt: skip
def test_one_goes_on_alone_at_once(unfenced: NsCluster, policy: str, active: str, bias: str) -> None:
    cluster = unfenced
    cluster.set_up(policy=policy, active=active, on_isolation="bias", bias=bias)
    wait_agreed(cluster, bias)
    bound = next(node for node in NODES if node != bias)
    since = cut_everything(cluster)
    cluster.wait_standing(bias, "solo")
    cluster.wait_standing(bound, "blocked")
    proofs = cluster.status(bias)["proofs"]
    assert [(p["node"], p["kind"]) for p in proofs] == [(bound, "agreed")]
    blocked_at = time.monotonic()
    if active == bias:
        cluster.wait_served_by(bias, since=since + 1)
    time.sleep(3)
    assert not cluster.acks(bound, blocked_at)
    mend_everything(cluster)
    cluster.lab.wait_online(timeout_s=60)
    cluster.judge()
    wait_agreed(cluster, bias)
    assert not cluster.lab.fencings


@pytest.mark.req("D8", "E8")
def test_the_holder_is_gone_and_a_person_decides(unfenced: NsCluster) -> None:
    cluster = unfenced
    cluster.set_up(on_isolation="bias", bias="nodea")
    wait_agreed(cluster, "nodea")
    cluster.nodes["nodea"].power_off()
    cluster.wait_standing("nodeb", "blocked", timeout_s=60)
    assert cluster.status("nodeb")["ends_wait"] == "heartgate mark-synchronized r0"
    mark = ["heartgate", "mark-synchronized", "r0", "--yes-lose-data", "nodeb"]
    done = cluster.nodes["nodeb"].run(mark, check=False, timeout_s=60)
    assert done.rc == 0 and "nodea was allowed to go on without this node" in done.stdout, done.stdout + done.stderr
    since = time.monotonic()
    cluster.wait_served_by("nodeb", since=since, timeout_s=60)
    cluster.nodes["nodea"].power_on()
    cluster.lab.wait_online(timeout_s=60)
    cluster.judge()


@pytest.mark.req("A7", "D8")
def test_freeze_waits_for_the_link(unfenced: NsCluster) -> None:
    cluster = unfenced
    cluster.set_up(on_isolation="freeze")
    cut_everything(cluster)
    for node in NODES:
        cluster.wait_standing(node, "deciding")
    since = time.monotonic()
    time.sleep(5)
    assert not cluster.acks(since=since), "frozen"
    assert [cluster.standing(node) for node in NODES] == ["deciding", "deciding"]
    mend_everything(cluster)
    cluster.lab.wait_online(timeout_s=60)
    cluster.judge()
    cluster.wait_served_by("nodea", since=time.monotonic())
    assert not cluster.lab.fencings
