"""The failover policy on a real cluster in namespaces: what does not need DRBD, in seconds."""

from __future__ import annotations

import time

import pytest

from tests.ns.cluster import NODES, NsCluster, other

pytestmark = pytest.mark.ns


def lose_sync(cluster: NsCluster) -> float:
    """Returns when: what is acknowledged from then on is acknowledged without it."""
    cluster.lab.cut("sync0")
    return time.monotonic()


def wait_verdict(cluster: NsCluster, winner: str, timeout_s: float = 60.0) -> None:
    cluster.wait_standing(winner, "solo", timeout_s=timeout_s)
    cluster.wait_standing(other(winner), "blocked", timeout_s=timeout_s)


@pytest.mark.req("A1", "A2", "A3", "A4", "A6", "E1", "D8", "C1", "D9")
def test_active_on_the_higher_priority(cluster: NsCluster) -> None:
    cluster.set_up()
    since = lose_sync(cluster)
    wait_verdict(cluster, "nodea")
    cluster.wait_served_by("nodea", since=since + 1)
    proofs = cluster.status("nodea")["proofs"]
    assert [(p["node"], p["kind"]) for p in proofs] == [("nodeb", "confirmed")]
    cluster.lab.mend("sync0")
    cluster.judge()
    assert not cluster.acks("nodeb") and not cluster.lab.fencings


@pytest.mark.req("A1", "A3", "A4", "D8")
@pytest.mark.parametrize("policy, winner", [("priority", "nodea"), ("active-first", "nodeb")])
def test_active_on_the_lower_priority(cluster: NsCluster, policy: str, winner: str) -> None:
    cluster.set_up(policy=policy, active="nodeb")
    since = lose_sync(cluster)
    wait_verdict(cluster, winner)
    cluster.wait_served_by(winner, since=since + 0.5)
    cluster.lab.mend("sync0")
    cluster.judge()
    assert not cluster.lab.fencings


@pytest.mark.req("A1", "A3", "D8")
def test_a_pulled_cable_does_not_wait_for_the_replications_own_time_limits(cluster: NsCluster) -> None:
    """With sync_interfaces the loss of carrier is enough; replicad alone would take ten minutes to notice."""
    cluster.set_up(replication={"ping_timeout_s": 600.0}, sync_interfaces="sync0")
    since = lose_sync(cluster)
    wait_verdict(cluster, "nodea")
    cluster.wait_served_by("nodea", since=since + 1)
    assert cluster.status("nodea")["sync_interfaces"] == {"sync0": False}
    cluster.lab.mend("sync0")
    cluster.judge()
    assert not cluster.acks("nodeb") and not cluster.lab.fencings


@pytest.mark.req("A2", "D5")
@pytest.mark.parametrize("heartbeat", ["hb0", "hb1"])
def test_one_heartbeat_link_is_enough(cluster: NsCluster, heartbeat: str) -> None:
    cluster.set_up()
    cluster.lab.cut(heartbeat)
    since = lose_sync(cluster)
    wait_verdict(cluster, "nodea")
    cluster.wait_served_by("nodea", since=since + 1)
    cluster.lab.mend(heartbeat)
    cluster.lab.mend("sync0")
    cluster.judge()
    assert not cluster.lab.fencings


@pytest.mark.req("A3", "D8")
@pytest.mark.parametrize("direction", ["in", "out"])
@pytest.mark.parametrize("node", NODES)
def test_sync_lost_in_one_direction(cluster: NsCluster, node: str, direction: str) -> None:
    cluster.set_up()
    since = time.monotonic()
    cluster.lab.cut("sync0", node=node, direction=direction)
    wait_verdict(cluster, "nodea")
    cluster.wait_served_by("nodea", since=since + 1)
    cluster.lab.mend("sync0")
    cluster.judge()
    assert not cluster.lab.fencings


@pytest.mark.req("A4")
def test_a_flapping_link(cluster: NsCluster) -> None:
    cluster.set_up()
    for _ in range(10):
        cluster.lab.cut("sync0")
        time.sleep(0.7)
        cluster.lab.mend("sync0")
        time.sleep(0.7)
    since = time.monotonic()
    cluster.judge()
    cluster.wait_served_by("nodea", since=since)
    assert not cluster.lab.fencings


@pytest.mark.req("A3", "A11", "E1")
@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("signal", ["KILL", "STOP"])
@pytest.mark.parametrize("moment_s", [-0.3, 0.4])
def test_a_daemon_dies_or_stops(cluster: NsCluster, node: str, signal: str, moment_s: float) -> None:
    """Around the loss, and between loss and verdict: it is started again, asks anew, and nobody is fenced."""
    cluster.set_up()
    kill = ["kill", f"-{signal}", cluster.daemon_pid(node)]
    if moment_s < 0:
        cluster.nodes[node].run(kill)
        time.sleep(-moment_s)
    since = lose_sync(cluster)
    if moment_s >= 0:
        time.sleep(moment_s)
        cluster.nodes[node].run(kill)
    wait_verdict(cluster, "nodea", timeout_s=60)
    cluster.wait_served_by("nodea", since=since + 1)
    cluster.lab.mend("sync0")
    cluster.judge()
    assert not cluster.acks("nodeb") and not cluster.lab.fencings


@pytest.mark.req("A4", "E1")
def test_the_blocked_node_loses_power_and_stays_blocked(cluster: NsCluster) -> None:
    cluster.set_up()
    lose_sync(cluster)
    wait_verdict(cluster, "nodea")
    cluster.nodes["nodeb"].reset()
    cluster.lab.wait_online()
    cluster.wait_standing("nodeb", "blocked", timeout_s=60)
    assert not cluster.acks("nodeb")
    cluster.lab.mend("sync0")
    cluster.judge()


@pytest.mark.req("A6", "E1")
def test_the_survivor_reboots_and_serves_again(cluster: NsCluster) -> None:
    cluster.set_up()
    lose_sync(cluster)
    wait_verdict(cluster, "nodea")
    cluster.nodes["nodea"].reset()
    cluster.lab.wait_online()
    since = time.monotonic()
    cluster.wait_served_by("nodea", since=since, timeout_s=60)
    assert cluster.standing("nodeb") == "blocked" and not cluster.acks("nodeb")
    cluster.lab.mend("sync0")
    cluster.judge()


@pytest.mark.req("A4", "A6")
@pytest.mark.parametrize("decided", [True, False])
def test_both_reboot_with_the_sync_link_lost(cluster: NsCluster, decided: bool) -> None:
    """decided=False: they go down in sync, and meet again over the heartbeat alone: the meeting rule chooses."""
    cluster.set_up()
    if decided:
        lose_sync(cluster)
        wait_verdict(cluster, "nodea")
    for node in cluster.nodes.values():
        node.power_off()
    cluster.lab.cut("sync0")
    for node in cluster.nodes.values():
        node.power_on()
    cluster.lab.wait_online(timeout_s=60)
    since = time.monotonic()
    wait_verdict(cluster, "nodea", timeout_s=60)
    cluster.wait_served_by("nodea", since=since, timeout_s=60)
    cluster.lab.mend("sync0")
    cluster.judge()


@pytest.mark.req("D6", "E1")
@pytest.mark.parametrize("lost", NODES)
def test_a_node_loses_power_and_the_other_goes_on_when_it_is_fenced(cluster: NsCluster, lost: str) -> None:
    cluster.set_up(active="nodea")
    survivor = other(lost)
    cluster.nodes[lost].power_off()
    since = time.monotonic()
    cluster.wait_standing(survivor, "solo", timeout_s=60)
    proofs = cluster.status(survivor)["proofs"]
    assert [(p["node"], p["kind"]) for p in proofs] == [(lost, "fenced")]
    cluster.wait_served_by(survivor, since=since + 1.5)
    fenced = [f for f in cluster.lab.fencings if f.node == lost]
    first_alone = cluster.acks(survivor, since + 1.5)[0].at_s  # what was under way has arrived by then
    assert fenced and fenced[0].done_s < first_alone or survivor == "nodeb" and fenced
    cluster.lab.wait_online(timeout_s=60)
    cluster.judge()


@pytest.mark.req("A11", "D6", "E1")
def test_a_member_that_cannot_confirm_is_fenced_first(cluster: NsCluster) -> None:
    """nodeb's daemon cannot be started again: Corosync still sees the node, but nobody there confirms."""
    cluster.set_up(confirm_timeout="3")
    node = cluster.nodes["nodeb"]
    node.run(["mv", "/usr/sbin/heartgated", "/usr/sbin/heartgated.gone"])
    try:
        node.run(["sh", "-c", "pkill -KILL -f '[h]eartgated'"], check=False)
        since = lose_sync(cluster)
        cluster.wait_standing("nodea", "solo", timeout_s=60)
        proofs = cluster.status("nodea")["proofs"]
        assert [(p["node"], p["kind"]) for p in proofs] == [("nodeb", "fenced")]
        fencing = next(f for f in cluster.lab.fencings if f.node == "nodeb" and f.ok)
        cluster.wait_served_by("nodea", since=since + 1)
        after = [r.at_s for r in cluster.acks("nodea", since + 1.5)]
        assert fencing.done_s < after[0], "nodea went on before the fencing was complete"
    finally:
        cluster.lab.wait_online(timeout_s=60)
        node.run(["sh", "-c", "mv /usr/sbin/heartgated.gone /usr/sbin/heartgated"], check=False)
    cluster.lab.mend("sync0")
    cluster.judge()
