"""What `fence_heartgate` does once its options are right: look, answer, wait its turn, look again, and record it."""

from __future__ import annotations

import json
import sys
import time
from enum import Enum
from typing import TYPE_CHECKING, Any, Callable, List, Optional

from heartgate.adapters.journal import Journal
from heartgate.core import fencing
from heartgate.core.fencing import Answer, DeviceFacts, Facts
from heartgate.fencing import facts as looking
from heartgate.fencing.agent import FAILED, OK, say
from heartgate.fencing.facts import Known, Places
from heartgate.fencing.options import Bad, Options
from heartgate.fencing.table import NAME

if TYPE_CHECKING:
    from heartgate.fencing.levels import Levels

HOLD_POLL_S = 1.0
SOURCES = {"daemon": "what heartgated says", "disk": "what heartgated left on the disk", "nothing": "names alone"}


def run(action: str, given: Options, places: Optional[Places] = None) -> int:
    where = places or Places()
    if action == "on":
        return _told(given, fencing.answer(Facts(action, "", "")), None, [])
    if action == "list":
        return _list(where)
    if action in ("status", "monitor"):
        return _status(given, where)
    return _shoot(action, given, where)


# --- off, reboot


class Look:
    """One look at the facts, and the answer that follows from them."""

    def __init__(self, action: str, given: Options, where: Places, levels: Levels) -> None:
        self.known = looking.gather(given.target, where)
        _must_exist(given.target, self.known, where)
        hold = given.flag("hold_while_synced")
        found, wrong = looking.facts(action, given.target, given.devices, hold, self.known, where)
        levels.wait()
        self.facts = found._replace(alone=levels.reason)
        self.notes = [note for note in (*self.known.notes, wrong, levels.note) if note]
        self.answer = fencing.answer(self.facts)


def _shoot(action: str, given: Options, where: Places) -> int:
    from heartgate.fencing.levels import Levels  # not for `monitor`, which runs again and again and starts no program

    time.sleep(given.seconds("delay", 0.0))
    levels = Levels(given.target, where.cib)
    look = in_turn(lambda: Look(action, given, where, levels), given.seconds("rank_delay", 1.0))
    return _told(given, look.answer, look, look.notes)


def in_turn(
    look: Callable[[], Look],
    rank_delay_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Look:
    """The answer that still stands when its turn has come. Turns are counted from when nothing held everybody back any more."""
    began, held = clock(), False
    while True:
        now = look()
        if held and now.answer.rule != "hold":
            began = clock()
        held = now.answer.rule == "hold"
        left_s = now.answer.turn * rank_delay_s - (clock() - began)
        if left_s <= 0:
            return now
        sleep(min(left_s, HOLD_POLL_S) if held else left_s)


def _told(given: Options, answer: Answer, look: Optional[Look], notes: List[str]) -> int:
    """Journalled with its facts, and said in one line."""
    target = given.target if look is not None else ""
    what = "may be shot" if answer.passes else "is not shot"
    line = f"{target} {what}: {answer.reason} (rule {answer.rule})" if look is not None else f"{answer.reason} (rule on)"
    source, facts = ("", "") if look is None else (look.known.source, json.dumps(plain(look.facts), sort_keys=True))
    _Record(NAME).send(
        "fence-passed" if answer.passes else "fence-refused",
        line,
        rule=answer.rule,
        action=given.action,
        node=target,
        passed=answer.passes,
        turn=answer.turn.name.lower(),
        source=source,
        notes="; ".join(notes),
        facts=facts,
    )
    if not given.flag("quiet"):
        for note in notes if given.flag("verbose") or answer.passes else []:
            say(note)
        if given.flag("verbose") and look is not None:
            say(f"facts: {facts}")
    if answer.passes:
        sys.stdout.write(f"{NAME}: {line}\n")
        return OK
    say(line)
    return FAILED


class _Record(Journal):
    """The line is said on stderr anyhow: once is enough where there is no journal."""

    def _stderr(self, line: str) -> None:
        self.dropped += 1


def plain(value: Any) -> Any:
    """Facts as JSON values."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (Facts, DeviceFacts, fencing.Word, fencing.Other)):
        return {name: plain(part) for name, part in zip(value._fields, value)}
    if isinstance(value, frozenset):
        return sorted(plain(part) for part in value)
    return [plain(part) for part in value] if isinstance(value, tuple) else value


# --- which nodes


def _must_exist(target: str, known: Known, where: Places) -> None:
    """Raises Bad for a node that the cluster does not have; where its nodes cannot be told, anything may exist."""
    cluster = looking.cluster_nodes(where.corosync)
    nodes = (*known.nodes, *(cluster or ()))
    if cluster is not None and target not in (*nodes, known.me):
        raise Bad(f"plug={target} is not a node of this cluster (it has: {' '.join(sorted(set(nodes)))})")


def _list(where: Places) -> int:
    known = looking.gather("", where)
    nodes = sorted({*known.nodes, *(looking.cluster_nodes(where.corosync) or ())})
    for node in nodes:
        sys.stdout.write(f"{node},\n")
    if not nodes:
        say(f"no node is known: no guarded device, and {where.corosync} names none")
    return OK if nodes else FAILED


# --- status, monitor


def _status(given: Options, where: Places) -> int:
    """Whether an answer could be given here now. It always can; a daemon that does not answer is worth a note."""
    known = looking.gather(given.target, where)
    if given.target:
        _must_exist(given.target, known, where)
    missing = sorted(set(given.devices) - {device.device for device, _ in known.devices})
    notes = [*known.notes, *(f"devices names {name}, which is not guarded on this node" for name in missing)]
    for note in notes if not given.flag("quiet") else []:
        say(note)
    devices = ", ".join(f"{d.device} {d.standing.value if d.standing else 'unknown'}" for d, _ in known.devices)
    sys.stdout.write(f"{NAME} decides by {SOURCES[known.source]}: {devices or 'no guarded device'}\n")
    return OK
