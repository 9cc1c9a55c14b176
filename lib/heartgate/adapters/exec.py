"""STUB, real code follows."""

from __future__ import annotations

from typing import Mapping, Sequence

from heartgate.adapters.base import Outcome, Problem
from heartgate.core.model import Replica


class ExecSource:
    """Source for all devices with the `exec` driver."""

    def __init__(self, me: str) -> None:
        raise NotImplementedError

    def add(self, resource: str, program: str) -> None:
        """Start watching. Raises AdapterError when the program is refused (not absolute, not root's, writable by others)."""
        raise NotImplementedError

    def discard(self, resource: str) -> None:
        raise NotImplementedError

    def fileno(self) -> int:
        raise NotImplementedError

    def read(self) -> Mapping[str, Replica]:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class ExecDriver:
    """Driver."""

    def __init__(self, resource: str, program: str, me: str) -> None:
        self.name = resource

    def check(self, nodes: Sequence[str]) -> Sequence[Problem]:
        raise NotImplementedError

    def block(self, replica: Replica, deadline_s: float) -> Outcome:
        raise NotImplementedError

    def release(self, replica: Replica, deadline_s: float) -> Outcome:
        raise NotImplementedError

    def enforce_blocked(self, replica: Replica, deadline_s: float) -> Outcome:
        raise NotImplementedError

    def unblock(self, replica: Replica, deadline_s: float) -> Outcome:
        raise NotImplementedError

    def drop(self, peer: str, deadline_s: float) -> Outcome:
        raise NotImplementedError

    def rehandle(self, replica: Replica, deadline_s: float) -> Outcome:
        raise NotImplementedError
