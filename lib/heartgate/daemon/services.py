"""What the parts of the daemon share, and what the daemon is given from outside (`World`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Union

from heartgate.adapters.base import AdapterError, Carrier, Cluster, Driver, Source
from heartgate.daemon.loop import Loop
from heartgate.daemon.store import Store
from heartgate.daemon.workers import Workers

if TYPE_CHECKING:
    from heartgate.checks.link_report import KnetLook, Question, Report


class Journal(Protocol):
    def send(
        self, kind: str, message: str, *, device: str = "", rule: str = "", epoch: int = -1, **fields: object
    ) -> None:
        """Never raises, never blocks."""


class FlushResult(Protocol):
    @property
    def target(self) -> str: ...
    @property
    def ok(self) -> bool: ...
    @property
    def how(self) -> str: ...
    @property
    def elapsed_ms(self) -> int: ...


class FlushTarget(Protocol):
    def check(self) -> str:
        """"" or what is wrong."""

    def flush(self, device: str, deadline_s: float) -> FlushResult: ...


class NamedCarrier(Carrier, Protocol):
    local: str


class DeviceSource(Source, Protocol):
    """A source that is told which devices to follow. add() raises AdapterError."""

    def watch(self, resource: str, program: str) -> None: ...
    def discard(self, resource: str) -> None: ...


class LinkWatch(Protocol):
    """Carrier of network interfaces, as events."""

    def fileno(self) -> int: ...
    def read(self) -> Sequence[tuple[str, Union[bool, None]]]: ...
    def close(self) -> None: ...


class World(Protocol):
    """Everything outside. The real one is `heartgate.daemon.assembly`; tests have their own."""

    @property
    def journal(self) -> Journal: ...
    @property
    def boot(self) -> str:
        """This boot's id."""

    def carrier(self) -> NamedCarrier:
        """Join the group. Raises CarrierLost."""

    def local_name(self) -> str:
        """This node's name in the cluster. Raises AdapterError."""

    def node_names(self) -> Sequence[str]:
        """All nodes of the cluster, members or not. Raises AdapterError."""

    def cluster(self, me: str) -> Cluster: ...
    def source(self, kind: str, me: str) -> DeviceSource: ...
    def driver(self, kind: str, resource: str, program: str, me: str) -> Driver: ...
    def flush_target(self, spec: str) -> FlushTarget:
        """Raises ValueError."""

    def link_watch(self) -> LinkWatch: ...
    def link_report(self, question: Question) -> Report:
        """Blocks. Raises AdapterError."""

    def knet_look(self, numbers: Sequence[int]) -> KnetLook:
        """Of the links with these numbers. Blocks for as long as Corosync is stopped. Raises CarrierLost."""

    def prepare_thread(self) -> None:
        """Called first thing in every worker thread."""

    def notify(self, state: str) -> None: ...
    def watchdog_s(self) -> float: ...
    def self_reset(self) -> None: ...


@dataclass
class Services:
    """Handed to every part that needs more than its own state."""

    loop: Loop
    workers: Workers
    store: Store
    world: World
    run: str  # identity of this run of the daemon

    @property
    def journal(self) -> Journal:
        return self.world.journal




def why(result: object) -> str:
    """One line of what went wrong, for the journal."""
    if isinstance(result, AdapterError):
        return str(result)
    if isinstance(result, OSError):
        return f"{result.strerror or result}" + (f" ({result.filename})" if result.filename else "")
    if isinstance(result, BaseException):
        return f"{type(result).__name__}: {result}"
    return str(getattr(result, "how", result))
