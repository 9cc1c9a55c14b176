"""The failover policy on a real cluster: DRBD 8.4, Corosync, Pacemaker, a file system and a writer; the judge is outside.

In every scenario: never two writers, no acknowledged write lost, and the cluster heals without a person.
"""

from __future__ import annotations

import time
from typing import Callable

import pytest

from tests.lab.api import wait_until
from tests.lab.vm.machine import NODES
from tests.vm.cluster import HaLab, other

pytestmark = pytest.mark.vm
Make = Callable[..., HaLab]


def lose_sync(ha: HaLab) -> float:
    """Cut the sync cable; host time when it was cut."""
    ha.writes.wait_acks(5, timeout_s=60)
    ha.lab.cut("sync0")
    return time.monotonic()


def mend_and_judge(ha: HaLab) -> None:
    ha.lab.mend("sync0")
    ha.wait_healed()
    ha.lab.wait_in_sync()
    ha.judge()


@pytest.mark.req("A1", "A2", "A3", "A4", "A5", "A6", "E1", "D8", "D9", "C1")
def test_active_on_the_higher_priority_goes_on_and_heals(cluster: Make) -> None:
    ha = cluster()
    since = lose_sync(ha)
    ha.wait_standing("nodea", "solo")
    ha.wait_standing("nodeb", "blocked")
    ha.wait_served_by("nodea", since=since + 1)
    status = ha.status("nodea")
    assert status["proofs"][0]["node"] == "nodeb" and status["proofs"][0]["kind"] == "confirmed"
    flushed = wait_until("the flush to be recorded", lambda: ha.status("nodea").get("flush"), timeout_s=60)
    assert [(r["target"], r["ok"]) for r in flushed["results"]] == [("filesystem:/srv", True)]
    refused = ha.run("nodeb", ["drbdadm", "primary", "r0"], check=False, timeout_s=60)
    assert refused.rc != 0, "a blocked node was promoted"
    refused = ha.run("nodeb", ["dd", "if=/dev/drbd0", "of=/dev/null", "count=1"], check=False)
    assert refused.rc != 0, "a blocked node was read"
    assert ha.lab.fencings == []
    mend_and_judge(ha)
    ha.one_writer_at_a_time()


@pytest.mark.req("A1", "A3", "A4", "E1", "D8")
@pytest.mark.parametrize("policy, winner", [("priority", "nodea"), ("active-first", "nodeb")])
def test_active_on_the_lower_priority(cluster: Make, policy: str, winner: str) -> None:
    """priority: the service moves to the higher one. active-first: it stays where it is."""
    ha = cluster(policy=policy, active="nodeb")
    since = lose_sync(ha)
    ha.wait_standing(winner, "solo")
    ha.wait_standing(other(winner), "blocked")
    ha.wait_served_by(winner, since=since, timeout_s=120)
    if winner != "nodeb":
        last = [report for report in ha.writes.acks() if report.node == "nodeb"][-1].at
        assert last < ha.writes.acks(node=winner, since=since)[0].at, "both nodes acknowledged writes at the same time"
    assert ha.lab.fencings == []
    mend_and_judge(ha)
    ha.one_writer_at_a_time()


@pytest.mark.req("A1", "A4", "E1")
def test_users_inside_the_kernel_make_the_loser_reset_itself(cluster: Make) -> None:
    """Swap cannot be killed: nodeb was asked to block and cannot release, so it takes itself away, and comes back blocked."""
    ha = cluster(active="nodeb")
    swap = "dd if=/dev/zero of=/srv/swap bs=64k count=64 && chmod 600 /srv/swap && mkswap /srv/swap && swapon /srv/swap"
    ha.run("nodeb", ["sh", "-c", swap], timeout_s=60)
    boot = ha.nodes["nodeb"].wait_boot().boot_id
    since = lose_sync(ha)
    ha.wait_standing("nodea", "solo")
    ha.nodes["nodeb"].wait_boot(after=boot, timeout_s=240)
    ha.wait_served_by("nodea", since=since, timeout_s=240)
    wait_until("nodeb's daemon to be back", lambda: ha.standing("nodeb"), timeout_s=120)
    assert ha.standing("nodeb") == "blocked"
    ha.lab.mend("sync0")
    ha.wait_healed(timeout_s=400)
    ha.lab.wait_in_sync()
    ha.judge()
    ha.one_writer_at_a_time()


@pytest.mark.req("A1", "A3", "A4", "D8")
def test_two_primaries_with_raw_writers_on_both(cluster: Make) -> None:
    ha = cluster(dual=True)
    for number, node in enumerate(NODES):
        wait_until(f"{node} to be Primary", lambda n=node: "role:Primary" in ha.drbd(n).split("peer")[0], timeout_s=60)
        ha.writes.start(node, "/dev/drbd0", writer=f"raw{number}", start=(1 + 40 * number) << 20, length=32 << 20)
    ha.writes.wait_acks(20, writer="raw0")
    ha.writes.wait_acks(20, writer="raw1")
    ha.lab.cut("sync0")
    ha.wait_standing("nodea", "solo")
    ha.wait_standing("nodeb", "blocked")
    since = time.monotonic()  # no earlier: a report of a write before the cut may take its time
    ha.writes.wait_acks(20, writer="raw0", since=since, timeout_s=60)
    first_alone = ha.writes.acks("raw0", since=since)[0].at
    assert not ha.writes.acks("raw1", since=first_alone), "the loser acknowledged a write after the winner went on"
    ha.lab.mend("sync0")
    ha.wait_healed(timeout_s=400)
    ha.lab.wait_in_sync()
    for writer in ("raw0", "raw1"):
        ha.judge(writer=writer)


@pytest.mark.req("A3", "D8")
def test_an_inconsistent_replica_of_higher_priority_never_wins(cluster: Make) -> None:
    """nodea is in the middle of a resync when the link is lost: it has the higher priority and old data."""
    ha = cluster(policy="active-first", active="nodeb")
    lose_sync(ha)
    ha.wait_standing("nodeb", "solo")
    ha.wait_standing("nodea", "blocked")
    ha.run("nodeb", ["sh", "-c", "dd if=/dev/urandom of=/srv/fill bs=1M count=60 && sync /srv/fill"], timeout_s=120)
    for node in NODES:  # slow the resync down so that it can be cut in the middle
        ha.run(node, ["drbdadm", "disk-options", "--c-plan-ahead=0", "--resync-rate=1M", "r0"])
    ha.lab.mend("sync0")
    wait_until("nodea to be a sync target", lambda: "Inconsistent" in ha.drbd("nodea"), timeout_s=60)
    since = time.monotonic()
    ha.lab.cut("sync0")
    ha.wait_served_by("nodeb", since=since + 3)
    assert ha.standing("nodea") == "blocked" and ha.standing("nodeb") == "solo"
    assert not ha.writes.acks(node="nodea", since=since)
    for node in NODES:
        ha.run(node, ["drbdadm", "disk-options", "--c-plan-ahead=0", "--resync-rate=100M", "r0"])
    mend_and_judge(ha)


@pytest.mark.req("A2", "A3", "D5")
def test_sync_lost_with_one_heartbeat_link_down(cluster: Make) -> None:
    ha = cluster()
    ha.lab.cut("hb0")
    since = lose_sync(ha)
    ha.wait_standing("nodea", "solo")
    ha.wait_standing("nodeb", "blocked")
    ha.wait_served_by("nodea", since=since + 1)
    ha.lab.mend("hb0")
    assert ha.lab.fencings == []
    mend_and_judge(ha)


@pytest.mark.req("A4", "E1")
def test_the_blocked_node_loses_power_and_is_still_blocked(cluster: Make) -> None:
    ha = cluster()
    lose_sync(ha)
    ha.wait_standing("nodeb", "blocked")
    ha.wait_standing("nodea", "solo")
    boot = ha.nodes["nodeb"].wait_boot().boot_id
    ha.nodes["nodeb"].reset()
    ha.nodes["nodeb"].wait_boot(after=boot, timeout_s=180)
    wait_until("nodeb's daemon to be back", lambda: ha.standing("nodeb"), timeout_s=120)
    assert ha.standing("nodeb") == "blocked"
    since = time.monotonic()
    ha.wait_served_by("nodea", since=since, timeout_s=60)
    refused = ha.run("nodeb", ["drbdadm", "primary", "r0"], check=False, timeout_s=60)
    assert refused.rc != 0 or "role:Primary" not in ha.drbd("nodeb").split("peer")[0]
    ha.lab.mend("sync0")
    ha.wait_healed(timeout_s=400)
    ha.lab.wait_in_sync()
    ha.judge()


@pytest.mark.req("A6", "E1")
def test_the_survivor_is_rebooted_and_serves_again(cluster: Make) -> None:
    ha = cluster()
    lose_sync(ha)
    ha.wait_standing("nodea", "solo")
    ha.wait_standing("nodeb", "blocked")
    ha.wait_served_by("nodea", since=time.monotonic())
    boot = ha.nodes["nodea"].wait_boot().boot_id
    ha.nodes["nodea"].reset()
    since = time.monotonic()
    ha.nodes["nodea"].wait_boot(after=boot, timeout_s=180)
    ha.wait_served_by("nodea", since=since, timeout_s=240)
    assert ha.standing("nodea") == "solo" and ha.standing("nodeb") == "blocked"
    assert not ha.writes.acks(node="nodeb")
    ha.lab.mend("sync0")
    ha.wait_healed(timeout_s=400)
    ha.lab.wait_in_sync()
    ha.judge()


@pytest.mark.req("A4", "A6")
def test_both_are_rebooted_with_the_link_still_lost(cluster: Make) -> None:
    ha = cluster()
    lose_sync(ha)
    ha.wait_standing("nodea", "solo")
    ha.wait_standing("nodeb", "blocked")
    ha.wait_served_by("nodea", since=time.monotonic())
    boots = {name: node.wait_boot().boot_id for name, node in ha.nodes.items()}
    for node in ha.nodes.values():
        node.reset()
    since = time.monotonic()
    for name, node in ha.nodes.items():
        node.wait_boot(after=boots[name], timeout_s=180)
    ha.wait_served_by("nodea", since=since, timeout_s=300)
    assert ha.standing("nodeb") == "blocked"
    ha.lab.mend("sync0")
    ha.wait_healed(timeout_s=400)
    ha.lab.wait_in_sync()
    ha.judge()


@pytest.mark.req("A4")
def test_the_link_flaps_every_second_for_a_minute(cluster: Make) -> None:
    ha = cluster()
    ha.writes.wait_acks(5)
    since = time.monotonic()
    while time.monotonic() < since + 60:
        ha.lab.cut("sync0")
        time.sleep(1)
        ha.lab.mend("sync0")
        time.sleep(1)
    ha.wait_healed(timeout_s=400)
    ha.wait_served_by("nodea", since=time.monotonic())
    assert ha.lab.fencings == []
    assert not ha.writes.acks(node="nodeb")
    ha.lab.wait_in_sync()
    ha.judge()


@pytest.mark.req("A3", "D8")
@pytest.mark.parametrize("direction", ["in", "out"])
def test_the_sync_link_is_lost_in_one_direction(cluster: Make, direction: str) -> None:
    ha = cluster()
    ha.writes.wait_acks(5)
    since = time.monotonic()
    ha.lab.cut("sync0", node="nodea", direction=direction)
    ha.wait_standing("nodea", "solo", timeout_s=60)
    ha.wait_standing("nodeb", "blocked", timeout_s=60)
    ha.wait_served_by("nodea", since=since + 2)
    assert ha.lab.fencings == []
    mend_and_judge(ha)


@pytest.mark.req("A3", "A11", "E1")
@pytest.mark.parametrize("signal", ["KILL", "STOP"])
@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("moment_s", [-0.2, 0.2, 0.7])
def test_a_daemon_dies_or_stops_between_loss_and_verdict(cluster: Make, signal: str, node: str, moment_s: float) -> None:
    """moment_s: relative to the cut. The dead one is started again, by systemd or by its watchdog; nobody is fenced."""
    ha = cluster()
    ha.writes.wait_acks(5)
    kill = ["sh", "-c", f"kill -{signal} $(systemctl show -P MainPID heartgated)"]
    if moment_s < 0:
        ha.run(node, kill)
        time.sleep(-moment_s)
    since = time.monotonic()
    ha.lab.cut("sync0")
    if moment_s > 0:
        time.sleep(moment_s)
        ha.run(node, kill)
    ha.wait_standing("nodea", "solo", timeout_s=90)
    ha.wait_standing("nodeb", "blocked", timeout_s=90)
    ha.wait_served_by("nodea", since=since + 1, timeout_s=60)
    assert not ha.writes.acks(node="nodeb")
    mend_and_judge(ha)
