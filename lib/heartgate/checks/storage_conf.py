"""Two more files that decide over data and time: SBD's settings and headers, and LIO's saved configuration. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import Any, Dict, List, Mapping, Optional, Tuple

from heartgate.checks.source import ParseError, Setting, brief

SBD_WATCHDOG_S = 5  # sbd(8)
_ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)\Z")
_HEADER = re.compile(r"Timeout \((\w+)\)\s*:\s*(\d{1,9})\s*\Z")


@dataclass(frozen=True)
class SbdHeader:
    """Times in the header of one SBD disk, in seconds: `sbd -d DEVICE dump`. They count over those of the file."""

    device: str
    watchdog_s: int
    msgwait_s: int


@dataclass(frozen=True)
class Sbd:
    """/etc/sysconfig/sbd or /etc/default/sbd. in_use: whether the sbd service is enabled or runs, None if not known."""

    source: str
    settings: Mapping[str, Setting] = field(default_factory=dict)
    headers: Tuple[SbdHeader, ...] = ()
    in_use: Optional[bool] = None

    def with_headers(self, headers: Tuple[SbdHeader, ...]) -> Sbd:
        return replace(self, headers=headers)

    @property
    def devices(self) -> Tuple[str, ...]:
        found = self.settings.get("SBD_DEVICE")
        return tuple(part.strip() for part in (found.value if found else "").split(";") if part.strip())

    @property
    def watchdog(self) -> Tuple[Optional[int], str]:
        """(milliseconds, where). None if what is written is no number."""
        for header in self.headers:
            return header.watchdog_s * 1000, f"header of {header.device}"
        found = self.settings.get("SBD_WATCHDOG_TIMEOUT", Setting(str(SBD_WATCHDOG_S), "default"))
        return _seconds(found.value), found.where

    @property
    def delay_start(self) -> Tuple[Optional[int], str]:
        """(milliseconds, where) if SBD_DELAY_START is a time of its own; None for yes, no, 1 (which means yes)."""
        found = self.settings.get("SBD_DELAY_START", Setting("no", "default"))
        return (None if found.value == "1" else _seconds(found.value)), found.where


def _seconds(value: str) -> Optional[int]:
    return int(value) * 1000 if re.match(r"\d{1,7}\Z", value, re.ASCII) else None


def parse_sbd(text: str, source: str = "/etc/default/sbd", in_use: Optional[bool] = None) -> Sbd:
    """NAME=VALUE lines, quoted or not, comments. Raises ParseError."""
    settings: Dict[str, Setting] = {}
    for number, line in enumerate(text.split("\n"), 1):
        content = line.strip()
        if not content or content[0] in "#;":
            continue
        match = _ASSIGNMENT.match(content)
        if not match:
            raise ParseError(source, number, f"expected NAME=VALUE, found {brief(content)}")
        settings[match.group(1)] = Setting(_unquoted(match.group(2), source, number), f"{source}:{number}")
    return Sbd(source, settings, (), in_use)


def _unquoted(value: str, source: str, number: int) -> str:
    if value[:1] in ("'", '"'):
        end = value.find(value[0], 1)
        if end < 0:
            raise ParseError(source, number, f"expected a closing {value[0]}, found {brief(value)}")
        return value[1:end]
    return value.split(" #")[0].strip()


def parse_sbd_header(text: str, device: str) -> SbdHeader:
    """What `sbd -d DEVICE dump` printed. Raises ParseError."""
    found = {}
    for line in text.split("\n"):
        match = _HEADER.match(line.strip())
        if match:
            found[match.group(1)] = int(match.group(2))
    missing = [name for name in ("watchdog", "msgwait") if name not in found]
    if missing:
        raise ParseError(f"sbd -d {device} dump", 1, f"expected a line Timeout ({missing[0]}) : SECONDS, found none")
    return SbdHeader(device, found["watchdog"], found["msgwait"])


@dataclass(frozen=True)
class Backstore:
    """A storage object of LIO. write_back: it buffers writes. write_cache: it tells initiators that it does (None: not saved)."""

    plugin: str
    name: str
    path: str
    write_back: bool
    write_cache: Optional[bool]


@dataclass(frozen=True)
class Lio:
    source: str
    backstores: Tuple[Backstore, ...]


def parse_lio(text: str, source: str = "/etc/target/saveconfig.json") -> Lio:
    """targetcli's saveconfig.json. Raises ParseError."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ParseError(source, error.lineno, f"expected JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise ParseError(source, 1, f"expected JSON: {error}") from error
    objects: Any = data.get("storage_objects", []) if isinstance(data, dict) else None
    if not isinstance(objects, list) or not all(isinstance(item, dict) for item in objects):
        raise ParseError(source, 1, 'expected an object with a list "storage_objects" of objects')
    return Lio(source, tuple(_backstores(objects)))


def _backstores(objects: List[Dict[str, Any]]) -> List[Backstore]:
    found = []
    for item in objects:
        attributes = item.get("attributes")
        cache = attributes.get("emulate_write_cache") if isinstance(attributes, dict) else None
        words = (str(item.get(key, "")) for key in ("plugin", "name", "dev"))
        plugin, name, path = words
        buffered = item.get("write_back") in (True, 1)
        found.append(Backstore(plugin, name, path, buffered, None if cache is None else cache in (1, True, "1")))
    return found
