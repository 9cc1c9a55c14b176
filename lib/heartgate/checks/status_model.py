"""What `heartgate status` decides by, and what it says: frozen facts in, a report out. Nothing here looks at anything.

A fact that could not be had is a `Missing` with the reason, and never a value that could be taken for a good one. Times are
milliseconds of the wall clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Mapping, Optional, Tuple, Union

if TYPE_CHECKING:  # scripts ask all day: what is not needed is not loaded
    from heartgate.checks.crm_mon import Pacemaker
    from heartgate.checks.heartbeats import Heartbeat
    from heartgate.checks.lint_facts import LintFacts

SERVING = frozenset({"synced", "solo"})


class Health(str, Enum):
    """Worst first. A reason has one of these too (never `protected`)."""

    AT_RISK = "at-risk"  # a failover would not work now, or nobody serves
    UNKNOWN = "unknown"  # whether it would work could not be found out
    DEGRADED = "degraded"  # it would work; something that protects it is lost or not as it should be
    PROTECTED = "protected"  # everything was looked at, and nothing was found

    def __repr__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Missing:
    """A source that told nothing. down: it is known not to run (else it may run and was not to be understood).
    refused: this user may not ask it. asked: False where the person did not want it to be."""

    why: str
    down: bool = False
    refused: bool = False
    asked: bool = True


# --- what heartgated says


@dataclass(frozen=True)
class PeerWord:
    """What another node said last and can still be heard to say."""

    standing: str
    epoch: int
    disk: str
    role: str


@dataclass(frozen=True)
class SyncLink:
    """The replication connection to one node, seen from here: up, down or unknown."""

    link: str
    peer_disk: str


@dataclass(frozen=True)
class Proof:
    node: str
    kind: str
    epoch: int


@dataclass(frozen=True)
class Flush:
    """results: (target, ok, how)."""

    at_ms: int
    results: Tuple[Tuple[str, bool, str], ...]


@dataclass(frozen=True)
class Live:
    """What only a running daemon knows of a device. lacks: bytes that each peer is known to lack, None where that is not known
    (lacks_unknown: why). frozen: None if not known."""

    active: bool
    driver: str
    policy: str
    on_isolation: str
    bias_wanted: str
    bias_agreed: str
    role: str
    disk: str
    frozen: Optional[bool]
    links: Mapping[str, SyncLink]
    peers: Mapping[str, PeerWord]
    waits: str = ""
    ends_wait: str = ""
    persist_failure: str = ""
    broken: Tuple[str, ...] = ()
    handlers: int = 0
    lacks: Mapping[str, Optional[int]] = field(default_factory=dict)
    lacks_unknown: str = ""
    interfaces: Mapping[str, Optional[bool]] = field(default_factory=dict)


@dataclass(frozen=True)
class Device:
    """One guarded device on this node. live: None without a daemon. error: why its record cannot be used. since_ms: when this
    node came into its standing and epoch; None if that was not recorded."""

    name: str
    standing: str
    shown: str
    epoch: int = 0
    in_sync: Tuple[str, ...] = ()
    proofs: Tuple[Proof, ...] = ()
    promised_to: str = ""
    since_ms: Optional[int] = None
    flush: Optional[Flush] = None
    error: str = ""
    priorities: Mapping[str, int] = field(default_factory=dict)
    live: Optional[Live] = None

    @property
    def nodes(self) -> Tuple[str, ...]:
        """Everybody who holds a replica, as far as that is known, highest priority first."""
        ordered = sorted(self.priorities, key=lambda node: (self.priorities[node], node))
        return tuple(ordered) or self.in_sync


@dataclass(frozen=True)
class Interface:
    """A heartbeat interface that heartbeat-link watches. state: up, lost, gone or unknown."""

    resource: str
    interface: str
    state: str
    message: str


@dataclass(frozen=True)
class Daemon:
    """reachable: nodes whose heartgated is heard; online: Corosync's members; beats_ms: since the last sign of life of each."""

    node: str
    version: str
    carrier: bool
    reachable: Tuple[str, ...]
    online: Tuple[str, ...]
    quorate: Optional[bool]
    beats_ms: Mapping[str, int]
    hung: int
    interfaces: Tuple[Interface, ...] = ()
    name_trouble: Tuple[str, str] = ("", "")  # what is wrong with the name that Corosync has for this node; what to do


@dataclass(frozen=True)
class StatusFacts:
    """devices: from the daemon, else from the records on the disk (`records`: why not even those). heartbeats: the links to every
    other node; configured: those that corosync.conf names, where Corosync does not tell. config: the CIB and DRBD's
    configuration; `config.unreadable` says what of it could not be had."""

    node: str
    at_ms: int
    daemon: Union[Daemon, Missing]
    devices: Tuple[Device, ...]
    pacemaker: Union[Pacemaker, Missing]
    heartbeats: Union[Tuple[Heartbeat, ...], Missing]
    config: Union[LintFacts, Missing]
    configured: Tuple[Heartbeat, ...] = ()
    records: Optional[Missing] = None
    only: str = ""  # the device that was asked for


# --- what is said


@dataclass(frozen=True)
class Reason:
    """Why the health is what it is. ident: a line of REASONS. subject: a device, a node, a resource, or ""."""

    ident: str
    level: Health
    subject: str
    evidence: str
    remedy: str


class Served(str, Enum):
    """Who serves a device."""

    SERVED = "served"  # a node has it Promoted (Primary) and may serve
    READY = "ready"  # nobody has it Promoted; somebody may
    FROZEN = "frozen"  # it is Promoted somewhere, and its I/O stands still
    NOBODY = "nobody"  # no replica may serve
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Serving:
    """nodes: who serves, or may. words: the whole as a sentence."""

    device: str
    state: Served
    nodes: Tuple[str, ...]
    words: str


@dataclass(frozen=True)
class Replica:
    """A row: one device on one node. source: "here", "heard", "written" (on the disk here, no daemon) or "not heard".
    sync: the replication link from this node to that one. lacks_bytes: what it is known to lack of the copy here."""

    node: str
    source: str
    standing: str = "unknown"
    epoch: Optional[int] = None
    since_ms: Optional[int] = None
    priority: Optional[int] = None
    role: str = "unknown"
    disk: str = "unknown"
    sync: str = ""
    lacks_bytes: Optional[int] = None


@dataclass(frozen=True)
class DeviceRow:
    device: Device
    replicas: Tuple[Replica, ...]


@dataclass(frozen=True)
class Unknown:
    """A source that told nothing, why, and what therefore is not known."""

    source: str
    why: str
    hides: str


@dataclass(frozen=True)
class Report:
    node: str
    at_ms: int
    health: Health
    reasons: Tuple[Reason, ...]
    serving: Tuple[Serving, ...]
    devices: Tuple[DeviceRow, ...]
    heartbeats: Tuple[Heartbeat, ...]
    unknown: Tuple[Unknown, ...]
    facts: StatusFacts
