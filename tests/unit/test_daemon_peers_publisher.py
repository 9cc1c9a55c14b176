"""What is believed of the other daemons and told to them, and what Pacemaker's attribute tells."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Iterator, List

import pytest

from heartgate.adapters.base import CarrierBusy, CarrierLost, Delivery, View
from heartgate.core import codec
from heartgate.core.model import Disk, Heard, Membership, Message, Role, Standing
from heartgate.daemon import peers, publisher
from heartgate.daemon.guard import Guard
from tests.unit.test_daemon_fakes import PATIENCE_S, Bench, FakeCarrier


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    it = Bench(tmp_path)
    it.daemon.start()
    it.guard()
    yield it
    it.close()


@pytest.fixture
def guard(bench: Bench) -> Guard:
    return bench.daemon.guards["r0"]


@pytest.fixture
def events(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> List[Any]:
    seen: List[Any] = []
    monkeypatch.setattr(guard, "handle", seen.append)
    return seen


def carrier(bench: Bench) -> FakeCarrier:
    return bench.world.carriers[-1]


# --- the others


def message(sender: str = "nodeb", device: str = "r0") -> Message:
    nodes = ("nodea", "nodeb")
    return Message(device, sender, "run-b", Standing.SYNCED, 1, nodes, Disk.UPTODATE, Role.SECONDARY, "G1", (), ())


def test_believed_and_refused(bench: Bench, events: List[Any]) -> None:
    good = codec.encode_messages([message()])
    carrier(bench).arrive(
        Delivery("nodeb", b"garbage"),
        Delivery("nodec", good),  # claims to be somebody else
        Delivery("nodea", codec.encode_messages([message("nodea")])),  # our own, come back
        Delivery("nodeb", codec.encode_messages([message(device="r9")])),
        Delivery("nodeb", good),
    )
    bench.until("the good one", lambda: [event for event in events if isinstance(event, Heard)])
    assert [event for event in events if isinstance(event, Heard)] == [Heard(message())]
    counts = bench.daemon.peers.counts
    assert (counts["refused"], counts["unknown-device"]) == (2, 1)
    text = bench.world.journal.text()
    assert "cannot be understood" in text and "claims to be from nodeb: dropped" in text and "r9" in text


def test_membership_and_loss_of_the_carrier(bench: Bench, events: List[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    carrier(bench).arrive(View(("nodeb", "nodea"), ("nodea", "nodeb"), True))
    bench.until("both", lambda: Membership(("nodea", "nodeb"), ("nodea", "nodeb")) in events)
    events.clear()
    bench.world.corosync = False
    carrier(bench).trouble = CarrierLost("Corosync ended")
    carrier(bench).pipe.ring()
    bench.until("nobody", lambda: Membership(("nodea",), ("nodea",)) in events)
    assert carrier(bench).closed and not bench.daemon.peers.connected
    assert b'"carrier":"lost"' in bench.ask(b'{"op":"status"}\n')
    bench.world.corosync = True
    bench.until("it to be joined anew", lambda: bench.daemon.peers.connected)
    bench.until("the newest to be told", lambda: any(b'"d":"r0"' in payload for payload in carrier(bench).sent))


def test_beats_and_repetition(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "BEAT_S", 0.02)
    bench.turn(0.6)
    carrier(bench).sent.clear()
    bench.turn(0.4)
    payloads = [codec.decode_payload(payload) for payload in carrier(bench).sent]
    full = sum(1 for _, _, messages in payloads if messages)
    assert len(payloads) >= 8 and abs(2 * full - len(payloads)) <= 2, "every second one carries the device"


def test_a_busy_carrier_gets_only_the_newest(bench: Bench) -> None:
    it = carrier(bench)
    it.sent.clear()
    it.trouble = CarrierBusy("flow control")
    for epoch in range(50):
        bench.daemon.peers.send(message("nodea")._replace(epoch=epoch))
    bench.turn(0.05)
    it.trouble = None
    bench.until("the newest", lambda: it.sent)
    assert codec.decode_payload(it.sent[0])[2][0].epoch == 49


def test_a_hundred_devices_travel_together(bench: Bench) -> None:
    it = carrier(bench)
    it.sent.clear()
    for number in range(100):
        bench.daemon.peers.send(message("nodea", f"r{number}"))
    bench.until("all", lambda: sum(len(codec.decode_payload(payload)[2]) for payload in it.sent) >= 100)
    assert len(it.sent) <= 3


# --- Pacemaker's attribute


def all_told(bench: Bench) -> None:
    publisher = bench.daemon.publisher
    bench.until("the first value", lambda: publisher.told.get("r0") and not publisher._wanted and not publisher._busy)


def test_the_newest_value_is_published_when_pacemaker_is_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "FIRST_PAUSE_S", 0.02)
    cluster = bench.world.pacemaker
    all_told(bench)
    cluster.published.clear()
    cluster.trouble = True
    for value in ("deciding", "blocked"):
        bench.daemon.publisher.want("r0", value)
    bench.turn(0.1)
    cluster.trouble = False
    bench.until("it", lambda: cluster.published)
    bench.turn(0.1)
    assert cluster.published == [("r0", "blocked")]


def test_deciding_is_published_only_if_it_lasts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(publisher.HELD_BACK_S, "deciding", 0.2)
    cluster, wanted = bench.world.pacemaker, bench.daemon.publisher.want
    all_told(bench)
    cluster.published.clear()
    wanted("r0", "deciding")
    wanted("r0", "blocked")
    bench.until("it", lambda: cluster.published)
    bench.turn(0.4)
    assert cluster.published == [("r0", "blocked")]
    began = time.monotonic()
    wanted("r0", "deciding")
    bench.until("it", lambda: len(cluster.published) > 1)
    assert time.monotonic() - began >= 0.2
    assert cluster.published == [("r0", "blocked"), ("r0", "deciding")]


# --- the attribute, again


def monitor(bench: Bench) -> bytes:
    return bench.ask(b'{"op":"monitor","device":"r0"}\n')


@pytest.fixture
def told(bench: Bench, guard: Guard, monkeypatch: pytest.MonkeyPatch) -> List[Any]:
    """What was published, from when everything had been told. Ten seconds are 0.2."""
    monkeypatch.setattr(publisher, "AGAIN_S", 0.2)
    bench.until("the record", lambda: guard.persisted == guard.state.record and not guard.waiting)
    bench.until("it to be told", lambda: bench.daemon.publisher.told.get("r0") == guard.state.record.standing.value)
    all_told(bench)
    bench.world.pacemaker.published.clear()
    return bench.world.pacemaker.published


def test_a_lost_attribute_comes_back_with_a_monitor(bench: Bench, guard: Guard, told: List[Any]) -> None:
    """Pacemaker's attribute manager was restarted under maintenance mode. `not_defined` demotes the service otherwise."""
    bench.turn(0.25)
    assert not told
    assert b'"rc":0' in monitor(bench)
    bench.until("the attribute", lambda: told)
    assert told == [("r0", guard.state.record.standing.value)]


def test_monitors_publish_no_more_often_than_that(bench: Bench, told: List[Any]) -> None:
    began, monitors = time.monotonic(), 0
    while len(told) < 4:
        assert b'"rc":0' in monitor(bench)
        assert time.monotonic() - began < PATIENCE_S
        monitors += 1
    assert time.monotonic() - began >= 3 * publisher.AGAIN_S and monitors >= 4


def test_a_monitor_tells_nothing_that_something_newer_follows(
    bench: Bench, guard: Guard, told: List[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    again, want, now = bench.daemon.publisher.again, bench.daemon.publisher.want, guard.state.record.standing.value
    bench.turn(0.25)
    monkeypatch.setitem(publisher.HELD_BACK_S, "deciding", 0.2)
    want("r0", "deciding")
    again("r0", now)
    bench.until("it", lambda: told)
    assert told == [("r0", "deciding")]
    bench.turn(0.25)
    again("r0", now)
    bench.turn(0.1)
    assert told == [("r0", "deciding")], "Pacemaker has another value"
    told.clear()
    guard.persisted = None
    want("r0", now)
    bench.until("it", lambda: told == [("r0", now)])
    bench.turn(0.25)
    monitor(bench)
    bench.turn(0.1)
    assert told == [("r0", now)], "its record is not on the disk"


def test_who_is_not_active_tells_nothing_again(bench: Bench, guard: Guard, told: List[Any]) -> None:
    guard.active = False
    bench.turn(0.25)
    assert b'"rc":7' in monitor(bench)
    bench.turn(0.1)
    assert not told
