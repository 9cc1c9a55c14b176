"""`heartgated --respawn`: where no systemd restarts and watches it, a small parent does.

The parent does nothing else, so that little of it can fail; if it is killed, the daemon goes on without it. It speaks
systemd's protocol (NOTIFY_SOCKET, WATCHDOG_USEC), so that the daemon is the same with both.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from typing import List, Mapping

PAUSES_S = (0.1, 0.3, 1.0, 3.0, 3.0, 3.0, 10.0)  # what fails at once every time does not fill the log
GOOD_RUN_S = 60.0  # after that a death is the first one again
WATCHDOG_S = 4.0  # as in the unit: shorter than confirm_timeout, so that a hung daemon is back before anybody is fenced


def respawn(argv: List[str], final: tuple[int, ...]) -> int:
    """Run argv until it ends with one of the codes `final`, again and again. SIGTERM and SIGINT are passed on, and end
    this too."""
    child, asked_to_end = 0, False

    def pass_on(number: int, frame: object) -> None:
        nonlocal asked_to_end
        asked_to_end = True
        if child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    watch = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    watch.bind("")  # the kernel chooses an abstract name, which ends with this process
    environment = {**os.environ, **_asking(watch)}
    deaths = 0
    while True:
        started = time.monotonic()
        child = os.posix_spawn(argv[0], argv, environment, setsigdef=[signal.SIGTERM, signal.SIGINT])
        code = _ended(child, watch)
        child = 0
        if code in final or asked_to_end:
            return code
        deaths = 1 if time.monotonic() - started > GOOD_RUN_S else deaths + 1
        sys.stderr.write(f"heartgated ended with {code}, is started again\n")
        until = time.monotonic() + PAUSES_S[min(deaths, len(PAUSES_S)) - 1]
        while time.monotonic() < until:
            time.sleep(0.05)
            if asked_to_end:
                return code


def _asking(watch: socket.socket) -> Mapping[str, str]:
    name: bytes = watch.getsockname()
    return {"NOTIFY_SOCKET": "@" + name[1:].decode("ascii"), "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))}


def _ended(child: int, watch: socket.socket) -> int:
    """The exit code of the child, which is killed when it has been silent for too long after its first sign of life."""
    alive_at = 0.0
    pidfd = os.pidfd_open(child)
    try:
        while True:
            readable, _, _ = select.select([pidfd, watch], [], [], WATCHDOG_S / 4)
            if pidfd in readable:
                return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if watch in readable:
                alive_at = time.monotonic()
                _empty(watch)
            elif alive_at and time.monotonic() > alive_at + WATCHDOG_S:
                sys.stderr.write(f"heartgated has been silent for {WATCHDOG_S:g} s, is killed\n")
                os.kill(child, signal.SIGKILL)
                alive_at = 0.0
    finally:
        os.close(pidfd)
        _empty(watch)


def _empty(watch: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while watch.recv(4096):
            pass
