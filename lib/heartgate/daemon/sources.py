"""Facts about the replicas: one source for each kind of replication that is in use."""

from __future__ import annotations

from typing import Callable, Dict, Tuple

from heartgate.core.model import UNKNOWN_REPLICA, Replica
from heartgate.daemon.services import DeviceSource, Services

REWATCH_S = 0.2


class Sources:
    """Loop thread only (a source's program ends with the thread that started it)."""

    def __init__(self, services: Services, changed: Callable[[str, Replica], None]) -> None:
        self._services = services
        self._changed = changed
        self._sources: Dict[str, DeviceSource] = {}
        self._watched: Dict[str, int] = {}
        self._devices: Dict[str, Tuple[str, str]] = {}

    def add(self, device: str, kind: str, program: str, me: str) -> None:
        """Follow a device. Raises AdapterError. Asked for again, it changes nothing."""
        if self._devices.get(device) == (kind, program):
            return
        source = self._sources.get(kind)
        if source is None:
            source = self._sources[kind] = self._services.world.source(kind, me)
        source.watch(device, program)
        self._devices[device] = (kind, program)
        self._rewatch(kind)
        self._services.loop.soon(lambda: self._read(kind))

    def discard(self, device: str) -> None:
        """Follow it no more. Added again, everything of it is told anew."""
        kind, _ = self._devices.pop(device, ("", ""))
        if kind:
            self._sources[kind].discard(device)
            self._rewatch(kind)

    def _read(self, kind: str) -> None:
        if kind not in self._sources:  # closed meanwhile
            return
        try:
            changes = dict(self._sources[kind].read())
        except Exception as error:  # noqa: BLE001 - whatever a source does, its facts are unknown then, and nothing else
            self._services.journal.send("source-lost", f"facts of driver {kind} are unknown: {error}")
            changes = {device: UNKNOWN_REPLICA for device, of in self._devices.items() if of[0] == kind}
        self._rewatch(kind)
        for device, replica in changes.items():
            self._changed(device, replica)

    def _rewatch(self, kind: str) -> None:
        """A source that was restarted has another descriptor; one that waits for its restart may have none."""
        old, new = self._watched.pop(kind, -1), self._sources[kind].fileno()
        if old not in (-1, new):
            self._services.loop.forget(old)
        if new >= 0:
            self._services.loop.watch(new, lambda _: self._read(kind))
            self._watched[kind] = new
        else:
            self._services.loop.after(REWATCH_S, lambda: self._read(kind))

    def unknown(self) -> None:
        """Something was lost: every fact is unknown until it is told anew."""
        for device in self._devices:
            self._changed(device, UNKNOWN_REPLICA)

    def close(self) -> None:
        """Also when this node has got another name: sources are made with it, and made anew when they are needed."""
        for kind, source in self._sources.items():
            self._services.loop.forget(self._watched.pop(kind, -1))
            source.close()
        self._sources.clear()
        self._devices.clear()
