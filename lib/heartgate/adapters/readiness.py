"""One descriptor for many: an epoll set with a wake-up from other threads and an alarm, for adapters that the loop
polls."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import time
from typing import Optional

CLOCK_MONOTONIC = 1


class _TimeSpec(ctypes.Structure):
    _fields_ = [("sec", ctypes.c_long), ("nsec", ctypes.c_long)]


class _TimerSpec(ctypes.Structure):
    _fields_ = [("interval", _TimeSpec), ("value", _TimeSpec)]


class Readiness:
    """fileno() becomes readable when a watched descriptor is, after wake(), and when the alarm is due.

    timerfd comes from libc by ctypes: os.timerfd_create exists from Python 3.13 on.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._epoll = select.epoll()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._timer = self._libc.timerfd_create(CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._timer < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._due: Optional[float] = None
        self._closed = False
        self.watch(self._wake_read)
        self.watch(self._timer)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def watch(self, fd: int) -> None:
        self._epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._epoll.unregister(fd)

    def wake(self) -> None:
        """May be called from any thread."""
        with contextlib.suppress(OSError):
            if not self._closed:
                os.write(self._wake_write, b"!")

    def alarm(self, delay_s: float) -> None:
        """Become readable after delay_s; of several alarms the earliest counts."""
        due = time.monotonic() + max(delay_s, 0.001)
        if self._due is not None and self._due <= due:
            return
        self._due = due
        self._set(max(delay_s, 0.001))

    def consume(self) -> None:
        """Take note of a wake-up or an alarm, so that the descriptor is quiet again."""
        for fd in (self._wake_read, self._timer):
            with contextlib.suppress(BlockingIOError):
                os.read(fd, 4096)
        if self._due is not None and self._due <= time.monotonic():
            self._due = None
            self._set(0.0)

    def _set(self, delay_s: float) -> None:
        whole = int(delay_s)
        spec = _TimerSpec(_TimeSpec(0, 0), _TimeSpec(whole, int((delay_s - whole) * 1e9)))
        self._libc.timerfd_settime(self._timer, 0, ctypes.byref(spec), None)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._epoll.close()
            for fd in (self._wake_read, self._wake_write, self._timer):
                os.close(fd)


class Backoff:
    """A pause that grows from one failure to the next, and starts again after a time of health."""

    def __init__(
        self, first_s: float = 0.1, factor: float = 2.0, most_s: float = 10.0, healthy_s: float = 30.0
    ) -> None:
        self._first, self._factor, self._most, self._healthy = first_s, factor, most_s, healthy_s
        self._next = first_s
        self._started = time.monotonic()

    def started(self) -> None:
        self._started = time.monotonic()

    def failed(self) -> float:
        """How long to wait before the next try, in seconds."""
        if time.monotonic() - self._started > self._healthy:
            self._next = self._first
        pause, self._next = self._next, min(self._next * self._factor, self._most)
        return pause
