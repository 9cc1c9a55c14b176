"""Which entries of Pacemaker's history are old: what one has to know for it, and the judgement.

An entry that appears later need not be new. pacemaker-fenced has an empty history when it starts, and is given that of its
peers seconds later. So besides the entries themselves the moment counts, as a clock of this boot that nobody sets.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Dict, FrozenSet, NamedTuple, Optional, Tuple

from heartgate.adapters.base import FenceSeen

# A fencing that is listed as under way for longer than this is taken for one that nobody ends any more. Nobody who waits for a
# fencing of that node could ever go on otherwise.
PENDING_S = 600.0


class Clocks(NamedTuple):
    """Now. boot_s goes on evenly until the next boot, also while the machine is suspended; wall_s may be set to anything."""

    wall_s: float
    boot_s: float


class Pending(NamedTuple):
    """A fencing that was under way. request: FenceSeen.request."""

    node: str
    request: str


class Baseline(NamedTuple):
    """What was complete already when this epoch's first reading was made (done), and what turned out later to be as old.
    began_s: when that reading began, by Clocks.boot_s. pending: what was under way then and is so still."""

    epoch: int
    began_s: float
    done: FrozenSet[str]
    pending: FrozenSet[Pending] = frozenset()

    def doubts(self, node: str) -> bool:
        """Whether a fencing of that node may have cut its power before this epoch began. One that is asked for now may be
        joined with it by Pacemaker, which answers both at once."""
        return any(each.node == node for each in self.pending)


def first(epoch: int, began_s: float, entries: Sequence[FenceSeen]) -> Baseline:
    """From the first reading of an epoch."""
    return Baseline(epoch, began_s, frozenset(seen.key for seen in entries if seen.done), _pending(entries))


def _pending(entries: Sequence[FenceSeen]) -> FrozenSet[Pending]:
    return frozenset(Pending(seen.node, seen.request) for seen in entries if not seen.done)


def overtaken(baseline: Baseline, entries: Sequence[FenceSeen], now: Clocks) -> Tuple[Baseline, Sequence[FenceSeen]]:
    """The baseline after another reading, and what is old since it ended no later than what was under way at the first one.

    A fencing has two moments, and Pacemaker tells the second one: a power supply may have been cut and be on again, its node
    back and readmitted, while the agent still waits for it. So whatever is told of that node until the old fencing has ended is
    as old. A person who confirms that the node is off says it now, and is believed.
    """
    if not baseline.pending:
        return baseline, ()
    still = baseline.pending & _pending(entries) if now.boot_s - baseline.began_s < PENDING_S else frozenset()
    ended = [seen for seen in entries if seen.done and not seen.manual and baseline.doubts(seen.node)]
    late = [seen for seen in ended if seen.key not in baseline.done]
    return baseline._replace(done=baseline.done | {seen.key for seen in late}, pending=still), late


def clocks() -> Clocks:
    """The wall first: if this thread is held up in between, the beginning seems earlier and more counts as new, not less."""
    wall_s = time.time()
    return Clocks(wall_s, time.clock_gettime(time.CLOCK_BOOTTIME))


def is_old(baseline: Baseline, completed_s: Optional[float], now: Clocks) -> bool:
    """Whether an entry that was not there at the first reading was complete before that reading began. The beginning is put into
    the present time of the wall clock, which is the one that Pacemaker wrote with. Pacemaker tells whole seconds: the same
    second is new.

    A clock that is set forward between a completion and its reading makes a new entry old. Then this node waits, and a
    person's word or the next fencing helps; nothing is taken for a proof. Set back, an old entry may look new, as it did
    before there was this judgement.

    Without a time that can be read an entry counts: if a later Pacemaker writes it in another way, nobody who waits for a
    fencing could ever go on otherwise.
    """
    if completed_s is None:
        return False
    return completed_s < math.floor(now.wall_s - (now.boot_s - baseline.began_s))


def note_of(baseline: Baseline, boot: str) -> Dict[str, object]:
    """For the disk, which takes whole numbers only. `known` and not `done`, as it was called while its keys had the local time in
    them: neither version takes the keys of the other for its own, by which every entry would be new."""
    return {
        "boot": boot,
        "epoch": baseline.epoch,
        "began_ms": int(baseline.began_s * 1000),
        "known": sorted(baseline.done),
        "pending": [list(each) for each in sorted(baseline.pending)],
    }


def from_note(note: object, boot: str) -> Optional[Baseline]:
    """None after another boot: the peer may have gone on alone meanwhile, and the clock began anew."""
    if not isinstance(note, dict) or note.get("boot") != boot:
        return None
    epoch, began_ms, known, pending = (note.get(name) for name in ("epoch", "began_ms", "known", "pending"))
    if not isinstance(epoch, int) or not isinstance(began_ms, int) or not isinstance(known, list):
        return None
    if not isinstance(pending, list) or not all(_words(each, 2) for each in pending) or not _words(known, len(known)):
        return None
    return Baseline(epoch, began_ms / 1000, frozenset(known), frozenset(Pending(*each) for each in pending))


def _words(value: object, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(isinstance(each, str) for each in value)
