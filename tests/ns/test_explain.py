"""`heartgate explain` on a real cluster in namespaces: it tells what happened, on the winner and on the loser."""

from __future__ import annotations

import json
import time
from typing import Any, Dict, List

import pytest

from tests.lab.api import wait_until
from tests.ns.cluster import NODES, NsCluster
from tests.ns.test_policy import lose_sync, wait_verdict

pytestmark = pytest.mark.ns
HISTORY = "/var/lib/heartgate/r0.verdicts"


def explain(cluster: NsCluster, node: str, *argv: str) -> Any:
    return cluster.nodes[node].run(["heartgate", "explain", "r0", *argv], check=False, timeout_s=60)


def told(cluster: NsCluster, node: str, *argv: str) -> Dict[str, Any]:
    result = explain(cluster, node, "--json", *argv)
    data: Dict[str, Any] = json.loads(result.stdout)
    assert result.rc == 0 and data["ok"] and data["refused"] == [], result.stdout
    return data


def wait_told(cluster: NsCluster, node: str, standing: str) -> Dict[str, Any]:
    """The history is written a moment after the verdict."""

    def reached() -> Any:
        data = told(cluster, node)
        return data if data["verdict"]["standing"] == standing else None

    found: Dict[str, Any] = wait_until(f"{node} to explain {standing}", reached, timeout_s=60)
    return found


def fired(data: Dict[str, Any]) -> List[str]:
    return [rule["rule"] for entry in data["chain"] for rule in entry.get("rules", [])]


def done(data: Dict[str, Any], what: str) -> List[Dict[str, Any]]:
    return [entry for entry in data["chain"] if entry["kind"] == "done" and entry["what"] == what]


def events(data: Dict[str, Any]) -> List[str]:
    return [word for entry in data["chain"] for word in entry.get("seen", [])]


@pytest.mark.req("E1", "E6")
def test_a_pulled_sync_cable_is_explained_on_both_nodes(cluster: NsCluster) -> None:
    began_s = time.time()
    cluster.set_up(active="nodeb", flush="filesystem:/var/tmp")
    time.sleep(3)
    before_s, since = time.time(), lose_sync(cluster)
    wait_verdict(cluster, "nodea")
    cluster.wait_served_by("nodea", since=since + 0.5)

    winner, loser = wait_told(cluster, "nodea", "solo"), wait_told(cluster, "nodeb", "blocked")
    for data in (winner, loser):
        assert before_s * 1000 - 50 <= data["verdict"]["at_ms"] <= time.time() * 1000
        assert data["now"]["daemon"] == "running"
        longest_us = (time.time() - began_s) * 1e6
        assert all(entry["ok"] and 0 < entry["took_us"] < longest_us for entry in done(data, "persist")) and done(data, "persist")
        assert any("sync link" in word and "down" in word for word in events(data))
    assert 0 < winner["verdict"]["undecided_ms"] <= (time.time() - before_s) * 1000 + 50
    assert winner["verdict"]["epoch"] == loser["verdict"]["epoch"] == cluster.status("nodea")["epoch"]
    assert winner["verdict"]["proofs"] == cluster.status("nodea")["proofs"]
    assert {"loss", "propose", "commit"} <= set(fired(winner)) and {"loss", "ask-block"} <= set(fired(loser))
    assert "commit" not in fired(loser) and "ask-block" not in fired(winner)
    assert any(word.startswith("nodeb answers: it is blocked") for word in events(winner))
    assert any(word.startswith("nodea asks: nodea to go on, nodeb to block") for word in events(loser))
    assert done(loser, "block")[0]["ok"] and done(loser, "block")[0]["took_us"] > 0
    wait_until("the flush to be told", lambda: done(told(cluster, "nodea"), "flush"), timeout_s=60)

    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(before_s - 1))
    for node in NODES:
        earlier = told(cluster, node, "--at", at)
        assert earlier["verdict"]["standing"] == "synced" and earlier["next"]["standing"] in ("deciding", "blocked")
        assert "loss" not in fired(earlier)
        for argv in ((), ("--at", at)):
            page = explain(cluster, node, *argv)
            print(f"--- {node} {' '.join(argv)}\n{page.stdout}")
            assert page.rc == 0 and not page.stderr
    check_dead_and_altered(cluster)
    cluster.lab.mend("sync0")
    cluster.judge()
    for node in NODES:
        back = wait_told(cluster, node, "synced")
        assert back["verdict"]["epoch"] > winner["verdict"]["epoch"]
    assert not cluster.lab.fencings


def check_dead_and_altered(cluster: NsCluster) -> None:
    """A copy of the state directory and no daemon: the same is told. One word of the proof altered: nothing is."""
    node = cluster.nodes["nodea"]
    node.run(["cp", "-r", "/var/lib/heartgate", "/root/copy"])
    apart = ["--state-dir", "/root/copy", "--socket", "/root/none.sock"]
    dead = told(cluster, "nodea", *apart)
    assert dead["verdict"]["standing"] == "solo" and dead["now"]["daemon"] == "not running"
    copy = "/root/copy/r0.verdicts"
    node.run(["sed", "-i", "/commit/s/confirmed/fenced/g", copy])
    result = explain(cluster, "nodea", *apart)
    assert result.rc == 6 and "this record does not replay" in result.stderr and "SOLO" not in result.stdout
    node.run(["rm", "-r", "/root/copy"])


@pytest.mark.req("E1", "E6")
def test_a_killed_daemon_leaves_a_history_that_replays(cluster: NsCluster) -> None:
    cluster.set_up()
    lose_sync(cluster)
    wait_verdict(cluster, "nodea")
    wait_told(cluster, "nodea", "solo")
    first = cluster.daemon_pid("nodea")
    cluster.nodes["nodea"].run(["kill", "-KILL", first])
    wait_until("another daemon", lambda: cluster.daemon_pid("nodea") not in ("", first, "unknown"), timeout_s=60)
    cluster.wait_standing("nodea", "solo")
    data = wait_told(cluster, "nodea", "solo")
    assert data["verdict"]["proofs"] == cluster.status("nodea")["proofs"] and "commit" in fired(data)
    cluster.lab.mend("sync0")
    cluster.judge()
    assert wait_told(cluster, "nodea", "synced")["ok"]
