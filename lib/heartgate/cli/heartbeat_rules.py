"""The one place where the rules are asked before a heartbeat pair is added: those of `heartgate check` about one link, and what
only a link that is not there yet can have wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, List, Mapping, Optional, Tuple

from heartgate.checks.findings import Finding, Severity
from heartgate.checks.heartbeat_rules import LINK_RULES
from heartgate.checks.links import End as LinkEnd
from heartgate.checks.links import Link
from heartgate.checks.model import HostFacts
from heartgate.checks.planning import make_plan

# Corosync does not know the link yet; nobody listens for half a minute before a change; and `pair-on-sync` is told already.
NOT_YET = frozenset({"corosync-link", "direct", "shared-link"})


@dataclass(frozen=True)
class End:
    """One end of a pair. None where it could not be asked for. `interface`: has the address. `leaves_by`, `gateway`: how
    packets from this end to the other one leave the node (the first other one, with more than two)."""

    node: str
    address: str
    interface: Optional[str]
    leaves_by: Optional[str] = None
    gateway: Optional[str] = None


@dataclass(frozen=True)
class Pair:
    """A network heartbeat that shall be added. `present`: interface of this node -> numbers of the links on it.
    `sync_interfaces`: of the guarded devices on this node, as far as heartgated tells them. `me`: this node's name. `local`,
    `others`: facts of this node and, by name, of the others, as far as they could be had."""

    link: int
    ends: Tuple[End, ...]
    present: Mapping[str, Tuple[int, ...]]
    sync_interfaces: Tuple[str, ...] = ()
    me: str = ""
    local: Optional[HostFacts] = None
    others: Mapping[str, HostFacts] = field(default_factory=dict)


def check_pair(pair: Pair) -> Tuple[Finding, ...]:
    """What speaks against this pair. An error refuses it (unless --force), a warning is shown."""
    return (*_wrong_way(pair), *_shared_interface(pair), *_unfit(pair))


def _unfit(pair: Pair) -> List[Finding]:
    """With more than two nodes: each of the others with this one."""
    mine = next((end for end in pair.ends if end.node == pair.me), None)
    if pair.local is None or mine is None or mine.interface is None:
        return []
    local = pair.local
    theirs = [(end.interface, pair.others[end.node]) for end in pair.ends if end.node in pair.others and end.interface]
    links = [Link((LinkEnd(local, mine.interface), LinkEnd(facts, name))) for name, facts in theirs]
    found: Dict[Finding, None] = {}  # what one end has wrong is said once, however many others there are
    for link in links or [Link((LinkEnd(local, mine.interface),))]:
        hosts = tuple(end.host for end in link.ends)
        plan = make_plan(*hosts) if len(hosts) == 2 else make_plan(local, None)
        for rule in LINK_RULES:
            if rule.info.rule not in NOT_YET:
                found.update(dict.fromkeys(rule.judge(link, plan, rule.info)))
    return [finding for finding in found if finding.severity in (Severity.ERROR, Severity.WARNING)]


def _wrong_way(pair: Pair) -> List[Finding]:
    """Linux answers for an address on any interface, so such a link comes up, and then fails with a cable that nobody
    thinks of."""
    findings = []
    for end in pair.ends:
        if end.interface and end.leaves_by and end.leaves_by != end.interface:
            evidence = f"{end.address} is on {end.interface}, but packets from it to the other end leave by {end.leaves_by}"
        elif end.gateway:
            evidence = f"{end.address} reaches the other end through the router {end.gateway} and not directly"
        else:
            continue
        findings.append(Finding("pair-not-direct", Severity.ERROR, f"link {pair.link}", evidence,
                                "give both ends addresses of one network that no other interface has", (end.node,)))  # fmt: skip
    return findings


def _shared_interface(pair: Pair) -> List[Finding]:
    findings = []
    for end in pair.ends:
        others = pair.present.get(end.interface or "", ())
        if others:
            numbers = ", ".join(map(str, others))
            findings.append(Finding(
                "pair-interface-shared", Severity.WARNING, f"link {pair.link}",
                f"{end.address} is on {end.interface}, which carries link {numbers} already: they fail together",
                "use an adapter of its own for each heartbeat", (end.node,),
            ))  # fmt: skip
        if end.interface in pair.sync_interfaces:
            findings.append(Finding(
                "pair-on-sync", Severity.NOTE, f"link {pair.link}",
                f"{end.interface} carries replication too: this heartbeat ends together with it",
                "keep at least one heartbeat on an adapter without replication", (end.node,),
            ))  # fmt: skip
    return findings
