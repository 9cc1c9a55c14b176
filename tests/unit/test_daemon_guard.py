"""A guard carries out actions strictly in order, waits for its record, and refuses what breaks an invariant."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Callable, Iterator, List, Tuple

import pytest

from heartgate.adapters.base import Outcome
from heartgate.core import policy
from heartgate.core.codec import value_from_json
from heartgate.core.model import (
    AnswerHandler,
    Block,
    Blocking,
    Drop,
    Flush,
    HandlerGone,
    Note,
    Persist,
    Publish,
    Record,
    Release,
    ReplicaChanged,
    Send,
    Standing,
)
from heartgate.daemon import guard as module
from heartgate.daemon import operations
from heartgate.daemon.guard import Guard
from tests.unit.test_daemon_fakes import ALONE, TOGETHER, Bench

Script = Callable[..., None]
POKE = HandlerGone("poke")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    it = Bench(tmp_path)
    it.daemon.start()
    it.guard(flush="filesystem:/srv")
    yield it
    it.close()


@pytest.fixture
def guard(bench: Bench) -> Guard:
    return bench.daemon.guards["r0"]


@pytest.fixture
def script(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> Script:
    """The next event makes the policy return this record and these actions; the invariants are not looked at."""

    def play(record: Record, *actions: Any, check: Any = lambda *_: ()) -> None:
        monkeypatch.setattr(guard, "_check", check)
        step = lambda config, state, event: (state._replace(record=record), actions)  # noqa: E731
        monkeypatch.setattr(policy, "step", step)
        guard.handle(POKE)
        quiet = lambda config, state, event: (  # noqa: E731
            state._replace(replica=event.replica) if isinstance(event, ReplicaChanged) else state,
            (),
        )
        monkeypatch.setattr(policy, "step", quiet)

    return play


def record(standing: Standing, epoch: int = 5) -> Record:
    return Record(standing, epoch, ("nodea",), "boot-1")


@pytest.mark.req("E1")
def test_nothing_before_the_record_is_on_the_disk(
    bench: Bench, guard: Guard, script: Script, monkeypatch: Any
) -> None:
    store, real, gate = bench.daemon.services.store, bench.daemon.services.store.save_record, threading.Event()
    order: List[str] = []

    def slow(device: str, new: Record) -> None:
        gate.wait(60)
        real(device, new)
        order.append("persisted")

    monkeypatch.setattr(store, "save_record", slow)
    monkeypatch.setattr(guard.outside, "send", lambda message: order.append("sent"))
    monkeypatch.setattr(guard.outside, "answer", lambda *answer: order.append("answered"))
    new = record(Standing.SOLO)
    script(new, Persist(new), Send(guard.state.told), AnswerHandler("1-1", 4))  # type: ignore[arg-type]
    bench.turn(0.2)
    assert order == []
    gate.set()
    bench.until("the actions", lambda: len(order) == 3)
    assert order == ["persisted", "sent", "answered"]
    assert store.load_record("r0") == (new, None)


@pytest.mark.req("E1")
def test_a_failing_disk_stops_the_device_loudly_until_it_works(
    bench: Bench, guard: Guard, script: Script, monkeypatch: Any
) -> None:
    def broken(device: str, new: Record) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bench.daemon.services.store, "save_record", broken)
    answers: List[int] = []
    monkeypatch.setattr(guard.outside, "answer", lambda handler, code, reason: answers.append(code))
    new = record(Standing.SOLO)
    script(new, Persist(new), AnswerHandler("1-1", 4))
    bench.until("another try", lambda: bench.world.journal.kinds().count("action-failed") >= 2)
    assert answers == [] and guard.waiting == 2 and "No space" in guard.persist_failure
    assert b"No space" in bench.ask(b'{"op":"monitor","device":"r0"}\n')
    monkeypatch.undo()
    bench.until("the answer", lambda: guard.waiting == 0)
    assert not guard.persist_failure


def test_while_the_disk_hangs_only_the_newest_is_kept(
    bench: Bench, guard: Guard, script: Script, monkeypatch: Any
) -> None:
    def broken(device: str, new: Record) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(bench.daemon.services.store, "save_record", broken)
    for epoch in range(5, 500):
        new = record(Standing.SOLO, epoch)
        note = Note("rule", str(epoch))
        script(new, *([Persist(new)] if epoch == 5 else []), Send(guard.state.told), Publish(Standing.SOLO), note)  # type: ignore[arg-type]
    assert guard.waiting <= module.PENDING_LIMIT + 4


@pytest.mark.req("E2")
def test_a_step_that_breaks_an_invariant_is_thrown_away(
    bench: Bench, guard: Guard, script: Script, monkeypatch: Any
) -> None:
    before, answers = guard.state, []
    monkeypatch.setattr(guard.outside, "answer", lambda *answer: answers.append(answer))
    new = record(Standing.SOLO)
    script(new, Persist(new), AnswerHandler("1-1", 4), check=lambda *_: ("I3 solo without proof",))
    bench.turn(0.1)
    assert guard.state is before and not answers and guard.broken == ("I3 solo without proof",)
    assert "invariant" in bench.world.journal.kinds()
    assert b'"rc":1' in bench.ask(b'{"op":"monitor","device":"r0"}\n')


def test_a_failing_policy_decides_nothing(bench: Bench, guard: Guard, monkeypatch: Any) -> None:
    def step(*_: Any) -> Any:
        raise KeyError("nodez")

    monkeypatch.setattr(policy, "step", step)
    before = guard.state
    guard.handle(POKE)
    assert guard.state is before and "KeyError" in guard.broken[0]


def test_blocking_is_reported(bench: Bench, guard: Guard, script: Script, monkeypatch: Any) -> None:
    blocked(bench, guard, script)
    events: List[Any] = []
    monkeypatch.setattr(guard, "handle", events.append)
    driver = bench.world.drivers["r0"]
    for outcome in (Outcome(True, "frozen"), Outcome(False, "timeout")):
        driver.answers["block"] = outcome
        guard.operations.block(7)
        bench.until("the outcome", lambda: events)
        assert events.pop() == (7, outcome.ok)


def test_a_block_that_fails_is_tried_again(bench: Bench, guard: Guard, script: Script, monkeypatch: Any) -> None:
    """A peer waits for it, and has this node fenced in the end."""
    blocked(bench, guard, script)
    monkeypatch.setattr(operations, "RETRY_PAUSE_S", 0.01)
    guard._state = guard.state._replace(blocking=Blocking("nodeb", "run", 1, 7))
    events: List[Any] = []
    monkeypatch.setattr(guard, "handle", events.append)
    outcomes = [Outcome(False, "timeout"), Outcome(False, "timeout"), Outcome(True, "outdated")]
    bench.world.drivers["r0"].answers["block"] = lambda: outcomes.pop(0)
    guard.operations.block(7)
    bench.until("the outcome", lambda: events)
    assert events == [(7, True)] and not outcomes


def test_a_block_that_comes_too_late_is_not_carried_out(bench: Bench, guard: Guard, script: Script) -> None:
    """Readmitted while the order waited for another operation: outdating it now would take a serving copy away."""
    script(record(Standing.SYNCED), Block(7))
    bench.until("the refusal", lambda: "not blocked any more" in bench.world.journal.text())
    assert "block" not in bench.world.drivers["r0"].calls


def test_an_enforcement_that_comes_too_late_is_not_carried_out(bench: Bench, guard: Guard, script: Script) -> None:
    blocked(bench, guard, script)
    driver, gate = bench.world.drivers["r0"], threading.Event()
    bench.until("it to be enforced", lambda: "enforce" in driver.calls)
    bench.turn(0.2)
    driver.calls.clear()
    driver.answers["slow"] = lambda: Outcome(gate.wait(60), "late")
    slow(guard)
    guard.operations.facts_changed()  # waits behind the other operation
    script(record(Standing.SYNCED))
    gate.set()
    bench.until("the end of the other", lambda: driver.calls)
    bench.turn(0.3)
    assert driver.calls == ["slow"], "it would outdate a serving copy"


def test_nothing_goes_before_a_block_that_a_peer_waits_for(bench: Bench, guard: Guard, script: Script) -> None:
    """The facts change between the order and its execution, which waits for the record to be on the disk."""
    driver = bench.world.drivers["r0"]
    new = record(Standing.BLOCKED)
    guard._state = guard.state._replace(record=new, blocking=Blocking("nodeb", "run", 1, 7))
    guard.operations.facts_changed()
    guard.operations.block(7)
    guard.operations.facts_changed()
    bench.until("the enforcement after it", lambda: "enforce" in driver.calls)
    assert driver.calls[:2] == ["block", "enforce"]


def test_an_operation_that_hangs_is_given_up_and_none_overtakes_it(
    bench: Bench, guard: Guard, script: Script, monkeypatch: Any
) -> None:
    blocked(bench, guard, script)
    bench.until("it to be enforced", lambda: bench.world.drivers["r0"].calls)
    bench.turn(0.2)
    bench.world.drivers["r0"].calls.clear()
    gate = threading.Event()
    driver = bench.world.drivers["r0"]
    monkeypatch.setattr(operations, "BLOCK_S", -1.8)  # with the margin: 0.2 s
    driver.answers["block"] = lambda: Outcome(gate.wait(60), "late")
    events: List[Any] = []
    monkeypatch.setattr(guard, "handle", events.append)
    guard.operations.block(1)
    bench.until("the first to be given up", lambda: events == [(1, False)])
    slow(guard)
    bench.turn(0.2)
    assert driver.calls == ["block"] and bench.daemon.workers.hung == 1
    gate.set()
    bench.until("the second", lambda: "slow" in driver.calls)
    bench.until("the end of the first", lambda: bench.daemon.workers.hung == 0)
    bench.turn(0.1)
    assert events == [(1, False)]


def slow(guard: Guard) -> None:
    """Some operation of the driver that takes as long as `answers["slow"]` does."""
    guard.operations._do(lambda driver, replica: driver._call("slow"), lambda answer: None, 60.0)  # type: ignore[attr-defined]


@pytest.mark.parametrize("operation", ["unblock", "rehandle"])
def test_what_is_not_wanted_any_more_is_not_started(bench: Bench, guard: Guard, script: Script, operation: str) -> None:
    """Blocked while the order waited in the lane: the mark must not be lifted, nobody may be asked to let it go on."""
    driver, gate = bench.world.drivers["r0"], threading.Event()
    guard.handle(ReplicaChanged(ALONE))
    driver.answers["slow"] = lambda: Outcome(gate.wait(60), "late")
    slow(guard)
    getattr(guard.operations, operation)()
    script(record(Standing.BLOCKED))
    gate.set()
    bench.until("the refusal", lambda: f"{operation}: not wanted any more" in bench.world.journal.text())
    assert operation not in driver.calls


# --- release


def test_a_release_that_comes_too_late_is_not_carried_out(bench: Bench, guard: Guard, script: Script) -> None:
    """A meeting has chosen this node meanwhile: it would kill and detach the one that is to serve."""
    blocked(bench, guard, script)
    driver, gate = bench.world.drivers["r0"], threading.Event()
    driver.answers["slow"] = lambda: Outcome(gate.wait(60), "late")
    slow(guard)
    guard.operations.release()
    script(record(Standing.SOLO))
    gate.set()
    bench.until("the refusal", lambda: "release: not wanted any more" in bench.world.journal.text())
    assert "release" not in driver.calls and not guard.operations._releasing and bench.world.resets == 0


def test_the_driver_asks_whether_the_release_is_still_wanted(
    bench: Bench, guard: Guard, script: Script, monkeypatch: Any
) -> None:
    blocked(bench, guard, script)
    asked: List[Any] = []
    release = lambda replica, deadline_s, wanted: (asked.append(wanted), Outcome(True, "done"))[1]  # noqa: E731
    monkeypatch.setattr(bench.world.drivers["r0"], "release", release)
    guard.operations.release()
    bench.until("the release", lambda: asked)
    assert asked[0]() is True
    script(record(Standing.SOLO))
    assert asked[0]() is False


@pytest.fixture
def releasing(bench: Bench, guard: Guard, script: Script) -> Iterator[threading.Event]:
    """A release that has begun and does not end until the event is set."""
    blocked(bench, guard, script)
    driver, gate = bench.world.drivers["r0"], threading.Event()
    bench.until("it to be enforced", lambda: driver.calls)
    driver.answers["release"] = lambda: Outcome(gate.wait(60), "released")
    guard.operations.release()
    bench.until("the release", lambda: "release" in driver.calls)
    driver.calls.clear()
    yield gate
    gate.set()


def test_a_block_is_confirmed_beside_a_release(bench: Bench, guard: Guard, releasing: Any, monkeypatch: Any) -> None:
    """It may take three times as long as a peer waits, and what it works on cannot complete a write."""
    events: List[Any] = []
    monkeypatch.setattr(guard, "handle", events.append)
    driver = bench.world.drivers["r0"]
    driver.answers["holds"] = Outcome(True, "frozen")
    guard.operations.block(7)
    bench.until("the confirmation", lambda: events)
    assert events == [(7, True)] and driver.calls == ["holds"]


@pytest.mark.parametrize("look", [Outcome(False, "not yet"), lambda: 1 / 0])
def test_a_block_waits_for_the_release_when_a_look_does_not_tell(
    bench: Bench, guard: Guard, releasing: threading.Event, monkeypatch: Any, look: Any
) -> None:
    events: List[Any] = []
    monkeypatch.setattr(guard, "handle", events.append)
    driver = bench.world.drivers["r0"]
    driver.answers["holds"] = look
    guard.operations.block(7)
    bench.until("the look", lambda: driver.calls)
    bench.turn(0.2)
    assert driver.calls == ["holds"] and not events
    releasing.set()
    bench.until("the confirmation", lambda: events)
    assert events == [(7, True)] and driver.calls[:2] == ["holds", "block"]


def test_a_release_that_has_not_begun_makes_no_look_true(
    bench: Bench, guard: Guard, script: Script, monkeypatch: Any
) -> None:
    """What runs before it in the lane may let the replica go on."""
    blocked(bench, guard, script)
    driver, gate = bench.world.drivers["r0"], threading.Event()
    bench.until("it to be enforced", lambda: driver.calls)
    driver.answers["slow"] = lambda: Outcome(gate.wait(60), "late")
    slow(guard)
    guard.operations.release()
    guard.operations.block(7)
    bench.turn(0.2)
    assert "holds" not in driver.calls
    gate.set()
    bench.until("the block", lambda: "block" in driver.calls)


def test_a_release_that_never_began_resets_nobody(
    bench: Bench, guard: Guard, script: Script, monkeypatch: Any
) -> None:
    """It waited behind something slow until its time was over."""
    blocked(bench, guard, script)
    monkeypatch.setattr(operations, "RETRY_PAUSE_S", 0.01)
    monkeypatch.setattr(operations, "RELEASE_S", -1.8)  # with the margin: 0.2 s
    driver, gate = bench.world.drivers["r0"], threading.Event()
    driver.answers["slow"] = lambda: Outcome(gate.wait(60), "late")
    slow(guard)
    guard.operations.release()
    bench.until("the first to be given up", lambda: "release: TimedOut: no answer" in bench.world.journal.text())
    monkeypatch.setattr(operations, "RELEASE_S", 30.0)
    gate.set()
    bench.until("the release", lambda: "release" in driver.calls)
    bench.turn(0.1)
    assert bench.world.resets == 0 and not guard.operations._releasing


@pytest.mark.parametrize("begins", [True, False])
def test_a_release_without_end_resets(
    bench: Bench, guard: Guard, script: Script, monkeypatch: Any, begins: bool
) -> None:
    blocked(bench, guard, script)
    monkeypatch.setattr(operations, "RETRY_PAUSE_S", 0.01)
    monkeypatch.setattr(operations, "RELEASE_S", -1.0 if begins else -1.9)  # with the margin: 1 s, in which it has to begin
    driver, gate = bench.world.drivers["r0"], threading.Event()
    driver.answers["release" if begins else "slow"] = lambda: Outcome(gate.wait(60), "late")
    if not begins:
        slow(guard)
    guard.operations.release()
    bench.until("the reset", lambda: bench.world.resets)
    assert bench.world.journal.text().count("release: TimedOut: no answer") == (1 if begins else 3)
    gate.set()


def blocked(bench: Bench, guard: Guard, script: Script) -> None:
    new = record(Standing.BLOCKED)
    script(new, Persist(new))
    guard.handle(ReplicaChanged(ALONE))
    bench.until("the record", lambda: guard.persisted == new)


@pytest.mark.parametrize(
    ("how", "resets", "calls"),
    [("done", 0, 1), ("kernel-users: nfsd", 1, 1), ("timeout after 30 s", 1, 1), ("busy", 1, 3)],
)
@pytest.mark.req("A3", "A11")
def test_release_falls_back_to_reset(
    bench: Bench, guard: Guard, script: Script, monkeypatch: Any, how: str, resets: int, calls: int
) -> None:
    monkeypatch.setattr(operations, "RETRY_PAUSE_S", 0.01)
    blocked(bench, guard, script)
    bench.world.drivers["r0"].answers["release"] = Outcome(how == "done", how)
    script(guard.state.record, Release())
    driver = bench.world.drivers["r0"]
    bench.until("the release", lambda: driver.calls.count("release") == calls)
    if resets:
        bench.until("the reset", lambda: bench.world.resets)
    bench.turn(0.1)
    assert bench.world.resets == resets
    assert ("self-reset" in bench.world.journal.kinds()) == bool(resets)


def test_fence_instead_of_release(bench: Bench, guard: Guard, script: Script) -> None:
    guard.params = guard.params._replace(on_blocked_promoted="fence")
    blocked(bench, guard, script)
    script(guard.state.record, Release())
    assert bench.world.resets == 1 and "release" not in bench.world.drivers["r0"].calls


@pytest.mark.parametrize("standing", [Standing.SOLO, Standing.SYNCED, Standing.DECIDING])
def test_only_a_persisted_block_resets(bench: Bench, guard: Guard, script: Script, standing: Standing) -> None:
    guard.params = guard.params._replace(on_blocked_promoted="fence")
    new = record(standing)
    guard.handle(ReplicaChanged(ALONE))
    script(new, Persist(new), Release())
    bench.turn(0.1)
    assert bench.world.resets == 0


@pytest.mark.req("A4")
def test_the_block_is_enforced_at_every_change(bench: Bench, guard: Guard, script: Script) -> None:
    calls = bench.world.drivers["r0"].calls
    blocked(bench, guard, script)
    bench.until("enforcement", lambda: "enforce" in calls)
    before = calls.count("enforce")
    guard.handle(ReplicaChanged(TOGETHER))
    bench.until("enforcement anew", lambda: calls.count("enforce") > before)


# --- flush, drop, history


@pytest.mark.req("A5")
def test_flush_waits_for_the_handlers_and_the_thaw(
    bench: Bench, guard: Guard, script: Script, monkeypatch: Any
) -> None:
    waiting = [1]
    monkeypatch.setattr(guard.outside, "handlers", lambda device: waiting[0])
    guard.handle(ReplicaChanged(ALONE))
    new = record(Standing.SOLO)
    script(new, Persist(new), Flush(5))
    bench.until("the record", lambda: guard.persisted == new)
    guard.handle(ReplicaChanged(TOGETHER))
    bench.turn(0.1)
    assert guard.operations.flushed is None
    guard.handle(ReplicaChanged(ALONE))
    waiting[0] = 0
    guard.operations.flush_if_ready()
    bench.turn(0.1)
    assert guard.operations.flushed is None, "still frozen"
    guard.handle(ReplicaChanged(TOGETHER))
    bench.turn(0.05)
    assert guard.operations.flushed is None, "the kernel has not noticed yet that the peer is gone: it will freeze"
    guard.handle(ReplicaChanged(ALONE._replace(frozen=False)))
    flushed: Any = bench.until("the flush", lambda: guard.operations.flushed)
    assert flushed["epoch"] == 5 and flushed["results"][0]["ok"] is True
    assert bench.daemon.services.store.load_note("r0", "flush") == flushed


def test_drop_is_tried_again_only_while_it_makes_sense(
    bench: Bench, guard: Guard, script: Script, monkeypatch: Any
) -> None:
    monkeypatch.setattr(operations, "RETRY_PAUSE_S", 0.01)
    driver = bench.world.drivers["r0"]
    driver.answers["drop nodeb"] = Outcome(False, "no")
    guard.handle(ReplicaChanged(TOGETHER))
    script(guard.state.record, Drop("nodeb", 1))
    bench.until("three tries", lambda: driver.calls.count("drop nodeb") == 3)
    guard.handle(ReplicaChanged(ALONE))
    script(guard.state.record, Drop("nodeb", 1), Block(1))
    bench.turn(0.1)
    assert driver.calls.count("drop nodeb") == 3, "that connection is down already"


@pytest.mark.req("E1")
def test_a_recorded_verdict_can_be_replayed(bench: Bench, guard: Guard, monkeypatch: Any) -> None:
    guard.handle(ReplicaChanged(ALONE))
    store = bench.daemon.services.store
    bench.until("the history", lambda: store.history("r0"))
    replayed = 0
    for entry in store.history("r0"):
        parts: Tuple[Any, ...] = tuple(
            value_from_json(entry[name]) for name in ("config", "before", "event", "actions")
        )
        config, before, event, actions = parts
        if before is not None:
            assert policy.step(config, before, event)[1] == actions
        else:
            assert policy.initial(config, None, "boot-1", entry["run"])[1] == actions
        replayed += 1
    assert replayed
