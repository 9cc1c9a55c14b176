"""Adding and removing a link in the text of corosync.conf, line by line: what is not part of the link stays as it is.

The rules of the syntax are those of Corosync's own parser (exec/coroparse.c of 3.1.7): one statement on a line, `name {`,
`key: value`, `}`, or a comment whose first character is `#`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

LINK_MAX = 7  # knet has eight links (INTERFACE_MAX of totem.h)
RING_KEY = re.compile(r"ring(\d)_addr\Z")
INDENT = "    "


class ConfError(ValueError):
    """The text is not a corosync.conf that can be changed safely; says the line, and what was expected."""


@dataclass(frozen=True)
class NodeEntry:
    """A `node` section. `addresses`: link number -> ringN_addr as it is written (an address or a host name)."""

    name: str
    nodeid: Optional[int]
    addresses: Mapping[int, str]


@dataclass
class _Pair:
    key: str
    value: str
    line: int


@dataclass
class _Section:
    name: str
    first: int
    last: int = -1
    pairs: List[_Pair] = field(default_factory=list)
    children: List[_Section] = field(default_factory=list)

    def value(self, key: str) -> Optional[str]:
        """Corosync takes the last of several."""
        found = [pair.value for pair in self.pairs if pair.key == key]
        return found[-1] if found else None

    def named(self, name: str) -> List[_Section]:
        return [child for child in self.children if child.name == name]


# --- reading
# ----------------------------------------------------------------------------------------------------------------


def _parse(text: str) -> Tuple[List[str], _Section]:
    lines = _split(text)
    root = _Section("", -1, len(lines))
    open_sections = [root]
    for number, line in enumerate(lines):
        words = line.strip()
        if not words or words.startswith("#"):
            continue
        if "{" in words:
            open_sections.append(_opened(words, number, open_sections[-1]))
        elif ":" in words:
            key, _, value = words.partition(":")
            open_sections[-1].pairs.append(_Pair(key.strip(), value.strip(), number))
        elif words == "}":
            if len(open_sections) == 1:
                raise ConfError(f'line {number + 1}: "}}" closes nothing: no section is open here')
            open_sections.pop().last = number
        else:
            raise ConfError(f'line {number + 1}: "{words[:60]}" is none of "name {{", "key: value", "}}" and a comment')
    if len(open_sections) > 1:
        left = open_sections[-1]
        raise ConfError(f'line {left.first + 1}: the section "{left.name}" is not closed: a "}}" was expected')
    return lines, root


def _opened(words: str, number: int, parent: _Section) -> _Section:
    name = words[:-1].strip()
    if not words.endswith("{") or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", name):
        raise ConfError(f'line {number + 1}: "{words[:60]}": a section starts with its name and "{{", alone on the line')
    section = _Section(name, number)
    parent.children.append(section)
    return section


def _split(text: str) -> List[str]:
    """Lines with their ends; only a newline ends one (str.splitlines knows a dozen others)."""
    parts = text.split("\n")
    return [part + "\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def nodes(text: str) -> Tuple[NodeEntry, ...]:
    """The node list in its order. Raises ConfError."""
    _, root = _parse(text)
    return tuple(_entry(section) for section in _node_sections(root))


def _node_sections(root: _Section) -> List[_Section]:
    return [node for nodelist in root.named("nodelist") for node in nodelist.named("node")]


def _entry(section: _Section) -> NodeEntry:
    addresses = {int(match.group(1)): pair.value for match, pair in _rings(section)}
    text = section.value("nodeid") or ""
    name = section.value("name") or addresses.get(0) or f"#{text}"
    return NodeEntry(name, int(text) if text.isdigit() else None, addresses)


def _rings(section: _Section) -> Iterator[Tuple[re.Match[str], _Pair]]:
    for pair in section.pairs:
        match = RING_KEY.match(pair.key)
        if match:
            yield match, pair


def transport(text: str) -> str:
    """totem.transport; Corosync 3 takes knet if there is none. Raises ConfError."""
    _, root = _parse(text)
    found = [section.value("transport") for section in root.named("totem")]
    return next((value for value in reversed(found) if value), "knet")


def link_options(text: str, link: int) -> Dict[str, str]:
    """What the `interface` sections say of a link, its number left out. Raises ConfError."""
    _, root = _parse(text)
    options: Dict[str, str] = {}
    for section in _interface_sections(root, link):
        options.update({pair.key: pair.value for pair in section.pairs if pair.key != "linknumber"})
    return options


def _interface_sections(root: _Section, link: int) -> List[_Section]:
    found = [each for totem in root.named("totem") for each in totem.named("interface")]
    return [each for each in found if (each.value("linknumber") or each.value("ringnumber") or "0") == str(link)]


def links(text: str) -> Tuple[int, ...]:
    """Numbers of the links that any node has. Raises ConfError."""
    return tuple(sorted({link for node in nodes(text) for link in node.addresses}))


TIMERS = ("knet_ping_interval", "knet_ping_timeout", "knet_ping_precision", "knet_pong_count")


def shared_timers(text: str) -> Dict[str, str]:
    """The knet timers on which all links of the file agree: a new link gets the same. Raises ConfError."""
    each = [link_options(text, link) for link in links(text)]
    first = each[0] if each else {}
    agreed = {key: first[key] for key in TIMERS if key in first and all(one.get(key) == first[key] for one in each)}
    return {key: value for key, value in agreed.items() if value.isdigit()}


# --- changing
# ----------------------------------------------------------------------------------------------------------------


def add_link(text: str, link: int, addresses: Sequence[str], options: Optional[Mapping[str, str]] = None) -> str:
    """The text with one more link: an address for each node, in the node list's order; options go into an `interface`
    section of their own. Raises ConfError: the text cannot be read, the link exists, the addresses do not fit."""
    lines, root = _parse(text)
    members = _node_sections(root)
    _must_fit(link, addresses, members, root)
    inserted: Dict[int, List[str]] = {}  # line number -> what comes before it
    for section, address in zip(members, addresses):
        _insert_address(lines, section, link, address, inserted)
    if options:
        _insert_interface(lines, root, link, options, inserted)
    new = "".join(piece for number in range(len(lines) + 1) for piece in
                  (*inserted.get(number, ()), *lines[number:number + 1]))
    _confirm(new, {node: {**entry.addresses, link: address}
                   for node, (entry, address) in enumerate(zip(nodes(text), addresses))})
    return new


def _must_fit(link: int, addresses: Sequence[str], members: Sequence[_Section], root: _Section) -> None:
    if not 0 <= link <= LINK_MAX:
        raise ConfError(f"link {link}: Corosync's links have the numbers 0 to {LINK_MAX}")
    if not members:
        raise ConfError("there is no nodelist with a node in it")
    if len(addresses) != len(members):
        raise ConfError(f"{len(addresses)} addresses for {len(members)} nodes: each node needs one")
    if any(match.group(1) == str(link) for section in members for match, _ in _rings(section)):
        raise ConfError(f"link {link} exists already")
    if _interface_sections(root, link):
        raise ConfError(f"the totem section has an interface section for link {link}, which no node has: remove that first")
    for address in addresses:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.:_-]*", address):
            raise ConfError(f'"{address}" is no address')


def _insert_address(lines: Sequence[str], section: _Section, link: int, address: str, into: Dict[int, List[str]]) -> None:
    rings = [pair for _, pair in _rings(section)] or section.pairs
    if not rings:
        raise ConfError(f"line {section.first + 1}: a node section without a single address cannot be read")
    like = lines[rings[-1].line]
    into.setdefault(rings[-1].line + 1, []).append(f"{_indent(like)}ring{link}_addr: {address}{_end(like)}")


def _insert_interface(
    lines: Sequence[str], root: _Section, link: int, options: Mapping[str, str], into: Dict[int, List[str]]
) -> None:
    totems = root.named("totem")
    if not totems:
        raise ConfError("there is no totem section")
    others = totems[-1].named("interface")
    like = lines[others[-1].first] if others else lines[totems[-1].first]
    outer = _indent(like) + ("" if others else INDENT)
    end = _end(like)
    inner = _indent(lines[others[-1].pairs[0].line]) if others and others[-1].pairs else outer + INDENT
    body = [f"{inner}linknumber: {link}", *(f"{inner}{key}: {value}" for key, value in options.items())]
    where = others[-1].last + 1 if others else totems[-1].last
    into.setdefault(where, []).extend(line + end for line in (f"{outer}interface {{", *body, f"{outer}}}"))


def remove_link(text: str, link: int) -> str:
    """The text without a link: its addresses and its `interface` sections. Raises ConfError: no such link, or the last."""
    lines, root = _parse(text)
    gone = {pair.line for section in _node_sections(root) for match, pair in _rings(section) if match.group(1) == str(link)}
    if not gone:
        known = ", ".join(map(str, links(text))) or "none"
        raise ConfError(f"there is no link {link}; the links are {known}")
    if links(text) == (link,):
        raise ConfError(f"link {link} is the only one: a cluster cannot be without")
    for section in _interface_sections(root, link):
        gone.update(range(section.first, section.last + 1))
    new = "".join(line for number, line in enumerate(lines) if number not in gone)
    _confirm(new, {place: {key: value for key, value in entry.addresses.items() if key != link}
                   for place, entry in enumerate(nodes(text))})
    return new


def _confirm(text: str, expected: Mapping[int, Mapping[int, str]]) -> None:
    """Read the result again: an edit that does not say what was meant must not reach a node."""
    found = {place: dict(entry.addresses) for place, entry in enumerate(nodes(text))}
    if found != expected:
        raise ConfError(f"the changed text would give the links {found} and not {dict(expected)}: nothing is changed")


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" \t"))]


def _end(line: str) -> str:
    return "\r\n" if line.endswith("\r\n") else "\n"
