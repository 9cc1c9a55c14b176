"""What every heartgate lab offers: nodes by name, links that can be cut, and waits that end.

Two implementations: `tests.lab.ns` (namespaces, a cluster in about three seconds, replication by the `exec` driver) and
`tests.lab.vm` (virtual machines with kernel DRBD). Tests are written against this interface only.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Callable, Mapping, Optional, Protocol, Sequence, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Result:
    """Outcome of a command on a node. `rc` 124 means that it was ended by its timeout."""

    rc: int
    stdout: str
    stderr: str
    elapsed_s: float


class LabError(RuntimeError):
    """The lab itself failed (not the software under test): says what was tried and what came back."""


class CommandError(LabError):
    """A command run with check=True ended with another code than 0; carries argv, rc and both outputs."""


class Node(Protocol):
    name: str

    def run(self, argv: Sequence[str], *, timeout_s: float = 30.0, stdin: str = "", check: bool = True) -> Result:
        """Run argv (never through a shell unless argv says so) as root on the node."""

    def put(self, path: str, content: str, mode: int = 0o644) -> None:
        """Write a file on the node, creating parent directories."""

    def powered(self) -> bool: ...
    def power_off(self) -> None:
        """As if the plug were pulled: no shutdown, unflushed data lost."""

    def power_on(self) -> None:
        """Start it after power_off; returns at once (wait for what you need)."""

    def freeze(self) -> None:
        """Stop the whole machine in place (SIGSTOP / QMP stop)."""

    def thaw(self) -> None: ...


class Lab(Protocol):
    @property
    def nodes(self) -> Mapping[str, Node]: ...
    @property
    def links(self) -> Sequence[str]: ...

    def cut(self, link: str, *, node: Optional[str] = None, direction: Optional[str] = None) -> None:
        """Cut a link. node=None, direction=None: both ends lose carrier (a pulled cable). node=X: only X's end loses
        carrier. node=X, direction="out" or "in": carrier stays, X's frames are lost in that direction."""

    def mend(self, link: str) -> None:
        """Undo every cut of that link."""

    def down(self) -> None:
        """End the lab: leaves no machine, mount, namespace or process behind."""


def wait_until(what: str, probe: Callable[[], Optional[T]], *, timeout_s: float, interval_s: float = 0.1) -> T:
    """Poll `probe` until it returns something true; LabError naming `what` and the last value after timeout_s."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise LabError(f"waited {timeout_s:g} s in vain for {what} (last seen: {value!r})")
        time.sleep(interval_s)
