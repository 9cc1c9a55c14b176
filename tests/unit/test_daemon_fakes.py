"""A world for the daemon that a test holds in its hands: carrier, replication, Pacemaker, journal. And a test of
itself.

Also a program: `python3 -m tests.unit.test_daemon_fakes STATE RUNTIME` runs a real heartgated on such a world
(`ScriptedWorld`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from heartgate.adapters.base import AdapterError, CarrierLost, Delivery, FenceSeen, Outcome, Problem, View, always
from heartgate.checks.link_report import KnetLook, Question, Report
from heartgate.core.model import UNKNOWN_REPLICA, Disk, Link, PeerLink, Replica, Role
from heartgate.daemon.heartgated import Daemon
from heartgate.daemon.store import Store

ALONE = Replica(Disk.UPTODATE, Role.PRIMARY, True, (("nodeb", PeerLink(Link.DOWN, 1)),), "G1")
TOGETHER = Replica(Disk.UPTODATE, Role.PRIMARY, False, (("nodeb", PeerLink(Link.UP, 1, Disk.UPTODATE)),), "G1")
PARAMS = {"device": "r0", "driver": "exec", "exec_program": "/bin/true", "priorities": "nodea:1 nodeb:2"}


class Pipe:
    """A descriptor that is readable when there is something to read."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)

    def ring(self) -> None:
        os.write(self.writer, b"x")

    def hush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.reader, 4096)


class FakeJournal:
    def __init__(self) -> None:
        self.lines: List[Tuple[str, str, Dict[str, object]]] = []

    def send(
        self, kind: str, message: str, *, device: str = "", rule: str = "", epoch: int = -1, **fields: object
    ) -> None:
        self.lines.append((kind, message, fields))

    def kinds(self) -> List[str]:
        return [kind for kind, _, _ in self.lines]

    def text(self) -> str:
        return "\n".join(f"{kind}: {message}" for kind, message, _ in self.lines)


class FakeCarrier:
    def __init__(self, local: str = "nodea") -> None:
        self.local = local
        self.pipe = Pipe()
        self.sent: List[bytes] = []
        self.arriving: List[Any] = []
        self.trouble: Optional[Exception] = None
        self.closed = False

    def fileno(self) -> int:
        return self.pipe.reader

    def send(self, payload: bytes) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.sent.append(payload)

    def arrive(self, *items: Any) -> None:
        self.arriving += items
        self.pipe.ring()

    def dispatch(self) -> Sequence[Any]:
        self.pipe.hush()
        if isinstance(self.trouble, CarrierLost):
            raise self.trouble
        items, self.arriving = self.arriving, []
        return items

    def close(self) -> None:
        self.closed = True


class FakeSource:
    def __init__(self) -> None:
        self.pipe = Pipe()
        self.facts: Dict[str, Replica] = {}
        self.initial: Dict[str, Replica] = {}

    def fileno(self) -> int:
        return self.pipe.reader

    def watch(self, resource: str, program: str) -> None:
        self.tell(resource, self.initial.get(resource, TOGETHER))

    def discard(self, resource: str) -> None:
        self.facts.pop(resource, None)

    def tell(self, resource: str, replica: Replica) -> None:
        self.facts[resource] = replica
        self.pipe.ring()

    def read(self) -> Mapping[str, Replica]:
        self.pipe.hush()
        facts, self.facts = self.facts, {}
        return facts

    def close(self) -> None:
        pass


class FakeDriver:
    """Notes its calls; `answers` maps an operation to an outcome, or to a function that gives one (and may block)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls: List[str] = []
        self.answers: Dict[str, Any] = {}
        self.problems: Sequence[Problem] = ()

    def _call(self, operation: str) -> Outcome:
        self.calls.append(operation)
        answer = self.answers.get(operation, Outcome(True, "done"))
        return answer() if callable(answer) else answer  # type: ignore[no-any-return]

    def check(self, nodes: Sequence[str]) -> Sequence[Problem]:
        return self.problems

    def block(self, replica: Replica, deadline_s: float) -> Outcome:
        return self._call("block")

    def holds(self, deadline_s: float) -> Outcome:
        return self._call("holds")

    def release(self, replica: Replica, deadline_s: float, wanted: Callable[[], bool] = always) -> Outcome:
        return self._call("release")

    def enforce_blocked(self, replica: Replica, deadline_s: float) -> Outcome:
        return self._call("enforce")

    def unblock(self, replica: Replica, deadline_s: float) -> Outcome:
        return self._call("unblock")

    def drop(self, peer: str, deadline_s: float, wanted: Callable[[], bool] = always) -> Outcome:
        return self._call(f"drop {peer}")

    def rehandle(self, replica: Replica, deadline_s: float) -> Outcome:
        return self._call("rehandle")

    def out_of_sync(self, deadline_s: float) -> Mapping[str, int]:
        answer = self.answers.get("out_of_sync", {})
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]


class FakeLinkWatch:
    """Tells what the test gives it."""

    def __init__(self) -> None:
        self.pipe = Pipe()
        self.changes: List[Tuple[str, Optional[bool]]] = []

    def fileno(self) -> int:
        return self.pipe.reader

    def tell(self, name: str, carrier: Optional[bool]) -> None:
        self.changes.append((name, carrier))
        self.pipe.ring()

    def read(self) -> List[Tuple[str, Optional[bool]]]:
        self.pipe.hush()
        changes, self.changes = self.changes, []
        return changes

    def close(self) -> None:
        pass


class FakeCluster:
    def __init__(self) -> None:
        self.published: List[Tuple[str, Optional[str]]] = []
        self.told: List[Tuple[str, Optional[str], int]] = []
        self.fences: List[str] = []
        self.history: Any = ()
        self.fencing: Callable[[str], Outcome] = lambda node: Outcome(True, "fenced")
        self.trouble = False

    def publish(self, device: str, value: str, deadline_s: float) -> Outcome:
        if self.trouble:
            return Outcome(False, "no Pacemaker")
        self.published.append((device, value))
        return Outcome(True, "published")

    def withdraw(self, device: str, deadline_s: float) -> Outcome:
        self.published.append((device, None))
        return Outcome(True, "withdrawn")

    def tell(self, name: str, value: Optional[str], dampen_ms: int, deadline_s: float) -> Outcome:
        self.told.append((name, value, dampen_ms))
        return Outcome(True, "told")

    def fence(self, node: str, deadline_s: float) -> Outcome:
        self.fences.append(node)
        return self.fencing(node)

    def fence_history(self, deadline_s: float) -> Sequence[FenceSeen]:
        if isinstance(self.history, Exception):
            raise self.history
        return tuple(self.history)


class FakeFlushTarget:
    def __init__(self, spec: str) -> None:
        self.target, self.ok, self.how, self.elapsed_ms = spec, "bad" not in spec, "synced", 1

    def check(self) -> str:
        return "does not exist" if "absent" in self.target else ""

    def flush(self, device: str, deadline_s: float) -> FakeFlushTarget:
        return self


class FakeWorld:
    boot = "boot-1"

    def __init__(self) -> None:
        self.journal = FakeJournal()
        self.carriers: List[FakeCarrier] = []
        self.corosync = True
        self.name = "nodea"  # this node's, as Corosync has it
        self.names: Sequence[str] = ("nodea", "nodeb")
        self.sources: Dict[str, FakeSource] = {}
        self.initial: Dict[str, Replica] = {}
        self.drivers: Dict[str, FakeDriver] = {}
        self.pacemaker = FakeCluster()
        self.links = FakeLinkWatch()
        self.reports: Dict[str, Any] = {}
        self.looks: List[Any] = []
        self.resets = 0

    def link_report(self, question: Question) -> Report:
        found = self.reports.get(question.interface, AdapterError("nobody can be asked"))
        if isinstance(found, Exception):
            raise found
        return found  # type: ignore[no-any-return]

    def knet_look(self, numbers: Sequence[int]) -> KnetLook:
        found = self.looks.pop(0) if self.looks else CarrierLost("Corosync is not running")
        if isinstance(found, Exception):
            raise found
        return found  # type: ignore[no-any-return]

    def carrier(self) -> FakeCarrier:
        if not self.corosync:
            raise CarrierLost("Corosync is not running")
        self.carriers.append(FakeCarrier(self.name))
        self.carriers[-1].arrive(View((self.name,), tuple(sorted((self.name, "nodeb"))), True))
        return self.carriers[-1]

    def local_name(self) -> str:
        if not self.corosync:
            raise AdapterError("Corosync is not running")
        return self.name

    def node_names(self) -> Sequence[str]:
        return self.names

    def cluster(self, me: str) -> FakeCluster:
        return self.pacemaker

    def source(self, kind: str, me: str) -> FakeSource:
        self.sources[kind] = FakeSource()
        self.sources[kind].initial = self.initial
        return self.sources[kind]

    def driver(self, kind: str, resource: str, program: str, me: str) -> FakeDriver:
        return self.drivers.setdefault(resource, FakeDriver(resource))

    def flush_target(self, spec: str) -> FakeFlushTarget:
        if spec.startswith("nonsense"):
            raise ValueError("unknown kind of target")
        return FakeFlushTarget(spec)

    def link_watch(self) -> FakeLinkWatch:
        return self.links

    def prepare_thread(self) -> None:
        pass

    def notify(self, state: str) -> None:
        self.journal.send("notify", state)

    def watchdog_s(self) -> float:
        return 0.0

    def self_reset(self) -> None:
        self.resets += 1


PATIENCE_S = 60.0  # bounds a hang; a passing test does not use it up
TURN_S = 0.01  # a turn of the loop in which nothing happens


class Bench:
    """A daemon in this process, turned by the test."""

    def __init__(self, directory: Path) -> None:
        self._closed = False
        self.directory = directory
        self.world = FakeWorld()
        self.socket = directory / "control.sock"
        self.daemon = Daemon(self.world, Store(directory / "state"), self.socket)

    def until(self, what: str, probe: Callable[[], Any], timeout_s: float = PATIENCE_S) -> Any:
        deadline = time.monotonic() + timeout_s
        while True:
            value = probe()
            if value:
                return value
            assert time.monotonic() < deadline, f"waited in vain for {what}; journal:\n{self.world.journal.text()}"
            self.daemon.loop.turn(TURN_S)

    def turn(self, seconds: float) -> None:
        """For so long, and as many turns as that time has room for: on a machine that stands still meanwhile the time alone
        would be over before the daemon and its threads have done anything."""
        deadline, turns = time.monotonic() + seconds, 0
        while time.monotonic() < deadline or turns < seconds / TURN_S:
            self.daemon.loop.turn(TURN_S)
            turns += 1

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(self.socket))
        client.setblocking(False)
        return client

    def read(self, client: socket.socket, timeout_s: float = PATIENCE_S) -> bytes:
        """One line (or b"" at the end of the connection)."""
        data = bytearray()

        def line() -> bool:
            try:
                more = client.recv(65536)
            except BlockingIOError:
                return False
            data.extend(more)
            return not more or data.endswith(b"\n")

        self.until("an answer", line, timeout_s)
        return bytes(data)

    def ask(self, line: bytes) -> bytes:
        with self.connect() as client:
            client.send(line)
            return self.read(client)

    def joined(self) -> None:
        self.until("the carrier", lambda: self.daemon.peers.connected)

    def guard(self, **params: str) -> None:
        """As replica-guard's start does, for r0."""
        self.joined()
        line = json.dumps({"op": "register", "params": {**PARAMS, **params}}).encode() + b"\n"
        assert b'"ok":true' in self.ask(line)

    def close(self) -> None:
        """Once; its descriptors may be somebody else's afterwards."""
        if not self._closed:
            self._closed = True
            self.daemon.close()


class ScriptedWorld(FakeWorld):
    """Replication is lost from the start; the peer was fenced as soon as the file `fenced` is there."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.initial = {"r0": ALONE}
        self.pacemaker = ScriptedCluster(directory / "fenced")


class ScriptedCluster(FakeCluster):
    def __init__(self, mark: Path) -> None:
        super().__init__()
        self._mark = mark

    def fence_history(self, deadline_s: float) -> Sequence[FenceSeen]:
        return (FenceSeen("nodeb", "entry-1", True, True, False),) if self._mark.exists() else ()


def main() -> int:
    from heartgate.daemon.main import run

    state, runtime = Path(sys.argv[1]), Path(sys.argv[2])
    return run(ScriptedWorld(runtime), argparse.Namespace(state_dir=state, runtime_dir=runtime))


def test_a_bench_guards(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.daemon.start()
    assert bench.ask(b'{"op":"ping"}\n').startswith(b'{"ok":true')
    assert UNKNOWN_REPLICA != TOGETHER and Delivery("nodea", b"").node == "nodea"
    bench.close()


if __name__ == "__main__":
    sys.exit(main())
