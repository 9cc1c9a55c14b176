"""Sockets between the test process and QEMU: line channels (virtio-serial ports) and QMP."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
import time
from typing import Any, Callable, Dict, Optional

from tests.lab.api import LabError

CONNECT_TIMEOUT_S = 60.0


class LineChannel:
    """A unix stream socket read line by line in a thread of its own."""

    def __init__(
        self, path: str, on_line: Callable[[bytes], None], name: str, on_close: Optional[Callable[[], None]] = None
    ) -> None:
        self.path, self._on_line, self._on_close = path, on_line, on_close
        self._socket = _connect(path)
        self._send_lock = threading.Lock()
        threading.Thread(target=self._read, name=f"lab-{name}", daemon=True).start()

    def send(self, line: bytes) -> None:
        with self._send_lock:
            try:
                self._socket.sendall(line + b"\n")
            except OSError as error:
                raise LabError(f"{self.path}: {error} (is the machine off?)") from error

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _read(self) -> None:
        rest = b""
        while True:
            try:
                data = self._socket.recv(65536)
            except OSError:
                data = b""
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._on_line(line)
        if self._on_close is not None:
            self._on_close()


def _connect(path: str) -> socket.socket:
    deadline = time.monotonic() + CONNECT_TIMEOUT_S
    while True:
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            stream.connect(path)
            return stream
        except OSError as error:
            stream.close()
            if time.monotonic() > deadline:
                raise LabError(f"no connection to {path} within {CONNECT_TIMEOUT_S:g} s: {error}") from error
            time.sleep(0.01)


class Qmp:
    """QEMU's control protocol: one command at a time, events to a callback (in the reading thread)."""

    def __init__(self, path: str, name: str, on_event: Optional[Callable[[str, Dict[str, Any]], None]] = None) -> None:
        self._answers: queue.Queue[Dict[str, Any]] = queue.Queue()
        self._lock = threading.Lock()
        self._on_event = on_event
        self._name = name
        self._channel = LineChannel(
            path, self._line, f"qmp-{name}", lambda: self._answers.put({"error": {"desc": "connection lost"}})
        )
        self.execute("qmp_capabilities")

    def execute(self, command: str, timeout_s: float = 20.0, **arguments: Any) -> Any:
        request: Dict[str, Any] = {"execute": command}
        if arguments:
            request["arguments"] = arguments
        with self._lock:
            self._channel.send(json.dumps(request).encode())
            try:
                answer = self._answers.get(timeout=timeout_s)
            except queue.Empty:
                raise LabError(f"{self._name}: QEMU did not answer {command} within {timeout_s:g} s") from None
        if "error" in answer:
            raise LabError(f"{self._name}: QEMU refused {command}: {answer['error'].get('desc')}")
        return answer["return"]

    def close(self) -> None:
        self._channel.close()

    def _line(self, line: bytes) -> None:
        message = json.loads(line)
        if "event" in message:
            if self._on_event is not None:
                self._on_event(message["event"], message.get("data", {}))
        elif "QMP" not in message:
            self._answers.put(message)
