"""STUB, real code follows."""

from __future__ import annotations

from typing import Sequence

from heartgate.adapters.base import FenceSeen, Outcome


class PacemakerCluster:
    """Cluster."""

    def __init__(self, me: str) -> None:
        raise NotImplementedError

    def publish(self, device: str, value: str, deadline_s: float) -> Outcome:
        raise NotImplementedError

    def withdraw(self, device: str, deadline_s: float) -> Outcome:
        raise NotImplementedError

    def fence(self, node: str, deadline_s: float) -> Outcome:
        raise NotImplementedError

    def fence_history(self, deadline_s: float) -> Sequence[FenceSeen]:
        raise NotImplementedError
