"""Carrier of the interfaces named in sync_interfaces: when the last of them is lost, so is the replication.

DRBD itself learns of a pulled cable only when its own time limits have passed (seconds). Its kernel is told by dropping the
connection: it freezes at once, and connects again by itself when the cable is back. That saves time and decides nothing;
an interface that is not there, or whose carrier is not known, is not one without carrier.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Callable, Dict, List, Optional

from heartgate.adapters.base import AdapterError
from heartgate.core.model import Link
from heartgate.daemon.guard import Guard
from heartgate.daemon.loop import Timer
from heartgate.daemon.services import LinkWatch, Services

SETTLE_S = 0.2  # TCP survives a shorter loss, and a new connection costs a pause
REOPEN_S = 5.0


class Links:
    """Loop thread only."""

    def __init__(self, services: Services, guards: Callable[[], Iterable[Guard]]) -> None:
        self.carriers: Dict[str, Optional[bool]] = {}
        self.told = False  # every interface that is there is in `carriers`
        self.listeners: List[Callable[[], None]] = []  # called after every change, and when all became unknown
        self._services = services
        self._guards = guards
        self._watch: Optional[LinkWatch] = None
        self._timer: Optional[Timer] = None

    def start(self) -> None:
        try:
            self._watch = self._services.world.link_watch()
            self._services.loop.watch(self._watch.fileno(), lambda _: self._read())
        except AdapterError as error:
            self._lost(error)
            return
        self._read()

    def close(self) -> None:
        if self._watch is not None:
            self._services.loop.forget(self._watch.fileno())
            self._watch.close()
            self._watch = None

    def of(self, guard: Guard) -> Dict[str, Optional[bool]]:
        """Of the interfaces that carry this device's replication. None: not there, or not known."""
        return {name: self.carriers.get(name) for name in guard.params.sync_interfaces}

    def _lost(self, error: Exception) -> None:
        self.close()
        self.carriers.clear()
        self.told = False
        self._services.journal.send("source-lost", f"carrier of the interfaces is unknown: {error}")
        self._services.loop.after(REOPEN_S, self.start)
        self._tell()

    def _read(self) -> None:
        if self._watch is None:
            return
        try:
            changes = self._watch.read()
        except AdapterError as error:
            self._lost(error)
            return
        for name, carrier in changes:
            self._note(name, carrier)
            self.carriers[name] = carrier
        self.told = True
        if any(carrier is False for _, carrier in changes) and self._timer is None:
            self._timer = self._services.loop.after(SETTLE_S, self._settled)
        if changes:
            self._tell()

    def _tell(self) -> None:
        for listener in self.listeners:
            listener()

    def _note(self, name: str, carrier: Optional[bool]) -> None:
        devices = [guard.device for guard in self._guards() if name in guard.params.sync_interfaces]
        if devices and self.carriers.get(name) != carrier:
            word = {True: "has carrier", False: "has lost its carrier", None: "is gone"}[carrier]
            text = f"{' '.join(devices)}: {name}, which carries replication, {word}"
            self._services.journal.send("sync-link", text, device=devices[0], interface=name, up=carrier)

    def _settled(self) -> None:
        self._timer = None
        for guard in self._guards():
            carriers = self.of(guard).values()
            if carriers and all(carrier is False for carrier in carriers):
                self._drop_all(guard)

    def _drop_all(self, guard: Guard) -> None:
        for peer, link in guard.state.replica.peers:
            if link.link is Link.UP:
                guard.operations.drop(peer, link.incarnation)
