"""Rules of one heartbeat link, but for B1 (`direct_rule`): what its interfaces are, and whether the two ends fit each other."""

from __future__ import annotations

import ipaddress
from typing import FrozenSet, List, Optional, Tuple

from heartgate.checks.findings import RuleInfo, Severity
from heartgate.checks.links import PCI, Addressing, Compare, End, Findings, Link, Plan, about, unknown
from heartgate.checks.model import LOOPBACK, PHYSICAL, PPP, Address, Interface

FAST_MBIT = 10000
SWITCHES = {
    "bridge": "a bridge",
    "openvswitch": "Open vSwitch",
    "macvlan": "macvlan",
    "macvtap": "macvtap",
    "ipvlan": "ipvlan",
    "ipvtap": "ipvtap",
    "team": "a team",
}
UNTIMED = (PPP, "veth", LOOPBACK)  # kinds whose speed means nothing: a serial line is slow by its nature, a veth makes it up
CABLES = (PHYSICAL, "bond", "vlan", PPP, *SWITCHES)  # kinds that other rules judge, or that need no judging
OWN_ADAPTER = "give the heartbeat an adapter of its own, used for nothing else"


def exists(link: Link, plan: Plan, info: RuleInfo) -> Findings:
    for end in link.ends:
        if end.interface is None:
            names = ", ".join(sorted(item.name for item in end.host.interfaces if item.kind != LOOPBACK)) or "none but loopback"
            remedy = (
                "name the right one (--heartbeat IF, or IF:PEER_IF if the names differ), or see why the kernel does not show it"
            )
            evidence = f"{end.host.host} has no interface {end.name}; it has {names}"
            unread = next((item for item in end.host.interfaces if item.why("altnames")), None)
            if unread:  # one of them may be the one that is meant
                evidence += f"; of {unread.name} the other names are not known: {unread.why('altnames')}"
            yield about(info, link, (end,), evidence, remedy, Severity.UNKNOWN if unread else None)


def carrier(link: Link, plan: Plan, info: RuleInfo) -> Findings:
    for end, item in link.present:
        if "up" not in item.flags:
            yield about(info, link, (end,), f"{end.shown} is switched off", f"ip link set {item.name} up, and make that last")
        elif item.carrier is None:
            yield unknown(info, link, end, f"the kernel does not tell whether {end.shown} has carrier", "see ip link show")
        elif not item.carrier:
            yield about(info, link, (end,), f"{end.shown} has no carrier", "check the cable and the other end")


def real_adapter(link: Link, plan: Plan, info: RuleInfo) -> Findings:
    for end, item in link.present:
        if item.kind == LOOPBACK:
            yield about(info, link, (end,), f"{end.shown} is the loopback interface: it never leaves the host", OWN_ADAPTER)
        elif item.kind == "veth":
            evidence = f"{end.shown} is a veth: its cable is memory of this host, and where it ends cannot be seen from here"
            yield about(info, link, (end,), evidence, OWN_ADAPTER, Severity.WARNING)
        elif item.kind not in CABLES:
            evidence = f"{end.shown} is no adapter but of kind {item.kind}: it ends in this host, or runs over another link"
            yield about(info, link, (end,), evidence, OWN_ADAPTER)


# --- B2 --------------------------------------------------------------------------------------------------------------


def same_adapter(link: Link, plan: Plan, info: RuleInfo) -> Findings:
    if len(link.present) != 2:
        return
    (one, first), (two, second) = link.present
    if plan.compare is Compare.NAME:
        if not {first.name, *first.altnames} & {second.name, *second.altnames}:
            remedy = "name them alike (a systemd .link file, or an altname), or compare by bus or port"
            unread = one if first.why("altnames") else two if second.why("altnames") else None
            if unread:
                yield unknown(info, link, unread, f"whether {unread.shown} is also called like the other end is not known", remedy)
                return
            yield about(info, link, (one, two), f"the link ends at {one.shown} and at {two.shown}", remedy)
        return
    shown = [_identity(end, plan.compare) for end in (one, two)]
    blind = False
    for end, (_, reason) in zip((one, two), shown):
        if reason:
            blind = True
            yield unknown(info, link, end, f"{end.shown}: {reason}", "compare by name")
    if not blind and shown[0][0] != shown[1][0]:
        what = "bus address" if plan.compare is Compare.BUS else "driver and port"
        evidence = f"{one.shown} and {two.shown} differ in {what}: {_words(shown[0][0])} and {_words(shown[1][0])}"
        yield about(info, link, (one, two), evidence, "use the same slot and port on both nodes, or compare by name")


def _identity(end: End, compare: Compare) -> Tuple[FrozenSet[str], str]:
    """(what is compared, why it cannot be)."""
    found: List[str] = []
    for item in end.leaves():
        if compare is Compare.BUS:
            if item.bus is None:
                return frozenset(), f"{item.name} has no bus address ({item.why('bus') or f'kind {item.kind}'})"
            found.append(f"{item.bus} port {item.dev_port or 0}")
        else:
            if item.driver is None or (item.bus is None and item.phys_port is None):
                return frozenset(), f"{item.name} does not tell driver and port ({item.why('driver') or f'kind {item.kind}'})"
            found.append(f"{item.driver} {_port(item)}")
    return frozenset(found), ""


def _port(item: Interface) -> str:
    match = PCI.match(item.bus or "")
    return f"port {item.phys_port or (match.group(2) if match else '0')}/{item.dev_port or 0}"


def _words(parts: FrozenSet[str]) -> str:
    return " + ".join(sorted(parts)) or "nothing"


# --- B3 --------------------------------------------------------------------------------------------------------------


def vlan(link: Link, plan: Plan, info: RuleInfo) -> Findings:
    for end, _ in link.present:
        for item in end.stack():
            if item.kind == "vlan":
                number = f" {item.vlan_id}" if item.vlan_id is not None else ""
                yield about(
                    info,
                    link,
                    (end,),
                    f"{end.shown} runs in VLAN{number} ({item.name} on {_words(frozenset(item.lower))})",
                    OWN_ADAPTER,
                )
            for upper in (end.host.interface(name) for name in item.upper):
                if upper is not None and upper.kind == "vlan" and upper not in end.stack():
                    yield about(
                        info,
                        link,
                        (end,),
                        f"VLAN {upper.name} runs on {item.name}, which carries {end.shown}",
                        f"move {upper.name} to another adapter",
                    )


def virtual_switch(link: Link, plan: Plan, info: RuleInfo) -> Findings:
    for end, _ in link.present:
        yield from _bound(link, end, info)
        for item in end.stack():
            for fact in ("lower", "master"):
                if item.why(fact):
                    yield unknown(info, link, end, f"{item.name}: {item.why(fact)}", "look at it from that namespace")


def _bound(link: Link, end: End, info: RuleInfo) -> Findings:
    told = set()
    inside = {item.name for item in end.stack()}
    for item in end.stack():
        if item.kind in SWITCHES:
            told.add(item.name)
            yield about(info, link, (end,), f"{item.name} is {SWITCHES[item.kind]}, and {end.shown} runs over it", OWN_ADAPTER)
        # What hangs above, by the kernel's master (bridge, Open vSwitch, team) or on top (macvlan, ipvlan).
        above = [*(end.host.interface(name) for name in item.upper), end.host.interface(item.master or "")]
        for upper in above:
            if upper is not None and upper.kind in SWITCHES and upper.name not in (inside | told):
                told.add(upper.name)
                port = upper.name == item.master
                where = f"{item.name} of {end.host.host} is {'a port of' if port else 'below'} {upper.name}, {SWITCHES[upper.kind]}"
                remedy = f"take {item.name} out of {upper.name}" if port else f"move {upper.name} to another adapter"
                yield about(info, link, (end,), where, f"{remedy}; {OWN_ADAPTER}")


# --- B4 --------------------------------------------------------------------------------------------------------------


def addressing(link: Link, plan: Plan, info: RuleInfo) -> Findings:
    kinds = []
    for end, item in link.present:
        usable = _usable(item)
        if item.kind == LOOPBACK:  # `real-adapter` says what there is to say
            continue
        if not usable:
            evidence = f"{end.shown} has no address but link-local ones"
            yield about(info, link, (end,), evidence, "give it one: Corosync's link needs an address on each end")
            continue
        if any(address.dynamic is None for address in usable):
            yield unknown(info, link, end, f"how {end.shown} gets its address is not known", "see ip address show")
            continue
        kind = "/".join(sorted({"dhcp" if address.dynamic else "static" for address in usable}))
        kinds.append((end, kind))
        wanted = plan.addressing
        if wanted is not Addressing.ANY and kind != wanted.value:
            yield about(
                info,
                link,
                (end,),
                f"{end.shown} has {_addresses(usable)}, which is {kind}; wanted is {wanted.value}",
                f"configure it as {wanted.value}, or ask for another addressing",
            )
    if len(kinds) == 2 and kinds[0][1] != kinds[1][1]:
        told = " and ".join(f"{end.shown} is {kind}" for end, kind in kinds)
        yield about(
            info,
            link,
            tuple(end for end, _ in kinds),
            f"the ends are addressed differently: {told}",
            "address both ends in the same way",
        )


def network(link: Link, plan: Plan, info: RuleInfo) -> Findings:
    if len(link.present) != 2 or any("pointopoint" in item.flags for _, item in link.present):
        return
    (one, first), (two, second) = link.present
    mine, theirs = _usable(first), _usable(second)
    if not mine or not theirs:
        return
    shared = {each.ip for each in mine} & {each.ip for each in theirs}
    if shared:
        evidence = f"{one.shown} and {two.shown} have the same address {', '.join(sorted(shared))}"
        yield about(info, link, (one, two), evidence, "give each end an address of its own")
    elif not ({_network(each) for each in mine} & {_network(each) for each in theirs}) - {None}:
        evidence = f"{one.shown} has {_addresses(mine)}, {two.shown} has {_addresses(theirs)}: they are in no common network"
        yield about(info, link, (one, two), evidence, "give both ends addresses of one network")


def _usable(item: Interface) -> Tuple[Address, ...]:
    return tuple(each for each in item.addresses if each.scope not in ("link", "host", "nowhere"))


def _addresses(addresses: Tuple[Address, ...]) -> str:
    return ", ".join(f"{each.ip}/{each.prefix}" for each in addresses)


def _network(address: Address) -> Optional[object]:
    try:
        return ipaddress.ip_network(f"{address.ip}/{address.prefix}", strict=False)
    except ValueError:
        return None


# --- B5, B6, duplex, MTU ---------------------------------------------------------------------------------------------


def speed(link: Link, plan: Plan, info: RuleInfo) -> Findings:
    for end, item in link.present:
        if not end.works or item.kind in UNTIMED:
            continue
        if item.speed_mbit is None:
            yield from _speed_unknown(link, end, info)
        elif item.speed_mbit < FAST_MBIT:
            yield about(
                info, link, (end,), f"{end.shown} runs at {item.speed_mbit} Mbit/s", f"{FAST_MBIT} Mbit/s or more is recommended"
            )


def _speed_unknown(link: Link, end: End, info: RuleInfo) -> Findings:
    item = end.interface
    assert item is not None
    if end.paravirtual:
        evidence = f"how fast {end.shown} is cannot be told: it is an adapter of a virtual machine"
        yield about(info, link, (end,), evidence, "see on the host what is behind it", Severity.NOTE)
    else:
        yield unknown(
            info,
            link,
            end,
            f"how fast {end.shown} is is not known: {item.why('speed_mbit') or 'no reason given'}",
            f"see ethtool {item.name}",
        )


def speed_of_clients(link: Link, plan: Plan, info: RuleInfo) -> Findings:
    for end, item in link.present:
        client = next((each for each in (plan.client.ends if plan.client else ()) if each.host is end.host), None)
        theirs = client.interface if client else None
        if client is None or theirs is None or not end.works or not client.works:
            continue  # `carrier` says what there is to say
        if item.kind in UNTIMED or client.name == end.name:
            continue
        if item.speed_mbit is None or theirs.speed_mbit is None:
            silent = end if item.speed_mbit is None else client
            evidence = (
                f"{end.shown} and {client.shown}, which clients use, cannot be compared: how fast {silent.name} is is not known"
            )
            note = Severity.NOTE if silent.paravirtual else Severity.UNKNOWN
            yield about(info, link, (end,), evidence, f"see ethtool {silent.name}", note)
        elif item.speed_mbit < theirs.speed_mbit:
            evidence = f"{end.shown} runs at {item.speed_mbit} Mbit/s, {client.shown}, which clients use, at {theirs.speed_mbit}"
            yield about(info, link, (end,), evidence, "use an adapter for heartbeats that is as fast as the clients' or faster")


def duplex(link: Link, plan: Plan, info: RuleInfo) -> Findings:
    for end, item in link.present:
        if not end.works:
            continue
        if item.duplex == "half":
            yield about(
                info,
                link,
                (end,),
                f"{end.shown} runs half duplex",
                "a hub, or one end without autonegotiation: leave autonegotiation on at both ends",
            )
        elif item.duplex is None and item.kind == PHYSICAL and not end.paravirtual:
            yield unknown(
                info,
                link,
                end,
                f"the duplex of {end.shown} is not known: {item.why('duplex') or 'no reason given'}",
                f"see ethtool {item.name}",
            )


def mtu(link: Link, plan: Plan, info: RuleInfo) -> Findings:
    if len(link.present) != 2:
        return
    (one, first), (two, second) = link.present
    if first.mtu is None or second.mtu is None:
        silent = one if first.mtu is None else two
        yield unknown(info, link, silent, f"the MTU of {silent.shown} is not known", "see ip link show")
    elif first.mtu != second.mtu:
        evidence = (
            f"the MTU of {one.shown} is {first.mtu}, that of {two.shown} {second.mtu}: larger packets are lost in one direction"
        )
        yield about(info, link, (one, two), evidence, "set the same MTU on both ends")


# --- B7 --------------------------------------------------------------------------------------------------------------

_ACTIVE_BACKUP = "set it to active-backup, or take the bond apart and give Corosync each member as a link of its own"
MODES = {
    "balance-tlb": (Severity.ERROR, "what is sent and what is received take different adapters, and move between them"),
    "balance-alb": (Severity.ERROR, "it rewrites ARP answers, and what is received moves between the adapters"),
    "balance-rr": (Severity.WARNING, "packets come out of order, and one member that loses frames spoils every stream"),
    "balance-xor": (Severity.WARNING, "a member that fails without losing carrier takes a part of the streams with it"),
    "802.3ad": (Severity.WARNING, "a member that fails without losing carrier is noticed after 90 s (3 s with lacp_rate fast)"),
    "broadcast": (Severity.WARNING, "every frame is sent on every member, so each packet arrives twice"),
}


def bond_mode(link: Link, plan: Plan, info: RuleInfo) -> Findings:
    for end, _ in link.present:
        for item in end.stack():
            if item.bond is None:
                continue
            if item.bond.mode in MODES:
                severity, why = MODES[item.bond.mode]
                rate = f", lacp_rate {item.bond.lacp_rate}" if item.bond.lacp_rate else ""
                yield about(
                    info,
                    link,
                    (end,),
                    f"{item.name} of {end.host.host} is a bond of mode {item.bond.mode}{rate}: {why}",
                    _ACTIVE_BACKUP,
                    severity,
                )
            elif item.bond.mode != "active-backup":
                yield unknown(
                    info, link, end, f"{item.name} is a bond of mode {item.bond.mode}, which is not known", _ACTIVE_BACKUP
                )


def bond_members(link: Link, plan: Plan, info: RuleInfo) -> Findings:
    for end, _ in link.present:
        for item in end.stack():
            if item.bond is None:
                continue
            members = [end.host.interface(name) for name in item.bond.members]
            alive = [each.name for each in members if each is not None and each.carrier]
            if len(alive) < 2:
                listed = " ".join(item.bond.members) or "none"
                evidence = f"bond {item.name} of {end.host.host} has members {listed}, with carrier: {' '.join(alive) or 'none'}"
                yield about(info, link, (end,), evidence, "give it a second member that works")
            if item.bond.miimon_ms == 0 and not item.bond.arp_interval_ms:
                evidence = f"bond {item.name} of {end.host.host} does not watch its members' carrier (miimon 0)"
                unless = ", unless it watches by ARP (arp_interval)" if item.bond.arp_interval_ms is None else ""
                yield about(info, link, (end,), evidence, f"set miimon to 100{unless}")
