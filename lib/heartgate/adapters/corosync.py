"""STUB, real code follows."""

from __future__ import annotations

from typing import Mapping, NamedTuple, Optional, Tuple


class LinkStat(NamedTuple):
    """One knet link to one other node, as this node sees it. Counters are None where Corosync does not tell them."""

    node: str
    link: int
    connected: Optional[bool]
    rx_ping: Optional[int] = None
    rx_pong: Optional[int] = None
    tx_ping: Optional[int] = None
    tx_pong: Optional[int] = None
    latency_us: Optional[int] = None


def node_names() -> Mapping[int, str]:
    """Node id -> name, from the running Corosync. Raises CarrierLost."""
    raise NotImplementedError


def local_name() -> str:
    """This node's name. Raises CarrierLost."""
    raise NotImplementedError


class LinkStats:
    """poll(): all knet links now (0.1 ms a key, may be called in the loop). Raises CarrierLost."""

    def poll(self) -> Tuple[LinkStat, ...]:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError
