"""fence_heartgate on a real Pacemaker: first device of a level, the lab's power switch second."""

from __future__ import annotations

import json
import time
from typing import Callable, List, Set

import pytest

from tests.lab.api import wait_until
from tests.lab.ns.lab import Fencing
from tests.ns.cluster import NODES, NsCluster, other

pytestmark = pytest.mark.ns
RANK_DELAY_S = 4
SLOW = pytest.mark.slow  # half a minute each: the ordinary run has one of each kind
HEARTBEATS = ("hb0", "hb1")
LINKS = (*HEARTBEATS, "sync0", "client0")


def gate(cluster: NsCluster, **parameters: str) -> None:
    """As docs/fence_heartgate.md says, with one power device for both nodes."""
    words = [f"{name}={value}" for name, value in {"rank_delay": str(RANK_DELAY_S), **parameters}.items()]
    node = cluster.nodes["nodea"]
    node.run(["pcs", "stonith", "create", "gate", "fence_heartgate", *words], timeout_s=60)
    for name in NODES:
        node.run(["pcs", "stonith", "level", "add", "1", name, "gate,power"], timeout_s=60)
    node.run(["pcs", "stonith", "level", "verify"], timeout_s=60)
    wait_until("the gate to be started", lambda: "Started" in crm_mon(cluster, "gate"), timeout_s=60)
    cluster.lab.wait_idle()


def crm_mon(cluster: NsCluster, resource: str) -> str:
    lines = cluster.nodes["nodea"].run(["crm_mon", "-1r"], timeout_s=10).stdout.splitlines()
    return " ".join(line for line in lines if resource in line)


def cut(cluster: NsCluster, *links: str) -> float:
    since = time.monotonic()
    for link in links:
        cluster.lab.cut(link)
    return since


def wait_roles(cluster: NsCluster, active: str) -> None:
    """Until each node has heard the role of the other one: who shoots depends on it with active-first."""
    for node in NODES:
        wanted = "primary" if other(node) == active else "secondary"
        wait_until(
            f"{node} to hear that {other(node)} is {wanted}",
            lambda node=node, wanted=wanted: cluster.status(node).get("peers", {}).get(other(node), {}).get("role") == wanted,  # type: ignore[misc]
            timeout_s=60,
        )


def shots(cluster: NsCluster) -> List[Fencing]:
    return [each for each in cluster.lab.fencings if each.action in ("off", "reboot")]


def shot(cluster: NsCluster) -> Set[str]:
    return {each.node for each in shots(cluster)}


def stays(what: str, probe: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert probe(), what
        time.sleep(0.2)


def one_is_shot(cluster: NsCluster, loser: str, since: float, timeout_s: float = 60.0) -> Fencing:
    """Exactly one node, by the other one; nobody else for as long as both ranks could still have their turn."""
    wait_until("a shot", lambda: [each for each in shots(cluster) if each.done_s], timeout_s=timeout_s)
    stays("nobody else is shot", lambda: shot(cluster) == {loser}, 3 * RANK_DELAY_S + 3)
    first = shots(cluster)[0]
    assert first.by == other(loser) and len(shots(cluster)) == 1, shots(cluster)
    return first


def refusals(cluster: NsCluster, node: str) -> str:
    """What Pacemaker logged of the agent's stderr there."""
    log = cluster.nodes[node].run(["sh", "-c", "cat /var/log/pacemaker/pacemaker.log"], check=False).stdout
    return "\n".join(line for line in log.splitlines() if "fence_heartgate: " in line)


@pytest.mark.req("A7", "D6", "E1")
@pytest.mark.parametrize(
    ("policy", "active", "loser"),
    [
        pytest.param("priority", "nodea", "nodeb", marks=SLOW),
        ("priority", "nodeb", "nodeb"),
        pytest.param("active-first", "nodea", "nodeb", marks=SLOW),
        ("active-first", "nodeb", "nodea"),
    ],
)
def test_all_links_lost_and_one_node_is_shot(cluster: NsCluster, policy: str, active: str, loser: str) -> None:
    cluster.set_up(policy=policy, active=active)
    gate(cluster)
    wait_roles(cluster, active)
    since = cut(cluster, *LINKS)
    one_is_shot(cluster, loser, since)  # so the first rank has not waited: the other one would have shot it by its turn
    winner = other(loser)
    cluster.wait_standing(winner, "solo", timeout_s=60)
    assert [(p["node"], p["kind"]) for p in cluster.status(winner)["proofs"]] == [(loser, "fenced")]
    cluster.wait_served_by(winner, since=since + 0.5)
    for link in LINKS:
        cluster.lab.mend(link)
    cluster.lab.wait_online(timeout_s=60)
    cluster.judge()
    assert shot(cluster) == {loser}


@pytest.mark.req("A8", "D6")
@pytest.mark.parametrize("pause_s", [pytest.param(0.2, marks=SLOW), 2.0, pytest.param(8.0, marks=SLOW)])
def test_heartbeats_lost_and_sync_later(cluster: NsCluster, pause_s: float) -> None:
    cluster.set_up(active="nodeb")
    gate(cluster)
    since = cut(cluster, *HEARTBEATS)
    time.sleep(pause_s)
    cut(cluster, "sync0")
    one_is_shot(cluster, "nodeb", since)
    cluster.wait_standing("nodea", "solo", timeout_s=60)
    cluster.wait_served_by("nodea", since=since + 0.5)
    for link in LINKS:
        cluster.lab.mend(link)
    cluster.lab.wait_online(timeout_s=60)
    cluster.judge()


@pytest.mark.req("E7")
def test_a_blocked_node_cannot_shoot(cluster: NsCluster) -> None:
    """By hand with the heartbeats alive, and when every link is lost while the better node's power switch does not answer."""
    cluster.set_up(active="nodea")
    gate(cluster)
    cut(cluster, "sync0")
    cluster.wait_standing("nodea", "solo")
    cluster.wait_standing("nodeb", "blocked")
    tried = cluster.nodes["nodeb"].run(["stonith_admin", "--reboot", "nodea", "--timeout", "20"], check=False, timeout_s=60)
    assert tried.rc != 0 and not shots(cluster)
    wait_until("the reason in the log", lambda: "r0 is blocked on this node" in refusals(cluster, "nodeb"), timeout_s=60)
    since = time.monotonic()
    cluster.lab.fencing("unreachable", by="nodea")
    cut(cluster, *HEARTBEATS)
    stays("the blocked node shoots nobody", lambda: not shots(cluster), 15)
    cluster.wait_served_by("nodea", since=since + 10)
    cluster.lab.fencing("ok")
    for link in LINKS:
        cluster.lab.mend(link)
    wait_until("the pair to be whole", lambda: all(cluster.standing(n) == "synced" for n in NODES), timeout_s=90)
    assert not [each for each in shots(cluster) if each.node == "nodea"]


@pytest.mark.req("A7", "E7")
@pytest.mark.parametrize(
    ("policy", "dead"),
    [
        ("active-first", ("nodea",)),
        ("priority", NODES),
        pytest.param("active-first", ("nodeb",), marks=SLOW),
        pytest.param("active-first", NODES, marks=SLOW),
        pytest.param("priority", ("nodea",), marks=SLOW),
        pytest.param("priority", ("nodeb",), marks=SLOW),
    ],
)
def test_the_daemon_is_dead_before_the_split(cluster: NsCluster, dead: tuple[str, ...], policy: str) -> None:
    cluster.set_up(policy=policy, active="nodea")
    gate(cluster)
    wait_roles(cluster, "nodea")
    for name in dead:
        cluster.nodes[name].run(["mv", "/usr/sbin/heartgated", "/usr/sbin/heartgated.gone"])
        cluster.nodes[name].run(["sh", "-c", "pkill -KILL -f '[h]eartgated'"], check=False)
    try:
        since = cut(cluster, *LINKS)
        # By roles: a node that cannot know them waits longer than one that knows.
        loser = "nodea" if policy == "active-first" and dead == ("nodea",) else "nodeb"
        one_is_shot(cluster, loser, since)
    finally:
        for name in dead:
            if cluster.nodes[name].powered():
                back = "test ! -e /usr/sbin/heartgated.gone || mv /usr/sbin/heartgated.gone /usr/sbin/heartgated"
                cluster.nodes[name].run(["sh", "-c", back], check=False)


@pytest.mark.req("A7", "D6")
def test_the_second_rank_shoots_when_the_first_is_gone(cluster: NsCluster) -> None:
    cluster.set_up(active="nodea")
    gate(cluster)
    since = time.monotonic()
    cluster.nodes["nodea"].freeze()
    fencing = one_is_shot(cluster, "nodea", since)
    assert fencing.at_s - since >= RANK_DELAY_S
    cluster.wait_served_by("nodeb", since=fencing.at_s)  # until nodea has booted: its links are whole
    cluster.lab.wait_online(timeout_s=60)
    cluster.judge()


HISTORY = """
import json
from heartgate.adapters.pacemaker import PacemakerCluster
print(json.dumps([each.node for each in PacemakerCluster("x").fence_history(20) if each.ok]))
"""


@pytest.mark.req("A11", "E1")
def test_each_fencing_is_in_the_history_that_is_read(cluster: NsCluster) -> None:
    """A proof that is not found keeps a survivor frozen. Pacemaker 2.1 lists one fencing alone unless it is told otherwise, and not
    the newest: the first one of a cluster's life was found, and no later one."""
    last = cluster.nodes["nodeb"]

    def read() -> Set[str]:
        return set(json.loads(last.run(["python3", "-c", HISTORY], timeout_s=60).stdout))

    cluster.nodes["nodea"].run(["stonith_admin", "--reboot", "nodeb"], timeout_s=60)
    cluster.lab.wait_online(timeout_s=60)
    wait_until("nodeb to be given the history", lambda: read() == {"nodeb"}, timeout_s=60)
    last.run(["stonith_admin", "--reboot", "nodea"], timeout_s=60)
    assert read() == {"nodea", "nodeb"}
    cluster.lab.wait_online(timeout_s=60)


@pytest.mark.req("A8")
def test_hold_while_synced(cluster: NsCluster) -> None:
    """Nobody is shot while replication lives; when it is lost too the order holds."""
    cluster.set_up(active="nodea")
    gate(cluster, hold_while_synced="1")
    cut(cluster, *HEARTBEATS)
    stays("nobody is shot", lambda: not shots(cluster), 12)
    since = cut(cluster, "sync0")
    one_is_shot(cluster, "nodeb", since)
    for link in LINKS:
        cluster.lab.mend(link)
    cluster.lab.wait_online(timeout_s=60)
    cluster.judge()


@pytest.mark.req("E7")
def test_tools_take_the_agent(cluster: NsCluster) -> None:
    node = cluster.nodes["nodea"]
    shown = node.run(["pcs", "stonith", "describe", "fence_heartgate"], timeout_s=60).stdout
    assert "rank_delay" in shown and "Decides which node may shoot" in shown
    info = node.run(["crm", "ra", "info", "stonith:fence_heartgate"], timeout_s=60).stdout
    assert "hold_while_synced" in info and "rank_delay" in info
    assert node.run(["stonith_admin", "--metadata", "--agent", "fence_heartgate"]).stdout.startswith("<resource-agent")
    wrong = node.run(["pcs", "stonith", "create", "gate", "fence_heartgate", "rank_dealy=5"], check=False, timeout_s=60)
    assert wrong.rc != 0 and "rank_dealy" in wrong.stderr
    gate(cluster)
    assert "gate" in node.run(["pcs", "stonith", "level"], timeout_s=60).stdout
    assert node.run(["fence_heartgate", "-o", "list"]).stdout.split() == ["nodea,", "nodeb,"]
    node.run(["cibadmin", "--delete-all", "--force", "--xpath", "//fencing-topology"])
    node.run(["crm", "configure", "fencing_topology", "nodea:", "gate,power", "nodeb:", "gate,power"], timeout_s=60)
    levels = node.run(["cibadmin", "-Q", "--xpath", "//fencing-topology"]).stdout
    assert levels.count("gate,power") == 2, levels


def test_a_stop_failure_is_answered_too(cluster: NsCluster) -> None:
    """Heartbeats and replication live, and Pacemaker has a node fenced: off and on of the whole level."""
    cluster.set_up(active="nodea")
    gate(cluster)
    done = cluster.nodes["nodea"].run(["stonith_admin", "--reboot", "nodeb", "--timeout", "30"], check=False, timeout_s=60)
    assert done.rc == 0, done
    assert [each.action for each in cluster.lab.fencings] == ["off", "on"]
    cluster.lab.wait_online(timeout_s=60)
    cluster.judge()
