"""Speed, duplex, driver, bus address and permanent MAC of an interface, by the SIOCETHTOOL ioctl (linux/ethtool.h).

The ioctl and not ethtool's netlink family: that one tells neither bus address nor permanent MAC, pyroute2's class for it differs
between versions, and sysfs shows the interfaces of the namespace in which it was mounted, which need not be ours.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from typing import Dict, NamedTuple, Optional

SIOCETHTOOL = 0x8946
GDRVINFO, GPERMADDR, GLINKSETTINGS = 0x03, 0x20, 0x4C
DRVINFO_SIZE, PERMADDR_SIZE, SETTINGS_HEAD = 196, 40, 48
SPEED_UNKNOWN = 0xFFFFFFFF
DUPLEX = {0: "half", 1: "full"}
NAME_MAX = 15  # IFNAMSIZ without the final zero


class Settings(NamedTuple):
    speed_mbit: Optional[int]
    duplex: Optional[str]


class Ethtool:
    """One socket for any number of questions. Every question raises OSError with the kernel's reason (EOPNOTSUPP: the driver does
    not tell)."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def __enter__(self) -> Ethtool:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def driver(self, name: str) -> Dict[str, str]:
        """`driver` and `bus`; empty where it has none."""
        raw = self._ask(name, struct.pack("=I", GDRVINFO), DRVINFO_SIZE)
        bus = _text(raw[100:132])
        return {"driver": _text(raw[4:36]), "bus": "" if bus == "N/A" else bus}

    def permanent_mac(self, name: str) -> Optional[str]:
        """None: it has none, as virtual interfaces."""
        raw = self._ask(name, struct.pack("=II", GPERMADDR, 32), PERMADDR_SIZE)
        size = struct.unpack_from("=I", raw, 4)[0]
        address = raw[8 : 8 + min(size, 32)]
        return ":".join(f"{byte:02x}" for byte in address) if any(address) else None

    def settings(self, name: str) -> Settings:
        """The kernel first tells how many words its masks have, and answers when it is asked with that number."""
        raw = self._ask(name, struct.pack("=I", GLINKSETTINGS), SETTINGS_HEAD)
        words = -struct.unpack_from("=b", raw, 15)[0]
        if not 0 < words <= 127:
            raise OSError(errno.EPROTO, "the kernel's answer has no mask size")
        question = struct.pack("=I11xb", GLINKSETTINGS, words)
        raw = self._ask(name, question, SETTINGS_HEAD + 3 * 4 * words)
        speed, duplex = struct.unpack_from("=IB", raw, 4)
        return Settings(speed if 0 < speed < SPEED_UNKNOWN else None, DUPLEX.get(duplex))

    def _ask(self, name: str, question: bytes, size: int) -> bytes:
        raw_name = os.fsencode(name)
        if not 0 < len(raw_name) <= NAME_MAX:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        buffer = ctypes.create_string_buffer(question, size)
        request = struct.pack("16sP16x", raw_name, ctypes.addressof(buffer))
        fcntl.ioctl(self._socket.fileno(), SIOCETHTOOL, request)
        return buffer.raw


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace").strip()
