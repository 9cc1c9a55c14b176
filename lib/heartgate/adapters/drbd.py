"""DRBD: facts of all resources from one `drbdsetup events2`, and the driver that fits the kernel module.

Commands (`drbdadm dump-xml`, `get-gi`) run in a thread of the source, whose answers come out of read() as further
changes.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from pathlib import Path
from typing import Dict, Mapping, NamedTuple, Optional, Set, Tuple

from heartgate.adapters import drbd_config, drbd_events
from heartgate.adapters.base import AdapterError, Driver, Notify
from heartgate.adapters.drbd_driver import DrbdDriver9, DrbdDriver84, kernel_is_9
from heartgate.adapters.process import LineProcess, run
from heartgate.adapters.readiness import Backoff, Readiness
from heartgate.core.model import UNKNOWN_REPLICA, Disk, Link, Replica, Role

COMMAND_S = 10.0
SETTLE_S = 1.0  # the kernel writes a new generation a little after it tells the change that caused it
CONFIG_AGE_S = 2.0
LEAVING_WORDS = frozenset({"Disconnecting", "StandAlone"})  # this node ends the connection by itself
LEAVING_S = 1.0  # from there until `drbdadm down` has taken all of it away


class Generation(NamedTuple):
    current: str = ""
    ancestors: Tuple[str, ...] = ()


NO_GENERATION = Generation()
NO_TABLE = drbd_events.Table()


class _Stream:
    """One `drbdsetup events2` and what it has said. Raises AdapterError when it cannot be started."""

    def __init__(self, readiness: Readiness) -> None:
        self.table = drbd_events.Table()
        self._readiness = readiness
        self._process = LineProcess(["drbdsetup", "events2", "all"])
        readiness.watch(self._process.fileno())

    def read(self) -> bool:
        """Take in what has arrived; False when it died or a line could not be read."""
        try:
            for line in self._process.read_lines():
                self.table.apply(drbd_events.parse_line(line))
        except drbd_events.Unreadable:
            return False
        return not self._process.ended

    def close(self) -> None:
        self._readiness.unwatch(self._process.fileno())
        self._process.close()


class DrbdSource:
    """Source for all DRBD resources. Create and use it in the loop's thread; that thread must live as long as the
    daemon.

    me: this node's name, as in the configuration's `on` sections.
    """

    def __init__(self, me: str, base: int = 0) -> None:
        self._me = me
        self._wanted: Set[str] = set()
        self._told: Dict[str, Replica] = {}
        self._before: Dict[str, Replica] = {}  # as the kernel told it last, without generations
        self._generations: Dict[str, Generation] = {}
        self._incarnations = drbd_events.Incarnations(base)
        self._leaving_since: Dict[str, float] = {}
        self._stream: Optional[_Stream] = None
        self._fresh: Optional[_Stream] = None  # on trial beside a doubtful one
        self._backoff = Backoff()
        self._start_at = 0.0
        self._readiness = Readiness()
        self._background = _Background(self._readiness.wake)
        self._background.ask_config()
        self._readiness.wake()

    def add(self, resource: str) -> None:
        """A device that the daemon guards: told about even if DRBD has never heard of it (Disk.ABSENT)."""
        self._wanted.add(resource)
        self._told.pop(resource, None)
        self._readiness.wake()

    def discard(self, resource: str) -> None:
        self._wanted.discard(resource)
        self._told.pop(resource, None)

    def fileno(self) -> int:
        return self._readiness.fileno()

    def read(self) -> Mapping[str, Replica]:
        """Changed resources since the last call: all that DRBD has, and those that were added."""
        self._readiness.consume()
        self._read_events()
        self._generations.update(self._background.take())
        current = self._current()
        changed = {name: replica for name, replica in current.items() if self._told.get(name) != replica}
        self._told = current
        return changed

    def close(self) -> None:
        self._stop()
        self._background.close()
        self._readiness.close()

    # --- events2

    def _read_events(self) -> None:
        if self._stream is None and not self._start():
            return
        assert self._stream is not None
        if not self._stream.read():
            self._stop()
        elif self._stream.table.doubtful:
            self._verify(self._stream)

    def _verify(self, doubtful: _Stream) -> None:
        """Messages were lost or came in the wrong order: a second stream is read beside the first and takes its place
        once its dump is complete. Nothing is unknown meanwhile, only late."""
        try:
            if self._fresh is None:
                self._fresh = _Stream(self._readiness)
        except AdapterError:
            self._stop()
            return
        if not self._fresh.read():
            self._stop()
        elif self._fresh.table.complete:
            doubtful.close()
            self._stream, self._fresh = self._fresh, None
            if doubtful.table.missing:
                self._incarnations.interrupted()

    def _start(self) -> bool:
        wait = self._start_at - time.monotonic()
        if wait > 0:
            self._readiness.alarm(wait)
            return False
        self._backoff.started()
        try:
            self._stream = _Stream(self._readiness)
        except AdapterError:
            self._later()
            return False
        return True

    def _stop(self) -> None:
        """What is known is void until the next dump has ended."""
        for stream in (self._stream, self._fresh):
            if stream is not None:
                stream.close()
        self._stream = self._fresh = None
        self._before.clear()
        self._incarnations.interrupted()
        self._later()

    def _later(self) -> None:
        pause = self._backoff.failed()
        self._start_at = time.monotonic() + pause
        self._readiness.alarm(pause)

    # --- facts

    def _current(self) -> Dict[str, Replica]:
        table = self._stream.table if self._stream is not None else NO_TABLE
        names = self._wanted | set(table.resources) | set(self._told)
        if not table.complete:
            return dict.fromkeys(names, UNKNOWN_REPLICA)
        return {name: self._facts(name, table.resources.get(name)) for name in names}

    def _facts(self, name: str, resource: Optional[drbd_events.Resource]) -> Replica:
        config = self._background.config(name)
        others = config.others(self._me) if config else ()
        if resource and resource.connections and not others:
            self._background.ask_config()
        replica = drbd_events.snapshot(resource, name, others, {}, self._incarnations)
        replica = self._while_leaving(name, resource, replica)
        self._follow_generation(name, replica, tuple(resource.minors()) if resource else ())
        generation = self._generations.get(name, NO_GENERATION)
        return replica._replace(generation=generation.current, ancestors=generation.ancestors)

    def _while_leaving(self, name: str, resource: Optional[drbd_events.Resource], replica: Replica) -> Replica:
        """A Secondary that is taken away in order (standby, shutdown) disconnects a moment before it is gone. It is not lost to the
        others, they are about to go on without it: as a first rank that has lost them it would have them block for nothing. So
        for that moment its connections are not known."""
        secondary = replica.role is Role.SECONDARY
        if resource is None or not secondary or not set(resource.connections.values()) <= LEAVING_WORDS:
            self._leaving_since.pop(name, None)
            return replica
        now, before = time.monotonic(), self._before.get(name)
        if name not in self._leaving_since:
            was_up = before is not None and any(link.link is Link.UP for _, link in before.peers)
            self._leaving_since[name] = now if was_up else 0.0
        left_s = self._leaving_since[name] + LEAVING_S - now
        if left_s <= 0:
            return replica
        self._readiness.alarm(left_s)
        return replica._replace(peers=tuple((peer, link._replace(link=Link.UNKNOWN)) for peer, link in replica.peers))

    def _follow_generation(self, name: str, replica: Replica, minors: Tuple[int, ...]) -> None:
        """Have the generation read anew after every change; told as unknown meanwhile only where a new one may have
        been written."""
        before = self._before.get(name)
        self._before[name] = replica
        if before == replica:
            return
        if before is None or _may_be_new(before, replica):
            self._generations.pop(name, None)
        self._background.ask_generation(name, minors)


def _may_be_new(before: Replica, now: Replica) -> bool:
    """A resync takes over the other's generation (the disk's state changes then); a Primary writes a new one when it
    goes on alone, and a Secondary when it is promoted alone. Losing a connection changes nothing yet."""
    if before.disk is not now.disk:
        return True
    alone = any(link.link is not Link.UP for _, link in now.peers)
    thawed = before.frozen is not False and now.frozen is False
    peers_changed = any(
        before.peer(node).disk is not link.disk for node, link in now.peers if link.disk is not Disk.UNKNOWN
    )
    return alone and (thawed or before.role is not now.role or peers_changed)


class _Background:
    """Runs the commands that take too long for the loop, one at a time."""

    def __init__(self, notify: Notify) -> None:
        self._notify = notify
        self._jobs: queue.Queue[Tuple[float, str]] = queue.Queue()
        self._lock = threading.Lock()
        self._minors: Dict[str, Tuple[int, ...]] = {}
        self._waiting: Set[str] = set()
        self._done: Dict[str, Generation] = {}
        self._configs: Mapping[str, drbd_config.ResourceConfig] = {}
        self._config_read = -CONFIG_AGE_S
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="drbd-facts", daemon=True)
        self._thread.start()

    def config(self, resource: str) -> Optional[drbd_config.ResourceConfig]:
        return self._configs.get(resource)

    def ask_config(self) -> None:
        self._ask("", 0.0)

    def ask_generation(self, resource: str, minors: Tuple[int, ...]) -> None:
        self._minors[resource] = minors
        self._ask(resource, 0.0)
        self._ask(resource, SETTLE_S)

    def take(self) -> Dict[str, Generation]:
        with self._lock:
            done, self._done = self._done, {}
        return done

    def close(self) -> None:
        self._stopping.set()
        self._jobs.put((0.0, ""))

    def _ask(self, what: str, delay_s: float) -> None:
        key = f"{what}@{delay_s}"
        with self._lock:
            if key in self._waiting:
                return
            self._waiting.add(key)
        self._jobs.put((time.monotonic() + delay_s, key))

    def _work(self) -> None:
        pending: Dict[str, float] = {}
        while not self._stopping.is_set():
            wait = max(0.0, min(pending.values()) - time.monotonic()) if pending else None
            with contextlib.suppress(queue.Empty):
                due, key = self._jobs.get(timeout=wait)
                pending[key] = due
            ready = [key for key, due in pending.items() if due <= time.monotonic()]
            for key in ready:
                del pending[key]
                self._one(key)

    def _one(self, key: str) -> None:
        with self._lock:
            self._waiting.discard(key)  # before the command starts: a later question needs a later answer
        what = key.rpartition("@")[0]
        if self._stopping.is_set():
            return
        if what:
            self._read_generation(what)
        else:
            with contextlib.suppress(OSError):  # no descriptor or no memory for a command; asked again with the next change
                self._read_config()
        self._notify()

    def _read_config(self) -> None:
        if time.monotonic() - self._config_read < CONFIG_AGE_S:
            return
        self._config_read = time.monotonic()
        done = run(["drbdadm", "dump-xml"], timeout_s=COMMAND_S)
        if done.ok:
            with contextlib.suppress(AdapterError):
                self._configs = drbd_config.parse_dump(done.stdout)

    def _read_generation(self, resource: str) -> None:
        generation = NO_GENERATION
        with contextlib.suppress(drbd_events.Unreadable, OSError):
            text = _generation_text(resource, self._minors.get(resource, ()))
            generation = Generation(*drbd_events.combined(drbd_events.parse_gi(text)))
        with self._lock:
            self._done[resource] = generation


def _generation_text(resource: str, minors: Tuple[int, ...]) -> str:
    """8.4 tells by minor, without reading the configuration. Otherwise, and where nothing is attached, drbdadm finds a
    way."""
    answers = [run(["drbdsetup", "get-gi", str(minor)], timeout_s=COMMAND_S) for minor in minors]
    if answers and all(done.ok for done in answers):
        return "\n".join(done.stdout for done in answers)
    return run(["drbdadm", "get-gi", resource], timeout_s=COMMAND_S).stdout


def make_driver(resource: str, me: str) -> Driver:
    """Driver for the DRBD kernel module that is loaded (8.4 or 9). May run `drbdadm --version`: worker thread."""
    proc_drbd = ""
    with contextlib.suppress(OSError):
        proc_drbd = Path("/proc/drbd").read_text(encoding="ascii", errors="replace")
    told = "" if proc_drbd else run(["drbdadm", "--version"], timeout_s=COMMAND_S).stdout
    return DrbdDriver9(resource, me) if kernel_is_9(proc_drbd, told) else DrbdDriver84(resource, me)
