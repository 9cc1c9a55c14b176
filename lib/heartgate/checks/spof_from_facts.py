"""From the facts of hosts to the graph of parts: ports, cards, bonds, VLANs, bridges, and the switches that were heard."""

from __future__ import annotations

from typing import Dict, FrozenSet, Iterable, List, Mapping, Optional, Sequence, Tuple

from heartgate.checks import spof
from heartgate.checks.findings import Finding, RuleInfo
from heartgate.checks.links import End, Link, Plan, card
from heartgate.checks.model import PHYSICAL, HostFacts, Interface
from heartgate.checks.spof import HEARTBEAT, SYNC, All, AnyOf, Channel, Graph, Need, Part

RULES: Mapping[str, RuleInfo] = spof.RULES
ONE_IS_ENOUGH = frozenset({"bond", "team"})
# Made of what they run on, and lost with it: they need no cable of their own.
MADE_OF_OTHERS = frozenset({"bond", "team", "vlan", "macvlan", "ipvlan", "bridge", "openvswitch"})
TELLS_A_SWITCH = frozenset({"lldp", "cdp"})


def graph(plan: Plan) -> Graph:
    """Each link of the plan is a channel; a link that is both heartbeat and sync carries both (B8)."""
    builder = _Builder(plan.hosts)
    carried: Dict[Tuple[Tuple[str, str], ...], List[str]] = {}
    links: Dict[Tuple[Tuple[str, str], ...], Link] = {}
    for carries, listed in ((HEARTBEAT, plan.heartbeats), (SYNC, plan.syncs or ())):
        for link in listed:
            key = tuple((end.host.host, _real(end)) for end in link.ends)
            links.setdefault(key, link)
            if carries not in carried.setdefault(key, []):
                carried[key].append(carries)
    channels = tuple(builder.channel(link, tuple(carried[key])) for key, link in links.items())
    return Graph(tuple(builder.parts.values()), channels)


def findings(plan: Plan) -> Tuple[Finding, ...]:
    """What `heartgate check` reports of single points of failure."""
    if not plan.heartbeats and not plan.syncs:
        return ()
    found = spof.findings(graph(plan))
    if plan.syncs is None:
        why = [f"{host.host}: {host.why('sync')}" for host in plan.hosts if host.why("sync")]
        reasons = f" ({'; '.join(why)})" if why else ""
        evidence = f"which interfaces carry the replication is not known{reasons}, so nothing can be said about them"
        remedy = "name them: --sync IF; or set sync_interfaces of replica-guard"
        found += (Finding("spof-unknown", RULES["spof-unknown"].severity, "sync links", evidence, remedy),)
    return found


def _real(end: End) -> str:
    item = end.interface
    return item.name if item else end.name


class _Builder:
    def __init__(self, hosts: Sequence[HostFacts]) -> None:
        self.parts: Dict[str, Part] = {}
        self._hosts = frozenset(host.host for host in hosts)

    def channel(self, link: Link, carries: Tuple[str, ...]) -> Channel:
        needs: List[Need] = [self._interface(end.host, end.name, frozenset()) for end in link.ends]
        nodes = [end.host.host for end in link.ends]
        label = link.subject
        if len(nodes) == 1:
            # One for each link: what is not known is not shared either.
            nodes.append("peer")
            unknown = "the peer's facts are not there"
            needs.append(self._add(Part(f"peer/{label}", f"behind {label}", "adapter", "peer", None, True, unknown)))
        ident = f"{'+'.join(carries)}:{label}"
        return Channel(ident, label, (nodes[0], nodes[1]), carries, All(tuple(needs)))

    def _add(self, part: Part) -> str:
        self.parts.setdefault(part.ident, part)
        return part.ident

    def _interface(self, host: HostFacts, name: str, above: FrozenSet[str]) -> str:
        """The ident of its part. `above`: what it was reached through, since a broken report may make a circle."""
        item = host.interface(name)
        ident = f"{host.host}/{item.name if item else name}"
        if ident in self.parts or ident in above:
            return ident
        if item is None:
            return self._add(Part(ident, name, "port", host.host, None, True, f"{host.host} has no interface {name}"))
        named = (host.interface(each) for each in item.lower)
        names = [found.name if found else each for found, each in zip(named, item.lower)]
        below = [each for each in dict.fromkeys(names) if f"{host.host}/{each}" not in above | {ident}]
        made_of_others = bool(below) and item.kind in MADE_OF_OTHERS
        needs = self._below(host, item, below, above | {ident})
        kind = "port" if item.kind == PHYSICAL else item.kind
        return self._add(Part(ident, item.name, kind, host.host, needs, not made_of_others, _unknown(item, below)))

    def _below(self, host: HostFacts, item: Interface, below: Sequence[str], above: FrozenSet[str]) -> Optional[Need]:
        lower: Tuple[Need, ...] = tuple(self._interface(host, name, above) for name in below)
        needs: List[Need] = []
        if lower:
            needs.append(AnyOf(lower) if item.kind in ONE_IS_ENOUGH else All(lower))
        else:
            place = card(item)
            if place:
                needs.append(self._add(Part(f"{host.host}/card {place}", place, "card", host.host)))
            needs += [self._add(Part(f"switch {who}", who, "switch")) for who in self._switches(item)]
        return All(tuple(needs)) if needs else None

    def _switches(self, item: Interface) -> Iterable[str]:
        """Who sent frames of the kind that only switches send, by the name that it gives itself. A host of the cluster that runs an
        LLDP daemon is no switch."""
        frames = item.heard.frames if item.heard else ()
        names = (frame.who or frame.mac for frame in frames if frame.kind in TELLS_A_SWITCH)
        return dict.fromkeys(name for name in names if name.partition(".")[0] not in self._hosts and name not in self._hosts)


def _unknown(item: Interface, below: Sequence[str]) -> str:
    """Why it is not known what this runs on; empty if it is."""
    if below:
        several = item.kind in ("bridge", "openvswitch") and len(below) > 1
        return "it has several ports, and which of them leads to the peer is not known" if several else ""
    reason = item.why("lower") or item.why("bus")
    if reason:
        return reason
    if item.paravirtual:
        return f"it is an adapter of a virtual machine ({item.driver}); which real one is behind it only the host knows"
    if item.serial:
        return ""
    if item.kind != PHYSICAL:
        return f"it is a {item.kind}, and nothing tells what is behind it"
    return "" if item.bus else "it has no bus address"
