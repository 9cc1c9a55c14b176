"""The only place that starts other programs.

No shell, ever; a fixed search path, an empty environment but for what is given, no descriptors handed down, a process
group of its own that is killed at the deadline. No preexec_fn: that would mean fork() instead of vfork(), which is slow
in a process whose memory is locked and unsafe beside other threads.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from pathlib import Path
from typing import IO, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from heartgate.adapters.base import AdapterError

SEARCH_PATH = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")
OUTPUT_LIMIT = 8 * 1024 * 1024  # bytes a command may print before it is ended
LINE_LIMIT = 64 * 1024  # bytes in one line of a LineProcess
RC_TIMEOUT = 124
RC_TOO_MUCH = 125
RC_NOT_EXECUTABLE = 126
RC_NOT_FOUND = 127


_RUNNING: Set[subprocess.Popen[bytes]] = set()
_HUNG: Set[subprocess.Popen[bytes]] = set()  # left behind in the kernel; reaped when they have ended


class Completed(NamedTuple):
    """Outcome of a command. rc: its exit code; negative for a signal; 124 timeout, 125 printed too much, 126 could not
    be started, 127 not found."""

    rc: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        return self.rc == 0

    def brief(self) -> str:
        """For messages: the exit code and the last line that it printed."""
        lines = (self.stderr.strip() or self.stdout.strip()).splitlines()
        return f"rc {self.rc}" + (f": {lines[-1][:200]}" if lines else "")


def find(program: str) -> Optional[str]:
    """Full path of a program in the fixed search path; an absolute path is taken as it is. None if it is not there."""
    candidates = (program,) if program.startswith("/") else tuple(f"{place}/{program}" for place in SEARCH_PATH)
    for path in candidates:
        if Path(path).is_file() and os.access(path, os.X_OK):
            return path
    return None


def run(
    argv: Sequence[str], *, timeout_s: float, stdin: str = "", env: Optional[Mapping[str, str]] = None
) -> Completed:
    """Run a command to its end or to its deadline (then its process group gets SIGKILL). Never raises for what the
    command does.

    A command that hangs in the kernel cannot be ended by the kill: it is left behind and the call returns all the same.
    """
    _reap()
    started = _start(argv, env, stdin=True)
    if isinstance(started, Completed):
        return started
    _RUNNING.add(started)
    try:
        return _converse(started, stdin.encode(), time.monotonic() + timeout_s)
    except BaseException:  # a person has interrupted us, and not it: it has a session of its own
        kill_group(started)
        raise
    finally:
        _RUNNING.discard(started)
        _leave(started)


def _leave(process: subprocess.Popen[bytes]) -> None:
    """Popen's own `with` would wait for its end without a limit."""
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    if process.poll() is None:
        _HUNG.add(process)


def _reap() -> None:
    for process in tuple(_HUNG):
        if process.poll() is not None:
            _HUNG.discard(process)


def end_running() -> None:
    """For a command that is interrupted: what its other threads have started ends with it."""
    for started in tuple(_RUNNING):
        kill_group(started)


def _start(
    argv: Sequence[str], env: Optional[Mapping[str, str]], *, stdin: bool
) -> subprocess.Popen[bytes] | Completed:
    path = find(argv[0])
    if path is None:
        return Completed(RC_NOT_FOUND, "", f"{argv[0]}: not found in {':'.join(SEARCH_PATH)}")
    environment = {"LC_ALL": "C", "PATH": ":".join(SEARCH_PATH), **(env or {})}
    try:
        return subprocess.Popen(
            [*_ordinary_priority(), path, *argv[1:]],
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if stdin else subprocess.DEVNULL,
            env=environment,
            close_fds=True,
            start_new_session=True,
            bufsize=0,
            cwd="/",
        )
    except (OSError, ValueError) as error:
        return Completed(RC_NOT_EXECUTABLE, "", f"{path}: {error}")


def _ordinary_priority() -> List[str]:
    """Programs inherit the daemon's real-time priority until they are executed, and give it up then. The kernel could take
    it away at the fork (SCHED_RESET_ON_FORK), but this process waits for the exec with the interpreter's lock held: on a busy
    machine a child of ordinary priority would stop the whole daemon for as long as it has to wait for a processor."""
    if os.sched_getscheduler(0) not in (os.SCHED_RR, os.SCHED_FIFO):
        return []
    chrt = find("chrt")
    return [chrt, "--other", "0"] if chrt else []


def _converse(process: subprocess.Popen[bytes], given: bytes, deadline: float) -> Completed:
    """Feed stdin, collect both outputs, wait; all of it bounded by the deadline and the output limit."""
    assert process.stdin and process.stdout and process.stderr
    collected: Dict[str, bytearray] = {"out": bytearray(), "err": bytearray()}
    with selectors.DefaultSelector() as selector:
        _register(selector, process.stdin, selectors.EVENT_WRITE, "in")
        _register(selector, process.stdout, selectors.EVENT_READ, "out")
        _register(selector, process.stderr, selectors.EVENT_READ, "err")
        failure = 0
        while selector.get_map() and not failure:
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            for key, _ in ready:
                given = _turn(selector, key, given, collected)
            if not ready and time.monotonic() >= deadline:
                failure = RC_TIMEOUT
            if sum(map(len, collected.values())) > OUTPUT_LIMIT:
                failure = RC_TOO_MUCH
    rc = failure or _wait(process, deadline)
    if rc in (RC_TIMEOUT, RC_TOO_MUCH) and process.returncode is None:
        kill_group(process)
    out, err = (bytes(collected[name]).decode("utf-8", "replace") for name in ("out", "err"))
    if failure or (rc == RC_TIMEOUT and process.returncode is None):
        err += "\nended: " + ("deadline passed" if rc == RC_TIMEOUT else f"printed more than {OUTPUT_LIMIT} bytes")
    return Completed(rc, out, err)


def _register(selector: selectors.BaseSelector, stream: IO[bytes], event: int, name: str) -> None:
    os.set_blocking(stream.fileno(), False)
    selector.register(stream, event, name)


def _turn(
    selector: selectors.BaseSelector, key: selectors.SelectorKey, given: bytes, into: Dict[str, bytearray]
) -> bytes:
    """One readiness of one pipe. Returns what is still to be written to stdin."""
    if key.data == "in":
        try:
            given = given[os.write(key.fd, given) :] if given else b""
        except BlockingIOError:
            return given
        except OSError:
            given = b""  # it does not read its input: its own affair
        if not given:
            _done(selector, key)
        return given
    try:
        data = os.read(key.fd, 65536)
    except BlockingIOError:
        return given
    if data:
        into[key.data] += data
    else:
        _done(selector, key)
    return given


def _done(selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    selector.unregister(key.fileobj)
    key.fileobj.close()  # type: ignore[union-attr]


def _wait(process: subprocess.Popen[bytes], deadline: float) -> int:
    try:
        return process.wait(max(0.01, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return RC_TIMEOUT


def kill_group(process: subprocess.Popen[bytes], patience_s: float = 0.5) -> None:
    """SIGKILL to the process group, then wait a little; what hangs in the kernel is left to die when it can."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(patience_s)


class LineProcess:
    """A program that keeps printing lines, read without blocking.

    It gets SIGKILL when the *thread* that started it ends (PDEATHSIG follows the thread), so start it from a thread
    that lives as long as the daemon. Raises AdapterError when it cannot be started.
    """

    def __init__(
        self, argv: Sequence[str], *, env: Optional[Mapping[str, str]] = None, line_limit: int = LINE_LIMIT
    ) -> None:
        path = find(argv[0])
        if path is None:
            raise AdapterError(f"{argv[0]}: not found in {':'.join(SEARCH_PATH)}")
        # setpriv sets PDEATHSIG and then execs, in place of a preexec_fn.
        started = _start(["setpriv", "--pdeathsig", "KILL", path, *argv[1:]], env, stdin=False)
        if isinstance(started, Completed):
            raise AdapterError(f"{argv[0]}: {started.stderr}")
        assert started.stdout is not None
        self.name = argv[0]
        self._process = started
        self._pipe = started.stdout
        self._rest = b""
        self._limit = line_limit
        self.ended = False
        os.set_blocking(self._pipe.fileno(), False)

    @property
    def pid(self) -> int:
        return self._process.pid

    def fileno(self) -> int:
        return self._pipe.fileno()

    def read_lines(self, limit: int = 1024 * 1024) -> List[bytes]:
        """Whole lines that have arrived, at most about `limit` bytes of them. Never blocks. At the end of the output,
        or after a line that is longer than the limit, `ended` is true; an unfinished last line is not given out."""
        lines: List[bytes] = []
        taken = 0
        while not self.ended and taken < limit:
            try:
                data = os.read(self._pipe.fileno(), 65536)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.ended = True
                break
            taken += len(data)
            *whole, self._rest = (self._rest + data).split(b"\n")
            lines += whole
            if len(self._rest) > self._limit or any(len(line) > self._limit for line in whole):
                self.ended = True
        return lines

    def close(self) -> Tuple[bool, int]:
        """End it. Returns (had it ended by itself, exit code or -9)."""
        code = self._process.poll()
        if code is None:
            kill_group(self._process)
        self.ended = True
        with contextlib.suppress(OSError):
            self._pipe.close()
        return code is not None, self._process.returncode if self._process.returncode is not None else -signal.SIGKILL
