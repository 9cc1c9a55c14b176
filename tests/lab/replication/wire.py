"""What travels: messages over a connection, writes under way, and the errors between them."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from typing import Any, Dict, Optional

Json = Dict[str, Any]


class Refused(Exception):
    """The request cannot be granted; the text says why."""


class Link:
    """One connection to the peer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.heard = time.monotonic()
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def send(self, message: Json) -> None:
        self.writer.write(json.dumps(message).encode() + b"\n")

    async def receive(self) -> Json:
        line = await self.reader.readline()
        if not line.endswith(b"\n"):
            raise ConnectionError("closed by the peer")
        self.heard = time.monotonic()
        value: Json = json.loads(line)
        return value

    def close(self) -> None:
        self.writer.transport.abort()


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stream:
            return stream.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Write:
    """A write under way: `stored` here, to be acknowledged through `done`."""

    def __init__(self, number: int, value: str) -> None:
        self.number, self.value, self.stored = number, value, False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def finish(self, error: Optional[str] = None) -> None:
        if not self.done.done():
            if error is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(Refused(error))
