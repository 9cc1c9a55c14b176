"""Frames of switches: known ones are read, any bytes are borne; and listening on a real wire (a veth, in namespaces)."""

from __future__ import annotations

import os
from typing import Optional

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from heartgate.adapters import frame_parsers
from heartgate.adapters.frames import Target, listen
from heartgate.checks.model import Frame

SOURCE = bytes.fromhex("02005e000099")
MAC = "02:00:5e:00:00:99"


def ethernet(kind: int, payload: bytes, tags: bytes = b"") -> bytes:
    return bytes.fromhex("0180c2000000") + SOURCE + tags + kind.to_bytes(2, "big") + payload


def tlv(kind: int, value: bytes) -> bytes:
    return (kind << 9 | len(value)).to_bytes(2, "big") + value


def llc(payload: bytes) -> bytes:
    return ethernet(len(payload), payload).ljust(60, b"\0")


CHASSIS, PORT, TTL = tlv(1, b"\x04" + SOURCE), tlv(2, b"\x05swp7"), tlv(3, b"\0\x78")
BPDU = b"\x42\x42\x03" + bytes([0, 0, 0, 0, 0]) + bytes(range(8)) + bytes(4) + b"\x80\x01" + SOURCE + b"\x80\x02" + bytes(8)
CDP = b"\xaa\xaa\x03\x00\x00\x0c\x20\x00" + b"\x02\xb4\x00\x00" + b"\x00\x01\x00\x07sw9" + b"\x00\x03\x00\x09Gi0/1"
PVST = b"\xaa\xaa\x03\x00\x00\x0c\x01\x0b" + BPDU[3:]


@pytest.mark.req("B1")
@pytest.mark.parametrize(
    "data, frame",
    [
        (
            ethernet(0x88CC, CHASSIS + PORT + TTL + tlv(5, b"switch one") + tlv(0, b"")),
            Frame("lldp", MAC, "switch one, port swp7"),
        ),
        (ethernet(0x88CC, CHASSIS + PORT + TTL + tlv(0, b"")), Frame("lldp", MAC, f"{MAC}, port swp7")),
        (ethernet(0x88CC, CHASSIS + PORT, tags=b"\x81\x00\x00\x05"), Frame("lldp", MAC, f"{MAC}, port swp7")),
        (ethernet(0x88CC, b""), Frame("lldp", MAC, "")),
        (ethernet(0x88CC, CHASSIS + PORT + TTL + tlv(5, b"x" * 40)[:10]), Frame("lldp", MAC, f"{MAC}, port swp7")),  # cut
        (llc(CDP[:-3]), Frame("cdp", MAC, "sw9")),
        (ethernet(0x88CC, tlv(5, b"\x1b[2Jx")), Frame("lldp", MAC, "?[2Jx")),
        (llc(BPDU), Frame("stp", MAC, f"bridge {MAC}")),
        (llc(BPDU[:6]), Frame("stp", MAC, "")),
        (llc(PVST), Frame("stp", MAC, f"bridge {MAC}")),
        (llc(CDP), Frame("cdp", MAC, "sw9, port Gi0/1")),
        (ethernet(0x0800, bytes(46)), None),
        (ethernet(0x0806, bytes(46)), None),
        (llc(b"\xe0\xe0\x03"), None),
        (b"", None),
    ],
)
def test_known_frames(data: bytes, frame: Optional[Frame]) -> None:
    assert frame_parsers.parse(data) == frame


def test_a_group_is_no_sender() -> None:
    assert frame_parsers.source_of(bytes(6) + b"\x01\x00\x5e\0\0\1" + bytes(20)) is None
    assert frame_parsers.source_of(bytes(20)) is None
    assert frame_parsers.source_of(bytes(6) + SOURCE + bytes(2)) == MAC


HEADS = st.sampled_from(
    [ethernet(0x88CC, b""), ethernet(40, BPDU), ethernet(40, CDP), ethernet(40, PVST), ethernet(0x8100, b""), b""]
)


@settings(max_examples=1500, deadline=None)
@given(HEADS, st.binary(max_size=200), st.integers(0, 80))
@example(ethernet(0x88CC, b""), b"\xff" * 100, 80)
@example(ethernet(0x8100, b"\x00\x01\x81\x00\x00\x01\x81\x00\x00\x01\x81\x00"), b"", 80)
def test_any_bytes(head: bytes, data: bytes, cut: int) -> None:
    """Random payloads behind known heads, and known frames cut anywhere."""
    for raw in (head + data, head[:cut], data):
        frame = frame_parsers.parse(raw)
        assert frame is None or (frame.kind in ("lldp", "stp", "cdp") and frame.who.isprintable() and len(frame.who) <= 200)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_cannot_be_listened_to_has_a_reason() -> None:
    told = listen([Target("lo", 1, ("lo",)), Target("nosuch0", 9999, ("nosuch0",))], 0)
    assert told["lo"].heard is None and "no Ethernet" in told["lo"].reasons["heard"]
    assert told["nosuch0"].heard is None and told["nosuch0"].answers is None
    assert "No such device" in told["nosuch0"].reasons["heard"] and told["nosuch0"].reasons["answers"]
