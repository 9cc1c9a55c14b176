"""Which part of a history belongs to a verdict: what led to it, the verdict, and what came of it."""

from __future__ import annotations

import re
import time
from typing import List, NamedTuple, Optional, Sequence, Tuple

from heartgate.core.model import SERVING, Record, Standing
from heartgate.core.replay import Done, Item, Lost, Refused, Start, Step, Trouble

LEAD_S = 2.0  # facts that came at most so long before the loss belong to it
RETURN_S = 60.0  # the way back takes longer: connecting, resync
TAIL_S = 30.0  # what an action comes to
UNITS_S = {"s": 1, "sec": 1, "min": 60, "h": 3600, "hour": 3600, "d": 86400, "day": 86400, "week": 604800}
# Nothing can have been hidden by these: they are of another version, not damaged.
FOREIGN = frozenset({Trouble.NO_CHECK, Trouble.LATER, Trouble.VERSION})


class Chain(NamedTuple):
    """items[first:end]; verdict: the step that is explained. settled: it is the end of a decision, not its beginning. next: the
    verdict after it, if there was one. refused: entries that could not be believed, of which the verdict depends."""

    items: Tuple[Item, ...]
    verdict: Step
    following: Optional[Step]
    refused: Tuple[Refused, ...]


class BadTime(ValueError):
    """What was given for --at is no time; says what is."""


def parse_time(text: str, now_s: float) -> int:
    """ms since 1970. As journalctl takes it: HH:MM[:SS] (the last time that the clock showed it), YYYY-MM-DD [HH:MM[:SS]],
    -10min. Local time. Raises BadTime."""
    ago = re.fullmatch(r"-(\d{1,9}) ?([a-z]+?)s?", text.strip()) or re.fullmatch(r"-(\d{1,9})(s)", text.strip())
    if ago and ago.group(2) in UNITS_S:
        return int((now_s - int(ago.group(1)) * UNITS_S[ago.group(2)]) * 1000)
    clock = re.fullmatch(r"(?:(\d{4})-(\d\d)-(\d\d))?[ T]?(?:(\d\d?):(\d\d)(?::(\d\d))?)?", text.strip())
    if text.strip() == "" or clock is None or not (clock.group(1) or clock.group(4)):
        raise BadTime(f"{text!r} is no time; give HH:MM, 'YYYY-MM-DD HH:MM[:SS]' or for example -10min")
    year, month, day, hour, minute, second = (int(part) if part else 0 for part in clock.groups())
    today = time.localtime(now_s)
    if not clock.group(1):
        year, month, day = today.tm_year, today.tm_mon, today.tm_mday
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 60):
        raise BadTime(f"{text!r}: there is no such day or hour")
    at_s = time.mktime((year, month, day, hour, minute, second, 0, 0, -1))
    if time.localtime(at_s).tm_mday != day:
        raise BadTime(f"{text!r}: there is no such day")
    if not clock.group(1) and at_s > now_s:
        at_s = time.mktime((year, month, day - 1, hour, minute, second, 0, 0, -1))
    if at_s > now_s:
        raise BadTime(f"{text!r} is in the future")
    return int(at_s * 1000)


def is_verdict(step: Step) -> bool:
    """Did this step change what the node may do?"""
    before = step.event.record if isinstance(step.event, Start) else step.before.record if step.before else None
    return before is None or _right(before) != _right(step.after.record)


def _right(record: Record) -> Tuple[Standing, int, Tuple[str, ...]]:
    return record.standing, record.epoch, record.in_sync


def steps_of(items: Sequence[Item]) -> List[Step]:
    return [item for item in items if isinstance(item, Step)]


def pick(items: Sequence[Item], at_ms: Optional[int]) -> Optional[Chain]:
    """The verdict in force at at_ms (None: now) with everything that belongs to it; None: nothing is known of that time."""
    places = [i for i, item in enumerate(items) if isinstance(item, Step)]
    told = [i for i in places if is_verdict(_step(items, i)) or i == places[0]]
    told = [i for i in told if at_ms is None or _step(items, i).head.at_ms <= at_ms]
    if not told:
        return None
    place = told[-1]
    first, hidden = _back(items, place)
    end, after = _forward(items, place)
    following = next((s for s in steps_of(items[end:]) if is_verdict(s)), None)
    refused = hidden + after + _hiding(items, end, following, at_ms)
    return Chain(tuple(items[first:end]), _step(items, place), following, _once(refused))


def _once(refused: Sequence[Refused]) -> Tuple[Refused, ...]:
    return tuple({id(item): item for item in refused}.values())


def _step(items: Sequence[Item], place: int) -> Step:
    item = items[place]
    assert isinstance(item, Step)
    return item


def gap_s(early: Step, late: Step) -> float:
    """By the monotonic clock, which has no meaning across boots: then by the wall clock."""
    if early.after.record.boot == late.after.record.boot:
        return (late.head.us - early.head.us) / 1e6
    return (late.head.at_ms - early.head.at_ms) / 1000


def _back(items: Sequence[Item], place: int) -> Tuple[int, Tuple[Refused, ...]]:
    """The first item that belongs to it; and what cannot be believed on the way there."""
    first, latest = place, _step(items, place)
    for i in range(place - 1, -1, -1):
        item = items[i]
        if isinstance(item, Refused):
            return first, () if item.trouble is Trouble.NO_CHECK or _starts_anew(latest) else (item,)
        if isinstance(item, Lost):
            break
        if isinstance(item, Done):
            continue
        deciding = item.after.record.standing is Standing.DECIDING
        if not deciding and (is_verdict(item) or gap_s(item, latest) > _lead_s(item)):
            break
        first, latest = i, item
    return first, ()


def _starts_anew(step: Step) -> bool:
    """Nothing before it belongs to it: a new run, which has not found an open decision."""
    found = step.event.record if isinstance(step.event, Start) else None
    return isinstance(step.event, Start) and (found is None or found.standing is not Standing.DECIDING)


def _lead_s(step: Step) -> float:
    record = step.after.record
    whole = record.standing in SERVING and set(record.in_sync) == set(step.config.nodes)
    return LEAD_S if whole else RETURN_S


def _forward(items: Sequence[Item], place: int) -> Tuple[int, Tuple[Refused, ...]]:
    """One past the last item that belongs to it: through to the end of the decision, and of what was ordered."""
    settled = latest = _step(items, place)
    end = place + 1
    for i in range(place + 1, len(items)):
        item = items[i]
        if isinstance(item, Refused):
            open_still = settled.after.record.standing is Standing.DECIDING
            return end, (item,) if open_still and item.trouble is not Trouble.NO_CHECK else ()
        if isinstance(item, Lost):
            continue
        if isinstance(item, Done):
            end = i + 1 if (item.head.us - settled.head.us) / 1e6 <= TAIL_S and item.head.run == latest.head.run else end
            continue
        if is_verdict(item):
            if settled.after.record.standing is not Standing.DECIDING:
                break
            settled = item
        elif settled.after.record.standing is not Standing.DECIDING and gap_s(settled, item) > TAIL_S:
            break
        end, latest = i + 1, item
    return end, ()


def _hiding(items: Sequence[Item], end: int, following: Optional[Step], at_ms: Optional[int]) -> Tuple[Refused, ...]:
    """Unbelievable entries behind which there may be a later verdict that was in force at that time."""
    hiding: List[Refused] = []
    for item in items[end:]:
        if item is following:
            break
        if isinstance(item, Refused) and (at_ms is None or item.at_ms <= at_ms):
            hiding.append(item)
    return tuple(hiding)
