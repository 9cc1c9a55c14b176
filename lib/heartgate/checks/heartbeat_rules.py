"""The rules of heartbeat links as a table, over the facts of one or both nodes. docs/heartbeat-rules.md is made from it."""

from __future__ import annotations

from typing import Dict, FrozenSet, List, Mapping, Tuple

from heartgate.checks import corosync_rules, direct_rule, link_rules
from heartgate.checks.findings import Finding, RuleInfo, Severity
from heartgate.checks.links import End, Findings, Link, LinkRule, Plan, PlanRule, about, single_points
from heartgate.checks.model import HostFacts

_E, _W, _N, _U = Severity.ERROR, Severity.WARNING, Severity.NOTE, Severity.UNKNOWN


def _peer_facts(plan: Plan, info: RuleInfo) -> Findings:
    if len(plan.hosts) == 1:
        yield Finding(
            info.rule,
            info.severity,
            "peer",
            f"only {plan.hosts[0].host} was looked at: whether the ends fit each other is not known",
            "give the peer (--peer HOST, or --peer-facts FILE made by `heartgate facts` there)",
        )


def _heartbeats(plan: Plan, info: RuleInfo) -> Findings:
    if not plan.heartbeats:
        yield Finding(
            info.rule,
            info.severity,
            "heartbeats",
            "which interfaces carry heartbeats is not known: no Corosync link has one",
            "name them (--heartbeat IF), or configure Corosync first",
        )


def _shared_link(link: Link, plan: Plan, info: RuleInfo) -> Findings:
    for end, item in link.present:
        for sync in plan.syncs or ():
            if any(other.host is end.host and other.interface == item for other in sync.ends):
                evidence = (
                    f"{end.shown} carries heartbeats and replication: when it is lost, both are; see the rules `spof-...`"
                )
                yield about(info, link, (end,), evidence, "good as a last heartbeat; have another one on an adapter of its own")


# --- A9 --------------------------------------------------------------------------------------------------------------

Cuts = List[Tuple[str, FrozenSet[str]]]


def _independent(plan: Plan, info: RuleInfo) -> Findings:
    """What one part takes with it is told by `spof-all` and `spof-heartbeat`, what is not known by `spof-unknown`."""
    for host in plan.hosts if plan.heartbeats and plan.syncs is not None else ():
        heartbeats = _cuts(host, plan.heartbeats)
        if heartbeats:
            yield from _against_syncs(host, heartbeats, _cuts(host, plan.syncs or ()), info)


def _cuts(host: HostFacts, links: Tuple[Link, ...]) -> Cuts:
    ends = [end for link in links for end in link.ends if end.host is host and end.interface is not None]
    return [(end.name, single_points(host, end.name)) for end in ends]


def _all_of(cuts: Cuts) -> FrozenSet[str]:
    return frozenset.intersection(*(parts for _, parts in cuts)) if cuts else frozenset()


def _finding(info: RuleInfo, host: HostFacts, severity: Severity, evidence: str, remedy: str) -> Finding:
    return Finding(info.rule, severity, "adapters", evidence, remedy, (host.host,))


def _against_syncs(host: HostFacts, heartbeats: Cuts, syncs: Cuts, info: RuleInfo) -> Findings:
    if not syncs:
        yield _finding(
            info,
            host,
            _N,
            f"no interface of {host.host} carries replication yet: nothing to compare heartbeats with",
            "check again when the replication is configured",
        )
        return
    if _all_of(heartbeats) & _all_of(syncs):
        return  # `spof-all`
    shared = {name: [(sync, parts & other) for sync, other in syncs if parts & other] for name, parts in heartbeats}
    told = "; ".join(f"{name} and {sync} share {_words(parts)}" for name, found in shared.items() for sync, parts in found)
    if told:
        alone = [name for name, found in shared.items() if not found]
        kind = f"on its own is {', '.join(alone)}" if alone else "no heartbeat has an adapter that carries no replication"
        yield _finding(
            info,
            host,
            _N if alone else _W,
            f"on {host.host} {told}; {kind}",
            "put a heartbeat on a card that carries no replication",
        )


def _words(parts: FrozenSet[str]) -> str:
    """The card says more than the interface, if both are shared."""
    cards = sorted(part for part in parts if part.startswith("card "))
    return " and ".join(sorted(part for part in parts if not part.startswith("card ")) + cards)


# --- the table -------------------------------------------------------------------------------------------------------

LINK_RULES: Tuple[LinkRule, ...] = (
    LinkRule(RuleInfo("interface", _E, "", "Each heartbeat interface exists, on both nodes."), link_rules.exists),
    LinkRule(RuleInfo("carrier", _E, "", "It is switched on and has carrier."), link_rules.carrier),
    LinkRule(
        RuleInfo(
            "direct",
            _E,
            "B1",
            "One cable, from adapter to adapter. Evidence against it: frames from anybody but the peer, frames "
            "that only switches send, neighbours or answers to a ping to all nodes that are not the peer's, ends that differ in "
            "speed or carrier. That nothing speaks against it proves nothing, and is said so. PPP over a serial line has two "
            "ends by its nature; over anything else it may lead anywhere.",
        ),
        direct_rule.judge,
    ),
    LinkRule(
        RuleInfo(
            "real-adapter",
            _E,
            "B1",
            "An adapter with a cable, no tunnel or device that ends in this host. A veth is a warning; PPP is "
            "judged by `direct`.",
        ),
        link_rules.real_adapter,
    ),
    LinkRule(
        RuleInfo(
            "same-adapter",
            _E,
            "B2",
            "The same adapter on both nodes: by `name` (altnames count), by `bus` (bus address and port), "
            "or by `port` (driver and port of the card, in whatever slot).",
        ),
        link_rules.same_adapter,
    ),
    LinkRule(
        RuleInfo("vlan", _E, "B3", "No VLAN: neither does it run in one, nor is one on top of it or of its bond's members."),
        link_rules.vlan,
    ),
    LinkRule(
        RuleInfo(
            "virtual-switch",
            _E,
            "B3",
            "No bridge, Open vSwitch, macvlan, macvtap, ipvlan or team: neither is it one, nor is it a "
            "port of one, nor is one on top of it.",
        ),
        link_rules.virtual_switch,
    ),
    LinkRule(
        RuleInfo("addressing", _E, "B4", "The same addressing on both ends; which one can be asked for: static, dhcp or any."),
        link_rules.addressing,
    ),
    LinkRule(RuleInfo("network", _E, "B4", "Different addresses of one network on the two ends."), link_rules.network),
    LinkRule(
        RuleInfo("speed", _W, "B5", "10 Gbit/s or more. Adapters of virtual machines do not tell: a note."), link_rules.speed
    ),
    LinkRule(
        RuleInfo("speed-clients", _E, "B6", "At least as fast as the interface that clients use."), link_rules.speed_of_clients
    ),
    LinkRule(
        RuleInfo(
            "bond-mode",
            _E,
            "B7",
            "Of bonds, active-backup is good. balance-tlb and balance-alb are errors. balance-rr and "
            "balance-xor are warnings, and so are 802.3ad, which notices a member that is silently dead late, and broadcast, "
            "which sends everything twice.",
        ),
        link_rules.bond_mode,
    ),
    LinkRule(RuleInfo("bond-members", _W, "", "A bond has two members with carrier, and watches them."), link_rules.bond_members),
    LinkRule(
        RuleInfo("mtu", _W, "", "The same MTU on both ends. Corosync and TCP find the smaller one out; nothing else does."),
        link_rules.mtu,
    ),
    LinkRule(RuleInfo("duplex", _E, "", "Full duplex. Half means a hub, or autonegotiation that failed."), link_rules.duplex),
    LinkRule(
        RuleInfo(
            "shared-link",
            _N,
            "B8",
            "One link may carry heartbeats and replication; `spof-all` and `spof-heartbeat` say what that costs.",
        ),
        _shared_link,
    ),
    LinkRule(
        RuleInfo(
            "corosync-link",
            _E,
            "",
            "A Corosync link really runs on it: its address is there, the kernel sends the packets there, and a "
            "running corosync listens there.",
        ),
        corosync_rules.corosync_link,
    ),
)

PLAN_RULES: Tuple[PlanRule, ...] = (
    PlanRule(RuleInfo("peer-facts", _U, "", "The facts of both nodes are known."), _peer_facts),
    PlanRule(RuleInfo("heartbeats", _U, "", "It is known which interfaces carry heartbeats."), _heartbeats),
    PlanRule(
        RuleInfo(
            "independent",
            _W,
            "A9",
            "At least one heartbeat is on an adapter that carries no replication. What a single part takes with it is told by "
            "`spof-all` and `spof-heartbeat`.",
        ),
        _independent,
    ),
    PlanRule(
        RuleInfo(
            "names",
            _E,
            "C7",
            "Host names in Corosync's node list resolve to one address, the same on both nodes, on the heartbeat interface.",
        ),
        corosync_rules.names,
    ),
    PlanRule(
        RuleInfo("crypto", _E, "D11", "Corosync authenticates (an error if not) and encrypts (a warning)."), corosync_rules.crypto
    ),
    PlanRule(
        RuleInfo(
            "corosync-differs", _E, "C3", "corosync.conf is the same on every node; differing ones have ended in split-brain."
        ),
        corosync_rules.differs,
    ),
    PlanRule(RuleInfo("corosync-conf", _N, "", "There is a corosync.conf."), corosync_rules.without_corosync),
)

RULES: Mapping[str, RuleInfo] = {
    info.rule: info for info in (*(rule.info for rule in LINK_RULES), *(rule.info for rule in PLAN_RULES))
}


def judge(plan: Plan) -> Tuple[Finding, ...]:
    """Every rule over every link, and over the whole. A link is judged once, however often it was named."""
    links: Dict[Tuple[Tuple[str, str], ...], Link] = {_key(link.ends): link for link in plan.heartbeats}
    found = [finding for link in links.values() for rule in LINK_RULES for finding in rule.judge(link, plan, rule.info)]
    return (*found, *(finding for rule in PLAN_RULES for finding in rule.judge(plan, rule.info)))


def _key(ends: Tuple[End, ...]) -> Tuple[Tuple[str, str], ...]:
    return tuple((end.host.host, end.name) for end in ends)
