"""DRBD's configuration as `drbdadm dump` prints it (everything normalised, with the places of the resources), and as the kernel
has it (`drbdsetup show`). Seen with drbd-utils 9.22 and, for `show`, DRBD 8.4.11; DRBD 9's `show` from its manual.

What of it defeats the failover policy is said here once; `adapters/drbd_config.py`, which reads dump-xml for the daemon,
uses the same words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from heartgate.checks.source import ParseError, Setting, brief

FENCE_HANDLER = "/usr/lib/heartgate/drbd-fence-peer"
UNFENCE_HANDLER = "/usr/lib/heartgate/drbd-unfence-peer"
REBOOTING_WORDS = ("reboot", "halt", "poweroff", "sysrq", "shutdown")
FENCING_WANTED = "resource-and-stonith"
AFTER_SB = ("after-sb-0pri", "after-sb-1pri", "after-sb-2pri")
KEEPS_DATA = ("disconnect", "discard-zero-changes")  # values of AFTER_SB that throw away nothing that was acknowledged
DEPTH_LIMIT = 12
# drbd.conf(5): option -> (default, milliseconds in one unit)
TIMES: Mapping[str, Tuple[int, int]] = {
    "timeout": (60, 100),
    "ping-int": (10, 1000),
    "ping-timeout": (5, 100),
    "connect-int": (10, 1000),
}
KO_COUNT = 7
_DEFINED = re.compile(r"#\s*defined at (.+):(\d+)\s*\Z")
_TOKEN = re.compile(
    r'[ \t\r]+|(?P<end>;)|(?P<open>\{)|(?P<close>\})|"(?P<quoted>(?:\\.|[^"\\\n])*)"|(?P<word>[^\s;{}"#]+)|(?P<note>#[^\n]*)'
)


@dataclass(frozen=True)
class Statement:
    """`words;` or `words { body }`. body None: no braces. defined: what a comment before it told, ("FILE", LINE)."""

    words: Tuple[str, ...]
    line: int
    body: Optional[Tuple[Statement, ...]] = None
    defined: Optional[Tuple[str, int]] = None


@dataclass(frozen=True)
class Path:
    """One pair of addresses of a connection: ((node, address), ...). From `show`: (("local", ...), ("peer", ...))."""

    ends: Tuple[Tuple[str, str], ...]


@dataclass(frozen=True)
class Connection:
    nodes: Tuple[str, ...]
    paths: Tuple[Path, ...]
    net: Mapping[str, Setting]


@dataclass(frozen=True)
class Resource:
    """One resource; options are those of `common` with its own over them, a connection's own are with the connection."""

    name: str
    where: str
    nodes: Tuple[str, ...]
    connections: Tuple[Connection, ...]
    net: Mapping[str, Setting] = field(default_factory=dict)
    disk: Mapping[str, Setting] = field(default_factory=dict)
    handlers: Mapping[str, Setting] = field(default_factory=dict)
    options: Mapping[str, Setting] = field(default_factory=dict)

    def values(self, option: str, default: str) -> Tuple[Setting, ...]:
        """The option as it is in force in each connection, each value once; the default if it is written nowhere.

        `fencing` stands in net on DRBD 9 and in disk on 8.4.
        """
        general = self.net.get(option) or self.disk.get(option) or Setting(default, "default")
        found = [connection.net.get(option, general) for connection in self.connections] or [general]
        return tuple(dict.fromkeys(found))

    def time_ms(self, option: str) -> Tuple[Tuple[Optional[int], str], ...]:
        """(milliseconds, where) of timeout, ping-int, ping-timeout or connect-int, as in force in each connection. None: what
        is written there is no number."""
        default, unit_ms = TIMES[option]
        return tuple((_times(item.value, unit_ms), item.where) for item in self.values(option, str(default)))


def _times(value: str, unit_ms: int) -> Optional[int]:
    return int(value) * unit_ms if re.match(r"\d{1,9}\Z", value, re.ASCII) else None


def throws_data_away(value: str) -> bool:
    """Whether a value of after-sb-0pri, -1pri or -2pri may discard acknowledged writes without a person."""
    return value not in KEEPS_DATA


# --- the grammar


def statements(text: str, source: str) -> Tuple[Statement, ...]:
    """Words, quoted strings, `;`, `{`, `}`, comments. Raises ParseError."""
    return _Grammar(source).read(text)


@dataclass
class _Block:
    words: Tuple[str, ...]
    line: int
    defined: Optional[Tuple[str, int]]
    body: List[Statement] = field(default_factory=list)


class _Grammar:
    def __init__(self, source: str) -> None:
        self._source = source
        self._open: List[_Block] = [_Block((), 0, None)]
        self._words: List[str] = []
        self._start = 0
        self._defined: Optional[Tuple[str, int]] = None

    def read(self, text: str) -> Tuple[Statement, ...]:
        line = 0
        for line, kind, value in self._tokens(text):
            if kind in ("word", "quoted"):
                self._start = self._start if self._words else line
                self._words.append(value)
            elif kind == "note":
                match = _DEFINED.match(value)
                if match and len(match.group(2)) < 10:
                    self._defined = (match.group(1), int(match.group(2)))
            else:
                {"end": self._end, "open": self._begin, "close": self._close}[kind](line)
        last = max(line, 1)
        if self._words:
            raise self._wrong(last, f'expected ";" or "{{" after {brief(" ".join(self._words))}, found the end')
        if len(self._open) > 1:
            block = self._open[-1]
            raise self._wrong(
                last, f'expected "}}" that closes {brief(" ".join(block.words))} of line {block.line}, found the end'
            )
        return tuple(self._open[0].body)

    def _tokens(self, text: str) -> Iterator[Tuple[int, str, str]]:
        for number, line in enumerate(text.split("\n"), 1):
            place = 0
            while place < len(line):
                match = _TOKEN.match(line, place)
                if not match:
                    raise self._wrong(number, f'expected a word, a quoted string, ";", "{{" or "}}", found {brief(line[place:])}')
                if match.lastgroup:
                    yield number, match.lastgroup, match.group(match.lastgroup)
                place = match.end()

    def _wrong(self, line: int, message: str) -> ParseError:
        return ParseError(self._source, line, message)

    def _take(self) -> Tuple[Tuple[str, ...], Optional[Tuple[str, int]]]:
        words, defined = tuple(self._words), self._defined
        self._words, self._defined = [], None
        return words, defined

    def _end(self, line: int) -> None:
        if not self._words:
            return  # `};`
        start = self._start
        words, _ = self._take()
        self._open[-1].body.append(Statement(words, start))

    def _begin(self, line: int) -> None:
        if not self._words:
            raise self._wrong(line, 'expected the name of a section before "{"')
        if len(self._open) > DEPTH_LIMIT:
            raise self._wrong(line, f"expected at most {DEPTH_LIMIT} sections inside each other")
        start = self._start
        words, defined = self._take()
        self._open.append(_Block(words, start, defined))

    def _close(self, line: int) -> None:
        if self._words:
            raise self._wrong(line, f'expected ";" after {brief(" ".join(self._words))}, found "}}"')
        if len(self._open) == 1:
            raise self._wrong(line, 'found "}", and no section is open')
        block = self._open.pop()
        self._open[-1].body.append(Statement(block.words, block.line, tuple(block.body), block.defined))


# --- drbdadm dump


def parse_dump(text: str, source: str = "drbdadm dump") -> Tuple[Resource, ...]:
    """The resources, in the order of the dump. Raises ParseError."""
    top = statements(text, source)
    common = [item for item in top if item.words == ("common",)]
    base = {name: _options(common, name, "common") for name in ("net", "disk", "handlers", "options")}
    return tuple(_resource(item, base, source) for item in top if item.words[0] == "resource")


def _resource(item: Statement, base: Mapping[str, Mapping[str, Setting]], source: str) -> Resource:
    if len(item.words) != 2 or item.body is None:
        raise ParseError(source, item.line, f"expected resource NAME {{ ... }}, found {brief(' '.join(item.words))}")
    name = item.words[1]
    where = "{}:{}".format(*item.defined) if item.defined else f"{source}:{item.line}"
    place = f"{where}, resource {name}"
    merged = {section: {**base[section], **_options([item], section, place)} for section in base}
    hosts = [inner for inner in item.body if inner.words[0] in ("on", "floating") and inner.body is not None]
    nodes = tuple(node for host in hosts for node in host.words[1:2])
    connections = tuple(_connection(inner, place) for inner in item.body if inner.words[0] == "connection" and inner.body)
    meshes = [inner for inner in item.body if inner.words[0] == "connection-mesh" and inner.body]
    for mesh in meshes:
        merged["net"].update(_options([mesh], "net", f"{place}, connection-mesh"))
    if not connections:
        connections = (Connection(nodes, (Path(tuple(_address(host) for host in hosts)),), {}),) if hosts else ()
    return Resource(name, where, nodes, connections, merged["net"], merged["disk"], merged["handlers"], merged["options"])


def _options(parents: Sequence[Statement], section: str, place: str) -> Dict[str, Setting]:
    found: Dict[str, Setting] = {}
    for parent in parents:
        for inner in parent.body or ():
            if inner.words == (section,):
                for option in inner.body or ():
                    # An option without a value is a flag that is set. The secret goes nowhere from here.
                    value = "(set)" if option.words[0] == "shared-secret" else " ".join(option.words[1:]) or "yes"
                    found[option.words[0]] = Setting(value, f"{place}, section {section}")
    return found


def _address(host: Statement) -> Tuple[str, str]:
    """(node, address): the last word of `address [FAMILY] ADDRESS:PORT`."""
    words = [inner.words for inner in host.body or () if inner.words[0] == "address" and len(inner.words) > 1]
    return (host.words[1] if len(host.words) > 1 else "", words[0][-1] if words else "")


def _connection(item: Statement, place: str) -> Connection:
    body = item.body or ()
    paths = [_path(inner) for inner in body if inner.words[0] == "path" and inner.body]
    direct = [inner for inner in body if inner.words[0] == "host"]
    paths += [_path(Statement(("path",), item.line, tuple(direct)))] if direct else []
    nodes = tuple(dict.fromkeys(node for path in paths for node, _ in path.ends))
    label = " ".join(nodes) or " ".join(item.words[1:])
    return Connection(nodes, tuple(paths), _options([item], "net", f"{place}, connection {label}"))


def _path(item: Statement) -> Path:
    hosts = [inner for inner in item.body or () if inner.words[0] == "host" and len(inner.words) > 1]
    return Path(tuple((host.words[1], host.words[-1] if "address" in host.words else "") for host in hosts))


# --- drbdsetup show


def parse_show(text: str, source: str = "drbdsetup show") -> Tuple[Resource, ...]:
    """What the kernel has in force. `show` leaves out defaults unless asked with --show-defaults. Raises ParseError."""
    found = []
    for item in statements(text, source):
        if item.words[0] != "resource" or len(item.words) != 2 or item.body is None:
            raise ParseError(source, item.line, f"expected resource NAME {{ ... }}, found {brief(' '.join(item.words))}")
        place = f"{source}, resource {item.words[1]}"
        options = {name: _options([item], name, place) for name in ("net", "disk", "options")}
        for volume in _volumes(item):
            options["disk"].update(_options([volume], "disk", place))
        connections = [_shown(inner, place) for inner in item.body if inner.words[0] == "connection" and inner.body]
        if not connections and any(inner.words[0] == "_remote_host" for inner in item.body):
            connections = [_shown(item, place)]
        found.append(
            Resource(
                item.words[1],
                f"{source}:{item.line}",
                (),
                tuple(connections),
                options["net"],
                options["disk"],
                {},
                options["options"],
            )
        )
    return tuple(found)


def _volumes(resource: Statement) -> Iterator[Statement]:
    """With their disk options: DRBD 9 has them in the resource; 8.4 shows them in `_this_host` alone."""
    for item in resource.body or ():
        inside = (item.body or ()) if item.words[0] == "_this_host" else (item,)
        yield from (each for each in inside if each.words[0] == "volume")


def _shown(item: Statement, place: str) -> Connection:
    body = list(item.body or ())
    paths = []
    for outer in [inner for inner in body if inner.words[0] == "path"] or [item]:
        ends = [
            (inner.words[0].strip("_").partition("_")[0], inner)
            for inner in outer.body or ()
            if inner.words[0] in ("_this_host", "_remote_host")
        ]
        paths.append(Path(tuple(("local" if end == "this" else "peer", _address(host)[1]) for end, host in ends)))
    names = [inner.words[1] for inner in body if inner.words[0] == "_name" and len(inner.words) == 2]
    return Connection(tuple(names), tuple(paths), _options([item], "net", place))
