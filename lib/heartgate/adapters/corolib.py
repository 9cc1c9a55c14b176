"""What all of Corosync's client libraries have in common, for ctypes: error codes, loading, checking.

Written from corotypes.h of Corosync 3.1.7; the library versions named by the callers are the ABI that this was tried
with.
"""

from __future__ import annotations

import ctypes
import select
from typing import Any, Optional, Sequence

from heartgate.adapters.base import CarrierBusy, CarrierLost

CS_OK = 1
CS_ERR_TRY_AGAIN = 6
CS_ERR_NOT_EXIST = 12
CS_ERR_QUEUE_FULL = 23
CS_DISPATCH_ALL = 2
CS_TRACK_CURRENT = 0x01
CS_TRACK_CHANGES = 0x02

ERROR_WORDS = {
    2: "library error (Corosync ended or cannot be reached)",
    3: "library version does not fit",
    4: "initialization failed",
    5: "timeout",
    CS_ERR_TRY_AGAIN: "try again",
    7: "invalid parameter",
    8: "no memory",
    9: "bad handle",
    11: "access denied",
    CS_ERR_NOT_EXIST: "does not exist",
    15: "no space",
    18: "no resources",
    21: "failed operation",
    CS_ERR_QUEUE_FULL: "queue full",
    26: "too big",
    100: "security",
}


def words(code: int) -> str:
    return ERROR_WORDS.get(code, f"error {code}")


def check(what: str, code: int) -> None:
    """Raise CarrierBusy for flow control and CarrierLost for everything else that is not CS_OK."""
    if code == CS_OK:
        return
    if code in (CS_ERR_TRY_AGAIN, CS_ERR_QUEUE_FULL):
        raise CarrierBusy(f"{what}: {words(code)}")
    raise CarrierLost(f"{what}: {words(code)}")


def load(soname: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(soname)
    except OSError as error:
        raise CarrierLost(f"{soname}: {error} (is Corosync installed?)") from error


def prototype(library: ctypes.CDLL, name: str, *argtypes: Any) -> Any:
    """A function of the library with its types set; all of Corosync's return cs_error_t, an int."""
    function = getattr(library, name)
    function.argtypes = argtypes
    function.restype = ctypes.c_int
    return function


def hung_up(fds: Sequence[int]) -> Optional[int]:
    """The first of these descriptors whose other end is gone. cpg_dispatch() itself returns CS_OK when Corosync has
    ended."""
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLHUP | select.POLLERR)
    for fd, events in poller.poll(0):
        if events & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
            return fd
    return None
