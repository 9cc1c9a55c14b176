"""Fencing through Pacemaker: asking for it, and noticing what others had done.

A completed fencing is proof only for the epoch that was in force while it was not yet complete. So each attempt
remembers every device's epoch at the moment it was started; and of Pacemaker's history only those entries count that
were not there, done, at a reading that began when the epoch was in force already (the *baseline*), that were not
complete before it began, and that did not end with one that was under way then (`heartgate.daemon.baseline`). Until such a
reading exists nothing counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Callable, Dict, FrozenSet, List, NamedTuple, Optional, Set, Tuple, Union

from heartgate.adapters.base import Cluster, FenceSeen, Outcome
from heartgate.core.model import FenceDone, Standing
from heartgate.daemon import baseline as old
from heartgate.daemon.baseline import Baseline
from heartgate.daemon.guard import Guard
from heartgate.daemon.loop import Timer
from heartgate.daemon.services import Services, why

FENCE_S = 300.0  # stonith_admin itself gives up by the devices' own timeouts long before
HISTORY_S = 10.0
FAST_S = 0.3
SLOW_S = 60.0  # a fencing takes its node out of the membership, and that is looked into at once
RETRY_S = 1.0
FAILED_PAUSE_S = 2.0
NOTE = "fencing"


class Asked(NamedTuple):
    device: str
    epoch: int


class Attempt:
    """A running fencing of one node."""

    def __init__(self, epochs: Dict[str, int], asked: Set[Asked], doubted: FrozenSet[str]) -> None:
        self.epochs = epochs  # of every device when it was started
        self.asked = asked
        self.doubted = doubted  # devices for which its success proves nothing

    def serves(self, asked: Asked) -> bool:
        """Whoever doubts it waits for its end all the same, and asks again then."""
        return asked.device in self.doubted or self.epochs.get(asked.device) == asked.epoch


class Fences:
    """Loop thread only."""

    def __init__(
        self, services: Services, cluster: Callable[[], Optional[Cluster]], guards: Callable[[], Iterable[Guard]]
    ) -> None:
        self._services = services
        self._cluster = cluster
        self._guards = guards
        self._attempts: Dict[str, Attempt] = {}
        self._next: Dict[str, Set[Asked]] = {}
        self._baselines: Dict[str, Baseline] = {}
        self._told: Set[Tuple[str, int, str]] = set()
        self._after_reading: Set[str] = set()  # nodes whose attempt waits for the end of the reading under way
        self._reading = False
        self._again = False
        self._nudged = False
        self._unreadable = False
        self._timer: Optional[Timer] = None

    # --- asking

    def ask(self, guard: Guard, node: str, epoch: int) -> None:
        """A running attempt serves if this epoch was in force when it was started; otherwise another one follows it."""
        asked = Asked(guard.device, epoch)
        attempt = self._attempts.get(node)
        if attempt is not None and attempt.serves(asked):
            attempt.asked.add(asked)
            return
        self._next.setdefault(node, set()).add(asked)
        self.look()  # and quickly from now on: somebody else may fence it, or a person confirm that it is off
        if attempt is None:
            self._services.loop.soon(lambda: self._start(node))  # so that all devices that ask now share it

    def _start(self, node: str) -> None:
        """What is under way already has to be known first, in the rare case that this epoch's first reading is not made yet."""
        if self._reading and any(self._baseline(item.device, item.epoch) is None for item in self._next.get(node, ())):
            self._after_reading.add(node)
        elif node not in self._attempts:
            self._begin(node, self._wanted(node))

    def _wanted(self, node: str) -> Set[Asked]:
        """Takes those requests out that are still waited for. One may have waited for minutes behind another attempt; the node
        may have been readmitted since, or have confirmed. The epoch is not compared: whoever believes to have asked asks no
        second time."""
        waiting = {guard.device for guard in self._guards() if node in guard.state.fence_asked}
        return {item for item in self._next.pop(node, set()) if item.device in waiting}

    def _begin(self, node: str, asked: Set[Asked]) -> None:
        cluster = self._cluster()
        if not asked:
            return
        if cluster is None:
            self._give_back_later(node, asked)
            return
        attempt = self._attempts[node] = self._attempt(node, asked)
        text = f"asking Pacemaker to fence {node} (for {', '.join(sorted(item.device for item in asked))})"
        if attempt.doubted:
            names = ", ".join(sorted(attempt.doubted))
            text += f"; it may be joined with one that began before the present epoch of {names}: another one follows"
        self._services.journal.send("fence-asked", text, node=node)
        self._services.workers.submit(
            f"fence:{node}", lambda: cluster.fence(node, FENCE_S), lambda result: self._ended(node, result), FENCE_S
        )

    def _ended(self, node: str, result: Union[Outcome, Exception]) -> None:
        attempt = self._attempts.pop(node)
        following = self._wanted(node)  # before the policy hears of this end, which it takes for that of all it has asked for
        ok = isinstance(result, Outcome) and result.ok
        manual = isinstance(result, Outcome) and result.manual
        self._services.journal.send(
            "fence-seen", f"fencing of {node}: {why(result)}", node=node, ok=ok, how=why(result), manual=manual
        )
        for guard in list(self._guards()):
            epoch = attempt.epochs.get(guard.device)
            doubted = guard.device in attempt.doubted and not manual
            if ok and epoch is not None and not doubted and node in guard.config.nodes:
                guard.handle(FenceDone(node, epoch, True, manual))
        in_vain = {item for item in attempt.asked if not ok or (item.device in attempt.doubted and not manual)}
        if in_vain:
            self._give_back_later(node, in_vain)
            self.look()
        self._begin(node, following | self._next.pop(node, set()))

    def _attempt(self, node: str, asked: Set[Asked]) -> Attempt:
        epochs = in_force(self._guards())
        found = {device: self._baseline(device, epoch) for device, epoch in epochs.items()}
        doubting = (device for device, baseline in found.items() if baseline is not None and baseline.doubts(node))
        return Attempt(epochs, asked, frozenset(doubting))

    def _baseline(self, device: str, epoch: int) -> Optional[Baseline]:
        """None if this epoch has none yet."""
        found = self._baselines.get(device)
        return found if found is not None and found.epoch == epoch else None

    def _give_back_later(self, node: str, asked: Iterable[Asked]) -> None:
        """Not at once: the policy may ask again as soon as it hears of the failure."""
        self._services.loop.after(FAILED_PAUSE_S, lambda: self._give_back(node, asked))

    def _give_back(self, node: str, asked: Iterable[Asked]) -> None:
        by_device = {guard.device: guard for guard in self._guards()}
        for item in asked:
            if item.device in by_device:
                by_device[item.device].handle(FenceDone(node, item.epoch, False))

    # --- noticing

    def record_changed(self) -> None:
        if self._urgent():
            self.look()

    def nudged(self) -> None:
        """Somebody says that there is something new in the history; that is known when it has been read."""
        self._nudged = True
        self.look()

    def look(self) -> None:
        """Read the history now (at a change of epoch, of membership, or when a decision is waited for)."""
        if self._reading:
            self._again = True
            return
        if self._timer is not None:
            self._timer.cancel()
        cluster, guards = self._cluster(), list(self._guards())
        if cluster is None or not guards:
            self._timer = self._services.loop.after(SLOW_S, self.look)
            return
        self._reading, self._again = True, False
        nudged, self._nudged = self._nudged, False
        epochs, began_s = in_force(guards), old.clocks().boot_s
        self._services.workers.submit(
            "history",
            lambda: cluster.fence_history(HISTORY_S),
            lambda result: self._read(epochs, began_s, nudged, result),
            HISTORY_S,
        )

    def _read(
        self, epochs: Dict[str, int], began_s: float, nudged: bool, result: Union[Sequence[FenceSeen], Exception]
    ) -> None:
        self._reading = False
        if isinstance(result, Exception):
            if not self._unreadable:
                self._services.journal.send("source-lost", f"fencing history cannot be read: {why(result)}")
            self._unreadable = True
        else:
            self._unreadable = False
            self._compare(epochs, began_s, nudged, result)
        waiting, self._after_reading = self._after_reading, set()
        for node in waiting:
            self._start(node)
        pause = 0.0 if self._again else self._pause()
        self._timer = self._services.loop.after(pause, self.look)

    def _compare(self, epochs: Dict[str, int], began_s: float, nudged: bool, entries: Sequence[FenceSeen]) -> None:
        for guard in list(self._guards()):
            epoch = epochs.get(guard.device)
            if epoch is None:
                continue
            baseline = self._baselines.get(guard.device) or self._kept(guard.device)
            if baseline is None or baseline.epoch != epoch:
                self._take(guard.device, old.first(epoch, began_s, entries))
                continue
            self._baselines[guard.device] = baseline
            baseline = self._without_overtaken(guard.device, baseline, entries)
            news = [seen for seen in entries if self._is_news(guard, baseline, seen)]
            for seen in self._without_old(guard.device, baseline, news):
                self._tell(guard, epoch, nudged, seen)

    def _take(self, device: str, baseline: Baseline) -> None:
        self._baselines[device] = baseline
        self._keep(device, baseline)

    def _is_news(self, guard: Guard, baseline: Baseline, seen: FenceSeen) -> bool:
        told = (guard.device, baseline.epoch, seen.key) in self._told
        return seen.done and seen.ok and seen.key not in baseline.done and not told and seen.node in guard.config.nodes

    def _without_old(self, device: str, baseline: Baseline, news: List[FenceSeen]) -> List[FenceSeen]:
        """What is old is so for good: the wall clock may be set before the next reading."""
        now = old.clocks()
        late = [seen for seen in news if old.is_old(baseline, seen.completed_s, now)]
        if late:
            self._take(device, baseline._replace(done=baseline.done | {seen.key for seen in late}))
        for seen in late:
            self._tell_old(device, baseline.epoch, seen, "was complete before it was first read")
        return [seen for seen in news if seen not in late]

    def _without_overtaken(self, device: str, baseline: Baseline, entries: Sequence[FenceSeen]) -> Baseline:
        now, late = old.overtaken(baseline, entries, old.clocks())
        if now != baseline:
            self._take(device, now)
        for seen in late:
            if seen.ok:
                self._tell_old(device, baseline.epoch, seen, "was under way at the first reading, or ended with such a one,")
        return now

    def _tell_old(self, device: str, epoch: int, seen: FenceSeen, since: str) -> None:
        text = f"{device}: Pacemaker's history has a fencing of {seen.node} now that {since} under epoch {epoch}: "
        self._journal(device, epoch, seen, text + "it is old, and proves nothing", old=True)

    def _tell(self, guard: Guard, epoch: int, nudged: bool, seen: FenceSeen) -> None:
        """nudged: an alert led to this reading; told for people only, nothing depends on it."""
        self._told.add((guard.device, epoch, seen.key))
        text = f"{guard.device}: Pacemaker reports {seen.node} fenced under epoch {epoch}" + (" (alerted)" if nudged else "")
        self._journal(guard.device, epoch, seen, text, alerted=nudged)
        guard.handle(FenceDone(seen.node, epoch, True, seen.manual))

    def _journal(self, device: str, epoch: int, seen: FenceSeen, text: str, **more: Any) -> None:
        """Of one that succeeded."""
        self._services.journal.send(
            "fence-seen", text, device=device, epoch=epoch, node=seen.node, key=seen.key, ok=True, manual=seen.manual, **more
        )

    def _pause(self) -> float:
        if self._unreadable:
            return RETRY_S
        return FAST_S if self._urgent() else SLOW_S

    def _urgent(self) -> bool:
        """What was under way when an epoch began has to be seen ending: all that is told of its node until then is doubted."""
        doubting = any(baseline.pending for baseline in self._baselines.values())
        return doubting or any(_waits(guard) or self._lacks_baseline(guard) for guard in self._guards())

    def _lacks_baseline(self, guard: Guard) -> bool:
        """Where no fencing can be needed as proof any more it waits for the readmission, which begins the next epoch. Several that
        go on together may still lose each other."""
        baseline, record = self._baselines.get(guard.device), guard.persisted
        if baseline is None or record is None:
            return True
        return baseline.epoch != record.epoch and bool(_needed(guard) - {guard.config.me})

    def _keep(self, device: str, baseline: Baseline) -> None:
        """Not waited for: if it is lost, fencings before the next daemon's first reading do not count, which is safe."""
        store, boot = self._services.store, self._services.world.boot
        note = old.note_of(baseline, boot)

        def kept(result: object) -> None:
            if isinstance(result, Exception):
                self._services.journal.send(
                    "action-failed",
                    f"{device}: which fencings are old cannot be kept: {why(result)}",
                    device=device,
                    action="keep-fencings",
                    how=why(result),
                )

        self._services.workers.submit("notes", lambda: store.save_note(device, NOTE, note), kept, HISTORY_S)

    def _kept(self, device: str) -> Optional[Baseline]:
        """As an earlier daemon of this boot left it."""
        return old.from_note(self._services.store.load_note(device, NOTE), self._services.world.boot)

    def forget(self, device: str) -> None:
        self._baselines.pop(device, None)
        for attempt in self._attempts.values():
            attempt.epochs.pop(device, None)
        self._told = {entry for entry in self._told if entry[0] != device}


def in_force(guards: Iterable[Guard]) -> Dict[str, int]:
    """Epochs of the records that are on the disk."""
    return {guard.device: guard.persisted.epoch for guard in guards if guard.persisted is not None}


def _waits(guard: Guard) -> bool:
    """Somebody is missing or does not answer, so a fencing may be on its way. A plain verdict is not slowed down by it."""
    state = guard.state
    overdue = state.round is not None and state.round.overdue
    return overdue or bool(state.fence_asked) or not _needed(guard) <= set(state.online)


def _needed(guard: Guard) -> Set[str]:
    """Nodes whose fencing could decide something. Who serves alone has proof about those that it left out, and who is blocked or
    unproven cannot use a fencing; a peer that is off for a week is not asked for three times a second."""
    record = guard.persisted
    if record is None:
        return set(guard.config.nodes)
    if record.standing in (Standing.BLOCKED, Standing.UNPROVEN):
        return set()
    return set(record.in_sync) if record.standing is Standing.SOLO else set(guard.config.nodes)
