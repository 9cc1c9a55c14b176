"""Walks through every order of what can happen to two nodes with a bounded number of faults, and judges every world.

Worlds are visited by the number of faults they took, then by the number of moves: a violation's script is one with the
fewest faults, and the shortest of those. A world that was reached with fewer faults before is not visited again:
everything that can follow has been, or will be, visited from there.

Nodes and messages repeat in many worlds: each is kept once and goes by a number, and a world is four numbers and two
bits. docs/exploration.md says what is reduced, why nothing is lost by it, and where something is.
"""

from __future__ import annotations

import gc
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from heartgate.core.model import Message
from heartgate.sim import canonical
from heartgate.sim import world as w
from heartgate.sim.judge import judge, judge_bereaved, judge_isolated, judge_rest, standings
from heartgate.sim.moves import Moves, Setting, goes_on, put
from heartgate.sim.world import Broken, Kernel, Node, World, initial_record

Key = Tuple[int, int, int, int, int]  # node, node, late copy to b, to a, 4 * accepted + 2 * cable + heartbeat
Renamed = Tuple[canonical.Renaming, Dict[int, int]]  # how things are renamed; those that were: number -> number
NONE = 0  # number of "no message"


class Violation(NamedTuple):
    """What was broken, and the shortest script that leads there."""

    what: str
    script: Tuple[str, ...]
    standings: Tuple[str, ...] = ()  # after each step of the script but the last, as far as they could be judged


class Report(NamedTuple):
    states: int
    moves: int
    violation: Optional[Violation]
    complete: bool  # False: stopped at the limit of states
    by_faults: Tuple[int, ...] = ()  # states that took 0, 1, 2 ... faults


def start(setting: Setting) -> World:
    """Both nodes up, connected, in sync, everything known to everybody."""
    moves = Moves(setting)
    nodes = [Node(True, Kernel(role=w.role_of(i in setting.primaries), conn=True), initial_record(i), None) for i in (0, 1)]
    world = World((nodes[0], nodes[1]), True, True, (None, None), 0)
    for me in (0, 1):
        world = put(world, me, w.start_daemon(moves.configs[me], world.nodes[me], me, setting.flaws).node)
    for _ in range(100):
        news = [m for me in (0, 1) for m in (*moves.news(world, me), *moves.delivery(world, me))]
        if not news:
            return world._replace(faults=setting.faults)
        world = news[0][1]
    raise AssertionError("the initial world does not come to rest")


class Numbering:
    """Nodes and messages by number, and their canonical names within a world."""

    def __init__(self) -> None:
        self._raw: Dict[Tuple[int, Node], int] = {}
        self._numbers: Dict[object, int] = {("none",): NONE}
        self.things: List[object] = [None]
        self._signatures: List[int] = [0]  # of each thing: the number of its `canonical.Numbers`
        self._signature_numbers: Dict[canonical.Numbers, int] = {canonical.Numbers((), ()): 0}
        self._signed: List[canonical.Numbers] = [canonical.Numbers((), ())]
        self._plans: Dict[Tuple[int, ...], List[Renamed]] = {}  # by signatures
        self._renamings: Dict[object, Renamed] = {}  # and what was renamed so

    def raw(self, node: Node, me: int) -> int:
        """The number of what is relevant of a node."""
        known = self._raw.get((me, node))
        if known is None:
            known = self._raw[(me, node)] = self.number(canonical.relevant(node), me)
        return known

    def number(self, thing: object, me: int, numbers: Optional[canonical.Numbers] = None) -> int:
        """me: the node that it is, or that sent it; numbers: those in it, where they are known."""
        known = self._numbers.get((me, thing))
        if known is None:
            known = self._numbers[(me, thing)] = len(self.things)
            self.things.append(thing)
            assert isinstance(thing, (Node, Message))
            numbers = numbers or canonical.collect(thing, me)
            signature = self._signature_numbers.get(numbers)
            if signature is None:
                signature = self._signature_numbers[numbers] = len(self._signed)
                self._signed.append(numbers)
            self._signatures.append(signature)
        return known

    def named(self, key: Key) -> Key:
        signatures = self._signatures
        one, other, late_b, late_a, flags = key
        world = (signatures[one], signatures[other], signatures[late_b], signatures[late_a])
        plan = self._plans.get(world)
        if plan is None:
            plan = self._plans[world] = self._plan(world)
        parts = []
        for part, me, (content, known) in zip((one, other, late_b, late_a), (0, 1, 0, 1), plan):
            new = known.get(part)
            if new is None:
                new = known[part] = self._rename(part, me, content)
            parts.append(new)
        return (parts[0], parts[1], parts[2], parts[3], flags)

    def _plan(self, signatures: Tuple[int, ...]) -> List[Renamed]:
        """How to rename each part: what matters of the world's renaming is what it does to the part's own numbers."""
        numbers = [self._signed[s] for s in signatures]
        names = canonical.renaming(tuple(numbers))
        return [self._renamings.setdefault(*self._restricted(n, names)) for n in numbers]

    def _restricted(self, numbers: canonical.Numbers, names: canonical.Renaming) -> Tuple[object, Renamed]:
        """The renaming without the numbers that the part does not have, and what identifies it."""
        values = {slot: {n: names.values[slot][n] for n in found} for slot, found in numbers.values}
        chains = {g: names.generations[g] for chain in numbers.chains for g in chain if g in names.generations}
        content = (tuple((slot, tuple(new.items())) for slot, new in values.items()), tuple(sorted(chains.items())))
        return content, (canonical.Renaming(values, chains), {NONE: NONE})

    def _rename(self, part: int, me: int, names: canonical.Renaming) -> int:
        thing = self.things[part]
        assert isinstance(thing, (Node, Message))
        numbers = self._signed[self._signatures[part]]
        return self.number(canonical.rename(thing, me, names), me, canonical.renamed(numbers, names))


class Explorer:
    """One exploration. parents: for each world by number, from which one it was reached, and how."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.space = Moves(setting)
        self.numbering = Numbering()
        self.numbers: Dict[Key, int] = {}
        self.keys: List[Key] = []
        self.parents: List[Tuple[int, str]] = []
        self.moves = 0

    def key(self, world: World) -> Key:
        number, raw, late = self.numbering.number, self.numbering.raw, world.late
        flags = 4 * world.accepted + 2 * world.cable + world.heartbeat
        late_b, late_a = number(late[0], 0) if late[0] else NONE, number(late[1], 1) if late[1] else NONE
        one, other = raw(world.nodes[0], 0), raw(world.nodes[1], 1)
        return self.numbering.named((one, other, late_b, late_a, flags))

    def world(self, key: Key, faults: int) -> World:
        one, other, late_b, late_a, flags = key
        things = self.numbering.things
        nodes, late = (things[one], things[other]), (things[late_b], things[late_a])
        return World(nodes, bool(flags & 2), bool(flags & 1), late, faults, bool(flags & 4))  # type: ignore[arg-type]

    def after(self, world: World) -> Iterator[Tuple[str, int, Key]]:
        """(label, faults used, world) of every move. Raises Broken, with the label as its second argument."""
        resting, label = True, "(next move)"
        try:
            for label, after in self.space.of(world):
                cost = world.faults - after.faults
                resting = resting and not goes_on(world, label, after)
                yield label, cost, self.key(judge(after))
                label = "(next move)"
            if resting:
                label = "(at rest)"
                judge_rest(world)
                if self.setting.isolated:
                    judge_isolated(world)
                if self.setting.bereaved:
                    judge_bereaved(world)
        except Broken as broken:
            raise Broken(broken.args[0], label) from None

    def run(self, limit: int, progress: Optional[Callable[[str], None]]) -> Report:
        """Layer by layer (faults), in each of them by depth (moves)."""
        numbers, keys, parents = self.numbers, self.keys, self.parents
        faults = self.setting.faults
        waiting: List[Dict[int, List[Tuple[Key, int, str]]]] = [{} for _ in range(faults + 1)]  # layer, depth -> worlds
        waiting[0][0] = [(self.key(start(self.setting)), -1, "")]
        by_faults: List[int] = []
        for used in range(faults + 1):
            layer, before = waiting[used], len(keys)
            while layer:
                depth = min(layer)
                for key, parent, label in layer.pop(depth):
                    if key in numbers:
                        continue
                    index = numbers[key] = len(keys)
                    keys.append(key)
                    parents.append((parent, label))
                    if progress is not None and index % 50_000 == 0 and index:
                        progress(f"{index} states, {used} fault(s), depth {depth}")
                    try:
                        for name, cost, after in self.after(self.world(key, faults - used)):
                            self.moves += 1
                            if after not in numbers:
                                waiting[used + cost].setdefault(depth + 1, []).append((after, index, name))
                    except Broken as broken:
                        what = self._violation(index, str(broken.args[0]), broken.args[1])
                        return Report(len(keys), self.moves, what, True, (*by_faults, len(keys) - before))
                if len(keys) >= limit:
                    return Report(len(keys), self.moves, None, False, (*by_faults, len(keys) - before))
            by_faults.append(len(keys) - before)
            if progress is not None:
                progress(f"{len(keys)} states, complete with {used} fault(s)")
        return Report(len(keys), self.moves, None, True, tuple(by_faults))

    def _violation(self, index: int, what: str, last: str) -> Violation:
        script, after = [last], []
        while index > 0:
            after.append(standings(self.world(self.keys[index], 0)))
            index, label = self.parents[index]
            script.append(label)
        return Violation(what, tuple(script[::-1]), tuple(after[::-1]))


def explore(setting: Setting, limit: int = 50_000_000, progress: Optional[Callable[[str], None]] = None) -> Report:
    """By faults and then by moves, until a violation, the end, or `limit` states."""
    collecting = gc.isenabled()
    gc.disable()  # millions of tuples and no cycles: looking for those takes a tenth of the time
    try:
        return Explorer(setting).run(limit, progress)
    finally:
        if collecting:
            gc.enable()
