"""Facts of the interfaces of this network namespace: rtnetlink through pyroute2 (0.5.14 to 0.9) and ethtool's ioctl.

Looks only. What cannot be had stays None and gets a reason.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from heartgate.adapters.base import AdapterError
from heartgate.adapters.ethtool import Ethtool
from heartgate.adapters.netlink import attributes_of, carrier_of
from heartgate.adapters.ppp_line import line_of
from heartgate.checks.model import LOOPBACK, PHYSICAL, PPP, Address, Bond, Interface, Neighbour, printable

FLAGS = {
    0x1: "up",
    0x2: "broadcast",
    0x8: "loopback",
    0x10: "pointopoint",
    0x80: "noarp",
    0x100: "promisc",
    0x400: "master",
    0x800: "slave",
    0x1000: "multicast",
    0x10000: "lower_up",
    0x20000: "dormant",
}
IFF_LOOPBACK = 0x8
OPERSTATES = ("unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up")
BOND_MODES = ("balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb")
LACP_RATES = ("slow", "fast")
GATHERERS = ("bond", "team", "bridge", "openvswitch", "vrf", "hsr")  # kinds that run over their ports
TUNNEL_LINKS = ("IFLA_VXLAN_LINK", "IFLA_GRE_LINK", "IFLA_IPTUN_LINK", "IFLA_VTI_LINK")  # where IFLA_LINK may be missing
SCOPES = {0: "global", 200: "site", 253: "link", 254: "host", 255: "nowhere"}
IFA_F_PERMANENT = 0x80
NEIGHBOUR_STATES = {
    0x01: "incomplete",
    0x02: "reachable",
    0x04: "stale",
    0x08: "delay",
    0x10: "probe",
    0x20: "failed",
    0x40: "noarp",
    0x80: "permanent",
}
DHCP_CLIENTS = ("dhclient", "dhcpcd", "udhcpc")
NLA_TYPE_MASK, IFLA_PROP_LIST = 0x3FFF, 52
SYSFS = Path("/sys/class/net")


class Dump(NamedTuple):
    """pyroute2's messages, as they come."""

    links: Sequence[Any]
    addresses: Sequence[Any]
    neighbours: Sequence[Any]


def collect() -> Tuple[Interface, ...]:
    """All interfaces, in the kernel's order. Raises AdapterError when the kernel does not tell."""
    found = build(dump(), dhcp_interfaces())
    with Ethtool() as ethtool:
        return tuple(_with_ethtool(item, ethtool) for item in found)


def dump() -> Dump:
    """Raises AdapterError."""
    try:
        from pyroute2 import IPRoute
    except ImportError as error:
        raise AdapterError(f"pyroute2: {error}") from error
    try:
        with contextlib.closing(IPRoute()) as route:
            return Dump(list(route.get_links()), list(route.get_addr()), list(route.get_neighbours()))
    except Exception as error:  # pyroute2's own NetlinkError is not the same class in all versions
        raise AdapterError(f"rtnetlink dump: {error}") from error


def build(dumped: Dump, dhcp: Set[str]) -> Tuple[Interface, ...]:
    """Messages to facts. `dhcp`: interfaces that a DHCP client which sets no lifetimes looks after."""
    links = {_get(item, "index"): item for item in dumped.links if attributes_of(item).get("IFLA_IFNAME")}
    names = {index: printable(str(attributes_of(item)["IFLA_IFNAME"])) for index, item in links.items()}
    kinds = {index: _kind(item) for index, item in links.items()}
    found = [_interface(item, names, kinds) for item in links.values()]
    found = [
        replace(item, addresses=_addresses(dumped.addresses, item, dhcp), neighbours=_neighbours(dumped.neighbours, item.index))
        for item in found
    ]
    return _with_neighbourhood(found)


def _get(message: Any, key: str) -> Any:
    with contextlib.suppress(KeyError, TypeError, IndexError):
        return message[key]
    return None


def _info(message: Any) -> Dict[str, Any]:
    return attributes_of(attributes_of(message).get("IFLA_LINKINFO"))


def _kind(message: Any) -> str:
    kind = _info(message).get("IFLA_INFO_KIND")
    if isinstance(kind, str) and kind:
        return printable(kind)
    return LOOPBACK if (_get(message, "flags") or 0) & IFF_LOOPBACK else PHYSICAL


def _interface(message: Any, names: Mapping[Any, str], kinds: Mapping[Any, str]) -> Interface:
    attributes, info, index = attributes_of(message), _info(message), _get(message, "index")
    data = attributes_of(info.get("IFLA_INFO_DATA"))
    flags, master, kind = _get(message, "flags") or 0, attributes.get("IFLA_MASTER"), kinds[index]
    link = attributes.get("IFLA_LINK") or next((data[name] for name in TUNNEL_LINKS if data.get(name)), None)
    lower, unknown = _lower(attributes, link, index, kind, names)
    if _unread_altnames(message):
        unknown.append(("altnames", "it has some, and this pyroute2 is too old to read them"))
    if master is not None and master not in names:
        unknown.append(("master", f"it has a master with index {master}, which this network namespace does not show"))
    return Interface(
        name=names[index],
        index=index,
        kind=kind,
        altnames=_altnames(attributes),
        flags=tuple(name for bit, name in FLAGS.items() if flags & bit),
        operstate=_operstate(attributes.get("IFLA_OPERSTATE")),
        carrier=carrier_of(message),
        mtu=attributes.get("IFLA_MTU"),
        mac=_mac(attributes.get("IFLA_ADDRESS")),
        phys_port=_text(attributes.get("IFLA_PHYS_PORT_NAME")),
        master=names.get(master),
        master_kind=kinds.get(master),
        lower=lower,
        bond=_bond(data, names) if kind == "bond" else None,
        vlan_id=data.get("IFLA_VLAN_ID") if kind == "vlan" else None,
        unknown=tuple(unknown),
    )


def _text(value: Any) -> Optional[str]:
    return printable(value) if isinstance(value, str) and value else None


def _mac(value: Any) -> Optional[str]:
    return value.lower() if isinstance(value, str) and value.strip("0:") else None


def _operstate(value: Any) -> Optional[str]:
    if isinstance(value, int):
        return OPERSTATES[value] if 0 <= value < len(OPERSTATES) else None
    return value.lower() if isinstance(value, str) and value.lower() in OPERSTATES else None


def _altnames(attributes: Mapping[str, Any]) -> Tuple[str, ...]:
    listed = attributes.get("IFLA_PROP_LIST")
    pairs = _get(listed, "attrs") if listed is not None else None
    found = [pair[1] for pair in pairs or () if pair[0] == "IFLA_ALT_IFNAME"]
    if not found and isinstance(listed, (list, tuple)):
        found = [item for item in listed if isinstance(item, str)]
    return tuple(printable(item) for item in found)


def _unread_altnames(message: Any) -> bool:
    """pyroute2 0.5.14 hands out the header of what it does not know."""
    for pair in _get(message, "attrs") or ():
        if pair[0] == "UNKNOWN":
            kind = _get(_get(pair[1], "header"), "type")
            if isinstance(kind, int) and kind & NLA_TYPE_MASK == IFLA_PROP_LIST:
                return True
    return False


def _lower(
    attributes: Mapping[str, Any], link: Any, index: int, kind: str, names: Mapping[Any, str]
) -> Tuple[Tuple[str, ...], List[Tuple[str, str]]]:
    """What it runs over. A veth's link is its other end, which it does not run over. A link in another namespace is a number
    of that namespace: here it may be anybody's, even its own."""
    if kind == "veth":
        return (), []
    elsewhere = attributes.get("IFLA_LINK_NETNSID") is not None
    if not elsewhere and (not link or link == index):
        return (), []
    if elsewhere or link not in names:
        return (), [("lower", "it runs over an interface in another network namespace")]
    return (names[link],), []


def _bond(data: Mapping[str, Any], names: Mapping[Any, str]) -> Bond:
    mode, rate = data.get("IFLA_BOND_MODE"), data.get("IFLA_BOND_AD_LACP_RATE")
    shown = _word(BOND_MODES, mode) or "unknown"
    return Bond(
        mode=shown,
        members=(),
        active=names.get(data.get("IFLA_BOND_ACTIVE_SLAVE")),
        lacp_rate=_word(LACP_RATES, rate) if shown == "802.3ad" else None,
        miimon_ms=data.get("IFLA_BOND_MIIMON"),
        arp_interval_ms=data.get("IFLA_BOND_ARP_INTERVAL"),
    )


def _word(words: Sequence[str], value: Any) -> Optional[str]:
    if isinstance(value, int):
        return words[value] if 0 <= value < len(words) else None
    return value if value in words else None


def _with_neighbourhood(found: Sequence[Interface]) -> Tuple[Interface, ...]:
    """Ports as what their master runs over, and what runs over each."""
    members: Dict[str, Tuple[str, ...]] = {}
    for item in found:
        if item.master is not None:
            members[item.master] = (*members.get(item.master, ()), item.name)
    upper: Dict[str, Tuple[str, ...]] = {}
    whole: List[Interface] = []
    for item in found:
        ports = members.get(item.name, ()) if item.kind in GATHERERS else ()
        lower = tuple(dict.fromkeys((*item.lower, *ports)))
        bond = replace(item.bond, members=ports) if item.bond else None
        whole.append(replace(item, lower=lower, bond=bond))
        for name in lower:
            upper[name] = (*upper.get(name, ()), item.name)
    return tuple(replace(item, upper=upper.get(item.name, ())) for item in whole)


def _addresses(messages: Iterable[Any], item: Interface, dhcp: Set[str]) -> Tuple[Address, ...]:
    found = []
    for message in messages:
        attributes = attributes_of(message)
        # On a point-to-point interface IFA_ADDRESS is the other end.
        ip = _ip(attributes.get("IFA_LOCAL") or attributes.get("IFA_ADDRESS"))
        if _get(message, "index") != item.index or ip is None:
            continue
        scope = _get(message, "scope")
        found.append(Address(ip, _get(message, "prefixlen") or 0, SCOPES.get(scope, str(scope)), _dynamic(message, item, dhcp)))
    return tuple(found)


def _dynamic(message: Any, item: Interface, dhcp: Set[str]) -> bool:
    """A lifetime means DHCP or router advertisements. The small DHCP clients set none, so their command lines are asked."""
    flags = attributes_of(message).get("IFA_FLAGS", _get(message, "flags"))
    limited = isinstance(flags, int) and not flags & IFA_F_PERMANENT
    return limited or (_get(message, "family") == socket.AF_INET and item.name in dhcp)


def _neighbours(messages: Iterable[Any], index: int) -> Tuple[Neighbour, ...]:
    found = []
    for message in messages:
        attributes = attributes_of(message)
        ip = _ip(attributes.get("NDA_DST"))
        if _get(message, "ifindex") != index or ip is None:
            continue
        state = NEIGHBOUR_STATES.get(_get(message, "state"), "unknown")
        found.append(Neighbour(ip, _mac(attributes.get("NDA_LLADDR")), state))
    return tuple(found)


def _ip(value: Any) -> Optional[str]:
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(value)) if isinstance(value, str) else None
    return None


# --- ethtool and sysfs -----------------------------------------------------------------------------------------------


def _with_ethtool(item: Interface, ethtool: Ethtool) -> Interface:
    facts: Dict[str, Any] = {}
    unknown = list(item.unknown)
    try:
        told = ethtool.driver(item.name)
        facts["driver"] = _text(told["driver"])
        facts["bus"] = _text(told["bus"]) if item.kind == PHYSICAL else None
    except OSError as error:
        unknown += [(fact, _reason(error)) for fact in ("driver", "bus") if item.kind == PHYSICAL]
    try:
        facts["permanent_mac"] = ethtool.permanent_mac(item.name)
    except OSError as error:
        unknown.append(("permanent_mac", _reason(error)))
    if item.kind == PHYSICAL:
        facts["dev_port"] = _dev_port(item)
        if not facts.get("bus") and "bus" not in dict(unknown):
            unknown.append(("bus", "the driver does not tell"))
    if item.kind == PPP:
        line, reason = line_of(item.name)
        facts["bus"] = _text(line)
        unknown += [("bus", printable(reason))] if reason else []
    facts.update(_speed(item, ethtool, unknown))
    return replace(item, **facts, unknown=tuple(unknown))


def _speed(item: Interface, ethtool: Ethtool, unknown: List[Tuple[str, str]]) -> Dict[str, Any]:
    try:
        told = ethtool.settings(item.name)
    except OSError as error:
        unknown += [(fact, _reason(error)) for fact in ("speed_mbit", "duplex")]
        return {}
    reason = "the driver does not tell" if item.carrier else "it has no carrier"
    if not item.carrier:  # some drivers go on telling the last one
        told = told._replace(speed_mbit=None, duplex=None)
    unknown += [(fact, reason) for fact in told._fields if getattr(told, fact) is None]
    return told._asdict()


def _reason(error: OSError) -> str:
    return "the driver does not tell" if error.errno in (95, 22) else printable(f"{error.strerror or error}")


def _dev_port(item: Interface) -> Optional[int]:
    """The only fact that sysfs alone has. It may show another network namespace, so the identity is compared first."""
    place = SYSFS / item.name
    try:
        same = (int((place / "ifindex").read_text()), (place / "address").read_text().strip()) == (item.index, item.mac)
        return int((place / "dev_port").read_text()) if same else None
    except (OSError, ValueError):
        return None


def dhcp_interfaces(proc: Path = Path("/proc")) -> Set[str]:
    """Interfaces named on the command line of a DHCP client in this network namespace."""
    found: Set[str] = set()
    for place in proc.glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
            if Path(words[0].decode("utf-8", "replace")).name not in DHCP_CLIENTS:
                continue
            if (place / "ns/net").readlink() == (proc / "self/ns/net").readlink():
                found.update(word.decode("utf-8", "replace") for word in words[1:] if word)
        except OSError:
            continue  # it has ended meanwhile
    return found
