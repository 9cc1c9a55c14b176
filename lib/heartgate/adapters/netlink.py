"""Carrier of network interfaces through rtnetlink (milliseconds after the cable is pulled). Works with pyroute2 0.5.14
to 0.9.

pyroute2 takes a tenth of a second to import, so it is imported when the watch is made.
"""

from __future__ import annotations

import contextlib
import errno
import select
from typing import Any, Dict, List, Optional, Tuple

from heartgate.adapters.base import AdapterError

RTMGRP_LINK = 1
IFF_UP = 0x1
IFF_LOWER_UP = 0x10000
SWITCH = {"up": True, "dormant": True, "down": False, "lowerlayerdown": False, "notpresent": False}

Change = Tuple[str, Optional[bool]]


def carrier_of(message: Any) -> Optional[bool]:
    """Carrier that an RTM_NEWLINK tells: its IFLA_CARRIER, else the operational state, else the flags. None when it
    says nothing."""
    attributes = attributes_of(message)
    carrier = attributes.get("IFLA_CARRIER")
    flags = _get(message, "flags")
    if isinstance(flags, int) and not flags & IFF_UP:
        return False  # switched off: nothing can be sent, whatever the cable says
    if isinstance(carrier, int):
        return carrier != 0
    state = attributes.get("IFLA_OPERSTATE")
    if isinstance(state, str) and state.lower() in SWITCH:
        return SWITCH[state.lower()]
    return bool(flags & IFF_LOWER_UP) if isinstance(flags, int) else None


def name_of(message: Any) -> Optional[str]:
    name = attributes_of(message).get("IFLA_IFNAME")
    return name if isinstance(name, str) else None


def _get(message: Any, key: str) -> Any:
    try:
        return message[key]
    except (KeyError, TypeError, IndexError):
        return None


def attributes_of(message: Any) -> Dict[str, Any]:
    """pyroute2's attrs: a list of pairs (0.5 to 0.9 alike; a pair may have a third item)."""
    attributes = _get(message, "attrs")
    found: Dict[str, Any] = {}
    for item in attributes if isinstance(attributes, (list, tuple)) else ():
        with contextlib.suppress(TypeError, IndexError, KeyError):
            found[item[0]] = item[1]
    return found


class CarrierWatch:
    """Carrier of every interface of this network namespace. The first read() tells all of them. Raises AdapterError."""

    def __init__(self) -> None:
        try:
            from pyroute2 import IPRoute
        except ImportError as error:
            raise AdapterError(f"pyroute2: {error}") from error
        self._new = IPRoute
        self._names: Dict[int, str] = {}
        self._known: Dict[str, Optional[bool]] = {}
        self._around: Dict[str, Tuple[Any, ...]] = {}
        self._epoll = select.epoll()
        self._route: Any = None
        self._resync = True
        self._open()

    def fileno(self) -> int:
        """Stays the same until close()."""
        return self._epoll.fileno()

    def read(self) -> List[Change]:
        """(interface, carrier) for each change: True, False, or None (gone, or not known). Also told when the carrier is the
        same, but the interface became a port of another, or its MTU changed. Never blocks for long (a full dump takes about a
        millisecond). Raises AdapterError."""
        changes: List[Change] = []
        try:
            self._take_in(changes)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise AdapterError(f"rtnetlink: {error}") from error
            self._resync = True
        if self._resync:
            changes += self._dump()
        return changes

    def close(self) -> None:
        self._shut()
        self._epoll.close()

    def _open(self) -> None:
        self._shut()
        try:
            self._route = self._new()
            self._route.bind(groups=RTMGRP_LINK)
        except OSError as error:
            raise AdapterError(f"rtnetlink: {error}") from error
        self._epoll.register(self._route.fileno(), select.EPOLLIN)

    def _shut(self) -> None:
        if self._route is not None:
            with contextlib.suppress(OSError, ValueError, KeyError):
                self._epoll.unregister(self._route.fileno())
            with contextlib.suppress(OSError):
                self._route.close()
            self._route = None

    def _take_in(self, changes: List[Change]) -> None:
        while self._epoll.poll(0):
            for message in self._route.get():
                changes += self._fold(message)

    def _dump(self) -> List[Change]:
        """Read everything anew, on a fresh socket: after an overflow nothing on the old one can be trusted."""
        self._open()
        try:
            messages = list(self._route.get_links())
        except Exception as error:  # pyroute2's own NetlinkError is not the same class in all versions
            raise AdapterError(f"rtnetlink dump: {error}") from error
        self._resync = False
        changes: List[Change] = []
        self._names.clear()
        for message in messages:
            changes += self._fold(message)
        present = set(self._names.values())
        for name in [name for name in self._known if name not in present]:
            self._forget(name)
            changes.append((name, None))
        return changes

    def _fold(self, message: Any) -> List[Change]:
        event, index, name = _get(message, "event"), _get(message, "index"), name_of(message)
        if name is None or not isinstance(index, int) or event not in ("RTM_NEWLINK", "RTM_DELLINK"):
            return []
        changes: List[Change] = []
        earlier = self._names.get(index)
        if event == "RTM_DELLINK":
            # Also sent when a port leaves its bridge: that one has the bridge's family and leaves the interface in
            # place.
            return self._gone(index) if not _get(message, "family") else []
        if earlier is not None and earlier != name:
            changes += self._gone(index)
        self._names[index] = name
        carrier = carrier_of(message)
        attributes = attributes_of(message)
        around = tuple(attributes.get(key) for key in ("IFLA_MASTER", "IFLA_LINK", "IFLA_MTU"))
        if _get(message, "family"):  # about the port of a bridge: it leaves things out
            around = self._around.get(name, around)
        if name not in self._known or self._known[name] != carrier or self._around.get(name) != around:
            self._known[name], self._around[name] = carrier, around
            changes.append((name, carrier))
        return changes

    def _gone(self, index: int) -> List[Change]:
        name = self._names.pop(index, None)
        if name is None or name not in self._known:
            return []
        self._forget(name)
        return [(name, None)]

    def _forget(self, name: str) -> None:
        del self._known[name]
        self._around.pop(name, None)
