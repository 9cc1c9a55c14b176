"""STUB, real code follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class FlushResult:
    """target: as written; how: synced, not-here, or the reason of the failure."""

    target: str
    ok: bool
    how: str
    elapsed_ms: int


class FlushTarget(Protocol):
    spec: str

    def check(self) -> str:
        """Existence on this node: "" or what is wrong."""

    def flush(self, device: str, deadline_s: float) -> FlushResult:
        """Blocks: worker thread."""


def parse(spec: str) -> FlushTarget:
    """`kind:argument` -> target, without touching anything. Raises ValueError naming what is wrong."""
    raise NotImplementedError
