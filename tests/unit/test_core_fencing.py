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
    Other,
    Turn,
    Word,
    answer,
    bad_here,
    heard_bad,
    longest_s,
    rules_table,
    served,
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


# --- three nodes and more --------------------------------------------------------------------------------------------------

THIRD = "nodec"
WHOLE = (Disk.UPTODATE, Disk.CONSISTENT)


def hand(**more: object) -> DeviceFacts:
    """nodea is blocked and asked to shoot nodeb, which served together with nodec until it fell silent."""
    told = Other(THIRD, Standing.DECIDING, 4, Disk.UPTODATE, Link.DOWN)
    device = one(Standing.BLOCKED, target=Word(Standing.SOLO, 4, False), others=(told,))
    return device._replace(in_sync=(TARGET, THIRD), **more)


def helped(device: DeviceFacts, **told: object) -> DeviceFacts:
    return device._replace(others=tuple(other._replace(**told) for other in device.others))


@pytest.mark.req("E7")
def test_bad_data_shoots_for_a_node_that_is_heard_to_have_the_data() -> None:
    """Where the device is monitored is not where the shot is asked for, and nobody else is tried after a refusal."""
    for standing in BAD:
        said = answer(about(hand(standing=standing)))
        assert (said.rule, said.passes, said.turn) == ("for-another", True, Turn.LAST) and THIRD in said.reason
    for serving in (Standing.SYNCED, Standing.SOLO):
        assert answer(about(helped(hand(), standing=serving))).rule == "for-another"
    assert answer(about(hand(standing=Standing.SYNCED, disk=Disk.DISKLESS))).rule == "for-another"
    assert answer(about(hand(), target=THIRD))[:2] == ("data", False), "nobody is shot for itself"
    earlier = helped(hand(), node="nod")
    assert answer(about(earlier)).turn is Turn.LATE


@pytest.mark.req("E7")
@pytest.mark.parametrize(
    "device",
    [
        hand(others=()),
        helped(hand(), standing=Standing.BLOCKED),
        helped(hand(), standing=Standing.UNPROVEN),
        helped(hand(), epoch=3),
        *(helped(hand(), disk=disk) for disk in Disk if disk not in WHOLE),
        helped(hand(), node=ME),
        helped(hand(), node=TARGET),
        hand(target=Word(Standing.SOLO, 5, False)),  # it is ahead of the one that would be served
        hand(target=Word(Standing.DECIDING, 5, True)),
    ],
)
def test_nobody_is_shot_for_one_that_may_not_have_the_data(device: DeviceFacts) -> None:
    assert answer(about(device))[:3] == ("data", False, Turn.AT_ONCE)


@pytest.mark.req("E7")
def test_who_confirmed_to_the_one_that_asks_is_ahead_of_it() -> None:
    """The round is open: it waits for the very fencing that this node is to carry out."""
    assert answer(about(hand(epoch=5))).rule == "data"
    assert answer(about(hand(epoch=5, promised_to=TARGET))).rule == "data"
    assert answer(about(hand(epoch=5, promised_to=THIRD))).rule == "for-another"
    assert answer(about(hand(epoch=5, promised_to=THIRD, standing=Standing.UNPROVEN))).rule == "data"


@pytest.mark.req("E7")
def test_one_node_has_the_data_of_all_that_is_bad_here() -> None:
    other = Other("noded", Standing.SOLO, 4, Disk.UPTODATE)
    assert answer(about(hand(), hand(device="r1"))).rule == "for-another"
    assert answer(about(hand(), one(device="r1"))).rule == "for-another", "before the turn by its own rank"
    assert answer(about(hand(), one(Standing.SOLO, device="r1"))).turn is Turn.LAST
    assert answer(about(hand(), one(Standing.BLOCKED, device="r1"))).rule == "data"
    assert answer(about(hand(), hand(device="r1", others=(other,)))).rule == "data", "one for each is nobody for both"
    assert answer(about(hand(), hand(device="r1", others=(other, *hand().others)))).rule == "for-another"
    heard = one(Standing.BLOCKED, device="r1", target=Word(Standing.BLOCKED, 4, True))
    assert answer(about(hand(), heard)).rule == "for-another", "the target is no better there"


def test_what_is_not_known_serves_nobody() -> None:
    assert answer(about(hand(), lacking=("r9",))).rule == "data"
    assert answer(about(hand(), one(None, device="r1"))).rule == "data"


def test_a_hand_holds_as_the_one_that_it_serves_would() -> None:
    for link in Link:
        said = answer(about(helped(hand(), link=link), hold_while_synced=True))
        assert said.rule == ("for-another" if link is Link.DOWN else "data")
        assert answer(about(helped(hand(), link=link))).rule == "for-another"


def test_a_disk_heartbeat_and_a_lone_agent_come_before_another_node() -> None:
    assert answer(about(hand(solo_on_disk=True))).rule == "target-solo"
    assert answer(about(hand(), alone="nothing else")).rule == "alone"


@pytest.mark.req("E7")
def test_every_case_of_one_device_and_one_third_node() -> None:
    """Bad data passes for the target's own badness or for somebody, and never for nobody."""
    words = [None, *(Word(standing, epoch, live) for standing in Standing for epoch in (3, 4, 5) for live in (True, False))]
    thirds = [(), *((Other(THIRD, standing, epoch, disk),) for standing in Standing for epoch in (3, 4, 5) for disk in Disk)]
    for standing, disk, word, others in itertools.product(Standing, Disk, words, thirds):
        device = one(standing, disk=disk, target=word, others=others)
        said, without = answer(about(device)), answer(about(device._replace(others=())))
        if without.rule != "data":
            assert said == without, "only what would be refused is anything for another node"
            continue
        third = others[0] if others else None
        has = third is not None and third.standing not in BAD and third.disk in WHOLE and third.epoch >= 4
        ahead = has and word is not None and word.standing not in BAD and word.epoch > others[0].epoch
        assert said.rule == ("for-another" if has and not ahead else "data"), device
        assert said.turn in ((Turn.LATE, Turn.LAST) if said.passes else (Turn.AT_ONCE,))


@st.composite
def helper(draw: st.DrawFn, me: str, target: str, devices: Tuple[DeviceFacts, ...], nodes: Tuple[str, ...]) -> Facts:
    """A third node with bad data that may be anybody's hand; it holds some of the devices of the other two."""
    held = draw(st.lists(st.sampled_from(devices), min_size=1, unique=True))
    found = []
    for device in sorted(held, key=lambda device: device.device):
        told = st.builds(
            Other,
            st.sampled_from(nodes),
            st.sampled_from([*GOOD, Standing.SOLO, Standing.BLOCKED]),
            st.integers(2, 5),
            st.sampled_from([Disk.UPTODATE, Disk.UPTODATE, Disk.CONSISTENT, Disk.UNKNOWN]),
            st.sampled_from(list(Link)),
        )
        words = st.none() | st.builds(Word, st.sampled_from(list(Standing)), st.integers(0, 4), st.booleans())
        others = draw(st.lists(told, max_size=3, unique_by=lambda other: other.node))
        standing, promised = draw(st.sampled_from([*BAD, *BAD, Standing.SYNCED])), draw(st.sampled_from(["", *nodes]))
        facts = one(standing, device=device.device, epoch=draw(st.integers(1, 4)), target=draw(words), promised_to=promised)
        found.append(facts._replace(policy=device.policy, before_target=draw(st.booleans()), others=tuple(others)))
    return Facts("off", me, target, tuple(found), hold_while_synced=draw(st.booleans()))


@st.composite
def three_nodes(draw: st.DrawFn) -> Tuple[Facts, Facts, Facts, Facts]:
    """(the target against the node that is served, its helper against that one, that one against the target, its helper)."""
    pairs = [draw(device_of_two(f"r{n}")) for n in range(draw(st.integers(1, 3)))]
    left, right, third, fourth = draw(st.permutations(("nodea", "nodeb", "nodec", "noded")))
    ours, theirs = tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs)
    return (
        Facts("off", right, left, theirs),
        draw(helper(fourth, left, theirs, (left, right, third))),
        Facts("off", left, right, ours),
        draw(helper(third, right, ours, (left, right, fourth))),
    )


@pytest.mark.req("A7", "A8", "E7")
@settings(max_examples=600, deadline=None)
@given(three_nodes())
def test_the_hand_of_a_node_never_has_the_turn_of_the_one_that_it_shoots(nodes: Tuple[Facts, Facts, Facts, Facts]) -> None:
    """Neither the target's own turn against the node that is served, nor that of the target's hand."""
    target, targets_hand, node, nodes_hand = nodes
    ours, theirs = answer(nodes_hand), answer(targets_hand)
    if ours.rule == "for-another" and served(nodes_hand) == node.me:
        assert not (answer(target).passes and answer(target).turn == ours.turn), (ours, answer(target))
        if theirs.rule == "for-another" and served(targets_hand) == target.me:
            assert ours.turn != theirs.turn, (ours, theirs)


def test_the_hand_is_parted_from_every_turn_and_every_name() -> None:
    """Every order of the names, and every kind of answer that the target can have: by rank, unsure, without knowledge."""
    targets = [one(before_target=before, policy=policy, own_roles=ANY) for before in (True, False) for policy in Rank]
    for (node, target, me), facts in itertools.product(itertools.permutations((ME, TARGET, THIRD)), [*targets, one(None), None]):
        devices: Dict[str, object] = {"devices": (), "guards_any": False} if facts is None else {"devices": (facts,)}
        theirs = answer(about(me=target, target=node)._replace(**devices))
        ours = answer(about(helped(hand(), node=node), me=me, target=target))
        assert ours.rule == "for-another" and theirs.passes and ours.turn != theirs.turn, (node, target, me, theirs)
        opposed = answer(about(helped(hand(), node=target), me=me, target=node))
        assert opposed.rule == "for-another" and opposed.turn != ours.turn, "one that is asked to shoot both"


@pytest.mark.req("E7")
@settings(max_examples=300, deadline=None)
@given(three_nodes())
def test_bad_data_never_shoots_for_nobody(nodes: Tuple[Facts, Facts, Facts, Facts]) -> None:
    for facts in (nodes[1], nodes[3]):
        said = answer(facts)
        bad = [device for device in facts.devices if bad_here(device) and not heard_bad(device)]
        if said.passes and bad:
            assert said.rule == "for-another"
            able = [
                {o.node for o in device.others if o.standing not in BAD and o.disk in WHOLE} - {facts.me, facts.target}
                for device in bad
            ]  # fmt: skip
            assert set.intersection(*able)


def test_ids_are_unique_and_the_page_has_the_table() -> None:
    assert len({rule.ident for rule in RULES}) == len(RULES)
    page = (Path(__file__).resolve().parents[2] / "docs" / "fence_heartgate.md").read_text(encoding="utf-8")
    assert rules_table() in page, "run: PYTHONPATH=lib python3 -m heartgate.fencing.doc docs/fence_heartgate.md"
