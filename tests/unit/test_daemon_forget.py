"""`heartgate forget` against a real daemon's socket: what it shows, what it refuses, what is left, and what comes after."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

import pytest

from heartgate.adapters.base import Delivery, Outcome, View
from heartgate.cli.main import main
from heartgate.core import codec
from heartgate.core.model import Disk, Link, Message, PeerLink, Proof, ProofKind, Record, Replica, Role, Standing
from heartgate.core.replay import Item, Refused, replay
from heartgate.daemon import forgetting
from heartgate.daemon.history import core_version
from heartgate.daemon.store import Saved
from tests.unit.test_cli_mark import run as run_command
from tests.unit.test_daemon_fakes import PARAMS, Bench

pytestmark = pytest.mark.req("A4", "E8")
BOTH = ("nodea", "nodeb")
LINKED = Replica(Disk.UPTODATE, Role.SECONDARY, False, (("nodeb", PeerLink(Link.UP, 1, Disk.UPTODATE)),), "G1")
ALONE = Replica(Disk.UPTODATE, Role.SECONDARY, False, (("nodeb", PeerLink(Link.DOWN, 1)),), "G1")
SYNCED = Record(Standing.SYNCED, 4, BOTH, "boot-1")
SOLO = Record(Standing.SOLO, 5, ("nodea",), "boot-1", (Proof("nodeb", ProofKind.CONFIRMED, 5),))
BLOCKED = Record(Standing.BLOCKED, 5, ("nodeb",), "boot-1", (), "nodeb")
UNPROVEN = Record(Standing.UNPROVEN, 4, BOTH, "boot-1")
DECIDING = Record(Standing.DECIDING, 4, BOTH, "boot-1")
DANGEROUS = [BLOCKED, UNPROVEN, DECIDING, SOLO]
Make = Callable[..., Bench]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """A daemon that guards r0 with that record and those facts; its resource has been stopped."""
    made: List[Bench] = []

    def start(record: Optional[Record], replica: Replica = LINKED, stopped: bool = True, **params: str) -> Bench:
        it = Bench(tmp_path)
        made.append(it)
        it.world.initial = {"r0": replica}
        if record is not None:
            it.daemon.services.store.save_record("r0", record)
        it.daemon.start()
        it.guard(**params)
        if stopped:
            stop(it)
        return it

    yield start
    for it in made:
        it.close()


def stop(bench: Bench) -> None:
    assert b'"ok":true' in bench.ask(b'{"op":"unregister","device":"r0"}\n')


def call(bench: Bench, op: str, **fields: str) -> Dict[str, Any]:
    answer: Dict[str, Any] = json.loads(bench.ask(json.dumps({"op": op, "device": "r0", **fields}).encode() + b"\n"))
    return answer


def run(bench: Bench, *arguments: str, typed: Optional[str] = None) -> Any:
    return run_command(bench, *arguments, typed=typed, command="forget")


def standing(bench: Bench) -> Standing:
    return bench.daemon.guards["r0"].state.record.standing


def left(bench: Bench) -> List[str]:
    return sorted(path.name for path in (bench.directory / "state").iterdir() if path.name != "r0.verdicts")


def published(bench: Bench) -> List[Optional[str]]:
    return [value for name, value in bench.world.pacemaker.published if name == "r0"]


def gone(bench: Bench) -> bool:
    return "r0" not in bench.daemon.guards and left(bench) == [] and published(bench)[-1] is None


def untouched(bench: Bench, record: Record) -> bool:
    found = bench.daemon.services.store.read_record("r0")
    kept = found is not None and found.standing is record.standing and found.epoch == record.epoch
    return kept and standing(bench) is record.standing and published(bench)[-1:] != [None] and "r0.config" in left(bench)


def hear(bench: Bench, said: Standing, in_sync: Any = BOTH) -> None:
    message = Message("r0", "nodeb", "run", said, 4, in_sync, Disk.UPTODATE, Role.SECONDARY, "G1", (), ())
    bench.world.carriers[-1].arrive(View(BOTH, BOTH, True), Delivery("nodeb", codec.encode_messages([message])))
    bench.until("nodeb to be heard", lambda: bench.daemon.guards["r0"].state.message_of("nodeb"))


# --- what is refused


def test_not_while_the_resource_runs(make: Make) -> None:
    bench = make(SYNCED, stopped=False)
    code, printed = run(bench, "r0", "--yes-forget", "nodea")
    assert code == 1 and "refused: replica-guard is registered for r0 on this node: stop it first" in printed
    shown = call(bench, "forget-show")
    assert "registered" in call(bench, "forget", seen=shown["seen"], node="nodea")["error"]
    assert untouched(bench, SYNCED)
    stop(bench)
    assert run(bench, "r0")[0] == 0 and gone(bench)


@pytest.mark.parametrize("record", DANGEROUS, ids=lambda record: record.standing.value)
def test_what_may_be_old_is_not_forgotten_without_a_persons_word(make: Make, record: Record) -> None:
    bench = make(record, ALONE)
    if record is DECIDING:
        bench.until("its own verdict to wait", lambda: bench.daemon.guards["r0"].state.round)
    code, printed = run(bench, "r0")
    assert code == 1 and f"is {record.standing.value.upper()}" in printed.replace("being decided", "is DECIDING"), printed
    assert "BEFORE YOU GO ON" in printed and "a script gives --yes-forget nodea" in printed
    seen = call(bench, "forget-show")["seen"]
    assert "not without a person's word" in call(bench, "forget", seen=seen)["error"]
    assert "this node is nodea" in call(bench, "forget", seen=seen, node="nodeb")["error"]
    assert "look again" in call(bench, "forget", node="nodea")["error"]
    assert run(bench, "r0", "--yes-forget", "nodeb")[0] == 1
    assert run(bench, "r0", typed="yes")[0] == 1
    assert untouched(bench, record)
    assert "forgotten" not in bench.world.journal.kinds() and "operator" in bench.world.journal.kinds()


@pytest.mark.parametrize("record", DANGEROUS, ids=lambda record: record.standing.value)
@pytest.mark.parametrize("typed", [True, False])
def test_a_persons_word_in_so_many_words(make: Make, record: Record, typed: bool) -> None:
    bench = make(record, ALONE)
    code, printed = run(bench, "r0", typed="nodea") if typed else run(bench, "r0", "--yes-forget", "nodea")
    assert code == 0, printed
    assert gone(bench)
    entry = next(fields for kind, _, fields in bench.world.journal.lines if kind == "forgotten")
    assert entry["standing"] == record.standing.value and entry["confirmed"] is True and str(entry["by"]).startswith("uid ")


def test_a_word_is_good_only_for_what_was_shown(make: Make) -> None:
    """Shown `synced`; by the time of the order this copy is blocked."""
    bench = make(SYNCED)
    seen = call(bench, "forget-show")["seen"]
    hear(bench, Standing.SOLO, ("nodeb",))
    bench.until("the block", lambda: standing(bench) is Standing.BLOCKED)
    for word in ({}, {"node": "nodea"}):
        assert "has changed since it was shown" in call(bench, "forget", seen=seen, **word)["error"]
    bench.turn(0.1)
    found = bench.daemon.services.store.read_record("r0")
    assert found is not None and found.standing is Standing.BLOCKED


def test_what_has_gone_since_it_was_shown_does_not_matter_what_has_come_does(make: Make) -> None:
    bench = make(SYNCED, LINKED._replace(role=Role.PRIMARY))
    in_use = call(bench, "forget-show")["seen"]
    bench.world.sources["exec"].tell("r0", LINKED)
    bench.until("the role", lambda: bench.daemon.guards["r0"].state.replica.role is Role.SECONDARY)
    hear(bench, Standing.SYNCED)
    assert "has changed since it was shown" in call(bench, "forget", seen=in_use, node="nodea")["error"]
    both = f"{in_use} {call(bench, 'forget-show')['seen'].split()[-1]}"
    assert call(bench, "forget", seen=both, node="nodea")["ok"] is True and gone(bench)


@pytest.mark.parametrize("said", [Standing.SYNCED, Standing.DECIDING])
def test_another_node_counts_on_this_one(make: Make, monkeypatch: pytest.MonkeyPatch, said: Standing) -> None:
    bench = make(SYNCED)
    hear(bench, said)
    code, printed = run(bench, "r0")
    assert code == 1 and f"nodeb says that it is {said.value} and in sync with this copy (epoch 4)" in printed
    assert untouched(bench, SYNCED)
    monkeypatch.setattr(forgetting, "SILENT_S", 0.2)
    bench.turn(0.4)
    assert run(bench, "r0")[0] == 1, "nothing at all came from it meanwhile"
    bench.world.carriers[-1].arrive(Delivery("nodeb", codec.encode_payload("nodeb", "run")))
    bench.turn(0.1)  # it lives, and says nothing of r0: forgotten there
    code, printed = run(bench, "r0")
    assert code == 0 and "nodeb: says nothing of it now" in printed, printed
    assert gone(bench)


def test_in_use(make: Make) -> None:
    bench = make(SYNCED, LINKED._replace(role=Role.PRIMARY))
    code, printed = run(bench, "r0")
    assert code == 1 and "r0 is Primary here: Pacemaker demotes it" in printed and untouched(bench, SYNCED)


@pytest.mark.parametrize("device", ["r7", "../state/r0", "/dev/drbd7", ""])
def test_an_unknown_device(make: Make, device: str) -> None:
    bench = make(SYNCED)
    assert run(bench, device)[0] == 5
    answer = json.loads(bench.ask(json.dumps({"op": "forget", "device": device, "seen": "synced 4"}).encode() + b"\n"))
    assert answer["ok"] is False and answer["unknown"] is True and untouched(bench, SYNCED)


def test_without_a_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forget", "r0", "--yes-forget", "nodea", "--socket", str(tmp_path / "none")]) == 4
    assert "heartgated does not run on this node" in capsys.readouterr().err


# --- what is done, and what comes after


def test_synced_and_nobody_counts_on_it(make: Make) -> None:
    bench = make(SYNCED, flush="filesystem:/srv")
    bench.daemon.guards["r0"].operations.flush(4)
    bench.until("the notes", lambda: {"r0.flush", "r0.fencing"} <= set(left(bench)))
    code, printed = run(bench, "r0")
    assert code == 0, printed
    for part in ("synced, epoch 4", "r0.state r0.config r0.flush r0.fencing in /var/lib/heartgate",
                 "the attribute heartgate-r0 (synced now)", "kept        r0.verdicts", "starts as on a new node",
                 "the next loss keeps it frozen"):  # fmt: skip
        assert part in printed, (part, printed)
    assert gone(bench)
    assert run(bench, "r0")[0] == 5
    assert json.loads(bench.ask(b'{"op":"status"}\n'))["devices"] == []
    assert b'"exit":1' in bench.ask(b'{"op":"fence-peer","device":"r0","peer":"nodeb","handler":"1-1"}\n')


@pytest.mark.req("E1")
@pytest.mark.parametrize("record", [SYNCED, BLOCKED])
def test_a_new_resource_starts_as_on_a_new_node(make: Make, record: Record) -> None:
    """Also with another set of nodes. Not promotable: unproven until it has met the others."""
    bench = make(record, LINKED if record is SYNCED else ALONE)
    bench.world.names = ("nodea", "nodeb", "nodec")
    run_before = bench.daemon.guards["r0"].state.run
    assert run(bench, "r0", "--yes-forget", "nodea")[0] == 0
    bench.guard(priorities="nodea:1 nodeb:2 nodec:3")
    guard = bench.daemon.guards["r0"]
    assert guard.state.record == Record(Standing.UNPROVEN, 0, ("nodea", "nodeb", "nodec"), "boot-1")
    assert guard.state.run != run_before, "an answer to the guard before it would be taken for one to this one"
    bench.until("the attribute", lambda: published(bench)[-1] == "unproven")
    assert bench.daemon.guards["r0"].state.replica.disk is Disk.UPTODATE, "facts are told anew"
    bench.world.carriers[-1].sent.clear()
    bench.until("a message", lambda: any(codec.decode_payload(data)[2] for data in bench.world.carriers[-1].sent))
    assert {m.run for data in bench.world.carriers[-1].sent for m in codec.decode_payload(data)[2]} == {guard.state.run}


def test_the_history_goes_on_and_replays(make: Make) -> None:
    bench = make(BLOCKED, ALONE)
    bench.turn(0.4)
    assert run(bench, "r0", "--yes-forget", "nodea")[0] == 0
    bench.turn(0.4)
    bench.guard()

    def items() -> Sequence[Item]:
        return replay(bench.daemon.services.store.read_history("r0"), core_version())

    def after_it() -> bool:
        """What the new guard went through is told too."""
        names = [getattr(item, "what", type(item).__name__) for item in items()]
        return "forgotten" in names and "Step" in names[names.index("forgotten") :]

    bench.until("the new beginning", after_it)
    bench.turn(0.6)
    assert not [item for item in items() if isinstance(item, Refused)], items()
    assert [getattr(item, "what", "") for item in items()].count("forgotten") == 1


def test_nothing_of_it_is_done_or_written_any_more(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that is enforced again and again, and notes that come late."""
    monkeypatch.setattr("heartgate.daemon.operations.ENFORCE_FIRST_S", 0.05)
    bench = make(BLOCKED, ALONE)
    driver = bench.world.drivers["r0"]
    bench.until("it to be enforced", lambda: driver.calls.count("enforce") > 1)
    guard = bench.daemon.guards["r0"]
    assert run(bench, "r0", "--yes-forget", "nodea")[0] == 0
    driver.calls.clear()
    guard.operations.facts_changed()
    bench.world.sources["exec"].tell("r0", LINKED)
    bench.daemon.fences.look()
    bench.turn(0.5)
    assert driver.calls == [] and gone(bench)


def test_work_that_is_under_way_comes_to_its_end_first(make: Make) -> None:
    bench = make(BLOCKED, ALONE)
    driver, gate, order = bench.world.drivers["r0"], threading.Event(), []

    def slow() -> Outcome:
        gate.wait(60)
        order.append(sorted(left(bench)))
        return Outcome(True, "late")

    bench.turn(0.2)
    driver.answers["rehandle"] = slow
    bench.daemon.workers.submit("driver:r0", slow, lambda result: None, 60)
    seen = call(bench, "forget-show")["seen"]
    with bench.connect() as client:
        client.send(json.dumps({"op": "forget", "device": "r0", "seen": seen, "node": "nodea"}).encode() + b"\n")
        bench.until("it to be leaving", lambda: "r0" in bench.daemon.leaving)
        bench.turn(0.2)
        again = json.loads(bench.ask(json.dumps({"op": "register", "params": PARAMS}).encode() + b"\n"))
        assert again["ok"] is False and "is being forgotten" in again["error"]
        gate.set()
        assert b'"ok":true' in bench.read(client)
    assert "r0.state" in order[0] and gone(bench)


@pytest.mark.parametrize("suffix", ["config", "state"])
def test_a_disk_that_does_not_let_go(make: Make, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """The record is there still, and so is the guard."""
    bench = make(BLOCKED, ALONE)
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.name == f"r0.{suffix}":
            raise OSError(5, "Input/output error", str(path))
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    code, printed = run(bench, "r0", "--yes-forget", "nodea")
    assert code == 1 and "not done: its files cannot be removed: Input/output error" in printed
    found = bench.daemon.services.store.read_record("r0")
    assert found is not None and found.standing is Standing.BLOCKED and standing(bench) is Standing.BLOCKED
    bench.until("the attribute again", lambda: published(bench)[-1] == "blocked")
    assert "forgotten" not in bench.world.journal.kinds() and not bench.daemon.leaving


def test_pacemaker_that_does_not_answer_is_not_waited_for(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "WITHDRAW_S", 0.2)
    bench = make(SYNCED)
    bench.until("the attribute", lambda: published(bench)[-1:] == ["synced"])
    cluster = bench.world.pacemaker
    monkeypatch.setattr(cluster, "withdraw", lambda device, deadline_s: Outcome(False, "no Pacemaker"))
    code, printed = run(bench, "r0")
    assert code == 0 and "the attribute heartgate-r0 is withdrawn as soon as it does" in printed
    assert left(bench) == []
    monkeypatch.undo()
    bench.until("the attribute to be gone", lambda: published(bench)[-1] is None)


# --- files without a guard


def test_a_record_without_a_guard(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    store = bench.daemon.services.store
    store.save_record("r0", BLOCKED)
    store.save_config(Saved("r0", "nodea", {**PARAMS, "priorities": "nonsense"}, True))
    bench.daemon.start()
    try:
        assert "cannot be used" in bench.world.journal.text()
        assert "is registered for r0" in run(bench, "r0", "--yes-forget", "nodea")[1]
        stop(bench)
        bench.until("it to be remembered", lambda: not bench.daemon.workers.busy("register"))
        code, printed = run(bench, "r0")
        assert code == 1 and "this copy is BLOCKED: nodeb was allowed to go on" in printed and "only files are left" in printed
        assert store.read_record("r0") == BLOCKED
        assert run(bench, "r0", "--yes-forget", "nodea")[0] == 0 and left(bench) == []
    finally:
        bench.close()


def test_a_record_that_cannot_be_read(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    (tmp_path / "state" / "r0.state").write_bytes(b"garbage")
    bench.daemon.start()
    try:
        code, printed = run(bench, "r0")
        assert code == 1 and "its record cannot be read" in printed and "it may have been blocked" in printed
        assert left(bench) == ["r0.state"]
        assert run(bench, "r0", "--yes-forget", "nodea")[0] == 0 and left(bench) == []
    finally:
        bench.close()


def test_a_record_that_was_synced_when_somebody_last_watched(tmp_path: Path) -> None:
    """A guard would be unproven after a boot: files alone claim no more."""
    bench = Bench(tmp_path)
    bench.daemon.services.store.save_record("r0", SYNCED._replace(boot="before"))
    bench.daemon.start()
    try:
        code, printed = run(bench, "r0")
        assert code == 1 and "another node may have gone on without it, so this copy may be old" in printed
        assert left(bench) == ["r0.state"]
        assert run(bench, "r0", "--yes-forget", "nodea")[0] == 0 and left(bench) == []
    finally:
        bench.close()


def test_a_guard_that_is_stopped_by_an_invariant(make: Make) -> None:
    bench = make(SYNCED)
    bench.daemon.guards["r0"].broken = ("I3 synced without proof about nodec",)
    code, printed = run(bench, "r0")
    assert code == 1 and "its steps are refused (I3 synced without proof about nodec)" in printed
    assert run(bench, "r0", "--yes-forget", "nodea")[0] == 0 and gone(bench)
