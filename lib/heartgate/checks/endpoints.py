"""Which node and which address the two names of a heartbeat pair stand for (C7). Pure: the names are resolved already."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Collection, Dict, List, Mapping, Optional, Sequence, Set, Tuple


class EndpointError(ValueError):
    """For a person: which name does not fit, why, and what to write instead."""


@dataclass(frozen=True)
class Endpoint:
    """`name`: as given. `addresses`: all that it resolves to. `node`: if the person wrote NODE=HOST."""

    name: str
    addresses: Tuple[str, ...]
    node: Optional[str] = None


def one_address(endpoint: Endpoint) -> str:
    """Raises EndpointError unless the name stands for exactly one usable address."""
    found = endpoint.addresses
    if not found:
        raise EndpointError(f'"{endpoint.name}" resolves to no address: look at its spelling, at DNS and at /etc/hosts')
    if len(found) > 1:
        raise EndpointError(
            f'"{endpoint.name}" resolves to several addresses ({", ".join(found)}), and a heartbeat runs on one: '
            "give a name that has only the one on the new link, or the address itself"
        )
    try:
        address = ipaddress.ip_address(found[0])
    except ValueError:
        raise EndpointError(f'"{endpoint.name}" resolves to "{found[0]}", which is no IP address') from None
    if address.is_loopback or address.is_unspecified or address.is_multicast:
        raise EndpointError(f'"{endpoint.name}" resolves to {address}, which reaches no other node: look at /etc/hosts')
    return str(address)


def assign(
    endpoints: Sequence[Endpoint],
    nodes: Sequence[str],
    local: str,
    here: Collection[str],
    elsewhere: Mapping[str, Collection[str]],
) -> Tuple[str, ...]:
    """The new link's address on each node, in the order of `nodes`.

    `here`: addresses of this node's interfaces. `elsewhere`: those of other nodes, as far as they could be asked. Raises
    EndpointError: one message about the first name that does not fit."""
    if len(endpoints) != len(nodes):
        raise EndpointError(
            f"the cluster has {len(nodes)} nodes ({', '.join(nodes)}), and each needs an address on a link: "
            f"{len(endpoints)} names were given"
        )
    if len(set(endpoints)) < len(endpoints):
        raise EndpointError(f'"{endpoints[0].name}" is given twice: that is the same address, and both ends must be named')
    addresses = {endpoint: one_address(endpoint) for endpoint in endpoints}
    _alike(addresses)
    chosen: Dict[str, Endpoint] = {}
    for endpoint in endpoints:
        if endpoint.node is not None:
            _take(chosen, endpoint, endpoint.node, nodes)
    _take_local(chosen, [each for each in endpoints if each.node is None], addresses, nodes, local, here)
    # Those whose owner is known first: then a single one that is left has a single node left.
    rest = [endpoint for endpoint in endpoints if endpoint not in chosen.values()]
    for endpoint in sorted(rest, key=lambda each: not _owners(addresses[each], nodes, elsewhere)):
        _take(chosen, endpoint, _whose(endpoint, addresses[endpoint], chosen, nodes, elsewhere), nodes)
    _on_its_interface(addresses[chosen[local]], chosen[local], local, here)
    for node, known in elsewhere.items():
        if node in chosen:
            _on_its_interface(addresses[chosen[node]], chosen[node], node, known)
    return tuple(addresses[chosen[node]] for node in nodes)


def _alike(addresses: Mapping[Endpoint, str]) -> None:
    seen: Dict[str, str] = {}
    for endpoint, address in addresses.items():
        if address in seen:
            raise EndpointError(f'"{seen[address]}" and "{endpoint.name}" are the same address, {address}: name both ends')
        seen[address] = endpoint.name
    if len(seen) < len(addresses) or len({ipaddress.ip_address(address).version for address in seen}) > 1:
        raise EndpointError(f"a link is of one kind, and these are IPv4 and IPv6: {', '.join(seen)}")


def _take(chosen: Dict[str, Endpoint], endpoint: Endpoint, node: str, nodes: Sequence[str]) -> None:
    if node not in nodes:
        raise EndpointError(f'"{node}" is no node of this cluster; the nodes are {", ".join(nodes)}')
    if node in chosen:
        raise EndpointError(f'"{chosen[node].name}" and "{endpoint.name}" are both ends on {node}: name one for each node')
    chosen[node] = endpoint


def _take_local(
    chosen: Dict[str, Endpoint], endpoints: Sequence[Endpoint], addresses: Mapping[Endpoint, str], nodes: Sequence[str],
    local: str, here: Collection[str],
) -> None:  # fmt: skip
    mine = [endpoint for endpoint in endpoints if addresses[endpoint] in here]
    for endpoint in mine:
        _take(chosen, endpoint, local, nodes)
    if local not in chosen:
        shown = ", ".join(f'"{each.name}" ({addresses[each]})' for each in endpoints)
        usable = sorted(address for address in here if not ipaddress.ip_address(address).is_loopback)
        raise EndpointError(
            f"none of {shown} is an address of an interface of this node, {local}, which has {', '.join(usable) or 'none'}"
        )


def _owners(address: str, nodes: Sequence[str], elsewhere: Mapping[str, Collection[str]]) -> List[str]:
    return [node for node in nodes if address in elsewhere.get(node, ())]


def _whose(
    endpoint: Endpoint, address: str, chosen: Mapping[str, Endpoint], nodes: Sequence[str],
    elsewhere: Mapping[str, Collection[str]],
) -> str:  # fmt: skip
    free = [node for node in nodes if node not in chosen]
    owners = _owners(address, free, elsewhere)
    if len(owners) == 1:
        return owners[0]
    if len(free) == 1:
        return free[0]
    raise EndpointError(f'it cannot be told whose address "{endpoint.name}" is: write {"|".join(free)}={endpoint.name}')


def _on_its_interface(address: str, endpoint: Endpoint, node: str, known: Collection[str]) -> None:
    if address not in known:
        usable = ", ".join(sorted(each for each in known if not ipaddress.ip_address(each).is_loopback))
        raise EndpointError(
            f'"{endpoint.name}" is {address}, which is on no interface of {node} (it has {usable or "none"}): give the '
            "address to the interface first"
        )


def _joins(wanted: Sequence[Set[str]], ends: Sequence[Set[str]]) -> bool:
    """Every name is at an end, and every end has a name."""
    return all(any(names & end for end in ends) for names in wanted) and all(any(names & end for names in wanted) for end in ends)


def find_link(endpoints: Sequence[Endpoint], links: Mapping[int, Sequence[Sequence[str]]]) -> int:
    """The link that these names join. `links`: number -> for each node what its address resolves to. Raises EndpointError."""
    for endpoint in endpoints:
        if not endpoint.addresses:
            raise EndpointError(f'"{endpoint.name}" resolves to no address: look at its spelling, at DNS and at /etc/hosts')
    wanted: List[Set[str]] = [set(endpoint.addresses) for endpoint in endpoints]
    found = [link for link, ends in links.items() if _joins(wanted, [set(end) for end in ends])]
    if len(found) == 1:
        return found[0]
    given = " and ".join(f'"{each.name}"' for each in endpoints)
    known = "; ".join(f"{link}: {' - '.join('/'.join(end) for end in ends)}" for link, ends in links.items())
    if not found:
        raise EndpointError(f"no link joins {given}; the links are {known}")
    raise EndpointError(f"{given} stand for several links ({', '.join(map(str, found))}): use --link N")
