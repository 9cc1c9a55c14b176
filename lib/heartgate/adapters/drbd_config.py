"""DRBD's configuration as `drbdadm dump-xml` prints it: pure functions. Seen with drbd-utils 9.22, for DRBD 8.4 and
9."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from heartgate.adapters.base import AdapterError, Problem
from heartgate.checks.drbd_conf import (
    AFTER_SB,
    FENCE_HANDLER,
    FENCING_WANTED,
    REBOOTING_WORDS,
    UNFENCE_HANDLER,
    throws_data_away,
)


class Volume(NamedTuple):
    number: str
    minor: int
    device: str
    disk: str  # "none" on a diskless host
    meta: str  # "internal", or a device; external indexes are written after it
    meta_index: str


class Address(NamedTuple):
    family: str
    host: str
    port: int


class Host(NamedTuple):
    name: str
    volumes: Tuple[Volume, ...]
    addresses: Tuple[Address, ...]


class Connection(NamedTuple):
    """Ends: (node, address). options: the net section of this connection alone."""

    ends: Tuple[Tuple[str, Address], ...]
    options: Mapping[str, str]


class ResourceConfig(NamedTuple):
    """One resource; section options are those of `common` with the resource's own over them."""

    name: str
    hosts: Mapping[str, Host]
    connections: Tuple[Connection, ...]
    net: Mapping[str, str]
    disk: Mapping[str, str]
    handlers: Mapping[str, str]

    def others(self, me: str) -> Tuple[str, ...]:
        return tuple(sorted(name for name in self.hosts if name != me)) if me in self.hosts else ()

    def minors(self, me: str) -> Tuple[int, ...]:
        host = self.hosts.get(me)
        return tuple(volume.minor for volume in host.volumes) if host else ()

    def paths(self, me: str, peer: str) -> List[Tuple[Address, Address]]:
        """(my address, the peer's) for every configured path between the two."""
        found = []
        for connection in self.connections:
            mine = [address for node, address in connection.ends if node == me]
            theirs = [address for node, address in connection.ends if node == peer]
            found += list(zip(mine, theirs))
        if found or me not in self.hosts or peer not in self.hosts:
            return found
        return list(zip(self.hosts[me].addresses, self.hosts[peer].addresses))  # 8.4 writes no connections


def parse_dump(text: str) -> Mapping[str, ResourceConfig]:
    """Raises AdapterError."""
    try:
        root = ElementTree.fromstring(text)
        common = _sections(root.find("common"))
        return {resource.name: resource for resource in (_resource(item, common) for item in root.findall("resource"))}
    except (ElementTree.ParseError, ValueError, KeyError) as error:
        raise AdapterError(f"drbdadm dump-xml: unreadable ({error})") from error


Sections = Dict[str, Dict[str, str]]


def _sections(element: Optional[ElementTree.Element]) -> Sections:
    found: Sections = {}
    if element is not None:
        for section in element.findall("section"):
            options = found.setdefault(section.get("name", ""), {})
            for option in section.findall("option"):
                # An option without a value is a flag that is set.
                options[option.get("name", "")] = option.get("value", "yes")
    return found


def _resource(element: ElementTree.Element, common: Sections) -> ResourceConfig:
    name = element.get("name")
    if not name:
        raise ValueError("a resource without a name")
    own = _sections(element)
    hosts = [_host(item) for item in element.findall("host")]
    connections = tuple(_connection(item) for item in element.findall("connection"))
    merged = [{**common.get(section, {}), **own.get(section, {})} for section in ("net", "disk", "handlers")]
    return ResourceConfig(name, {host.name: host for host in hosts}, connections, *merged)


def _host(element: ElementTree.Element) -> Host:
    name = element.get("name")
    if not name:
        raise ValueError("a host without a name")
    volumes = tuple(_volume(item) for item in element.findall("volume"))
    return Host(name, volumes, tuple(_address(item) for item in element.findall("address")))


def _volume(element: ElementTree.Element) -> Volume:
    device = element.find("device")
    if device is None:
        raise ValueError("a volume without a device")
    meta = element.find("meta-disk")
    return Volume(
        number=element.get("vnr", "0"),
        minor=int(device.get("minor", "")),
        device=(device.text or "").strip(),
        disk=(element.findtext("disk") or "none").strip(),
        meta=((meta.text if meta is not None else None) or "internal").strip(),
        meta_index=(meta.get("index") or "") if meta is not None else "",
    )


def _address(element: ElementTree.Element) -> Address:
    port = int(element.get("port", ""))
    if not 0 < port < 65536:
        raise ValueError(f"port {port}")
    return Address(element.get("family", "ipv4"), (element.text or "").strip(), port)


def _connection(element: ElementTree.Element) -> Connection:
    ends = []
    for place in (element, *element.findall("path")):
        for host in place.findall("host"):
            address = host.find("address")
            if address is not None:
                ends.append((host.get("name", ""), _address(address)))
    return Connection(tuple(ends), _sections(element).get("net", {}))


# --- what is wrong
# ----------------------------------------------------------------------------------------------------------


def problems(config: Optional[ResourceConfig], name: str, nodes: Sequence[str], me: str, drbd9: bool) -> List[Problem]:
    """Everything in the configuration that would defeat the policy."""
    if config is None:
        remedy = f"define it in /etc/drbd.d/{name}.res on every node"
        return [Problem("no-resource", f"DRBD's configuration has no resource {name}", remedy)]
    found = _problems_of_nodes(config, nodes, me)
    section = "net" if drbd9 else "disk"
    where = {**config.net, **config.disk}
    for policy, place in _values(config, "fencing", where):
        if policy != FENCING_WANTED:
            message = f"{name}: fencing is {policy or 'dont-care'}{place}: DRBD would not freeze when it loses its peer"
            remedy = _lines(name, section, "fencing resource-and-stonith;")
            found.append(Problem("fencing-policy", message, remedy))
    for protocol, place in _values(config, "protocol", config.net):
        if (protocol or "C") != "C":
            message = f"{name}: protocol {protocol}{place}: a write is acknowledged before the peer has it"
            found.append(Problem("protocol", message, _lines(name, "net", "protocol C;")))
    return found + _problems_of_handlers(config, drbd9) + _problems_of_net(config)


def _values(config: ResourceConfig, option: str, general: Mapping[str, str]) -> List[Tuple[str, str]]:
    """(value, where) in force: of every connection that sets the option itself, and the general one."""
    special = []
    for connection in config.connections:
        if option in connection.options:
            special.append(
                (connection.options[option], f" (connection {'-'.join(node for node, _ in connection.ends)})")
            )
    if special and len(special) == len(config.connections):
        return special
    return [(general.get(option, ""), ""), *special]


def _problems_of_nodes(config: ResourceConfig, nodes: Sequence[str], me: str) -> List[Problem]:
    found = []
    if sorted(config.hosts) != sorted(nodes):
        message = f"{config.name}: DRBD's hosts are {sorted(config.hosts)}, the priorities name {sorted(nodes)}"
        remedy = "give both the same node names (`on NAME` in the resource, `priorities` of the agent)"
        found.append(Problem("nodes", message, remedy))
    host = config.hosts.get(me)
    if host is None:
        found.append(
            Problem("not-here", f"{config.name}: no `on {me}` section", f"add on {me} {{ ... }} to the resource")
        )
    elif not host.volumes or any(volume.disk == "none" for volume in host.volumes):
        message = f"{config.name}: no disk on {me}: a diskless node holds no replica"
        found.append(Problem("diskless", message, f"take {me} out of the priorities, or give it a disk"))
    return found


def _problems_of_handlers(config: ResourceConfig, drbd9: bool) -> List[Problem]:
    found = []
    # 8.4.11 calls either of the two after a resync; what matters is that ours is called.
    unfence = ("unfence-peer", "after-resync-target")[:: 1 if drbd9 else -1]
    for options, program in ((("fence-peer",), FENCE_HANDLER), (unfence, UNFENCE_HANDLER)):
        if not any(config.handlers.get(option, "").split()[:1] == [program] for option in options):
            told = config.handlers.get(options[0]) or "not set"
            message = f"{config.name}: handler {options[0]} is {told}"
            remedy = _lines(config.name, "handlers", f'{options[0]} "{program}";')
            found.append(Problem(f"handler-{options[0]}", message, remedy))
    degraded = config.handlers.get("pri-on-incon-degr", "")
    if any(word in degraded for word in REBOOTING_WORDS):
        message = f"{config.name}: handler pri-on-incon-degr ({degraded}) takes the node down; a release calls it"
        remedy = f"remove pri-on-incon-degr from the handlers of {config.name} and of common"
        found.append(Problem("handler-pri-on-incon-degr", message, remedy))
    return found


def _problems_of_net(config: ResourceConfig) -> List[Problem]:
    found = []
    if config.net.get("on-congestion", "block") != "block":
        message = f"{config.name}: on-congestion {config.net['on-congestion']}: the peer may fall behind without notice"
        found.append(Problem("on-congestion", message, _lines(config.name, "net", "on-congestion block;")))
    if config.net.get("rr-conflict") == "violently":
        message = (
            f"{config.name}: rr-conflict violently would overwrite a frozen Primary's data beneath its file system"
        )
        found.append(Problem("rr-conflict", message, _lines(config.name, "net", "rr-conflict disconnect;")))
    for option in AFTER_SB:
        value = config.net.get(option, "disconnect")
        if throws_data_away(value):
            message = f"{config.name}: {option} {value} may throw acknowledged writes away without asking"
            found.append(Problem(option, message, _lines(config.name, "net", f"{option} disconnect;")))
    return found


def _lines(resource: str, section: str, line: str) -> str:
    return f"resource {resource} {{ {section} {{ {line} }} }}"
