"""The control socket: root's processes on this node ask, one JSON object a line.

Only the transport is here: who may connect, how much, how long. What a request means is in `heartgate.daemon.requests`.
Nothing that a client does (garbage, endless lines, reading nothing, vanishing) disturbs anybody else.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable, Dict, Optional

from heartgate.core import codec
from heartgate.core.codec import CodecError
from heartgate.daemon.loop import READ, WRITE, Loop

MAX_CLIENTS = 1024
MAX_LINE = 32 * 1024
MAX_UNSENT = 4 * 1024 * 1024
IDLE_S = 10.0  # without a whole request, or with an answer that is not read
SWEEP_S = 2.0

Dispatch = Callable[["Client", Mapping[str, Any]], None]


class Client:
    """One connection, one request at a time. reply() may come much later, or never, if it goes away first."""

    def __init__(self, server: ControlServer, connection: socket.socket) -> None:
        self._server = server
        self._connection = connection
        self._input = b""
        self._output = b""
        self._finished = False  # it sends nothing any more; waits for its answer
        self._since = time.monotonic()
        self.fd = connection.fileno()
        self.busy = False  # a request has not been answered
        self.gone: Optional[Callable[[], None]] = None  # called once when the connection is closed
        self.open = True

    def reply(self, answer: Mapping[str, object]) -> None:
        """Loop thread. Does nothing if the client is gone."""
        if not self.open:
            return
        self.busy = False
        self._since = time.monotonic()
        self._output += codec.to_json(answer) + b"\n"
        if len(self._output) > MAX_UNSENT:
            self.close()
            return
        self._write()

    def ready(self, events: int) -> None:
        if events & WRITE and self.open:
            self._write()
        if events & READ and self.open and not self._finished:
            self._read()

    def _read(self) -> None:
        try:
            data = self._connection.recv(65536)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        if not data:
            self._ended()
            return
        self._input += data
        self._next()

    def _ended(self) -> None:
        """End of its input. Whoever waits for a verdict and closes has given up; an answer under way is still
        delivered."""
        self._finished = True
        if self.busy or not self._output:
            self.close()
        else:
            self._server.watch(self)

    def _next(self) -> None:
        while self.open and not self.busy and not self._finished:
            line, newline, rest = self._input.partition(b"\n")
            if not newline:
                break
            if len(line) > MAX_LINE:
                self._reject(f"a request of {len(line)} bytes; at most {MAX_LINE} are allowed")
                return
            self._input = rest
            self._handle(line)
        if len(self._input) > MAX_LINE:
            self._reject("too many requests at once" if self.busy else f"no end of line within {MAX_LINE} bytes")

    def _handle(self, line: bytes) -> None:
        try:
            request = codec.parse_json(line, MAX_LINE)
        except CodecError as error:
            self._reject(f"not a request: {error}")
            return
        if not isinstance(request, dict) or not isinstance(request.get("op"), str):
            self._reject("not a request: an object with the field op is expected")
            return
        self.busy = True
        self._since = time.monotonic()
        self._server.dispatch(self, request)

    def _reject(self, reason: str) -> None:
        """One clear line, then the end: what follows garbage cannot be trusted."""
        self._input = b""
        self._finished = True
        self.reply({"ok": False, "error": reason})
        if self.open and not self._output:
            self.close()

    def _write(self) -> None:
        if self._output:
            try:
                self._output = self._output[self._connection.send(self._output) :]
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:
                self.close()
                return
        if self._finished and not self._output:
            self.close()
            return
        self._server.watch(self)
        if self._input and not self.busy and not self._output:
            self._server.loop.soon(self._next)

    @property
    def events(self) -> int:
        return (0 if self._finished else READ) | (WRITE if self._output else 0)

    def overdue(self, now: float) -> bool:
        return (not self.busy or bool(self._output)) and now - self._since > IDLE_S

    def close(self) -> None:
        if not self.open:
            return
        self.open = False
        self._server.left(self)
        self._connection.close()
        if self.gone is not None:
            self.gone()


class ControlServer:
    """Loop thread only."""

    def __init__(self, loop: Loop, path: Path, dispatch: Dispatch, allowed_uid: int = 0) -> None:
        self.loop = loop
        self.refused = 0
        self._path = path
        self._dispatch = dispatch
        self._allowed_uid = allowed_uid
        self._clients: Dict[int, Client] = {}
        self._listener = _listen(path)
        loop.watch(self._listener.fileno(), lambda _: self._accept())
        loop.after(SWEEP_S, self._sweep)

    def dispatch(self, client: Client, request: Mapping[str, Any]) -> None:
        try:
            self._dispatch(client, request)
        except Exception as error:  # noqa: BLE001 - the asker is told, everybody else goes on
            client.reply({"ok": False, "error": f"the request failed: {type(error).__name__}: {error}"})
            raise

    def watch(self, client: Client) -> None:
        if client.events:
            self.loop.watch(client.fd, client.ready, client.events)
        else:
            self.loop.forget(client.fd)

    def left(self, client: Client) -> None:
        self.loop.forget(client.fd)
        self._clients.pop(client.fd, None)

    def _accept(self) -> None:
        for _ in range(64):  # then the others have their turn
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                return  # out of descriptors: those who wait connect later
            self._admit(connection)

    def _admit(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        reason = ""
        if _uid_of(connection) != self._allowed_uid:
            reason = "only root may use the control socket"
        elif len(self._clients) >= MAX_CLIENTS:
            reason = f"too many clients ({MAX_CLIENTS})"
        if reason:
            self.refused += 1
            with contextlib.suppress(OSError):
                connection.send(codec.to_json({"ok": False, "error": reason}) + b"\n")
            connection.close()
            return
        client = Client(self, connection)
        self._clients[client.fd] = client
        self.watch(client)

    def _sweep(self) -> None:
        self.loop.after(SWEEP_S, self._sweep)
        now = time.monotonic()
        for client in list(self._clients.values()):
            if client.overdue(now):
                client.close()

    def close(self) -> None:
        self.loop.forget(self._listener.fileno())
        self._listener.close()
        with contextlib.suppress(OSError):
            self._path.unlink()
        for client in list(self._clients.values()):
            client.gone = None
            client.close()


def _listen(path: Path) -> socket.socket:
    """The lock is held already, so whatever is at that path is a leftover."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(512)
    return listener


def _uid_of(connection: socket.socket) -> int:
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(uid)
