"""Frames that switches send: LLDP (IEEE 802.1AB), spanning tree (802.1D, and Cisco's per-VLAN kind), CDP. Bytes in, Frame or None
out; never an exception, whatever the bytes."""

from __future__ import annotations

from typing import Iterator, Optional, Tuple

from heartgate.checks.model import Frame, printable

# Where they are sent. The first three are LLDP's, of which the first is also spanning tree's.
GROUPS = ("01:80:c2:00:00:00", "01:80:c2:00:00:03", "01:80:c2:00:00:0e", "01:00:0c:cc:cc:cc", "01:00:0c:cc:cc:cd")
ETHERTYPE_LLDP = 0x88CC
ETHERTYPE_VLAN = (0x8100, 0x88A8)
LLC_STP = b"\x42\x42\x03"
SNAP_CISCO = b"\xaa\xaa\x03\x00\x00\x0c"
CISCO_CDP, CISCO_PVST = 0x2000, 0x010B
LLDP_CHASSIS, LLDP_PORT, LLDP_NAME = 1, 2, 5
CDP_DEVICE, CDP_PORT = 0x0001, 0x0003
TEXT_SUBTYPES = {LLDP_CHASSIS: (1, 2, 3, 6, 7), LLDP_PORT: (1, 2, 5, 7)}


def mac_text(raw: bytes) -> str:
    return ":".join(f"{byte:02x}" for byte in raw)


def source_of(frame: bytes) -> Optional[str]:
    """The sender's MAC address; None for a frame that is too short or has no sender."""
    return mac_text(frame[6:12]) if len(frame) >= 14 and any(frame[6:12]) and not frame[6] & 1 else None


def parse(frame: bytes) -> Optional[Frame]:
    source = source_of(frame)
    if source is None:
        return None
    start = 12
    while int.from_bytes(frame[start : start + 2], "big") in ETHERTYPE_VLAN and start < 20:
        start += 4
    kind, payload = int.from_bytes(frame[start : start + 2], "big"), frame[start + 2 :]
    if kind == ETHERTYPE_LLDP:
        return Frame("lldp", source, _lldp_who(payload))
    if kind > 1500:
        return None
    payload = payload[:kind]
    if payload.startswith(LLC_STP):
        return Frame("stp", source, _bridge(payload[3:]))
    if payload.startswith(SNAP_CISCO):
        return _cisco(source, payload[6:])
    return None


def _cisco(source: str, payload: bytes) -> Optional[Frame]:
    protocol = int.from_bytes(payload[:2], "big")
    if protocol == CISCO_CDP:
        return Frame("cdp", source, _cdp_who(payload[2:]))
    return Frame("stp", source, _bridge(payload[2:])) if protocol == CISCO_PVST else None


def _bridge(bpdu: bytes) -> str:
    """The bridge that sent it. A topology change notice does not tell."""
    return f"bridge {mac_text(bpdu[19:25])}" if len(bpdu) >= 27 and bpdu[:2] == b"\0\0" and bpdu[3] in (0x00, 0x02) else ""


def _lldp_tlvs(payload: bytes) -> Iterator[Tuple[int, bytes]]:
    place = 0
    while place + 2 <= len(payload):
        head = int.from_bytes(payload[place : place + 2], "big")
        kind, size = head >> 9, head & 0x1FF
        if kind == 0 or place + 2 + size > len(payload):
            return
        yield kind, payload[place + 2 : place + 2 + size]
        place += 2 + size


def _lldp_who(payload: bytes) -> str:
    told = {kind: value for kind, value in _lldp_tlvs(payload) if value}
    name = _readable(told[LLDP_NAME]) if LLDP_NAME in told else _identity(LLDP_CHASSIS, told.get(LLDP_CHASSIS, b""))
    port = _identity(LLDP_PORT, told.get(LLDP_PORT, b""))
    return _joined(name, port)


def _identity(kind: int, value: bytes) -> str:
    subtype, rest = value[:1], value[1:]
    if subtype and subtype[0] in TEXT_SUBTYPES[kind]:
        return _readable(rest)
    return mac_text(rest) if len(rest) == 6 else ""


def _cdp_who(payload: bytes) -> str:
    told = {}
    place = 4  # version, time to live, checksum
    while place + 4 <= len(payload):
        kind, size = int.from_bytes(payload[place : place + 2], "big"), int.from_bytes(payload[place + 2 : place + 4], "big")
        if size < 4 or place + size > len(payload):
            break
        told[kind] = payload[place + 4 : place + size]
        place += size
    return _joined(_readable(told.get(CDP_DEVICE, b"")), _readable(told.get(CDP_PORT, b"")))


def _joined(name: str, port: str) -> str:
    return f"{name}, port {port}" if name and port else name or (f"port {port}" if port else "")


def _readable(raw: bytes) -> str:
    return printable(raw.rstrip(b"\0").decode("utf-8", "replace"), 80)
