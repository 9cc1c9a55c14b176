"""Pacemaker through its commands. Tried with 2.1.5; the history's XML is the same in 3.0.

Commands and not libraries: their output is a documented interface, and a hanging Pacemaker hangs a child that can be
killed.
"""

from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from datetime import datetime, timedelta, timezone
from typing import List, Optional, Sequence

from heartgate.adapters.base import AdapterError, FenceSeen, Outcome
from heartgate.adapters.process import Completed, run

# A history entry counts as a fencing only with one of these: `on` is the opposite.
CUTTING = frozenset({"off", "reboot", "poweroff"})
# Pacemaker's own word for `stonith_admin --confirm` (lib/fencing and daemons/fenced: op->delegate).
HUMAN = "a human"
REQUEST = ("target", "action", "client", "origin")  # what an entry has from its beginning to its end
GRACE_S = 2.0  # what stonith_admin gets to come back after its own timeout
LOOK_S = 2.0  # for the look at how a fencing was completed
UTC = {"TZ": "UTC"}  # stonith_admin writes local time; whatever the zone is set to, an entry is to look the same
# "2026-11-21 13:33:20Z", "2026-11-21 14:33:20 +01:00"; how it is written has changed between versions.
_COMPLETED = re.compile(
    r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?\s*(Z|[+-]\d\d:?\d\d)?\Z", re.ASCII | re.IGNORECASE
)
# Some versions of pacemaker-fenced note the time since the boot, which shows as a day in 1970.
EARLIEST = datetime(2000, 1, 1, tzinfo=timezone.utc)


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
        deadline = time.monotonic() + deadline_s
        option = "--fence" if self._stonith_action() in ("off", "poweroff") else "--reboot"
        inner = max(1, int(deadline_s - GRACE_S))
        done = run(["stonith_admin", option, node, "--timeout", str(inner)], timeout_s=deadline_s)
        if done.ok and self._vouched_for(node, min(LOOK_S, deadline - time.monotonic())):
            return Outcome(True, "confirmed by a person", manual=True)
        return _outcome(done, f"fenced ({option[2:]})")

    def _vouched_for(self, node: str, deadline_s: float) -> bool:
        """Whether the newest end of a fencing of that node is `stonith_admin --confirm`: it completes one that is under way. Tells
        only what the proof is called, so what cannot be known changes nothing."""
        if deadline_s <= 0:
            return False
        try:
            history = self.fence_history(deadline_s)
        except AdapterError:
            return False
        newest = next((seen for seen in history if seen.node == node and seen.done), None)
        return newest is not None and newest.ok and newest.manual

    def fence_history(self, deadline_s: float) -> Sequence[FenceSeen]:
        """--verbose: without it Pacemaker 2.1 lists one entry alone, and not the newest (seen with 2.1.5)."""
        done = run(["stonith_admin", "--history", "*", "--verbose", "--output-as=xml"], timeout_s=deadline_s, env=UTC)
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
    """XML of `stonith_admin --history '*' --verbose --output-as=xml`, in its own order. Raises AdapterError.

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
        completed = completed_at(event.get("completed", ""))
        key = _key(event, completed)
        seen[key] += 1
        entry = FenceSeen(
            node=target,
            key=f"{key} #{seen[key]}",
            done=status in ("success", "failed"),
            ok=status == "success",
            manual=event.get("delegate") == HUMAN,
            completed_s=completed.timestamp() if completed else None,
            request=" ".join(event.get(part, "-") for part in REQUEST),
        )
        entries.append(entry)
    return entries[::-1]


def _key(event: ElementTree.Element, completed: Optional[datetime]) -> str:
    values = {part: event.get(part, "-") for part in (*REQUEST, "delegate", "completed", "status")}
    if completed:
        values["completed"] = completed.isoformat()
    return " ".join(values.values())


def completed_at(text: str) -> Optional[datetime]:
    """In UTC, which is also what it is without an offset; None if it is no such time."""
    match = _COMPLETED.match(text.strip())
    if not match:
        return None
    day, clock, fraction, offset = match.groups()
    try:
        found = datetime.strptime(f"{day} {clock}", "%Y-%m-%d %H:%M:%S").replace(tzinfo=timezone.utc)
        found += timedelta(microseconds=int((fraction or "0").ljust(6, "0")[:6])) - _offset(offset or "Z")
    except (OverflowError, ValueError):
        return None
    return found if found >= EARLIEST else None


def _offset(text: str) -> timedelta:
    if text in ("Z", "z"):
        return timedelta()
    size = timedelta(hours=int(text[1:3]), minutes=int(text[-2:]))
    return -size if text.startswith("-") else size
