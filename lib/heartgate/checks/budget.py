"""The timeout budget (E5, D2): the times of Corosync, knet, DRBD, SBD, Pacemaker and heartgate as named inequalities.

A law is a line of the table in `budget_laws.py`, over roles; `budget_quantities.py` finds the quantities in the configuration and
puts them into the roles. An inequality with a quantity that is not known is unknown, never satisfied.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from fractions import Fraction
from functools import reduce
from typing import Dict, FrozenSet, List, Mapping, Optional, Tuple

from heartgate.checks import linear
from heartgate.checks.budget_laws import LAWS, Law
from heartgate.checks.findings import Finding, RuleInfo, Severity

RULES: Mapping[str, RuleInfo] = {
    law.name: RuleInfo(law.name, law.severity, law.requirement, f"{law.formula}. {law.reason}") for law in LAWS
}


@dataclass(frozen=True)
class Quantity:
    """A time. ms: None if it is not known, and `where` says why; else `where` is "corosync.conf:5", "default", ...

    setting: how a person changes it ("token in totem { } of corosync.conf"); empty for what is built in. unit_ms: the step that
    it can be set in.
    """

    name: str
    ms: Optional[int]
    where: str
    setting: str = ""
    unit_ms: int = 1


@dataclass(frozen=True)
class Expression:
    """A sum of quantities, each with a factor, and a constant. What is left to a default may be a share of another quantity."""

    terms: Tuple[Tuple[str, Fraction], ...] = ()
    constant_ms: Fraction = Fraction(0)

    def plus(self, other: Expression) -> Expression:
        terms: Dict[str, Fraction] = dict(self.terms)
        for name, factor in other.terms:
            terms[name] = terms.get(name, Fraction(0)) + factor
        return Expression(tuple(sorted(terms.items())), self.constant_ms + other.constant_ms)

    def times(self, factor: Fraction) -> Expression:
        return Expression(tuple((name, each * factor) for name, each in self.terms), self.constant_ms * factor)

    @property
    def names(self) -> FrozenSet[str]:
        return frozenset(name for name, _ in self.terms)


def of(quantity: Quantity) -> Expression:
    return Expression(((quantity.name, Fraction(1)),))


class Status(Enum):
    HOLDS = "holds"
    VIOLATED = "violated"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Inequality:
    """A law in one place: left <= right. subject: the link, resource or agent that it is about."""

    law: Law
    subject: str
    left: Expression
    right: Expression

    @property
    def names(self) -> Tuple[str, ...]:
        return tuple(sorted(self.left.names | self.right.names))


@dataclass(frozen=True)
class Budget:
    """Everything that the configuration says about time."""

    quantities: Mapping[str, Quantity]
    inequalities: Tuple[Inequality, ...]

    def status(self, inequality: Inequality) -> Status:
        if self.unknown(inequality):
            return Status.UNKNOWN
        return Status.HOLDS if _constraint(inequality).holds(self._values()) else Status.VIOLATED

    def unknown(self, inequality: Inequality) -> Tuple[Quantity, ...]:
        return tuple(self.quantities[name] for name in inequality.names if self.quantities[name].ms is None)

    def value(self, expression: Expression) -> Optional[Fraction]:
        """Milliseconds; None if a quantity is not known."""
        total = expression.constant_ms
        for name, factor in expression.terms:
            ms = self.quantities[name].ms
            if ms is None:
                return None
            total += factor * ms
        return total

    def _values(self) -> Dict[str, Fraction]:
        return {name: Fraction(item.ms) for name, item in self.quantities.items() if item.ms is not None}

    def _units(self) -> Dict[str, Fraction]:
        return {name: Fraction(item.unit_ms) for name, item in self.quantities.items() if item.ms is not None and item.setting}

    def conflict(self) -> Optional[Tuple[Quantity, ...]]:
        """The smallest set of settings that cannot stand together, whatever the others are. None: no inequality is violated."""
        system = [_constraint(item) for item in self.inequalities if self.status(item) is not Status.UNKNOWN]
        found = linear.smallest_conflict(system, self._values(), frozenset(self._units()))
        return None if found is None else tuple(self.quantities[name] for name in sorted(found))

    def change(self, of_one: Optional[Inequality] = None) -> Optional[Tuple[Change, ...]]:
        """The fewest settings to change so that all inequalities hold (or one of them, and those that hold now still do)."""
        wanted = [
            item
            for item in self.inequalities
            if self.status(item) is Status.HOLDS or (self.status(item) is Status.VIOLATED and of_one in (None, item))
        ]
        found = linear.smallest_change([_constraint(item) for item in wanted], self._values(), self._units())
        if found is None:
            return None
        return tuple(
            Change(self.quantities[name], int(value))
            for name, value in sorted(found.items())
            if value != self.quantities[name].ms
        )

    def with_value(self, name: str, ms: Optional[int]) -> Budget:
        return replace(self, quantities={**self.quantities, name: replace(self.quantities[name], ms=ms)})


@dataclass(frozen=True)
class Change:
    quantity: Quantity
    ms: int

    def __str__(self) -> str:
        item = self.quantity
        bound = "at least" if item.ms is not None and self.ms > item.ms else "at most"
        before = f"now {shown(item.ms)}, {item.where}"
        return f"set {item.setting} to {bound} {shown(self.ms)} ({before})"


def _constraint(inequality: Inequality) -> linear.Constraint:
    left = inequality.left.plus(inequality.right.times(Fraction(-1)))
    return linear.constraint(dict(left.terms), -left.constant_ms)


def inequality(law: Law, subject: str, roles: Mapping[str, Expression]) -> Inequality:
    """A law over the quantities in its roles. "less than" is at least a millisecond less."""

    def side(terms: Tuple[Tuple[Fraction, str], ...]) -> Expression:
        return reduce(Expression.plus, (roles[role].times(factor) for factor, role in terms), Expression())

    margin = Expression((), Fraction(1 if law.strict else 0))
    return Inequality(law, subject, side(law.left).plus(margin), side(law.right))


def shown(ms: Optional[object]) -> str:
    """A time for a person, in milliseconds below ten seconds that are not whole."""
    if ms is None:
        return "unknown"
    value = Fraction(ms)  # type: ignore[call-overload]
    if value % 1000 == 0 and value:
        return f"{int(value) // 1000} s"
    return f"{int(value)} ms" if value.denominator == 1 else f"{float(value):.1f} ms"


def sentence(budget: Budget, item: Inequality) -> str:
    """`knet ping interval of link 0 (750 ms, default) + ... = 2250 ms, token (1 s, corosync.conf:4) = 1 s`."""
    margin = Expression((), Fraction(-1 if item.law.strict else 0))
    sides = (item.left.plus(margin), item.right)
    return f"{_side(budget, sides[0])} must be {'less than' if item.law.strict else 'at most'} {_side(budget, sides[1])}"


def _side(budget: Budget, expression: Expression) -> str:
    parts = []
    for name, factor in expression.terms:
        quantity = budget.quantities[name]
        times = "" if factor == 1 else f"{_number(factor)} x "
        parts.append(f"{times}{name} ({shown(quantity.ms)}, {quantity.where})")
    if expression.constant_ms or not parts:
        parts.append(shown(expression.constant_ms))
    total = budget.value(expression)
    whole = (
        f" = {shown(total)}"
        if total is not None and (len(parts) > 1 or any(factor != 1 for _, factor in expression.terms))
        else ""
    )
    return " + ".join(parts) + whole


def _number(factor: Fraction) -> str:
    return str(factor.numerator) if factor.denominator == 1 else f"{float(factor):g}"


def findings(budget: Budget) -> Tuple[Finding, ...]:
    """One for each inequality that is violated or unknown."""
    found: List[Finding] = []
    for item in budget.inequalities:
        status = budget.status(item)
        if status is Status.VIOLATED:
            found.append(Finding(item.law.name, item.law.severity, item.subject, sentence(budget, item), _remedy(budget, item)))
        elif status is Status.UNKNOWN:
            missing = ", ".join(f"{quantity.name} ({quantity.where})" for quantity in budget.unknown(item))
            found.append(
                Finding(
                    item.law.name,
                    Severity.UNKNOWN,
                    item.subject,
                    f"{item.law.formula}: not known: {missing}",
                    "make it readable, or write the value down, and check again",
                )
            )
    return tuple(found)


def _remedy(budget: Budget, item: Inequality) -> str:
    changes = budget.change(item)
    if not changes:
        return "no change of settings mends this without breaking another: see `heartgate budget`"
    return "; ".join(map(str, changes))
