"""Nudges: Pacemaker's alert agent says "look at the fencing history now", and nothing else can be said here.

A nudge proves nothing and carries nothing: the history stays the only truth, so whoever may send one can make the daemon look a
little earlier, and that is all. That is why it may come from a user who is not root: Pacemaker runs alert agents as hacluster. The
control socket stays root's own.

Who may send: the directory is root's, and Pacemaker's group may only pass through it (0710), so nobody but root can put anything
there or take it away; the socket may be written by that group (0620). It is opened to the group last, when everything is in place.

How much: the daemon listens again PAUSE_S after each look, and takes AT_ONCE datagrams then. Whatever is sent, it costs no more
than the reading of a decision that waits. What does not fit waits in the kernel's queue, which is short; who finds it full is
refused there, and a nudge may be among them. So as many datagrams as one turn takes count as a nudge, whatever they say.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import Callable, Optional, Union

from heartgate.adapters.base import AdapterError
from heartgate.daemon.client import NUDGE
from heartgate.daemon.loop import Timer
from heartgate.daemon.services import Services, why

GROUP = "haclient"  # Pacemaker's own: everything of it that is not root's runs in this group
NAME = "socket"
AT_ONCE = 8  # less than the shortest queue that Linux has by default (net.unix.max_dgram_qlen: 10)
PAUSE_S = 0.3
RETRY_S = 60.0
PREPARE_S = 10.0


class Nudges:
    """Loop thread only. look: called for each nudge that counts, at most once in PAUSE_S."""

    def __init__(self, services: Services, directory: Path, look: Callable[[], None]) -> None:
        self._services = services
        self._directory = directory
        self._look = look
        self._channel: Optional[socket.socket] = None
        self._timer: Optional[Timer] = None
        self._said = ""
        self._closed = False

    @property
    def listening(self) -> bool:
        return self._channel is not None

    def start(self) -> None:
        """In a worker: the group is looked up wherever nsswitch.conf says, and that may take its time."""
        directory = self._directory
        self._services.workers.submit("nudges", lambda: listen(directory), self._prepared, PREPARE_S)

    def _prepared(self, result: Union[socket.socket, Exception]) -> None:
        if isinstance(result, Exception):
            if not self._closed:
                self._complain(why(result))
                self._timer = self._services.loop.after(RETRY_S, self.start)
        elif self._closed:
            result.close()
        else:
            self._channel = result
            self._listen()

    def _complain(self, reason: str) -> None:
        if reason != self._said:
            text = f"Pacemaker's alerts cannot reach this daemon, which reads the fencing history by itself all the same: {reason}"
            self._services.journal.send("daemon", text)
        self._said = reason

    def _listen(self) -> None:
        if self._channel is not None:
            self._services.loop.watch(self._channel.fileno(), lambda _: self._arrived())

    def _arrived(self) -> None:
        if self._channel is None:
            return
        self._services.loop.forget(self._channel.fileno())
        self._timer = self._services.loop.after(PAUSE_S, self._listen)
        if _asked(self._channel):
            self._look()

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._channel is not None:
            self._services.loop.forget(self._channel.fileno())
            self._channel.close()
            self._channel = None
            with contextlib.suppress(OSError):
                (self._directory / NAME).unlink()


def _asked(channel: socket.socket) -> bool:
    """Whether there is a nudge among what has arrived. Without room for them the kernel closes descriptors that came along."""
    asked = False
    for _ in range(AT_ONCE):
        try:
            said = channel.recv(len(NUDGE) + 1)  # the rest of a longer one is dropped
        except OSError:  # nothing more
            return asked
        asked = asked or said == NUDGE
    return True


def listen(directory: Path, group: str = GROUP) -> socket.socket:
    """The socket, bound. Blocks: worker thread. Raises AdapterError and OSError."""
    number = _number(group)
    owned = _take(directory)
    try:
        with contextlib.suppress(FileNotFoundError):  # the lock is held already, so whatever is there is a leftover
            os.unlink(NAME, dir_fd=owned)
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            channel.bind(str(directory / NAME))
            os.chown(NAME, -1, number, dir_fd=owned, follow_symlinks=False)
            os.chmod(NAME, 0o620, dir_fd=owned)
            os.fchown(owned, -1, number)
            os.fchmod(owned, 0o710)
        except OSError:
            channel.close()
            raise
        return channel
    finally:
        os.close(owned)


def _number(group: str) -> int:
    import grp  # not needed by anybody else

    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise AdapterError(f"there is no group {group} (is Pacemaker installed?)") from None


def _take(directory: Path) -> int:
    """A descriptor of the directory, which is made if it is not there and is nobody else's now. Never through a symbolic link."""
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    try:
        owned = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise AdapterError(f"{directory} is no directory ({error.strerror}): remove it") from None
    owner = os.fstat(owned)
    if owner.st_uid != os.geteuid():
        os.close(owned)
        raise AdapterError(f"{directory} belongs to user {owner.st_uid} and not to root: remove it")
    try:
        os.fchmod(owned, 0o700)
    except OSError:
        os.close(owned)
        raise
    return owned
