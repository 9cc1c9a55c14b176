"""What counts as a fencing, and what is believed of the other daemons."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Iterator, List

import pytest

from heartgate.adapters.base import AdapterError, CarrierBusy, CarrierLost, Delivery, FenceSeen, Outcome, View
from heartgate.core import codec
from heartgate.core.model import Disk, FenceDone, Heard, Membership, Message, Record, Role, Standing
from heartgate.daemon import fences, peers, publisher
from heartgate.daemon.guard import Guard
from tests.unit.test_daemon_fakes import Bench, FakeCarrier

DONE = FenceSeen("nodeb", "old", True, True, False)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(fences, "FAST_S", 0.02)
    monkeypatch.setattr(fences, "SLOW_S", 0.02)
    monkeypatch.setattr(fences, "RETRY_S", 0.02)
    monkeypatch.setattr(fences, "FAILED_PAUSE_S", 0.02)
    it = Bench(tmp_path)
    it.world.pacemaker.history = (DONE,)
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


def fenced(events: List[Any]) -> List[Any]:
    return [event for event in events if isinstance(event, FenceDone)]


def in_epoch(guard: Guard, epoch: int) -> None:
    guard.persisted = Record(Standing.DECIDING, epoch, ("nodea", "nodeb"), "boot-1")


# --- fencing


@pytest.mark.req("A11", "D6", "E1")
def test_only_what_completed_under_this_epoch_counts(bench: Bench, guard: Guard, events: List[Any]) -> None:
    in_epoch(guard, 7)
    bench.turn(0.2)
    assert not fenced(events), "it was there before the epoch was"
    failed = FenceSeen("nodeb", "failed", True, False, False)
    pending = FenceSeen("nodeb", "pending", False, False, False)
    stranger = FenceSeen("nodez", "stranger", True, True, False)
    bench.world.pacemaker.history = (DONE, failed, pending, stranger)
    bench.turn(0.2)
    assert not fenced(events)
    bench.world.pacemaker.history = (DONE, failed, FenceSeen("nodeb", "pending", True, True, True))
    bench.until("the fencing", lambda: fenced(events))
    bench.turn(0.2)
    assert fenced(events) == [FenceDone("nodeb", 7, True, True)], "once"
    in_epoch(guard, 8)
    bench.turn(0.2)
    assert len(fenced(events)) == 1, "it belongs to the epoch before"


@pytest.mark.req("A11", "E1")
def test_which_fencings_are_old_is_read_as_soon_as_an_epoch_is_in_force(
    bench: Bench, guard: Guard, events: List[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is missing after a readmission, so nothing else would have it read for a minute; a fencing in that minute would be
    taken for an old one, and who waits for it would wait for ever."""
    in_epoch(guard, 7)
    bench.until("the baseline", lambda: bench.daemon.fences._baselines["r0"].epoch == 7)
    monkeypatch.setattr(fences, "SLOW_S", 60.0)
    bench.turn(0.2)
    guard._persist(Record(Standing.SYNCED, 8, ("nodea", "nodeb"), "boot-1"))
    bench.until("the next baseline", lambda: bench.daemon.fences._baselines["r0"].epoch == 8, timeout_s=3)
    bench.world.pacemaker.history = (DONE, FenceSeen("nodeb", "after the readmission", True, True, False))
    bench.daemon.fences.nudged()
    bench.until("the fencing", lambda: fenced(events))
    assert fenced(events) == [FenceDone("nodeb", 8, True)]


@pytest.mark.req("A11", "E1")
@pytest.mark.parametrize("boot, counts", [("boot-1", True), ("boot-2", False)])
def test_a_fencing_while_the_daemon_is_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, boot: str, counts: bool) -> None:
    """It counts for the next daemon of this boot. After another boot nothing does that is older than its first reading."""
    monkeypatch.setattr(fences, "FAST_S", 0.02)
    monkeypatch.setattr(fences, "SLOW_S", 0.02)
    first = Bench(tmp_path)
    first.world.boot, first.world.pacemaker.history = "boot-1", (DONE,)
    first.daemon.start()
    first.guard()
    first.until("the baseline to be kept", lambda: first.daemon.services.store.load_note("r0", fences.NOTE))
    first.close()

    seen: List[Any] = []
    monkeypatch.setattr(Guard, "handle", lambda _, event: seen.append(event))
    second = Bench(tmp_path)
    second.world.boot = boot
    second.world.pacemaker.history = (DONE, FenceSeen("nodeb", "while it was dead", True, True, False))
    second.daemon.start()
    second.turn(0.3)
    second.close()
    assert [event.node for event in fenced(seen)] == (["nodeb"] if counts else [])


@pytest.mark.req("A11")
def test_an_unreadable_history_is_no_empty_one(bench: Bench, guard: Guard, events: List[Any]) -> None:
    bench.world.pacemaker.history = AdapterError("no answer")
    in_epoch(guard, 7)
    bench.turn(0.2)
    bench.world.pacemaker.history = (DONE,)
    bench.turn(0.2)
    assert not fenced(events), "the first that could be read is the baseline"


def test_asking_is_shared_by_those_whose_epoch_was_in_force(bench: Bench, guard: Guard, events: List[Any]) -> None:
    in_epoch(guard, 7)
    for _ in range(3):
        bench.daemon.fences.ask(guard, "nodeb", 7)
    bench.until("the fencing", lambda: fenced(events))
    assert bench.world.pacemaker.fences == ["nodeb"] and fenced(events) == [FenceDone("nodeb", 7, True)]


def test_an_epoch_that_began_later_needs_another_fencing(bench: Bench, guard: Guard, events: List[Any]) -> None:
    in_epoch(guard, 7)

    def next_loss() -> None:
        in_epoch(guard, 8)
        bench.daemon.fences.ask(guard, "nodeb", 8)

    def fence(node: str) -> Outcome:
        if len(bench.world.pacemaker.fences) == 1:  # readmission and a new loss, while the first is under way
            bench.daemon.loop.mailbox.post(next_loss)
            time.sleep(0.1)
        return Outcome(True, "fenced")

    bench.world.pacemaker.fencing = fence
    bench.daemon.fences.ask(guard, "nodeb", 7)
    bench.until("both", lambda: len(fenced(events)) == 2)
    assert fenced(events) == [FenceDone("nodeb", 7, True), FenceDone("nodeb", 8, True)]
    assert bench.world.pacemaker.fences == ["nodeb", "nodeb"]


def test_who_waits_for_a_fencing_looks_at_once(
    bench: Bench, guard: Guard, events: List[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else may fence it, or a person confirm: not only at the next slow look."""
    in_epoch(guard, 3)
    bench.turn(0.1)
    monkeypatch.setattr(fences, "SLOW_S", 60.0)
    bench.turn(0.1)
    looks: List[float] = []
    real = bench.world.pacemaker.fence_history
    monkeypatch.setattr(bench.world.pacemaker, "fence_history", lambda deadline_s: looks.append(deadline_s) or real(deadline_s))
    bench.turn(0.1)
    assert not looks
    bench.daemon.fences.ask(guard, "nodeb", 3)
    bench.until("a look", lambda: looks)


def test_a_failed_fencing_is_given_back(bench: Bench, guard: Guard, events: List[Any]) -> None:
    in_epoch(guard, 7)
    bench.world.pacemaker.fencing = lambda node: Outcome(False, "no device")
    bench.daemon.fences.ask(guard, "nodeb", 7)
    bench.until("the failure", lambda: fenced(events) == [FenceDone("nodeb", 7, False)])


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


def test_the_newest_value_is_published_when_pacemaker_is_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "FIRST_PAUSE_S", 0.02)
    cluster = bench.world.pacemaker
    bench.turn(0.1)
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
    bench.turn(0.1)
    cluster.published.clear()
    wanted("r0", "deciding")
    wanted("r0", "blocked")
    bench.turn(0.4)
    assert cluster.published == [("r0", "blocked")]
    wanted("r0", "deciding")
    bench.turn(0.1)
    assert cluster.published == [("r0", "blocked")]
    bench.turn(0.3)
    assert cluster.published == [("r0", "blocked"), ("r0", "deciding")]


def test_after_a_verdict_the_history_is_not_urgent(bench: Bench, guard: Guard, events: List[Any]) -> None:
    """A peer waits for the block; what was fenced before the next epoch proves nothing anyhow."""
    looked = bench.daemon.fences._urgent
    bench.until("the baseline", lambda: not looked())
    for standing, urgent in ((Standing.DECIDING, True), (Standing.BLOCKED, False), (Standing.SOLO, False)):
        guard.persisted = Record(standing, 90, ("nodea", "nodeb"), "boot-1")
        assert looked() is urgent


@pytest.mark.parametrize(
    ("standing", "in_sync", "urgent"),
    [
        (Standing.SYNCED, ("nodea", "nodeb"), True),
        (Standing.DECIDING, ("nodea", "nodeb"), True),
        (Standing.SOLO, ("nodea", "nodeb"), True),  # serves together with it: the loss of it needs proof
        (Standing.SOLO, ("nodea",), False),
        (Standing.BLOCKED, ("nodea", "nodeb"), False),
        (Standing.UNPROVEN, ("nodea", "nodeb"), False),
    ],
)
def test_a_missing_node_is_urgent_where_its_fencing_could_decide(
    bench: Bench, guard: Guard, events: List[Any], standing: Standing, in_sync: Any, urgent: bool
) -> None:
    bench.until("the baseline", lambda: "r0" in bench.daemon.fences._baselines)
    epoch = bench.daemon.fences._baselines["r0"].epoch
    guard._state = guard.state._replace(online=("nodea",))
    guard.persisted = Record(standing, epoch, in_sync, "boot-1")
    assert bench.daemon.fences._urgent() is urgent
