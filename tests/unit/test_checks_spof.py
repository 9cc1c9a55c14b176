"""Single points of failure: cut sets against brute force, plain set-ups, findings, text, and a picture that is XML."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from itertools import combinations, product
from typing import FrozenSet, List, Set, Tuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from heartgate.checks import spof, spof_svg
from heartgate.checks.findings import Severity
from heartgate.checks.spof import HEARTBEAT, SYNC, All, AnyOf, Channel, Goal, Graph, GraphError, Need, Part

PAIR = ("nodea", "nodeb")


def lost(need: Need, broken: FrozenSet[str], graph: Graph) -> bool:
    """The meaning, spelled out: is this need lost when these parts fail?"""
    if isinstance(need, str):
        part = next(part for part in graph.parts if part.ident == need)
        return (part.fails and need in broken) or (part.needs is not None and lost(part.needs, broken, graph))
    results = [lost(item, broken, graph) for item in need.items]
    return any(results) if isinstance(need, All) else all(results)


def brute_force(graph: Graph, goal: Goal) -> Set[Tuple[str, ...]]:
    carries = {Goal.HEARTBEATS: HEARTBEAT, Goal.SYNC: SYNC, Goal.BOTH: None}[goal]
    channels = graph.between(PAIR, carries)
    names = sorted(part.ident for part in graph.parts if part.fails)
    found: List[FrozenSet[str]] = []
    for size in range(1, 4):
        for chosen in combinations(names, size):
            broken = frozenset(chosen)
            if not any(each <= broken for each in found) and all(lost(channel.needs, broken, graph) for channel in channels):
                found.append(broken)
    return {tuple(sorted(each)) for each in found}


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Parts that need only earlier ones, in any nesting."""
    names = [f"p{number}" for number in range(draw(st.integers(1, 7)))]
    parts = []
    for place, name in enumerate(names):
        needs = draw(st.none() | needs_of(names[:place])) if place else None
        parts.append(
            Part(name, name, "part", draw(st.sampled_from(["", *PAIR])), needs, draw(st.sampled_from([True, True, False])))
        )
    channels = [
        Channel(
            f"c{number}",
            f"c{number}",
            PAIR,
            draw(st.sampled_from([(HEARTBEAT,), (SYNC,), (HEARTBEAT, SYNC)])),
            draw(needs_of(names)),
        )
        for number in range(draw(st.integers(1, 4)))
    ]
    return Graph(tuple(parts), tuple(channels))


def needs_of(names: List[str]) -> st.SearchStrategy[Need]:
    return st.recursive(
        st.sampled_from(names),
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3).map(lambda items: All(tuple(items))),
            st.lists(inner, min_size=1, max_size=3).map(lambda items: AnyOf(tuple(items))),
        ),
        max_leaves=5,
    )


@pytest.mark.apart
@pytest.mark.req("A9", "E4")
@settings(max_examples=120, deadline=None)
@given(graphs())
def test_cut_sets_are_those_of_brute_force(graph: Graph) -> None:
    for weak in spof.weaknesses(graph):
        assert set(weak.sets) == brute_force(graph, weak.goal)
        assert list(weak.sets) == sorted(weak.sets, key=lambda each: (len(each), each))


def host(name: str, heartbeat_card: str = "c0", sync_card: str = "c1") -> List[Part]:
    cards = sorted({heartbeat_card, sync_card})
    return [
        *(Part(f"{name}/{card}", f"0000:0{card[1]}:00", "card", name) for card in cards),
        Part(f"{name}/hb0", "hb0", "port", name, f"{name}/{heartbeat_card}"),
        Part(f"{name}/sync0", "sync0", "port", name, f"{name}/{sync_card}"),
    ]


def channel(name: str, carries: Tuple[str, ...], *more: Need) -> Channel:
    return Channel(name, name, PAIR, carries, All((f"nodea/{name}", f"nodeb/{name}", *more)))


def plain(**cards: str) -> Graph:
    return Graph((*host("nodea", **cards), *host("nodeb")), (channel("hb0", (HEARTBEAT,)), channel("sync0", (SYNC,))))


def rules(graph: Graph) -> List[Tuple[str, str]]:
    return [(each.rule, each.evidence) for each in spof.findings(graph)]


@pytest.mark.req("A9")
def test_own_cards() -> None:
    found = dict(rules(plain()))
    assert set(found) == {"spof-heartbeat", "spof-sync", "spof-sets"}
    ends = "card 0000:00:00 of nodea, port hb0 of nodea, card 0000:00:00 of nodeb, port hb0 of nodeb"
    assert found["spof-heartbeat"] == f"all heartbeats between nodea and nodeb are lost with any one of {ends}"
    others = ends.replace("0000:00:00", "0000:01:00").replace("hb0", "sync0")
    assert (
        found["spof-sets"] == f"all heartbeats and all sync links are lost with one of ({ends}) together with one of ({others})"
    )


@pytest.mark.req("A9", "E4")
def test_one_card_carries_everything() -> None:
    found = [each for each in spof.findings(plain(heartbeat_card="c1")) if each.rule == "spof-all"]
    assert [(each.severity, each.evidence) for each in found] == [
        (Severity.ERROR, "all heartbeats and all sync links between nodea and nodeb are lost with card 0000:01:00 of nodea")
    ]
    assert "spof-sets" not in dict(rules(plain(heartbeat_card="c1")))
    assert "card 0000:01:00 of nodea" not in dict(rules(plain(heartbeat_card="c1")))["spof-heartbeat"]


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_the_short_form_says_the_same(graph: Graph) -> None:
    for weak in spof.weaknesses(graph):
        told = [tuple(sorted(chosen)) for choices in spof.grouped(weak.sets) for chosen in product(*choices)]
        assert sorted(told) == sorted(weak.sets)


@pytest.mark.req("A9", "E4")
def test_a_bond_is_cut_with_all_its_members_and_their_card_cuts_it() -> None:
    def graph(second: str) -> Graph:
        parts = [Part(f"{node}/{card}", card, "card", node) for node in PAIR for card in ("c0", "c1")]
        for node in PAIR:
            parts += [
                Part(f"{node}/e0", "e0", "port", node, f"{node}/c0"),
                Part(f"{node}/e1", "e1", "port", node, f"{node}/{second}"),
                Part(f"{node}/bond0", "bond0", "bond", node, AnyOf((f"{node}/e0", f"{node}/e1")), fails=False),
            ]
        return Graph(tuple(parts), (channel("bond0", (HEARTBEAT,)),))

    (one_card,), (two_cards,) = spof.weaknesses(graph("c0")), spof.weaknesses(graph("c1"))
    assert one_card.of_size(1) == (("nodea/c0",), ("nodeb/c0",))
    assert (
        two_cards.of_size(1) == () and ("nodea/e0", "nodea/e1") in two_cards.sets and ("nodea/c0", "nodea/e1") in two_cards.sets
    )
    assert ("nodea/c0", "nodeb/c0") not in two_cards.sets


@pytest.mark.req("A9")
def test_a_shared_switch() -> None:
    base = plain()
    switch = Part("sw", "sw1", "switch")
    graph = Graph((*base.parts, switch), (channel("hb0", (HEARTBEAT,), "sw"), channel("sync0", (SYNC,), "sw")))
    assert ("spof-all", "all heartbeats and all sync links between nodea and nodeb are lost with switch sw1") in rules(graph)


def test_no_heartbeat_and_what_is_not_known() -> None:
    parts = (*host("nodea"), *host("nodeb"), Part("v", "eth9", "port", "nodea", unknown="a virtual adapter"))
    found = spof.findings(Graph(parts, (channel("sync0", (SYNC,)),)))
    assert {(each.rule, each.severity) for each in found} == {
        ("spof-no-heartbeat", Severity.ERROR),
        ("spof-sync", Severity.NOTE),
        ("spof-unknown", Severity.UNKNOWN),
    }
    assert {each.rule for each in found} <= set(spof.RULES)


def test_text() -> None:
    shown = spof.text(plain())
    assert shown.startswith(
        "nodea - nodeb\n  heartbeats: hb0\n  sync links: sync0\n  all heartbeats are lost with\n    any one of card 0000:00"
    )
    assert "\n  all heartbeats and all sync links are lost with\n    one of (card 0000:00:00 of nodea, port hb0" in shown


@pytest.mark.parametrize(
    "parts, need, said",
    [
        ([Part("a", "a", "port", needs="b"), Part("b", "b", "port", needs="a")], "a", "needs itself"),
        ([Part("a", "a", "port", needs="a")], "a", "a needs itself"),
        ([Part("a", "a", "port")], "z", "c needs z, and there is no such part"),
        ([Part("a", "a", "port"), Part("a", "a", "port")], "a", "same ident"),
        ([Part("a", "a", "port", needs=AnyOf(()))], "a", "any one of nothing"),
    ],
)
def test_a_graph_that_contradicts_itself(parts: List[Part], need: str, said: str) -> None:
    with pytest.raises(GraphError, match=said):
        spof.weaknesses(Graph(tuple(parts), (Channel("c", "c", PAIR, (HEARTBEAT,), need),)))


# --- the picture

SPACE = "{http://www.w3.org/2000/svg}"


def boxes(root: ElementTree.Element) -> List[Tuple[float, float, float, float, str]]:
    found = []
    for panel in root.findall(f"{SPACE}g"):
        for group in panel.findall(f"{SPACE}g"):
            (rect,) = group.findall(f"{SPACE}rect")
            x, y, width, height = (float(rect.get(name, "")) for name in ("x", "y", "width", "height"))
            found.append((x, y, x + width, y + height, group.findtext(f"{SPACE}title") or ""))
    return found


@settings(max_examples=40, deadline=None)
@given(graphs())
def test_every_picture_is_xml_and_nothing_lies_over_anything(graph: Graph) -> None:
    root = ElementTree.fromstring(spof_svg.svg(graph))
    shown = boxes(root)
    width, height = float(root.get("width", "0")), float(root.get("height", "0"))
    for x, y, right, bottom, _ in shown:
        assert x >= 0 and y >= 0 and right <= width and bottom <= height
    for one, two in combinations(shown, 2):
        assert one[2] <= two[0] or two[2] <= one[0] or one[3] <= two[1] or two[3] <= one[1], (one, two)


@settings(max_examples=60, deadline=None)
@example('<g a="&">', "]]>&")
@given(st.text(max_size=30), st.text(max_size=10))
def test_labels_are_escaped(label: str, kind: str) -> None:
    graph = Graph((Part("p", label, kind, "nodea"),), (Channel("c", label, PAIR, (HEARTBEAT,), "p"),))
    root = ElementTree.fromstring(spof_svg.svg(graph).encode())
    assert len(boxes(root)) == 2


def test_the_picture_of_a_plain_set_up() -> None:
    text = spof_svg.svg(plain(heartbeat_card="c1"))
    root = ElementTree.fromstring(text)
    titles = [title for *_, title in boxes(root)]
    assert titles.count("0000:01:00 (card, nodea)") == 1 and "hb0 (heartbeat)" in titles
    assert root.get("role") == "img" and "prefers-color-scheme: dark" in text
    assert not re.search(r"(href|src|@import|url\()", text)  # stands alone
    marked = [each.get("class") for each in root.iter(f"{SPACE}rect")]
    assert marked.count("part one") > 2
