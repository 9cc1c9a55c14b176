"""heartbeat-link as a clone on a real cluster: refusals, the node attribute and its speed, degraded monitors."""

from __future__ import annotations

import time
from typing import Dict, Iterator, List

import pytest

from tests.lab.api import Result, wait_until
from tests.lab.ns.lab import NsNode
from tests.ns.cluster import NODES, NsCluster

pytestmark = pytest.mark.ns
NAME = "ocf:heartgate:heartbeat-link"
AGENT = "/usr/lib/ocf/resource.d/heartgate/heartbeat-link"
ATTRIBUTE = "heartgate-link-hb0"
OK, ERROR, ARGS, NOT_RUNNING, DEGRADED = 0, 1, 2, 7, 190


@pytest.fixture(autouse=True)
def clean(cluster: NsCluster) -> Iterator[None]:
    """No interface of the test before, and no attribute of it."""
    yield
    for link in ("hb0", "hb1"):
        cluster.lab.mend(link)
    for node in cluster.nodes.values():
        node.run(["ip", "link", "del", "mv0"], check=False)
        for resource in ("beat0", "beat1", "byhand"):
            agent(node, "stop", resource=resource)
    wait_until("Corosync to use both links again", lambda: all(map(connected, cluster.nodes.values())), timeout_s=60)


def connected(node: NsNode) -> bool:
    """A second cut before that would part the nodes."""
    text = node.run(["corosync-cmapctl", "-m", "stats"]).stdout
    peer = 2 if node.name == "nodea" else 1
    return all(f"stats.knet.node{peer}.link{link}.connected (u8) = 1" in text for link in (0, 1))


def agent(node: NsNode, action: str, resource: str = "byhand", interval: str = "10000", **parameters: str) -> Result:
    words = [f"OCF_RESKEY_{name}={value}" for name, value in parameters.items()]
    ours = [f"OCF_RESOURCE_INSTANCE={resource}", f"OCF_RESKEY_CRM_meta_interval={interval}", "OCF_ROOT=/usr/lib/ocf"]
    return node.run(["env", *ours, *words, AGENT, action], check=False, timeout_s=60)


def create(cluster: NsCluster, resource: str = "beat0", *words: str, interface: str = "hb0", monitor_s: int = 2) -> None:
    argv = ["pcs", "resource", "create", resource, NAME, f"interface={interface}", *words,
            "op", "monitor", f"interval={monitor_s}s", "clone"]  # fmt: skip
    cluster.nodes["nodea"].run(argv, timeout_s=60)


def attribute(asked: NsNode, of: str, name: str = ATTRIBUTE) -> str:
    """As `asked` knows it of node `of`, "" if it is not defined."""
    done = asked.run(["attrd_updater", "--query", "--name", name, "--node", of], check=False)
    return done.stdout.partition('value="')[2].partition('"')[0]


def wait_attribute(asked: NsNode, of: str, value: str, timeout_s: float = 60.0) -> float:
    started = time.monotonic()
    wait_until(f"{of}'s {ATTRIBUTE} to be {value!r}", lambda: attribute(asked, of) == value, timeout_s=timeout_s, interval_s=0.01)
    return time.monotonic() - started


def started_on(cluster: NsCluster, resource: str = "beat0") -> List[str]:
    done = cluster.nodes["nodea"].run(["crm_resource", "--locate", "--resource", resource], check=False)
    return [node for node in NODES if f"is running on: {node}" in done.stdout]


def running(cluster: NsCluster, resource: str = "beat0") -> None:
    wait_until("the clone to run on both", lambda: started_on(cluster, resource) == list(NODES), timeout_s=60)


@pytest.mark.req("B1", "C1")
def test_a_pulled_cable_is_an_attribute_on_the_other_node(cluster: NsCluster) -> None:
    """By the event: Pacemaker's next monitor is minutes away."""
    monitor_s = 240
    create(cluster, monitor_s=monitor_s)
    running(cluster)
    for asked in cluster.nodes.values():
        for of in NODES:
            wait_attribute(asked, of, "1")
    cluster.lab.cut("hb0")
    seconds = wait_attribute(cluster.nodes["nodeb"], "nodea", "0", timeout_s=monitor_s)
    wait_attribute(cluster.nodes["nodea"], "nodeb", "0")
    print(f"carrier lost on nodea, seen on nodeb after {seconds:.2f} s")
    assert seconds < monitor_s / 4
    # In the CIB after the dampening; and nothing was stopped.
    query = ["crm_attribute", "--type", "status", "--node", "nodea", "--name", ATTRIBUTE, "--query", "--quiet"]
    wait_until("the CIB", lambda: cluster.nodes["nodeb"].run(query, check=False).stdout.strip() == "0", timeout_s=60)
    result = wait_monitor(cluster.nodes["nodea"], DEGRADED)
    assert "hb0 has no carrier" in result.stderr and started_on(cluster) == list(NODES)
    cluster.lab.mend("hb0")
    wait_attribute(cluster.nodes["nodeb"], "nodea", "1")
    assert wait_monitor(cluster.nodes["nodea"], OK).stderr == ""


@pytest.mark.req("B1", "C1")
def test_pacemakers_own_monitor_finds_a_pulled_cable_degraded(cluster: NsCluster) -> None:
    create(cluster)
    running(cluster)
    cluster.lab.cut("hb0")
    shown = wait_until("crm_mon to tell", lambda: _shown(cluster, "hb0 has no carrier"), timeout_s=60)
    assert "DEGRADED" in shown.upper(), shown
    assert started_on(cluster) == list(NODES)


def _shown(cluster: NsCluster, text: str) -> str:
    told = cluster.nodes["nodea"].run(["crm_mon", "-1rf"], check=False).stdout
    return told if text in told else ""


def wait_monitor(node: NsNode, code: int, resource: str = "beat0", **parameters: str) -> Result:
    def reached() -> object:
        result = agent(node, "monitor", resource, **parameters)
        assert result.rc in (OK, ERROR, DEGRADED), result
        return result if result.rc == code else None

    found = wait_until(f"a monitor with {code}", reached, timeout_s=60, interval_s=0.3)
    assert isinstance(found, Result)
    return found


@pytest.mark.req("B3")
def test_an_interface_that_is_not_fit_is_refused_here_and_only_here(cluster: NsCluster) -> None:
    first = cluster.nodes["nodea"]
    first.run(["ip", "link", "add", "mv0", "link", "hb0", "type", "macvlan"])
    create(cluster)
    wait_until("the clone to run on nodeb", lambda: started_on(cluster) == ["nodeb"], timeout_s=60)
    shown = wait_until("the failure", lambda: _shown(cluster, "mv0"), timeout_s=60)
    assert "beat0 start on nodea returned 'invalid parameter'" in shown and "start on nodeb" not in shown, shown
    result = agent(first, "start", interface="hb0")
    assert result.rc == ARGS, result
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("ERROR: ")]
    assert "mv0, macvlan" in line and "move mv0 to another adapter" in line and "rule virtual-switch" in line, result
    assert agent(first, "start", interface="mv0").rc == ARGS
    assert agent(first, "monitor", interface="hb0").rc == NOT_RUNNING
    # What a person accepts, with a reason, starts.
    waived = agent(first, "start", interface="hb0", waivers="virtual-switch@hb0=a test of ours")
    assert waived.rc == OK and "waived: " in waived.stderr and "a test of ours" in waived.stderr, waived
    assert agent(first, "monitor").rc == OK


@pytest.mark.parametrize(
    "parameters, says",
    [
        ({"interface": "hb7"}, "nodea has no interface hb7"),
        ({}, "interface is not given"),
        ({"interface": "nodeb:hb0"}, "nodea is not named"),
        ({"interface": "hb0", "waivers": "nonsense=why not"}, 'there is no rule "nonsense"'),
        ({"interface": "hb0", "waivers": "speed"}, "gives no reason"),
        ({"interface": "hb0", "on_loss": "panic"}, "degraded, fail"),
        ({"interface": "hb0", "addressing": "dhcp"}, "wanted is dhcp"),
    ],
    ids=["absent", "none", "other-node", "unknown-rule", "no-reason", "on_loss", "addressing"],
)
def test_bad_input_has_one_clear_message(cluster: NsCluster, parameters: Dict[str, str], says: str) -> None:
    result = agent(cluster.nodes["nodea"], "start", **parameters)
    lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR: ")]
    assert result.rc == ARGS and len(lines) == 1 and says in lines[0] and "; " in lines[0], result
    assert agent(cluster.nodes["nodea"], "stop", **parameters).rc == OK


@pytest.mark.req("B3")
def test_what_comes_up_later_is_degraded_and_goes_again(cluster: NsCluster) -> None:
    node = cluster.nodes["nodea"]
    assert agent(node, "start", interface="hb0").rc == OK
    assert agent(node, "monitor").rc == OK
    node.run(["ip", "link", "add", "mv0", "link", "hb0", "type", "macvlan"])
    result = wait_monitor(node, DEGRADED, "byhand")
    assert "mv0, macvlan" in result.stderr, result
    assert attribute(node, "nodea") == "1"
    assert agent(node, "monitor", interval="0").rc == OK  # a probe
    node.run(["ip", "link", "del", "mv0"])
    wait_monitor(node, OK, "byhand")


@pytest.mark.req("C5")
def test_one_way_loss_is_told_with_carrier_on(cluster: NsCluster) -> None:
    node = cluster.nodes["nodea"]
    assert agent(node, "start", interface="hb1").rc == OK
    wait_monitor(node, OK, "byhand")
    cluster.lab.cut("hb1", node="nodea", direction="in")
    result = wait_monitor(node, DEGRADED, "byhand")
    assert "nodeb" in result.stderr and "heard over another link" in result.stderr, result
    wait_until("the direction", lambda: "receiving down" in agent(node, "monitor").stderr, timeout_s=60, interval_s=1.5)
    assert attribute(node, "nodea", "heartgate-link-hb1") == "1"  # the carrier is on


def test_on_loss_fail_and_a_killed_daemon(cluster: NsCluster) -> None:
    node = cluster.nodes["nodea"]
    parameters = {"interface": "nodea:hb0 nodeb:hb0", "on_loss": "fail", "dampen": "0", "name": "beat"}
    assert agent(node, "start", **parameters).rc == OK
    wait_until("the attribute", lambda: attribute(node, "nodea", "beat") == "1", timeout_s=60)
    pid = cluster.daemon_pid("nodea")
    node.run(["kill", "-9", pid])
    cluster.lab.cut("hb0")
    wait_until("the next daemon to tell", lambda: attribute(node, "nodea", "beat") == "0", timeout_s=60)
    assert cluster.daemon_pid("nodea") != pid
    wait_monitor(node, ERROR, "byhand")
    assert agent(node, "stop").rc == OK
    wait_until("the attribute to go", lambda: attribute(node, "nodea", "beat") == "", timeout_s=60)
    assert agent(node, "monitor").rc == NOT_RUNNING


def test_it_starts_without_carrier(cluster: NsCluster) -> None:
    """A node that boots alone on a direct cable has none."""
    node = cluster.nodes["nodea"]
    cluster.lab.cut("hb0")
    wait_until("no carrier", lambda: "NO-CARRIER" in node.run(["ip", "link", "show", "hb0"]).stdout, timeout_s=60)
    assert agent(node, "start", interface="hb0").rc == OK
    wait_attribute(node, "nodea", "0")
    assert agent(node, "monitor").rc == DEGRADED


def test_pcs_and_crmsh_describe_it(cluster: NsCluster) -> None:
    for argv in (["pcs", "resource", "describe", NAME], ["crm", "ra", "info", NAME]):
        result = cluster.nodes["nodea"].run(argv, check=False, timeout_s=60)
        assert result.rc == 0 and "on_loss" in result.stdout and "error" not in result.stderr.lower(), result


