"""The verdict: who is kept when not everybody can be. Pure, the same on every node, computed from messages alone.

Every node computes it from what the nodes have *told* (its own message included), never from facts that only it knows,
so that two nodes with the same messages come to the same result. docs/policy.md describes the three situations;
`docs/rules.md` is generated from the rules table.
"""

from __future__ import annotations

from enum import Enum
from typing import Dict, List, Mapping, NamedTuple, Optional, Tuple

from heartgate.core.model import SERVING, Config, Disk, Link, Message, Rank, Role, Standing, sorted_nodes

CURRENT = SERVING | {Standing.DECIDING}
HAS_DATA = frozenset({Disk.UPTODATE, Disk.CONSISTENT, Disk.OUTDATED})


class Situation(str, Enum):
    SPLIT = "split"  # somebody who was in sync has lost contact
    REUNION = "reunion"  # somebody serves, and others can come back
    MEETING = "meeting"  # nobody may serve, everybody can be heard

    def __repr__(self) -> str:
        return self.value


class Plan(NamedTuple):
    """keep: the nodes that are to serve, first rank first; the first one proposes."""

    situation: Situation
    keep: Tuple[str, ...]

    @property
    def leader(self) -> str:
        return self.keep[0]


def contact(one: Message, other: Message) -> bool:
    """In sync contact: both ends say so, and of the very same connection."""
    here, there = one.link_to(other.sender), other.link_to(one.sender)
    if here is None or there is None or here.link is not Link.UP or there.link is not Link.UP:
        return False
    return here.paired == there.incarnation and there.paired == here.incarnation


def link_up(one: Message, other: Message) -> bool:
    """Both ends say that they are connected, though perhaps of different connections (the rule `pairing` left out)."""
    here, there = one.link_to(other.sender), other.link_to(one.sender)
    return here is not None and there is not None and here.link is Link.UP and there.link is Link.UP


def ranked(config: Config, messages: Mapping[str, Message], nodes: List[str]) -> List[str]:
    """Nodes from the first rank to the last."""

    def key(node: str) -> Tuple[int, int]:
        active = config.rank is Rank.ACTIVE_FIRST and messages[node].role is Role.PRIMARY
        return (0 if active else 1, config.priority(node))

    return sorted(nodes, key=key)


def clique(config: Config, messages: Mapping[str, Message], ranks: List[str]) -> Tuple[str, ...]:
    """Walk the ranks; take a node if it is in sync contact with all that were taken before. A clique, never a chain."""
    touching = link_up if "pairing" in config.omitted_rules else contact
    keep: List[str] = []
    for node in ranks:
        if all(touching(messages[node], messages[taken]) for taken in keep):
            keep.append(node)
    return tuple(keep)


def plan(config: Config, messages: Mapping[str, Message]) -> Optional[Plan]:
    """What should change now, or None. messages: by node, everybody who can be heard, and this node's own."""
    current = {n: m for n, m in messages.items() if m.standing in CURRENT}
    if current:
        epochs = {n: _epoch(messages, m) for n, m in current.items()}
        newest = max(epochs.values())
        current = {n: m for n, m in current.items() if epochs[n] == newest}
        if any(m.standing is Standing.DECIDING for m in current.values()):
            split = _split(config, messages, current)
            if split is not None or any(m.standing in SERVING for m in current.values()):
                return split  # as long as somebody may serve there is nothing to meet about
        else:
            return _reunion(config, messages, current)
    if "meeting" in config.omitted_rules:
        return None
    return _meeting(config, messages)


def _epoch(messages: Mapping[str, Message], message: Message) -> int:
    """Who has agreed to take others back stands with the one whose question it was, until that one commits."""
    asker = messages.get(message.promised_to)
    asked = message.standing in SERVING and asker is not None and asker.standing in SERVING
    return asker.epoch if asked and asker is not None else message.epoch


def _split(config: Config, messages: Mapping[str, Message], current: Mapping[str, Message]) -> Optional[Plan]:
    """Data comes before priority: only up-to-date replicas of the newest epoch are candidates."""
    candidates = [n for n, m in current.items() if m.disk is Disk.UPTODATE]
    if not candidates:
        return None
    ranks = ranked(config, messages, candidates)
    return Plan(Situation.SPLIT, clique(config, messages, ranks))


def _reunion(config: Config, messages: Mapping[str, Message], current: Mapping[str, Message]) -> Optional[Plan]:
    """Somebody serves. Everyone else who is connected to all of the serving nodes and up to date can be taken back."""
    serving = ranked(config, messages, list(current))
    members = sorted_nodes(n for m in current.values() for n in m.in_sync)
    touching = link_up if "pairing" in config.omitted_rules else contact
    back = [
        n
        for n in ranked(config, messages, [n for n in messages if n not in current])
        if messages[n].disk is Disk.UPTODATE and all(touching(messages[n], current[s]) for s in serving)
    ]
    newest = _epoch(messages, current[serving[0]])
    # Who is counted in already, under an epoch that is new to it, joins by itself when it hears of it.
    # Nobody joins by the word of one who has only agreed: as long as there is no other word the question is open.
    decided = {n for m in current.values() if not m.promised_to for n in m.in_sync}
    needed = [n for n in back if n not in decided or messages[n].epoch >= newest]
    keep: List[str] = list(serving)
    for node in back:
        if all(touching(messages[node], messages[taken]) for taken in keep):
            keep.append(node)
    if not needed or any(n not in keep for n in members):
        return None  # a reunion leaves out nobody who is counted in
    return Plan(Situation.REUNION, tuple(keep))


def _meeting(config: Config, messages: Mapping[str, Message]) -> Optional[Plan]:
    """Nobody may serve and all can be heard: as long as nobody was solo, every up-to-date replica has every write."""
    if any(node not in messages for node in config.nodes):
        return None
    everybody = ranked(config, messages, list(config.nodes))
    together = clique(config, messages, [n for n in everybody if messages[n].disk is Disk.UPTODATE])
    if len(together) == len(config.nodes):
        return Plan(Situation.MEETING, together)
    eligible = [n for n in everybody if _newest(messages, n)]
    if not eligible:
        return None
    return Plan(Situation.MEETING, clique(config, messages, eligible))


def _newest(messages: Mapping[str, Message], node: str) -> bool:
    """Nobody here can have a write that this node's replica lacks.

    With every record intact that follows from nobody being solo. Where a record was lost (epoch 0), the generations
    must prove it; and where both generations are known, they are believed before anything else. Not known is not
    "none": as long as somebody cannot say what its disk holds, there is no newest. Nor is it one that others have once
    gone on without.
    """
    mine = messages[node]
    if mine.disk not in HAS_DATA:
        return False
    for other, theirs in messages.items():
        if other == node:
            continue
        if theirs.disk is Disk.UNKNOWN or node not in theirs.in_sync:
            return False
        if mine.generation and theirs.generation and theirs.disk in HAS_DATA:
            if theirs.generation != mine.generation and theirs.generation not in mine.ancestors:
                return False
        elif mine.epoch == 0 or theirs.epoch == 0:
            return False
    return True


def by_node(config: Config, mine: Message, heard: Tuple[Tuple[str, Message], ...]) -> Dict[str, Message]:
    """Messages by node, with this node's own; nodes that hold no replica are left out."""
    messages = {name: message for name, message in heard if name in config.nodes}
    messages[config.me] = mine
    return messages
