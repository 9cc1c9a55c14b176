"""Every order in which links, nodes and programs can be lost (tests/lab/orders.py), in namespaces."""

from __future__ import annotations

import time
from typing import Dict, List, Tuple

import pytest

from tests.lab.api import wait_until
from tests.lab.orders import NODES, ORDERS, Shot, play
from tests.lab.replication import host
from tests.ns.cluster import NsCluster

pytestmark = pytest.mark.ns
DAEMON = "/usr/sbin/heartgated"


class NsStage:
    boot_s = 4.0

    def __init__(self, cluster: NsCluster, active: str) -> None:
        self.cluster = cluster
        self.lab = cluster.lab
        self.active = active

    def fencing(self, mode: str, delay_s: float = 0.0) -> None:
        if mode == "slow":  # rank_delay has to be longer than the power agent takes
            set_rank_delay(self.cluster, delay_s + 5)
        self.lab.fencing(mode, delay_s=delay_s)

    def shots(self) -> List[Shot]:
        return [Shot(each.node, each.by, each.at_s) for each in self.lab.fencings if each.ok and each.action in ("off", "reboot")]

    def acks(self, since: float) -> List[Tuple[float, str]]:
        return [(record.at_s, record.node) for record in self.cluster.acks(since=since)]

    def signal(self, node: str, program: str, signal: str) -> None:
        there = self.cluster.nodes[node]
        if program == "heartgated":
            there.run(["mv", DAEMON, f"{DAEMON}.gone"])
            there.run(["sh", "-c", f"pkill -{signal} -f '[h]eartgated'"], check=False)
        else:
            there.run(["pkill", f"-{signal}", "-x", program])

    def healed(self) -> None:
        self.lab.wait_online(timeout_s=60)
        for node in self.cluster.nodes.values():
            node.run(["sh", "-c", f"[ ! -e {DAEMON}.gone ] || mv {DAEMON}.gone {DAEMON}"])
        self.cluster.wait_synced(timeout_s=60)
        host.wait_connected(self.lab, timeout_s=60)

    def missing(self) -> Dict[str, int]:
        return {node: len(host.missing(self.lab, node)) for node in NODES}


def set_rank_delay(cluster: NsCluster, seconds: float) -> None:
    needed = {"rank_delay": seconds, "pcmk_off_timeout": 4 * seconds + 20, "pcmk_reboot_timeout": 4 * seconds + 20}
    for name, value in needed.items():
        argv = ["crm_resource", "--resource", "gate", "--set-parameter", name, "--parameter-value", f"{value:g}"]
        cluster.nodes["nodea"].run(argv)


# In the ordinary run: what cuts links in another order, on either side. The rest takes half an hour (--all).
ORDINARY = {
    ("heartbeats-then-sync-0.2", "nodeb"), ("sync-then-heartbeats-0.2", "nodea"), ("sync-then-heartbeats-2", "nodeb"),
    ("one-direction-out", "nodeb"), ("active-power-cut", "nodea"), ("both-power-cut", "nodeb"), ("corosync-killed", "nodeb"),
}  # fmt: skip
CASES = [
    pytest.param(order, active, marks=() if (order, active) in ORDINARY else pytest.mark.slow)
    for order in sorted(ORDERS)
    for active in NODES
]


@pytest.mark.req("A7", "A8", "D6", "E1", "E7", "D8")
@pytest.mark.parametrize("order, active", CASES)
def test_one_serves_and_nothing_is_lost(cluster: NsCluster, order: str, active: str) -> None:
    cluster.set_up(policy="active-first", active=active, gate=True)
    set_rank_delay(cluster, 3)
    stage = NsStage(cluster, active)
    started = time.monotonic()
    wait_until("writes", lambda: len(stage.acks(started)) >= 10, timeout_s=60)
    result = play(stage, ORDERS[order], back_s=120)
    print(result.data())
    assert not result.wrong, result.data()
