"""What each peer said last and when it was last heard, kept on the disk: a person who decides alone asks for it."""

from __future__ import annotations

import time
from typing import Any, Dict, Iterable, Union

from heartgate.core.model import Message
from heartgate.daemon.services import Services

NOTE = "contacts"
EVERY_MS = 60_000  # what is on the disk is at most this much older than the last message heard
WRITE_S = 10.0

Data = Dict[str, Any]


class Contacts:
    """One device's. Loop thread only. Losing them loses no safety, so nothing waits for them."""

    def __init__(self, services: Services, device: str) -> None:
        self._services, self._device = services, device
        found = services.store.load_note(device, NOTE)
        self._last: Dict[str, Data] = {n: d for n, d in found.items() if isinstance(d, dict)} if isinstance(found, dict) else {}
        self._written_ms: Dict[str, int] = {}
        self._at_s: Dict[str, float] = {}  # monotonic time of its last message about this device

    def heard(self, message: Message) -> None:
        now = _now_ms()
        self._at_s[message.sender] = time.monotonic()
        said = {
            "standing": message.standing.value,
            "epoch": message.epoch,
            "disk": message.disk.value,
            "generation": message.generation,
        }
        before = self._last.get(message.sender, {})
        self._last[message.sender] = {"at": now, **said}
        news = any(before.get(name) != value for name, value in said.items())
        if news or now - self._written_ms.get(message.sender, 0) >= EVERY_MS:
            self._write(message.sender)

    def still_there(self, node: str) -> None:
        """It repeats what it said last."""
        self._at_s[node] = time.monotonic()
        if node in self._last:
            self._last[node]["at"] = _now_ms()
            if self._last[node]["at"] - self._written_ms.get(node, 0) >= EVERY_MS:
                self._write(node)

    def gone(self, nodes: Iterable[str]) -> None:
        """They cannot be heard any more: the time of their last message is kept."""
        for node in nodes:
            if node in self._last:
                self._write(node)

    def silent_s(self, node: str) -> float:
        """How long it has said nothing about this device: a daemon that has forgotten the device goes on with its others."""
        return time.monotonic() - self._at_s.get(node, float("-inf"))

    def last(self) -> Dict[str, Data]:
        return {node: dict(data) for node, data in self._last.items()}

    def _write(self, node: str) -> None:
        self._written_ms[node] = _now_ms()
        body, device, store = self.last(), self._device, self._services.store
        self._services.workers.submit(
            f"contacts:{device}", lambda: store.save_note(device, NOTE, body), self._written, WRITE_S
        )

    def _written(self, result: Union[None, Exception]) -> None:
        if result is not None:
            self._services.journal.send(
                "action-failed", f"{self._device}: cannot note who was heard: {result}", device=self._device, action="contacts"
            )


def _now_ms() -> int:
    return int(time.time() * 1000)
