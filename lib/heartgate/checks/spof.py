"""Single points of failure (A9, E4): the smallest sets of parts whose loss cuts all heartbeats, all sync links, or both.

Parts (adapter ports, cards, bonds, switches ...) need other parts: all of them, or any one of them. A channel between two nodes
needs parts in the same way. A part is lost if it fails itself or if what it needs is lost. The sets are exact up to three parts.
A host's own failure is no way of cutting: a dead host is no second writer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Callable, Dict, FrozenSet, Iterable, Iterator, List, Mapping, Optional, Sequence, Set, Tuple, Union

from heartgate.checks.findings import Finding, RuleInfo, Severity
from heartgate.checks.lint_facts import table

LARGEST_SET = 3
HEARTBEAT, SYNC = "heartbeat", "sync"

RULES: Mapping[str, RuleInfo] = table(
    RuleInfo(
        "spof-all",
        Severity.ERROR,
        "A9",
        "No single part carries all heartbeats and all sync links: without it the nodes can "
        "neither agree nor replicate; only fencing is left to decide who goes on.",
    ),
    RuleInfo(
        "spof-heartbeat",
        Severity.WARNING,
        "A9",
        "No single part carries all heartbeats: without any, the nodes cannot agree who goes on.",
    ),
    RuleInfo(
        "spof-sync",
        Severity.NOTE,
        "E4",
        "No single part carries all sync links: its loss blocks the replica of the lower priority.",
    ),
    RuleInfo("spof-sets", Severity.NOTE, "A9", "Which two or three parts together cut all heartbeats and all sync links."),
    RuleInfo("spof-no-heartbeat", Severity.ERROR, "A2", "There is a heartbeat link between each two nodes."),
    RuleInfo("spof-unknown", Severity.UNKNOWN, "E4", "What every part runs on is known; what is not known may be shared."),
)


class GraphError(ValueError):
    """A graph that contradicts itself: a part that does not exist, or needs itself."""


@dataclass(frozen=True)
class All:
    """Every one of these is needed."""

    items: Tuple[Need, ...]


@dataclass(frozen=True)
class AnyOf:
    """One of these is enough; at least one has to be given."""

    items: Tuple[Need, ...]


Need = Union[str, All, AnyOf]  # a string is the ident of a part


@dataclass(frozen=True)
class Part:
    """kind: port, card, bond, vlan, bridge, switch ... host: empty for what is in between. fails: False for what is made of
    others and breaks only with them (a bond, a VLAN). unknown: why what it runs on is not known, empty if it is."""

    ident: str
    label: str
    kind: str
    host: str = ""
    needs: Optional[Need] = None
    fails: bool = True
    unknown: str = ""

    @property
    def name(self) -> str:
        return f"{self.kind} {self.label}" + (f" of {self.host}" if self.host else "")


@dataclass(frozen=True)
class Channel:
    """A link between two nodes. carries: HEARTBEAT, SYNC or both."""

    ident: str
    label: str
    nodes: Tuple[str, str]
    carries: Tuple[str, ...]
    needs: Need


@dataclass(frozen=True)
class Graph:
    parts: Tuple[Part, ...]
    channels: Tuple[Channel, ...]

    @property
    def pairs(self) -> Tuple[Tuple[str, str], ...]:
        return tuple(sorted({(min(channel.nodes), max(channel.nodes)) for channel in self.channels}))

    def between(self, pair: Tuple[str, str], carries: Optional[str] = None) -> Tuple[Channel, ...]:
        return tuple(
            channel
            for channel in self.channels
            if set(channel.nodes) == set(pair) and (carries is None or carries in channel.carries)
        )


class Goal(Enum):
    HEARTBEATS = "all heartbeats"
    SYNC = "all sync links"
    BOTH = "all heartbeats and all sync links"


Cuts = FrozenSet[FrozenSet[str]]
_UNCUT: Cuts = frozenset({frozenset()})  # what is lost already: nothing more has to fail


@dataclass(frozen=True)
class Weakness:
    """All minimal sets of at most three parts that reach a goal between two nodes; smallest first, then by name."""

    pair: Tuple[str, str]
    goal: Goal
    sets: Tuple[Tuple[str, ...], ...]

    def of_size(self, size: int) -> Tuple[Tuple[str, ...], ...]:
        return tuple(each for each in self.sets if len(each) == size)


# --- cut sets


def needed(need: Optional[Need]) -> Iterator[str]:
    """Idents of the parts that a need names."""
    if isinstance(need, str):
        yield need
    elif need is not None:
        for item in need.items:
            yield from needed(item)


def check(graph: Graph) -> None:
    """Raises GraphError."""
    parts = {part.ident: part for part in graph.parts}
    if len(parts) != len(graph.parts):
        raise GraphError("two parts have the same ident")
    for name, need in [
        *((part.ident, part.needs) for part in graph.parts),
        *((each.ident, each.needs) for each in graph.channels),
    ]:
        for ident in needed(need):
            if ident not in parts:
                raise GraphError(f"{name} needs {ident}, and there is no such part")
        if _has_empty_choice(need):
            raise GraphError(f"{name} needs any one of nothing")
    done: Set[str] = set()
    for ident in parts:
        _walk(ident, parts, done, [])


def _has_empty_choice(need: Optional[Need]) -> bool:
    if need is None or isinstance(need, str):
        return False
    return (isinstance(need, AnyOf) and not need.items) or any(map(_has_empty_choice, need.items))


def _walk(ident: str, parts: Mapping[str, Part], done: Set[str], above: List[str]) -> None:
    if ident in above:
        raise GraphError(f"{ident} needs itself, by way of {', '.join(above[above.index(ident) + 1 :]) or 'nothing'}")
    if ident not in done:
        for inner in needed(parts[ident].needs):
            _walk(inner, parts, done, [*above, ident])
        done.add(ident)


def _minimal(sets: Iterable[FrozenSet[str]]) -> Cuts:
    kept: List[FrozenSet[str]] = []
    for each in sorted(set(sets), key=len):
        if len(each) <= LARGEST_SET and not any(smaller <= each for smaller in kept):
            kept.append(each)
    return frozenset(kept)


def _any_cut(cuts: Iterable[Cuts]) -> Cuts:
    """What cuts one of them."""
    return _minimal(each for one in cuts for each in one)


def _all_cut(cuts: Iterable[Cuts]) -> Cuts:
    """What cuts every one of them."""
    found = _UNCUT
    for one in cuts:
        found = _minimal(each | other for each in found for other in one)
    return found


class _Cutter:
    def __init__(self, graph: Graph) -> None:
        check(graph)
        self._parts = {part.ident: part for part in graph.parts}
        self._known: Dict[str, Cuts] = {}

    def need(self, need: Optional[Need]) -> Cuts:
        if need is None:
            return frozenset()
        if isinstance(need, str):
            return self._part(need)
        combine: Callable[[Iterable[Cuts]], Cuts] = _any_cut if isinstance(need, All) else _all_cut
        return combine([self.need(item) for item in need.items])

    def _part(self, ident: str) -> Cuts:
        if ident not in self._known:
            part = self._parts[ident]
            own = frozenset({frozenset({ident})}) if part.fails else frozenset()
            self._known[ident] = _any_cut([own, self.need(part.needs)])
        return self._known[ident]


def weaknesses(graph: Graph) -> Tuple[Weakness, ...]:
    """For each two nodes and each goal that there is a channel for. Raises GraphError."""
    cutter = _Cutter(graph)
    found = []
    for pair in graph.pairs:
        wanted = {
            Goal.HEARTBEATS: graph.between(pair, HEARTBEAT),
            Goal.SYNC: graph.between(pair, SYNC),
            Goal.BOTH: graph.between(pair),
        }
        for goal, channels in wanted.items():
            if goal is Goal.BOTH and not (wanted[Goal.HEARTBEATS] and wanted[Goal.SYNC]):
                continue
            if channels:
                cuts = _all_cut([cutter.need(channel.needs) for channel in channels])
                found.append(
                    Weakness(
                        pair, goal, tuple(sorted((tuple(sorted(each)) for each in cuts), key=lambda each: (len(each), each)))
                    )
                )
    return tuple(found)


# --- saying it

Choice = Tuple[str, ...]


def grouped(sets: Sequence[Tuple[str, ...]]) -> Tuple[Tuple[Choice, ...], ...]:
    """The same sets, told shortly: each is one of every choice, and every way to choose is a set. Parts that can stand for each
    other in all sets (the two ends of a cable, a port and its card) make a choice."""
    partners: Dict[str, Set[FrozenSet[str]]] = {}
    for each in sets:
        for ident in each:
            partners.setdefault(ident, set()).add(frozenset(each) - {ident})
    alike: Dict[FrozenSet[FrozenSet[str]], List[str]] = {}
    for ident in sorted(partners):
        alike.setdefault(frozenset(partners[ident]), []).append(ident)
    choice = {ident: tuple(idents) for idents in alike.values() for ident in idents}
    return tuple(dict.fromkeys(tuple(sorted(choice[ident] for ident in each)) for each in sets))


def _told(graph: Graph, choices: Sequence[Choice]) -> str:
    names = {part.ident: part.name for part in graph.parts}
    listed = [", ".join(names[ident] for ident in choice) for choice in choices]
    if len(choices) == 1:
        return ("any one of " if len(choices[0]) > 1 else "") + listed[0]
    return " together with ".join(f"one of ({each})" if len(choice) > 1 else each for each, choice in zip(listed, choices))


def findings(graph: Graph) -> Tuple[Finding, ...]:
    """Raises GraphError."""
    found: List[Finding] = []
    listed = weaknesses(graph)
    for pair in graph.pairs:
        subject = " - ".join(pair)
        if not graph.between(pair, HEARTBEAT):
            evidence = f"no heartbeat link between {pair[0]} and {pair[1]}"
            remedy = "add one, on an adapter of its own: ring addresses in corosync.conf"
            found.append(Finding("spof-no-heartbeat", Severity.ERROR, subject, evidence, remedy, pair))
        found += _of_pair(graph, subject, {weak.goal: weak for weak in listed if weak.pair == pair})
    for part in graph.parts:
        if part.unknown:
            evidence = f"what {part.name} runs on is not known: {part.unknown}"
            remedy = "look by hand whether it shares anything with another link"
            nodes = (part.host,) if part.host else ()
            found.append(Finding("spof-unknown", Severity.UNKNOWN, part.name, evidence, remedy, nodes))
    return tuple(found)


_REMEDIES = {
    "spof-all": "add a heartbeat that needs none of these: another adapter, another card, a cable of its own",
    "spof-heartbeat": "add a heartbeat that needs none of these; giving knet the sync network as its last link helps too",
    "spof-sync": "add a sync link that needs none of these, if the block of a replica costs too much",
}


def _of_pair(graph: Graph, subject: str, weak: Mapping[Goal, Weakness]) -> Iterator[Finding]:
    both = weak.get(Goal.BOTH)
    fatal = both.of_size(1) if both else ()
    for goal, rule in ((Goal.BOTH, "spof-all"), (Goal.HEARTBEATS, "spof-heartbeat"), (Goal.SYNC, "spof-sync")):
        single = weak[goal].of_size(1) if goal in weak else ()
        shown = tuple(each for each in single if goal is Goal.BOTH or each not in fatal)
        if shown:
            parts = _told(graph, [tuple(ident for (ident,) in shown)])
            evidence = f"{goal.value} between {weak[goal].pair[0]} and {weak[goal].pair[1]} are lost with {parts}"
            yield Finding(rule, RULES[rule].severity, subject, evidence, _REMEDIES[rule], weak[goal].pair)
    if both and both.sets and not fatal:
        listed = [_told(graph, each) for each in grouped(both.of_size(len(both.sets[0])))]
        evidence = f"{Goal.BOTH.value} are lost with {_some(listed)}"
        yield Finding(
            "spof-sets", Severity.NOTE, subject, evidence, "nothing to do; a further heartbeat makes it rarer", both.pair
        )


def _some(listed: Sequence[str], most: int = 3) -> str:
    return "; or ".join(listed[:most]) + (f"; or in {len(listed) - most} more ways" if len(listed) > most else "")


def text(graph: Graph) -> str:
    """For a terminal. Raises GraphError."""
    lines: List[str] = []
    listed = weaknesses(graph)
    for pair in graph.pairs:
        lines += [*([""] if lines else []), f"{pair[0]} - {pair[1]}"]
        for carries, title in ((HEARTBEAT, "heartbeats"), (SYNC, "sync links")):
            labels = ", ".join(channel.label for channel in graph.between(pair, carries)) or "none"
            lines.append(f"  {title}: {labels}")
        for weak in listed:
            if weak.pair == pair:
                lines += _lines(graph, weak)
    unknown = [part for part in graph.parts if part.unknown]
    lines += ["", *(f"not known: what {part.name} runs on ({part.unknown})" for part in unknown)] if unknown else []
    return "\n".join(lines)


def _lines(graph: Graph, weak: Weakness) -> Iterator[str]:
    yield f"  {weak.goal.value} are lost with"
    if not weak.sets:
        yield f"    nothing up to {LARGEST_SET} parts at once"
    for each in grouped(weak.sets):
        yield f"    {_told(graph, each)}"
