"""Nudges: who may send them, what they do, and what they never do. The alert agent itself, as Pacemaker runs it."""

from __future__ import annotations

import array
import contextlib
import grp
import os
import pwd
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import pytest

from heartgate.adapters.base import AdapterError, FenceSeen
from heartgate.core.model import FenceDone
from heartgate.daemon import client, fences, nudges
from heartgate.daemon.guard import Guard
from heartgate.daemon.heartgated import Daemon
from heartgate.daemon.store import Store
from tests.unit.test_daemon_fakes import Bench

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "packaging"))

import manifest  # noqa: E402

PROGRAM = ROOT / "agents" / "handlers" / "pacemaker-alert"
FENCING = {"CRM_alert_kind": "fencing", "CRM_alert_node": "nodeb", "CRM_alert_task": "st_notify_fence", "CRM_alert_rc": "0"}
OLD = FenceSeen("nodeb", "old", True, True, False)
NEW = FenceSeen("nodeb", "new", True, True, False)


def known(group: str) -> bool:
    with contextlib.suppress(KeyError):
        return bool(grp.getgrnam(group))
    return False


needs_group = pytest.mark.skipif(os.geteuid() != 0 or not known("haclient"), reason="needs root and Pacemaker's group")


class AlertBench(Bench):
    """Its daemon has a socket for nudges; the fence history is read when it must be, and otherwise once in a minute."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.daemon.close()
        self.alerts = directory / "alert"
        self.path = self.alerts / nudges.NAME
        self.daemon = Daemon(self.world, Store(directory / "state"), self.socket, alerts=self.alerts)
        self.looks: List[float] = []
        self.world.pacemaker.history = (OLD,)
        real = self.world.pacemaker.fence_history

        def history(deadline_s: float) -> Any:
            self.looks.append(time.monotonic())
            return real(deadline_s)

        self.world.pacemaker.fence_history = history  # type: ignore[method-assign]

    def begin(self) -> AlertBench:
        self.daemon.start()
        self.guard()
        assert self.daemon.nudges is not None
        self.until("the socket", lambda: self.daemon.nudges and self.daemon.nudges.listening)
        self.until("quiet", lambda: not self.daemon.fences._urgent())
        self.turn(2 * fences.FAST_S + 0.2)
        self.until("the end of the last quick reading", lambda: not self.daemon.fences._reading)
        self.looks.clear()
        return self

    def send(self, data: bytes, count: int = 1, sender: Optional[socket.socket] = None) -> int:
        """How many were taken."""
        taken = 0
        with sender or socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as channel:
            for _ in range(count):
                with contextlib.suppress(BlockingIOError):
                    channel.sendto(data, str(self.path))
                    taken += 1
        return taken

    def alive(self) -> bool:
        return self.ask(b'{"op":"ping"}\n').startswith(b'{"ok":true')


@pytest.fixture
def place() -> Iterator[Path]:
    """Reachable for every user, as /run is."""
    path = Path(tempfile.mkdtemp(prefix="heartgate-nudges-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    for thread in threading.enumerate():  # what is still being written when its daemon is closed
        if thread.name.startswith("worker-"):
            thread.join(60)
    shutil.rmtree(path)


@pytest.fixture
def fresh(place: Path) -> Iterator[AlertBench]:
    it = AlertBench(place)
    yield it
    it.close()


@pytest.fixture
def bench(fresh: AlertBench, monkeypatch: pytest.MonkeyPatch) -> AlertBench:
    if not known(nudges.GROUP):
        monkeypatch.setattr(nudges.listen, "__defaults__", (grp.getgrgid(os.getegid()).gr_name,))
    monkeypatch.setattr(fences, "SLOW_S", 600.0)  # longer than anything here waits: what is seen is not the slow reading
    return fresh.begin()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# --- what a nudge does


@pytest.mark.req("E1")
def test_the_history_is_read_at_once(bench: AlertBench) -> None:
    """Without a nudge it would be found by the slow reading, for which nobody waits here."""
    epoch = bench.daemon.guards["r0"].state.record.epoch
    bench.world.pacemaker.history = (NEW, OLD)
    bench.turn(0.5)
    assert not bench.looks and not bench.daemon.guards["r0"].state.record.proofs
    client.nudge(str(bench.path))
    bench.until("the proof", lambda: bench.daemon.guards["r0"].state.record.proofs)
    assert [(proof.node, proof.epoch) for proof in bench.daemon.guards["r0"].state.record.proofs] == [("nodeb", epoch)]
    kind, text, fields = next(line for line in bench.world.journal.lines if line[0] == "fence-seen")
    assert "(alerted)" in text and fields["alerted"] is True


@pytest.mark.req("E1", "A11")
def test_a_nudge_proves_nothing(bench: AlertBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it says, only the history counts: old, pending, failed and unreadable entries stay what they are."""
    seen: List[Any] = []
    monkeypatch.setattr(Guard, "handle", lambda _, event: seen.append(event))
    failed, pending = FenceSeen("nodeb", "failed", True, False, False), FenceSeen("nodeb", "pending", False, False, False)
    for history in ((OLD,), (failed, pending, OLD), AdapterError("no answer"), ()):
        bench.world.pacemaker.history = history
        bench.looks.clear()
        bench.send(b"fencing")
        bench.until("a look", lambda: bench.looks)
        bench.turn(nudges.PAUSE_S + 0.1)
    assert not [event for event in seen if isinstance(event, FenceDone)]


@pytest.mark.req("E1")
def test_a_nudge_during_a_reading_is_not_lost(bench: AlertBench) -> None:
    """The reading under way may have begun before the fencing was there."""
    gate, begun = threading.Event(), threading.Event()
    real = bench.world.pacemaker.fence_history

    def slow(deadline_s: float) -> Any:
        answer = real(deadline_s)
        begun.set()
        gate.wait(60)
        return answer

    bench.world.pacemaker.fence_history = slow  # type: ignore[method-assign]
    bench.send(b"fencing")
    bench.until("the first reading", begun.is_set)
    bench.world.pacemaker.history = (NEW, OLD)
    bench.turn(nudges.PAUSE_S + 0.1)
    bench.send(b"fencing")
    bench.turn(0.2)
    gate.set()
    bench.until("the proof", lambda: bench.daemon.guards["r0"].state.record.proofs)


@pytest.mark.req("E1")
def test_a_lost_nudge_costs_nothing_but_time(bench: AlertBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody sends one: who waits for a decision reads as often as ever, and everybody reads now and then."""
    guard = bench.daemon.guards["r0"]
    monkeypatch.setattr(fences, "SLOW_S", 0.3)
    bench.daemon.fences.look()
    bench.turn(0.3)
    bench.world.pacemaker.history = (NEW, OLD)
    bench.until("the slow reading", lambda: guard.state.record.proofs)
    monkeypatch.setattr(fences, "SLOW_S", 600.0)
    guard._state = guard.state._replace(fence_asked=("nodeb",))
    bench.daemon.fences.record_changed()
    bench.looks.clear()
    bench.until("one reading after the other", lambda: len(bench.looks) >= 4)


# --- how much


@pytest.mark.req("D11")
def test_a_flood_costs_a_bounded_number_of_readings(bench: AlertBench) -> None:
    """A second of as many as the kernel takes: the loop answers others meanwhile, and the last nudge still counts."""
    began, taken, answered = time.monotonic(), 0, []
    while time.monotonic() - began < 1.5:
        answered.append(turns_to_an_answer(bench, lambda: bench.send(b"fencing", 200)))
        taken += answered[-1][1]
    pauses = (time.monotonic() - began) / nudges.PAUSE_S
    assert bench.alive()
    assert len(bench.looks) <= 2 * pauses + 2, len(bench.looks)
    assert taken <= (pauses + 2) * nudges.AT_ONCE + 1024
    assert max(turns for turns, _ in answered) <= 4, "a flood keeps others waiting"
    bench.turn(nudges.PAUSE_S)
    bench.world.pacemaker.history = (NEW, OLD)
    bench.send(b"fencing")
    bench.until("the proof", lambda: bench.daemon.guards["r0"].state.record.proofs)


def turns_to_an_answer(bench: AlertBench, before_each: Callable[[], int]) -> Tuple[int, int]:
    """Turns of the loop until somebody who asks is answered, and the sum of what `before_each` returned before each of them."""
    total = 0
    with bench.connect() as client:
        client.send(b'{"op":"ping"}\n')
        for turns in range(1, 1000):
            total += before_each()
            bench.daemon.loop.turn(0.0)
            with contextlib.suppress(BlockingIOError):
                assert client.recv(1000).startswith(b'{"ok":true')
                return turns, total
    raise AssertionError("no answer")


@pytest.mark.req("D11")
@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"fencin", b"fencing\n", b"fencing nodeb", b"FENCING", b"\xff" * 7, b"x" * 60_000, b'{"op":"ping"}\n'],
    ids=lambda data: repr(data[:20]),
)
def test_other_bytes_are_ignored(bench: AlertBench, data: bytes) -> None:
    assert bench.send(data) == 1
    bench.turn(nudges.PAUSE_S + 0.2)
    assert not bench.looks and bench.alive()
    bench.send(b"fencing")
    bench.until("a look", lambda: bench.looks)


@pytest.mark.req("D11")
def test_so_much_that_a_nudge_may_be_lost_counts_as_one(bench: AlertBench) -> None:
    bench.send(b"garbage", nudges.AT_ONCE - 1)
    bench.turn(0.2)
    assert not bench.looks
    bench.turn(nudges.PAUSE_S)
    bench.send(b"garbage", nudges.AT_ONCE)
    bench.until("a look", lambda: bench.looks)
    bench.turn(3 * nudges.PAUSE_S)
    assert len(bench.looks) == 1


def test_one_turn_takes_less_than_the_shortest_queue_holds() -> None:
    shortest = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
    assert min(10, shortest) >= nudges.AT_ONCE


@pytest.mark.req("D11")
def test_descriptors_that_come_along_are_dropped(bench: AlertBench) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    for _ in range(5):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel, open("/dev/null", "rb") as null:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null.fileno()] * 20))]
            channel.sendmsg([b"garbage"], rights, 0, str(bench.path))
    bench.turn(nudges.PAUSE_S + 0.2)
    assert count() <= before and not bench.looks


# --- who


@needs_group
@pytest.mark.req("D11")
@pytest.mark.parametrize("umask", [0, 0o077])
def test_the_group_may_write_to_the_socket_and_nothing_else(fresh: AlertBench, umask: int) -> None:
    before = os.umask(umask)
    try:
        bench = fresh.begin()
    finally:
        os.umask(before)
    number = grp.getgrnam(nudges.GROUP).gr_gid
    for path, wanted in ((bench.alerts, 0o710), (bench.path, 0o620)):
        assert (mode(path), path.lstat().st_uid, path.lstat().st_gid) == (wanted, 0, number), path
    assert mode(bench.socket) == 0o600, "the control socket stays root's"


TRIES = """
import os, socket, sys
path = sys.argv[1]
directory = os.path.dirname(path)
def tried(what, call):
    try:
        call()
    except OSError as error:
        print(what, "refused")
    else:
        print(what, "done")
channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
tried("send", lambda: channel.sendto(b"fencing", path))
tried("list", lambda: os.listdir(directory))
tried("create", lambda: open(directory + "/x", "w"))
tried("unlink", lambda: os.unlink(path))
tried("rename", lambda: os.rename(path, path + "2"))
tried("chmod", lambda: os.chmod(path, 0o666))
tried("replace", lambda: os.rename(directory, directory + "2"))
control = socket.socket(socket.AF_UNIX)
tried("control", lambda: control.connect(sys.argv[2]))
"""


def tries(bench: AlertBench, user: str) -> Dict[str, str]:
    entry = pwd.getpwnam(user)

    argv = ["/usr/bin/python3", "-IS", "-c", TRIES, str(bench.path), str(bench.socket)]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=60, check=True, user=entry.pw_uid, group=entry.pw_gid, extra_groups=[]
    )
    return dict(line.split() for line in done.stdout.splitlines())  # type: ignore[misc]


@needs_group
@pytest.mark.req("D11")
@pytest.mark.parametrize(("user", "may"), [("hacluster", {"send"}), ("nobody", set())])
def test_what_other_users_can_do(bench: AlertBench, user: str, may: set[str]) -> None:
    found = tries(bench, user)
    assert {what for what, how in found.items() if how == "done"} == may and len(found) == 8, found
    if may:
        bench.until("a look", lambda: bench.looks)
    bench.turn(0.3)
    assert bool(bench.looks) == bool(may)


# --- the place


@needs_group
@pytest.mark.req("D11")
@pytest.mark.parametrize("there", ["link", "file", "somebody else's", "a link in it", "a directory in it", "no parent"])
def test_what_is_there_already(fresh: AlertBench, place: Path, there: str) -> None:
    """Nothing is followed, nothing of others is used or changed; the daemon guards without nudges, and says so once."""
    target = place / "target"
    target.mkdir(mode=0o755)
    victim = target / "victim"
    victim.write_text("untouched")
    victim.chmod(0o644)
    if there == "link":
        fresh.alerts.symlink_to(target)
    elif there == "file":
        fresh.alerts.write_text("")
    elif there == "no parent":
        fresh.daemon.nudges._directory = place / "none" / "alert"  # type: ignore[union-attr]
    else:
        fresh.alerts.mkdir(mode=0o777)
        if there == "somebody else's":
            shutil.chown(fresh.alerts, "nobody")
        elif there == "a link in it":
            fresh.path.symlink_to(victim)
        else:
            fresh.path.mkdir()
    fresh.daemon.start()
    fresh.guard()
    works = there == "a link in it"  # unlinked, never followed
    if works:
        fresh.until("the socket", lambda: fresh.daemon.nudges and fresh.daemon.nudges.listening)
    else:
        fresh.until("a word", lambda: "alerts cannot reach" in fresh.world.journal.text())
        assert not fresh.daemon.nudges or not fresh.daemon.nudges.listening
        assert fresh.world.journal.text().count("alerts cannot reach") == 1
    assert fresh.alive() and (victim.read_text(), mode(victim), mode(target)) == ("untouched", 0o644, 0o755)
    assert sorted(target.iterdir()) == [victim]


@pytest.mark.req("D11")
def test_without_the_group_it_is_tried_again(fresh: AlertBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pacemaker may be installed later. Said once, not each time."""
    monkeypatch.setattr(nudges, "RETRY_S", 0.05)
    monkeypatch.setattr(nudges.listen, "__defaults__", ("no-such-group",))
    fresh.daemon.start()
    fresh.until("a word", lambda: "there is no group no-such-group" in fresh.world.journal.text())
    fresh.turn(0.5)
    assert fresh.world.journal.text().count("there is no group no-such-group") == 1 and fresh.alive()
    assert not fresh.alerts.exists()
    monkeypatch.setattr(nudges.listen, "__defaults__", (grp.getgrgid(os.getegid()).gr_name,))
    fresh.until("the socket", lambda: fresh.daemon.nudges and fresh.daemon.nudges.listening)


def test_a_group_that_is_looked_up_for_long_keeps_nobody_waiting(fresh: AlertBench, monkeypatch: pytest.MonkeyPatch) -> None:
    go, came, real = threading.Event(), [], nudges._number

    def number(group: str) -> int:
        came.append(go.wait(30))
        return real(grp.getgrgid(os.getegid()).gr_name)

    monkeypatch.setattr(nudges, "_number", number)
    monkeypatch.setattr(nudges, "PREPARE_S", 60.0)
    fresh.daemon.start()
    fresh.guard()
    assert fresh.alive() and not came, "answered while the group is still being looked up"
    assert not fresh.daemon.nudges or not fresh.daemon.nudges.listening
    go.set()
    fresh.until("the socket", lambda: fresh.daemon.nudges and fresh.daemon.nudges.listening)
    assert came == [True]


def test_a_leftover_is_replaced_and_the_own_one_removed(bench: AlertBench, place: Path) -> None:
    bench.daemon.nudges._channel.close()  # type: ignore[union-attr]
    bench.daemon.nudges._channel = None  # type: ignore[union-attr]  # as if killed: the file stays
    bench.close()
    assert bench.path.exists()
    again = AlertBench(place).begin()
    again.send(b"fencing")
    again.until("a look", lambda: again.looks)
    again.close()
    assert not again.path.exists()


# --- the program


def run(place: Path, environment: Dict[str, str], path: Path, user: Optional[str] = None, **more: Any) -> Any:
    """The installed program with this checkout's library and another socket: (return code, stderr). Bounded: it never waits."""
    content = manifest.executable(PROGRAM, PROGRAM.read_bytes(), str(ROOT / "lib"), "/usr/bin/python3").decode()
    program = place / "pacemaker-alert"
    if not program.exists():
        program.write_text(content.replace("alert()", f"alert({str(path)!r})"))
        program.chmod(0o755)
    if user:
        entry = pwd.getpwnam(user)
        more = {**more, "user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    done = subprocess.run([str(program)], env=environment, text=True, timeout=60, check=False, **streams)
    return done.returncode, done.stderr or ""


@needs_group
@pytest.mark.req("E1")
def test_the_agent_tells_the_daemon(bench: AlertBench, place: Path) -> None:
    """As hacluster, as Pacemaker runs it. Only of a fencing, and quietly."""
    for kind in ("node", "resource", "attribute"):
        assert run(place, {"CRM_alert_kind": kind}, bench.path, "hacluster") == (0, "")
    bench.turn(0.3)
    assert not bench.looks
    assert run(place, FENCING, bench.path, "hacluster") == (0, "")
    bench.until("a look", lambda: bench.looks)


def test_the_agent_ends_well_whatever_is_there(place: Path) -> None:
    """No directory, no daemon, no answer, no permission, a full queue, no stderr: exit code 0 at once, a word on stderr."""
    path = place / "alert" / nudges.NAME
    code, said = run(place, FENCING, path)
    assert code == 0 and "heartgated is not told" in said and "No such file" in said
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(path))
        for _ in range(40):  # more than the queue holds; nobody reads
            assert run(place, FENCING, path) == (0, "")
        with pytest.raises(BlockingIOError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as full:
            full.setblocking(False)
            while True:
                full.sendto(b"fencing", str(path))
        assert run(place, FENCING, path) == (0, "")
        if os.geteuid() == 0:
            path.chmod(0o600)
            code, said = run(place, FENCING, path, "nobody")
            assert code == 0 and "Permission denied" in said
    code, said = run(place, FENCING, path)
    assert code == 0 and "Connection refused" in said, "a daemon that is gone"
    code, said = run(place, {}, path)
    assert code == 0 and "CRM_alert_kind is not set" in said and said.count("\n") == 1
    with open("/dev/full", "w", encoding="ascii") as full_disk:
        assert run(place, {}, path, stderr=full_disk)[0] == 0
    assert run(place, {"CRM_alert_kind": "\udcff\n"}, path) == (0, ""), "not ours"


def test_the_agent_without_its_library(place: Path) -> None:
    content = manifest.executable(PROGRAM, PROGRAM.read_bytes(), str(place / "nothing"), "/usr/bin/python3")
    program = place / "alone"
    program.write_bytes(content)
    program.chmod(0o755)
    done = subprocess.run([str(program)], env=FENCING, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and done.stderr.count("\n") == 1 and "the library is not there" in done.stderr


def test_the_agent_is_quick_to_start() -> None:
    """It runs for every event of the cluster: few modules, none of them big."""
    code = (
        f"import sys; sys.path.append({str(ROOT / 'lib')!r})\nfrom heartgate.handlers.pacemaker_alert import alert\n"
        "print(*sorted(sys.modules))"
    )
    done = subprocess.run(["/usr/bin/python3", "-IS", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.split())
    assert "heartgate.daemon.client" in loaded and not loaded & {"socket", "subprocess", "json", "re", "argparse", "logging"}
