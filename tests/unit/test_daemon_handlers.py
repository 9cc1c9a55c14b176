"""The fence-peer handler as DRBD calls it: real processes, a real heartgated (on a scripted world), killed in
between."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, Iterator, List

import pytest

from heartgate.core.model import Record, Standing
from heartgate.daemon import client, fences
from heartgate.daemon.store import Saved, Store
from heartgate.handlers import fence_peer
from tests.unit.test_daemon_fakes import PARAMS, PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
HANDLER = """
import sys
sys.path.append({lib!r})
from heartgate.handlers.fence_peer import fence_peer
sys.exit(fence_peer("DRBD", {path!r}))
"""
DECIDING = Record(Standing.DECIDING, 3, ("nodea", "nodeb"), "boot-1")


class Site:
    """A state directory in which r0 is deciding, and what is started on it."""

    def __init__(self, directory: Path) -> None:
        self.state, self.runtime = directory / "state", directory / "run"
        self.store = Store(self.state)
        self.store.save_config(Saved("r0", "nodea", PARAMS, True))
        self.store.save_record("r0", DECIDING)
        self.socket = str(self.runtime / "control.sock")
        self.processes: List[subprocess.Popen[str]] = []

    def daemon(self) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "tests.unit.test_daemon_fakes", str(self.state), str(self.runtime)]
        return self._start(argv, {**os.environ, "PYTHONPATH": f"{ROOT / 'lib'}:{ROOT}"})

    def handler(self, environment: Dict[str, str]) -> subprocess.Popen[str]:
        code = HANDLER.format(lib=str(ROOT / "lib"), path=self.socket)
        return self._start(["/usr/bin/python3", "-IS", "-c", code], environment)

    def _start(self, argv: List[str], environment: Dict[str, str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        self.processes.append(process)
        return process

    def waiting(self) -> int:
        try:
            return client.ask(client.request("status"), 5, self.socket).count(b'"handler":')
        except client.Unreachable:
            return -1

    def until_waiting(self, count: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while self.waiting() != count:
            assert time.monotonic() < deadline, f"{self.waiting()} handlers wait, expected {count}"
            time.sleep(0.05)

    def until_baseline(self) -> None:
        """Which fencings are old has been read; what completes from now on counts."""
        deadline = time.monotonic() + PATIENCE_S
        while not self.store.load_note("r0", fences.NOTE):
            assert time.monotonic() < deadline, "nobody has read the history"
            time.sleep(0.05)

    def let_the_fencing_complete(self) -> None:
        (self.runtime / "fenced").write_text("")


ENVIRONMENT = {"DRBD_RESOURCE": "r0", "DRBD_PEER": "nodeb", "DRBD_MINOR": "0"}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    it = Site(tmp_path)
    yield it
    for process in it.processes:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


@pytest.mark.req("A11", "E1")
def test_the_question_survives_daemons(site: Site) -> None:
    handlers = [site.handler(ENVIRONMENT) for _ in range(3)]  # before there is any daemon
    for end in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        daemon = site.daemon()
        site.until_waiting(3)
        daemon.send_signal(end)
        assert daemon.wait(PATIENCE_S) in (0, -signal.SIGKILL)
        time.sleep(0.1)
        assert all(handler.poll() is None for handler in handlers), "frozen is safe: it waits"
        assert site.store.read_record("r0") == DECIDING
    site.daemon()
    site.until_waiting(3)
    site.until_baseline()
    site.let_the_fencing_complete()
    assert [handler.wait(PATIENCE_S) for handler in handlers] == [7, 7, 7]
    record = site.store.read_record("r0")
    assert record is not None and record.standing is Standing.SOLO and record.proofs[0].node == "nodeb"


def test_a_stopped_daemon_answers_later(site: Site) -> None:
    daemon = site.daemon()
    site.until_waiting(0)
    site.until_baseline()
    daemon.send_signal(signal.SIGSTOP)
    handler = site.handler(ENVIRONMENT)
    site.let_the_fencing_complete()
    time.sleep(0.5)
    assert handler.poll() is None
    daemon.send_signal(signal.SIGCONT)
    assert handler.wait(PATIENCE_S) == 7


def test_a_second_daemon_ends_with_a_clear_message(site: Site) -> None:
    site.daemon()
    site.until_waiting(0)
    second = site.daemon()
    assert second.wait(PATIENCE_S) == 3
    assert second.stderr is not None and "another heartgated is running (pid" in second.stderr.read()
    assert site.waiting() == 0


@pytest.mark.parametrize(
    "environment",
    [{}, {"DRBD_RESOURCE": "r0"}, {"DRBD_PEER": "nodeb"}, {"DRBD_RESOURCE": "../x", "DRBD_PEER": "nodeb"},
     {"DRBD_RESOURCE": "r0", "DRBD_PEERS": "nodeb nodec"}, {"DRBD_RESOURCE": "r0" * 60, "DRBD_PEER": "nodeb"}],
)  # fmt: skip
def test_a_malformed_environment_stays_frozen(site: Site, environment: Dict[str, str]) -> None:
    handler = site.handler(environment)
    assert handler.wait(PATIENCE_S) == 1
    assert handler.stderr is not None and "is missing or not a name" in handler.stderr.read()


def test_who_the_question_is_about() -> None:
    drbd9 = {"DRBD_RESOURCE": "r0", "DRBD_PEER_NODE_ID": "1", "DRBD_NODE_ID_0": "nodea", "DRBD_NODE_ID_1": "nodeb"}
    for given in (ENVIRONMENT, {"DRBD_RESOURCE": "r0", "DRBD_PEERS": "nodeb"}, drbd9):
        assert fence_peer.question("DRBD", given) == ("r0", "nodeb")  # type: ignore[arg-type]
    assert fence_peer.question("REPLICA", {"REPLICA_RESOURCE": "r0", "REPLICA_PEER": "nodeb"}) == ("r0", "nodeb")  # type: ignore[arg-type]


def test_identity_is_this_process() -> None:
    assert fence_peer.identity() == fence_peer.identity()
    assert fence_peer.identity().startswith(f"{os.getpid()}-")


def test_it_ends_with_its_caller(site: Site) -> None:
    """An orphan waits for nobody: the kernel does not hear it any more."""
    code = HANDLER.format(lib=str(ROOT / "lib"), path=site.socket)
    start = f"subprocess.Popen(['/usr/bin/python3','-IS','-c',{code!r}], stdout=-3, stderr=-3)"  # -3: DEVNULL
    script = f"import subprocess, sys; print({start}.pid, flush=True); sys.stdin.read()"
    site.runtime.mkdir()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(site.socket)
        silent.listen()
        silent.settimeout(PATIENCE_S)
        argv = [sys.executable, "-c", script]
        caller = subprocess.Popen(argv, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert caller.stdout is not None
        pid = int(caller.stdout.readline())
        connection, _ = silent.accept()  # it knows its caller by now, and waits
        assert not gone(pid)
        caller.communicate("")
        deadline = time.monotonic() + PATIENCE_S
        while not gone(pid):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        connection.close()


def gone(pid: int) -> bool:
    try:
        return "Z (" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
