"""What is known of one DRBD resource at one moment, from the dump of `drbdsetup events2 --now`; and what every command of the
driver needs: a deadline, and a word for what went wrong."""

from __future__ import annotations

import time
from typing import Dict, Mapping, NamedTuple, Optional, Protocol, Sequence, Tuple

from heartgate.adapters import drbd_events
from heartgate.adapters.base import AdapterError
from heartgate.adapters.process import Completed
from heartgate.core.model import Disk, Link, Role

COMMAND_S = 10.0  # the most that one command gets, seconds


class Runner(Protocol):
    def __call__(self, argv: Sequence[str], *, timeout_s: float) -> Completed: ...


class Failed(AdapterError):
    """A step did not work; the operation ends with this reason."""


class Clock:
    """A deadline, and pauses that respect it."""

    def __init__(self, deadline_s: float) -> None:
        self._end = time.monotonic() + deadline_s

    def left(self, most_s: float = COMMAND_S) -> float:
        """What a command may take. Raises Failed when there is nothing left."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise Failed("deadline passed")
        return min(left, most_s)

    def passed(self) -> bool:
        return time.monotonic() >= self._end


class Facts(NamedTuple):
    """What the kernel says at one moment. Connections by DRBD's own names: no configuration has to be read for a
    look."""

    disk: Disk
    role: Role
    suspended: Optional[bool]
    disks: Tuple[Tuple[int, str], ...]  # (minor, DRBD's own word); `disk` is the worst one
    links: Mapping[Tuple[str, str], Link]  # by (peer-node-id, conn-name)
    words: Tuple[str, ...]  # DRBD's words for its connections

    @property
    def minors(self) -> Tuple[int, ...]:
        return tuple(minor for minor, _ in self.disks)

    def every_disk_is(self, *words: str) -> bool:
        return bool(self.disks) and all(word in words for _, word in self.disks)

    @property
    def diskless(self) -> bool:
        """No volume has a disk any more. Failed, Detaching and Attaching still count as one in the kernel."""
        return self.every_disk_is("Diskless")

    @property
    def connected(self) -> bool:
        """False only when every connection is certainly not there."""
        return any(link is not Link.DOWN for link in self.links.values())

    @property
    def frozen(self) -> bool:
        return self.suspended is True

    @property
    def alone_and_frozen(self) -> bool:
        """The only state in which anything may be released."""
        return self.role is Role.PRIMARY and self.frozen and not self.connected

    @property
    def held(self) -> str:
        """How an unconnected Primary, or what is not there, is kept from completing a write; "" where it is not, or not for sure.
        Diskless and thawed has nothing to complete a write on until somebody attaches or connects it."""
        if self.disk is Disk.ABSENT:
            return "absent"
        if self.role is not Role.PRIMARY or self.connected:
            return ""
        return "frozen" if self.frozen else "diskless" if self.diskless else ""


def facts_of(resource: Optional[drbd_events.Resource]) -> Facts:
    """None: the kernel does not have the resource."""
    if resource is None:
        return Facts(Disk.ABSENT, Role.SECONDARY, False, (), {}, ())
    return Facts(
        disk=resource.disk(),
        role=drbd_events.ROLES.get(resource.role or "", Role.UNKNOWN),
        suspended=drbd_events.frozen_of(resource.suspended),
        disks=tuple(sorted(resource.disks())),
        links={connection: resource.peer_link(connection)[0] for connection in resource.connections},
        words=tuple(resource.connections.values()),
    )


def out_of_sync(text: str, others: Tuple[str, ...]) -> Dict[str, int]:
    """Bytes by peer, over all volumes, from `drbdsetup events2 --now --statistics` (which counts in KiB). Raises Failed."""
    found: Dict[str, int] = {}
    for line in text.splitlines():
        words = dict(word.split(":", 1) for word in line.split()[2:] if ":" in word)
        if " peer-device " not in line or "out-of-sync" not in words:
            continue
        peer = drbd_events.peer_name((words.get("peer-node-id", ""), words.get("conn-name", "")), {}, others)
        if not words["out-of-sync"].isdecimal():
            raise Failed(f"drbdsetup events2: unreadable: {line!r:.200}")
        if peer is not None:
            found[peer] = found.get(peer, 0) + int(words["out-of-sync"]) * 1024
    return found
