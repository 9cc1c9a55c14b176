"""The loop: descriptors, timers on the monotonic clock, and a mailbox that other threads post to.

One thread runs everything here. A callback never blocks; what may block goes to `heartgate.daemon.workers`.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import selectors
import threading
import time
from collections import deque
from typing import Callable, Deque, Dict, List, Optional, Tuple

Callback = Callable[[], None]
Failure = Callable[[str, BaseException], None]

MAILBOX_LIMIT = 10_000
READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE


class Mailbox:
    """A bounded, thread-safe queue of callbacks with a descriptor that wakes the loop."""

    def __init__(self, limit: int = MAILBOX_LIMIT) -> None:
        self._limit = limit
        self._items: Deque[Callback] = deque()
        self._lost = 0
        self._closed = False
        self._guard = threading.Lock()
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        return self._reader

    def writer(self) -> int:
        """For signal.set_wakeup_fd."""
        return self._writer

    def post(self, item: Callback) -> bool:
        """From any thread. False: full; the loss is remembered and reported by the next take()."""
        with self._guard:
            fits = len(self._items) < self._limit
            if fits:
                self._items.append(item)
            else:
                self._lost += 1
            if not self._closed:
                with contextlib.suppress(BlockingIOError):  # full pipe: the loop has been woken already
                    os.write(self._writer, b"\0")
        return fits

    def take(self) -> Tuple[List[Callback], int]:
        """Everything posted since, and how many were lost. Loop thread."""
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self._reader, 4096)) == 4096:
                pass
        with self._guard:
            items, self._items = list(self._items), deque()
            lost, self._lost = self._lost, 0
        return items, lost

    def close(self) -> None:
        with self._guard:
            self._closed = True
            os.close(self._reader)
            os.close(self._writer)


class Timer:
    """A callback due at a time; cancel() is enough to forget it."""

    __slots__ = ("callback", "due")

    def __init__(self, due: float, callback: Callback) -> None:
        self.due = due
        self.callback: Optional[Callback] = callback

    def cancel(self) -> None:
        self.callback = None

    @property
    def pending(self) -> bool:
        return self.callback is not None


class Loop:
    """Runs callbacks, one at a time, until stop(). An exception in one is handed to `failed` and ends nothing else."""

    def __init__(self, failed: Failure, overflowed: Callable[[int], None]) -> None:
        self._failed = failed
        self._overflowed = overflowed
        self._selector = selectors.DefaultSelector()
        self._heap: List[Tuple[float, int, Timer]] = []
        self._sequence = itertools.count()
        self._soon: Deque[Callback] = deque()
        self._callbacks: Dict[int, Callable[[int], None]] = {}
        self._running = False
        self.mailbox = Mailbox()
        self.on_wake: Callback = lambda: None  # signals arrive as bytes in the mailbox's pipe
        self.watch(self.mailbox.fileno(), lambda _: self._mail())

    # --- descriptors

    def watch(self, fd: int, callback: Callable[[int], None], events: int = READ) -> None:
        """callback gets the ready events. Watching a descriptor again changes what it is watched for."""
        if fd in self._callbacks:
            self._selector.modify(fd, events)
        else:
            self._selector.register(fd, events)
        self._callbacks[fd] = callback

    def forget(self, fd: int) -> None:
        """Before the descriptor is closed; harmless afterwards."""
        if self._callbacks.pop(fd, None) is not None:
            with contextlib.suppress(KeyError, OSError, ValueError):
                self._selector.unregister(fd)

    # --- timers

    def after(self, seconds: float, callback: Callback) -> Timer:
        timer = Timer(time.monotonic() + seconds, callback)
        heapq.heappush(self._heap, (timer.due, next(self._sequence), timer))
        return timer

    def soon(self, callback: Callback) -> None:
        """In this turn of the loop, after what is running now."""
        self._soon.append(callback)

    # --- running

    def run(self) -> None:
        self._running = True
        while self._running:
            self.turn(None)

    def stop(self) -> None:
        self._running = False

    def turn(self, longest: Optional[float]) -> None:
        """Wait for something (at most `longest` seconds) and run what is due."""
        for key, ready in self._selector.select(self._timeout(longest)):
            callback = self._callbacks.get(key.fd)  # an earlier callback may have closed it
            if callback is not None:
                self._call(lambda callback=callback, ready=ready: callback(ready))  # type: ignore[misc]
        now = time.monotonic()
        while self._heap and self._heap[0][0] <= now:
            timer = heapq.heappop(self._heap)[2]
            due, timer.callback = timer.callback, None
            if due is not None:
                self._call(due)
        self._run_soon()

    def _timeout(self, longest: Optional[float]) -> Optional[float]:
        if self._soon:
            return 0.0
        while self._heap and not self._heap[0][2].pending:
            heapq.heappop(self._heap)
        if not self._heap:
            return longest
        pause = max(0.0, self._heap[0][0] - time.monotonic())
        return pause if longest is None else min(pause, longest)

    def _run_soon(self) -> None:
        for _ in range(len(self._soon)):  # what is added meanwhile waits for the next turn: nobody is starved
            self._call(self._soon.popleft())

    def _mail(self) -> None:
        self.on_wake()
        items, lost = self.mailbox.take()
        for item in items:
            self._call(item)
        if lost:
            self._overflowed(lost)

    def _call(self, callback: Callback) -> None:
        try:
            callback()
        except Exception as error:  # noqa: BLE001 - one broken client, file or rule must not end the guard of the others
            self._failed(getattr(callback, "__qualname__", repr(callback)), error)

    def close(self) -> None:
        self._selector.close()
        self.mailbox.close()
