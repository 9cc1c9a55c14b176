"""The knet links as Corosync counts them: a bounded series of looks, for the two directions of each (C5).

Corosync tells no time of the last packet, so the counters are read about twenty times a second and the age is that of
the last look at which they had risen. Every call blocks for as long as Corosync is stopped: `bounded` is the way in.
"""

from __future__ import annotations

import re
import threading
import time
from typing import Callable, Collection, Dict, List, Mapping, NamedTuple, Optional, Tuple, TypeVar

from heartgate.adapters.base import CarrierLost
from heartgate.adapters.corosync import MAP_STATS, Cmap, local_node, names_of
from heartgate.checks.heartbeats import Counters, Sample, settled
from heartgate.checks.link_report import KnetLook

LOOK_S = 0.05
WINDOW_MAX_S = 10.0
WINDOW_INTERVALS = 6  # ping intervals to look for, if nobody says how long
CONNECTED_KEY = re.compile(r"stats\.knet\.node(\d+)\.link(\d+)\.connected\Z")
NODE_KEY = re.compile(r"nodelist\.node\.(\d+)\.(nodeid|name|ring(\d)_addr)\Z")
MEMBER_KEY = re.compile(r"runtime\.members\.(\d+)\.(status|join_count)\Z")
COUNTERS = {
    "rx_total": "rx_total_packets",
    "rx_pong": "rx_pong_packets",
    "tx_ping": "tx_ping_packets",
    "tx_ping_errors": "tx_ping_errors",
    "latency_ave_us": "latency_ave",
    "latency_max_us": "latency_max",
    "down_count": "down_count",
    "mtu": "mtu",
}
T = TypeVar("T")
LinkId = Tuple[int, int]  # node id, link number


class Member(NamedTuple):
    """A node of the running node list. `addresses`: link number -> ringN_addr."""

    nodeid: int
    name: str
    addresses: Mapping[int, str]


class Running(NamedTuple):
    """What Corosync works with now. `ping_interval_ms`: by link number."""

    local: int
    members: Tuple[Member, ...]
    ping_interval_ms: Mapping[int, int]


class Observation(NamedTuple):
    node: Member
    link: int
    sample: Sample


def bounded(call: Callable[[], T], timeout_s: float) -> T:
    """The result of `call`, or CarrierLost if Corosync is stopped and does not answer in time (the thread that waits for
    it is left behind)."""
    results: List[T] = []
    errors: List[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if errors:
        raise errors[0]
    if not results:
        raise CarrierLost(f"Corosync did not answer for {timeout_s:g} s: it is stopped, or very busy")
    return results[0]


# --- what is configured and who is a member
# ----------------------------------------------------------------------------------------------------------------


def running() -> Running:
    """The running node list and timers. Raises CarrierLost."""
    local, own_name = local_node()
    with Cmap() as cmap:
        entries: Dict[str, Dict[str, object]] = {}
        for key in list(cmap.keys("nodelist.node.")):
            found = NODE_KEY.match(key)
            if found:
                entries.setdefault(found.group(1), {})[found.group(2)] = cmap.get(key)
        members = tuple(filter(None, (_member(entry, local, own_name) for _, entry in sorted(entries.items()))))
        numbers = {link for member in members for link in member.addresses}
        intervals = {link: cmap.get_int(f"runtime.config.totem.interface.{link}.knet_ping_interval") for link in numbers}
    return Running(local, members, {link: value for link, value in intervals.items() if value})


def _member(entry: Mapping[str, object], local: int, own_name: str) -> Optional[Member]:
    nodeid = entry.get("nodeid")
    if not isinstance(nodeid, int):
        return None
    addresses = {int(key[4]): str(value) for key, value in entry.items() if key.startswith("ring") and value}
    first = str(addresses[min(addresses)]) if addresses else ""
    named = names_of([{"nodeid": nodeid, "name": str(entry.get("name") or ""), "ring0_addr": first}])
    return Member(nodeid, own_name if nodeid == local else named.get(nodeid, f"#{nodeid}"), addresses)


def membership() -> Dict[int, Tuple[str, int]]:
    """Node id -> (status, how often it joined). Another value later means that the membership changed. Raises CarrierLost."""
    with Cmap() as cmap:
        found: Dict[int, Dict[str, object]] = {}
        for key in list(cmap.keys("runtime.members.")):
            match = MEMBER_KEY.match(key)
            if match:
                found.setdefault(int(match.group(1)), {})[match.group(2)] = cmap.get(key)
    return {node: (str(entry.get("status")), _number(entry.get("join_count"))) for node, entry in found.items()}


def _number(value: object) -> int:
    return value if isinstance(value, int) else -1


def connected() -> Dict[LinkId, Optional[bool]]:
    """Whether Corosync calls each link to each other node connected; links that it does not have are missing. Raises
    CarrierLost."""
    local, _ = local_node()
    with Cmap(MAP_STATS) as cmap:
        answer: Dict[LinkId, Optional[bool]] = {}
        for node, link in _links(cmap, local):
            value = cmap.get_int(f"stats.knet.node{node}.link{link}.connected")
            answer[node, link] = None if value is None else value != 0
    return answer


def _links(cmap: Cmap, local: int) -> List[LinkId]:
    found = (CONNECTED_KEY.match(key) for key in list(cmap.keys("stats.knet.node")))
    return sorted((int(match.group(1)), int(match.group(2))) for match in found if match and int(match.group(1)) != local)


# --- looking
# ----------------------------------------------------------------------------------------------------------------


class _Series:
    """The looks at one link."""

    def __init__(self, counters: Counters, at_s: float) -> None:
        self.first, self.last, self.began_s, self.at_s = counters, counters, at_s, at_s
        self.heard_s: Optional[float] = None
        self.sent_before: Optional[int] = None

    def take(self, counters: Counters, at_s: float) -> None:
        if counters.rx_total is not None and self.last.rx_total is not None and counters.rx_total > self.last.rx_total:
            self.heard_s = at_s
        self.sent_before, self.last, self.at_s = self.last.tx_ping, counters, at_s

    def sample(self, interval_ms: Optional[int]) -> Sample:
        silent = None if self.heard_s is None else (self.at_s - self.heard_s) * 1000.0
        return Sample(self.first, self.last, (self.at_s - self.began_s) * 1000.0, silent, interval_ms, self.sent_before)


def observe(now: Running, seconds: Optional[float] = None) -> Tuple[Observation, ...]:
    """Look at every link to every other node: for `seconds`, or else until nothing new can be learned, at most six ping
    intervals and 10 s. Raises CarrierLost."""
    longest = max(now.ping_interval_ms.values(), default=500) / 1000.0
    window_s = min(WINDOW_MAX_S, WINDOW_INTERVALS * longest) if seconds is None else seconds
    names = {member.nodeid: member for member in now.members}
    with Cmap(MAP_STATS) as cmap:
        start_s = time.monotonic()
        series = {each: _Series(_look(cmap, each), time.monotonic()) for each in _links(cmap, now.local)}
        while series and time.monotonic() - start_s < window_s:
            time.sleep(LOOK_S)
            for each, one in series.items():
                one.take(_look(cmap, each), time.monotonic())
            samples = {each: one.sample(now.ping_interval_ms.get(each[1])) for each, one in series.items()}
            if seconds is None and all(settled(sample) for sample in samples.values()):
                break
    return tuple(
        Observation(names.get(node, Member(node, f"#{node}", {})), link, one.sample(now.ping_interval_ms.get(link)))
        for (node, link), one in series.items()
    )


def look(numbers: Collection[int]) -> KnetLook:
    """One look, to be compared with a later one: the counters of the links with these numbers; of the others only whether they are
    connected (each key is a round trip to Corosync). Raises CarrierLost."""
    now = running()
    names = {member.nodeid: member.name for member in now.members}
    with Cmap(MAP_STATS) as cmap:
        at_ms = time.monotonic() * 1000.0
        links = {
            (names.get(node, f"#{node}"), link): _look(cmap, (node, link)) if link in numbers else _state(cmap, (node, link))
            for node, link in _links(cmap, now.local)
        }
    return KnetLook(at_ms, links, now.ping_interval_ms)


def _state(cmap: Cmap, each: LinkId) -> Counters:
    value = cmap.get_int(f"stats.knet.node{each[0]}.link{each[1]}.connected")
    return Counters(None if value is None else value != 0)


def _look(cmap: Cmap, each: LinkId) -> Counters:
    prefix = f"stats.knet.node{each[0]}.link{each[1]}."
    connected_now = cmap.get_int(prefix + "connected")
    numbers = {field: cmap.get_int(prefix + key) for field, key in COUNTERS.items()}
    return Counters(None if connected_now is None else connected_now != 0, **numbers)
