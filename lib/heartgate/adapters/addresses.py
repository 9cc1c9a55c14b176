"""Addresses of this node's interfaces, and what a host name stands for."""

from __future__ import annotations

import ipaddress
import json
import socket
from typing import Dict, Optional, Tuple

from heartgate.adapters import process
from heartgate.adapters.base import AdapterError

IP_TIMEOUT_S = 10.0


def local_addresses() -> Dict[str, str]:
    """Address -> interface, loopback included. Raises AdapterError."""
    done = process.run(["ip", "-json", "address", "show"], timeout_s=IP_TIMEOUT_S)
    if not done.ok:
        raise AdapterError(f"ip address show: {done.brief()}")
    try:
        return interfaces_of(done.stdout)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AdapterError(f"ip address show printed what cannot be read: {error}") from error


def interfaces_of(text: str) -> Dict[str, str]:
    """From the output of `ip -json address show`. Raises ValueError, KeyError or TypeError if it is not of its form."""
    found: Dict[str, str] = {}
    for interface in json.loads(text or "[]"):
        for info in interface.get("addr_info", ()):
            if "local" in info:
                found[canonical(str(info["local"]))] = str(interface["ifname"])
    return found


def way_to(address: str, source: str) -> Tuple[Optional[str], Optional[str]]:
    """(interface, gateway) by which packets from `source` to `address` leave this node; None where there is no such thing, or
    where it cannot be told."""
    done = process.run(["ip", "-json", "route", "get", address, "from", source], timeout_s=IP_TIMEOUT_S)
    try:
        (route,) = json.loads(done.stdout) if done.ok else ({},)
        return route.get("dev"), route.get("gateway")
    except (ValueError, TypeError, AttributeError):
        return None, None


def canonical(address: str) -> str:
    """The one way to write an address; what is no address stays as it is."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address


def resolve(name: str) -> Tuple[str, ...]:
    """Every address that a name (or an address) stands for, here and now; empty if there is none. The resolver's own
    time-outs bound it."""
    try:
        answers = socket.getaddrinfo(name, None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError, ValueError):
        return ()
    return tuple(dict.fromkeys(canonical(str(answer[4][0]).split("%")[0]) for answer in answers))
