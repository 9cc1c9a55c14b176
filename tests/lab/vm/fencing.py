"""The lab's power controller: what `fence_lab` in the machines talks to, and the faults a test can give it."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from typing import List, Mapping, Optional, Set

from tests.lab.api import LabError
from tests.lab.vm.machine import Machine

POWER_ACTIONS = ("off", "on", "reboot")
STATUS_OFF = 2


@dataclass
class Fencing:
    """One power action asked for by a node. Times: host CLOCK_MONOTONIC; no `done_at` while it runs or if ignored."""

    asked_at: float
    by: str
    action: str
    target: str
    done_at: Optional[float] = None
    ok: bool = False
    detail: str = ""


@dataclass
class FenceFaults:
    """What is wrong with the power controller. `unreachable_from`: these nodes get no answer and nothing happens."""

    unreachable_from: Set[str] = field(default_factory=set)
    fail: bool = False
    delay_s: float = 0.0


class PowerController:
    def __init__(self, nodes: Mapping[str, Machine]) -> None:
        self.fencings: List[Fencing] = []
        self.faults = FenceFaults()
        self._nodes = nodes
        self._acting = threading.Lock()
        for node in nodes.values():
            node.on_fence_request = self.request

    def request(self, by: str, line: bytes) -> None:
        """A line from a machine: ID ACTION TARGET. Answered from a thread of its own, since actions may be slow."""
        words = line.decode(errors="replace").split()
        if len(words) == 3:
            threading.Thread(target=self._serve, args=(by, *words), name=f"lab-fence-{words[0]}", daemon=True).start()

    def _serve(self, by: str, request_id: str, action: str, target: str) -> None:
        record = Fencing(time.monotonic(), by, action, target)
        if action in POWER_ACTIONS:
            self.fencings.append(record)
        if by in self.faults.unreachable_from:
            record.detail = "unreachable"
            return
        try:
            rc, text = self._act(record)
        except LabError as error:
            rc, text = 1, str(error).replace("\n", " ")
        record.ok, record.detail = rc == 0, text
        record.done_at = time.monotonic()
        with contextlib.suppress(LabError):  # the asker itself may be gone
            self._nodes[by].answer_fence(f"{request_id} {rc} {text}".encode())

    def _act(self, record: Fencing) -> tuple[int, str]:
        if record.action in ("monitor", "list"):
            return (1, "the power controller is broken") if self.faults.fail else (0, "|".join(f"{name}," for name in self._nodes))
        node = self._nodes.get(record.target)
        if node is None:
            return 1, f"no machine {record.target!r}"
        if record.action == "status":
            return (0, "on") if node.powered() else (STATUS_OFF, "off")
        if record.action not in POWER_ACTIONS:
            return 1, f"unknown action {record.action!r}"
        if self.faults.delay_s:
            time.sleep(self.faults.delay_s)
        if self.faults.fail:
            return 1, "the power controller failed"
        with self._acting:
            if record.action == "off":
                node.power_off()
            elif record.action == "on" or not node.powered():
                node.power_on()
            else:
                node.reset(fencing=True)
        return 0, f"{record.action} done"
