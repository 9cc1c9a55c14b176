"""`heartgate check` on a running cluster: Corosync's own links, the interfaces that heartgated was told of, and nothing moved."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Tuple

import pytest

from tests.lab.api import Result, wait_until
from tests.ns.cluster import NsCluster

pytestmark = pytest.mark.ns
CONF = "/etc/corosync/corosync.conf"


def look(cluster: NsCluster, *words: str) -> Tuple[Result, Dict[str, Any]]:
    """Facts of nodeb, brought to nodea as a file; then the check there."""
    told = cluster.nodes["nodeb"].run(["heartgate", "facts"], timeout_s=60)
    cluster.nodes["nodea"].put("/root/nodeb.json", told.stdout)
    argv = ["heartgate", "check", "--json", "--listen", "0", "--peer-facts", "/root/nodeb.json", *words]
    result = cluster.nodes["nodea"].run(argv, check=False, timeout_s=60)
    assert result.stdout, result
    return result, json.loads(result.stdout)


def of(data: Dict[str, Any], rule: str) -> List[Dict[str, Any]]:
    return [each for each in data["findings"] if each["rule"] == rule]


@pytest.mark.req("B1", "B8", "C3", "C7", "D11")
def test_a_running_cluster(cluster: NsCluster) -> None:
    """Corosync's links are found by themselves, they run where they should, and are encrypted."""
    result, data = look(cluster)
    rings = [link["subject"] for link in data["heartbeats"]]
    assert "hb0" in rings and [end["host"] for end in data["heartbeats"][0]["ends"]] == ["nodea", "nodeb"], data
    assert not of(data, "corosync-crypto") and not of(data, "corosync-differs")
    for rule in ("corosync-link", "crypto", "names", "corosync-conf", "network", "addressing", "interface", "peer-facts"):
        assert not of(data, rule), of(data, rule)
    assert result.rc == data["exit_code"] == 3  # it did not listen, and says so
    assert {each["severity"] for each in of(data, "direct")} == {"unknown"}


@pytest.mark.req("B8", "A9")
def test_sync_interfaces_come_from_the_daemon(cluster: NsCluster) -> None:
    cluster.set_up(service=False, sync_interfaces="sync0")
    _, data = look(cluster)
    assert [link["subject"] for link in data["syncs"]] == ["sync0"], data["syncs"]


@pytest.mark.req("C3")
def test_a_configuration_that_does_not_run(cluster: NsCluster) -> None:
    """The file says another address than the one that the running corosync listens on."""
    first = cluster.nodes["nodea"]
    conf = first.run(["cat", CONF]).stdout
    ring = next(line.split(":", 1)[1].strip() for line in conf.splitlines() if "ring0_addr" in line)
    other = ring.rsplit(".", 1)[0] + ".99"
    first.run(["ip", "address", "add", f"{other}/24", "dev", "hb0"])
    try:
        first.put(CONF, conf.replace(ring, other))
        _, data = look(cluster)
    finally:
        first.put(CONF, conf)
        first.run(["ip", "address", "del", f"{other}/24", "dev", "hb0"])
    found = [each for each in of(data, "corosync-link") if each["nodes"] == ["nodea"]]
    assert found and found[0]["severity"] == "error" and f"does not listen on {other} for link 0" in found[0]["evidence"], found
    (differs,) = of(data, "corosync-differs")  # only this node's file was changed
    assert differs["nodes"] == ["nodea", "nodeb"] and "ring0_addr" in differs["evidence"] and other in differs["evidence"], differs


def test_listening_disturbs_nobody(cluster: NsCluster) -> None:
    """Both nodes listen and ping for three seconds: the same membership, the same links as before."""

    def membership() -> str:
        lines = cluster.nodes["nodea"].run(["corosync-quorumtool", "-s"], check=False).stdout.splitlines()
        return "".join(line for line in lines if line.startswith(("Ring ID", "Nodes", "Quorate")))

    before = wait_until("a quorate cluster", lambda: membership() if "Yes" in membership() else "", timeout_s=60)
    for node in cluster.nodes.values():
        done = node.run(["heartgate", "facts", "--listen", "3"], check=False, timeout_s=60)
        heard = {item["name"]: item["heard"] for item in json.loads(done.stdout)["facts"]["interfaces"] if item["heard"]}
        assert done.rc == 0 and "hb0" in heard, done
    assert membership() == before
