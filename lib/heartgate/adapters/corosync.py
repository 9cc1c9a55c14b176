"""Corosync beside its process groups: names of nodes, quorum, and the state of each knet link.

libcmap.so.4 and libquorum.so.5 by ctypes (headers of Corosync 3.1.7). Every call is a round trip to the corosync
process (about 0.1 ms) and blocks for as long as that process is stopped, so poll in a worker thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import re
import time
from typing import Callable, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Tuple, Union

from heartgate.adapters import corolib
from heartgate.adapters.base import CarrierBusy, CarrierLost

CMAP_SONAME = "libcmap.so.4"
QUORUM_SONAME = "libquorum.so.5"
MAP_CONFIG = 0  # CMAP_MAP_ICMAP
MAP_STATS = 1  # CMAP_MAP_STATS
KEY_MAX = 256  # CMAP_KEYNAME_MAXLEN and the final zero
TYPE_STRING = 11
INTEGER_TYPES = {
    1: ctypes.c_int8,
    2: ctypes.c_uint8,
    3: ctypes.c_int16,
    4: ctypes.c_uint16,
    5: ctypes.c_int32,
    6: ctypes.c_uint32,
    7: ctypes.c_int64,
    8: ctypes.c_uint64,
}
VALUE_MAX = 64 * 1024
BUSY_TRIES = 20
BUSY_PAUSE_S = 0.01
LINK_LIST_AGE_S = 10.0

NODE_KEY = re.compile(r"nodelist\.node\.(\d+)\.(nodeid|name|ring0_addr)\Z")
LINK_KEY = re.compile(r"stats\.knet\.node(\d+)\.link(\d+)\.connected\Z")

Value = Union[int, str, bytes]


class LinkStat(NamedTuple):
    """One knet link to one other node, as this node sees it. Counters (packets since the start of Corosync) are None
    where Corosync does not tell them. While only one direction is lost `connected` is False on both sides; rx_ping
    still rises on the side whose sending is lost."""

    node: str
    link: int
    connected: Optional[bool]
    rx_ping: Optional[int] = None
    rx_pong: Optional[int] = None
    tx_ping: Optional[int] = None
    tx_pong: Optional[int] = None
    latency_us: Optional[int] = None
    down_count: Optional[int] = None


COUNTERS = {
    "rx_ping": "rx_ping_packets",
    "rx_pong": "rx_pong_packets",
    "tx_ping": "tx_ping_packets",
    "tx_pong": "tx_pong_packets",
    "latency_us": "latency_ave",
    "down_count": "down_count",
}


class _CmapLibrary:
    def __init__(self) -> None:
        library = corolib.load(CMAP_SONAME)
        handle, text = ctypes.c_uint64, ctypes.c_char_p
        size, kind = ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_int)
        self.initialize_map = corolib.prototype(library, "cmap_initialize_map", ctypes.POINTER(handle), ctypes.c_int)
        self.finalize = corolib.prototype(library, "cmap_finalize", handle)
        self.get = corolib.prototype(library, "cmap_get", handle, text, ctypes.c_void_p, size, kind)
        self.iter_init = corolib.prototype(library, "cmap_iter_init", handle, text, ctypes.POINTER(handle))
        self.iter_next = corolib.prototype(library, "cmap_iter_next", handle, handle, text, size, kind)
        self.iter_finalize = corolib.prototype(library, "cmap_iter_finalize", handle, handle)


class Cmap:
    """One of Corosync's key-value maps. Raises CarrierLost when Corosync is not there."""

    def __init__(self, which: int = MAP_CONFIG) -> None:
        self._library = _CmapLibrary()
        self._handle = ctypes.c_uint64(0)
        self._open = False
        self._retry("cmap_initialize", lambda: int(self._library.initialize_map(ctypes.byref(self._handle), which)))
        self._open = True

    def __enter__(self) -> Cmap:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, key: str) -> Optional[Value]:
        """Value of a key; None when there is no such key."""
        buffer = ctypes.create_string_buffer(VALUE_MAX)
        size, kind = ctypes.c_size_t(VALUE_MAX), ctypes.c_int(0)

        def call() -> int:
            size.value = VALUE_MAX
            return int(self._library.get(self._handle, key.encode(), buffer, ctypes.byref(size), ctypes.byref(kind)))

        if not self._retry(f"cmap_get {key}", call, missing_ok=True):
            return None
        return _decode(buffer.raw[: size.value], kind.value)

    def get_int(self, key: str) -> Optional[int]:
        value = self.get(key)
        return value if isinstance(value, int) else None

    def get_text(self, key: str) -> Optional[str]:
        value = self.get(key)
        return value if isinstance(value, str) else None

    def keys(self, prefix: str) -> Iterator[str]:
        iteration = ctypes.c_uint64(0)
        start = lambda: int(self._library.iter_init(self._handle, prefix.encode(), ctypes.byref(iteration)))  # noqa: E731
        if not self._retry("cmap_iter_init", start, missing_ok=True):
            return
        name = ctypes.create_string_buffer(KEY_MAX)
        size, kind = ctypes.c_size_t(0), ctypes.c_int(0)
        try:
            while True:
                code = self._library.iter_next(self._handle, iteration, name, ctypes.byref(size), ctypes.byref(kind))
                if code != corolib.CS_OK:  # CS_ERR_NO_SECTIONS at the end
                    return
                yield name.value.decode("utf-8", "replace")
        finally:
            self._library.iter_finalize(self._handle, iteration)

    def close(self) -> None:
        if self._open:
            self._open = False
            self._library.finalize(self._handle)

    def _retry(self, what: str, call: Callable[[], int], missing_ok: bool = False) -> bool:
        """True if it worked; False if the key does not exist and that is allowed."""
        for _ in range(BUSY_TRIES):
            code = call()
            if code == corolib.CS_ERR_NOT_EXIST and missing_ok:
                return False
            if code == corolib.CS_OK:
                return True
            if code != corolib.CS_ERR_TRY_AGAIN:
                break
            time.sleep(BUSY_PAUSE_S)
        raise CarrierLost(f"{what}: {corolib.words(code)}")


def _decode(raw: bytes, kind: int) -> Value:
    if kind in INTEGER_TYPES:
        number = INTEGER_TYPES[kind]
        return int(number.from_buffer_copy(raw).value) if len(raw) >= ctypes.sizeof(number) else raw
    if kind == TYPE_STRING:
        return raw.split(b"\0", 1)[0].decode("utf-8", "replace")
    return raw


# --- names
# ----------------------------------------------------------------------------------------------------------------


def node_names() -> Mapping[int, str]:
    """Node id -> name of every node in the running Corosync's node list. Raises CarrierLost."""
    with Cmap() as cmap:
        return _node_names(cmap)


def local_node() -> Tuple[int, str]:
    """(node id, name) of this node. Raises CarrierLost."""
    with Cmap() as cmap:
        names = _node_names(cmap)
        position = cmap.get_int("nodelist.local_node_pos")
        node = cmap.get_int(f"nodelist.node.{position}.nodeid") if position is not None else None
        if node is None:
            node = cmap.get_int("runtime.votequorum.this_node_id")
    if node is None:
        raise CarrierLost("Corosync does not tell which of its nodes this one is (nodelist.local_node_pos)")
    name = names.get(node, "")
    # As Pacemaker does it: an address is no name, and for the local node there is uname.
    return node, name if name and not _is_address(name) else os.uname().nodename


def local_name() -> str:
    return local_node()[1]


def _node_names(cmap: Cmap) -> Dict[int, str]:
    entries: Dict[str, Dict[str, Value]] = {}
    for key in list(cmap.keys("nodelist.node.")):
        found = NODE_KEY.match(key)
        value = cmap.get(key) if found else None
        if found and value is not None:
            entries.setdefault(found.group(1), {})[found.group(2)] = value
    return names_of(entries.values())


def names_of(entries: Iterable[Mapping[str, Value]]) -> Dict[int, str]:
    """From the node list's entries: `name`, or else `ring0_addr`."""
    names: Dict[int, str] = {}
    for entry in entries:
        node = entry.get("nodeid")
        name = entry.get("name") or entry.get("ring0_addr")
        if isinstance(node, int) and isinstance(name, str):
            names[node] = name
    return names


def _is_address(name: str) -> bool:
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(name)
        return True
    return False


# --- links
# ----------------------------------------------------------------------------------------------------------------


class LinkStats:
    """State of the knet links. Keep one and poll it: opening the map costs more than reading it."""

    def __init__(self) -> None:
        self._local, _ = local_node()
        self._names = dict(node_names())
        self._cmap = Cmap(MAP_STATS)
        self._links: List[Tuple[int, int]] = []
        self._listed = 0.0

    def poll(self) -> Tuple[LinkStat, ...]:
        """All links to other nodes now. Raises CarrierLost (then make a new LinkStats)."""
        now = time.monotonic()
        if not self._links or now - self._listed > LINK_LIST_AGE_S:
            self._links, self._listed = self._list(), now
        return tuple(self._read(node, link) for node, link in self._links)

    def close(self) -> None:
        self._cmap.close()

    def _list(self) -> List[Tuple[int, int]]:
        found = (LINK_KEY.match(key) for key in self._cmap.keys("stats.knet.node"))
        links = sorted((int(match.group(1)), int(match.group(2))) for match in found if match)
        if any(node not in self._names for node, _ in links):
            self._names = dict(node_names())
        return [(node, link) for node, link in links if node != self._local]

    def _read(self, node: int, link: int) -> LinkStat:
        prefix = f"stats.knet.node{node}.link{link}."
        connected = self._cmap.get_int(prefix + "connected")
        counters = {field: self._cmap.get_int(prefix + key) for field, key in COUNTERS.items()}
        return LinkStat(
            self._names.get(node, f"#{node}"), link, None if connected is None else connected != 0, **counters
        )


# --- quorum
# ---------------------------------------------------------------------------------------------------------------

_QuorumNotify = ctypes.CFUNCTYPE(
    None, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint32)
)


class _QuorumCallbacks(ctypes.Structure):
    _fields_ = [("quorum_notify_fn", _QuorumNotify)]


class Quorum:
    """Follows whether this partition is quorate. `quorate` is None until told, and where no quorum provider is
    configured."""

    def __init__(self) -> None:
        library = corolib.load(QUORUM_SONAME)
        handle, number = ctypes.c_uint64, ctypes.POINTER(ctypes.c_uint32)
        initialize = corolib.prototype(library, "quorum_initialize", ctypes.POINTER(handle), ctypes.c_void_p, number)
        fd_get = corolib.prototype(library, "quorum_fd_get", handle, ctypes.POINTER(ctypes.c_int))
        trackstart = corolib.prototype(library, "quorum_trackstart", handle, ctypes.c_uint)
        self._dispatch = corolib.prototype(library, "quorum_dispatch", handle, ctypes.c_int)
        self._finalize = corolib.prototype(library, "quorum_finalize", handle)
        self.quorate: Optional[bool] = None
        self.members: Tuple[int, ...] = ()
        self._handle = ctypes.c_uint64(0)
        # Referenced for as long as the library may call it.
        self._callbacks = _QuorumCallbacks(_QuorumNotify(self._notified))
        kind = ctypes.c_uint32(0)
        corolib.check(
            "quorum_initialize",
            initialize(ctypes.byref(self._handle), ctypes.byref(self._callbacks), ctypes.byref(kind)),
        )
        try:
            fd = ctypes.c_int(-1)
            corolib.check("quorum_fd_get", fd_get(self._handle, ctypes.byref(fd)))
            self._fd = fd.value
            if kind.value:
                flags = corolib.CS_TRACK_CURRENT | corolib.CS_TRACK_CHANGES
                corolib.check("quorum_trackstart", trackstart(self._handle, flags))
        except (CarrierLost, CarrierBusy):
            self.close()
            raise

    def fileno(self) -> int:
        return self._fd

    def dispatch(self) -> None:
        """Take in what has arrived; never blocks. Raises CarrierLost."""
        code = self._dispatch(self._handle, corolib.CS_DISPATCH_ALL)
        if code != corolib.CS_ERR_TRY_AGAIN:
            corolib.check("quorum_dispatch", code)

    def close(self) -> None:
        if self._handle.value:
            self._finalize(self._handle)
            self._handle.value = 0

    def _notified(
        self, _handle: int, quorate: int, _ring: int, entries: int, members: ctypes._Pointer[ctypes.c_uint32]
    ) -> None:
        self.quorate = quorate != 0
        self.members = tuple(members[index] for index in range(entries))
