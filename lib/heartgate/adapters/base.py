"""What the daemon expects of its adapters: a carrier, replication drivers, a cluster.

The daemon has one loop thread. Everything that has a file descriptor is read there, without blocking. Everything that
may take time (`drbdadm`, `fuser`, `stonith_admin`, flushes) is a plain blocking method, which the daemon calls in a
worker thread with a deadline, and whose outcome comes back through the mailbox.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Mapping, Optional, Protocol, Sequence, Tuple

from heartgate.core.model import Replica


class AdapterError(Exception):
    """Something outside did not work: says what was tried, and what came back."""


class CarrierLost(AdapterError):
    """The carrier's service went away (Corosync ended): facts about peers are unknown until it is joined anew."""


class CarrierBusy(AdapterError):
    """Flow control: try the same message again soon."""


@dataclass(frozen=True)
class Delivery:
    """One message in the carrier's total order."""

    node: str
    payload: bytes


@dataclass(frozen=True)
class View:
    """Who can be heard now. reachable: nodes with a daemon in the group; online: Corosync's members; quorate: None if
    unknown."""

    reachable: Tuple[str, ...]
    online: Tuple[str, ...]
    quorate: Optional[bool]


class Carrier(Protocol):
    """Carries messages between daemons. Membership changes arrive in the same order as messages."""

    def fileno(self) -> int: ...
    def send(self, payload: bytes) -> None:
        """Raises CarrierBusy or CarrierLost."""

    def dispatch(self) -> Sequence[Delivery | View]:
        """Everything that has arrived, in order; never blocks. Raises CarrierLost."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a device's set-up. code: stable word; remedy: what to do, possibly lines to add."""

    code: str
    message: str
    remedy: str


@dataclass(frozen=True)
class Outcome:
    """Result of one driver operation. how: frozen, outdated, absent, ... or the reason of the failure, for the
    journal. manual: of a fencing, that a person vouched for it."""

    ok: bool
    how: str
    manual: bool = False


NOT_THAT = "no longer that connection"  # a drop that came too late: what is connected now is another connection

NOT_WANTED = "not wanted any more"  # an order that waited until it was stale


def always() -> bool:
    return True


class Driver(Protocol):
    """Replication of one device. All methods but `name` block and are called in a worker thread, one at a time a
    device."""

    name: str  # resource name, as in the configuration of the replication

    def check(self, nodes: Sequence[str]) -> Sequence[Problem]:
        """What is wrong with the set-up (fencing policy, handlers, protocol, device); nodes: names that hold a
        replica."""

    def block(self, replica: Replica, deadline_s: float) -> Outcome:
        """Make the local replica refuse. ok only when it is certain: Secondary (then outdated too, where the kernel
        lets us), frozen Primary, or not configured. Drops the connection first if the replica is Primary and still
        connected."""

    def holds(self, deadline_s: float) -> Outcome:
        """Whether a block holds already, by a look that changes nothing and may be taken beside another operation; not ok where
        only `block` itself can tell."""

    def release(self, replica: Replica, deadline_s: float, wanted: Callable[[], bool] = always) -> Outcome:
        """Blocked, Primary and frozen: end the users (SIGKILL) before I/O is made to fail, never the other way round; and at no
        moment let a write be completed. `wanted` is asked before each step that cannot be taken back."""

    def enforce_blocked(self, replica: Replica, deadline_s: float) -> Outcome:
        """Called while blocked whenever facts change: re-attach after a release and a demotion, outdate when
        unconnected and Secondary, connect when StandAlone. Idempotent; does nothing where nothing is to be done."""

    def unblock(self, replica: Replica, deadline_s: float) -> Outcome:
        """Lift a persistent `outdated` of a copy that was chosen to serve."""

    def drop(self, peer: str, deadline_s: float, wanted: Callable[[], bool] = always) -> Outcome:
        """Break the replication connection to peer so that the kernel notices at once; it may reconnect by itself. `wanted` is
        asked right before the cut: by then the connection that was meant may be gone, and another one there."""

    def rehandle(self, replica: Replica, deadline_s: float) -> Outcome:
        """Frozen with no handler waiting: make the kernel call the fence-peer handler again."""

    def out_of_sync(self, deadline_s: float) -> Mapping[str, int]:
        """Bytes that this replica knows each peer's to lack; a peer of which that is not known is left out. What a peer has
        and this one lacks cannot be known here. Raises AdapterError."""


class Source(Protocol):
    """Facts of all devices of one kind of replication. One for all devices, since a process for each would cost too
    much.

    Each kind has an `add(resource, ...)`, which makes the device known (and told about even if its replication has
    never heard of it), and a `discard(resource)`."""

    def fileno(self) -> int:
        """Changes when the source restarts: ask again after every read()."""

    def read(self) -> Mapping[str, Replica]:
        """Changed devices since the last call; UNKNOWN_REPLICA for every known device when the source died (it restarts
        by itself with a growing pause, and then tells everything anew). Never blocks."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class FenceSeen:
    """A fencing in Pacemaker's history. key: identity of the history entry, so that old ones can be told from new
    ones. completed_s: when it ended, by the wall clock (UTC, since 1970); None if that cannot be read. request: what was
    asked for and by whom, the same before and after its end; several may agree in it."""

    node: str
    key: str
    done: bool
    ok: bool
    manual: bool
    completed_s: Optional[float] = None
    request: str = ""


class Cluster(Protocol):
    """Pacemaker, through its commands. All methods block; worker threads only."""

    def publish(self, device: str, value: str, deadline_s: float) -> Outcome:
        """Set the transient node attribute heartgate-DEVICE of this node."""

    def withdraw(self, device: str, deadline_s: float) -> Outcome: ...
    def tell(self, name: str, value: Optional[str], dampen_ms: int, deadline_s: float) -> Outcome:
        """Set any transient attribute of this node (None: take it away). dampen_ms: how long Pacemaker waits for further
        changes before it acts on it."""

    def fence(self, node: str, deadline_s: float) -> Outcome:
        """stonith_admin --fence (off or reboot by the cluster's own setting); ok only when completed."""

    def fence_history(self, deadline_s: float) -> Sequence[FenceSeen]:
        """Raises AdapterError when it cannot be read: no history is not an empty history."""


Notify = Callable[[], None]
