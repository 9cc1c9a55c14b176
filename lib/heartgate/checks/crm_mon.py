"""What of `crm_mon -1 --output-as=xml` matters to a failover. Pacemaker 2.1 and 3.0 (API 2.x; seen with 2.1.5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Dict, List, Mapping, Optional, Tuple

from heartgate.checks.source import ParseError, xml_root

if TYPE_CHECKING:
    import xml.etree.ElementTree as ElementTree

SOURCE = "crm_mon"
NOT_CONNECTED, NO_PERMISSION = 102, 4  # Pacemaker's CRM_EX_DISCONNECT, CRM_EX_INSUFFICIENT_PRIV
PROMOTED = frozenset({"Promoted", "Master"})  # the older word is written by Pacemaker before 2.1
ACTIVE = PROMOTED | {"Started", "Unpromoted", "Slave"}
CUTTING = frozenset({"off", "reboot", "poweroff"})


@dataclass(frozen=True)
class Node:
    name: str
    online: bool
    standby: bool = False
    maintenance: bool = False
    pending: bool = False
    unclean: bool = False


@dataclass(frozen=True)
class Instance:
    """A resource, or one instance of a clone. parent: the clone or group that it is in, or its own name. node: where it is
    active, "" if nowhere. disabled: its target role says stopped."""

    ident: str
    parent: str
    agent: str
    role: str
    node: str
    managed: bool = True
    failed: bool = False
    blocked: bool = False
    disabled: bool = False

    @property
    def active(self) -> bool:
        return self.role in ACTIVE and bool(self.node)

    @property
    def promoted(self) -> bool:
        return self.role in PROMOTED and bool(self.node)


@dataclass(frozen=True)
class Ban:
    ident: str
    resource: str
    node: str
    promoted_only: bool


@dataclass(frozen=True)
class Fencing:
    """One entry of the fencing history; the newest comes first. status: success, failed or pending."""

    target: str
    action: str
    status: str
    completed: str
    reason: str = ""


@dataclass(frozen=True)
class Pacemaker:
    """fencings: None if the history could not be read. attributes: (node, name) -> value."""

    dc: str
    quorate: Optional[bool]
    nodes: Tuple[Node, ...] = ()
    instances: Tuple[Instance, ...] = ()
    bans: Tuple[Ban, ...] = ()
    fencings: Optional[Tuple[Fencing, ...]] = ()
    attributes: Optional[Mapping[Tuple[str, str], str]] = None
    maintenance_mode: bool = False
    stop_all: bool = False

    def node(self, name: str) -> Optional[Node]:
        return next((each for each in self.nodes if each.name == name), None)


def failure(text: str) -> Tuple[int, str]:
    """(Pacemaker's exit code, why) of an answer that tells of a failure. Raises ParseError."""
    root = _root(text)
    status = root.find("status")
    if status is None:
        return 0, ""
    errors = [error.text or "" for error in status.iter("error")]
    code = status.get("code", "")
    return int(code) if code.isdecimal() and len(code) < 6 else 1, (errors[-1] if errors else status.get("message", ""))[:200]


def parse(text: str) -> Pacemaker:
    """Raises ParseError."""
    root = _root(text)
    summary = root.find("summary")
    if summary is None or root.find("nodes") is None:
        state = root.find("pacemakerd")
        told = f" (pacemakerd: {state.get('state', '?')[:40]})" if state is not None else ""
        raise ParseError(SOURCE, 1, f"expected <summary> and <nodes>, found none{told}: Pacemaker may be starting or ending")
    options, dc = summary.find("cluster_options"), summary.find("current_dc")
    present = dc is not None and _true(dc, "present")
    return Pacemaker(
        dc=dc.get("name", "") if dc is not None and present else "",
        quorate=_true(dc, "with_quorum") if dc is not None and dc.get("with_quorum") is not None else None,
        nodes=tuple(_node(each) for each in root.findall("nodes/node") if each.get("name")),
        instances=tuple(_instances(root)),
        bans=tuple(_ban(each) for each in root.findall("bans/ban") if each.get("weight", "").startswith("-")),
        fencings=_fencings(root.find("fence_history")),
        attributes=_attributes(root),
        maintenance_mode=options is not None and _true(options, "maintenance-mode"),
        stop_all=options is not None and _true(options, "stop-all-resources"),
    )


def _root(text: str) -> ElementTree.Element:
    root = xml_root(text, SOURCE, "XML")
    if root.tag not in ("pacemaker-result", "crm_mon"):
        raise ParseError(SOURCE, 1, f"expected <pacemaker-result>, found <{root.tag[:40]}>")
    return root


def _true(element: ElementTree.Element, name: str) -> bool:
    return element.get(name, "") in ("true", "1")


def _node(item: ElementTree.Element) -> Node:
    return Node(
        item.get("name", ""),
        online=_true(item, "online"),
        standby=_true(item, "standby") or _true(item, "standby_onfail"),
        maintenance=_true(item, "maintenance"),
        pending=_true(item, "pending"),
        unclean=_true(item, "unclean"),
    )


def _instances(root: ElementTree.Element) -> List[Instance]:
    found: List[Instance] = []

    def walk(item: ElementTree.Element, parent: str, managed: bool, disabled: bool) -> None:
        for child in item:
            name = child.get("id", "")
            its_managed = managed and child.get("managed", "true") != "false"
            its_disabled = disabled or _true(child, "disabled") or child.get("target_role", "").lower() == "stopped"
            if child.tag == "resource":
                found.append(_instance(child, parent or name, its_managed, its_disabled))
            elif child.tag in ("clone", "group", "bundle", "replica"):
                walk(child, parent or name, its_managed, its_disabled)

    for place in root.findall("resources"):
        walk(place, "", True, False)
    return found


def _instance(item: ElementTree.Element, parent: str, managed: bool, disabled: bool) -> Instance:
    nodes = [each.get("name", "") for each in item.findall("node")]
    return Instance(
        item.get("id", ""),
        parent,
        item.get("resource_agent", ""),
        item.get("role", ""),
        nodes[0] if nodes else "",
        managed=managed,
        failed=_true(item, "failed") and not _true(item, "failure_ignored"),
        blocked=_true(item, "blocked"),
        disabled=disabled,
    )


def _ban(item: ElementTree.Element) -> Ban:
    return Ban(item.get("id", ""), item.get("resource", ""), item.get("node", ""), _true(item, "promoted-only"))


def _fencings(item: Optional[ElementTree.Element]) -> Optional[Tuple[Fencing, ...]]:
    if item is None:
        return ()
    if item.get("status", "0") != "0":
        return None
    return tuple(
        Fencing(
            each.get("target", ""),
            each.get("action", ""),
            each.get("status", ""),
            each.get("completed", ""),
            each.get("exit-reason", ""),
        )
        for each in item.findall("fence_event")
        if each.get("action") in CUTTING and each.get("target")
    )


def _attributes(root: ElementTree.Element) -> Dict[Tuple[str, str], str]:
    return {
        (node.get("name", ""), item.get("name", "")): item.get("value", "")
        for node in root.findall("node_attributes/node")
        for item in node.findall("attribute")
    }
