"""The parameters of heartbeat-link: their defaults, and what is wrong with given values.

Used by the agent (syntax, before anything runs) and by the daemon (again, since it trusts nobody's word). Needs nothing
but the values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Dict, List, NamedTuple, Optional, Tuple

from heartgate.adapters.base import Problem
from heartgate.checks.link_report import Question
from heartgate.core.codec import is_name

DEFAULTS: Mapping[str, str] = {
    "interface": "",
    "client_interface": "",
    "sync_interfaces": "",
    "addressing": "any",
    "waivers": "",
    "on_loss": "degraded",
    "name": "",
    "dampen": "1s",
}
ADDRESSINGS = ("any", "static", "dhcp")
ON_LOSS = ("degraded", "fail")
EXAMPLE = 'interface=hb0, or interface="nodea:hb0 nodeb:eth3"'
MAX_DAMPEN_MS = 60_000
_INTERFACE = re.compile(r"[^\s/:,]{1,127}\Z")  # other names may be as long as that
_ATTRIBUTE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,79}\Z")
_ODD = re.compile(r"[^A-Za-z0-9_.-]")
_SECONDS = re.compile(r"(\d{1,6})(s|sec|ms|m|min)?\Z")
_UNITS_MS = {"": 1000, "s": 1000, "sec": 1000, "ms": 1, "m": 60_000, "min": 60_000}

Names = Mapping[str, str]  # node -> interface; "" is every node


class LinkParams(NamedTuple):
    """Checked values."""

    interface: Names
    client_interface: Names
    sync_interfaces: Tuple[str, ...]
    addressing: str
    waivers: str
    on_loss: str
    name: str
    dampen_ms: int

    def attribute(self, resource: str) -> str:
        """Name of the node attribute, the same on every node. resource: the resource's id."""
        return self.name or "heartgate-link-" + _ODD.sub("_", self.interface.get("", resource))[:60]

    def question(self, me: str) -> Question:
        """Raises ValueError when no interface is named for this node."""
        mine = on_node(self.interface, me)
        if mine is None:
            raise ValueError(f"interface: {me} is not named; {', '.join(self.interface)} are")
        client = on_node(self.client_interface, me) or ""
        return Question(mine, client, self.sync_interfaces, self.addressing, self.waivers)


def on_node(names: Names, me: str) -> Optional[str]:
    return names.get(me, names.get(""))


def parse(raw: Mapping[str, str]) -> Tuple[Optional[LinkParams], List[Problem]]:
    """The values, or everything that is wrong with them. Unknown names are ignored (Pacemaker adds its own)."""
    given: Dict[str, str] = {name: raw.get(name, "").strip() or default for name, default in DEFAULTS.items()}
    problems: List[Problem] = []
    if not given["interface"]:
        problems.append(Problem("interface-missing", "interface is not given", f"name it, e.g. {EXAMPLE}"))
    params = LinkParams(
        interface=_names(given, "interface", problems),
        client_interface=_names(given, "client_interface", problems),
        sync_interfaces=_list(given["sync_interfaces"], problems),
        addressing=_choice(given, "addressing", ADDRESSINGS, problems),
        waivers=_waivers(given["waivers"], problems),
        on_loss=_choice(given, "on_loss", ON_LOSS, problems),
        name=_attribute(given["name"], problems),
        dampen_ms=_dampen_ms(given["dampen"], problems),
    )
    return (None if problems else params), problems


def _names(given: Mapping[str, str], name: str, problems: List[Problem]) -> Names:
    words = given[name].replace(",", " ").split()
    found: Dict[str, str] = {}
    for word in words:
        node, colon, interface = word.rpartition(":")
        fits = _INTERFACE.match(interface) and (is_name(node) if colon else len(words) == 1)
        if not fits or node in found:
            why = f"names {node} twice" if node in found else f"has {word!r:.80}, which is neither"
            remedy = f"write one interface for all nodes, or NODE:INTERFACE for each: {EXAMPLE}"
            problems.append(Problem(f"{name}-value", f"{name} {why}", remedy.replace("interface=", f"{name}=")))
        found[node] = interface
    return found


def _list(value: str, problems: List[Problem]) -> Tuple[str, ...]:
    names = tuple(value.replace(",", " ").split())
    for name in names:
        if not _INTERFACE.match(name):
            text = f"sync_interfaces: {name!r:.80} is not an interface name"
            remedy = 'name the interfaces that carry replication, e.g. sync_interfaces="eth2 eth3"'
            problems.append(Problem("sync_interfaces-value", text, remedy))
    return names


def _choice(given: Mapping[str, str], name: str, allowed: Tuple[str, ...], problems: List[Problem]) -> str:
    value = given[name]
    if value not in allowed:
        text = f"{name}={value!r:.80} is not known"
        problems.append(Problem(f"{name}-value", text, f"set {name} to one of: {', '.join(allowed)}"))
        return DEFAULTS[name]
    return value


def _waivers(value: str, problems: List[Problem]) -> str:
    if not value:
        return value
    from heartgate.checks.findings import WaiverError, parse_waivers
    from heartgate.checks.heartbeat_rules import RULES  # only here: all of the rules hang on it

    try:
        parse_waivers(value, RULES)
    except WaiverError as error:
        remedy = 'write RULE=REASON or RULE@INTERFACE=REASON, several separated by ";"; docs/heartbeat-rules.md has the rules'
        problems.append(Problem("waivers-value", f"waivers: {error}", remedy))
    return value


def _attribute(value: str, problems: List[Problem]) -> str:
    if value and not _ATTRIBUTE.match(value):
        text = f"name={value!r:.80} cannot be the name of a node attribute"
        remedy = "use letters, digits, '_', '.' and '-', at most 80, or leave it out"
        problems.append(Problem("name-value", text, remedy))
    return value


def _dampen_ms(value: str, problems: List[Problem]) -> int:
    match = _SECONDS.match(value)
    found = int(match.group(1)) * _UNITS_MS[match.group(2) or ""] if match else -1
    if not 0 <= found <= MAX_DAMPEN_MS:
        text = f"dampen={value!r:.80} is not a time from 0 to {MAX_DAMPEN_MS // 1000}s"
        problems.append(Problem("dampen-value", text, f"write seconds, e.g. dampen={DEFAULTS['dampen']}"))
        return 0
    return found
