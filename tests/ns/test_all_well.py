"""heartbeat-link's monitor that asks nobody, on a real cluster: when the daemon's file answers it, and when not any more."""

from __future__ import annotations

import time
from typing import Iterator

import pytest

from tests.lab.api import Result, wait_until
from tests.lab.ns.lab import NsNode
from tests.ns.cluster import NsCluster

pytestmark = pytest.mark.ns
AGENT = "/usr/lib/ocf/resource.d/heartgate/heartbeat-link"
QUICK, LATER = "/run/heartbeat-link-without-python", "/run/heartbeat-link-of-the-copy"
KEPT = "/run/heartgate-kept"
FILE = "/run/heartgate/well-byhand"
ATTRIBUTE = "heartgate-link-hb0"


@pytest.fixture
def node(cluster: NsCluster) -> Iterator[NsNode]:
    """With a copy of the agent whose Python is /bin/false: what it answers with 0 it has from the file."""
    first = cluster.nodes["nodea"]
    first.run(["sh", "-c", 'sed "s|^PYTHON=.*|PYTHON=/bin/false|" "$1" >"$2"', "sh", AGENT, QUICK])
    first.run(["sh", "-c", 'sed "s|^RUNTIME=.*|RUNTIME=$1|" "$2" >"$3"', "sh", KEPT, QUICK, LATER])
    yield first
    cluster.lab.mend("hb0")
    agent(first, "stop")
    first.run(["rm", "-rf", QUICK, LATER, KEPT])


def agent(node: NsNode, action: str, interface: str = "hb0", program: str = AGENT) -> Result:
    ours = ["OCF_RESOURCE_INSTANCE=byhand", "OCF_RESKEY_CRM_meta_interval=10000", "OCF_ROOT=/usr/lib/ocf"]
    argv = ["env", *ours, f"OCF_RESKEY_interface={interface}", "sh", program, action]
    return node.run(argv, check=False, timeout_s=60)


def quick(node: NsNode, interface: str = "hb0") -> int:
    return agent(node, "monitor", interface, QUICK).rc


def value(node: NsNode) -> str:
    done = node.run(["attrd_updater", "--query", "--name", ATTRIBUTE, "--node", "nodea"], check=False)
    return done.stdout.partition('value="')[2].partition('"')[0]


def there(node: NsNode) -> bool:
    return node.run(["test", "-e", FILE], check=False).rc == 0


@pytest.mark.req("B1")
def test_it_answers_as_long_as_all_is_well(cluster: NsCluster, node: NsNode) -> None:
    assert agent(node, "start").rc == 0 and agent(node, "monitor").rc == 0
    assert node.run(["stat", "-c", "%a %U", FILE]).stdout.strip() == "600 root"
    ends = time.monotonic() + 15  # longer than one file is believed
    while time.monotonic() < ends:
        assert quick(node) == 0
        time.sleep(0.5)
    assert quick(node, "hb1") == 1, "other parameters"
    cluster.lab.cut("hb0")
    wait_until("the attribute", lambda: value(node) == "0", timeout_s=10, interval_s=0.01)
    assert not there(node) and quick(node) == 1
    cluster.lab.mend("hb0")
    wait_until("the file", lambda: there(node), timeout_s=20)
    assert quick(node) == 0 and agent(node, "stop").rc == 0
    assert not there(node) and quick(node) == 1


def test_a_direction_that_is_lost_ends_it_without_a_monitor(cluster: NsCluster, node: NsNode) -> None:
    assert agent(node, "start").rc == 0 and agent(node, "monitor").rc == 0
    cluster.lab.cut("hb0", node="nodea", direction="in")
    wait_until("the file to go", lambda: not there(node), timeout_s=15)
    assert agent(node, "monitor").rc == 190


def test_a_daemon_that_is_stopped_or_killed_is_not_believed(cluster: NsCluster, node: NsNode) -> None:
    assert agent(node, "start").rc == 0 and agent(node, "monitor").rc == 0 and quick(node) == 0
    pid = cluster.daemon_pid("nodea")
    node.run(["kill", "-STOP", pid])
    assert there(node) and quick(node) == 1
    node.run(["kill", "-CONT", pid])
    wait_until("it to answer", lambda: quick(node) == 0, timeout_s=20)
    node.run(["install", "-d", "-m", "700", KEPT])
    node.run(["cp", FILE, KEPT])
    assert agent(node, "monitor", program=LATER).rc == 0
    node.run(["kill", "-9", cluster.daemon_pid("nodea")])
    assert agent(node, "monitor", program=LATER).rc == 1, "what a dead daemon has left"
    wait_until("the next daemon's own", lambda: quick(node) == 0, timeout_s=20)
    assert agent(node, "monitor").rc == 0
