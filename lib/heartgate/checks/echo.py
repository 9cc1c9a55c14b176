"""ICMPv6 echo to all nodes of a link (RFC 4443, ff02::1), as bytes. Pure: the adapter sends and receives them."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Union

ECHO_REQUEST, ECHO_REPLY = 128, 129
MAGIC = b"heartgate?"
TOKEN_BYTES = 8
HEADER = struct.Struct("!BBHHH")


@dataclass(frozen=True)
class Reply:
    """An answer to one of our probes."""

    sequence: int


@dataclass(frozen=True)
class Ignored:
    """A packet that is no answer to ours, and why."""

    reason: str


def request(identifier: int, sequence: int, token: bytes) -> bytes:
    """The checksum is left to the kernel, which fills it in for raw ICMPv6 sockets (RFC 3542)."""
    return HEADER.pack(ECHO_REQUEST, 0, 0, identifier & 0xFFFF, sequence & 0xFFFF) + MAGIC + token


def parse(packet: bytes, identifier: int, token: bytes) -> Union[Reply, Ignored]:
    """What a received packet is, seen from the prober with this identifier and token."""
    if len(packet) < HEADER.size:
        return Ignored(f"{len(packet)} bytes are less than an ICMPv6 header")
    kind, code, _checksum, its_identifier, sequence = HEADER.unpack_from(packet)
    if kind != ECHO_REPLY or code != 0:
        return Ignored(f"type {kind}, code {code} is no echo reply")
    if its_identifier != identifier & 0xFFFF or packet[HEADER.size :] != MAGIC + token:
        return Ignored("an echo reply to somebody else, or with a changed payload")
    return Reply(sequence)
