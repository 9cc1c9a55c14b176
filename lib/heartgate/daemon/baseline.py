"""Which entries of Pacemaker's history are old: what one has to know for it, and the judgement.

An entry that appears later need not be new. pacemaker-fenced has an empty history when it starts, and is given that of its
peers seconds later. So besides the entries themselves the moment counts, as a clock of this boot that nobody sets.
"""

from __future__ import annotations

import math
import time
from typing import Dict, FrozenSet, NamedTuple, Optional


class Clocks(NamedTuple):
    """Now. boot_s goes on evenly until the next boot, also while the machine is suspended; wall_s may be set to anything."""

    wall_s: float
    boot_s: float


class Baseline(NamedTuple):
    """What was complete already when this epoch's first reading was made (done), and what turned out later to be as old.
    began_s: when that reading began, by Clocks.boot_s."""

    epoch: int
    began_s: float
    done: FrozenSet[str]


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
    return {"boot": boot, "epoch": baseline.epoch, "began_ms": int(baseline.began_s * 1000), "known": sorted(baseline.done)}


def from_note(note: object, boot: str) -> Optional[Baseline]:
    """None after another boot: the peer may have gone on alone meanwhile, and the clock began anew."""
    if not isinstance(note, dict) or note.get("boot") != boot:
        return None
    epoch, began_ms, known = note.get("epoch"), note.get("began_ms"), note.get("known")
    if not isinstance(epoch, int) or not isinstance(began_ms, int) or not isinstance(known, list):
        return None
    if not all(isinstance(key, str) for key in known):
        return None
    return Baseline(epoch, began_ms / 1000, frozenset(known))
