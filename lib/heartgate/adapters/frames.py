"""Listening on interfaces for a bounded time, and a ping to all nodes of each link: who else is on this wire?

Nothing stays changed: the multicast groups are joined by the sockets alone and go with them, and nothing is made promiscuous. A
filter in the kernel hands over only what is sent to groups, ARP and ICMPv6, so that a busy link costs nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import socket
import struct
import time
from functools import partial
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple, Union

from heartgate.adapters import frame_parsers
from heartgate.checks.model import Frame, Heard, printable

SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_MR_MULTICAST = 263, 1, 0
SO_ATTACH_FILTER = 26
ETH_P_ALL, ARPHRD_ETHER, PACKET_OUTGOING = 3, 1, 4
SNAP_BYTES = 1600
MAX_SOURCES = 256
MAX_FRAMES = 64

ALL_NODES = "ff02::1"
ECHO_REQUEST, ECHO_REPLY = 128, 129
PINGS_AT_S = (0.0, 0.4, 0.8)
ANSWERS_WITHIN_S = 2.0

# (code, jump if true, jump if false, k) of classic BPF, as `tcpdump -dd "inbound and (multicast or arp or icmp6)"` has it.
_FILTER: Tuple[Tuple[int, int, int, int], ...] = (
    (0x28, 0, 0, 0xFFFFF004),  # packet type
    (0x15, 7, 0, PACKET_OUTGOING),
    (0x30, 0, 0, 0),  # first byte of the destination
    (0x45, 6, 0, 0x01),  # a group
    (0x28, 0, 0, 12),
    (0x15, 4, 0, 0x0806),  # ARP
    (0x15, 0, 2, 0x86DD),
    (0x30, 0, 0, 20),
    (0x15, 1, 0, 58),  # ICMPv6
    (0x06, 0, 0, 0),
    (0x06, 0, 0, SNAP_BYTES),
)


class Target(NamedTuple):
    """An interface to listen on. `number`: its index. `devices`: itself and the members below it."""

    name: str
    number: int
    devices: Tuple[str, ...]


class Outcome(NamedTuple):
    """`heard` and `answers` are None where it could not be done; then `reasons` says why, by the fact's name."""

    heard: Optional[Heard]
    answers: Optional[Tuple[str, ...]]
    reasons: Mapping[str, str]


def listen(
    targets: Sequence[Target], seconds: float, tick: Callable[[float], None] = lambda remaining: None
) -> Mapping[str, Outcome]:
    """Listen on all of them at once, and ping. `tick` is told about once a second how many seconds are left. Never raises."""
    with contextlib.ExitStack() as sockets:
        ears = [_Ear(target, sockets) for target in targets]
        poll = select.epoll()
        sockets.callback(poll.close)
        handlers: Dict[int, Callable[[], None]] = {}
        for ear in ears:
            handlers.update(ear.handlers())
        for descriptor in handlers:
            poll.register(descriptor, select.EPOLLIN)
        started = time.monotonic()
        seconds = seconds if handlers else 0.0  # nobody to wait for
        _run(ears, poll, handlers, started + max(seconds, ANSWERS_WITHIN_S if handlers else 0.0), tick)
        return {ear.target.name: ear.outcome(time.monotonic() - started) for ear in ears}


def _run(
    ears: Sequence[_Ear],
    poll: select.epoll,
    handlers: Mapping[int, Callable[[], None]],
    end: float,
    tick: Callable[[float], None],
) -> None:
    started = time.monotonic()
    pings = list(PINGS_AT_S)
    told = started
    while True:
        now = time.monotonic()
        if pings and now - started >= pings[0]:
            pings.pop(0)
            for ear in ears:
                ear.ping()
        if now - told >= 1.0:
            told = now
            tick(max(0.0, end - now))
        if now >= end:
            return
        next_at = min(end, started + pings[0] if pings else end, told + 1.0)
        for descriptor, event in poll.poll(max(0.0, next_at - now)):
            if event & ~select.EPOLLIN:
                with contextlib.suppress(OSError):
                    poll.unregister(descriptor)
            handlers[descriptor]()


class _Ear:
    def __init__(self, target: Target, sockets: contextlib.ExitStack) -> None:
        self.target = target
        self._reasons: Dict[str, str] = {}
        self._frames: Set[Frame] = set()
        self._sources: Set[str] = set()
        self._answers: Set[str] = set()
        self._taps: List[socket.socket] = []
        self._echo: Optional[socket.socket] = None
        self._ident = os.getpid() & 0xFFFF
        try:
            self._taps = [sockets.enter_context(_tap(name)) for name in target.devices]
        except OSError as error:
            self._reasons["heard"] = _words(error)
        try:
            self._echo = sockets.enter_context(_echo_socket(target))
        except OSError as error:
            self._reasons["answers"] = _words(error)

    def handlers(self) -> Dict[int, Callable[[], None]]:
        found: Dict[int, Callable[[], None]] = {tap.fileno(): partial(self._tapped, tap) for tap in self._taps}
        if self._echo is not None:
            found[self._echo.fileno()] = self._answered
        return found

    def ping(self) -> None:
        if self._echo is None:
            return
        request = struct.pack("!BBHHH", ECHO_REQUEST, 0, 0, self._ident, 1) + b"heartgate"
        try:
            self._echo.sendto(request, (ALL_NODES, 0, 0, self.target.number))
        except OSError as error:
            self._reasons["answers"] = f"no ping could be sent: {_words(error)}"

    def outcome(self, seconds: float) -> Outcome:
        heard = Heard(round(seconds, 1), tuple(sorted(self._frames, key=repr)), tuple(sorted(self._sources)))
        answers = tuple(sorted(self._answers))
        return Outcome(
            None if "heard" in self._reasons else heard, None if "answers" in self._reasons else answers, self._reasons
        )

    def _tapped(self, tap: socket.socket) -> None:
        try:
            data = tap.recv(SNAP_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError as error:  # the interface went down or away
            self._reasons["heard"] = f"it could not be listened to until the end: {_words(error)}"
            return
        source, frame = frame_parsers.source_of(data), frame_parsers.parse(data)
        if source and len(self._sources) < MAX_SOURCES:
            self._sources.add(source)
        if frame and len(self._frames) < MAX_FRAMES:
            self._frames.add(frame)

    def _answered(self) -> None:
        assert self._echo is not None
        try:
            data, sender = self._echo.recvfrom(SNAP_BYTES, socket.MSG_DONTWAIT)
        except OSError:
            return
        reply = len(data) >= 8 and data[0] == ECHO_REPLY and struct.unpack_from("!H", data, 4)[0] == self._ident
        if reply and sender[3] == self.target.number and len(self._answers) < MAX_SOURCES:
            self._answers.add(str(sender[0]).partition("%")[0])


def _tap(name: str) -> socket.socket:
    """Every frame that comes in on one device. Bound last, so that nothing of another device is ever in its queue."""
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
    try:
        instructions = b"".join(struct.pack("=HBBI", *line) for line in _FILTER)
        buffer = ctypes.create_string_buffer(instructions)
        program = struct.pack("HP", len(_FILTER), ctypes.addressof(buffer))
        tap.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
        tap.bind((name, ETH_P_ALL))
        if tap.getsockname()[3] != ARPHRD_ETHER:
            raise OSError(f"{name} is no Ethernet interface")
        index = socket.if_nametoindex(name)
        for group in frame_parsers.GROUPS:
            address = bytes.fromhex(group.replace(":", ""))
            request = struct.pack("=iHH8s", index, PACKET_MR_MULTICAST, len(address), address)
            tap.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, request)
    except BaseException:
        tap.close()
        raise
    return tap


def _echo_socket(target: Target) -> socket.socket:
    echo = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMPV6)
    try:
        echo.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, os.fsencode(target.name) + b"\0")
        echo.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, target.number)
        echo.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
        echo.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
    except BaseException:
        echo.close()
        raise
    return echo


def _words(error: Union[OSError, Exception]) -> str:
    if isinstance(error, PermissionError):
        return "only root may do that"
    return printable(str(getattr(error, "strerror", None) or error))
