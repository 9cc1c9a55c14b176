"""What the daemon writes for `heartgate explain`: complete, bounded, never in a verdict's way, honest about what is lost."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, Iterator, List

import pytest

from heartgate.adapters.base import Outcome
from heartgate.core.model import (
    Ask,
    Disk,
    FenceDone,
    HandlerCalled,
    Heard,
    Link,
    LinkReport,
    Membership,
    Message,
    Record,
    ReplicaChanged,
    Role,
    Standing,
)
from heartgate.core.replay import Done, Item, Lost, Refused, Start, Step, replay
from heartgate.daemon import history as module
from heartgate.daemon.guard import Guard
from tests.unit.test_daemon_fakes import ALONE, TOGETHER, Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    it = Bench(tmp_path)
    it.daemon.start()
    it.daemon.services.store.save_record("r0", Record(Standing.SYNCED, 1, ("nodea", "nodeb"), "boot-1"))
    it.guard(flush="filesystem:/srv")
    yield it
    it.close()


@pytest.fixture
def guard(bench: Bench) -> Guard:
    return bench.daemon.guards["r0"]


def items(bench: Bench) -> List[Item]:
    return list(replay(bench.daemon.services.store.read_history("r0"), module.core_version()))


def steps(bench: Bench) -> List[Step]:
    return [item for item in items(bench) if isinstance(item, Step)]


def refusals(bench: Bench) -> List[Refused]:
    return [item for item in items(bench) if isinstance(item, Refused)]


def written(bench: Bench, guard: Guard) -> None:
    """Everything that the guard went through is in the file."""
    bench.until("the history", lambda: steps(bench) and steps(bench)[-1].after == guard.state)
    bench.turn(2 * module.GATHER_S)


def from_nodeb(standing: Standing, epoch: int, ask: Any = None) -> Heard:
    links = (LinkReport("nodea", Link.DOWN, 1, 1),)
    said = Message("r0", "nodeb", "run-b", standing, epoch, ("nodea", "nodeb"), Disk.UPTODATE, Role.SECONDARY, "G1", (), links)
    return Heard(said._replace(ask=ask))


@pytest.mark.req("E1", "E6")
def test_a_fencing_from_its_beginning_to_its_end(bench: Bench, guard: Guard) -> None:
    began = time.monotonic()
    for event in (
        Membership(("nodea", "nodeb"), ("nodea", "nodeb")),
        from_nodeb(Standing.SYNCED, 1),
        ReplicaChanged(TOGETHER),
    ):
        guard.handle(event)
    guard.handle(ReplicaChanged(ALONE))
    guard.handle(Membership(("nodea",), ("nodea",)))
    guard.handle(HandlerCalled("4711-1", "nodeb"))
    guard.handle(FenceDone("nodeb", guard.state.record.epoch, True))
    guard.handle(ReplicaChanged(ALONE._replace(frozen=False)))
    bench.until("the flush", lambda: guard.operations.flushed)
    written(bench, guard)
    assert refusals(bench) == []
    told = steps(bench)
    assert isinstance(told[0].event, Start) and told[0].event.boot == "boot-1"
    assert [a.before == b.after for a, b in zip(told[1:], told)] == [True] * (len(told) - 1)
    ended = [item for item in items(bench) if isinstance(item, Done)]
    assert all(item.ok for item in ended)
    persists = [item for item in ended if item.what == "persist"]
    assert persists[-1].how == f"{guard.state.record.standing.value}, epoch {guard.state.record.epoch}"
    assert all(item.took_us is not None and 0 < item.took_us <= (time.monotonic() - began) * 1e6 for item in persists)
    assert [item.how for item in ended if item.what == "flush"] == ["filesystem:/srv: synced"]


def test_a_mere_repetition_is_not_written(bench: Bench, guard: Guard) -> None:
    guard.handle(from_nodeb(Standing.SYNCED, 1))
    written(bench, guard)
    before = bench.daemon.services.store.read_history("r0")
    for _ in range(5):
        guard.handle(from_nodeb(Standing.SYNCED, 1))
        guard.handle(ReplicaChanged(guard.state.replica))
    bench.turn(3 * module.GATHER_S)
    assert bench.daemon.services.store.read_history("r0") == before


@pytest.mark.req("E1")
def test_the_outcome_of_a_block_is_told_with_its_time(bench: Bench, guard: Guard) -> None:
    driver, gate = bench.world.drivers["r0"], threading.Event()
    driver.answers["block"] = lambda: Outcome(gate.wait(60), "outdated")
    bench.guard(flush="filesystem:/srv", priorities="nodea:2 nodeb:1")
    guard.handle(ReplicaChanged(ALONE._replace(role=Role.SECONDARY)))
    guard.handle(from_nodeb(Standing.DECIDING, 1, Ask(1, 9, ("nodeb",))))
    bench.until("the order", lambda: "block" in driver.calls)
    bench.turn(0.2)
    gate.set()
    (block,) = bench.until(
        "its outcome", lambda: [item for item in items(bench) if isinstance(item, Done) and item.what == "block"]
    )
    assert block.ok and block.how == "outdated" and block.took_us >= 200_000
    assert refusals(bench) == []


def test_a_step_that_was_refused_is_told(bench: Bench, guard: Guard, monkeypatch: Any) -> None:
    monkeypatch.setattr(guard, "_check", lambda *_: ("I3 solo without proof",))
    guard.handle(ReplicaChanged(ALONE))
    (told,) = bench.until("it", lambda: [item for item in items(bench) if isinstance(item, Done) and not item.ok])
    assert told.what == "refused" and told.how.startswith("I3 solo without proof")


@pytest.mark.req("E1")
def test_new_parameters_are_a_new_beginning_of_the_replay(bench: Bench, guard: Guard) -> None:
    guard.handle(ReplicaChanged(TOGETHER))
    bench.guard(flush="filesystem:/srv", policy="active-first")
    guard.handle(ReplicaChanged(TOGETHER._replace(generation="G2")))
    written(bench, guard)
    assert refusals(bench) == [] and steps(bench)[-1].config == guard.config != steps(bench)[0].config


@pytest.mark.req("E1")
def test_a_failure_that_repeats_is_told_once_and_again_after_a_success(bench: Bench, guard: Guard) -> None:
    """What is tried for hours must not push the verdict out of the file."""
    for ok in (False, False, False, True, False, False):
        guard.history.done("enforce", ok, "" if ok else "no drbdadm")
    guard.history.done("enforce", False, "timeout")
    bench.until("them", lambda: [item for item in items(bench) if isinstance(item, Done) and item.how == "timeout"])
    told = [(item.ok, item.how) for item in items(bench) if isinstance(item, Done) and item.what == "enforce"]
    assert told == [(False, "no drbdadm"), (True, ""), (False, "no drbdadm"), (False, "timeout")]


# --- when it cannot be written


@pytest.mark.req("E1")
def test_what_a_full_disk_swallowed_is_admitted(bench: Bench, guard: Guard, monkeypatch: Any) -> None:
    guard.handle(ReplicaChanged(TOGETHER))
    written(bench, guard)
    failures: List[str] = []

    def broken(device: str, lines: bytes) -> None:
        failures.append(device)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bench.daemon.services.store, "append_history", broken)
    guard.handle(ReplicaChanged(TOGETHER._replace(generation="G2")))
    bench.until("the failure", lambda: "cannot write the history: No space" in bench.world.journal.text())
    monkeypatch.undo()
    guard.handle(ReplicaChanged(TOGETHER._replace(generation="G3")))
    written(bench, guard)
    assert failures and refusals(bench) == []
    assert [item.entries for item in items(bench) if isinstance(item, Lost)] == [1]


def test_while_the_disk_hangs_nothing_waits_and_memory_is_bounded(
    bench: Bench, guard: Guard, monkeypatch: Any
) -> None:
    written(bench, guard)
    real, gate, entered = bench.daemon.services.store.append_history, threading.Event(), threading.Event()

    def hanging(device: str, lines: bytes) -> None:
        entered.set()
        gate.wait(60)
        real(device, lines)

    monkeypatch.setattr(bench.daemon.services.store, "append_history", hanging)
    monkeypatch.setattr(module, "WAITING_LIMIT", 20)
    guard.handle(ReplicaChanged(TOGETHER._replace(generation="G2")))
    bench.until("the write to begin", entered.is_set)
    for number in range(100):
        guard.handle(ReplicaChanged(TOGETHER._replace(generation=f"H{number}")))
    guard.handle(ReplicaChanged(ALONE))
    standing = guard.state.record
    bench.until("the record", lambda: guard.persisted == standing)  # it has not waited for the history
    assert len(guard.history._waiting) == 20 and not gate.is_set()
    gate.set()
    written(bench, guard)
    assert refusals(bench) == []
    assert [item.entries > 50 for item in items(bench) if isinstance(item, Lost)] == [True]


def test_nothing_is_written_in_the_moment_of_a_verdict(bench: Bench, guard: Guard, monkeypatch: Any) -> None:
    lanes: List[str] = []
    real = bench.daemon.workers.submit
    monkeypatch.setattr(bench.daemon.workers, "submit", lambda lane, *rest: (lanes.append(lane), real(lane, *rest)))
    written(bench, guard)
    lanes.clear()
    guard.handle(ReplicaChanged(ALONE))
    assert lanes and not [lane for lane in lanes if lane.startswith("history")]
    bench.until("it to be written later", lambda: "history:r0" in lanes)


def test_the_policys_version_changes_with_its_sources(tmp_path: Path, monkeypatch: Any) -> None:
    ours = module.core_version()
    core = Path(module.policy.__file__).parent
    for path in core.glob("*.py"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(module.policy, "__file__", str(tmp_path / "policy.py"))
    module.core_version.cache_clear()
    assert module.core_version() == ours
    (tmp_path / "codec.py").write_bytes(b"# decides nothing\n")
    module.core_version.cache_clear()
    assert module.core_version() == ours
    (tmp_path / "rules.py").write_bytes(b"# something else\n")
    module.core_version.cache_clear()
    other = module.core_version()
    (tmp_path / "rules.py").unlink()
    (tmp_path / "rules.py").mkdir()
    module.core_version.cache_clear()
    unknown = module.core_version()
    assert len({ours, other, unknown}) == 3 and unknown.endswith("+unknown")
    monkeypatch.undo()
    module.core_version.cache_clear()
