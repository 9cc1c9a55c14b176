"""Facts of this host as a whole: interfaces, corosync.conf and where its links run, names, and what is heard on the links.

Looks only. A part that cannot be had is left out with its reason; the rest is still told.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from heartgate import __version__
from heartgate.adapters import frames, interface_facts, process
from heartgate.adapters.base import AdapterError
from heartgate.adapters.drbd_config import parse_dump
from heartgate.adapters.netlink import attributes_of
from heartgate.checks import corosync_conf
from heartgate.checks.corosync_conf import CorosyncConf
from heartgate.checks.model import Corosync, HostFacts, Interface, Resolution, RingAddress, Setting, printable, stack
from heartgate.checks.model import Path as LinkPath
from heartgate.checks.source import ParseError

COROSYNC_CONF = Path("/etc/corosync/corosync.conf")
DEFAULT_PORT = 5405
RESOLVE_S, PATIENCE_S = 5.0, 2.0
DRBDADM_S = 10.0
Progress = Callable[[str], None]


class Request(NamedTuple):
    """`listen_s` 0: nothing is sent or listened to. `interfaces`: where to listen; None: where Corosync's links run.
    `names`: host names to resolve besides those in corosync.conf."""

    listen_s: float = 0.0
    interfaces: Optional[Tuple[str, ...]] = None
    names: Tuple[str, ...] = ()
    corosync_conf: Path = COROSYNC_CONF


def gather(request: Request, progress: Progress = lambda text: None) -> HostFacts:
    """Raises AdapterError when not even the interfaces can be had."""
    unknown: List[Tuple[str, str]] = []
    interfaces = interface_facts.collect()
    conf = _conf(request.corosync_conf, unknown)
    names = dict.fromkeys((*request.names, *_names_in(conf)))
    resolutions = resolve(tuple(names), progress)
    host = HostFacts(os.uname().nodename, __version__, interfaces, resolutions=resolutions, default_route=default_route())
    corosync = _corosync(conf, host) if conf else None
    host = replace(host, corosync=corosync, sync=_sync(host, unknown), unknown=tuple(unknown))
    return _heard(host, request, progress)


# --- Corosync --------------------------------------------------------------------------------------------------------


def _conf(place: Path, unknown: List[Tuple[str, str]]) -> Optional[CorosyncConf]:
    try:
        return corosync_conf.parse(place.read_text(encoding="utf-8", errors="replace"), str(place))
    except FileNotFoundError:
        return None
    except OSError as error:
        unknown.append(("corosync", f"{place}: {error.strerror}"))
    except ParseError as error:
        unknown.append(("corosync", printable(str(error), 400)))
    return None


def _names_in(conf: Optional[CorosyncConf]) -> Tuple[str, ...]:
    written = [address for node in conf.nodes for address, _ in node.addresses.values()] if conf else []
    return tuple(name for name in written if not is_address(name))


def is_address(text: str) -> bool:
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(text)
        return True
    return False


def _corosync(conf: CorosyncConf, host: HostFacts) -> Corosync:
    ring = tuple(
        RingAddress(printable(node.name or node.addresses.get(0, ("", 0))[0]), link, printable(address))
        for node in conf.nodes
        for link, (address, _) in sorted(node.addresses.items())
    )
    cipher, digest = conf.secure
    me = _me(ring, host)
    running = _runs("corosync")
    settings = tuple(
        Setting(printable(key), tuple(printable(value, 512) for value in values))
        for key, values in corosync_conf.written(conf).items()
    )
    bare = Corosync(conf.source, printable(conf.transport), cipher, digest, me, ring, (), running, settings)
    return replace(bare, paths=_paths(bare, conf, host) if me else ())


def _me(ring: Sequence[RingAddress], host: HostFacts) -> Optional[str]:
    """As Corosync does it: by an address of this host; else by the host's name."""
    for item in ring:
        if any(host.by_address(address) for address in _addresses_of(item.address, host)):
            return item.node
    short = host.host.partition(".")[0]
    return next((item.node for item in ring if item.node in (host.host, short)), None)


def _addresses_of(name: str, host: HostFacts) -> Tuple[str, ...]:
    if is_address(name):
        return (str(ipaddress.ip_address(name)),)
    found = host.resolved(name)
    return found.addresses or () if found else ()


def _paths(corosync: Corosync, conf: CorosyncConf, host: HostFacts) -> Tuple[LinkPath, ...]:
    mine = {item.link: item.address for item in corosync.addresses if item.node == corosync.me}
    bound = _bound_addresses()
    found = []
    for item in corosync.addresses:
        if item.node == corosync.me or item.link not in mine:
            continue
        local, remote = (_addresses_of(name, host) for name in (mine[item.link], item.address))
        found.append(_path(item, mine[item.link], local, remote, _port(conf, item.link), bound))
    return tuple(found)


def _path(
    item: RingAddress, name: str, local: Sequence[str], remote: Sequence[str], port: int, bound: Optional[Dict[str, List[int]]]
) -> LinkPath:
    pairs = [(mine, theirs) for mine in local for theirs in remote if (":" in mine) == (":" in theirs)]
    if not pairs:
        silent = name if not local else item.address
        return LinkPath(item.link, item.node, name, item.address, None, None, f"{silent} has no address that can be used")
    mine, theirs = pairs[0]
    interface, error = route_to(theirs, mine)
    return LinkPath(item.link, item.node, mine, theirs, interface, None if bound is None else port in bound.get(mine, ()), error)


def _port(conf: CorosyncConf, link: int) -> int:
    written = conf.interface(link, "mcastport")
    return int(written.value) if written else DEFAULT_PORT + (link if conf.transport == "knet" else 0)


def _bound_addresses() -> Optional[Dict[str, List[int]]]:
    """Address -> UDP ports that sockets of this network namespace listen on."""
    found: Dict[str, List[int]] = {}
    for name in ("udp", "udp6"):
        try:
            lines = Path("/proc/net", name).read_text().splitlines()[1:]
        except FileNotFoundError:
            continue  # a kernel without IPv6
        except OSError:
            return None
        for line in lines:
            address, _, port = line.split()[1].partition(":")
            raw = b"".join(bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8))
            found.setdefault(str(ipaddress.ip_address(raw)), []).append(int(port, 16))
    return found


def _runs(program: str) -> Optional[bool]:
    """Whether a process of this name is in this network namespace."""
    try:
        mine = Path("/proc/self/ns/net").readlink()
    except OSError:
        return None
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (place / "comm").read_text().strip() == program and (place / "ns/net").readlink() == mine:
                return True
    return False


# --- routes ----------------------------------------------------------------------------------------------------------


def route_to(remote: str, local: str) -> Tuple[Optional[str], str]:
    """(interface, "") that the kernel would send by, or (None, why). Sends nothing."""
    try:
        answer = _ask_route(dst=remote, src=local, family=socket.AF_INET6 if ":" in remote else socket.AF_INET)
    except AdapterError as error:
        return None, f"there is no route from {local} to {remote}: {error}"
    if answer is None:
        return None, f"the kernel tells no interface for {local} to {remote}"
    return answer, ""


def default_route() -> Optional[str]:
    """The interface that takes what goes to anywhere. None: there is no default route."""
    for remote, family in (("192.0.2.1", socket.AF_INET), ("2001:db8::1", socket.AF_INET6)):  # documentation addresses
        with contextlib.suppress(AdapterError):
            found = _ask_route(dst=remote, family=family)
            if found and found != "lo":
                return found
    return None


def _ask_route(**question: Any) -> Optional[str]:
    try:
        from pyroute2 import IPRoute

        with contextlib.closing(IPRoute()) as route:
            answers = [attributes_of(message).get("RTA_OIF") for message in route.route("get", **question)]
    except Exception as error:  # pyroute2's own NetlinkError is not the same class in all versions
        words = error.args[-1] if error.args else error
        raise AdapterError(printable(str(words))) from error
    with contextlib.suppress(OSError):
        return socket.if_indextoname(answers[0]) if answers and answers[0] else None
    return None


# --- names -----------------------------------------------------------------------------------------------------------


def resolve(names: Sequence[str], progress: Progress = lambda text: None) -> Tuple[Resolution, ...]:
    """All at once, each in a thread that is given up after five seconds: a dead DNS server must not hold up the rest."""
    found: Dict[str, Resolution] = {}
    threads = [threading.Thread(target=lambda name=name: found.update({name: _resolve(name)}), daemon=True) for name in names]
    for thread in threads:
        thread.start()
    started = time.monotonic()
    _wait(threads, started + PATIENCE_S)
    if any(thread.is_alive() for thread in threads):
        progress("waiting for the resolver ...")
        _wait(threads, started + RESOLVE_S)
    late = f"no answer within {RESOLVE_S:g} s"
    done = dict(found)
    return tuple(done.get(name) or Resolution(printable(name), None, late) for name in names)


def _wait(threads: Sequence[threading.Thread], deadline: float) -> None:
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def _resolve(name: str) -> Resolution:
    try:
        answers = socket.getaddrinfo(name, None, proto=socket.IPPROTO_UDP)
    except socket.gaierror as error:
        absent = error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", -5))
        return Resolution(printable(name), () if absent else None, printable(error.strerror or str(error)))
    except (OSError, ValueError) as error:  # ValueError: no name that could be looked up
        return Resolution(printable(name), None, printable(str(error)))
    return Resolution(printable(name), tuple(dict.fromkeys(str(answer[4][0]).partition("%")[0] for answer in answers)))


# --- replication -----------------------------------------------------------------------------------------------------


def _sync(host: HostFacts, unknown: List[Tuple[str, str]]) -> Optional[Tuple[str, ...]]:
    """Interfaces that have the addresses of DRBD's resources on this host."""
    if process.find("drbdadm") is None:
        unknown.append(("sync", "there is no drbdadm here"))
        return None
    done = process.run(["drbdadm", "dump-xml"], timeout_s=DRBDADM_S)
    if not done.ok:
        unknown.append(("sync", printable(f"drbdadm dump-xml: {done.brief()}", 300)))
        return None
    try:
        resources = parse_dump(done.stdout)
    except AdapterError as error:
        unknown.append(("sync", printable(str(error), 300)))
        return None
    addresses = [address.host for item in resources.values() for _, end in _ends(item) for address in (end,)]
    found = [host.by_address(address) for address in addresses if is_address(address)]
    return tuple(dict.fromkeys(item.name for item in found if item))


def _ends(resource: Any) -> List[Tuple[str, Any]]:
    own = [(name, address) for name, host in resource.hosts.items() for address in host.addresses]
    return own + [end for connection in resource.connections for end in connection.ends]


# --- listening -------------------------------------------------------------------------------------------------------


def _heard(host: HostFacts, request: Request, progress: Progress) -> HostFacts:
    names = _where(host, request)
    if request.listen_s <= 0 or not names:
        reason = "not listened (--listen 0)" if request.listen_s <= 0 else "not listened on this interface"
        return replace(host, interfaces=tuple(_silent(item, reason) for item in host.interfaces))
    targets = [_target(host, item) for item in host.interfaces if item.name in names]

    def tick(remaining: float) -> None:
        progress(f"listening on {' '.join(item.name for item in targets)}: {remaining:.0f} s left")

    heard = frames.listen(targets, request.listen_s, tick)
    # The neighbour table is read again: the answers to the ping have filled it.
    fresh = {item.name: item for item in interface_facts.collect()}
    return replace(
        host,
        interfaces=tuple(
            _with_outcome(item, fresh.get(item.name), heard[item.name])
            if item.name in heard
            else _silent(item, "not listened on this interface")
            for item in host.interfaces
        ),
    )


def _where(host: HostFacts, request: Request) -> Tuple[str, ...]:
    if request.interfaces is not None:
        named = [host.interface(name) for name in request.interfaces]
        return tuple(item.name for item in named if item)
    paths = host.corosync.paths if host.corosync else ()
    return tuple(dict.fromkeys(path.interface for path in paths if path.interface))


def _target(host: HostFacts, item: Interface) -> frames.Target:
    return frames.Target(item.name, item.index, tuple(each.name for each in stack(host, item.name)))


def _silent(item: Interface, reason: str) -> Interface:
    return replace(item, unknown=(*item.unknown, ("heard", reason), ("answers", reason)))


def _with_outcome(item: Interface, fresh: Optional[Interface], outcome: frames.Outcome) -> Interface:
    neighbours = fresh.neighbours if fresh and fresh.index == item.index else item.neighbours
    unknown = (*item.unknown, *sorted(outcome.reasons.items()))
    return replace(item, neighbours=neighbours, heard=outcome.heard, answers=outcome.answers, unknown=unknown)
