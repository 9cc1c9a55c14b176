"""Small exact systems of linear inequalities: can they hold, which given values cannot stand together, what is the least to change.

Variables are zero or more. Everything is in fractions, so an answer is never a matter of rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations, permutations
from typing import Dict, FrozenSet, Iterable, List, Mapping, Optional, Sequence, Set, Tuple

Values = Mapping[str, Fraction]
MOST_CHANGES = 3


@dataclass(frozen=True)
class Constraint:
    """Sum of factor x variable <= bound. terms: sorted by name, no factor zero."""

    terms: Tuple[Tuple[str, Fraction], ...]
    bound: Fraction

    def holds(self, values: Values) -> bool:
        return sum((factor * values[name] for name, factor in self.terms), Fraction(0)) <= self.bound

    @property
    def names(self) -> FrozenSet[str]:
        return frozenset(name for name, _ in self.terms)


def constraint(terms: Mapping[str, Fraction], bound: Fraction) -> Constraint:
    return Constraint(tuple(sorted((name, factor) for name, factor in terms.items() if factor)), bound)


def _fixed(system: Iterable[Constraint], values: Values) -> List[Constraint]:
    """The system with some variables replaced by their values."""
    found = []
    for item in system:
        rest = {name: factor for name, factor in item.terms if name not in values}
        spent = sum((factor * values[name] for name, factor in item.terms if name in values), Fraction(0))
        found.append(constraint(rest, item.bound - spent))
    return found


def _tightest(system: Iterable[Constraint]) -> Optional[List[Constraint]]:
    """One constraint for each direction. None: one of them can never hold."""
    best: Dict[Tuple[Tuple[str, Fraction], ...], Fraction] = {}
    for item in system:
        if not item.terms:
            if item.bound < 0:
                return None
            continue
        scale = abs(item.terms[0][1])
        terms = tuple((name, factor / scale) for name, factor in item.terms)
        best[terms] = min(best.get(terms, item.bound / scale), item.bound / scale)
    return [Constraint(terms, bound) for terms, bound in best.items()]


def _eliminate(system: Sequence[Constraint], name: str) -> List[Constraint]:
    """Fourier-Motzkin: what the system says about the other variables. Zero or more counts as a lower limit."""
    upper: List[Constraint] = []
    lower = [constraint({name: Fraction(-1)}, Fraction(0))]
    rest: List[Constraint] = []
    for item in system:
        factor = dict(item.terms).get(name, Fraction(0))
        (upper if factor > 0 else lower if factor < 0 else rest).append(item)
    for above in upper:
        for below in lower:
            one, two = dict(above.terms), dict(below.terms)
            up, down = one[name], -two[name]
            terms = {each: one.get(each, Fraction(0)) / up + two.get(each, Fraction(0)) / down for each in {*one, *two}}
            terms[name] = Fraction(0)
            rest.append(constraint(terms, above.bound / up + below.bound / down))
    return rest


def _project(system: Iterable[Constraint], keep: Optional[str]) -> Optional[List[Constraint]]:
    """Eliminate everything but `keep`. None: it can never hold."""
    left = _tightest(system)
    while left is not None:
        counts: Dict[str, List[int]] = {}
        for item in left:
            for name, factor in item.terms:
                if name != keep:
                    counts.setdefault(name, [0, 1])[0 if factor > 0 else 1] += 1
        if not counts:
            return left
        name = min(counts, key=lambda each: (counts[each][0] * counts[each][1], each))
        left = _tightest(_eliminate(left, name))
    return None


def feasible(system: Iterable[Constraint], fixed: Values) -> bool:
    """Whether the other variables can be chosen so that all hold."""
    return _project(_fixed(system, fixed), None) is not None


def interval(system: Iterable[Constraint], fixed: Values, name: str) -> Optional[Tuple[Fraction, Optional[Fraction]]]:
    """(least, most or None) of one variable while the others may be chosen. None: it has no value."""
    left = _project(_fixed(system, fixed), name)
    if left is None:
        return None
    least, most = Fraction(0), None
    for item in left:
        factor = item.terms[0][1]
        if factor > 0:
            most = item.bound / factor if most is None else min(most, item.bound / factor)
        else:
            least = max(least, item.bound / factor)
    return None if most is not None and most < least else (least, most)


def component(system: Sequence[Constraint], values: Values, movable: FrozenSet[str]) -> List[Constraint]:
    """The constraints that have to do with those that do not hold, through variables that may change."""
    chosen = [item for item in system if not item.holds(values)]
    rest = [item for item in system if item.holds(values)]
    while True:
        names = {name for item in chosen for name in item.names & movable}
        near = [item for item in rest if item.names & names]
        if not near:
            return chosen
        chosen += near
        rest = [item for item in rest if not item.names & names]


def smallest_conflict(system: Sequence[Constraint], values: Values, movable: FrozenSet[str]) -> Optional[FrozenSet[str]]:
    """The smallest set of variables whose values cannot stand together, whatever the other movable ones are; of several, always
    the same. Empty: what is not movable is in conflict by itself. None: everything holds."""
    if all(item.holds(values) for item in system):
        return None
    related = component(system, values, movable)
    constants = {name: value for name, value in values.items() if name not in movable}
    names = sorted({name for item in related for name in item.names & movable})
    most = min(len(item.names & movable) for item in related if not item.holds(values))
    for size in range(most):
        for chosen in combinations(names, size):
            if not feasible(related, {**constants, **{name: values[name] for name in chosen}}):
                return frozenset(chosen)
    broken = [item.names & movable for item in related if not item.holds(values)]
    return min((names for names in broken if len(names) == most), key=sorted)


def smallest_change(
    system: Sequence[Constraint], values: Values, units: Mapping[str, Fraction]
) -> Optional[Mapping[str, Fraction]]:
    """The fewest variables to change so that all hold, and of these the least change in proportion. `units`: the movable ones
    and the step that each can be set in. Empty: everything holds. None: there is no way.

    What has nothing to do with each other is solved by itself. Where more than three changes are needed in one piece, they are
    some of which none can be left out, and not surely the fewest.
    """
    found: Dict[str, Fraction] = {}
    for piece in _pieces(component(system, values, frozenset(units)), frozenset(units)):
        change = _change(piece, values, units)
        if change is None:
            return None
        found.update(change)
    return found


def _pieces(system: Sequence[Constraint], movable: FrozenSet[str]) -> List[List[Constraint]]:
    """Constraints that share no movable variable, not even by way of others, apart."""
    pieces: List[Tuple[Set[str], List[Constraint]]] = []
    for item in system:
        names, members = set(item.names & movable), [item]
        for piece in [each for each in pieces if each[0] & names]:
            pieces.remove(piece)
            names |= piece[0]
            members = piece[1] + members
        pieces.append((names, members))
    return [members for _, members in pieces]


def _change(system: Sequence[Constraint], values: Values, units: Mapping[str, Fraction]) -> Optional[Mapping[str, Fraction]]:
    """smallest_change() of one piece, in which something does not hold."""
    names = sorted({name for item in system for name in item.names if name in units})
    broken = [item.names for item in system if not item.holds(values)]
    for size in range(1, MOST_CHANGES + 1):
        candidates: List[Dict[str, Fraction]] = []
        for chosen in combinations(names, size):
            if all(item & set(chosen) for item in broken):
                candidates += [
                    found for order in permutations(chosen) for found in [_chosen(system, values, units, order)] if found
                ]
        if candidates:
            return min(candidates, key=lambda found: (_cost(found, values), sorted(found)))
    return _chosen(system, values, units, _needed(system, values, names))


def _needed(system: Sequence[Constraint], values: Values, names: Sequence[str]) -> List[str]:
    """Variables that are enough to change; none of them can be left out."""
    free = list(names)
    for name in names:
        fewer = [each for each in free if each != name]
        if feasible(system, {each: value for each, value in values.items() if each not in fewer}):
            free = fewer
    return free


def _cost(change: Values, values: Values) -> Fraction:
    """How many times more or less than now. To lower counts double: a longer limit waits, a shorter one gives up sooner."""
    total = Fraction(0)
    for name in change:
        new, old = max(change[name], Fraction(1)), max(values[name], Fraction(1))
        total += new / old - 1 if new >= old else (old / new - 1) * 2
    return total


def _chosen(
    system: Sequence[Constraint], values: Values, units: Mapping[str, Fraction], order: Sequence[str]
) -> Optional[Dict[str, Fraction]]:
    fixed = {name: value for name, value in values.items() if name not in order}
    for name in order:
        limits = interval(system, fixed, name)
        value = None if limits is None else _nearest(values[name], limits, units[name])
        if value is None:
            return None
        fixed[name] = value
    if not all(item.holds(fixed) for item in system):
        return None
    return {name: fixed[name] for name in order}


def _nearest(value: Fraction, limits: Tuple[Fraction, Optional[Fraction]], unit: Fraction) -> Optional[Fraction]:
    """The value within the limits that is nearest, in whole units where it has to change."""
    least, most = limits
    if value >= least and (most is None or value <= most):
        return value
    if value < least:
        found = -((-least) // unit) * unit
        return found if most is None or found <= most else None
    assert most is not None
    found = (most // unit) * unit
    return found if found >= least else None
