"""Flushing what sits between the application and the disk, when this node has become the only copy.

Never called for a device that is frozen: the daemon flushes after the handlers have returned. A flush that hangs in the
kernel cannot be interrupted, so each one runs in a thread that is left behind at its deadline.
"""

from __future__ import annotations

import ctypes
import os
import stat
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Protocol, Tuple

from heartgate.adapters.exec import refusal
from heartgate.adapters.process import run

HOOK_TIMEOUT_S = 10.0
MOUNTINFO = "/proc/self/mountinfo"


@dataclass(frozen=True)
class FlushResult:
    """target: as written; how: synced, not-here, or the reason of the failure; elapsed_ms: wall time of this target."""

    target: str
    ok: bool
    how: str
    elapsed_ms: int


class FlushTarget(Protocol):
    spec: str

    def check(self) -> str:
        """Existence on this node: "" or what is wrong."""

    def flush(self, device: str, deadline_s: float) -> FlushResult:
        """Blocks, at most for deadline_s: worker thread. Never raises."""


Flusher = Callable[[str, float], Tuple[bool, str]]


def _bounded(spec: str, deadline_s: float, work: Callable[[], Tuple[bool, str]]) -> FlushResult:
    """Run work in a thread of its own; its answer, or "deadline passed"."""
    started = time.monotonic()
    answers: List[Tuple[bool, str]] = []

    def attempt() -> None:
        try:
            answers.append(work())
        except OSError as error:
            answers.append((False, f"{error.strerror or error}"))

    thread = threading.Thread(target=attempt, name=f"flush {spec}", daemon=True)
    thread.start()
    thread.join(max(0.0, deadline_s))
    ok, how = answers[0] if answers else (False, f"deadline of {deadline_s:g} s passed")
    return FlushResult(spec, ok, how, round((time.monotonic() - started) * 1000))


def _absolute(kind: str, argument: str) -> str:
    if not argument.startswith("/"):
        raise ValueError(f"{kind}:{argument}: an absolute path is needed")
    if "\0" in argument or "\n" in argument:
        raise ValueError(f"{kind}: control characters in the path")
    return os.path.normpath(argument)


def unescape(field: str) -> str:
    """A path in mountinfo: blanks are written as three octal digits."""
    for octal, plain in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(octal, plain)
    return field


def mount_points(text: str) -> Dict[str, str]:
    """From mountinfo: mount point -> file system type; the last (topmost) mount on a point counts."""
    points: Dict[str, str] = {}
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) >= 5 and kind:
            points[unescape(fields[4])] = kind[0]
    return points


def is_mounted(path: str) -> bool:
    # The path itself is not touched: it may lie on a file system that hangs.
    return path in mount_points(Path(MOUNTINFO).read_text(encoding="utf-8", errors="surrogateescape"))


class Filesystem:
    """`filesystem:PATH`: syncfs on the file system mounted at PATH; nothing where it is not mounted."""

    def __init__(self, argument: str) -> None:
        self.path = _absolute("filesystem", argument)
        self.spec = f"filesystem:{self.path}"

    def check(self) -> str:
        return "" if Path(self.path).is_dir() or is_mounted(self.path) else f"{self.path}: no such directory"

    def flush(self, device: str, deadline_s: float) -> FlushResult:
        return _bounded(self.spec, deadline_s, self._sync)

    def _sync(self) -> Tuple[bool, str]:
        if not is_mounted(self.path):
            return True, "not-here"
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.syncfs(descriptor) != 0:
                return False, f"syncfs: {os.strerror(ctypes.get_errno())}"
        finally:
            os.close(descriptor)
        return True, "synced"


class Block:
    """`block:DEVICE`: fsync on the block device, which writes its cached pages and sends a flush to the disk. (The
    ioctl BLKFLSBUF sends none.)"""

    def __init__(self, argument: str) -> None:
        self.path = _absolute("block", argument)
        self.spec = f"block:{self.path}"

    def check(self) -> str:
        try:
            return "" if stat.S_ISBLK(Path(self.path).stat().st_mode) else f"{self.path}: no block device"
        except OSError as error:
            return f"{self.path}: {error.strerror}"

    def flush(self, device: str, deadline_s: float) -> FlushResult:
        return _bounded(self.spec, deadline_s, self._sync)

    def _sync(self) -> Tuple[bool, str]:
        if not Path(self.path).exists():
            return True, "not-here"
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if not stat.S_ISBLK(os.fstat(descriptor).st_mode):
                return False, f"{self.path}: no block device"
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return True, "synced"


class Hook:
    """`hook:DIRECTORY`: the executables in it, in name order, each called with the device's name and a deadline of its
    own.

    All of them are called even if one fails; the first failure is the result's reason.
    """

    def __init__(self, argument: str) -> None:
        self.path = _absolute("hook", argument)
        self.spec = f"hook:{self.path}"

    def programs(self) -> List[str]:
        entries = sorted(entry.name for entry in os.scandir(self.path) if not entry.name.startswith("."))
        paths = [f"{self.path}/{name}" for name in entries]
        return [path for path in paths if Path(path).is_file() and os.access(path, os.X_OK)]

    def check(self) -> str:
        try:
            programs = self.programs()
        except OSError as error:
            return f"{self.path}: {error.strerror}"
        return "; ".join(filter(None, (refusal(program) for program in programs)))

    def flush(self, device: str, deadline_s: float) -> FlushResult:
        return _bounded(self.spec, deadline_s, lambda: self._call(device, time.monotonic() + deadline_s))

    def _call(self, device: str, deadline: float) -> Tuple[bool, str]:
        failures, programs = [], self.programs()
        for program in programs:
            why = refusal(program)
            left = deadline - time.monotonic()
            if not why and left <= 0:
                why = f"{program}: no time left"
            if not why:
                done = run([program, device], timeout_s=min(HOOK_TIMEOUT_S, left))
                why = "" if done.ok else f"{program}: {done.brief()}"
            if why:
                failures.append(why)
        return (False, failures[0]) if failures else (True, f"{len(programs)} called")


class _Kind(Protocol):
    def __call__(self, argument: str) -> FlushTarget: ...


# Another kind of cache is a class with these methods and a line here.
KINDS: Dict[str, _Kind] = {"filesystem": Filesystem, "block": Block, "hook": Hook}


def parse(spec: str) -> FlushTarget:
    """`kind:argument` -> target, without touching anything. Raises ValueError naming what is wrong."""
    kind, colon, argument = spec.partition(":")
    if not colon or not argument:
        raise ValueError(f"{spec!r}: not of the form kind:argument")
    if kind not in KINDS:
        raise ValueError(f"{spec!r}: unknown kind {kind!r}, known are {', '.join(sorted(KINDS))}")
    return KINDS[kind](argument)
