"""Adding and removing a link in corosync.conf: nothing else changes, and removing what was added gives the same bytes."""

from __future__ import annotations

from typing import Dict, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartgate.checks import corosync_edit as edit

CONF = """# ours; do not touch
totem {
\tversion: 2
\ttransport: knet
\tinterface {
\t\tlinknumber: 0
\t\tknet_ping_interval: 100
\t}
\tinterface {
\t\tlinknumber: 1
\t\tknet_ping_interval: 100
\t\tknet_pong_count: 1
\t}
}

nodelist {
  # the good one
  node {
    name: nodea
    nodeid: 1
    ring0_addr: 10.77.10.1
    ring1_addr: 10.77.11.1

  }
  node {
    ring0_addr: 10.77.10.2
    ring1_addr:   10.77.11.2
    nodeid: 2
    name: nodeb
  }
}
quorum {
    provider: corosync_votequorum
}
"""


@pytest.mark.req("C7")
def test_add_puts_one_line_into_each_node_and_one_section() -> None:
    new = edit.add_link(CONF, 2, ["10.0.0.1", "10.0.0.2"], {"knet_ping_interval": "100"})
    added = [line for line in new.splitlines() if line not in CONF.splitlines()]
    assert added == ["\t\tlinknumber: 2", "    ring2_addr: 10.0.0.1", "    ring2_addr: 10.0.0.2"]
    assert len(new.splitlines()) == len(CONF.splitlines()) + 6  # and the section's first and last line
    assert [node.addresses[2] for node in edit.nodes(new)] == ["10.0.0.1", "10.0.0.2"]
    assert edit.link_options(new, 2) == {"knet_ping_interval": "100"}


@pytest.mark.req("C7")
def test_remove_takes_the_addresses_and_the_interface_section() -> None:
    new = edit.remove_link(CONF, 1)
    assert edit.links(new) == (0,) and "linknumber: 1" not in new and "10.77.11" not in new
    gone = [line for line in CONF.splitlines() if line not in new.splitlines()]
    assert gone == ["\t\tlinknumber: 1", "\t\tknet_pong_count: 1", "    ring1_addr: 10.77.11.1", "    ring1_addr:   10.77.11.2"]
    assert "# ours; do not touch" in new and "  # the good one\n" in new


def test_what_is_read() -> None:
    nodea, nodeb = edit.nodes(CONF)
    assert (nodea.name, nodea.nodeid, dict(nodea.addresses)) == ("nodea", 1, {0: "10.77.10.1", 1: "10.77.11.1"})
    assert (nodeb.name, nodeb.nodeid) == ("nodeb", 2)
    assert edit.transport(CONF) == "knet" and edit.transport("totem {\n}\n") == "knet"
    assert edit.transport("totem {\n transport: udpu\n}\n") == "udpu"
    assert edit.shared_timers(CONF) == {"knet_ping_interval": "100"}
    assert edit.shared_timers(CONF.replace("ping_interval: 100", "ping_interval: soon")) == {}
    assert edit.shared_timers("") == {}


@pytest.mark.parametrize(
    "text, says",
    [
        ("nodelist {\n node {\n  ring0_addr: a\n }\n", 'line 1: the section "nodelist" is not closed'),
        ("}\n", 'line 1: "}" closes nothing'),
        ("nodelist {\n node { ring0_addr: a }\n}\n", "line 2"),
        ("totem {\nhello\n}\n", 'line 2: "hello" is none of'),
        ("{\n}\n", "line 1"),
        ("totem {\n}\n", "no nodelist"),
        ("nodelist {\n node {\n }\n node {\n }\n}\n", "line 2: a node section without a single address"),
    ],
)
def test_a_text_that_cannot_be_read_is_refused_with_its_line(text: str, says: str) -> None:
    with pytest.raises(edit.ConfError, match=None) as caught:
        edit.add_link(text, 2, ["10.0.0.1", "10.0.0.2"])
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "link, addresses, says",
    [
        (1, ["10.0.0.1", "10.0.0.2"], "link 1 exists already"),
        (8, ["10.0.0.1", "10.0.0.2"], "0 to 7"),
        (2, ["10.0.0.1"], "1 addresses for 2 nodes"),
        (2, ["10.0.0.1", "10.0.0.2\n}"], "is no address"),
        (2, ["10.0.0.1", ""], "is no address"),
    ],
)
def test_a_link_that_does_not_fit_is_refused(link: int, addresses: List[str], says: str) -> None:
    with pytest.raises(edit.ConfError) as caught:
        edit.add_link(CONF, link, addresses)
    assert says in str(caught.value)


def test_the_last_link_and_a_link_that_is_not_there_cannot_be_removed() -> None:
    with pytest.raises(edit.ConfError, match="no link 5; the links are 0, 1"):
        edit.remove_link(CONF, 5)
    with pytest.raises(edit.ConfError, match="the only one"):
        edit.remove_link(edit.remove_link(CONF, 1), 0)


# --- properties

word = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(lambda name: name not in ("node", "interface", "nodelist"))
value = st.from_regex(r"[a-z0-9./_-][a-z0-9 ./_:-]{0,12}", fullmatch=True)
end = st.sampled_from(["\n", "\r\n"])
blank = st.lists(st.sampled_from(["", "   ", "# a { comment }", "\t# ring9_addr: 1"]), max_size=2)
indent = st.sampled_from(["", " ", "\t", "    "])


@st.composite
def confs(draw: st.DrawFn) -> str:
    """A corosync.conf with two nodes or more, links from 0, and anything else in it that is allowed."""
    newline = draw(end)
    lines: List[str] = list(draw(blank))
    rings = draw(st.lists(st.integers(0, 6), min_size=1, max_size=4, unique=True))

    def pairs() -> None:
        tab = draw(indent)
        for key, text in draw(st.dictionaries(word, value, max_size=2)).items():
            lines.append(f"{tab}{key}: {text}")

    def other() -> None:
        lines.append(f"{draw(word)} {{")
        pairs()
        lines.extend(draw(blank))
        lines.append("}")

    def totem() -> None:
        lines.append("totem {")
        for ring in draw(st.lists(st.sampled_from(rings), unique=True)):
            lines.extend(["interface {", f"linknumber: {ring}", *draw(blank)])
            pairs()
            lines.append("}")
        lines.extend(["}", *draw(blank)])

    def nodelist() -> None:
        lines.append(" nodelist {")
        for number in range(1, draw(st.integers(2, 3)) + 1):
            tab = draw(indent)
            keys = [f"{tab}name: n{number}", f"{tab}nodeid: {number}"]
            keys += [f"{tab}ring{ring}_addr: 10.{ring}.0.{number}" for ring in rings]
            lines.extend([f"{tab}node {{", *draw(st.permutations(keys)), *draw(blank), f"{tab}}}"])
        lines.append(" }")

    for part in draw(st.permutations([totem, nodelist, other])):
        part()
    return newline.join(lines) + draw(st.sampled_from([newline, ""]))


@pytest.mark.req("C7")
@given(confs(), st.integers(0, 7), st.dictionaries(word, word, max_size=2))
def test_adding_then_removing_gives_the_same_text(text: str, link: int, options: Dict[str, str]) -> None:
    addresses = [f"192.168.1.{place}" for place, _ in enumerate(edit.nodes(text), 1)]
    if link in edit.links(text):
        with pytest.raises(edit.ConfError):
            edit.add_link(text, link, addresses, options)
        return
    new = edit.add_link(text, link, addresses, options)
    assert edit.links(new) == tuple(sorted((*edit.links(text), link)))
    assert edit.link_options(new, link) == options
    assert edit.remove_link(new, link) == text


@pytest.mark.req("C7")
@given(confs())
def test_removing_takes_only_lines_of_the_link(text: str) -> None:
    links = edit.links(text)
    if len(links) < 2:
        return
    link = links[-1]
    new = edit.remove_link(text, link)
    assert edit.links(new) == links[:-1] and not edit.link_options(new, link)
    rest = iter(text.split("\n"))
    assert all(line in rest for line in new.split("\n")), "the lines that are left are the old ones in their order"
    for other in links[:-1]:
        assert edit.link_options(new, other) == edit.link_options(text, other)
    for before, after in zip(edit.nodes(text), edit.nodes(new)):
        assert dict(after.addresses) == {key: address for key, address in before.addresses.items() if key != link}


@given(st.text(alphabet="abn{}:#\n\r \t_0ringode", max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    for attempt in (lambda: edit.nodes(text), lambda: edit.add_link(text, 3, ["a", "b"]), lambda: edit.remove_link(text, 0)):
        try:
            attempt()
        except edit.ConfError as error:
            assert str(error)
