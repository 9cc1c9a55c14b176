"""What of Pacemaker's configuration (the XML of `cibadmin --query`) matters to timeouts and fencing. Pacemaker 2.1 and 3.0."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Dict, List, Mapping, Optional, Tuple

from heartgate.checks.source import ParseError, xml_root

if TYPE_CHECKING:
    import xml.etree.ElementTree as ElementTree

BOOTSTRAP = "cib-bootstrap-options"  # Pacemaker reads this set first
OPERATION_MS = 20_000  # Pacemaker's default timeout of an operation
STONITH_MS = 60_000  # and of a fencing operation
_TIME = re.compile(r"\s*\+?(\d{1,12})\s*(ms|msec|us|usec|s|sec|m|min|h|hr)?\s*\Z", re.ASCII)
_FACTORS: Mapping[str, float] = {
    "": 1000,
    "s": 1000,
    "sec": 1000,
    "ms": 1,
    "msec": 1,
    "us": 0.001,
    "usec": 0.001,
    "m": 60_000,
    "min": 60_000,
    "h": 3_600_000,
    "hr": 3_600_000,
}
_SECRET = re.compile("passw|secret|token|key|community", re.IGNORECASE)  # fence agents' parameters; goes nowhere from here
_PERIOD = re.compile(r"PT(?:(\d{1,6})H)?(?:(\d{1,6})M)?(?:(\d{1,9})S)?\Z", re.ASCII)


@dataclass(frozen=True)
class Operation:
    """timeout_ms None: not written here (then the cluster's default counts), or written and no time: `written` shows it."""

    name: str
    interval: str
    timeout_ms: Optional[int]
    written: str = ""


@dataclass(frozen=True)
class Primitive:
    """kind: "ocf:heartgate:replica-guard", "stonith:fence_ipmilan". params: instance attributes; metas: meta
    attributes."""

    ident: str
    kind: str
    params: Mapping[str, str] = field(default_factory=dict)
    operations: Tuple[Operation, ...] = ()
    metas: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Level:
    """A fencing level. target: a node, "PATTERN~..." or "ATTRIBUTE=VALUE"."""

    target: str
    index: int
    devices: Tuple[str, ...]


@dataclass(frozen=True)
class Location:
    """A rule of a location constraint. ident: the rule's, by which crm_mon names it too. resources: ids, or "PATTERN~...".
    attributes: the node attributes that it looks at."""

    ident: str
    resources: Tuple[str, ...]
    promoted: bool
    never: bool  # its score is -INFINITY
    attributes: Tuple[str, ...]


@dataclass(frozen=True)
class Alert:
    """An alert agent. kinds: "fencing", "nodes" ...; None: nothing is selected, so all of them."""

    ident: str
    path: str
    kinds: Optional[Tuple[str, ...]] = None
    enabled: bool = True


@dataclass(frozen=True)
class Cib:
    """conditional: names of properties that also stand in a set with a rule; what counts then depends on the time."""

    source: str
    properties: Mapping[str, str] = field(default_factory=dict)
    primitives: Tuple[Primitive, ...] = ()
    levels: Tuple[Level, ...] = ()
    nodes: Tuple[str, ...] = ()
    operation_default: str = ""
    conditional: Tuple[str, ...] = ()
    locations: Tuple[Location, ...] = ()
    alerts: Tuple[Alert, ...] = ()

    @property
    def fencing(self) -> Tuple[Primitive, ...]:
        return tuple(item for item in self.primitives if item.kind.startswith("stonith:"))

    def of_kind(self, kind: str) -> Tuple[Primitive, ...]:
        return tuple(item for item in self.primitives if item.kind == kind)

    def primitive(self, ident: str) -> Optional[Primitive]:
        return next((item for item in self.primitives if item.ident == ident), None)

    def operation_ms(self, primitive: Primitive, name: str) -> Tuple[Optional[int], str]:
        """(shortest timeout of an operation, where). None if what is written is no time."""
        written = [item for item in primitive.operations if item.name == name and (item.timeout_ms is not None or item.written)]
        if written:
            times = [item.timeout_ms for item in written]
            known = [each for each in times if each is not None]
            return (min(known) if len(known) == len(times) else None), f"{self.source}, {primitive.ident}, operation {name}"
        if self.operation_default:
            return parse_time(self.operation_default), f"{self.source}, op_defaults"
        return OPERATION_MS, "default"


def is_true(value: str) -> bool:
    return value.strip().lower() in ("1", "true", "on", "yes", "y")


def is_false(value: str) -> bool:
    return value.strip().lower() in ("0", "false", "off", "no", "n")


def parse_time(value: str) -> Optional[int]:
    """Milliseconds of "20", "20s", "500ms", "2min", "PT1M30S"; None if it is no such time."""
    match = _TIME.match(value)
    if match:
        return int(int(match.group(1)) * _FACTORS[match.group(2) or ""])
    period = _PERIOD.match(value.strip())
    if period and any(period.groups()):
        hours, minutes, seconds = (int(each or 0) for each in period.groups())
        return ((hours * 60 + minutes) * 60 + seconds) * 1000
    return None


def parse(text: str, source: str = "CIB") -> Cib:
    """Raises ParseError."""
    root = xml_root(text, source, "the XML of a CIB")
    if root.tag not in ("cib", "configuration"):
        raise ParseError(source, 1, f"expected <cib>, found <{root.tag[:40]}>")
    configuration = root if root.tag == "configuration" else root.find("configuration")
    if configuration is None:
        raise ParseError(source, 1, "expected <configuration> in <cib>, found none")
    return _cib(configuration, source)


def _cib(configuration: ElementTree.Element, source: str) -> Cib:
    properties, conditional = _sets(configuration.findall("crm_config/cluster_property_set"))
    defaults, rules = _sets(configuration.findall("op_defaults/meta_attributes"))
    templates = {item.get("id", ""): item for item in configuration.iter("template")}
    names = (node.get("uname", "") for node in configuration.findall("nodes/node"))
    return Cib(
        source=source,
        properties=properties,
        primitives=tuple(_primitive(item, templates) for item in configuration.iter("primitive")),
        levels=tuple(_levels(configuration)),
        nodes=tuple(name for name in names if name),
        operation_default="(depends on a rule)" if "timeout" in rules else defaults.get("timeout", ""),
        conditional=conditional,
        locations=tuple(_locations(configuration)),
        alerts=tuple(_alert(item) for item in configuration.findall("alerts/alert")),
    )


def _locations(configuration: ElementTree.Element) -> List[Location]:
    found = []
    for item in configuration.findall("constraints/rsc_location"):
        pattern, single = item.get("rsc-pattern"), item.get("rsc")
        names = [single] if single else [each.get("id", "") for each in item.findall("resource_set/resource_ref")]
        names += [f"PATTERN~{pattern}"] if pattern else []
        shared = item.get("role") or next((each.get("role", "") for each in item.findall("resource_set")), "")
        for rule in item.findall("rule"):
            role = rule.get("role") or shared
            attributes = dict.fromkeys(each.get("attribute", "") for each in rule.iter("expression"))
            found.append(
                Location(
                    rule.get("id", ""),
                    tuple(names),
                    role.lower() in ("promoted", "master"),
                    _score(rule.get("score", "0")) == float("-inf"),
                    tuple(attributes),
                )
            )
    return found


def _sets(sets: List[ElementTree.Element]) -> Tuple[Dict[str, str], Tuple[str, ...]]:
    """(values, names that stand in a set with a rule). The bootstrap set first, then by score; what is found first counts."""
    values: Dict[str, str] = {}
    conditional: List[str] = []
    for each in sorted(sets, key=lambda item: (item.get("id") != BOOTSTRAP, -_score(item.get("score", "0")))):
        for pair in each.findall("nvpair"):
            name = pair.get("name", "")
            if each.find("rule") is not None:
                conditional.append(name)
            else:
                values.setdefault(name, pair.get("value", ""))
    return values, tuple(dict.fromkeys(conditional))


def _score(text: str) -> float:
    if text.strip("+-").upper() == "INFINITY":
        return float("-inf") if text.startswith("-") else float("inf")
    return int(text) if re.match(r"[+-]?\d{1,9}\Z", text, re.ASCII) else 0


def _primitive(item: ElementTree.Element, templates: Mapping[str, ElementTree.Element]) -> Primitive:
    template = templates.get(item.get("template", ""))
    shape = item if template is None or item.get("type") else template
    kind = ":".join(part for part in (shape.get("class"), shape.get("provider"), shape.get("type")) if part)
    sources = [item] if template is None else [item, template]
    params: Dict[str, str] = {}
    metas: Dict[str, str] = {}
    operations: List[Operation] = []
    for each in sources:
        for name, value in _sets(each.findall("meta_attributes"))[0].items():
            metas.setdefault(name, value)
        for name, value in _sets(each.findall("instance_attributes"))[0].items():
            params.setdefault(name, "(set)" if _SECRET.search(name) else value)
        seen = {(operation.name, operation.interval) for operation in operations}
        operations += [
            found for found in map(_operation, each.findall("operations/op")) if (found.name, found.interval) not in seen
        ]
    return Primitive(item.get("id", ""), kind, params, tuple(operations), metas)


def _alert(item: ElementTree.Element) -> Alert:
    select = item.find("select")
    kinds = None if select is None else tuple(each.tag.replace("select_", "", 1) for each in select)
    enabled = not is_false(_sets(item.findall("meta_attributes"))[0].get("enabled", "true"))
    return Alert(item.get("id", ""), item.get("path", ""), kinds, enabled)


def _operation(item: ElementTree.Element) -> Operation:
    written = item.get("timeout") or _sets(item.findall("meta_attributes"))[0].get("timeout", "")
    return Operation(item.get("name", ""), item.get("interval", "0"), parse_time(written) if written else None, written)


def _levels(configuration: ElementTree.Element) -> List[Level]:
    found = []
    for item in configuration.findall("fencing-topology/fencing-level"):
        pattern, attribute = item.get("target-pattern"), item.get("target-attribute")
        target = item.get("target", "")
        if pattern:
            target = f"PATTERN~{pattern}"
        elif attribute:
            target = f"{attribute}={item.get('target-value', '')}"
        index = item.get("index", "0")
        devices = tuple(part for part in re.split(r"[,\s]+", item.get("devices", "")) if part)
        found.append(Level(target, int(index) if re.match(r"\d{1,4}\Z", index, re.ASCII) else 0, devices))
    return sorted(found, key=lambda level: (level.target, level.index))
