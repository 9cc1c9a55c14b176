"""The machine under the daemon: memory, scheduling, systemd, boot id, and the last resort."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import socket
from pathlib import Path

MCL_CURRENT = 1
MCL_FUTURE = 2
BOOT_ID = "/proc/sys/kernel/random/boot_id"
SYSRQ = "/proc/sysrq-trigger"


def boot_id() -> str:
    """Identity of this boot of the kernel. Raises OSError where /proc is not mounted."""
    return Path(BOOT_ID).read_text(encoding="ascii").strip()


def lock_memory() -> str:
    """mlockall(current and future): a daemon that must act while storage hangs may not be paged out. "" or what is
    wrong."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(MCL_CURRENT | MCL_FUTURE) != 0:
        return f"mlockall: {os.strerror(ctypes.get_errno())}"
    return ""


def real_time(priority: int = 1) -> str:
    """SCHED_RR for the calling thread, and for threads that it starts. Programs give it up when they start
    (`heartgate.adapters.process`). "" or what is wrong."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(priority))
    except (OSError, ValueError) as error:
        return f"SCHED_RR {priority}: {error}"
    return ""


def sd_notify(state: str) -> bool:
    """READY=1, WATCHDOG=1, STATUS=...: a datagram to systemd, never waited for. False where systemd does not listen."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as channel:
            channel.sendto(state.encode(), address)
    except OSError:
        return False
    return True


def watchdog_interval_s() -> float:
    """How often to send WATCHDOG=1 (half of what systemd asks for); 0.0 if it does not ask, or asks another process."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    try:
        return max(0, int(os.environ.get("WATCHDOG_USEC", "0"))) / 2_000_000
    except ValueError:
        return 0.0


def self_reset(*, really: bool = False, trigger: str = SYSRQ) -> bool:
    """Reset this node at once, without syncing or unmounting: for users of a blocked device that cannot be killed. Does
    nothing (False) unless really=True; the caller asks the daemon's configuration first. Returns False too if the
    kernel lets us go on."""
    if not really:
        return False
    with contextlib.suppress(OSError):
        descriptor = os.open(trigger, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, b"b")
        finally:
            os.close(descriptor)
    return False


def run_base() -> int:
    """Where counters of this run start: no two runs of a daemon share a value, and the codec's integers can hold it."""
    return secrets.randbelow(1 << 30) << 20
