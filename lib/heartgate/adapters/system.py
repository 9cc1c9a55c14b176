"""STUB, real code follows."""

from __future__ import annotations


def boot_id() -> str:
    raise NotImplementedError


def lock_memory() -> str:
    """mlockall(current and future). "" or what is wrong."""
    raise NotImplementedError


def real_time(priority: int = 1) -> str:
    """SCHED_RR for this thread; children do not inherit it. "" or what is wrong."""
    raise NotImplementedError


def sd_notify(state: str) -> bool:
    """READY=1, WATCHDOG=1, STATUS=... False where systemd does not listen."""
    raise NotImplementedError


def watchdog_interval_s() -> float:
    """How often to send WATCHDOG=1 (half of what systemd asks for); 0 if it does not."""
    raise NotImplementedError


def self_reset(*, really: bool = False) -> None:
    """Reset this node at once, without syncing. Does nothing unless really=True."""
    raise NotImplementedError
