"""Adding and removing a heartbeat pair: look, ask the rules, change, see that it works, or put everything back."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import signal
import sys
import time
from types import FrameType
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from heartgate.adapters import heartbeat_change, host_facts, knet_stats
from heartgate.adapters.addresses import canonical, local_addresses, resolve, way_to
from heartgate.adapters.base import AdapterError, CarrierLost
from heartgate.adapters.conf_file import ConfFile, ConfFileError
from heartgate.adapters.heartbeat_change import ChangeError, Plan, Way
from heartgate.checks import corosync_edit, facts_codec, heartbeats
from heartgate.checks.corosync_edit import ConfError
from heartgate.checks.endpoints import Endpoint, EndpointError, assign, find_link
from heartgate.checks.facts_codec import FactsError
from heartgate.checks.findings import Finding, Severity, worst_first
from heartgate.checks.heartbeats import Channel, LinkPlace
from heartgate.checks.model import HostFacts
from heartgate.cli.heartbeat import ATTENTION, FAILED, HALF_DONE, NOT_RUNNING, OK
from heartgate.cli.heartbeat_rules import End, Pair, check_pair

WRONG = 2
ANSWER_S = 10.0
PAUSE_S = 0.1
GONE_S = 10.0  # for a removed link to be gone everywhere
STEADY_S = 0.5  # a link that comes up must stay up that long


class Refused(Exception):
    """Not done, for a reason; code is the exit code."""

    def __init__(self, message: str, code: int = ATTENTION) -> None:
        super().__init__(message)
        self.code = code


class Interrupted(Exception):
    """Ctrl-C or a signal to end."""


class Cluster(NamedTuple):
    """This node's view before a change. `text`: of corosync.conf. `places`: the links, by number."""

    now: knet_stats.Running
    nodes: Tuple[str, ...]
    local: str
    text: str
    interfaces: Mapping[str, str]
    places: Tuple[LinkPlace, ...]


class Signals:
    """While it is entered, signals to end are only noted, and `check` raises Interrupted: a change is never left between
    two of its steps."""

    WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._seen: Optional[int] = None
        self._before: Dict[int, Any] = {}

    def __enter__(self) -> Signals:
        self._before = {number: signal.signal(number, self._note) for number in self.WATCHED}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: Optional[FrameType]) -> None:
        if self._seen is None:
            say(f"{signal.Signals(number).name}: putting everything back, as soon as the present step has ended")
        self._seen = number

    def check(self) -> None:
        if self._seen is not None:
            raise Interrupted(f"interrupted by {signal.Signals(self._seen).name}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _guarded(work: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    """Errors to one message and an exit code."""
    if os.geteuid() != 0:
        say("heartgate: only root can change the heartbeats")
        return FAILED
    try:
        return work(options)
    except Refused as error:
        say(f"heartgate: {error}")
        return error.code
    except EndpointError as error:
        say(f"heartgate: {error}")
        return WRONG
    except CarrierLost as error:
        say(f"heartgate: Corosync does not run on this node, or does not answer: {error}; links change on a running cluster only")
        return NOT_RUNNING
    except ConfError as error:
        say(f"heartgate: /etc/corosync/corosync.conf: {error}; nothing was changed")
        return FAILED
    except (ConfFileError, ChangeError, AdapterError) as error:
        say(f"heartgate: {error}\nnothing was changed")
        return FAILED
    except (Interrupted, KeyboardInterrupt):
        say("heartgate: interrupted; nothing was changed")
        return FAILED


def add(options: argparse.Namespace) -> int:
    return _guarded(_add, options)


def remove(options: argparse.Namespace) -> int:
    return _guarded(_remove, options)


def undo(options: argparse.Namespace) -> int:
    return _guarded(_undo, options)


# --- the present state
# ----------------------------------------------------------------------------------------------------------------


def look() -> Cluster:
    """Raises CarrierLost, ConfError, ConfFileError, AdapterError, Refused."""
    now = knet_stats.bounded(knet_stats.running, ANSWER_S)
    joined = knet_stats.bounded(knet_stats.membership, ANSWER_S)
    links = knet_stats.bounded(knet_stats.connected, ANSWER_S)
    text = ConfFile().read()
    if corosync_edit.transport(text) != "knet":
        raise Refused(f"Corosync's transport is {corosync_edit.transport(text)}: links come and go with knet only")
    _same(corosync_edit.nodes(text), now)
    absent = [member.name for member in now.members if joined.get(member.nodeid, ("", 0))[0] != "joined"]
    if absent:
        raise Refused(f"{', '.join(absent)} is no member now: a change must reach every node, so wait until all are there")
    names = tuple(member.name for member in now.members)
    own = next((member for member in now.members if member.nodeid == now.local), None)
    if own is None or len(names) < 2:
        raise Refused("Corosync knows no other node: there is nobody to hear")
    interfaces = local_addresses()
    return Cluster(now, names, own.name, text, interfaces, _places(now, own, links, interfaces))


def _same(written: Sequence[corosync_edit.NodeEntry], now: knet_stats.Running) -> None:
    """A reload brings everything in the file into force, so the file must hold what runs."""
    wanted = [(node.nodeid, dict(node.addresses)) for node in written]
    runs = [(member.nodeid, dict(member.addresses)) for member in now.members]
    if wanted != runs:
        raise Refused(
            "the node list in /etc/corosync/corosync.conf is not the one that Corosync runs with, so a reload would change more "
            "than this link: bring the file into force first (corosync-cfgtool -R), or correct it"
        )


def _places(
    now: knet_stats.Running, own: knet_stats.Member, links: Mapping[knet_stats.LinkId, Optional[bool]],
    interfaces: Mapping[str, str],
) -> Tuple[LinkPlace, ...]:  # fmt: skip
    peers = [member for member in now.members if member.nodeid != now.local]
    return tuple(
        LinkPlace(link, _interface(address, interfaces), {peer.name: links.get((peer.nodeid, link)) for peer in peers})
        for link, address in sorted(own.addresses.items())
    )


def _interface(address: str, interfaces: Mapping[str, str]) -> Optional[str]:
    found = {interfaces.get(each) for each in (canonical(address), *(() if canonical(address) in interfaces else resolve(address)))}
    found.discard(None)
    return found.pop() if len(found) == 1 else None


def sync_interfaces() -> Tuple[str, ...]:
    """Interfaces that carry replication, as far as heartgated on this node says."""
    from heartgate.daemon import client

    try:
        devices = json.loads(client.ask(client.request("status"), 5.0, client.SOCKET))["devices"]
        return tuple(sorted({str(name) for device in devices for name in device["sync_interfaces"]}))
    except (client.Unreachable, ValueError, KeyError, TypeError):
        return ()


def _endpoint(text: str) -> Endpoint:
    node, separator, host = text.rpartition("=")
    return Endpoint(host, resolve(host), node if separator else None)


# --- add
# ----------------------------------------------------------------------------------------------------------------


def _add(options: argparse.Namespace) -> int:
    cluster = look()
    endpoints = [_endpoint(text) for text in options.hosts]
    # What can be told from here comes first: asking the other nodes takes seconds.
    assign(endpoints, cluster.nodes, cluster.local, cluster.interfaces, {}) if len(cluster.nodes) == 2 else None
    taken = {place.link for place in cluster.places}
    link = next(n for n in (*range(corosync_edit.LINK_MAX + 1), 8) if n not in taken) if options.link is None else options.link
    way, why = _choose(cluster)
    elsewhere = {node: dict(way.addresses(node) or {}) for node in cluster.nodes if node != cluster.local} if way else {}
    elsewhere = {node: known for node, known in elsewhere.items() if known}
    addresses = assign(endpoints, cluster.nodes, cluster.local, cluster.interfaces, elsewhere)
    _not_used(addresses, cluster)
    plan = Plan(link, cluster.nodes, addresses, corosync_edit.shared_timers(cluster.text))
    new = plan.applied(cluster.text)
    _ask_rules(_ends(plan, cluster, elsewhere, way), plan.link, cluster, way, options.force)
    if way is None:
        raise _by_hand(why, cluster.text, new)
    ends = ", ".join(f"{node} {address}" for node, address in zip(cluster.nodes, addresses))
    say(f"adding link {link} ({ends}) by {way.name}")
    return carry_out(way, plan, cluster, lambda signals: _wait_up(way, plan, cluster, options.wait, signals))


def _not_used(addresses: Sequence[str], cluster: Cluster) -> None:
    for member, address in zip(cluster.now.members, addresses):
        for link, present in member.addresses.items():
            if address in (canonical(present), *resolve(present)):
                raise EndpointError(f"{address} of {member.name} is already that of link {link}: a new link needs one of its own")


def _choose(cluster: Cluster) -> Tuple[Optional[Way], str]:
    try:
        return heartbeat_change.choose(cluster.local, cluster.nodes), ""
    except ChangeError as error:
        return None, str(error)


def _by_hand(why: str, old: str, new: str) -> Refused:
    change = "".join(difflib.unified_diff(old.splitlines(True), new.splitlines(True), "corosync.conf", "corosync.conf", n=1))
    return Refused(
        f"{why}\nSet up one of the two, or do it by hand: make this change to /etc/corosync/corosync.conf on every node, then run "
        f"once, on any of them, corosync-cfgtool -R, and look with heartgate heartbeat list\n{change}nothing was changed", FAILED
    )  # fmt: skip


def _ends(plan: Plan, cluster: Cluster, elsewhere: Mapping[str, Mapping[str, str]], way: Optional[Way]) -> Tuple[End, ...]:
    ends = []
    for node, address in zip(plan.nodes, plan.addresses):
        known = cluster.interfaces if node == cluster.local else elsewhere.get(node, {})
        other = next(each for each in plan.addresses if each != address)
        leaves_by, gateway = None, None
        if node == cluster.local:
            leaves_by, gateway = way_to(other, address)
        elif way is not None:
            leaves_by, gateway = way.way_to(node, other, address)
        ends.append(End(node, address, known.get(address), leaves_by, gateway))
    return tuple(ends)


def _ask_rules(ends: Tuple[End, ...], link: int, cluster: Cluster, way: Optional[Way], force: bool) -> None:
    present: Dict[str, Tuple[int, ...]] = {}
    for place in cluster.places:
        if place.adapter:
            present[place.adapter] = (*present.get(place.adapter, ()), place.link)
    pair = Pair(link, ends, present, sync_interfaces(), cluster.local, _own(), _others(cluster, way))
    findings = worst_first(check_pair(pair))
    for finding in findings:
        say(_finding(finding))
    if any(finding.severity is Severity.ERROR for finding in findings if finding.counts) and not force:
        raise Refused("the rules refuse this pair (see above); correct it, or use --force if you know better. Nothing was changed")


def _own() -> Optional[HostFacts]:
    try:
        return host_facts.gather(host_facts.Request(interfaces=()))
    except AdapterError as error:
        say(f"the interfaces of this node cannot be looked at: {error}")
        return None


def _others(cluster: Cluster, way: Optional[Way]) -> Dict[str, HostFacts]:
    """Facts of the other nodes, as far as they can be had. What cannot be asked is told, and is no reason to refuse."""
    found: Dict[str, HostFacts] = {}
    for node in cluster.nodes:
        if node == cluster.local or way is None:
            continue
        try:
            text = way.facts(node)
            if text is None:
                say(f"the interfaces of {node} cannot be looked at by {way.name}: afterwards, heartgate check --peer {node}")
            else:
                found[node] = facts_codec.decode(text.encode())
        except (ChangeError, FactsError) as error:
            say(f"the interfaces of {node} cannot be looked at: {error}")
    return found


def _finding(finding: Finding) -> str:
    nodes = f" on {', '.join(finding.nodes)}" if finding.nodes else ""
    waived = f" (waived: {finding.waived})" if finding.waived else ""
    return f"{finding.severity.value}: {finding.rule}{nodes}: {finding.evidence}; {finding.remedy}{waived}"


# --- remove
# ----------------------------------------------------------------------------------------------------------------


def _remove(options: argparse.Namespace) -> int:
    if bool(options.hosts) == (options.link is not None):
        raise Refused("name the two ends of the pair, or give --link N: one of the two", WRONG)
    cluster = look()
    link = options.link if options.link is not None else _named_link(options.hosts, cluster)
    plan = Plan(link, cluster.nodes)
    new = plan.applied(cluster.text)
    _may_go(link, cluster, options.force)
    way, why = _choose(cluster)
    if way is None:
        raise _by_hand(why, cluster.text, new)
    say(f"removing link {link} by {way.name}")
    return carry_out(way, plan, cluster, lambda signals: _wait_gone(way, plan, cluster, signals))


def _named_link(hosts: Sequence[str], cluster: Cluster) -> int:
    numbers = sorted({link for member in cluster.now.members for link in member.addresses})
    ends = {link: [resolve(member.addresses.get(link, "")) if link in member.addresses else ()
                   for member in cluster.now.members] for link in numbers}  # fmt: skip
    return find_link([_endpoint(text) for text in hosts], ends)


def _may_go(link: int, cluster: Cluster, force: bool) -> None:
    parted = heartbeats.parts_nodes(cluster.places, link)
    if parted:
        raise Refused(
            f"without link {link} nothing that works would be left to {', '.join(parted)}: the nodes would lose each other. "
            "Repair or add another link first (--force does not help here). Nothing was changed"
        )
    reasons = heartbeats.loses_independence(cluster.places, link, sync_interfaces())
    if reasons and not force:
        raise Refused(
            f"link {link} is the last independent heartbeat: {'; '.join(reasons)}. Add another one first, or use --force. "
            "Nothing was changed"
        )
    for reason in reasons:
        say(f"warning: {reason}; done all the same because of --force")


# --- carrying it out
# ----------------------------------------------------------------------------------------------------------------


def carry_out(way: Way, plan: Plan, cluster: Cluster, confirm: Callable[[Signals], None]) -> int:
    """The change, its confirmation, or the way back."""
    before = knet_stats.bounded(knet_stats.membership, ANSWER_S)
    done = f"link {plan.link} is {'up on every node' if plan.adds else 'gone'}"
    with Signals() as signals:
        try:
            signals.check()
            way.apply(plan)
            confirm(signals)
            signals.check()
        except BaseException as error:
            return _back(way, plan, error)
        try:
            way.commit()
        except (ChangeError, ConfFileError) as error:
            say(f"heartgate: {done}, but an old text of corosync.conf could not be thrown away: {error}; remove it there by hand")
            return HALF_DONE
    if _membership() != before:
        say(f"heartgate: {done}, but the membership of the cluster changed meanwhile: look at the logs of Corosync")
        return ATTENTION
    print(f"{done}; no node left or joined meanwhile")
    return OK


def _membership() -> Optional[Dict[int, Tuple[str, int]]]:
    try:
        return knet_stats.bounded(knet_stats.membership, ANSWER_S)
    except CarrierLost:
        return None


def _back(way: Way, plan: Plan, error: BaseException) -> int:
    known = isinstance(error, (ChangeError, ConfFileError, CarrierLost, AdapterError, Interrupted))
    say(f"heartgate: {error if known else repr(error)}")
    say("putting everything back")
    problems = way.undo()
    if not problems:
        problems = _still_there(plan)
    for problem in problems:
        say(f"heartgate: not put back: {problem}")
    if not known:
        raise error
    say("nothing of it is left" if not problems else "some of it is left, see above")
    return HALF_DONE if problems else FAILED


def _still_there(plan: Plan) -> List[str]:
    """Whether Corosync took the way back."""
    deadline = time.monotonic() + GONE_S
    while True:
        try:
            present = {link for _, link in knet_stats.bounded(knet_stats.connected, ANSWER_S)}
        except CarrierLost as error:
            return [f"whether Corosync took it back is not known: {error}"]
        if (plan.link in present) != plan.adds:
            return []
        if time.monotonic() >= deadline:
            return [f"Corosync on this node still works with the changed links after {GONE_S:g} s: look at its log"]
        time.sleep(PAUSE_S)


def _wait_up(way: Way, plan: Plan, cluster: Cluster, wait_s: float, signals: Signals) -> None:
    """Raises ChangeError when the link does not come up everywhere and stay so in time."""
    deadline = time.monotonic() + wait_s
    steady_since: Optional[float] = None
    while True:
        signals.check()
        down = _down_here(plan, cluster)
        steady_since = None if down else steady_since or time.monotonic()
        if steady_since and time.monotonic() - steady_since >= STEADY_S:
            down = _down_there(way, plan, cluster)
            if not down:
                return
        if time.monotonic() >= deadline:
            raise ChangeError(f"link {plan.link} did not come up within {wait_s:g} s: {'; '.join(down)}{_direction(plan)}")
        time.sleep(PAUSE_S)


def _down_here(plan: Plan, cluster: Cluster) -> List[str]:
    links = knet_stats.bounded(knet_stats.connected, ANSWER_S)
    peers = [member for member in cluster.now.members if member.nodeid != cluster.now.local]
    unconnected = [peer.name for peer in peers if links.get((peer.nodeid, plan.link)) is not True]
    return [f"{cluster.local} has no connection to {name} over it" for name in unconnected]


def _down_there(way: Way, plan: Plan, cluster: Cluster) -> List[str]:
    """What the other nodes say, where they can be asked. Where not: connected here means that our pings were answered,
    which takes both directions and the link on the other node."""
    down = []
    for node in cluster.nodes:
        said = way.connected(node) if node != cluster.local else None
        if said is not None:
            down += [f"{node} has no connection to {other} over it" for other in cluster.nodes
                     if other != node and said.get((other, plan.link)) is not True]  # fmt: skip
    return down


def _direction(plan: Plan) -> str:
    """Which direction is missing, if the counters tell."""
    try:
        now = knet_stats.bounded(knet_stats.running, ANSWER_S)
        observed = knet_stats.bounded(lambda: knet_stats.observe(now, 2.0), ANSWER_S)
    except CarrierLost:
        return ""
    lines = [heartbeats.heartbeat(each.node.name, each.link, "", "", each.sample) for each in observed if each.link == plan.link]
    heard = [f"nothing arrives from {each.node}" for each in lines if each.receiving is Channel.DOWN]
    heard += [f"{each.node} does not hear us" for each in lines if each.sending is Channel.DOWN]
    return f" ({'; '.join(heard)})" if heard else ""


def _wait_gone(way: Way, plan: Plan, cluster: Cluster, signals: Signals) -> None:
    """Raises ChangeError when the link is still there in the end, or when another one is lost."""
    deadline = time.monotonic() + GONE_S
    while True:
        signals.check()
        left = _left(plan, cluster) or _left_there(way, plan, cluster)
        if not left:
            return
        if time.monotonic() >= deadline:
            raise ChangeError(f"link {plan.link} was not removed everywhere within {GONE_S:g} s: {'; '.join(left)}")
        time.sleep(PAUSE_S)


def _left(plan: Plan, cluster: Cluster) -> List[str]:
    links = knet_stats.bounded(knet_stats.connected, ANSWER_S)
    peers = [member for member in cluster.now.members if member.nodeid != cluster.now.local]
    still = [f"{cluster.local} still has it to {peer.name}" for peer in peers if (peer.nodeid, plan.link) in links]
    lost = [f"no link to {peer.name} is connected" for peer in peers
            if not any(value for (node, _), value in links.items() if node == peer.nodeid)]  # fmt: skip
    return still + lost


def _left_there(way: Way, plan: Plan, cluster: Cluster) -> List[str]:
    said = {node: way.connected(node) for node in cluster.nodes if node != cluster.local}
    return [f"{node} still has it" for node, links in said.items() if links and any(link == plan.link for _, link in links)]


# --- undo by hand
# ----------------------------------------------------------------------------------------------------------------


def _undo(options: argparse.Namespace) -> int:
    if not ConfFile().restore(force=options.force):
        print("no interrupted change is kept on this node: there is nothing to undo")
        return OK
    say("the corosync.conf from before the interrupted change is back on this node. When it is back on every node, run once: "
        "corosync-cfgtool -R")  # fmt: skip
    return OK
