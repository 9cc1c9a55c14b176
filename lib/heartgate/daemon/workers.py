"""Worker threads for everything that may block: commands, fsync, flushes.

Jobs of one *lane* run one after the other, in order (a lane a device for driver operations, another for its record, and
so on). Every job has a deadline: when it has passed without an end, the loop is told so and a late result is dropped;
but the lane stays taken until the job really ends, since two operations on one device must never overlap. Threads that
hang like that are replaced.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from typing import Callable, Deque, Dict, Generic, Optional, TypeVar, Union

from heartgate.daemon.loop import Loop, Timer

T = TypeVar("T")

THREADS = 6  # enough to let fsyncs and commands of many devices overlap; each costs a stack
MOST_THREADS = 48  # when some of them hang
STACK = 512 * 1024
MARGIN_S = 2.0  # an operation is given its deadline and ends by itself; only one that does not is given up


class TimedOut(Exception):
    """No answer from the job before its deadline. ran_s: how long it has been at work; None if it had not begun, because another
    one held its lane."""

    def __init__(self, text: str, ran_s: Optional[float] = None) -> None:
        super().__init__(text)
        self.ran_s = ran_s


class Job(Generic[T]):
    """done gets the result, or the exception; in the loop thread, exactly once."""

    def __init__(self, work: Callable[[], T], done: Callable[[Union[T, Exception]], None], deadline_s: float) -> None:
        self.work = work
        self.done = done
        self.deadline_s = deadline_s
        self.timer: Optional[Timer] = None
        self.reported = False
        self.hung = False
        self.began_s: Optional[float] = None  # by the monotonic clock

    def report(self, result: Union[T, Exception]) -> None:
        if self.reported:
            return
        self.reported = True
        if self.timer is not None:
            self.timer.cancel()
        self.done(result)


class Workers:
    """submit() and every callback: loop thread."""

    def __init__(self, loop: Loop, prepare: Callable[[], None] = lambda: None, threads: int = THREADS) -> None:
        self._loop = loop
        self._prepare = prepare
        self._wanted = threads
        self._started = 0
        self._busy = 0  # jobs handed to a thread that have not come back
        self._hung = 0
        self._ready: queue.SimpleQueue[Optional[Job[object]]] = queue.SimpleQueue()
        self._lanes: Dict[str, Deque[Job[object]]] = {}  # a lane that is there has its first job running
        self._of: Dict[Job[object], str] = {}

    def submit(
        self, lane: str, work: Callable[[], T], done: Callable[[Union[T, Exception]], None], deadline_s: float
    ) -> None:
        job: Job[object] = Job(work, done, deadline_s)  # type: ignore[arg-type]
        waiting = self._lanes.get(lane)
        if waiting is None:
            self._lanes[lane] = deque()
            self._start(lane, job)
        else:
            waiting.append(job)
            self._limit(job)

    def busy(self, lane: str) -> bool:
        return lane in self._lanes

    @property
    def hung(self) -> int:
        """Jobs that are past their deadline and have not come back."""
        return self._hung

    def _limit(self, job: Job[object]) -> None:
        """The deadline runs from submission for the one who asked, whatever is before it in the lane."""
        if job.timer is None:
            job.timer = self._loop.after(job.deadline_s + MARGIN_S, lambda: self._overdue(job))

    def _start(self, lane: str, job: Job[object]) -> None:
        self._of[job] = lane
        self._limit(job)
        self._busy += 1
        if self._busy > self._started and self._started < min(self._wanted + self._hung, MOST_THREADS):
            self._spawn()
        self._ready.put(job)

    def _spawn(self) -> None:
        self._started += 1
        previous = threading.stack_size(STACK)
        try:
            threading.Thread(target=self._run, name=f"worker-{self._started}", daemon=True).start()
        finally:
            threading.stack_size(previous)

    def _run(self) -> None:
        self._prepare()
        while True:
            job = self._ready.get()
            if job is None:
                return
            result: object
            try:
                job.began_s = time.monotonic()
                result = job.work()
            except Exception as error:  # noqa: BLE001 - handed to whoever asked
                result = error
            self._loop.mailbox.post(lambda job=job, result=result: self._ended(job, result))  # type: ignore[misc]
            del job, result

    def _ended(self, job: Job[object], result: object) -> None:
        lane = self._of.pop(job)
        self._busy -= 1
        if job.hung:
            self._hung -= 1
        waiting = self._lanes[lane]
        while waiting and waiting[0].reported:  # given up while it waited
            waiting.popleft()
        if waiting:
            self._start(lane, waiting.popleft())
        else:
            del self._lanes[lane]
        job.report(result)

    def _overdue(self, job: Job[object]) -> None:
        if job in self._of:
            job.hung = True
            self._hung += 1
            if self._busy > self._started - self._hung and self._started < min(self._wanted + self._hung, MOST_THREADS):
                self._spawn()
        ran_s = None if job.began_s is None else time.monotonic() - job.began_s
        job.report(TimedOut(f"no answer within {job.deadline_s + MARGIN_S:g} s", ran_s))

    def close(self) -> None:
        for _ in range(self._started):
            self._ready.put(None)
