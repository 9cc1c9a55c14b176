"""The daemon's start and end: a disk that cannot be read, a Corosync that does not answer, a planned shutdown."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator, List, Tuple

import pytest

from heartgate.adapters import corolib, cpg
from heartgate.adapters.base import Delivery, Outcome, View
from heartgate.core import codec
from heartgate.core.model import Answer, Ask, Disk, Link, LinkReport, Message, PeerLink, Record, Replica, Role, Standing
from heartgate.daemon import heartgated, peers
from heartgate.daemon.store import Saved, Store
from tests.unit.test_daemon_fakes import PARAMS, Bench

BLOCKED = Record(Standing.BLOCKED, 7, ("nodeb",), "boot-0")
FENCE_PEER = b'{"op":"fence-peer","device":"r0","peer":"nodeb","handler":"1-1"}\n'


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    it = Bench(tmp_path)
    yield it
    it.close()


# --- a disk that cannot be read


class Files:
    """While `trouble` is set, files that are named so cannot be read."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trouble, self.reads = "", 0
        self._real = store._read
        monkeypatch.setattr(store, "_read", self._read)

    def _read(self, name: str, *limit: int) -> Any:
        if self.trouble and name.endswith(self.trouble):
            self.reads += 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), name)
        return self._real(name, *limit)


@pytest.fixture
def disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.setattr(heartgated, "UNREAD_S", 0.05)
    store = bench.daemon.services.store
    store.save_config(Saved("r0", "nodea", PARAMS, True))
    store.save_record("r0", BLOCKED)
    return Files(store, monkeypatch)


@pytest.mark.req("A4")
@pytest.mark.parametrize("suffix", [".state", ".config"])
def test_a_device_is_not_guarded_by_guess(bench: Bench, disk: Files, suffix: str) -> None:
    disk.trouble = suffix
    bench.daemon.start()
    assert not bench.daemon.guards
    assert b'"exit"' not in bench.ask(FENCE_PEER), "only a number ends a handler's waiting"
    bench.until("another try", lambda: disk.reads >= 3)
    assert bench.world.journal.text().count("Too many open files") == 1, "told once"
    disk.trouble = ""
    bench.until("it to be guarded", lambda: bench.daemon.guards)
    record = bench.daemon.guards["r0"].state.record
    assert (record.standing, record.epoch) == (Standing.BLOCKED, 7)
    assert not list((bench.directory / "state").glob("*.bad-*"))
    assert bench.world.journal.text().count("guarded after all") == 1


@pytest.mark.req("A4")
def test_a_registration_that_cannot_read_its_record_fails(bench: Bench, disk: Files) -> None:
    bench.daemon.start()
    guard = bench.daemon.guards["r0"]
    line = json.dumps({"op": "register", "params": PARAMS}).encode() + b"\n"
    disk.trouble = ".state"
    answer = bench.ask(line)
    assert b'"ok":false' in answer and b"record of r0 cannot be read: Too many open files" in answer
    assert bench.daemon.guards["r0"] is guard and guard.state.record.standing is Standing.BLOCKED
    disk.trouble = ""
    assert b'"ok":true' in bench.ask(line)
    assert not list((bench.directory / "state").glob("*.bad-*"))


def test_forgotten_before_it_could_be_read(bench: Bench, disk: Files) -> None:
    disk.trouble = ".state"
    bench.daemon.start()
    bench.daemon.services.store.forget("r0")
    disk.trouble = ""
    bench.until("the next try", lambda: not bench.daemon.unread)
    assert not bench.daemon.guards


# --- a Corosync that does not answer


@pytest.mark.req("E1")
def test_a_stopped_corosync_holds_up_nobody(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control socket answers while the join is under way; and what that comes to at last is taken."""
    gate, real, again = threading.Event(), bench.world.carrier, []
    monkeypatch.setattr(peers, "JOIN_S", -1.8)  # with the margin of a worker: 0.2 s

    def carrier() -> Any:
        again.append(gate.wait(60))
        return real()

    monkeypatch.setattr(bench.world, "carrier", carrier)
    bench.daemon.start()
    assert bench.ask(b'{"op":"ping"}\n').startswith(b'{"ok":true') and not again, "answered while the join waits"
    bench.until("it to be said", lambda: "Corosync does not answer" in bench.world.journal.text())
    assert not bench.daemon.peers.connected
    gate.set()
    bench.until("the carrier", lambda: bench.daemon.peers.view)
    assert again == [True] and len(bench.world.carriers) == 1


# --- a planned shutdown

NODES = ("nodea", "nodeb")
GONE = Replica(Disk.ABSENT, Role.SECONDARY, False, (("nodeb", PeerLink(Link.DOWN, 1)),))
QUESTION = Message(
    "r0", "nodeb", "run-b", Standing.DECIDING, 3, NODES, Disk.UPTODATE, Role.PRIMARY, "G1", (),
    (LinkReport("nodea", Link.DOWN, 1, 1),), Ask(1, 4, ("nodeb",)),
)  # fmt: skip


@pytest.fixture
def asked(bench: Bench) -> Iterator[threading.Event]:
    """Pacemaker has stopped the replication here, so nodeb asks this node to block. The driver blocks when the event is set."""
    gate = threading.Event()
    store = bench.daemon.services.store
    store.save_config(Saved("r0", "nodea", PARAMS, True))
    store.save_record("r0", Record(Standing.SYNCED, 3, NODES, "boot-1"))
    bench.daemon.start()
    bench.world.drivers["r0"].answers["block"] = lambda: Outcome(gate.wait(60), "absent")
    bench.until("the carrier", lambda: bench.daemon.peers.view)
    bench.world.sources["exec"].tell("r0", GONE)
    bench.until("the loss", lambda: bench.daemon.guards["r0"].state.record.standing is Standing.DECIDING)
    bench.world.carriers[-1].arrive(View(NODES, NODES, True), Delivery("nodeb", codec.encode_messages([QUESTION])))
    yield gate
    gate.set()


def answers(bench: Bench) -> List[Answer]:
    told = [codec.decode_payload(payload)[2] for payload in bench.world.carriers[-1].sent]
    return [answer for messages in told for message in messages for answer in message.answers]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has nothing to wait for ends long before that, on the slowest machine."""
    monkeypatch.setattr(heartgated, "WIND_DOWN_S", 60.0)


LONG_S = 30.0


def ends(bench: Bench) -> float:
    """It is asked to end: how long that takes."""
    began = time.monotonic()
    bench.daemon.wind_down()
    bench.daemon.loop.after(90, bench.daemon.loop.stop)
    bench.daemon.loop.run()
    return time.monotonic() - began


@pytest.mark.req("A11")
def test_who_asks_is_answered_before_the_end(bench: Bench, asked: threading.Event, patient: None) -> None:
    bench.daemon.loop.after(0.6, asked.set)
    assert ends(bench) < LONG_S and asked.is_set()
    assert [(answer.to, answer.request, answer.blocked) for answer in answers(bench)][:1] == [("nodeb", 1, True)]


def test_an_answer_that_does_not_come_is_not_waited_for(
    bench: Bench, asked: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartgated, "WIND_DOWN_S", 0.4)
    assert 0.4 <= ends(bench) < LONG_S
    assert not answers(bench) and not asked.is_set()


def test_a_second_signal_ends_it_at_once(bench: Bench, asked: threading.Event, patient: None) -> None:
    bench.daemon.loop.after(0.3, bench.daemon.wind_down)
    assert ends(bench) < LONG_S and not asked.is_set()


def test_who_owes_nothing_ends_soon(bench: Bench, patient: None) -> None:
    bench.daemon.start()
    bench.guard()
    bench.turn(0.3)
    assert ends(bench) < LONG_S


# --- what is sent last


def sender(multicast: Callable[[bytes], int]) -> Tuple[cpg._Sender, List[int]]:
    failures: List[int] = []
    return cpg._Sender(multicast, failures.append), failures


def test_what_is_queued_is_sent_before_the_end() -> None:
    sent: List[bytes] = []
    tries = iter([corolib.CS_ERR_TRY_AGAIN] * 10)

    def multicast(payload: bytes) -> int:
        code = next(tries, corolib.CS_OK)
        if code == corolib.CS_OK:
            sent.append(payload)
        return code

    it, _ = sender(multicast)
    for payload in (b"1", b"2", b"3"):
        it.put(payload)
    assert it.stop(patience_s=60) and sent == [b"1", b"2", b"3"]


@pytest.mark.parametrize("drain", [True, False])
def test_a_corosync_that_takes_nothing_does_not_hold_up_the_end(drain: bool) -> None:
    """Half of the patience is for what is queued; without it nothing is waited for."""
    it, failures = sender(lambda payload: corolib.CS_ERR_TRY_AGAIN)
    it.put(b"1")
    began = time.monotonic()
    it.stop(patience_s=1.0 if drain else 120.0, drain=drain)
    assert time.monotonic() - began < LONG_S
    it._thread.join(60)
    assert not it._thread.is_alive() and not failures
