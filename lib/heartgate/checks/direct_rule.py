"""B1: is a heartbeat link a cable between the two nodes, and nothing else?

A direct link cannot be proved from the two nodes alone: a switch that sends nothing of its own, with nobody else on it, looks
like a cable. What can be had is evidence against it, so that is what is looked for, and the rest is said to be unknown.
"""

from __future__ import annotations

from typing import Dict, FrozenSet, List, NamedTuple, Optional, Sequence, Tuple

from heartgate.checks.findings import Finding, RuleInfo, Severity
from heartgate.checks.links import End, Findings, Link, Plan, about, unknown
from heartgate.checks.model import PHYSICAL, PPP, Interface

LISTEN_S = 31.0
"""LLDP comes every 30 s, spanning tree every 2, CDP every 60."""
FIRMWARE_LLDP = ("i40e", "ice")
"""Drivers of adapters whose firmware takes LLDP frames for itself unless that is switched off."""
SHOWN = 5
KINDS = {"lldp": "LLDP", "stp": "spanning tree", "cdp": "CDP"}
GONE = ("failed", "incomplete", "noarp")
SURE = "reachable"  # every other state may be left over from an adapter that was replaced
REMEDY = "lead one cable from adapter to adapter, with no switch, hub or third machine in between"
BY_HAND = "pull the cable at one end: with a direct cable the carrier goes at the other end too"


class Known(NamedTuple):
    """Who may be met on a link without anything being wrong, and where else an address could come from."""

    macs: FrozenSet[str]
    ips: FrozenSet[str]
    elsewhere: Dict[str, str]


def judge(link: Link, plan: Plan, info: RuleInfo) -> Findings:
    yield from _of_both(link, info)
    for end, item in link.present:
        if item.kind == PPP:
            yield from _of_ppp(link, end, item, info)
        elif item.kind != PHYSICAL or "pointopoint" not in item.flags:
            yield from _of_end(link, end, info)


def _of_ppp(link: Link, end: End, item: Interface, info: RuleInfo) -> Findings:
    """A serial line has two ends by its nature. PPP over anything else leads wherever that leads."""
    if not item.serial:
        over = f"{item.bus}, a terminal that a program has at its other end" if item.bus else "a line that is not known"
        evidence = f"{end.shown} runs over {over}: {item.why('bus') or 'where that leads is not known'}"
        yield unknown(info, link, end, evidence, "lead it over a serial cable from host to host")


def _of_both(link: Link, info: RuleInfo) -> Findings:
    """The two ends of one cable have carrier together, and the same speed."""
    if len(link.present) != 2:
        return
    (end, item), (other_end, other) = link.present
    if any(each.kind != PHYSICAL or each.paravirtual for each in (item, other)):
        return
    both = (end, other_end)
    if {item.carrier, other.carrier} == {True, False} and "up" in item.flags and "up" in other.flags:
        alive, dead = both if item.carrier else both[::-1]
        yield about(
            info, link, both, f"{alive.shown} has carrier and {dead.shown} has none: they are not two ends of one cable", REMEDY
        )
    if item.speed_mbit and other.speed_mbit and item.speed_mbit != other.speed_mbit:
        speeds = f"{end.shown} runs at {item.speed_mbit} Mbit/s, {other_end.shown} at {other.speed_mbit}"
        yield about(info, link, both, f"{speeds}: the two ends of one cable agree on a speed", REMEDY)


def _of_end(link: Link, end: End, info: RuleInfo) -> Findings:
    item, other = end.interface, link.other(end)
    assert item is not None
    if other is None or other.interface is None:
        yield from _without_peer(link, end, item, info)
        return
    sure, doubtful = _strangers(item, _known(end, other))
    if sure:
        yield about(info, link, (end,), f"{end.shown} is not alone with {other.host.host}: {_some(sure + doubtful)}", REMEDY)
        return
    if doubtful:
        evidence = f"{end.shown} remembers others than {other.host.host}: {_some(doubtful)}"
        yield about(info, link, (end,), evidence, f"ip neigh flush dev {item.name}, and check again", Severity.WARNING)
    yield _nothing_seen(link, end, item, info)


def _some(evidence: Sequence[str]) -> str:
    return "; ".join(evidence[:SHOWN]) + (f"; and {len(evidence) - SHOWN} more" if len(evidence) > SHOWN else "")


def _nothing_seen(link: Link, end: End, item: Interface, info: RuleInfo) -> Finding:
    again = f"run it with --listen {LISTEN_S + 4:.0f} or more while both nodes are up; or {BY_HAND}"
    if item.carrier is False:
        return unknown(
            info, link, end, f"{end.shown} has no carrier, so nobody could be heard on it", f"connect it; then {again}"
        )
    if item.heard is None:
        return unknown(info, link, end, f"{end.shown} was not listened to: {item.why('heard') or 'no reason given'}", again)
    if item.heard.seconds < LISTEN_S:
        seconds = f"{end.shown} was listened to for {item.heard.seconds:g} s only: a switch sends LLDP every 30 s"
        return unknown(info, link, end, f"{seconds}; nothing was seen that speaks against a direct cable", again)
    return _note(link, end, item, info)


def _note(link: Link, end: End, item: Interface, info: RuleInfo) -> Finding:
    if end.paravirtual:
        evidence = f"{end.shown} is an adapter of a virtual machine: the host's virtual switch is always in between"
        return about(info, link, (end,), evidence, "see on the host that nobody else is on that network", Severity.NOTE)
    assert item.heard is not None
    heard = f"nothing was heard on {end.shown} in {item.heard.seconds:g} s that speaks against a direct cable"
    answers = "" if item.answers is not None else f" (no ping to all nodes: {item.why('answers') or 'no reason given'})"
    kept = "; its firmware may keep LLDP to itself" if any(each.driver in FIRMWARE_LLDP for each in end.leaves()) else ""
    return about(info, link, (end,), f"{heard}{answers}{kept}; a switch that keeps silent cannot be seen", BY_HAND, Severity.NOTE)


# --- strangers -------------------------------------------------------------------------------------------------------


def _known(end: End, other: End) -> Known:
    mine, theirs = _near(end), _near(other)
    elsewhere: Dict[str, str] = {}
    for each, near in ((end, mine), (other, theirs)):
        for item in each.host.interfaces:
            if item.name not in {one.name for one in near}:
                label = f"that of {item.name} of {each.host.host}"
                elsewhere.update(dict.fromkeys((*_macs(item), *(one.ip for one in item.addresses)), label))
    # A node that hears itself is one more sign: something sends its own frames back.
    elsewhere.update(dict.fromkeys((mac for item in mine for mac in _macs(item)), f"its own, sent back ({end.host.host})"))
    macs = frozenset(mac for item in theirs for mac in _macs(item))
    return Known(macs, frozenset(one.ip for item in theirs for one in item.addresses), elsewhere)


def _near(end: End) -> Tuple[Interface, ...]:
    """The interface, what it runs over, and what runs over these: all of them are met on the same wire."""
    found = {item.name: item for item in end.stack()}
    waiting = [name for item in end.stack() for name in item.upper]
    while waiting:
        item = end.host.interface(waiting.pop())
        if item is not None and item.name not in found:
            found[item.name] = item
            waiting += item.upper
    return tuple(found.values())


def _macs(item: Interface) -> Tuple[str, ...]:
    return tuple(mac for mac in (item.mac, item.permanent_mac) if mac)


def _strangers(item: Interface, known: Known) -> Tuple[List[str], List[str]]:
    """What was seen of anybody but the peer, a sentence each, every address once: for sure, and perhaps left over."""
    seen: Dict[str, str] = {}
    old: Dict[str, str] = {}
    for frame in item.heard.frames if item.heard else ():
        if frame.mac not in known.macs:
            who = f" ({frame.who})" if frame.who else ""
            seen.setdefault(frame.mac, f"{KINDS.get(frame.kind, frame.kind)} frames from {frame.mac}{who}")
    for mac in item.heard.sources if item.heard else ():
        if mac not in known.macs:
            seen.setdefault(mac, f"frames from {mac}{_whose(mac, known)}")
    for one in item.neighbours:
        if one.mac and one.state not in GONE and one.mac not in known.macs:
            place = seen if one.state == SURE else old
            place.setdefault(one.mac, f"neighbour {one.ip} at {one.mac} ({one.state}){_whose(one.mac, known)}")
    answered = [] if seen else [ip for ip in item.answers or () if ip not in known.ips]
    sure = [*seen.values(), *(f"{ip} answered a ping to all nodes{_whose(ip, known)}" for ip in answered)]
    return sure, [text for mac, text in old.items() if mac not in seen]


def _whose(address: str, known: Known) -> str:
    return f", {known.elsewhere[address]}" if address in known.elsewhere else ", which the peer does not have"


# --- only this node --------------------------------------------------------------------------------------------------


def _without_peer(link: Link, end: End, item: Interface, info: RuleInfo) -> Findings:
    """Without the peer's addresses nobody is known to be a stranger, but two are one too many."""
    seen = _senders(item)
    if len(seen) > 1:
        yield about(info, link, (end,), f"{end.shown} has more than one neighbour: {', '.join(seen[:SHOWN])}", REMEDY)
        return
    if item.answers and len(item.answers) > 1:
        yield about(
            info,
            link,
            (end,),
            f"{len(item.answers)} answered a ping to all nodes on {end.shown}: {', '.join(item.answers[:SHOWN])}",
            REMEDY,
        )
        return
    frame: Optional[str] = next((KINDS.get(each.kind, each.kind) for each in item.heard.frames), None) if item.heard else None
    what = f"{frame} frames were heard, and without the peer's facts" if frame else "without the peer's facts"
    yield unknown(info, link, end, f"{end.shown}: {what} nobody can tell who is on the link", "give the peer's facts (--peer)")


def _senders(item: Interface) -> Tuple[str, ...]:
    heard = item.heard.sources if item.heard else ()
    neighbours = [one.mac for one in item.neighbours if one.mac and one.state not in GONE]
    own = {item.mac, item.permanent_mac}
    return tuple(dict.fromkeys(mac for mac in (*heard, *neighbours) if mac not in own))
