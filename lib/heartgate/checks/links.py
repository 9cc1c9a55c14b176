"""What is judged: links between two hosts, each end an interface; and what their rules share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Callable, FrozenSet, Iterator, NamedTuple, Optional, Tuple

from heartgate.checks.findings import Finding, RuleInfo, Severity
from heartgate.checks.model import PHYSICAL, HostFacts, Interface, stack

PCI = re.compile(r"([0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2})\.([0-7])\Z")


class Compare(Enum):
    """What "the same adapter" on both nodes means (B2). NAME: the interface's name. BUS: the bus address and the port at
    it. PORT: the driver and the port of the card, in whatever slot."""

    NAME = "name"
    BUS = "bus"
    PORT = "port"


class Addressing(Enum):
    """Which addressing a heartbeat has to have (B4). ANY: the same on both ends."""

    STATIC = "static"
    DHCP = "dhcp"
    ANY = "any"


@dataclass(frozen=True)
class End:
    """One end of a link. `name`: as a person or a configuration named it. `interface` None: there is no such one."""

    host: HostFacts
    name: str

    @property
    def interface(self) -> Optional[Interface]:
        return self.host.interface(self.name)

    @property
    def shown(self) -> str:
        return f"{self.name} of {self.host.host}"

    def stack(self) -> Tuple[Interface, ...]:
        return stack(self.host, self.name)

    def leaves(self) -> Tuple[Interface, ...]:
        """What the interface stands on in the end: the adapters of a bond, the one below a VLAN, itself."""
        return tuple(item for item in self.stack() if not item.lower)

    @property
    def paravirtual(self) -> bool:
        return any(item.paravirtual for item in self.leaves())

    @property
    def works(self) -> bool:
        """It is there and has carrier: only then its speed and duplex mean anything."""
        item = self.interface
        return item is not None and item.carrier is True


@dataclass(frozen=True)
class Link:
    """Ends: this host's first; one only if the peer's facts are not there."""

    ends: Tuple[End, ...]

    @property
    def subject(self) -> str:
        return "/".join(dict.fromkeys(end.name for end in self.ends))

    @property
    def present(self) -> Tuple[Tuple[End, Interface], ...]:
        return tuple((end, end.interface) for end in self.ends if end.interface is not None)

    def other(self, end: End) -> Optional[End]:
        return next((each for each in self.ends if each is not end), None)


@dataclass(frozen=True)
class Plan:
    """What is to be judged. `hosts`: this host's facts first, then the peer's. `syncs` None: which interfaces carry the
    replication is not known. `client` None: no interface of clients is known."""

    hosts: Tuple[HostFacts, ...]
    heartbeats: Tuple[Link, ...]
    syncs: Optional[Tuple[Link, ...]] = None
    client: Optional[Link] = None
    compare: Compare = Compare.NAME
    addressing: Addressing = Addressing.ANY


Findings = Iterator[Finding]


class LinkRule(NamedTuple):
    """A line of the table with what it does: looks at one heartbeat link at a time."""

    info: RuleInfo
    judge: Callable[[Link, Plan, RuleInfo], Findings]


class PlanRule(NamedTuple):
    """A line of the table that looks at everything at once."""

    info: RuleInfo
    judge: Callable[[Plan, RuleInfo], Findings]


def about(
    info: RuleInfo, link: Link, ends: Tuple[End, ...], evidence: str, remedy: str, severity: Optional[Severity] = None
) -> Finding:
    nodes = tuple(end.host.host for end in ends)
    return Finding(info.rule, severity or info.severity, link.subject, evidence, remedy, nodes)


def unknown(info: RuleInfo, link: Link, end: End, evidence: str, remedy: str) -> Finding:
    return about(info, link, (end,), evidence, remedy, Severity.UNKNOWN)


def card(item: Interface) -> Optional[str]:
    """The card that an adapter is a port of: its PCI address without the function. None where that says nothing: for adapters of
    virtual machines, and where there is no PCI address."""
    match = PCI.match(item.bus or "")
    return match.group(1) if match and item.kind == PHYSICAL and not item.paravirtual else None


def single_points(host: HostFacts, name: str, above: FrozenSet[str] = frozenset()) -> FrozenSet[str]:
    """The parts whose loss alone cuts this interface: itself, what it runs over, its card; of a bond's members only what they all
    share."""
    item = host.interface(name)
    if item is None or item.name in above:
        return frozenset()
    own = frozenset({f"interface {item.name}"} | ({f"card {card(item)}"} if card(item) else set()))
    below = [single_points(host, lower, above | {item.name}) for lower in item.lower]
    return own | frozenset.intersection(*below) if below else own
