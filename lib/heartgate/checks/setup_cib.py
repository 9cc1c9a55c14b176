"""What the set-up asks of a running cluster beyond `cib_conf`: clones, location rules, and the status of its nodes. Pure.

Seen with Pacemaker 2.1.5; that 2.1.7 and 3.0 write times in place of true and online is from their documentation.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from typing import Dict, FrozenSet, Iterator, List, Set, Tuple

from heartgate.checks import cib_conf
from heartgate.checks.setup_model import ClusterFacts, Expression, LocationRule
from heartgate.checks.source import ParseError, brief

ROLES = {"Master": "Promoted", "Slave": "Unpromoted"}
RUNS = ("start", "monitor", "promote", "demote", "notify", "reload", "reload-agent", "migrate_from")
GOOD = ("0", "8", "190", "191")  # of a start or a monitor: running, in whatever role, degraded or not


def parse(text: str, source: str = "CIB") -> ClusterFacts:
    """The whole of `cibadmin --query`. Raises ParseError."""
    cib = cib_conf.parse(text, source)
    root = ElementTree.fromstring(text)
    if root.tag != "cib":
        raise ParseError(source, 1, f"expected <cib>, found <{root.tag[:40]}>")
    clones, promotable = _clones(root)
    nodes = [(item.get("uname", ""), item) for item in root.findall("status/node_state") if item.get("uname")]
    return ClusterFacts(
        cib=cib,
        clones=clones,
        promotable=promotable,
        rules=tuple(_rules(root)),
        attributes={(name, key): value for name, item in nodes for key, value in _attributes(item)},
        online=frozenset(name for name, item in nodes if _online(item)),
        started=frozenset((primitive, name) for name, item in nodes for primitive in _started(item)),
        failures=_failures(nodes),
    )


def _clones(root: ElementTree.Element) -> Tuple[Dict[str, str], FrozenSet[str]]:
    clones: Dict[str, str] = {}
    promotable: Set[str] = set()
    for tag in ("clone", "master"):  # Pacemaker 1 had an element of its own for promotable clones, which 2 still reads
        for clone in root.iter(tag):
            ident = clone.get("id", "")
            clones.update({item.get("id", ""): ident for item in clone.iter("primitive")})
            pairs = {pair.get("name"): pair.get("value", "") for pair in clone.findall("meta_attributes/nvpair")}
            if tag == "master" or cib_conf.is_true(pairs.get("promotable", "false")):
                promotable.add(ident)
    return clones, frozenset(promotable)


def _rules(root: ElementTree.Element) -> Iterator[LocationRule]:
    for constraint in root.iter("rsc_location"):
        for rule in constraint.findall("rule"):
            role = rule.get("role") or constraint.get("role") or ""
            expressions = [
                Expression(item.get("attribute", ""), item.get("operation", ""), item.get("value", ""))
                for item in rule.iter("expression")
            ]
            yield LocationRule(
                constraint.get("id", ""),
                constraint.get("rsc", ""),
                ROLES.get(role, role),
                rule.get("score", ""),
                rule.get("boolean-op", "and"),
                frozenset(expressions),
            )


def _attributes(node: ElementTree.Element) -> Iterator[Tuple[str, str]]:
    for pair in node.findall("transient_attributes/instance_attributes/nvpair"):
        yield pair.get("name", ""), pair.get("value", "")


def _online(node: ElementTree.Element) -> bool:
    """in_ccm and crmd are true and online, or since 2.1.7 the time from when on, and 0 if not."""
    member, pacemaker = node.get("in_ccm", ""), node.get("crmd", "")
    return member not in ("", "0", "false") and pacemaker not in ("", "0", "offline") and node.get("join", "") == "member"


def _operations(node: ElementTree.Element) -> Iterator[Tuple[str, List[ElementTree.Element]]]:
    """(primitive, what is known of its operations on this node, in the order in which they were run)."""
    for resource in node.iter("lrm_resource"):
        ident = re.sub(r":\d+\Z", "", resource.get("id", ""))
        yield ident, sorted(resource.findall("lrm_rsc_op"), key=_call)


def _call(operation: ElementTree.Element) -> int:
    text = operation.get("call-id", "")
    return int(text) if re.match(r"-?\d{1,9}\Z", text, re.ASCII) else -1


def _started(node: ElementTree.Element) -> Set[str]:
    found: Set[str] = set()
    for primitive, operations in _operations(node):
        finished = [item for item in operations if item.get("op-status") == "0" and item.get("operation") in (*RUNS, "stop")]
        if finished and finished[-1].get("operation") in RUNS and finished[-1].get("rc-code") in GOOD:
            found.add(primitive)
    return found


def _failures(nodes: List[Tuple[str, ElementTree.Element]]) -> Dict[str, Tuple[str, ...]]:
    found: Dict[str, List[str]] = {}
    for name, node in nodes:
        for primitive, operations in _operations(node):
            for item in operations:
                if item.get("id", "").endswith("_last_failure_0") and not _is_probe(item):
                    why = item.get("exit-reason", "")
                    said = f": {brief(why, 300)}" if why else ""
                    found.setdefault(primitive, []).append(
                        f"{primitive} on {name}: {item.get('operation')} failed (code {item.get('rc-code')}){said}"
                    )
    return {primitive: tuple(lines) for primitive, lines in found.items()}


def _is_probe(item: ElementTree.Element) -> bool:
    """A first look that found the resource stopped is no failure."""
    return item.get("operation") == "monitor" and item.get("interval", "0") == "0" and item.get("rc-code") in ("7", *GOOD)
