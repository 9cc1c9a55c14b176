"""Facts of one host, as `heartgate facts` collects them: what rules look at, and nothing else.

A fact that is None was either not to be had, and then `unknown` holds the reason under the fact's name, or the thing does not
have it (a bond has no bus address). Rules must ask `why()` before they read None as "has none".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Optional, Tuple

Reasons = Tuple[Tuple[str, str], ...]

# Adapters of virtual machines: how fast they are, and which physical adapter is behind them, only the host knows.
PARAVIRTUAL = frozenset({"virtio_net", "xen_netfront", "vif", "vmxnet3", "hv_netvsc", "ena", "gve", "ibmveth"})
PHYSICAL = "physical"
LOOPBACK = "loopback"
PPP = "ppp"
PSEUDO_TERMINALS = "pts/"


@dataclass(frozen=True)
class Address:
    """`scope`: global, site, link, host, or a number. `dynamic`: True if a DHCP client or router advertisements gave it."""

    ip: str
    prefix: int
    scope: str
    dynamic: Optional[bool]


@dataclass(frozen=True)
class Neighbour:
    """A line of the kernel's neighbour table. `state`: reachable, stale, delay, probe, permanent, failed, incomplete, noarp."""

    ip: str
    mac: Optional[str]
    state: str


@dataclass(frozen=True)
class Frame:
    """A frame of the kind that switches send. `kind`: lldp, stp or cdp. `who`: what the sender calls itself, or ""."""

    kind: str
    mac: str
    who: str


@dataclass(frozen=True)
class Heard:
    """What was heard on an interface and on the members below it. `sources`: MAC addresses of all who sent anything."""

    seconds: float
    frames: Tuple[Frame, ...]
    sources: Tuple[str, ...]


@dataclass(frozen=True)
class Bond:
    """`mode`: the kernel's name. `active`: the member in use (active-backup, tlb, alb). `lacp_rate`: slow or fast (802.3ad).
    Members are watched by their carrier (`miimon_ms`) or by ARP (`arp_interval_ms`); 0: not in this way."""

    mode: str
    members: Tuple[str, ...]
    active: Optional[str]
    lacp_rate: Optional[str]
    miimon_ms: Optional[int]
    arp_interval_ms: Optional[int] = None


@dataclass(frozen=True)
class Interface:
    """One interface and what is around it.

    `kind`: the kernel's link kind (bond, bridge, vlan, veth, openvswitch ...), `physical` without one, `loopback`. `master` is
    what it is a port or member of, `lower` what it runs over, `upper` what runs over it. `bus`: PCI address or what the driver
    tells instead; of a PPP interface its line (ttyS0). `answers`: who answered a ping to all nodes of the link (ff02::1), None
    if none was sent.
    """

    name: str
    index: int
    kind: str
    altnames: Tuple[str, ...] = ()
    flags: Tuple[str, ...] = ()
    operstate: Optional[str] = None
    carrier: Optional[bool] = None
    speed_mbit: Optional[int] = None
    duplex: Optional[str] = None
    mtu: Optional[int] = None
    mac: Optional[str] = None
    permanent_mac: Optional[str] = None
    bus: Optional[str] = None
    dev_port: Optional[int] = None
    phys_port: Optional[str] = None
    driver: Optional[str] = None
    master: Optional[str] = None
    master_kind: Optional[str] = None
    lower: Tuple[str, ...] = ()
    upper: Tuple[str, ...] = ()
    bond: Optional[Bond] = None
    vlan_id: Optional[int] = None
    addresses: Tuple[Address, ...] = ()
    neighbours: Tuple[Neighbour, ...] = ()
    heard: Optional[Heard] = None
    answers: Optional[Tuple[str, ...]] = None
    unknown: Reasons = ()

    def why(self, fact: str) -> Optional[str]:
        """Why a fact is not known; None if it is known, or if there is nothing to know."""
        return dict(self.unknown).get(fact)

    @property
    def paravirtual(self) -> bool:
        return self.driver in PARAVIRTUAL

    @property
    def serial(self) -> bool:
        """PPP over a line of this host. PPP also runs over Ethernet, over IP and over whatever a program passes on."""
        return self.kind == PPP and self.bus is not None and not self.bus.startswith(PSEUDO_TERMINALS)


@dataclass(frozen=True)
class Resolution:
    """What a name resolves to on this host. `addresses` None: the resolver failed, `error` says how. Empty: no such name."""

    name: str
    addresses: Optional[Tuple[str, ...]]
    error: str = ""


@dataclass(frozen=True)
class RingAddress:
    """`ringN_addr` of one node: an address or a host name."""

    node: str
    link: int
    address: str


@dataclass(frozen=True)
class Path:
    """Where this host's packets of one Corosync link go: `interface` is the kernel's own answer for that pair of addresses.

    `bound`: whether a socket listens on (local, port). None: not known; `error` then says why, or why there is no interface.
    """

    link: int
    node: str
    local: str
    remote: str
    interface: Optional[str]
    bound: Optional[bool]
    error: str = ""


@dataclass(frozen=True)
class Setting:
    """One key of corosync.conf with its sections, e.g. "totem.token", and its values in the file's order. No secret: a key is
    there as a digest."""

    key: str
    values: Tuple[str, ...]


@dataclass(frozen=True)
class Corosync:
    """What corosync.conf asks for (the values in force), and where its links run on this host. `running`: whether corosync runs
    now. `me`: this host's name in the node list, None if it is not there. `settings`: what is written in the file, None if it
    was not told (format 1 of the facts)."""

    source: str
    transport: str
    crypto_cipher: str
    crypto_hash: str
    me: Optional[str]
    addresses: Tuple[RingAddress, ...]
    paths: Tuple[Path, ...]
    running: Optional[bool]
    settings: Optional[Tuple[Setting, ...]] = None

    def nodes(self) -> Tuple[str, ...]:
        return tuple(dict.fromkeys(item.node for item in self.addresses))

    def links(self) -> Tuple[int, ...]:
        return tuple(sorted({item.link for item in self.addresses}))


@dataclass(frozen=True)
class HostFacts:
    """Everything known of one host. `corosync` None: no configuration there, or `unknown` says why it could not be read.
    `default_route`: the interface that the default route takes. `sync`: interfaces that carry replication, None if not known."""

    host: str
    heartgate: str
    interfaces: Tuple[Interface, ...]
    corosync: Optional[Corosync] = None
    resolutions: Tuple[Resolution, ...] = ()
    default_route: Optional[str] = None
    sync: Optional[Tuple[str, ...]] = None
    unknown: Reasons = ()

    def why(self, fact: str) -> Optional[str]:
        return dict(self.unknown).get(fact)

    def interface(self, name: str) -> Optional[Interface]:
        """By its name or one of its other names."""
        exact = next((item for item in self.interfaces if item.name == name), None)
        return exact or next((item for item in self.interfaces if name in item.altnames), None)

    def by_address(self, ip: str) -> Optional[Interface]:
        """The interface that has this address."""
        return next((item for item in self.interfaces if any(address.ip == ip for address in item.addresses)), None)

    def resolved(self, name: str) -> Optional[Resolution]:
        return next((item for item in self.resolutions if item.name == name), None)


def stack(host: HostFacts, name: str) -> Tuple[Interface, ...]:
    """The interface and everything that it runs over, top first. Each only once, also if a broken report makes a circle."""
    found: Dict[str, Interface] = {}
    waiting = [name]
    while waiting:
        item = host.interface(waiting.pop(0))
        if item is not None and item.name not in found:
            found[item.name] = item
            waiting += item.lower
    return tuple(found.values())


def printable(text: str, length: int = 200) -> str:
    """Foreign text made fit for a fact: nothing in it can move somebody's cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:length])
