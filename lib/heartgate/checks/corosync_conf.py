"""corosync.conf as Corosync 3 reads it: sections, keys, line numbers, and the values in force where nothing is written.

Source: corosync.conf(5) and votequorum(5) of 3.1.7. tests/unit/test_checks_corosync_conf.py compares what is accepted with
`corosync -t`, and tests/ns/test_corosync_defaults.py the values in force with a running corosync.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Dict, Iterator, List, Mapping, Optional, Tuple

from heartgate.checks.source import ParseError, Setting, brief

LINE_LIMIT = 511  # bytes, the line feed included: corosync's buffer
DEPTH_LIMIT = 20
KEY_LENGTHS = (3, 255)  # of the full name, e.g. "totem.token"
_KEY = re.compile(r"[A-Za-z0-9._/:-]+\Z")
_ADDRESS = re.compile(r"ring(\d+)_addr\Z")
_U8, _U16, _U32, _U64 = ((0, 2**bits - 1) for bits in (8, 16, 32, 64))
_INTEGERS: Mapping[str, Mapping[str, Tuple[int, int]]] = {
    "totem": {
        "config_version": _U64,  # corosync 3.1.7 aborts over a word here
        "knet_compression_level": (-(2**31), 2**31 - 1),
        **dict.fromkeys(
            [
                "version",
                "token",
                "token_coefficient",
                "token_retransmit",
                "token_warning",
                "hold",
                "token_retransmits_before_loss_const",
                "join",
                "send_join",
                "consensus",
                "merge",
                "downcheck",
                "fail_recv_const",
                "seqno_unchanged_const",
                "heartbeat_failures_allowed",
                "max_network_delay",
                "window_size",
                "max_messages",
                "miss_count_const",
                "knet_pmtud_interval",
                "knet_mtu",
                "knet_compression_threshold",
                "netmtu",
            ],
            _U32,
        ),
    },
    "totem.interface": {
        "mcastport": _U16,
        **dict.fromkeys(["linknumber", "ringnumber", "knet_link_priority", "ttl"], _U8),
        **dict.fromkeys(["knet_ping_interval", "knet_ping_timeout", "knet_ping_precision", "knet_pong_count"], _U32),
    },
    "quorum": {
        **dict.fromkeys(["expected_votes", "votes", "last_man_standing_window", "leaving_timeout"], _U32),
        **dict.fromkeys(["two_node", "wait_for_all", "auto_tie_breaker", "last_man_standing", "allow_downscale"], _U8),
    },
    "quorum.device": dict.fromkeys(["timeout", "sync_timeout", "votes"], _U32),
    "nodelist.node": dict.fromkeys(["nodeid", "quorum_votes"], _U32),
}
_WORDS: Mapping[str, Tuple[str, ...]] = {
    "totem.crypto_cipher": ("none", "aes256", "aes192", "aes128"),
    "totem.crypto_hash": ("none", "md5", "sha1", "sha256", "sha384", "sha512"),
}

TOKEN_MS, TOKEN_COEFFICIENT_MS, JOIN_MS, PONG_COUNT = 3000, 650, 50, 2


@dataclass(frozen=True)
class Section:
    """One `name { ... }`; the file itself is the section "". values: (key, value, line), in the file's order."""

    name: str
    line: int
    values: Tuple[Tuple[str, str, int], ...] = ()
    sections: Tuple[Section, ...] = ()

    def get(self, key: str) -> Optional[Tuple[str, int]]:
        """(value, line). What stands last counts."""
        found = [(value, line) for name, value, line in self.values if name == key]
        return found[-1] if found else None


@dataclass(frozen=True)
class Node:
    """One entry of the node list. addresses: link number to (address, line)."""

    name: str
    nodeid: Optional[int]
    addresses: Mapping[int, Tuple[str, int]]
    line: int


@dataclass(frozen=True)
class CorosyncConf:
    """A parsed file. `source`: its path."""

    source: str
    root: Section
    text: str = field(default="", repr=False, compare=False)

    def where(self, line: int) -> str:
        return f"{self.source}:{line}"

    def all(self, path: str) -> Tuple[Section, ...]:
        """Every section at a path such as "totem.interface"; a section may be written in several pieces."""
        found: Tuple[Section, ...] = (self.root,)
        for name in path.split("."):
            found = tuple(inner for outer in found for inner in outer.sections if inner.name == name)
        return found

    def setting(self, path: str, key: str) -> Optional[Setting]:
        """The value of a key; of several, the one that stands last. Not for interface and node, which are lists."""
        written = [item for item in (section.get(key) for section in self.all(path)) if item]
        if not written:
            return None
        value, line = max(written, key=lambda item: item[1])
        return Setting(value, self.where(line))

    def number(self, path: str, key: str) -> Optional[int]:
        """Raises nothing: the parser has seen to it that it is one. None if it is not written."""
        found = self.setting(path, key)
        return int(found.value) if found else None

    def word(self, path: str, key: str, default: str) -> str:
        found = self.setting(path, key)
        return found.value if found else default

    @property
    def nodes(self) -> Tuple[Node, ...]:
        return tuple(_node(section) for section in self.all("nodelist.node"))

    @property
    def transport(self) -> str:
        return self.word("totem", "transport", "knet")

    @property
    def links(self) -> Tuple[int, ...]:
        """Numbers of the links that some node has an address on."""
        return tuple(sorted({link for node in self.nodes for link in node.addresses}))

    def interface(self, link: int, key: str) -> Optional[Setting]:
        """A key of the interface section of a link; without a linknumber it is link 0."""
        found = None
        for section in self.all("totem.interface"):
            number = section.get("linknumber") or section.get("ringnumber") or ("0", 0)
            item = section.get(key)
            if int(number[0]) == link and item:
                found = Setting(item[0], self.where(item[1]))
        return found

    @property
    def two_node(self) -> bool:
        return bool(self.number("quorum", "two_node"))

    @property
    def wait_for_all(self) -> bool:
        """two_node switches it on unless it is written (votequorum(5))."""
        written = self.number("quorum", "wait_for_all")
        return self.two_node if written is None else bool(written)

    @property
    def secure(self) -> Tuple[str, str]:
        """(cipher, hash) in force. secauth: on stands for aes256 and sha256 where these are not written."""
        on = self.word("totem", "secauth", "off") == "on"
        cipher = self.word("totem", "crypto_cipher", "aes256" if on else "none")
        return cipher, self.word("totem", "crypto_hash", "sha256" if on else "none")


def _node(section: Section) -> Node:
    addresses: Dict[int, Tuple[str, int]] = {}
    for key, value, line in section.values:
        match = _ADDRESS.match(key)
        if match:
            addresses[int(match.group(1))] = (value, line)
    name, nodeid = section.get("name"), section.get("nodeid")
    return Node(name[0] if name else "", int(nodeid[0]) if nodeid else None, addresses, section.line)


# --- parsing


def parse(text: str, source: str = "corosync.conf") -> CorosyncConf:
    """Raises ParseError."""
    return CorosyncConf(source, _Reader(source, text).read(), text)


@dataclass
class _Open:
    path: str
    line: int
    values: List[Tuple[str, str, int]] = field(default_factory=list)
    sections: List[Section] = field(default_factory=list)

    def closed(self) -> Section:
        return Section(self.path.rpartition(".")[2], self.line, tuple(self.values), tuple(self.sections))


class _Reader:
    def __init__(self, source: str, text: str) -> None:
        self._source = source
        self._lines = text.split("\n")
        self._open: List[_Open] = [_Open("", 0)]

    def _wrong(self, line: int, message: str) -> ParseError:
        return ParseError(self._source, line, message)

    def read(self) -> Section:
        for number, content in self._content():
            if "{" in content:
                self._section(number, content)
            elif ":" in content:
                self._value(number, content)
            elif "}" in content:
                self._close(number, content)
            else:
                raise self._wrong(number, f'expected "section {{", "key: value" or "}}", found {brief(content)}')
        if len(self._open) > 1:
            last = self._open[-1]
            last_line = len(self._lines) - (1 if self._lines[-1] == "" and len(self._lines) > 1 else 0)
            raise self._wrong(
                last_line, f'expected "}}" that closes section {brief(last.path)} of line {last.line}, found the end'
            )
        return self._open[0].closed()

    def _content(self) -> Iterator[Tuple[int, str]]:
        for number, line in enumerate(self._lines, 1):
            if len(line.encode("utf-8", "surrogatepass")) > LINE_LIMIT - 1:
                raise self._wrong(number, f"expected at most {LINE_LIMIT - 1} bytes in a line, found more")
            if "\0" in line:
                raise self._wrong(number, "expected text, found a NUL byte")
            content = (line[:-1] if line.endswith("\r") else line).strip(" \t")
            if content and not content.startswith("#"):
                yield number, content

    def _section(self, number: int, content: str) -> None:
        before, _, after = content.partition("{")
        name = before.rstrip(" \t:")
        if after.strip(" \t"):
            raise self._wrong(number, f'expected nothing after "{{", found {brief(after)}: write each key in a line of its own')
        if not name:
            raise self._wrong(number, 'expected the name of a section before "{"')
        if len(self._open) > DEPTH_LIMIT:
            raise self._wrong(number, f"expected at most {DEPTH_LIMIT} sections inside each other")
        self._open.append(_Open(self._full(name), number))

    def _full(self, name: str) -> str:
        path = self._open[-1].path
        return f"{path}.{name}" if path else name

    def _value(self, number: int, content: str) -> None:
        before, _, after = content.partition(":")
        key, value = before.rstrip(" \t:"), after.strip(" \t")
        path = self._open[-1].path
        full = self._full(key)
        if not _KEY.match(full) or not KEY_LENGTHS[0] <= len(full) <= KEY_LENGTHS[1]:
            raise self._wrong(
                number,
                f"expected a key of letters, digits and ._/-, in all {KEY_LENGTHS[0]} to {KEY_LENGTHS[1]} "
                f"characters, found {brief(full)}",
            )
        limits = _INTEGERS.get(path, {}).get(key)
        if limits and not _within(value, limits):
            raise self._wrong(number, f"expected a whole number from {limits[0]} to {limits[1]} for {full}, found {brief(value)}")
        words = _WORDS.get(full)
        if words and value not in words:
            raise self._wrong(number, f"expected one of {', '.join(words)} for {full}, found {brief(value)}")
        self._open[-1].values.append((key, value, number))

    def _close(self, number: int, content: str) -> None:
        if content != "}":
            raise self._wrong(number, f'expected "}}" alone in its line, found {brief(content)}')
        if len(self._open) == 1:
            raise self._wrong(number, 'found "}", and no section is open')
        closed = self._open.pop().closed()
        self._open[-1].sections.append(closed)


def _within(value: str, limits: Tuple[int, int]) -> bool:
    match = re.match(r"[+-]?\d{1,25}\Z", value, re.ASCII)
    return bool(match) and limits[0] <= int(value) <= limits[1]


def written(conf: CorosyncConf) -> Mapping[str, Tuple[str, ...]]:
    """Every key with its sections -> its values, in the file's order: what has to be the same on every node. Where what is logged
    goes is each node's own affair; a key is a secret, and only its digest is told."""
    import hashlib  # loads OpenSSL, and fence_heartgate needs nothing but the nodes' names

    found: Dict[str, Tuple[str, ...]] = {}
    waiting = [("", conf.root)]
    while waiting:
        path, section = waiting.pop(0)
        for key, value, _ in section.values:
            name = f"{path}{key}"
            if not name.startswith("logging."):
                digest = "sha256:" + hashlib.sha256(value.encode()).hexdigest()[:16]
                found[name] = (*found.get(name, ()), digest if name == "totem.key" else value)
        waiting += [(f"{path}{inner.name}.", inner) for inner in section.sections]
    return found


# --- values in force


@dataclass(frozen=True)
class Timing:
    """One time. ms: None if it was left to Corosync; then it is what it makes of the token (`share` of it) or a constant."""

    ms: Optional[int]
    where: str


def token_extra_ms(conf: CorosyncConf) -> int:
    """What Corosync adds to `token` for more than two nodes: 650 ms each, or token_coefficient."""
    coefficient = conf.number("totem", "token_coefficient")
    each = TOKEN_COEFFICIENT_MS if coefficient is None else coefficient
    return max(0, len(conf.nodes) - 2) * each


def token(conf: CorosyncConf) -> Timing:
    """`token` as written (0 means the default, as to Corosync), without what more nodes add."""
    return _written(conf.setting("totem", "token")) or Timing(TOKEN_MS, "default")


def join(conf: CorosyncConf) -> Timing:
    return _written(conf.setting("totem", "join")) or Timing(JOIN_MS, "default")


def consensus(conf: CorosyncConf) -> Timing:
    """ms None: 1.2 times the token."""
    return _written(conf.setting("totem", "consensus")) or Timing(None, "default")


def pong_count(conf: CorosyncConf, link: int) -> Timing:
    return _written(conf.interface(link, "knet_pong_count")) or Timing(PONG_COUNT, "default")


def ping_interval(conf: CorosyncConf, link: int) -> Timing:
    """ms None: the token, divided by twice the pong count."""
    return _written(conf.interface(link, "knet_ping_interval")) or Timing(None, "default")


def ping_timeout(conf: CorosyncConf, link: int) -> Timing:
    """ms None: the token, divided by the pong count."""
    return _written(conf.interface(link, "knet_ping_timeout")) or Timing(None, "default")


def _written(setting: Optional[Setting]) -> Optional[Timing]:
    return Timing(int(setting.value), setting.where) if setting and int(setting.value) else None


def effective(conf: CorosyncConf) -> Mapping[str, int]:
    """Milliseconds that Corosync would show as runtime.config.totem.*: token, consensus, join, and for each link
    interface.N.knet_ping_interval and interface.N.knet_ping_timeout."""
    token_ms = (token(conf).ms or 0) + token_extra_ms(conf)
    found = {"token": token_ms, "consensus": consensus(conf).ms or int(token_ms * 1.2), "join": join(conf).ms or 0}
    for link in conf.links:
        pongs = pong_count(conf, link).ms or PONG_COUNT
        found[f"interface.{link}.knet_ping_interval"] = ping_interval(conf, link).ms or token_ms // (pongs * 2)
        found[f"interface.{link}.knet_ping_timeout"] = ping_timeout(conf, link).ms or token_ms // pongs
    return found
