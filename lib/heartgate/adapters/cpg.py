"""The network carrier: a Corosync closed process group, by ctypes on libcpg.so.4 (headers of Corosync 3.1.7).

Messages and changes of the group come in one total order, the same on every node; so do changes of Corosync's own
membership, which is why they are taken from CPG's totem callback and only the quorate flag from libquorum. The sender
hears its own messages too.

libcpg waits without a limit for an answer of the corosync process. So a thread does the sending: a stopped Corosync
must not stop the daemon's loop. cpg_dispatch() only reads what is there. Making a carrier does wait: do that in a
worker thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import threading
import time
from collections import deque
from typing import Any, Deque, Dict, List, Optional, Sequence, Tuple, Union

from heartgate.adapters import corolib, corosync
from heartgate.adapters.base import AdapterError, CarrierBusy, CarrierLost, Delivery, View

SONAME = "libcpg.so.4"
MAX_PAYLOAD = 256 * 1024  # bytes; far above anything sent, far below what libcpg would have to fragment
MAX_QUEUED = 64  # messages that wait for Corosync before send() says busy
JOIN_TRIES = 100
RETRY_S = 0.005
CPG_MODEL_V1 = 1
DELIVER_INITIAL_TOTEM_CONF = 0x01
CPG_TYPE_AGREED = 2
MAX_NAME = 128

_uint32 = ctypes.c_uint32
_handle = ctypes.c_uint64


class _Name(ctypes.Structure):
    _fields_ = [("length", _uint32), ("value", ctypes.c_char * MAX_NAME)]


class _Address(ctypes.Structure):
    _fields_ = [("nodeid", _uint32), ("pid", _uint32), ("reason", _uint32)]


class _RingId(ctypes.Structure):
    _fields_ = [("nodeid", _uint32), ("seq", ctypes.c_uint64)]


class _IoVec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


_Addresses = ctypes.POINTER(_Address)
_DeliverFn = ctypes.CFUNCTYPE(None, _handle, ctypes.POINTER(_Name), _uint32, _uint32, ctypes.c_void_p, ctypes.c_size_t)
_ConfchgFn = ctypes.CFUNCTYPE(
    None,
    _handle,
    ctypes.POINTER(_Name),
    _Addresses,
    ctypes.c_size_t,
    _Addresses,
    ctypes.c_size_t,
    _Addresses,
    ctypes.c_size_t,
)
_TotemFn = ctypes.CFUNCTYPE(None, _handle, _RingId, _uint32, ctypes.POINTER(_uint32))


class _ModelV1(ctypes.Structure):
    _fields_ = [
        ("model", ctypes.c_int),
        ("deliver", _DeliverFn),
        ("confchg", _ConfchgFn),
        ("totem", _TotemFn),
        ("flags", ctypes.c_uint),
    ]


class _Library:
    """libcpg's functions, typed."""

    def __init__(self) -> None:
        library = corolib.load(SONAME)
        name, iovec = ctypes.POINTER(_Name), ctypes.POINTER(_IoVec)
        self.initialize = corolib.prototype(
            library,
            "cpg_model_initialize",
            ctypes.POINTER(_handle),
            ctypes.c_int,
            ctypes.POINTER(_ModelV1),
            ctypes.c_void_p,
        )
        self.finalize = corolib.prototype(library, "cpg_finalize", _handle)
        self.fd_get = corolib.prototype(library, "cpg_fd_get", _handle, ctypes.POINTER(ctypes.c_int))
        self.join = corolib.prototype(library, "cpg_join", _handle, name)
        self.leave = corolib.prototype(library, "cpg_leave", _handle, name)
        self.dispatch = corolib.prototype(library, "cpg_dispatch", _handle, ctypes.c_int)
        self.mcast = corolib.prototype(library, "cpg_mcast_joined", _handle, ctypes.c_int, iovec, ctypes.c_uint)


class CpgCarrier:
    """Carrier over a closed process group. The constructor joins it; raises CarrierLost when Corosync is not there.

    dispatch() and fileno() from one thread; send() from any. The descriptor stays the same until close().
    """

    def __init__(self, group: bytes = b"heartgate") -> None:
        if not 0 < len(group) < MAX_NAME:
            raise ValueError(f"group name of {len(group)} bytes: 1 to {MAX_NAME - 1} are allowed")
        self._names: Dict[int, str] = dict(corosync.node_names())
        self.local_id, self.local = corosync.local_node()
        self._names[self.local_id] = self.local
        self._arrived: List[Union[Delivery, View]] = []
        self._failure: Optional[str] = None
        self._group_members: Optional[Tuple[int, ...]] = None
        self._online: Optional[Tuple[int, ...]] = None
        self._view: Optional[View] = None
        self._library = _Library()
        self._handle = _handle(0)
        self._group = _Name(len(group), group)
        self._epoll = select.epoll()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._quorum: Optional[corosync.Quorum] = None
        self._closed = False
        try:
            self._connect()
        except BaseException:
            self.close()
            raise
        self._sender = _Sender(self._multicast, self._sender_failed)

    def _connect(self) -> None:
        # The library keeps these addresses: they must live as long as the handle.
        self._callbacks = _ModelV1(
            CPG_MODEL_V1,
            _DeliverFn(self._on_deliver),
            _ConfchgFn(self._on_group),
            _TotemFn(self._on_totem),
            DELIVER_INITIAL_TOTEM_CONF,
        )
        data = ctypes.byref(self._callbacks)
        self._patiently(
            "cpg_model_initialize",
            lambda: self._library.initialize(ctypes.byref(self._handle), CPG_MODEL_V1, data, None),
        )
        fd = ctypes.c_int(-1)
        corolib.check("cpg_fd_get", self._library.fd_get(self._handle, ctypes.byref(fd)))
        self._fd = fd.value
        self._quorum = corosync.Quorum()
        for watched in (self._fd, self._quorum.fileno(), self._wake_read):
            self._epoll.register(watched, select.EPOLLIN)
        self._patiently("cpg_join", lambda: self._library.join(self._handle, ctypes.byref(self._group)))

    @staticmethod
    def _patiently(what: str, call: Any) -> None:
        """Corosync answers "try again" while it forms a membership; joining may wait for that, a little."""
        for _ in range(JOIN_TRIES):
            code = call()
            if code != corolib.CS_ERR_TRY_AGAIN:
                break
            time.sleep(RETRY_S * 2)
        if code != corolib.CS_OK:
            raise CarrierLost(f"{what}: {corolib.words(code)}")

    def fileno(self) -> int:
        return self._epoll.fileno()

    def send(self, payload: bytes) -> None:
        """Queue a message for everybody in the group. Raises ValueError when it is too large, CarrierBusy when Corosync
        has not taken the earlier ones yet, CarrierLost."""
        if len(payload) > MAX_PAYLOAD:
            raise ValueError(f"message of {len(payload)} bytes, at most {MAX_PAYLOAD} are sent")
        if self._closed or self._failure is not None:
            raise CarrierLost(self._failure or "closed")
        self._sender.put(bytes(payload))

    def dispatch(self) -> Sequence[Union[Delivery, View]]:
        """Everything that has arrived, in order; never blocks. Raises CarrierLost; what arrived before is given out
        first."""
        if self._closed:
            raise CarrierLost("closed")
        assert self._quorum is not None
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        if self._failure is None:
            try:
                self._take_in(self._quorum)
            except AdapterError as error:
                self._failure = str(error)
        arrived, self._arrived = self._arrived, []
        if self._failure is not None and not arrived:
            raise CarrierLost(self._failure)
        return arrived

    def _take_in(self, quorum: corosync.Quorum) -> None:
        quorum.dispatch()
        code = self._library.dispatch(self._handle, corolib.CS_DISPATCH_ALL)
        if code != corolib.CS_ERR_TRY_AGAIN:
            corolib.check("cpg_dispatch", code)
        self._emit_view()
        if corolib.hung_up((self._fd, quorum.fileno())) is not None:
            raise CarrierLost("Corosync ended the connection")

    def close(self) -> None:
        """Leave the group and free everything. Idempotent."""
        if self._closed:
            return
        self._closed = True
        sender = getattr(self, "_sender", None)
        stuck = sender is not None and not sender.stop(drain=self._failure is None)
        if not stuck and self._handle.value:  # else a thread is inside the library: leak it rather than crash
            self._library.finalize(self._handle)
            if self._quorum is not None:
                self._quorum.close()
        self._epoll.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    # --- callbacks: nothing may be raised into C

    def _on_deliver(self, _h: int, _group: object, node: int, _pid: int, data: Optional[int], size: int) -> None:
        if size > MAX_PAYLOAD or not data:
            return  # nobody of ours sends that
        payload = ctypes.string_at(data, size)
        # Deliveries come from members only; make sure that the view which says so has been given out before.
        self._emit_view()
        self._arrived.append(Delivery(self._name(node), payload))

    def _on_group(self, _h: int, _group: object, members: Any, count: int, *_lists: object) -> None:
        self._group_members = tuple(sorted({members[index].nodeid for index in range(count)}))
        self._emit_view()

    def _on_totem(self, _h: int, _ring: object, count: int, members: Any) -> None:
        self._online = tuple(sorted(members[index] for index in range(count)))
        self._emit_view()

    def _emit_view(self) -> None:
        if self._group_members is None or self._online is None or self._quorum is None:
            return
        reachable = tuple(sorted(self._name(node) for node in self._group_members))
        online = tuple(sorted(self._name(node) for node in self._online))
        view = View(reachable, online, self._quorum.quorate)
        if view != self._view:
            self._view = view
            self._arrived.append(view)

    def _name(self, node: int) -> str:
        if node not in self._names:
            with contextlib.suppress(AdapterError):
                self._names = {**corosync.node_names(), self.local_id: self.local}
        # A node that the node list does not have gets a name that no node can have.
        return self._names.get(node, f"#{node}")

    # --- the sending thread

    def _multicast(self, payload: bytes) -> int:
        buffer = ctypes.create_string_buffer(payload, len(payload))
        vector = _IoVec(ctypes.addressof(buffer), len(payload))
        return int(self._library.mcast(self._handle, CPG_TYPE_AGREED, ctypes.byref(vector), 1))

    def _sender_failed(self, code: int) -> None:
        self._failure = f"cpg_mcast_joined: {corolib.words(code)}"
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"!")


class _Sender:
    """Hands messages to the library in order, again and again while it says "try again"."""

    def __init__(self, multicast: Any, failed: Any) -> None:
        self._multicast, self._failed = multicast, failed
        self._queue: Deque[bytes] = deque()
        self._ready = threading.Condition()
        self._stop_at: Optional[float] = None  # on the monotonic clock
        self._thread = threading.Thread(target=self._work, name="cpg-sender", daemon=True)
        self._thread.start()

    def put(self, payload: bytes) -> None:
        with self._ready:
            if len(self._queue) >= MAX_QUEUED:
                raise CarrierBusy(f"{MAX_QUEUED} messages wait for Corosync")
            self._queue.append(payload)
            self._ready.notify()

    def stop(self, patience_s: float = 1.0, drain: bool = True) -> bool:
        """True when the thread has ended. drain: what is queued may be the answer that a peer waits for until this node is
        back; it is sent within half of that time, or not at all."""
        with self._ready:
            self._stop_at = time.monotonic() + (patience_s / 2 if drain else 0)
            self._ready.notify()
        self._thread.join(patience_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while True:
            with self._ready:
                while not self._queue and self._stop_at is None:
                    self._ready.wait()
                if self._stop_at is not None and (not self._queue or time.monotonic() >= self._stop_at):
                    return
                payload = self._queue[0]
            code = self._multicast(payload)
            if code == corolib.CS_OK:
                with self._ready:
                    self._queue.popleft()
            elif code in (corolib.CS_ERR_TRY_AGAIN, corolib.CS_ERR_QUEUE_FULL):
                time.sleep(RETRY_S)
            else:
                self._failed(code)
                return
