"""team_mode.py TEAM MODE: what teamd tells the kernel first (linux/if_team.h). iproute2 makes a team, but cannot set its mode."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import sys

NETLINK_GENERIC, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 16, 16, 3, 1, 2
NLM_F_REQUEST, NLM_F_ACK, NLMSG_ERROR, NLA_F_NESTED = 1, 4, 2, 0x8000
TEAM_CMD_OPTIONS_SET, TEAM_CMD_OPTIONS_GET = 1, 2
TEAM_ATTR_TEAM_IFINDEX, TEAM_ATTR_LIST_OPTION, TEAM_ATTR_ITEM_OPTION = 1, 2, 1
OPTION_NAME, OPTION_TYPE, OPTION_DATA, NLA_STRING = 1, 3, 4, 5


def attribute(kind: int, content: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(content), kind) + content + bytes(-len(content) % 4)


def ask(netlink: socket.socket, family: int, command: int, content: bytes) -> bytes:
    """The kernel's answer after its header. Raises OSError with the kernel's reason."""
    body = struct.pack("=BBH", command, 1, 0) + content
    netlink.send(struct.pack("=IHHII", 16 + len(body), family, NLM_F_REQUEST | NLM_F_ACK, 1, 0) + body)
    answer = netlink.recv(65536)
    if struct.unpack_from("=H", answer, 4)[0] == NLMSG_ERROR:
        code = -struct.unpack_from("=i", answer, 16)[0]
        if code:
            raise OSError(code, os.strerror(code))
        return b""
    netlink.recv(65536)  # the acknowledgement
    return answer[20:]


def family_of(netlink: socket.socket, name: str) -> int:
    rest = ask(netlink, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, attribute(CTRL_ATTR_FAMILY_NAME, name.encode() + b"\0"))
    while rest:
        size, kind = struct.unpack_from("=HH", rest)
        if kind == CTRL_ATTR_FAMILY_ID:
            return int(struct.unpack_from("=H", rest, 4)[0])
        rest = rest[size + (-size % 4) :]
    raise OSError(f"the kernel gave no number for {name}")


def texts(answer: bytes) -> str:
    """Its texts of more than three letters, in their order, with a zero around each."""
    return "\0" + "\0".join(found.decode() for found in re.findall(rb"[a-z_]{4,}(?=\0)", answer)) + "\0"


def set_mode(team: str, mode: str) -> None:
    option = attribute(OPTION_NAME, b"mode\0") + attribute(OPTION_TYPE, bytes((NLA_STRING,)))
    option += attribute(OPTION_DATA, mode.encode() + b"\0")
    options = attribute(TEAM_ATTR_LIST_OPTION | NLA_F_NESTED, attribute(TEAM_ATTR_ITEM_OPTION | NLA_F_NESTED, option))
    index = attribute(TEAM_ATTR_TEAM_IFINDEX, struct.pack("=I", socket.if_nametoindex(team)))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC) as netlink:
        netlink.bind((0, 0))
        family = family_of(netlink, "team")
        with contextlib.suppress(ProcessLookupError):  # it is set, and nobody listens to be told so
            ask(netlink, family, TEAM_CMD_OPTIONS_SET, index + options)
        if f"\0mode\0{mode}\0" not in texts(ask(netlink, family, TEAM_CMD_OPTIONS_GET, index)):
            raise SystemExit(f"{team} did not take the mode {mode}")


if __name__ == "__main__":
    set_mode(*sys.argv[1:3])
