"""Nodes on the local networks, without being named (C8): an IPv6 echo to all nodes on each interface, and mDNS.

Every IPv6 host answers an echo to ff02::1 unless it was told not to, with no address configured on either side. It tells
an address and no name; names come from Corosync's node list (by the hardware address) and from mDNS.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import socket
import struct
import time
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from heartgate.adapters import process
from heartgate.adapters.addresses import canonical
from heartgate.adapters.base import AdapterError
from heartgate.checks import echo

ALL_NODES = "ff02::1"
PROBE_EVERY_S = 0.5
IP_TIMEOUT_S = 10.0
ICMP6_FILTER = 1  # linux/icmpv6.h
PACKET_MAX = 2048
IGNORED_SHOWN = 5
MDNS_TYPES = ("_heartgate._tcp.local.", "_workstation._tcp.local.", "_ssh._tcp.local.")
MDNS_PORT = 1  # of an announcement: there is no service behind it, only a name


class Interface(NamedTuple):
    """`why_not`: why no probe can be sent there; empty if it can."""

    name: str
    number: int
    addresses: Tuple[str, ...]
    why_not: str


class Found(NamedTuple):
    """A host on a link. `how`: "echo" or "mdns". `rtt_ms`: of the quickest answer."""

    interface: str
    address: str
    how: str
    name: str = ""
    mac: str = ""
    rtt_ms: Optional[float] = None


class Echoes(NamedTuple):
    found: Tuple[Found, ...]
    ignored: Mapping[str, int]  # reason -> packets
    failed: Mapping[str, str]  # interface -> why it could not be sent to


# --- interfaces and neighbours
# ----------------------------------------------------------------------------------------------------------------


def _ip(*arguments: str) -> Any:
    done = process.run(["ip", "-json", *arguments], timeout_s=IP_TIMEOUT_S)
    if not done.ok:
        raise AdapterError(f"ip {' '.join(arguments)}: {done.brief()}")
    try:
        return json.loads(done.stdout or "[]")
    except ValueError as error:
        raise AdapterError(f"ip {' '.join(arguments)} printed what cannot be read: {error}") from error


def interfaces() -> Tuple[Interface, ...]:
    """All but loopback. Raises AdapterError."""
    try:
        return interfaces_of(_ip("address", "show"))
    except (KeyError, TypeError, AttributeError) as error:
        raise AdapterError(f"ip address show printed what cannot be read: {error!r}") from error


def interfaces_of(entries: Sequence[Mapping[str, Any]]) -> Tuple[Interface, ...]:
    found = []
    for entry in entries:
        flags = set(entry["flags"])
        if "LOOPBACK" in flags:
            continue
        addresses = tuple(canonical(str(each["local"])) for each in entry.get("addr_info", ()) if "local" in each)
        found.append(Interface(str(entry["ifname"]), int(entry["ifindex"]), addresses, _why_not(flags, addresses)))
    return tuple(found)


def _why_not(flags: Set[str], addresses: Sequence[str]) -> str:
    if "UP" not in flags:
        return "it is switched off"
    if "NO-CARRIER" in flags or "LOWER_UP" not in flags:
        return "it has no carrier"
    if not any(address.startswith("fe80:") for address in addresses):
        return "it has no IPv6 link-local address (is IPv6 disabled on it?)"
    return ""


def neighbours() -> Dict[Tuple[str, str], str]:
    """(interface, address) -> hardware address, as the kernel remembers it. Raises AdapterError."""
    table = _ip("neighbour", "show")
    return {
        (str(entry.get("dev")), canonical(str(entry.get("dst")))): str(entry["lladdr"])
        for entry in table if isinstance(entry, dict) and "lladdr" in entry
    }  # fmt: skip


# --- echo
# ----------------------------------------------------------------------------------------------------------------


class _Prober:
    def __init__(self, where: Sequence[Interface]) -> None:
        try:
            self.socket = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_ICMPV6)
        except PermissionError as error:
            raise AdapterError("only root can send to all nodes (a raw socket)") from error
        except OSError as error:
            raise AdapterError(f"no IPv6 on this machine: {error.strerror}") from error
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        self.socket.setsockopt(socket.IPPROTO_ICMPV6, ICMP6_FILTER, _only(echo.ECHO_REPLY))
        self._names = {each.number: each.name for each in where}
        self._own = {address for each in where for address in each.addresses}
        self._identifier, self._token = os.getpid(), secrets.token_bytes(echo.TOKEN_BYTES)
        self._sent: Dict[int, float] = {}
        self.best_ms: Dict[Tuple[str, str], float] = {}
        self.ignored: Dict[str, int] = {}
        self.failed: Dict[str, str] = {}

    def send(self, sequence: int) -> None:
        self._sent[sequence] = time.monotonic()
        for index, name in self._names.items():
            try:
                self.socket.sendto(echo.request(self._identifier, sequence, self._token), (ALL_NODES, 0, 0, index))
                self.failed.pop(name, None)
            except OSError as error:
                self.failed[name] = error.strerror or str(error)

    def receive(self) -> None:
        """Everything that has arrived."""
        while True:
            try:
                packet, sender = self.socket.recvfrom(PACKET_MAX)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._ignore(error.strerror or str(error))
                return
            self._take(packet, str(sender[0]), int(sender[3]))

    def _take(self, packet: bytes, sender: str, index: int) -> None:
        read = echo.parse(packet, self._identifier, self._token)
        address, name = canonical(sender.split("%")[0]), self._names.get(index)
        if isinstance(read, echo.Ignored):
            self._ignore(read.reason)
        elif name is None or read.sequence not in self._sent:
            self._ignore("an answer to a probe that was not sent, or on another interface")
        elif address not in self._own:
            rtt_ms = (time.monotonic() - self._sent[read.sequence]) * 1000.0
            self.best_ms[name, address] = min(rtt_ms, self.best_ms.get((name, address), rtt_ms))

    def _ignore(self, reason: str) -> None:
        known = reason in self.ignored or len(self.ignored) < IGNORED_SHOWN  # whoever floods us fills no memory
        reason = reason if known else "others"
        self.ignored[reason] = self.ignored.get(reason, 0) + 1


def _only(kind: int) -> bytes:
    """An ICMP6_FILTER that lets one type pass (a set bit blocks)."""
    words = [0xFFFFFFFF] * 8
    words[kind >> 5] &= ~(1 << (kind & 31)) & 0xFFFFFFFF
    return struct.pack("=8I", *words)


def echoes(where: Sequence[Interface], seconds: float, progress: Callable[[float, int], None]) -> Echoes:
    """Probe the interfaces for that long. `progress` gets the seconds passed and the number of hosts, about once a second;
    KeyboardInterrupt ends it early. Raises AdapterError."""
    prober = _Prober(where)
    try:
        _probe(prober, seconds, progress)
    except KeyboardInterrupt:
        pass
    finally:
        prober.socket.close()
    found = (Found(name, address, "echo", rtt_ms=rtt_ms) for (name, address), rtt_ms in sorted(prober.best_ms.items()))
    return Echoes(tuple(found), prober.ignored, prober.failed)


def _probe(prober: _Prober, seconds: float, progress: Callable[[float, int], None]) -> None:
    start = time.monotonic()
    next_probe, sequence, told = start, 0, 0.0
    while True:
        now = time.monotonic()
        if now - start >= seconds:
            return
        if now >= next_probe:
            prober.send(sequence)
            sequence, next_probe = sequence + 1, next_probe + PROBE_EVERY_S
        if now - start - told >= 1.0:
            told = now - start
            progress(told, len(prober.best_ms))
        select.select([prober.socket], [], [], max(0.0, min(next_probe, start + seconds) - time.monotonic()))
        prober.receive()


# --- mDNS
# ----------------------------------------------------------------------------------------------------------------


class Mdns:
    """Listens from when it is made until `close`. Raises AdapterError where mDNS cannot be looked at."""

    def __init__(self, *, announce: Optional[str] = None, addresses: Sequence[str] = ()) -> None:
        try:
            import zeroconf
        except ImportError as error:
            raise AdapterError(f"python3-zeroconf is not installed ({error})") from error
        self._seen: Set[Tuple[str, str]] = set()
        self._library = zeroconf
        try:
            self._zeroconf = zeroconf.Zeroconf(ip_version=zeroconf.IPVersion.All)
            self._browser = zeroconf.ServiceBrowser(self._zeroconf, list(MDNS_TYPES), handlers=[self._changed])
            if announce:
                self._zeroconf.register_service(self._info(announce, addresses))
        except Exception as error:  # of its own kinds, and OSError
            raise AdapterError(f"python3-zeroconf: {error}") from error

    def _info(self, host: str, addresses: Sequence[str]) -> Any:
        kind = MDNS_TYPES[0]
        return self._library.ServiceInfo(
            kind, f"{host}.{kind}", port=MDNS_PORT, server=f"{host}.local.", parsed_addresses=list(addresses)
        )

    def _changed(self, zeroconf: Any, service_type: str, name: str, state_change: Any) -> None:
        if state_change is not self._library.ServiceStateChange.Removed and len(self._seen) < 1000:
            self._seen.add((service_type, name))

    def close(self, timeout_s: float = 3.0) -> List[Tuple[str, str]]:
        """(name, address) of every host that was heard. Asks for addresses for at most that long."""
        deadline = time.monotonic() + timeout_s
        hosts: Set[Tuple[str, str]] = set()
        try:
            for service_type, name in sorted(self._seen):
                left_ms = int((deadline - time.monotonic()) * 1000)
                info = self._zeroconf.get_service_info(service_type, name, timeout=left_ms) if left_ms > 0 else None
                if info is not None:
                    hosts |= {(str(info.server).rstrip("."), canonical(address)) for address in info.parsed_addresses()}
        finally:
            self._zeroconf.close()
        return sorted(hosts)
