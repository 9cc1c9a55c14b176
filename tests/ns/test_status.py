"""`heartgate status` on a real cluster in namespaces: the word, the reasons and who serves, as one part after the other goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Set

import jsonschema
import pytest

from tests.lab.api import wait_until
from tests.ns.cluster import NODES, NsCluster

pytestmark = pytest.mark.ns
SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "packaging" / "status.schema.json").read_text())
PAGE_S = 60.0  # a page that waits for what does not answer never comes; alone it takes half a second


def status(cluster: NsCluster, node: str, *argv: str) -> Dict[str, Any]:
    done = cluster.nodes[node].run(["heartgate", "status", "--json", *argv], check=False, timeout_s=2 * PAGE_S)
    assert "Traceback" not in done.stderr and done.elapsed_s < PAGE_S, done
    data: Dict[str, Any] = json.loads(done.stdout)
    jsonschema.validate(data, SCHEMA, cls=jsonschema.Draft7Validator)
    assert data["exit_code"] == done.rc
    return data


def idents(data: Dict[str, Any]) -> Set[str]:
    return {each["id"] for each in data["reasons"]}


def wait_for(cluster: NsCluster, node: str, health: str, *reasons: str, only: bool = True) -> Dict[str, Any]:
    """Until the node says so; only: and no other reason."""
    last: List[Dict[str, Any]] = []

    def reached() -> Optional[Dict[str, Any]]:
        data = status(cluster, node)
        last[:] = [data]
        found, wanted = idents(data), set(reasons)
        return data if data["health"] == health and (found == wanted if only else wanted <= found) else None

    try:
        return wait_until(f"{node} to be {health} by {reasons}", reached, timeout_s=90)
    except Exception:
        print(json.dumps(last, indent=1))
        raise


def show(cluster: NsCluster, node: str, what: str) -> str:
    page = cluster.nodes[node].run(["heartgate", "status"], check=False, timeout_s=60)
    print(f"--- {node}: {what} (exit {page.rc}, {page.elapsed_s:.2f} s)\n{page.stdout}{page.stderr}")
    assert "\033" not in page.stdout and all(len(line) <= 100 for line in page.stdout.splitlines())
    return page.stdout


def channels(cluster: NsCluster, node: str) -> Any:
    """(sending, receiving) of the one heartbeat that is down."""
    (lost,) = [each for each in status(cluster, node)["heartbeats"] if each["state"] == "down"]
    return lost["sending"], lost["receiving"]


def served(data: Dict[str, Any]) -> Any:
    (now,) = data["serving"]
    return now["state"], now["nodes"]


@pytest.mark.req("C1", "C5", "E1")
def test_from_protected_to_nothing_left(cluster: NsCluster) -> None:
    cluster.set_up(gate=True, sync_interfaces="sync0")
    for node in NODES:
        whole = wait_for(cluster, node, "protected")
        assert served(whole) == ("served", ["nodea"]) and whole["exit_code"] == 0 and whole["unknown"] == []
        assert {(each["sending"], each["receiving"]) for each in whole["heartbeats"]} == {("up", "up")}
        rows = [(row["node"], row["standing"]) for row in whole["devices"][0]["replicas"]]
        assert rows == [("nodea", "synced"), ("nodeb", "synced")]
        show(cluster, node, "healthy")

    cluster.lab.cut("hb0", node="nodea", direction="out")
    for node, lost in (("nodea", ("down", "up")), ("nodeb", ("unknown", "down"))):  # nodeb hears no answers: it may be heard
        wait_for(cluster, node, "degraded", "one-heartbeat", "heartbeat-down")
        wait_until(f"{node} to tell {lost}", lambda n=node, c=lost: channels(cluster, n) == c, timeout_s=60)  # type: ignore[misc]
    show(cluster, "nodea", "hb0 one way")
    cluster.lab.cut("hb0")
    wait_for(cluster, "nodeb", "degraded", "one-heartbeat", "heartbeat-down")

    cluster.lab.cut("sync0")
    for node in NODES:
        alone = wait_for(cluster, node, "at-risk", "replica-blocked", "one-heartbeat", "heartbeat-down")
        assert served(alone) == ("served", ["nodea"]) and alone["exit_code"] == (0 if node == "nodea" else 3)
        show(cluster, node, "sync0 and hb0 cut")
    wait_until("bytes out of sync", lambda: status(cluster, "nodea")["devices"][0]["lacks_bytes"]["nodeb"], timeout_s=60)
    (proof,) = status(cluster, "nodea")["devices"][0]["proofs"]
    assert (proof["node"], proof["kind"], proof["epoch"]) == ("nodeb", "confirmed", alone["devices"][0]["epoch"])
    cluster.lab.mend("sync0")
    cluster.lab.mend("hb0")
    for node in NODES:
        wait_for(cluster, node, "protected")

    a, b = (cluster.nodes[node] for node in NODES)
    a.run(["pcs", "property", "set", "maintenance-mode=true"])
    wait_for(cluster, "nodeb", "at-risk", "maintenance-mode")
    a.run(["pcs", "property", "set", "maintenance-mode=false"])
    a.run(["pcs", "resource", "ban", "r0-clone", "nodeb"], check=False)
    wait_for(cluster, "nodea", "at-risk", "resource-banned", only=False)
    a.run(["pcs", "resource", "clear", "r0-clone"])
    for node in NODES:
        wait_for(cluster, node, "protected")

    check_pacemaker_stopped(cluster)
    assert not cluster.lab.fencings and not cluster.acks("nodeb")


def check_pacemaker_stopped(cluster: NsCluster) -> None:
    """nodeb loses Pacemaker, then heartgated, then Corosync: each time it says what it cannot know."""
    b = cluster.nodes["nodeb"]
    b.run(["pkill", "-x", "pacemakerd"])
    stopped = wait_for(cluster, "nodeb", "at-risk", "pacemaker-down", "replica-blocked", only=False)
    assert {"Pacemaker", "CIB"} <= {each["source"] for each in stopped["unknown"]} and served(stopped) == ("served", ["nodea"])
    wait_for(cluster, "nodea", "at-risk", "replica-blocked", only=False)
    show(cluster, "nodeb", "Pacemaker stopped")

    b.run(["pkill", "-KILL", "-f", "/usr/sbin/[h]eartgated"])  # of this node: it has a process namespace of its own
    dead = wait_for(cluster, "nodeb", "at-risk", "daemon-down", "pacemaker-down", only=False)
    assert dead["exit_code"] == 4 and served(dead) == ("unknown", []) and dead["devices"][0]["standing"] == "blocked"
    assert {row["role"] for row in dead["devices"][0]["replicas"]} == {"unknown"}
    assert len(dead["heartbeats"]) == 2
    wait_for(cluster, "nodea", "at-risk", "daemon-silent", only=False)
    show(cluster, "nodeb", "heartgated killed")
    show(cluster, "nodea", "heartgated killed on nodeb")

    b.run(["pkill", "-KILL", "-x", "corosync"])
    none = wait_for(cluster, "nodeb", "at-risk", "daemon-down", "pacemaker-down", "heartbeats-unknown", only=False)
    assert {(each["state"], each["sending"], each["receiving"]) for each in none["heartbeats"]} == {("unknown",) * 3}
    assert {each["source"] for each in none["unknown"]} == {"heartgated", "Pacemaker", "CIB", "Corosync"}
    show(cluster, "nodeb", "nothing runs")
    left = wait_for(cluster, "nodea", "at-risk", "node-offline", "no-heartbeat", only=False)
    assert served(left) == ("served", ["nodea"])
    show(cluster, "nodea", "nodeb is gone")


@pytest.mark.req("C1", "E1", "D6")
def test_who_waits_for_a_fencing_that_fails_says_so(cluster: NsCluster) -> None:
    """nodeb loses power and cannot be fenced: nodea stands still, and says what it waits for and how a person ends it."""
    cluster.set_up(gate=True)
    wait_for(cluster, "nodea", "protected")
    cluster.lab.fencing("failing")
    cluster.nodes["nodeb"].power_off()
    reasons = ("device-frozen", "node-offline", "node-unclean", "no-heartbeat", "fence-failed")
    found = wait_for(cluster, "nodea", "at-risk", *reasons, only=False)
    show(cluster, "nodea", "nodeb is off, and fencing fails")
    assert served(found) == ("frozen", ["nodea"]) and found["exit_code"] == 3
    (frozen,) = [each for each in found["reasons"] if each["id"] == "device-frozen"]
    assert "stonith_admin --confirm nodeb" in frozen["remedy"] and "nodeb" in frozen["evidence"]
    cluster.lab.fencing("ok")
    wait_until("nodea to serve", lambda: served(status(cluster, "nodea")) == ("served", ["nodea"]), timeout_s=90)
    show(cluster, "nodea", "nodeb was fenced")


@pytest.mark.req("D11")
def test_who_is_not_root_learns_nothing_and_is_told_so(cluster: NsCluster) -> None:
    cluster.set_up(service=False)
    tried = ["setpriv", "--reuid", "nobody", "--clear-groups", "heartgate", "status"]
    done = cluster.nodes["nodea"].run(tried, check=False, timeout_s=60)
    assert done.rc == 1 and "UNKNOWN: whether" in done.stdout and "sudo heartgate status" in done.stdout, done
    assert "synced" not in done.stdout and "Traceback" not in done.stderr
