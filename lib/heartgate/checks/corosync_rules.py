"""Whether Corosync really uses the heartbeat links: its paths, the names in its node list (C7), and its keys (D11)."""

from __future__ import annotations

from typing import Dict, List, Optional, Tuple

from heartgate.checks.findings import Finding, RuleInfo, Severity
from heartgate.checks.links import End, Findings, Link, Plan, about, unknown
from heartgate.checks.model import LOOPBACK, Corosync, HostFacts, Path, Resolution, RingAddress

CONF = "corosync.conf"
NO_CRYPTO = ("udp", "udpu")


def corosync_link(link: Link, plan: Plan, info: RuleInfo) -> Findings:
    for end, item in link.present:
        corosync = end.host.corosync
        if corosync is None:
            reason = end.host.why("corosync")
            if reason:
                yield unknown(info, link, end, f"{end.host.host}: {reason}", "make corosync.conf readable and check again")
            continue
        if corosync.me is None:
            yield unknown(
                info, link, end, f"{end.host.host} is not in the node list of {corosync.source}", "add it to the node list"
            )
            continue
        ours = {address.ip for address in item.addresses}
        near = [path for path in corosync.paths if path.local in ours or path.interface == item.name]
        if not near:
            yield _not_used(info, link, end, corosync)
        for path in near:
            yield from _path(info, link, end, path, ours, corosync)


def _not_used(info: RuleInfo, link: Link, end: End, corosync: Corosync) -> Finding:
    failed = [path for path in corosync.paths if path.interface is None]
    if failed:
        told = "; ".join(f"link {path.link}: {path.error or 'no reason given'}" for path in failed)
        return unknown(
            info, link, end, f"whether a Corosync link runs on {end.shown} is not known: {told}", f"mend {corosync.source}"
        )
    used = ", ".join(f"link {path.link} runs on {path.interface}" for path in corosync.paths) or "this node has none"
    return about(
        info,
        link,
        (end,),
        f"no Corosync link runs on {end.shown}: {used}",
        f"add addresses of this link to the node list in {corosync.source}, or do not call it a heartbeat",
    )


def _path(info: RuleInfo, link: Link, end: End, path: Path, ours: set[str], corosync: Corosync) -> Findings:
    route = f"link {path.link} ({path.local} to {path.remote})"
    if path.interface is None:
        yield unknown(info, link, end, f"where {route} goes is not known: {path.error or 'no reason given'}", "see ip route get")
        return
    if path.local not in ours:
        yield about(
            info,
            link,
            (end,),
            f"{route} leaves by {end.shown}, but its address is on another interface",
            "let the address and the route be on one interface",
        )
    elif path.interface != _name(end):
        yield about(
            info,
            link,
            (end,),
            f"{route} has its address on {end.shown}, but the kernel sends it by {path.interface}",
            "two interfaces in one network, or a route over the other: give each link a network of its own",
        )
    elif corosync.running and path.bound is False:
        yield about(
            info,
            link,
            (end,),
            f"corosync runs on {end.host.host}, but does not listen on {path.local} for link {path.link}",
            f"corosync runs with another configuration than {corosync.source}: corosync-cfgtool -R",
        )
    elif corosync.running and path.bound is None:
        yield unknown(info, link, end, f"whether corosync listens on {path.local} is not known", "see ss -lun")


def _name(end: End) -> str:
    return end.interface.name if end.interface else end.name


# --- C7 --------------------------------------------------------------------------------------------------------------


def names(plan: Plan, info: RuleInfo) -> Findings:
    for ring in _rings(plan):
        told: List[Tuple[HostFacts, Tuple[str, ...]]] = []
        for host in plan.hosts:
            answer = host.resolved(ring.address)
            if answer is None:
                continue
            found = _resolution(info, ring, host, answer, plan)
            yield from found
            if answer.addresses and not found:
                told.append((host, answer.addresses))
        if len(told) == 2 and set(told[0][1]) != set(told[1][1]):
            shown = " and ".join(f"{', '.join(addresses)} on {host.host}" for host, addresses in told)
            yield Finding(
                info.rule,
                info.severity,
                ring.address,
                f"{ring.address} resolves to {shown}",
                "let it resolve alike on both nodes, best in /etc/hosts",
                tuple(host.host for host, _ in told),
            )


def _rings(plan: Plan) -> Tuple[RingAddress, ...]:
    """Addresses of the node lists that are names: those that a host was asked to resolve."""
    found: Dict[Tuple[str, str], RingAddress] = {}
    for host in plan.hosts:
        for ring in host.corosync.addresses if host.corosync else ():
            if any(each.resolved(ring.address) for each in plan.hosts):
                found.setdefault((ring.node, ring.address), ring)
    return tuple(found.values())


def _resolution(info: RuleInfo, ring: RingAddress, host: HostFacts, answer: Resolution, plan: Plan) -> List[Finding]:
    def found(evidence: str, remedy: str, severity: Severity = info.severity) -> List[Finding]:
        return [Finding(info.rule, severity, ring.address, evidence, remedy, (host.host,))]

    what = f"{ring.address} (link {ring.link} of {ring.node})"
    if answer.addresses is None:
        return found(
            f"{what} could not be looked up on {host.host}: {answer.error or 'no reason given'}",
            "write it into /etc/hosts: a heartbeat must not need a name server",
            Severity.UNKNOWN,
        )
    if not answer.addresses:
        return found(f"{what} resolves to nothing on {host.host}", f"write it into /etc/hosts of {host.host}")
    owner = next((each for each in plan.hosts if each.corosync and each.corosync.me == ring.node), None)
    if len(answer.addresses) > 1:
        places = {_place(owner, ip) for ip in answer.addresses} if owner else {None}
        one = len(places) == 1 and None not in places
        return found(
            f"{what} resolves to several addresses on {host.host}: {', '.join(answer.addresses)}",
            "write the one address of the heartbeat interface into corosync.conf, or let the name have one alone",
            Severity.WARNING if one else info.severity,
        )
    misplaced = _misplaced(what, host, owner, answer.addresses[0], plan) if owner else None
    return found(*misplaced) if misplaced else []


def _misplaced(what: str, host: HostFacts, owner: HostFacts, ip: str, plan: Plan) -> Optional[Tuple[str, str]]:
    """(evidence, remedy) where the address is not that of a heartbeat interface of the name's owner."""
    resolves = f"{what} resolves to {ip} on {host.host}"
    item = owner.by_address(ip)
    if item is None:
        return (
            f"{resolves}, which no interface of {owner.host} has",
            f"give the name the address of its heartbeat interface of {owner.host}",
        )
    wanted = {_name(end) for link in (*plan.heartbeats, *(plan.syncs or ())) for end in link.ends if end.host is owner}
    if item.kind != LOOPBACK and (item.name in wanted or not wanted):
        return None
    why = "the loopback interface" if item.kind == LOOPBACK else f"{item.name}, which is no heartbeat link"
    heartbeats = ", ".join(sorted(wanted)) or "none named"
    return (
        f"{resolves}: that is {why} of {owner.host} (heartbeats: {heartbeats})",
        f"let it resolve to the heartbeat interface's address in /etc/hosts of {host.host}",
    )


def _place(owner: HostFacts, ip: str) -> object:
    item = owner.by_address(ip)
    return item.name if item else None


# --- D11 -------------------------------------------------------------------------------------------------------------


def crypto(plan: Plan, info: RuleInfo) -> Findings:
    for host in plan.hosts:
        corosync = host.corosync
        if corosync is None:
            if host.why("corosync"):
                yield Finding(
                    info.rule, Severity.UNKNOWN, CONF, f"{host.host}: {host.why('corosync')}", "mend the file", (host.host,)
                )
            continue
        totem = f"crypto_cipher: aes256 and crypto_hash: sha256 in totem of {corosync.source}"
        remedy = f"set {totem}, and make a key with corosync-keygen"
        if corosync.transport in NO_CRYPTO:
            yield Finding(
                info.rule,
                info.severity,
                CONF,
                f"transport {corosync.transport} on {host.host} can neither authenticate nor encrypt",
                f"use transport: knet; {remedy}",
                (host.host,),
            )
        elif corosync.crypto_hash == "none":
            yield Finding(
                info.rule,
                info.severity,
                CONF,
                f"Corosync on {host.host} authenticates nobody: crypto_hash is none (and crypto_cipher {corosync.crypto_cipher})",
                remedy,
                (host.host,),
            )
        elif corosync.crypto_cipher == "none":
            yield Finding(
                info.rule,
                Severity.WARNING,
                CONF,
                f"Corosync on {host.host} authenticates, but does not encrypt: crypto_cipher is none",
                remedy,
                (host.host,),
            )


# --- C3


def differs(plan: Plan, info: RuleInfo) -> Findings:
    """Keys, values and order; blanks and comments do not count."""
    if len(plan.hosts) < 2:
        return
    one, two = plan.hosts[0], plan.hosts[1]
    if one.corosync is None or two.corosync is None:  # `corosync-conf` and `crypto` say what there is to say
        return
    told = [(host, host.corosync.settings) for host in (one, two) if host.corosync]
    for host, settings in told:
        if settings is None:
            yield Finding(
                info.rule,
                Severity.UNKNOWN,
                CONF,
                f"the facts of {host.host} were made by an earlier heartgate and do not tell what its corosync.conf says",
                "have the same heartgate on both nodes, and make the facts anew",
                (host.host,),
            )
            return
    ours, theirs = ({item.key: item.values for item in settings or ()} for _, settings in told)
    different = sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))
    if different:
        key = different[0]
        more = f"; {len(different) - 1} more differ" if len(different) > 1 else ""
        yield Finding(
            info.rule,
            info.severity,
            CONF,
            f"{key} is {_value(key, ours)} on {one.host} and {_value(key, theirs)} on {two.host}{more}",
            "copy the file that is right to every node (pcs cluster sync, or csync2/scp) and reload it: corosync-cfgtool -R",
            (one.host, two.host),
        )


def _value(key: str, settings: Dict[str, Tuple[str, ...]]) -> str:
    values = settings.get(key)
    if values is None:
        return "not there"
    return "one key" if key == "totem.key" and len(values) == 1 else ", ".join(values)[:80]


def without_corosync(plan: Plan, info: RuleInfo) -> Findings:
    for host in plan.hosts:
        if host.corosync is None and not host.why("corosync"):
            yield Finding(
                info.rule,
                Severity.NOTE,
                CONF,
                f"{host.host} has no corosync.conf yet: links, names and keys were not checked",
                "check again when the cluster is configured",
                (host.host,),
            )
