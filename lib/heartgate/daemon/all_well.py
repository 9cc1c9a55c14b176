"""What a `monitor` of heartbeat-link may read instead of asking the daemon: that all is well, said for some seconds ahead.

A monitor runs every few seconds for ever, and the start of an interpreter costs more than all else in it. So the daemon leaves its
answer in a file, and the agent, a script of the shell, reads that with the shell's own words. Only one answer is left there: 0,
"watched, and nothing is wrong". For every other one there is no file, and the agent asks over the socket as before.

Why a file is as true as an answer over the socket:

* It is written when Corosync's links have been looked at: a monitor does that when it asks, and the daemon does it every EVERY_S
  now. It is taken away as soon as the daemon's answer is another one, before the node attribute is told; with the resource; and
  when the daemon starts or ends.
* The agent takes it only while the process that wrote it lives and is not stopped: the process's id and the time of its start are
  in it, and the agent finds both, and its state, in /proc. So a daemon that was killed or stopped is asked, in vain, at once. One
  that hangs in another way is believed for LASTS_S at most (systemd, or `--respawn`, ends it after 4 s).
* Times are whole seconds since the node's boot: nobody sets them, and they go on while the machine sleeps. "Not before" is
  checked as well, so that a clock that is behind makes no old file new.
* It has the parameters that were registered, and they are compared with those that the agent was called with.
* It is renamed into its place, so it is there whole or not at all; "end" is its last line.
* The directory is the daemon's own and nobody else's (0700), so nobody else can have put anything there.

Written by the loop's own thread, so that no older answer comes behind a newer one. That is allowed in memory only: a file system
on a disk may keep the loop waiting. Where the directory is on one, there are no such files.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Optional

from heartgate.daemon.link_params import DEFAULTS

HEAD = "heartgate heartbeat-link 1"  # another number for another format: an agent of another version asks the daemon
PREFIX = "well-"
EVERY_S = 4.0
LASTS_S = 10  # two looks, one of which hangs until it is given up (4 s), and a second by which whole numbers are short
MAX_LETTERS = 4096
_PLAIN = re.compile(r"[ -~]*\Z")  # what every shell reads as it was written
_IN_MEMORY = ("tmpfs", "ramfs")
_BEGAN = 19  # of the fields behind the program's name in /proc/PID/stat


class Process(NamedTuple):
    """began: as the kernel tells it, so that another process with the same id is another one."""

    pid: int
    began: str


def this_process(path: Path = Path("/proc/self/stat")) -> Process:
    """Raises OSError, ValueError, IndexError."""
    head, _, tail = path.read_text(encoding="utf-8", errors="replace").rpartition(") ")
    return Process(int(head.split(" ", 1)[0]), tail.split()[_BEGAN])


def text(raw: Mapping[str, str], seen_s: float, writer: Process) -> Optional[str]:
    """The file's, None if the shell might read a parameter in another way. seen_s: since boot, when the look began."""
    values = [f"{name}={raw.get(name, '')}" for name in DEFAULTS]
    if not all(_PLAIN.match(value) for value in values):
        return None
    since = int(seen_s)
    lines = [HEAD, f"{since} {since + LASTS_S} {writer.pid} {writer.began}", *values, "end"]
    whole = "".join(f"{line}\n" for line in lines)
    return whole if len(whole) <= MAX_LETTERS else None


def in_memory(device: int) -> bool:
    """Whether the file system with this number has its files in memory. Raises OSError."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split(" ")
        if len(words) > 2 and words[2] == wanted:
            return line.rpartition(" - ")[2].split(" ")[0] in _IN_MEMORY
    return False


def is_ours(directory: Path) -> bool:
    """Raises OSError."""
    found = os.lstat(directory)
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
    return private and in_memory(found.st_dev)


class AllWell:
    """The files of all resources. Loop thread only; the lock is held, so whatever is there when it is made is a leftover."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writer: Optional[Process] = None
        self.clear()
        with contextlib.suppress(OSError, ValueError, IndexError):
            if is_ours(directory):
                self._writer = this_process()

    @property
    def usable(self) -> bool:
        return self._writer is not None

    def tell(self, resource: str, raw: Mapping[str, str], seen_s: float) -> None:
        """All is well with it, as was seen then."""
        whole = text(raw, seen_s, self._writer) if self._writer is not None else None
        if whole is None:
            self.take_back(resource)
            return
        temporary = self._directory / f".{PREFIX}{resource}.new"
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with open(fd, "w", encoding="ascii") as out:
                out.write(whole)
            temporary.rename(self._path(resource))
        except OSError:  # no memory is left, say: whoever finds no new one asks
            with contextlib.suppress(OSError):
                temporary.unlink()

    def take_back(self, resource: str) -> None:
        """Nobody knows what is in it any more; at the latest when its time is over."""
        with contextlib.suppress(OSError):
            self._path(resource).unlink()

    def clear(self) -> None:
        with contextlib.suppress(OSError):
            for path in [*self._directory.glob(f"{PREFIX}*"), *self._directory.glob(f".{PREFIX}*.new")]:
                path.unlink()

    def _path(self, resource: str) -> Path:
        return self._directory / f"{PREFIX}{resource}"
