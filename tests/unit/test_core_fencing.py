"""Who may shoot: a table of standings, and what holds for any two nodes that decide about each other."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from heartgate.core.fencing import (
    RULES,
    DeviceFacts,
    Facts,
    Turn,
    Word,
    answer,
    bad_here,
    heard_bad,
    longest_s,
    rules_table,
)
from heartgate.core.model import Disk, Link, Rank, Role, Standing

ME, TARGET = "nodea", "nodeb"
BOTH = (ME, TARGET)
PRIMARY, SECONDARY = frozenset({Role.PRIMARY}), frozenset({Role.SECONDARY})
ANY = PRIMARY | SECONDARY

# Standing here against what is known of the target: R by rank, D refused for its data, O the target is out, ? not known here.
# never: never heard; l: heard now; k: its last word, under the same epoch.
COLUMNS = ("never", "l-synced", "l-deciding", "l-blocked", "l-unproven", "k-synced", "k-deciding", "k-blocked", "k-unproven")
TABLE = """
synced     R R R O O R R O O
deciding   R R R O O R R O O
solo       O O O O O O O O O
blocked    D D D R R D D D D
unproven   D D D R R D D D D
unknown    ? ? ? ? ? ? ? ? ?
"""


def one(standing: Optional[Standing] = Standing.SYNCED, **more: object) -> DeviceFacts:
    in_sync = (ME,) if standing is Standing.SOLO else BOTH
    facts = DeviceFacts("r0", standing, 4, in_sync, Disk.UPTODATE, Link.DOWN, Rank.PRIORITY, True, SECONDARY, Role.SECONDARY)
    return facts._replace(**more)


def about(*devices: DeviceFacts, **more: object) -> Facts:
    return Facts("off", ME, TARGET, devices)._replace(**more)


def cells() -> List[Tuple[str, str, str]]:
    rows = [line.split() for line in TABLE.split("\n") if line]
    return [(row[0], column, cell) for row in rows for column, cell in zip(COLUMNS, row[1:])]


def word_of(column: str) -> Optional[Word]:
    kind, _, standing = column.partition("-")
    return Word(Standing(standing), 4, kind == "l") if standing else None


@pytest.mark.req("E7", "E1")
def test_a_yes_that_counts_as_a_fencing_is_given_to_nobody() -> None:
    for facts in (about(one()), about(one(Standing.SOLO)), about(), about(one(), target=ME), about(one(Standing.BLOCKED))):
        found = answer(facts._replace(alone="nothing else"))
        assert (found.rule, found.passes, found.turn) == ("alone", False, Turn.AT_ONCE) and "nothing else" in found.reason
    assert answer(about(one(), action="on", alone="nothing else")).passes


@pytest.mark.req("E7", "A7", "A8")
@pytest.mark.parametrize(("standing", "column", "cell"), cells())
@pytest.mark.parametrize("before", [True, False])
def test_the_table_of_standings(standing: str, column: str, cell: str, before: bool) -> None:
    here = None if standing == "unknown" else Standing(standing)
    said = answer(about(one(here, target=word_of(column), before_target=before)))
    rank = ("first", True, Turn.AT_ONCE) if before else ("second", True, Turn.SECOND)
    wanted = {"R": rank, "D": ("data", False, Turn.AT_ONCE), "O": ("target-out", True, Turn.AT_ONCE),
              "?": ("not-known", True, Turn.LATE)}[cell]  # fmt: skip
    assert (said.rule, said.passes, said.turn) == wanted


@pytest.mark.req("E7")
@pytest.mark.parametrize(
    ("standing", "disk", "rule"),
    [
        (Standing.SYNCED, Disk.INCONSISTENT, "data"),
        (Standing.SYNCED, Disk.DISKLESS, "data"),
        (Standing.DECIDING, Disk.OUTDATED, "data"),
        (Standing.SOLO, Disk.OUTDATED, "target-out"),  # chosen in a meeting; the mark is being lifted
        (Standing.SOLO, Disk.INCONSISTENT, "data"),
        (Standing.SYNCED, Disk.CONSISTENT, "first"),
        (Standing.SYNCED, Disk.ABSENT, "first"),
        (Standing.SYNCED, Disk.UNKNOWN, "first"),
    ],
)
def test_the_disk_counts_beside_the_standing(standing: Standing, disk: Disk, rule: str) -> None:
    assert answer(about(one(standing, disk=disk))).rule == rule


@pytest.mark.parametrize(
    ("own", "target", "before", "rule"),
    [
        (PRIMARY, Role.SECONDARY, False, "first"),
        (SECONDARY, Role.PRIMARY, True, "second"),
        (SECONDARY, Role.SECONDARY, True, "first"),
        (SECONDARY, Role.SECONDARY, False, "second"),
        (PRIMARY, Role.PRIMARY, False, "second"),
        (ANY, Role.SECONDARY, True, "first"),  # whatever the target believes, this node is first
        (ANY, Role.SECONDARY, False, "unsure"),
        (ANY, Role.PRIMARY, True, "unsure"),
        (ANY, Role.PRIMARY, False, "second"),
        (frozenset({Role.UNKNOWN}), Role.SECONDARY, False, "unsure"),
        (SECONDARY, Role.UNKNOWN, True, "unsure"),
        (PRIMARY, Role.UNKNOWN, True, "first"),
    ],
)
def test_active_first_ranks_by_every_role_that_the_target_may_believe(
    own: frozenset[Role], target: Role, before: bool, rule: str
) -> None:
    device = one(policy=Rank.ACTIVE_FIRST, own_roles=own, target_role=target, before_target=before)
    assert answer(about(device)).rule == rule
    by_priority = answer(about(device._replace(policy=Rank.PRIORITY)))
    assert by_priority.rule == ("first" if before else "second"), "roles mean nothing to policy=priority"


def test_the_node_names_part_those_who_cannot_know() -> None:
    facts = about(one(None))
    assert answer(facts).turn is Turn.LATE
    assert answer(facts._replace(me=TARGET, target=ME)).turn is Turn.LAST
    assert answer(Facts("off", ME, TARGET, (), guards_any=False)).rule == "nothing-known"
    assert longest_s(10) == 30


def test_a_word_from_before_the_readmission_does_not_count() -> None:
    """nodeb was blocked under epoch 3 and was counted in again under 4; it may be the first rank by now."""
    old = one(target=Word(Standing.BLOCKED, 3, False), before_target=False)
    assert answer(about(old)).rule == "second"
    assert answer(about(old._replace(in_sync=(ME,)))).rule == "target-out"


@pytest.mark.parametrize("action", ["on", "status"])
def test_nothing_to_shoot(action: str) -> None:
    assert answer(about(one(Standing.BLOCKED), action=action))[:2] == ("on", True)


def test_the_target_is_this_node_or_holds_nothing() -> None:
    assert answer(about(one(Standing.BLOCKED), target=ME))[:2] == ("self", True)
    assert answer(about())[:3] == ("not-shared", True, Turn.AT_ONCE)
    assert answer(about(lacking=("r9",)))[:3] == ("not-known", True, Turn.LATE)


@pytest.mark.req("E7")
def test_a_disk_heartbeat_that_says_solo_refuses() -> None:
    for standing in (Standing.SYNCED, Standing.DECIDING, None):
        assert answer(about(one(standing, solo_on_disk=True)))[:2] == ("target-solo", False)


def test_hold_while_synced_needs_every_device_connected() -> None:
    up = one(link=Link.UP)
    held = about(up, up._replace(device="r1"), hold_while_synced=True)
    assert answer(held)[:3] == ("hold", False, Turn.SECOND)
    assert answer(held._replace(hold_while_synced=False)).rule == "first"
    for link in (Link.DOWN, Link.UNKNOWN):
        assert answer(about(up, up._replace(device="r1", link=link), hold_while_synced=True)).rule == "first"
    assert answer(about(up._replace(standing=Standing.BLOCKED), hold_while_synced=True)).rule == "data"


def test_contradicting_ranks() -> None:
    first, second = one(before_target=True), one(before_target=False)

    def rule(*devices: DeviceFacts) -> str:
        return answer(about(*(device._replace(device=f"r{n}") for n, device in enumerate(devices)))).rule

    assert rule(first, second) == "first" and rule(second, first) == "second"  # as many each: r0 decides
    assert rule(second, first, first) == "first" and rule(first, second, second) == "second"
    unsure = one(policy=Rank.ACTIVE_FIRST, own_roles=ANY, before_target=False)
    assert rule(first, unsure) == "unsure" and rule(first, first, unsure) == "first"
    # Each is the only one with good data of something: nobody is shot.
    assert rule(one(Standing.SOLO), one(Standing.BLOCKED)) == "data"
    # The target has to refuse for r1, so nobody waits for it because of r0.
    assert rule(second, one(Standing.SOLO)) == "target-out"
    # ... unless r0 is not known here: there the target may be the one with the data.
    assert rule(one(None), one(Standing.SOLO)) == "not-known"


# --- any two nodes --------------------------------------------------------------------------------------------------------

GOOD = (Standing.SYNCED, Standing.DECIDING)
BAD = (Standing.BLOCKED, Standing.UNPROVEN)
# Standings that can be true of two nodes at the same time: nobody serves alone beside one that may serve.
TOGETHER = [(a, b) for a in (*GOOD, *BAD) for b in (*GOOD, *BAD)] + [
    pair for bad in BAD for pair in ((Standing.SOLO, bad), (bad, Standing.SOLO))
]
Roles = Tuple[Role, "frozenset[Role]"]


@st.composite
def roles(draw: st.DrawFn) -> Roles:
    """(what the other one believes, every role that this node holds for possible): the first is always in the second."""
    believed = draw(st.sampled_from([Role.PRIMARY, Role.SECONDARY]))
    possible = [frozenset({believed}), ANY, frozenset({Role.UNKNOWN}), frozenset({believed, Role.UNKNOWN})]
    return believed, draw(st.sampled_from(possible))


@st.composite
def word(draw: st.DrawFn, truth: Standing, epoch: int, mine: int) -> Optional[Word]:
    """What one node knows of the other: the truth, or something older. Whoever may serve again after being blocked or
    unproven was readmitted by this node (a higher epoch of its own)."""
    choices: List[Optional[Word]] = [None, Word(truth, epoch, False), Word(truth, epoch, True)]
    older = draw(st.integers(0, epoch))
    choices += [Word(standing, older, False) for standing in GOOD]
    if truth in BAD:
        choices += [Word(standing, older, False) for standing in BAD]
    elif mine > 0:
        choices += [Word(standing, draw(st.integers(0, mine - 1)), False) for standing in BAD]
    return draw(st.sampled_from(choices))


@st.composite
def device_of_two(draw: st.DrawFn, name: str) -> Tuple[DeviceFacts, DeviceFacts]:
    ours, theirs = draw(st.sampled_from(TOGETHER))
    mine, other = draw(st.integers(0, 6)), draw(st.integers(0, 6))
    policy, before = draw(st.sampled_from(list(Rank))), draw(st.booleans())
    (role_a, possible_a), (role_b, possible_b) = draw(roles()), draw(roles())
    found: List[DeviceFacts] = []
    for standing, epoch, known, possible, target_role, first, me in (
        (ours, mine, draw(word(theirs, other, mine)), possible_a, role_b, before, ME),
        (theirs, other, draw(word(ours, mine, other)), possible_b, role_a, not before, TARGET),
    ):
        blind, daemon = draw(st.integers(0, 9)) == 0, draw(st.booleans())
        found.append(
            DeviceFacts(
                name,
                None if blind else standing,
                epoch,
                (me,) if standing is Standing.SOLO else BOTH,
                draw(st.sampled_from([Disk.UPTODATE, Disk.UNKNOWN, Disk.CONSISTENT, Disk.DISKLESS])),
                draw(st.sampled_from(list(Link))),
                None if blind and draw(st.booleans()) else policy,
                first,
                possible if daemon else frozenset({Role.UNKNOWN}),
                target_role if daemon else Role.UNKNOWN,
                known if daemon else None,
            )
        )
    return found[0], found[1]


@st.composite
def two_nodes(draw: st.DrawFn) -> Tuple[Facts, Facts]:
    pairs = [draw(device_of_two(f"r{n}")) for n in range(draw(st.integers(1, 3)))]
    hold = draw(st.booleans())
    a = Facts("off", ME, TARGET, tuple(pair[0] for pair in pairs), True, (), hold)
    b = Facts("off", TARGET, ME, tuple(pair[1] for pair in pairs), True, (), hold)
    nothing: Dict[str, object] = {"devices": (), "guards_any": False}
    first, second = (facts._replace(**nothing) if draw(st.integers(0, 9)) == 0 else facts for facts in (a, b))
    return first, second


@pytest.mark.req("A7", "A8")
@settings(max_examples=600, deadline=None)
@given(two_nodes())
@example((about(), about(me=TARGET, target=ME)))
def test_two_nodes_never_have_the_same_turn(nodes: Tuple[Facts, Facts]) -> None:
    one_of, other = answer(nodes[0]), answer(nodes[1])
    if not nodes[0].devices and nodes[0].guards_any:
        return  # nothing is shared: heartgate has no say
    assert not (one_of.passes and other.passes and one_of.turn == other.turn), (one_of, other)


def test_two_nodes_with_good_data_never_have_the_same_turn_whatever_they_believe() -> None:
    """Every case of one device: what each really told, and what it holds for possible that the other one believes."""
    believed = [Role.PRIMARY, Role.SECONDARY]
    possible = {role: (frozenset({role}), ANY, frozenset({Role.UNKNOWN})) for role in believed}
    for policy, before, role_a, role_b in itertools.product(Rank, (True, False), believed, believed):
        for own_a, own_b in itertools.product(possible[role_a], possible[role_b]):
            a = one(policy=policy, before_target=before, own_roles=own_a, target_role=role_b)
            b = one(policy=policy, before_target=not before, own_roles=own_b, target_role=role_a)
            one_of, other = answer(about(a)), answer(about(b, me=TARGET, target=ME))
            assert one_of.passes and other.passes and one_of.turn != other.turn, (a, b)


@pytest.mark.req("E7")
@settings(max_examples=300, deadline=None)
@given(two_nodes())
def test_bad_data_never_shoots_what_may_be_better(nodes: Tuple[Facts, Facts]) -> None:
    for facts, other in (nodes, nodes[::-1]):
        said = answer(facts)
        if any(bad_here(device) and not heard_bad(device) for device in facts.devices):
            assert not said.passes
        # The only good copy of something is never shot by a node that knows what it holds itself.
        only_there = [
            mine.device for mine, theirs in zip(facts.devices, other.devices)
            if mine.standing in BAD and theirs.standing is Standing.SOLO
        ]  # fmt: skip
        assert not (said.passes and only_there)


@settings(max_examples=300, deadline=None)
@given(two_nodes())
def test_only_a_reason_refuses(nodes: Tuple[Facts, Facts]) -> None:
    """What is not known makes a node wait, never refuse: a cluster that could go on is not stopped by that."""
    for facts in nodes:
        said = answer(facts)
        assert said.passes or said.rule in ("target-solo", "data", "hold")
        assert said.rule != "data" or any(bad_here(device) for device in facts.devices)
        assert said.reason


def test_ids_are_unique_and_the_page_has_the_table() -> None:
    assert len({rule.ident for rule in RULES}) == len(RULES)
    page = (Path(__file__).resolve().parents[2] / "docs" / "fence_heartgate.md").read_text(encoding="utf-8")
    assert rules_table() in page, "run: PYTHONPATH=lib python3 -m heartgate.fencing.doc docs/fence_heartgate.md"
