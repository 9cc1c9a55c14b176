"""This node's name: asked for anew whenever Corosync is joined, taken over when nothing is guarded under the old one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest

from heartgate.adapters.base import CarrierLost, Delivery, View
from heartgate.checks.link_report import Report
from heartgate.core import codec
from heartgate.core.model import Disk, Link, PeerLink, Record, Replica, ReplicaChanged, Role, Standing
from tests.unit.test_daemon_fakes import PARAMS, Bench

LINKED = Replica(Disk.UPTODATE, Role.SECONDARY, False, (("nodeb", PeerLink(Link.UP, 1, Disk.UPTODATE)),), "G1")
BOTH = ("nodea", "nodeb")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Debian's example cluster of one node runs."""
    it = Bench(tmp_path)
    it.world.initial = {"r0": LINKED}
    it.world.name, it.world.names = "node1", ("node1",)
    it.daemon.start()
    it.joined()
    yield it
    it.close()


def corosync_restarts(bench: Bench, name: str) -> None:
    bench.world.name, bench.world.names = name, (*BOTH, "node1")
    count = len(bench.world.carriers)
    bench.world.carriers[-1].trouble = CarrierLost("Corosync ended the connection")
    bench.world.carriers[-1].pipe.ring()
    bench.until("it to be joined anew", lambda: len(bench.world.carriers) > count and bench.daemon.peers.connected)
    bench.turn(0.1)


def call(bench: Bench, op: str, **fields: Any) -> Dict[str, Any]:
    answer: Dict[str, Any] = json.loads(bench.ask(json.dumps({"op": op, **fields}).encode() + b"\n"))
    return answer


def renamed(bench: Bench) -> List[Tuple[str, Dict[str, object]]]:
    return [(message, fields) for kind, message, fields in bench.world.journal.lines if kind == "renamed"]


def test_the_real_corosync_conf_comes_after_the_package(bench: Bench) -> None:
    assert bench.daemon.me == "node1"
    assert not call(bench, "register", params=PARAMS)["ok"]
    corosync_restarts(bench, "nodea")
    assert bench.daemon.me == "nodea" and call(bench, "status")["node"] == "nodea"
    assert [fields for _, fields in renamed(bench)] == [{"before": "node1", "name": "nodea"}]
    assert "taken over" in renamed(bench)[0][0]
    assert call(bench, "register", params=PARAMS)["ok"] is True
    guard = bench.daemon.guards["r0"]
    assert guard.config.me == "nodea"
    guard.handle(ReplicaChanged(LINKED._replace(role=Role.PRIMARY)))
    assert guard.broken == ()


def test_the_same_name_again_is_no_news(bench: Bench) -> None:
    corosync_restarts(bench, "node1")
    assert bench.daemon.me == "node1" and not renamed(bench)


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Bench]:
    it = Bench(tmp_path)
    it.world.initial = {"r0": LINKED}
    it.daemon.services.store.save_record("r0", Record(Standing.SYNCED, 4, BOTH, "boot-1"))
    it.daemon.start()
    it.guard()
    yield it
    it.close()


def test_a_device_that_is_guarded_keeps_its_name_and_says_what_to_do(guarded: Bench) -> None:
    corosync_restarts(guarded, "nodez")
    assert guarded.daemon.me == "nodea" and guarded.daemon.guards["r0"].config.me == "nodea"
    (message, fields), = renamed(guarded)
    for part in ("Corosync calls this node nodez now, and r0 is guarded here as nodea", "the name nodea back in corosync.conf",
                 "`heartgate forget r0` on every node", "with nodez in priorities"):  # fmt: skip
        assert part in message, (part, message)
    assert fields == {"before": "nodea", "name": "nodez", "devices": "r0"}
    for op in ("register", "check"):
        problem, = call(guarded, op, params=PARAMS)["problems"]
        assert problem["code"] == "node-renamed" and "nodez now" in problem["message"]
    assert "Corosync calls this node nodez now" in call(guarded, "status")["name_trouble"]["message"]
    corosync_restarts(guarded, "nodea")  # given back
    assert call(guarded, "register", params=PARAMS)["ok"] is True
    assert call(guarded, "status")["name_trouble"] is None and len(renamed(guarded)) == 1


@pytest.mark.req("E1")
def test_nothing_is_told_in_the_name_of_another_node(guarded: Bench) -> None:
    """nodea is nodec by now: what it knows of r0 as nodea must not be taken for what nodec says."""
    corosync_restarts(guarded, "nodec")
    guarded.until("a word", lambda: guarded.world.carriers[-1].sent)
    guarded.turn(1.5)
    sent = [codec.decode_payload(data) for data in guarded.world.carriers[-1].sent]
    assert sent and all(sender == "nodec" and messages == () for sender, _, messages in sent)


def test_the_name_is_taken_when_the_last_device_under_the_old_one_is_forgotten(guarded: Bench) -> None:
    corosync_restarts(guarded, "nodez")
    source = guarded.world.sources["exec"]
    call(guarded, "unregister", device="r0")
    shown = call(guarded, "forget-show", device="r0")
    assert shown["node"] == "nodea"
    assert call(guarded, "forget", device="r0", seen=shown["seen"], node="nodea")["ok"] is True
    assert guarded.daemon.me == "nodez" and "taken over" in renamed(guarded)[-1][0]
    assert call(guarded, "register", params={**PARAMS, "priorities": "nodea:1 nodeb:2"})["ok"] is False
    guarded.world.names = ("nodez", "nodeb")
    assert call(guarded, "register", params={**PARAMS, "priorities": "nodez:1 nodeb:2"})["ok"] is True
    assert guarded.daemon.guards["r0"].config.me == "nodez"
    assert guarded.world.sources["exec"] is not source, "sources are made with the node's name"
    guarded.until("the facts", lambda: guarded.daemon.guards["r0"].state.replica == LINKED)


def test_a_daemon_that_starts_under_another_name(guarded: Bench, tmp_path: Path) -> None:
    guarded.close()
    again = Bench(tmp_path)
    again.world.name = "nodez"
    again.world.initial = {"r0": LINKED}
    again.daemon.start()
    again.joined()
    try:
        assert again.daemon.guards["r0"].config.me == "nodea"
        assert "nodez now, and r0 is guarded here as nodea" in renamed(again)[0][0]
    finally:
        again.close()


def test_a_heartbeat_link_goes_with_the_name(bench: Bench) -> None:
    bench.world.reports["hb0"] = Report("hb0", True, 10000, (0,), ())
    register = {"resource": "beat", "params": {"interface": "hb0"}}
    assert call(bench, "link-register", **register)["ok"] is True
    corosync_restarts(bench, "nodea")
    assert bench.daemon.me == "nodea" and bench.daemon.heartbeats.all["beat"].me == "nodea"
    bench.until("the note", lambda: bench.daemon.services.store.load_note("beat", "heartbeat-link")["me"] == "nodea")  # type: ignore[index]


def test_a_heartbeat_link_that_the_new_name_has_none_of(bench: Bench) -> None:
    bench.world.reports["hb0"] = Report("hb0", True, 10000, (0,), ())
    register = {"resource": "beat", "params": {"interface": "node1:hb0"}}
    assert call(bench, "link-register", **register)["ok"] is True, bench.world.journal.text()
    corosync_restarts(bench, "nodea")
    assert bench.daemon.me == "nodea" and not bench.daemon.heartbeats.all
    assert "setup" in bench.world.journal.kinds()


def test_others_are_heard_as_before(guarded: Bench) -> None:
    message = guarded.daemon.guards["r0"].state.told
    assert message is not None
    guarded.world.carriers[-1].arrive(
        View(BOTH, BOTH, True), Delivery("nodeb", codec.encode_messages([message._replace(sender="nodeb", run="other")]))
    )
    guarded.until("nodeb", lambda: guarded.daemon.guards["r0"].state.message_of("nodeb"))
