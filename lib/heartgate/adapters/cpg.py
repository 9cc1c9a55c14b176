"""STUB, real code follows."""

from __future__ import annotations

from typing import Sequence, Union

from heartgate.adapters.base import Delivery, View

MAX_PAYLOAD = 256 * 1024


class CpgCarrier:
    """Carrier. Constructor joins the group; raises CarrierLost when Corosync is not there. One thread only."""

    def __init__(self, group: bytes = b"heartgate") -> None:
        raise NotImplementedError

    local: str  # this node's name, as Corosync has it

    def fileno(self) -> int:
        raise NotImplementedError

    def send(self, payload: bytes) -> None:
        """Raises CarrierBusy, CarrierLost, ValueError (payload too large)."""
        raise NotImplementedError

    def dispatch(self) -> Sequence[Union[Delivery, View]]:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError
