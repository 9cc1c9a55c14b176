"""Conflicts and changes against brute force: vertices of polyhedra, and whole grids of values."""

from __future__ import annotations

from fractions import Fraction
from itertools import chain, combinations, product
from typing import Dict, FrozenSet, Iterable, List, Mapping, Optional, Sequence, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartgate.checks import linear
from heartgate.checks.linear import Constraint, constraint

NAMES = ("a", "b", "c")


def solve(rows: Sequence[Tuple[List[Fraction], Fraction]]) -> Optional[List[Fraction]]:
    """The only solution of a square system, or None."""
    matrix = [[*row, right] for row, right in rows]
    size = len(matrix)
    for column in range(size):
        pivot = next((row for row in range(column, size) if matrix[row][column]), None)
        if pivot is None:
            return None
        matrix[column], matrix[pivot] = matrix[pivot], matrix[column]
        matrix[column] = [value / matrix[column][column] for value in matrix[column]]
        for row in range(size):
            if row != column:
                factor = matrix[row][column]
                matrix[row] = [one - factor * two for one, two in zip(matrix[row], matrix[column])]
    return [row[-1] for row in matrix]


def has_a_vertex(system: Sequence[Constraint], fixed: Mapping[str, Fraction]) -> bool:
    """A set of points that are zero or more, and satisfy <= inequalities, is not empty exactly if it has a corner."""
    free = [name for name in NAMES if name not in fixed]
    rows = []
    for item in system:
        terms = dict(item.terms)
        rows.append(
            (
                [terms.get(name, Fraction(0)) for name in free],
                item.bound - sum((factor * fixed[name] for name, factor in terms.items() if name in fixed), Fraction(0)),
            )
        )
    rows += [([Fraction(-1 if name == other else 0) for other in free], Fraction(0)) for name in free]
    for chosen in combinations(rows, len(free)):
        point = solve(chosen) if free else []
        if point is not None and all(sum((f * x for f, x in zip(row, point)), Fraction(0)) <= right for row, right in rows):
            return True
    return False


def subsets(names: Iterable[str]) -> Iterable[Tuple[str, ...]]:
    listed = sorted(names)
    return chain.from_iterable(combinations(listed, size) for size in range(len(listed) + 1))


small = st.integers(-3, 3).map(Fraction)
constraints = st.builds(
    constraint, st.dictionaries(st.sampled_from(NAMES), small, min_size=1, max_size=3), st.integers(-6, 9).map(Fraction)
)
values = st.fixed_dictionaries({name: st.integers(0, 6).map(Fraction) for name in NAMES})


@pytest.mark.apart
@settings(max_examples=200, deadline=None)
@given(st.lists(constraints, max_size=5), values, st.sets(st.sampled_from(NAMES)))
def test_feasible(system: List[Constraint], given_values: Dict[str, Fraction], kept: set[str]) -> None:
    fixed = {name: given_values[name] for name in kept}
    assert linear.feasible(system, fixed) == has_a_vertex(system, fixed)


@settings(max_examples=120, deadline=None)
@given(st.lists(constraints, min_size=1, max_size=5), values, st.sets(st.sampled_from(NAMES)))
def test_the_conflict_is_the_smallest(system: List[Constraint], given_values: Dict[str, Fraction], movable: set[str]) -> None:
    found = linear.smallest_conflict(system, given_values, frozenset(movable))
    constants = {name: value for name, value in given_values.items() if name not in movable}
    conflicts = [
        names
        for names in subsets(movable)
        if not has_a_vertex(system, {**constants, **{name: given_values[name] for name in names}})
    ]
    assert (found is None) == (not conflicts)
    if found is not None:
        assert tuple(sorted(found)) in conflicts and len(found) == len(conflicts[0])


differences = st.one_of(
    st.builds(
        lambda one, two, bound: constraint(
            {one: Fraction(1), two: Fraction(-1)} if one != two else {one: Fraction(1)}, Fraction(bound)
        ),
        st.sampled_from(NAMES),
        st.sampled_from(NAMES),
        st.integers(-3, 4),
    ),
    st.builds(lambda one, bound: constraint({one: Fraction(-1)}, Fraction(-bound)), st.sampled_from(NAMES), st.integers(0, 5)),
)
GRID = range(13)


def changes(system: Sequence[Constraint], before: Mapping[str, Fraction], movable: FrozenSet[str]) -> List[Dict[str, Fraction]]:
    """Every way to satisfy the system, as what is changed."""
    found = []
    for point in product(*(GRID if name in movable else [int(before[name])] for name in NAMES)):
        after = dict(zip(NAMES, map(Fraction, point)))
        if all(item.holds(after) for item in system):
            found.append({name: value for name, value in after.items() if value != before[name]})
    return found


@settings(max_examples=80, deadline=None)
@given(st.lists(differences, min_size=1, max_size=5), values, st.sets(st.sampled_from(NAMES)))
def test_the_change_is_the_smallest(system: List[Constraint], given_values: Dict[str, Fraction], movable: set[str]) -> None:
    found = linear.smallest_change(system, given_values, {name: Fraction(1) for name in movable})
    possible = changes(system, given_values, frozenset(movable))
    assert (found is None) == (not possible)
    if found is None:
        return
    assert all(item.holds({**given_values, **found}) for item in system)
    assert set(found) <= movable and len(found) == min(map(len, possible))
    if len(found) == 1:
        best = min(linear._cost(each, given_values) for each in possible if len(each) == 1)
        assert linear._cost(found, given_values) == best


def test_steps_are_kept() -> None:
    wanted = [constraint({"a": Fraction(12, 10), "b": Fraction(-1)}, Fraction(0))]
    before = {"a": Fraction(3010), "b": Fraction(3000)}
    assert linear.smallest_change(wanted, before, {"b": Fraction(1000)}) == {"b": Fraction(4000)}
    assert linear.smallest_change(wanted, before, {"a": Fraction(1000)}) == {"a": Fraction(2000)}


def test_more_than_three_changes() -> None:
    """Five independent ones, and five in one piece."""
    low = [constraint({name: Fraction(-1)}, Fraction(-5)) for name in "abcde"]
    before = dict.fromkeys("abcde", Fraction(1))
    units = dict.fromkeys("abcde", Fraction(1))
    assert linear.smallest_change(low, before, units) == dict.fromkeys("abcde", Fraction(5))
    chain_of = [constraint({one: Fraction(1), two: Fraction(-1)}, Fraction(-1)) for one, two in zip("abcd", "bcde")]
    found = linear.smallest_change([*chain_of, constraint({"e": Fraction(1)}, Fraction(9))], before, units)
    assert found is not None and all(item.holds({**before, **found}) for item in chain_of) and len(found) == 4
    assert linear.smallest_change([*chain_of, constraint({"e": Fraction(1)}, Fraction(2))], before, units) is None


@settings(max_examples=80, deadline=None)
@given(st.lists(differences, min_size=1, max_size=6), values, st.sets(st.sampled_from(NAMES)))
def test_what_is_needed_is_enough_and_nothing_of_it_can_stay(
    system: List[Constraint], given_values: Dict[str, Fraction], movable: set[str]
) -> None:
    names = sorted(movable)
    needed = linear._needed(system, given_values, names)
    fixed = {name: value for name, value in given_values.items() if name not in needed}
    if linear.feasible(system, {name: value for name, value in given_values.items() if name not in names}):
        assert linear.feasible(system, fixed)
        assert not any(linear.feasible(system, {**fixed, name: given_values[name]}) for name in needed)


def test_what_hangs_together_is_solved_together() -> None:
    """a < b, b <= c, a >= 5: the third has to do with the first by way of a piece that the second was added to."""
    one, two = Fraction(1), Fraction(-1)
    order, least = constraint({"a": one, "b": two}, two), constraint({"a": two}, Fraction(-5))
    system = [order, constraint({"b": one, "c": two}, Fraction(0)), least]
    before = {"a": one, "b": one, "c": Fraction(9)}
    found = linear.smallest_change(system, before, dict.fromkeys("abc", one))
    assert found == {"a": Fraction(5), "b": Fraction(6)}
