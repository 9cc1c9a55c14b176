"""What administrators do on ordinary days, on DRBD: a planned reboot of either node, standby and back, a stop of the cluster.

Nobody is shot, no acknowledged write is lost, the service goes on where it is or moves by itself, and all heals without a person.
"""

from __future__ import annotations

import time
from typing import Callable

import pytest

from tests.vm.cluster import HaLab, other

pytestmark = pytest.mark.vm
Make = Callable[..., HaLab]


def healed_and_nobody_shot(ha: HaLab) -> None:
    ha.wait_healed(timeout_s=400)
    ha.lab.wait_in_sync()
    assert ha.lab.fencings == []
    ha.judge()
    ha.one_writer_at_a_time()


@pytest.mark.req("A4", "A6", "A8", "E1")
@pytest.mark.parametrize("node", ["nodeb", "nodea"])
def test_a_planned_reboot(cluster: Make, node: str) -> None:
    """`systemctl reboot` on the standby node, and on the active one: the other one is solo while it is away."""
    ha = cluster()
    ha.writes.wait_acks(5)
    boot = ha.nodes[node].wait_boot().boot_id
    since = time.monotonic()
    ha.run(node, ["systemctl", "reboot"], check=False, timeout_s=60)
    ha.wait_standing(other(node), "solo", timeout_s=240)
    ha.wait_served_by(other(node), since=since, timeout_s=240)
    ha.nodes[node].wait_boot(after=boot, timeout_s=300)
    healed_and_nobody_shot(ha)


@pytest.mark.req("A4", "A6", "A8")
def test_standby_and_back(cluster: Make) -> None:
    """The active node is put into standby: the service moves at once; back online, both are synced."""
    ha = cluster()
    ha.writes.wait_acks(5)
    since = time.monotonic()
    ha.run("nodeb", ["crm_attribute", "-t", "nodes", "-N", "nodea", "-n", "standby", "-v", "on"], timeout_s=60)
    ha.wait_served_by("nodeb", since=since, timeout_s=240)
    ha.wait_standing("nodeb", "solo", timeout_s=60)
    ha.run("nodeb", ["crm_attribute", "-t", "nodes", "-N", "nodea", "-n", "standby", "-D"], timeout_s=60)
    healed_and_nobody_shot(ha)


@pytest.mark.req("A4", "A6", "A8")
def test_the_cluster_is_stopped_on_the_standby_and_the_active_one_is_then_cut_off(cluster: Make) -> None:
    """Pacemaker and Corosync end on nodeb as planned; while nodeb is away its replica must not become the good one."""
    ha = cluster()
    ha.writes.wait_acks(5)
    ha.run("nodeb", ["systemctl", "stop", "pacemaker"], timeout_s=240)
    ha.wait_standing("nodea", "solo", timeout_s=120)
    ha.run("nodeb", ["systemctl", "stop", "corosync"], timeout_s=120)
    since = time.monotonic()
    ha.wait_served_by("nodea", since=since, timeout_s=60)
    ha.run("nodeb", ["systemctl", "start", "corosync", "pacemaker"], timeout_s=240)
    healed_and_nobody_shot(ha)
