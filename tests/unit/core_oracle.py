"""The verdict once more, naively: every set of nodes is tried, and the best of the permitted ones is taken.

Written from the design (section 2) and from what verdict.py documents, not from its code: it shares the words of the
model with it and nothing else. Only ever slow and obvious.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from heartgate.core.model import Disk, Link, Rank, Role, Standing

Result = Optional[Tuple[str, Tuple[str, ...]]]  # situation, keep set in the order of ranks
Messages = Mapping[str, Any]


def in_contact(one: Any, other: Any) -> bool:
    """Sync contact: both ends see the connection up, and each names the other's count for it as its own partner."""
    ends = one.link_to(other.sender), other.link_to(one.sender)
    if None in ends:
        return False
    return (
        all(end.link == Link.UP for end in ends)
        and ends[0].paired == ends[1].incarnation
        and ends[1].paired == ends[0].incarnation
    )


def rank_order(policy: Rank, priorities: Mapping[str, int], messages: Messages, nodes: Sequence[str]) -> List[str]:
    """First rank first: those in use before the others (active-first only), the lower number before the higher."""
    by_priority = sorted(nodes, key=lambda node: priorities[node])
    if policy == Rank.PRIORITY:
        return by_priority
    in_use = {node for node in by_priority if messages[node].role == Role.PRIMARY}
    return [n for n in by_priority if n in in_use] + [n for n in by_priority if n not in in_use]


def best_set(messages: Messages, order: Sequence[str], always: Sequence[str] = ()) -> Tuple[str, ...]:
    """Of all sets whose added members are in contact with every member, the one with the first rank, then the second...

    always: members that are in it whatever contact they have with each other (they serve already).
    """
    contacts: Dict[Tuple[str, str], bool] = {}

    def touch(one: str, other: str) -> bool:
        pair = (min(one, other), max(one, other))
        if pair not in contacts:
            contacts[pair] = in_contact(messages[pair[0]], messages[pair[1]])
        return contacts[pair]

    best: Tuple[str, ...] = ()
    best_places: List[bool] = []
    for size in range(len(order) + 1):
        for added in combinations(order, size):
            pairs = [(x, y) for x, y in combinations([*always, *added], 2) if y in added]
            places = [node in added for node in order]
            if all(touch(x, y) for x, y in pairs) and places > best_places:
                best, best_places = tuple(added), places
    return (*always, *best)


def place(messages: Messages, node: str) -> int:
    """The epoch that a claim is worth. One that serves and has agreed to another one's question, which serves as well, has
    that one's until the question is decided."""
    said = messages[node]
    serving = (Standing.SYNCED, Standing.SOLO)
    asked_by = said.promised_to if said.standing in serving else ""
    if asked_by in messages and messages[asked_by].standing in serving:
        return int(messages[asked_by].epoch)
    return int(said.epoch)


def verdict(policy: Rank, priorities: Mapping[str, int], messages: Messages) -> Result:
    """What should change: (situation, keep set), or None. Messages only of nodes that can be heard."""
    claims = {Standing.SYNCED, Standing.SOLO, Standing.DECIDING}
    claiming = [n for n in messages if messages[n].standing in claims]
    if claiming:
        top = max(place(messages, n) for n in claiming)
        claiming = [n for n in claiming if place(messages, n) == top]
        if all(messages[n].standing != Standing.DECIDING for n in claiming):
            return _reunion(policy, priorities, messages, claiming, top)
        candidates = [n for n in claiming if messages[n].disk == Disk.UPTODATE]
        if candidates:
            return "split", best_set(messages, rank_order(policy, priorities, messages, candidates))
        if {messages[n].standing for n in claiming} != {Standing.DECIDING}:
            return None
    return _meeting(policy, priorities, messages)


def _reunion(policy: Rank, priorities: Mapping[str, int], messages: Messages, serving: List[str], epoch: int) -> Result:
    """Readmit who is up to date and connected to everybody who serves, unless a node counted in already would be left out."""
    returning = [
        n
        for n in messages
        if n not in serving
        and messages[n].disk == Disk.UPTODATE
        and all(in_contact(messages[n], messages[s]) for s in serving)
    ]
    counted: set[str] = set()
    for node in serving:
        counted |= set(messages[node].in_sync)
    # Counted in by somebody who has not only agreed to that, and behind in its epoch: it will join by itself.
    decided = [n for n in serving if messages[n].promised_to == ""]
    waiting_for_word = {
        n for n in returning if messages[n].epoch < epoch and any(n in messages[d].in_sync for d in decided)
    }
    first = rank_order(policy, priorities, messages, serving)
    together = best_set(messages, rank_order(policy, priorities, messages, returning), first)
    if set(returning) == waiting_for_word or not counted <= set(together):
        return None
    return "reunion", together


def _meeting(policy: Rank, priorities: Mapping[str, int], messages: Messages) -> Result:
    """Nobody may serve, and every replica can be heard."""
    if set(messages) != set(priorities):
        return None
    order = rank_order(policy, priorities, messages, list(priorities))
    everybody_fit = all(messages[n].disk == Disk.UPTODATE for n in order)
    if everybody_fit and all(in_contact(messages[x], messages[y]) for x, y in combinations(order, 2)):
        return "meeting", tuple(order)
    complete = [n for n in order if all(_lacks_nothing(messages[n], messages[o]) for o in order if o != n)]
    readable = [n for n in complete if _readable(messages[n])]
    return ("meeting", best_set(messages, readable)) if readable else None


def _readable(message: Any) -> bool:
    return message.disk in (Disk.UPTODATE, Disk.CONSISTENT, Disk.OUTDATED)


def _lacks_nothing(mine: Any, theirs: Any) -> bool:
    """Their replica cannot hold a write that mine lacks: by the generations, or by both records (epoch 0: none). Never when
    it is not known what theirs holds, nor when they went on without mine."""
    if theirs.disk == Disk.UNKNOWN or mine.sender not in theirs.in_sync:
        return False
    if _readable(theirs) and mine.generation != "" and theirs.generation != "":
        return bool(theirs.generation in (mine.generation, *mine.ancestors))
    return bool(mine.epoch > 0 and theirs.epoch > 0)
