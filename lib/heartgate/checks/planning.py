"""Which interfaces of two hosts belong together: from what a person named, else from Corosync's links and the replication."""

from __future__ import annotations

from typing import Dict, List, Optional, Sequence, Tuple

from heartgate.checks.links import Addressing, Compare, End, Link, Plan
from heartgate.checks.model import HostFacts, Path

Names = Tuple[str, Optional[str]]


class PlanError(ValueError):
    """These names cannot be used; the text is for the person who wrote them."""


def parse_names(text: str) -> Names:
    """`IF` or `IF:PEER_IF`."""
    mine, separator, theirs = text.partition(":")
    if not mine or (separator and not theirs) or ":" in theirs or any(letter.isspace() or letter == "/" for letter in text):
        raise PlanError(f"\"{text}\": write an interface (hb0), or this node's and the peer's (hb0:eth3)")
    return mine, theirs or None


def make_plan(
    local: HostFacts,
    peer: Optional[HostFacts],
    heartbeats: Sequence[Names] = (),
    syncs: Sequence[Names] = (),
    client: Optional[Names] = None,
    compare: Compare = Compare.NAME,
    addressing: Addressing = Addressing.ANY,
) -> Plan:
    """Names that were given come first; else Corosync's links are the heartbeats, what carries the replication the sync
    links, and the interface of the default route is the clients'."""
    hosts = (local,) if peer is None else (local, peer)
    beats = [_link(local, peer, *names) for names in heartbeats] or _of_corosync(local, peer)
    replication = _syncs(local, peer, syncs)
    taken = {end.name for link in (*beats, *(replication or ())) for end in link.ends}
    return Plan(hosts, tuple(beats), replication, _client(local, peer, client, taken), compare, addressing)


def _link(local: HostFacts, peer: Optional[HostFacts], mine: str, theirs: Optional[str]) -> Link:
    if peer is None:
        return Link((End(local, mine),))
    return Link((End(local, mine), End(peer, theirs or _counterpart(local, peer, mine))))


def _counterpart(local: HostFacts, peer: HostFacts, mine: str) -> str:
    """The peer's interface with the other address of Corosync's link, else the one of the same name."""
    item = local.interface(mine)
    for path in _paths(local, peer):
        if item is not None and path.interface == item.name:
            found = peer.by_address(path.remote)
            if found is not None:
                return found.name
    return mine


def _paths(local: HostFacts, peer: Optional[HostFacts]) -> List[Path]:
    paths = list(local.corosync.paths) if local.corosync else []
    names = {peer.host, peer.host.partition(".")[0], (peer.corosync.me if peer.corosync else None)} if peer else set()
    return [path for path in paths if path.node in names] or paths


def _of_corosync(local: HostFacts, peer: Optional[HostFacts]) -> List[Link]:
    """By the interface that has the link's address: where the packets really go is a rule's affair."""
    found: Dict[str, Link] = {}
    for path in _paths(local, peer):
        owner = local.by_address(path.local)
        name = owner.name if owner else path.interface
        if name and name not in found:
            theirs = peer.by_address(path.remote) if peer else None
            found[name] = _link(local, peer, name, theirs.name if theirs else None)
    return list(found.values())


def _syncs(local: HostFacts, peer: Optional[HostFacts], given: Sequence[Names]) -> Optional[Tuple[Link, ...]]:
    if given:
        return tuple(_link(local, peer, *names) for names in given)
    if local.sync is None:
        return None
    theirs = (peer.sync or ()) if peer else ()
    links = []
    for place, name in enumerate(local.sync):
        positional = theirs[place] if name not in theirs and len(theirs) == len(local.sync) else None
        links.append(_link(local, peer, name, positional))
    return tuple(links)


def _client(local: HostFacts, peer: Optional[HostFacts], given: Optional[Names], taken: set[str]) -> Optional[Link]:
    if given:
        return _link(local, peer, *given)
    if local.default_route is None or local.default_route in taken:
        return None
    return _link(local, peer, local.default_route, peer.default_route if peer else None)
