"""The verdict against a naive second implementation, over complete spaces of situations, and what must hold in all.

Nothing is sampled: see core_lazy for how the spaces are walked and how their completeness is checked. `pytest -s` shows
the counts. Under `active-first` the spaces are multiplied by the roles, so they have fewer values of what does not
depend on the rank policy; HEARTGATE_FULL=1 walks through those completely as well (some minutes).
"""

from __future__ import annotations

import os
import time
from itertools import combinations
from typing import Any, Dict, List, Mapping, Sequence, Tuple, cast

import pytest

from heartgate.core import verdict
from heartgate.core.model import Config, Disk, Link, LinkReport, Message, Rank, Role, Standing, make_config
from tests.unit import core_oracle
from tests.unit.core_lazy import Key, LazyMessage, Situations

pytestmark = pytest.mark.apart

TWO: Mapping[str, int] = {"nodea": 1, "nodeb": 2}
THREE: Mapping[str, int] = {"nodea": 1, "nodeb": 2, "nodec": 3}
WITH_DATA = (Disk.UPTODATE, Disk.CONSISTENT, Disk.OUTDATED)
CLAIMS = (Standing.SYNCED, Standing.SOLO, Standing.DECIDING)
SERVING = (Standing.SYNCED, Standing.SOLO)


class NobodysConfig:
    """A Config that does not tell whose it is: a verdict that depended on the node would fail on it."""

    def __init__(self, priorities: Mapping[str, int], rank: Rank) -> None:
        self._config = make_config("data", "nodea", priorities, rank)

    @property
    def me(self) -> str:
        raise AssertionError("the verdict depends on the node that computes it")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config, name)


def two_node_fields(priorities: Mapping[str, int]) -> Dict[Key, Sequence[Any]]:
    fields: Dict[Key, Sequence[Any]] = {}
    for node in priorities:
        fields[(node, "standing")] = tuple(Standing)
        fields[(node, "epoch")] = (0, 1, 2)
        fields[(node, "in_sync")] = (tuple(priorities), (node,), tuple(n for n in priorities if n != node))
        fields[(node, "disk")] = tuple(Disk)
        fields[(node, "role")] = tuple(Role)
        fields[(node, "data")] = ("", "old", "new", "fork")
        fields[(node, "promised_to")] = ("",)  # with two, nobody serves with another one when somebody comes back
        for peer in priorities:
            if peer != node:
                fields[(f"{node}>{peer}", "reported")] = (True, False)
                fields[(f"{node}>{peer}", "link")] = tuple(Link)
                fields[(f"{node}>{peer}", "incarnation")] = (1,)
                fields[(f"{node}>{peer}", "paired")] = (1, 0)  # match, mismatch; all counts: test_contact_complete
    return fields


def less(fields: Dict[Key, Sequence[Any]], **domains: Sequence[Any]) -> Dict[Key, Sequence[Any]]:
    """The fields with smaller domains, unless everything is asked for."""
    if os.environ.get("HEARTGATE_FULL") == "1":
        return fields
    return {key: domains.get(key[1], domain) for key, domain in fields.items()}


def three_node_fields(priorities: Mapping[str, int]) -> Dict[Key, Sequence[Any]]:
    """Connections are seen alike from both ends, and epochs differ by one at most; generations: two-node space."""
    fields: Dict[Key, Sequence[Any]] = {}
    everybody = tuple(priorities)
    for node in priorities:
        fields[(node, "standing")] = tuple(Standing)
        fields[(node, "epoch")] = (1, 2)
        fields[(node, "in_sync")] = (everybody, (node,))
        fields[(node, "disk")] = (Disk.UPTODATE, Disk.OUTDATED, Disk.INCONSISTENT, Disk.UNKNOWN)
        fields[(node, "role")] = (Role.PRIMARY, Role.SECONDARY)
        fields[(node, "data")] = ("",)
        fields[(node, "promised_to")] = ("", next(n for n in priorities if n != node))
    for one, other in combinations(everybody, 2):
        fields[(f"{one}-{other}", "contact")] = (True, False)
    return fields


def heard_sets(priorities: Mapping[str, int]) -> List[Tuple[str, ...]]:
    """Who can be heard, the node itself included: every set but the empty one."""
    nodes = tuple(priorities)
    return [heard for size in range(1, len(nodes) + 1) for heard in combinations(nodes, size)]


def check_plan(priorities: Mapping[str, int], rank: Rank, messages: Mapping[str, Message]) -> None:
    """The verdict is the oracle's, and what must hold of every verdict holds."""
    config = cast(Config, NobodysConfig(priorities, rank))
    plan = verdict.plan(config, messages)
    expected = core_oracle.verdict(rank, priorities, messages)
    found = None if plan is None else (plan.situation.value, plan.keep)
    assert found == expected, f"verdict {found}, oracle {expected}"
    if plan is not None:
        check_keep_set(priorities, rank, messages, plan)


def check_keep_set(
    priorities: Mapping[str, int], rank: Rank, messages: Mapping[str, Message], plan: verdict.Plan
) -> None:
    keep = plan.keep
    assert keep and len(set(keep)) == len(keep) and set(keep) <= set(messages), "a keep set of nodes that can be heard"
    reunion = plan.situation is verdict.Situation.REUNION
    already = {n for n in keep if messages[n].standing in SERVING} if reunion else set()
    for one, other in combinations(keep, 2):
        if not {one, other} <= already:
            assert core_oracle.in_contact(messages[one], messages[other]), f"{one} and {other} are kept without contact"
    for node in keep:
        message = messages[node]
        if plan.situation is verdict.Situation.SPLIT:
            assert message.disk is Disk.UPTODATE and message.standing in CLAIMS, f"{node} is no candidate"
        elif node not in already:
            assert message.disk in WITH_DATA, f"{node} is kept with {message.disk} data"
            assert not reunion or message.disk is Disk.UPTODATE, f"{node} is readmitted with {message.disk} data"
    if plan.situation is verdict.Situation.SPLIT and rank is Rank.PRIORITY:
        newest = max(core_oracle.place(messages, n) for n, m in messages.items() if m.standing in CLAIMS)
        better = [n for n in messages if priorities[n] < priorities[plan.leader]]
        for node in better:
            fit = messages[node].standing in CLAIMS and core_oracle.place(messages, node) == newest
            assert not (fit and messages[node].disk is Disk.UPTODATE), f"{node} has the better priority and lost"


def walk(
    name: str, priorities: Mapping[str, int], fields: Mapping[Key, Sequence[Any]], rank: Rank, joint: bool = False
) -> None:
    started, runs, total = time.monotonic(), 0, 0
    for heard in heard_sets(priorities):
        space = Situations(fields)
        messages = cast(Mapping[str, Message], {node: LazyMessage(space, node, joint) for node in heard})
        space.run(lambda messages=messages: check_plan(priorities, rank, messages))  # type: ignore[misc]
        assert space.covered == space.total, "situations were left out"
        if rank is Rank.PRIORITY:
            assert "role" not in {field for _, field in space.ever_read}, "priority alone decides"
        runs, total = runs + space.runs, total + space.total
    spent = time.monotonic() - started
    print(f"\n{name}, {rank.value}: {total:,} situations, {runs:,} of them different for the verdict, {spent:.1f} s")


@pytest.mark.req("A3")
def test_contact_complete() -> None:
    """Every pair of reports: unreported, or any link state, count 0..3 and partner's count 0..3."""
    reports = [None, *((link, own, paired) for link in Link for own in range(4) for paired in range(4))]
    pairs = 0
    for left in reports:
        for right in reports:
            one = told("nodea", links=() if left is None else (LinkReport("nodeb", *left),))
            other = told("nodeb", links=() if right is None else (LinkReport("nodea", *right),))
            expected = core_oracle.in_contact(one, other)
            assert verdict.contact(one, other) == expected == verdict.contact(other, one), (left, right)
            pairs += 1
    print(f"\ncontact: {pairs:,} pairs of reports")


def told(node: str, **fields: Any) -> Message:
    plain = Message("data", node, "run", Standing.SYNCED, 1, tuple(TWO), Disk.UPTODATE, Role.SECONDARY, "g", (), ())
    return plain._replace(**fields)


@pytest.mark.apart("first")
@pytest.mark.req("A1", "A3", "A10")
@pytest.mark.parametrize("rank", list(Rank), ids=lambda r: str(r.value))
def test_two_nodes_complete(rank: Rank) -> None:
    fields = two_node_fields(TWO)
    if rank is Rank.ACTIVE_FIRST:
        disks = (Disk.UPTODATE, Disk.OUTDATED, Disk.INCONSISTENT)
        fields = less(fields, disk=disks, data=("", "old", "new"), role=(Role.PRIMARY, Role.UNKNOWN))
    walk("two nodes", TWO, fields, rank)


@pytest.mark.req("A10")
def test_everybody_gathers_the_same_messages() -> None:
    """by_node: whoever computes, the messages are the same ones, and strangers' are left out."""
    said = {node: told(node, epoch=priority) for node, priority in THREE.items()}
    stranger = ("stranger", told("stranger"))
    for me in THREE:
        config = make_config("data", me, THREE)
        heard = tuple((node, message) for node, message in said.items() if node != me)
        assert verdict.by_node(config, said[me], (*heard, stranger)) == said


@pytest.mark.req("A1", "A10")
@pytest.mark.parametrize("rank", list(Rank), ids=lambda r: str(r.value))
def test_three_nodes(rank: Rank) -> None:
    fields = three_node_fields(THREE)
    if rank is Rank.ACTIVE_FIRST:
        fields = less(fields, disk=(Disk.UPTODATE, Disk.INCONSISTENT), in_sync=(tuple(THREE),))
    walk("three nodes", THREE, fields, rank, joint=True)


WRONG: Dict[str, Tuple[str, Any]] = {
    "connections-not-paired": ("contact", verdict.link_up),
    "one-end-is-enough": ("contact", lambda one, other: one.link_to(other.sender) is not None),
    "last-rank-first": ("ranked", lambda config, messages, nodes: sorted(nodes, key=config.priority, reverse=True)),
    "everybody-is-kept": ("clique", lambda config, messages, ranks: tuple(ranks)),
    "alone-always": ("clique", lambda config, messages, ranks: tuple(ranks[:1])),
    "old-data-may-win": ("_newest", lambda messages, node: True),
    "nobody-may-meet": ("_meeting", lambda config, messages: None),
    "nobody-comes-back": ("_reunion", lambda config, messages, current: None),
    "nobody-splits": ("_split", lambda config, messages, current: None),
    "unproven-is-a-claim": ("CURRENT", frozenset(Standing) - {Standing.BLOCKED}),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_a_wrong_verdict_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, *WRONG[name])
    with pytest.raises(AssertionError, match="in the situation"):
        walk("two nodes", TWO, two_node_fields(TWO), Rank.PRIORITY)


def test_a_chain_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def chain(config: Config, messages: Mapping[str, Message], ranks: List[str]) -> Tuple[str, ...]:
        keep: List[str] = []
        for node in ranks:
            if not keep or any(verdict.contact(messages[node], messages[taken]) for taken in keep):
                keep.append(node)
        return tuple(keep)

    monkeypatch.setattr(verdict, "clique", chain)
    with pytest.raises(AssertionError, match="in the situation"):
        walk("three nodes", THREE, three_node_fields(THREE), Rank.PRIORITY, joint=True)
