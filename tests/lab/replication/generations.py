"""Which copy is newer: data generations as DRBD keeps them, without its 64 bits of flags."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import Optional, Tuple


@dataclass(frozen=True)
class Copy:
    """What a node says about its copy when it meets the peer.

    `current`: generation of the data. `base`: generation since which writes are tracked (None: everything is at the
    peer). `history`: older generations, newest first. `loose`: may hold writes that the peer never got under the same
    generation (a primary that crashed or was made to let go).
    """

    node: str
    current: str
    base: Optional[str] = None
    history: Tuple[str, ...] = ()
    disk: str = "uptodate"
    role: str = "secondary"
    loose: bool = False

    def ancestors(self) -> Tuple[str, ...]:
        return ((self.base,) if self.base else ()) + self.history


def new_generation(copy: Copy) -> Copy:
    """Before the first write that the peer does not get."""
    current = secrets.token_hex(8)
    if copy.base is None:
        return replace(copy, current=current, base=copy.current)
    return replace(copy, current=current, history=(copy.current, *copy.history))


def joined(copy: Copy) -> Copy:
    """The peer has everything: the base becomes history."""
    history = copy.history if copy.base is None else (copy.base, *copy.history)
    return replace(copy, base=None, history=history, loose=False)


def direction(mine: Copy, theirs: Copy) -> str:
    """`none` (equal), `source`, `target`, `split` (both went on from a common ancestor) or `unrelated`."""
    if mine.current == theirs.current:
        return _direction_of_equals(mine, theirs)
    if mine.disk == "inconsistent" or theirs.disk == "inconsistent":
        if mine.disk == theirs.disk:
            return "unrelated"
        return "target" if mine.disk == "inconsistent" else "source"
    if theirs.current in mine.ancestors():
        return "source"
    if mine.current in theirs.ancestors():
        return "target"
    return "split" if set(mine.ancestors()) & set(theirs.ancestors()) else "unrelated"


def _direction_of_equals(mine: Copy, theirs: Copy) -> str:
    def rank(copy: Copy) -> Tuple[bool, bool, bool, bool, str]:
        return (copy.disk != "inconsistent", copy.role == "primary", copy.disk == "uptodate", copy.loose, copy.node)

    inconsistent = [copy for copy in (mine, theirs) if copy.disk == "inconsistent"]
    if len(inconsistent) == 2:
        return "unrelated"
    both_serve = mine.role == theirs.role == "primary"
    if not inconsistent and (both_serve or not (mine.loose or theirs.loose)):
        return "none"
    return "source" if rank(mine) > rank(theirs) else "target"
