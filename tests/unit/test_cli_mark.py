"""`heartgate mark-synchronized` against a real daemon's socket: what it shows, what it asks, what it refuses."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Iterator, List, Optional, Tuple

import pytest

from heartgate.adapters.base import AdapterError, Delivery, View
from heartgate.cli.main import main
from heartgate.core import codec
from heartgate.core.model import Disk, Link, Message, PeerLink, ProofKind, Record, Replica, Role, Standing
from heartgate.daemon import guard as guard_module
from tests.unit.test_daemon_fakes import Bench

pytestmark = pytest.mark.req("E8")
BEHIND = Replica(Disk.CONSISTENT, Role.SECONDARY, False, (("nodeb", PeerLink(Link.DOWN, 0)),), "G1", ("G0",))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    it = Bench(tmp_path)
    it.world.initial = {"r0": BEHIND}
    it.daemon.services.store.save_record("r0", Record(Standing.SYNCED, 4, ("nodea", "nodeb"), "before"))
    it.daemon.start()
    it.guard()
    yield it
    it.close()


def standing(bench: Bench) -> Standing:
    return bench.daemon.guards["r0"].state.record.standing


def hear(bench: Bench, said: Standing, epoch: int) -> None:
    message = Message("r0", "nodeb", "run", said, epoch, ("nodeb",), Disk.UPTODATE, Role.SECONDARY, "G2", ("G1",), ())
    both = ("nodea", "nodeb")
    bench.world.carriers[-1].arrive(View(both, both, True), Delivery("nodeb", codec.encode_messages([message])))
    bench.until("nodeb to be heard", lambda: bench.daemon.guards["r0"].state.message_of("nodeb"))


def run(
    bench: Bench, *arguments: str, typed: Optional[str] = None, command: str = "mark-synchronized"
) -> Tuple[int, str]:
    """The command as a process (typed: on a terminal), while the daemon is turned. (exit code, everything it printed)"""
    argv = [sys.executable, "-c", "import sys; from heartgate.cli.main import main; sys.exit(main(sys.argv[1:]))",
            command, *arguments, "--socket", str(bench.socket)]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": "lib"}
    if typed is None:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
        )
        output = process.stdout
        assert output is not None
        reader, master = output.fileno(), -1
    else:
        master, slave = pty.openpty()
        process = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, env=environment)
        os.close(slave)
        os.write(master, typed.encode() + b"\n")
        reader = master
    printed: List[bytes] = []
    thread = threading.Thread(target=_drain, args=(reader, printed))
    thread.start()
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        bench.daemon.loop.turn(0.01)
    process.kill()
    process.wait()
    thread.join(60)
    if master >= 0:
        os.close(master)
    return process.returncode, b"".join(printed).decode()


def _drain(fd: int, into: List[bytes]) -> None:
    while True:
        try:
            data = os.read(fd, 65536)
        except OSError:
            return
        if not data:
            return
        into.append(data)


def test_it_shows_and_a_script_confirms(bench: Bench) -> None:
    bench.world.drivers["r0"].answers["out_of_sync"] = {"nodeb": 4096}
    code, printed = run(bench, "r0", "--yes-lose-data", "nodea")
    assert code == 0, printed
    for part in ("unproven, epoch 4", "generation G1", "nodeb: cannot be heard", "lacks of this copy: 4096 bytes",
                 "last heard: not known", "LOST IF YOU GO ON", "may serve now", "--discard-my-data"):  # fmt: skip
        assert part in printed, (part, printed)
    saved = bench.daemon.services.store.read_record("r0")
    assert saved is not None and saved.standing is Standing.SOLO and saved.epoch == 5
    assert [(p.node, p.kind) for p in saved.proofs] == [("nodeb", ProofKind.OPERATOR)]
    assert "operator" in bench.world.journal.kinds()


def test_the_order_of_a_decision_is_persist_then_tell(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that does not take the record: nothing is told, and the person is."""
    store = bench.daemon.services.store

    def full(device: str, record: Record) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "save_record", full)
    monkeypatch.setattr("heartgate.daemon.marking.WRITTEN_S", 0.3)
    code, printed = run(bench, "r0", "--yes-lose-data", "nodea")
    assert code == 1 and "could not be written" in printed
    saved = store.read_record("r0")
    assert saved is not None and saved.standing is Standing.UNPROVEN
    assert ("r0", "solo") not in bench.world.pacemaker.published
    assert not any(b'"solo"' in payload for payload in bench.world.carriers[-1].sent)


@pytest.mark.parametrize("typed, done", [("nodea", True), ("nodeb", False), ("yes", False), ("", False)])
def test_a_person_types_the_name(bench: Bench, typed: str, done: bool) -> None:
    code, printed = run(bench, "r0", typed=typed)
    assert "Type the name of this node (nodea)" in printed
    assert (code == 0) is done, printed
    assert (standing(bench) is Standing.SOLO) is done


def test_without_a_terminal_nobody_is_asked(bench: Bench) -> None:
    code, printed = run(bench, "r0")
    assert code == 1 and "no terminal to ask on; a script gives --yes-lose-data nodea" in printed
    assert standing(bench) is Standing.UNPROVEN


def test_the_wrong_machine(bench: Bench) -> None:
    code, printed = run(bench, "r0", "--yes-lose-data", "nodeb")
    assert code == 1 and "names 'nodeb', and this node is nodea" in printed
    answer = json.loads(bench.ask(b'{"op":"mark","device":"r0","node":"nodeb"}\n'))
    assert not answer["ok"] and "this node is nodea" in answer["error"]
    assert standing(bench) is Standing.UNPROVEN


def test_an_unknown_device(bench: Bench) -> None:
    code, printed = run(bench, "r7", "--yes-lose-data", "nodea")
    assert code == 5 and "no such device is guarded on this node (guarded: r0)" in printed


def test_a_peer_that_serves_is_a_reason_against(bench: Bench) -> None:
    hear(bench, Standing.SOLO, 5)
    code, printed = run(bench, "r0", "--yes-lose-data", "nodea")
    assert code == 1 and "refused: nodeb can be heard, is solo (epoch 5)" in printed
    assert "NOT part of this copy: it has gone on without it" in printed
    assert json.loads(bench.ask(b'{"op":"mark","device":"r0","node":"nodea"}\n'))["ok"] is False
    assert standing(bench) is Standing.BLOCKED


@pytest.mark.parametrize("disk", [Disk.INCONSISTENT, Disk.DISKLESS, Disk.ABSENT, Disk.UNKNOWN])
def test_a_copy_that_cannot_be_used(bench: Bench, disk: Disk) -> None:
    bench.world.sources["exec"].tell("r0", BEHIND._replace(disk=disk))
    bench.until("the disk", lambda: bench.daemon.guards["r0"].state.replica.disk is disk)
    code, printed = run(bench, "r0", "--yes-lose-data", "nodea")
    assert code == 1 and f"its disk is {disk.value}" in printed
    assert standing(bench) is Standing.UNPROVEN


def test_out_of_sync_that_cannot_be_read_is_said(bench: Bench) -> None:
    bench.world.drivers["r0"].answers["out_of_sync"] = AdapterError("drbdsetup: no")
    _, printed = run(bench, "r0")
    assert "out of sync could not be read: drbdsetup: no" in printed and "lacks of this copy: not known" in printed


def test_without_a_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mark-synchronized", "r0", "--yes-lose-data", "nodea", "--socket", str(tmp_path / "none")]) == 4
    assert "heartgated does not run on this node" in capsys.readouterr().err


def test_who_was_heard_is_known_after_a_restart(bench: Bench) -> None:
    hear(bench, Standing.UNPROVEN, 4)
    bench.world.carriers[-1].arrive(View(("nodea",), ("nodea",), True))
    bench.until("nodeb to be gone", lambda: bench.daemon.guards["r0"].state.message_of("nodeb") is None)
    noted = bench.until("the note", lambda: bench.daemon.services.store.load_note("r0", "contacts"))
    assert noted["nodeb"]["standing"] == "unproven" and noted["nodeb"]["generation"] == "G2"
    code, printed = run(bench, "r0")
    assert code == 1 and "last heard 2" in printed and "(0 min" in printed


def test_the_journal_says_what_is_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "SETTLED_S", 0.05)
    bench.world.sources["exec"].tell("r0", BEHIND._replace(generation="G3"))
    bench.until("the journal", lambda: "waits to hear nodeb" in bench.world.journal.text())
    assert "a person can end this wait: heartgate mark-synchronized r0" in bench.world.journal.text()
    answer = json.loads(bench.ask(b'{"op":"status"}\n'))["devices"][0]
    assert answer["waits"].startswith("waits to hear nodeb") and answer["ends_wait"] == "heartgate mark-synchronized r0"
