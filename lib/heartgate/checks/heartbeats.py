"""What two looks at a link's counters tell about its two directions, and which links may go. Pure.

A heartbeat is one-way: every link has a channel on which this node sends and one on which it receives (C5). knet pings
over each link all the time, connected or not. So what arrives shows the receiving channel, and an answer to one of our
pings shows the sending one. Silence alone says nothing about the sending channel: the answers may be what is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Collection, Dict, List, Mapping, Optional, Sequence, Set, Tuple

INTERVALS_MIN = 3
"""Ping intervals without a packet after which a channel may be called down (and Corosync must say so too)."""


class Channel(Enum):
    UP = "up"
    DOWN = "down"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Counters:
    """One look at one link to one node (stats.knet.nodeN.linkM of Corosync). None: Corosync does not tell. Packets are
    counted since Corosync started or the link was made; latencies are in microseconds, the MTU in bytes."""

    connected: Optional[bool] = None
    rx_total: Optional[int] = None
    rx_pong: Optional[int] = None
    tx_ping: Optional[int] = None
    tx_ping_errors: Optional[int] = None
    latency_ave_us: Optional[int] = None
    latency_max_us: Optional[int] = None
    down_count: Optional[int] = None
    mtu: Optional[int] = None


@dataclass(frozen=True)
class Sample:
    """First and last look. `window_ms`: time between them. `silent_ms`: since a packet was last seen to have arrived, None
    if none did. `ping_interval_ms`: knet's, None if unknown. `sent_before_last`: tx_ping one look before the last one, so
    that the answers had time to come."""

    first: Counters
    last: Counters
    window_ms: float
    silent_ms: Optional[float] = None
    ping_interval_ms: Optional[int] = None
    sent_before_last: Optional[int] = None


@dataclass(frozen=True)
class Heartbeat:
    """One line of `heartgate heartbeat list`, for a network heartbeat and for a disk heartbeat alike.

    `kind`: "network" or "disk". `name`: link number or disk. `local`, `remote`: addresses, or slots of a disk.
    `loss`: share of pings without an answer in the window, 0 to 1. `age_ms`: since the last packet arrived;
    `age_at_least` if none arrived while we looked. `reason`: why something is not known."""

    kind: str
    node: str
    name: str
    state: Channel = Channel.UNKNOWN
    sending: Channel = Channel.UNKNOWN
    receiving: Channel = Channel.UNKNOWN
    local: str = ""
    remote: str = ""
    latency_ave_us: Optional[int] = None
    latency_max_us: Optional[int] = None
    loss: Optional[float] = None
    age_ms: Optional[float] = None
    age_at_least: bool = False
    mtu: Optional[int] = None
    down_count: Optional[int] = None
    reason: str = ""


# --- from samples to states
# ----------------------------------------------------------------------------------------------------------------


def receiving(sample: Sample) -> Channel:
    moved = _moved(sample.first.rx_total, sample.last.rx_total)
    if moved is None:
        return Channel.UNKNOWN
    if moved > 0:
        return Channel.UP
    return Channel.DOWN if sample.last.connected is False and _long_enough(sample) else Channel.UNKNOWN


def sending(sample: Sample) -> Channel:
    answered = _moved(sample.first.rx_pong, sample.last.rx_pong)
    if answered is None:
        return Channel.UNKNOWN
    if answered > 0:
        return Channel.UP
    if sample.last.connected is not False or not _long_enough(sample):
        return Channel.UNKNOWN
    if _moved(sample.first.tx_ping_errors, sample.last.tx_ping_errors):
        return Channel.DOWN  # the kernel itself refuses to send
    sent = _moved(sample.first.tx_ping, sample.last.tx_ping)
    heard = receiving(sample) is Channel.UP
    return Channel.DOWN if heard and sent is not None and sent >= INTERVALS_MIN - 1 else Channel.UNKNOWN


def state(connected: Optional[bool]) -> Channel:
    return {True: Channel.UP, False: Channel.DOWN, None: Channel.UNKNOWN}[connected]


def loss(sample: Sample) -> Optional[float]:
    """Share of the pings without an answer; None for fewer than two pings. One may still be on its way."""
    sent = _moved(sample.first.tx_ping, sample.sent_before_last if sample.sent_before_last is not None else sample.last.tx_ping)
    answered = _moved(sample.first.rx_pong, sample.last.rx_pong)
    if sent is None or answered is None or sent < 2:
        return None
    lost = max(0, sent - answered)
    return 0.0 if lost <= 1 else lost / sent


def settled(sample: Sample) -> bool:
    """Whether looking longer would tell nothing new: both directions were seen to work, or can be called down."""
    down = receiving(sample) is Channel.DOWN or sending(sample) is Channel.DOWN
    enough = (_moved(sample.first.rx_pong, sample.last.rx_pong) or 0) >= INTERVALS_MIN and loss(sample) is not None
    return down or (enough and receiving(sample) is Channel.UP)


def heartbeat(node: str, link: int, local: str, remote: str, sample: Sample) -> Heartbeat:
    last = sample.last
    known_age = sample.silent_ms if sample.silent_ms is not None else sample.window_ms
    return Heartbeat(
        "network", node, str(link), state(last.connected), sending(sample), receiving(sample), local, remote,
        _positive(last.latency_ave_us), _positive(last.latency_max_us), loss(sample),
        known_age if last.rx_total is not None else None, sample.silent_ms is None, _positive(last.mtu), last.down_count,
        _reason(sample),
    )  # fmt: skip


def _reason(sample: Sample) -> str:
    if Channel.UNKNOWN not in (receiving(sample), sending(sample)):
        return ""
    if _moved(sample.first.rx_total, sample.last.rx_total) is None:
        return "Corosync does not tell the counters of this link, or they began anew meanwhile"
    if sample.last.connected is False and receiving(sample) is Channel.DOWN:
        return "nothing arrives, so answers to our pings cannot either: only the other node can tell whether we are heard"
    if not _long_enough(sample):
        return "looked for too short a time: give more --seconds"
    return "Corosync calls the link connected, but nothing arrived while we looked"


def _positive(value: Optional[int]) -> Optional[int]:
    return value if value else None


def _moved(before: Optional[int], after: Optional[int]) -> Optional[int]:
    """By how much a counter rose; None if that cannot be told, which includes a counter that began anew."""
    if before is None or after is None or after < before:
        return None
    return after - before


def _long_enough(sample: Sample) -> bool:
    interval = sample.ping_interval_ms
    return interval is not None and interval > 0 and sample.window_ms >= INTERVALS_MIN * interval


# --- independence
# ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LinkPlace:
    """Where a link runs on this node. `adapter`: its interface, None if unknown. `connected`: by node; None unknown."""

    link: int
    adapter: Optional[str]
    connected: Mapping[str, Optional[bool]]


def parts_nodes(places: Sequence[LinkPlace], removed: int) -> Tuple[str, ...]:
    """Nodes that no link which is known to be connected would reach any more: removing it would change the membership."""
    names: Set[str] = {node for place in places for node in place.connected}
    rest = [place for place in places if place.link != removed]
    return tuple(sorted(node for node in names if not any(place.connected.get(node) is True for place in rest)))


def loses_independence(places: Sequence[LinkPlace], removed: int, sync_adapters: Collection[str]) -> Tuple[str, ...]:
    """Why taking this link away would leave heartbeats that one fault can end, in sentences; empty if it would not."""
    rest = [place for place in places if place.link != removed]
    working = [place for place in rest if place.connected and all(value is True for value in place.connected.values())]
    adapters: Dict[str, List[int]] = {}
    for place in working:
        adapters.setdefault(place.adapter or "an unknown adapter", []).append(place.link)
    reasons = []
    if len(adapters) < 2:
        left = "; ".join(f"link {_numbers(numbers)} on {adapter}" for adapter, numbers in adapters.items())
        reasons.append(f"no two connected links on different adapters would be left ({left or 'none is connected'})")
    off_sync = [adapter for adapter in adapters if adapter not in sync_adapters]
    if working and sync_adapters and not off_sync:
        reasons.append(f"all that would be left runs on adapters of sync links ({', '.join(sorted(adapters))})")
    return tuple(reasons)


def _numbers(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
