"""What counts as a fencing: the history, epochs and their baselines, requests, and when a look is urgent."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, Iterator, List, Optional

import pytest

from heartgate.adapters.base import AdapterError, FenceSeen, Outcome
from heartgate.core import codec
from heartgate.core.model import FenceDone, Record, Standing
from heartgate.daemon import baseline, fences
from heartgate.daemon.baseline import Baseline, Clocks, Pending
from heartgate.daemon.guard import Guard
from tests.unit.test_daemon_fakes import Bench

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


def fenced(events: List[Any]) -> List[Any]:
    return [event for event in events if isinstance(event, FenceDone)]


def in_epoch(guard: Guard, epoch: int) -> None:
    guard.persisted = Record(Standing.DECIDING, epoch, ("nodea", "nodeb"), "boot-1")


def ask(bench: Bench, guard: Guard, epoch: int) -> None:
    """As the policy does, which knows then that it has asked."""
    guard._state = guard.state._replace(fence_asked=("nodeb",))
    bench.daemon.fences.ask(guard, "nodeb", epoch)


def until_baseline(bench: Bench, epoch: int) -> None:
    def reached() -> bool:
        found = bench.daemon.fences._baselines.get("r0")
        return found is not None and found.epoch == epoch

    bench.until(f"the baseline of epoch {epoch}", reached)


# --- fencing


@pytest.mark.req("A11", "D6", "E1")
def test_only_what_completed_under_this_epoch_counts(bench: Bench, guard: Guard, events: List[Any]) -> None:
    in_epoch(guard, 7)
    until_baseline(bench, 7)
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
    until_baseline(bench, 7)
    monkeypatch.setattr(fences, "SLOW_S", 600.0)
    bench.turn(0.2)
    guard._persist(Record(Standing.SYNCED, 8, ("nodea", "nodeb"), "boot-1"))
    bench.until("the next baseline", lambda: bench.daemon.fences._baselines["r0"].epoch == 8)
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
    if counts:
        second.until("the fencing", lambda: fenced(seen))
    second.turn(0.3)
    second.close()
    assert [event.node for event in fenced(seen)] == (["nodeb"] if counts else [])


WEEK_S = 7 * 86400.0


@pytest.mark.req("A11", "E1")
@pytest.mark.parametrize(
    ("completed_s", "now", "old"),
    [  # the first reading began at 1000.7 by the wall, 50 by the clock of this boot
        (1000.0, Clocks(1001.0, 50.3), False),  # in the same second: Pacemaker tells no more
        (1000.9, Clocks(1001.0, 50.3), False),
        (999.9, Clocks(1001.0, 50.3), True),
        (999.0, Clocks(1001.0, 50.3), True),
        (1060.0, Clocks(1061.0, 110.3), False),
        (1000.7 - WEEK_S, Clocks(1006.0, 55.3), True),
        (None, Clocks(1001.0, 50.3), False),
        # the wall clock was set back by an hour after a fencing at 1060
        (1060.0, Clocks(1061.0 - 3600, 110.3), False),
        (1060.0 - 3600, Clocks(1062.0 - 3600, 111.3), False),  # and before it
        (1000.0 - WEEK_S, Clocks(1061.0 - 3600, 110.3), True),
        # it was set forward by an hour before the fencing; and after it, where waiting is the safe mistake
        (1060.0 + 3600, Clocks(1061.0 + 3600, 110.3), False),
        (1060.0, Clocks(1061.0 + 3600, 110.3), True),
        (1000.0 - WEEK_S, Clocks(1061.0 + 3600, 110.3), True),
    ],
)
def test_what_was_complete_before_the_first_reading_is_old(completed_s: Optional[float], now: Clocks, old: bool) -> None:
    assert baseline.is_old(Baseline(7, 50.0, frozenset()), completed_s, now) is old


@pytest.mark.req("A11", "E1")
def test_an_old_fencing_that_appears_late_proves_nothing(
    bench: Bench, guard: Guard, events: List[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pacemaker-fenced that was restarted has an empty history, and is given its peers' seconds later."""
    set_by_s = 0.0
    monkeypatch.setattr(baseline, "clocks", lambda: Clocks(time.time() + set_by_s, time.clock_gettime(time.CLOCK_BOOTTIME)))
    bench.world.pacemaker.history = ()
    in_epoch(guard, 7)
    until_baseline(bench, 7)
    last_week = FenceSeen("nodeb", "last week", True, True, False, time.time() - WEEK_S)
    bench.world.pacemaker.history = (last_week,)

    def said() -> List[str]:
        return [message for kind, message, fields in bench.world.journal.lines if kind == "fence-seen" and fields.get("old")]

    bench.until("the reading", said)
    bench.turn(0.2)
    assert not fenced(events) and len(said()) == 1 and "it is old, and proves nothing" in said()[0]

    def kept() -> bool:
        found = baseline.from_note(bench.daemon.services.store.load_note("r0", fences.NOTE), bench.world.boot)
        return found is not None and found.epoch == 7 and last_week.key in found.done

    bench.until("it to be kept as an old one", kept)
    set_by_s = -2 * WEEK_S
    bench.turn(0.2)
    assert not fenced(events), "the clock was set back: what was old stays so"
    set_by_s = 0.0
    bench.world.pacemaker.history = (FenceSeen("nodeb", "now", True, True, False, time.time()), last_week)
    bench.until("the new one", lambda: fenced(events))
    assert fenced(events) == [FenceDone("nodeb", 7, True)]


def pending(request: str = "nodeb off controller nodea") -> FenceSeen:
    return FenceSeen("nodeb", f"{request} pending", False, False, False, None, request)


def ended(request: str = "nodeb off controller nodea", ok: bool = True, manual: bool = False) -> FenceSeen:
    return FenceSeen("nodeb", f"{request} {ok}", True, ok, manual, time.time(), request)


MINE = "nodeb off stonith_admin nodea"


@pytest.mark.req("A11", "E1")
@pytest.mark.parametrize("ok", [True, False])
def test_a_fencing_that_was_under_way_when_the_epoch_began_is_old(
    bench: Bench, guard: Guard, events: List[Any], ok: bool
) -> None:
    """Its agent may wait for something while the node is up again, and was readmitted. What ended with it is as old: Pacemaker
    joins requests for one node."""
    bench.world.pacemaker.history = (pending(), DONE)
    in_epoch(guard, 7)
    until_baseline(bench, 7)
    bench.world.pacemaker.history = (ended(MINE), pending(), DONE)
    bench.turn(0.2)
    assert not fenced(events), "the old one is under way still"
    joined = FenceSeen("nodeb", "joined", True, True, False, time.time(), MINE)
    bench.world.pacemaker.history = (joined, ended(ok=ok), ended(MINE), DONE)
    bench.turn(0.2)
    assert not fenced(events)
    told = [text for kind, text, fields in bench.world.journal.lines if kind == "fence-seen" and fields.get("old")]
    assert len(told) == (3 if ok else 2) and all("it is old, and proves nothing" in text for text in told)
    bench.world.pacemaker.history = (pending(), joined, ended(ok=ok), ended(MINE), DONE)
    bench.turn(0.2)
    again = FenceSeen("nodeb", "again", True, True, False, time.time(), pending().request)
    bench.world.pacemaker.history = (again, joined, ended(ok=ok), ended(MINE), DONE)
    bench.until("the new one", lambda: fenced(events))
    assert fenced(events) == [FenceDone("nodeb", 7, True)]


@pytest.mark.req("A11", "E1")
def test_a_person_ends_an_old_fencing_and_is_believed(bench: Bench, guard: Guard, events: List[Any]) -> None:
    bench.world.pacemaker.history = (pending(), DONE)
    in_epoch(guard, 7)
    until_baseline(bench, 7)
    bench.world.pacemaker.history = (ended(manual=True), DONE)
    bench.until("the person's word", lambda: fenced(events))
    assert fenced(events) == [FenceDone("nodeb", 7, True, True)]


@pytest.mark.req("A11", "E1")
def test_an_old_fencing_that_nobody_ends_is_given_up(
    bench: Bench, guard: Guard, events: List[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    later_s = 0.0
    monkeypatch.setattr(baseline, "clocks", lambda: Clocks(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME) + later_s))
    bench.world.pacemaker.history = (pending(), DONE)
    in_epoch(guard, 7)
    until_baseline(bench, 7)
    later_s = baseline.PENDING_S
    bench.until("its end", lambda: not bench.daemon.fences._baselines["r0"].pending)
    bench.world.pacemaker.history = (ended(MINE), pending(), DONE)
    bench.until("the other one", lambda: fenced(events))


@pytest.mark.req("A11", "E1")
def test_another_fencing_is_asked_for_after_one_that_was_joined_with_an_old_one(
    bench: Bench, guard: Guard, events: List[Any]
) -> None:
    """Its success is given back as a failure, for the policy to ask again."""
    bench.world.pacemaker.history = (pending(), DONE)
    in_epoch(guard, 7)
    until_baseline(bench, 7)
    ask(bench, guard, 7)
    bench.until("it to be given back", lambda: fenced(events))
    assert fenced(events) == [FenceDone("nodeb", 7, False)] and bench.world.pacemaker.fences == ["nodeb"]
    bench.world.pacemaker.history = (ended(), DONE)
    bench.until("the old one's end", lambda: not bench.daemon.fences._baselines["r0"].pending)
    assert len(fenced(events)) == 1
    ask(bench, guard, 7)
    bench.until("the proof", lambda: fenced(events)[1:])
    assert fenced(events)[1:] == [FenceDone("nodeb", 7, True)] and bench.world.pacemaker.fences == ["nodeb"] * 2


@pytest.mark.req("A11", "E1")
def test_what_is_under_way_is_known_before_anything_is_asked_for(
    bench: Bench, guard: Guard, events: List[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the epoch has just begun and its first reading takes its time."""
    until_baseline(bench, guard.state.record.epoch)
    gate, real = threading.Event(), bench.world.pacemaker.fence_history
    monkeypatch.setattr(bench.world.pacemaker, "fence_history", lambda deadline_s: gate.wait(30) and real(deadline_s))
    bench.turn(0.1)
    in_epoch(guard, 7)
    bench.world.pacemaker.history = (pending(), DONE)
    ask(bench, guard, 7)
    bench.turn(0.2)
    assert bench.world.pacemaker.fences == []
    gate.set()
    bench.until("it to be asked for", lambda: bench.world.pacemaker.fences)


@pytest.mark.req("A11", "E1")
def test_a_fencing_whose_time_cannot_be_read_counts(bench: Bench, guard: Guard, events: List[Any]) -> None:
    in_epoch(guard, 7)
    until_baseline(bench, 7)
    bench.world.pacemaker.history = (DONE, FenceSeen("nodeb", "no time", True, True, False, None))
    bench.until("it", lambda: fenced(events))


@pytest.mark.req("A11", "E1")
def test_a_baseline_survives_the_daemon_but_not_the_boot() -> None:
    kept = Baseline(7, 50.25, frozenset({"a", "b"}), frozenset({Pending("nodeb", "off by nodea"), Pending("nodec", "on")}))
    sealed = codec.seal("heartgate-fencing", 1, baseline.note_of(kept, "boot-1"))
    note = codec.unseal("heartgate-fencing", 1, sealed)
    assert baseline.from_note(note, "boot-1") == kept
    assert baseline.from_note(note, "boot-2") is None
    for wrong in (None, [], {**note, "began_ms": None}, {**note, "known": "ab"}, {**note, "known": [1]}, {**note, "epoch": "7"}):
        assert baseline.from_note(wrong, "boot-1") is None
    for wrong in (None, ["ab"], [["a"]], [[1, "b"]]):
        wrong = {**note, "pending": wrong}
        assert baseline.from_note(wrong, "boot-1") is None


@pytest.mark.req("A11", "E1")
def test_a_note_of_the_older_form_is_no_baseline() -> None:
    """Its keys have the local time in them: every entry would look new."""
    assert baseline.from_note({"boot": "boot-1", "epoch": 7, "done": ["a"]}, "boot-1") is None
    assert "done" not in baseline.note_of(Baseline(7, 50.0, frozenset()), "boot-1"), "nor is a newer one for an older daemon"


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
        ask(bench, guard, 7)
    bench.until("the fencing", lambda: fenced(events))
    assert bench.world.pacemaker.fences == ["nodeb"] and fenced(events) == [FenceDone("nodeb", 7, True)]


def test_an_epoch_that_began_later_needs_another_fencing(bench: Bench, guard: Guard, events: List[Any]) -> None:
    in_epoch(guard, 7)
    done = threading.Event()

    def next_loss() -> None:
        in_epoch(guard, 8)
        ask(bench, guard, 8)
        done.set()

    def fence(node: str) -> Outcome:
        if len(bench.world.pacemaker.fences) == 1:  # readmission and a new loss, while the first is under way
            bench.daemon.loop.mailbox.post(next_loss)
            assert done.wait(60)
        return Outcome(True, "fenced")

    bench.world.pacemaker.fencing = fence
    ask(bench, guard, 7)
    bench.until("both", lambda: len(fenced(events)) == 2)
    assert fenced(events) == [FenceDone("nodeb", 7, True), FenceDone("nodeb", 8, True)]
    assert bench.world.pacemaker.fences == ["nodeb", "nodeb"]


@pytest.mark.req("E1", "A7")
@pytest.mark.parametrize("epoch", [8, 9])
@pytest.mark.parametrize("ok", [True, False])
def test_what_nobody_waits_for_any_more_is_not_carried_out(
    bench: Bench, guard: Guard, events: List[Any], ok: bool, epoch: int
) -> None:
    """Attempt 1 hangs. Readmission, a new loss, a request that has to wait for it; then the node confirms, and is healthy."""
    in_epoch(guard, 7)
    done = threading.Event()

    def meanwhile() -> None:
        in_epoch(guard, 8)
        ask(bench, guard, 8)
        in_epoch(guard, epoch)
        guard._state = guard.state._replace(fence_asked=())  # as it commits
        done.set()

    def fence(node: str) -> Outcome:
        if len(bench.world.pacemaker.fences) == 1:
            bench.daemon.loop.mailbox.post(meanwhile)
            assert done.wait(60)
        return Outcome(ok, "at last")

    bench.world.pacemaker.fencing = fence
    ask(bench, guard, 7)
    bench.until("the end of it", lambda: fenced(events))
    bench.turn(0.3)
    assert bench.world.pacemaker.fences == ["nodeb"] and not bench.daemon.fences._next


def test_a_request_that_is_waited_for_still_is_carried_out_whatever_its_epoch(
    bench: Bench, guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy takes the end of the first for that of all that it has asked for, and asks again only while it hears the node."""
    in_epoch(guard, 7)
    done = threading.Event()

    def handle(event: Any) -> None:
        if isinstance(event, FenceDone):
            guard._state = guard.state._replace(fence_asked=())

    def next_loss() -> None:
        in_epoch(guard, 8)
        ask(bench, guard, 8)
        in_epoch(guard, 9)
        done.set()

    def fence(node: str) -> Outcome:
        if len(bench.world.pacemaker.fences) == 1:
            bench.daemon.loop.mailbox.post(next_loss)
            assert done.wait(60)
        return Outcome(True, "fenced")

    monkeypatch.setattr(guard, "handle", handle)
    bench.world.pacemaker.fencing = fence
    ask(bench, guard, 7)
    bench.until("both", lambda: bench.world.pacemaker.fences == ["nodeb", "nodeb"])


@pytest.mark.req("E1")
def test_a_person_who_completes_our_own_attempt_is_told_apart(bench: Bench, guard: Guard, events: List[Any]) -> None:
    in_epoch(guard, 7)
    bench.world.pacemaker.fencing = lambda node: Outcome(True, "confirmed by a person", manual=True)
    ask(bench, guard, 7)
    bench.until("the fencing", lambda: fenced(events))
    assert fenced(events) == [FenceDone("nodeb", 7, True, True)]
    (fields,) = [fields for kind, _, fields in bench.world.journal.lines if kind == "fence-seen"]
    assert fields["manual"] is True and fields["how"] == "confirmed by a person"


def test_who_waits_for_a_fencing_looks_at_once(
    bench: Bench, guard: Guard, events: List[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else may fence it, or a person confirm: not only at the next slow look."""
    in_epoch(guard, 3)
    until_baseline(bench, 3)
    monkeypatch.setattr(fences, "SLOW_S", 600.0)
    bench.turn(0.1)
    bench.until("the last quick reading", lambda: not bench.daemon.fences._reading)
    looks: List[float] = []
    real = bench.world.pacemaker.fence_history
    monkeypatch.setattr(bench.world.pacemaker, "fence_history", lambda deadline_s: looks.append(deadline_s) or real(deadline_s))
    bench.turn(0.1)
    assert not looks
    ask(bench, guard, 3)
    bench.until("a look", lambda: looks)


def test_a_failed_fencing_is_given_back(bench: Bench, guard: Guard, events: List[Any]) -> None:
    in_epoch(guard, 7)
    bench.world.pacemaker.fencing = lambda node: Outcome(False, "no device")
    ask(bench, guard, 7)
    bench.until("the failure", lambda: fenced(events) == [FenceDone("nodeb", 7, False)])


def test_after_a_verdict_the_history_is_not_urgent(bench: Bench, guard: Guard, events: List[Any]) -> None:
    """A peer waits for the block; what was fenced before the next epoch proves nothing anyhow. Only who goes on together with
    others may still lose one of them, and then a fencing that entered the baseline would never count."""
    looked, both = bench.daemon.fences._urgent, ("nodea", "nodeb")
    bench.until("the baseline", lambda: not looked())
    for standing, in_sync, urgent in (
        (Standing.DECIDING, both, True),
        (Standing.SYNCED, both, True),
        (Standing.BLOCKED, both, False),
        (Standing.UNPROVEN, both, False),
        (Standing.SOLO, ("nodea",), False),
        (Standing.SOLO, both, True),
    ):
        guard.persisted = Record(standing, 90, in_sync, "boot-1")
        assert looked() is urgent, (standing, in_sync)


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
