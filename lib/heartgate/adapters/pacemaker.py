"""Pacemaker through its commands. Tried with 2.1.5; the history's XML is the same in 3.0.

Commands and not libraries: their output is a documented interface, and a hanging Pacemaker hangs a child that can be
killed.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import Counter
from typing import List, Optional, Sequence

from heartgate.adapters.base import AdapterError, FenceSeen, Outcome
from heartgate.adapters.process import Completed, run

# A history entry counts as a fencing only with one of these: `on` is the opposite.
CUTTING = frozenset({"off", "reboot", "poweroff"})
# Pacemaker's own word for `stonith_admin --confirm` (lib/fencing and daemons/fenced: op->delegate).
HUMAN = "a human"
GRACE_S = 2.0  # what stonith_admin gets to come back after its own timeout


class PacemakerCluster:
    """Cluster. me: this node's name, as Pacemaker has it."""

    def __init__(self, me: str) -> None:
        self._me = me

    def publish(self, device: str, value: str, deadline_s: float) -> Outcome:
        argv = ["attrd_updater", "--name", attribute(device), "--update", value, "--delay", "0"]
        return _outcome(run(argv, timeout_s=deadline_s), value)

    def withdraw(self, device: str, deadline_s: float) -> Outcome:
        return _outcome(
            run(["attrd_updater", "--name", attribute(device), "--delete"], timeout_s=deadline_s), "withdrawn"
        )

    def tell(self, name: str, value: Optional[str], dampen_ms: int, deadline_s: float) -> Outcome:
        """update-both: Pacemaker keeps the dampening of an attribute that is there already otherwise."""
        argv = ["attrd_updater", "--name", name, "--update-both", value or "", "--delay", f"{dampen_ms}ms"]
        if value is None:
            argv = ["attrd_updater", "--name", name, "--delete"]
        return _outcome(run(argv, timeout_s=deadline_s), "withdrawn" if value is None else value)

    def fence(self, node: str, deadline_s: float) -> Outcome:
        """Off or reboot, by the cluster option stonith-action. ok only when the cluster says that it was completed."""
        option = "--fence" if self._stonith_action() in ("off", "poweroff") else "--reboot"
        inner = max(1, int(deadline_s - GRACE_S))
        done = run(["stonith_admin", option, node, "--timeout", str(inner)], timeout_s=deadline_s)
        return _outcome(done, f"fenced ({option[2:]})")

    def fence_history(self, deadline_s: float) -> Sequence[FenceSeen]:
        done = run(["stonith_admin", "--history", "*", "--output-as=xml"], timeout_s=deadline_s)
        if not done.ok:
            raise AdapterError(f"stonith_admin --history: {done.brief()}")
        return parse_history(done.stdout)

    @staticmethod
    def _stonith_action() -> str:
        argv = ["crm_attribute", "--type", "crm_config", "--name", "stonith-action", "--query", "--quiet"]
        done = run(argv, timeout_s=GRACE_S)
        return done.stdout.strip() if done.ok else "reboot"  # Pacemaker's default


def attribute(device: str) -> str:
    """Name of the transient node attribute that tells a device's standing."""
    return f"heartgate-{device}"


def _outcome(done: Completed, how: str) -> Outcome:
    return Outcome(True, how) if done.ok else Outcome(False, done.brief())


def parse_history(text: str) -> List[FenceSeen]:
    """XML of `stonith_admin --history '*' --output-as=xml`, in its own order. Raises AdapterError.

    Only a `status` of "success" is ok; a word that is not known is neither done nor ok. Two entries that agree in
    everything get numbers, counted from the oldest as far as the order allows (the list starts with the newest).
    """
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise AdapterError(f"stonith_admin --history: unreadable XML ({error})") from error
    if root.tag not in ("pacemaker-result", "fence_history"):
        raise AdapterError(f"stonith_admin --history: unexpected element <{root.tag}>")
    seen: Counter[str] = Counter()
    entries: List[FenceSeen] = []
    for event in reversed(list(root.iter("fence_event"))):
        target, action = event.get("target", ""), event.get("action", "")
        if not target or action not in CUTTING:
            continue
        status = event.get("status", "")
        key = _key(event)
        seen[key] += 1
        entry = FenceSeen(
            node=target,
            key=f"{key} #{seen[key]}",
            done=status in ("success", "failed"),
            ok=status == "success",
            manual=event.get("delegate") == HUMAN,
        )
        entries.append(entry)
    return entries[::-1]


def _key(event: ElementTree.Element) -> str:
    parts = ("target", "action", "client", "origin", "delegate", "completed", "status")
    return " ".join(event.get(part, "-") for part in parts)
