"""The other end of the control socket, for processes that start often: imports almost nothing.

`_socket` and not `socket`: the latter costs as much as everything else together. Answers are JSON; those that a fast
caller reads begin with `{"rc":N,"message":"..."` or `{"exit":N,"reason":"..."`, so that no parser is needed.
"""

import _socket

SOCKET = "/run/heartgate/control.sock"
ALERT_SOCKET = "/run/heartgate-alert/socket"
NUDGE = b"fencing"  # see heartgate.daemon.nudges
MAX_REPLY = 8 * 1024 * 1024


class Unreachable(Exception):
    """No daemon answers at the socket. errno: of the connection that could not be made, else 0."""

    def __init__(self, text: str, errno: int = 0) -> None:
        super().__init__(text)
        self.errno = errno


def quote(text: str) -> str:
    """A JSON string; whatever is not printable ASCII becomes an escape."""
    out = []
    for char in text:
        code = ord(char)
        if char in '"\\':
            out.append("\\" + char)
        elif 32 <= code < 127:
            out.append(char)
        elif code < 0x10000:
            out.append(f"\\u{code:04x}")
        else:
            code -= 0x10000
            out.append(f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}")
    return '"' + "".join(out) + '"'


def request(op: str, **fields: str) -> bytes:
    """One line of the protocol."""
    pairs = [f"{quote(name)}:{quote(value)}" for name, value in {"op": op, **fields}.items()]
    return ("{" + ",".join(pairs) + "}\n").encode("ascii")


class Connection:
    """Raises Unreachable for everything that means: no daemon, or no longer the same one."""

    def __init__(self, path: str = SOCKET, timeout_s: float = 5.0) -> None:
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        self._input = b""
        try:
            self._socket.settimeout(timeout_s)
            self._socket.connect(path)
        except OSError as error:
            self.close()
            raise Unreachable(f"{path}: {error.strerror or error}", error.errno or 0) from None

    def send(self, line: bytes) -> None:
        try:
            while line:
                line = line[self._socket.send(line) :]
        except OSError as error:
            raise Unreachable(f"the daemon does not take the request: {error.strerror or error}") from None

    def receive(self, timeout_s: float) -> bytes:
        """One line, or b"" if none came in that time; ask again for as long as you like."""
        self._socket.settimeout(timeout_s)
        while b"\n" not in self._input:
            try:
                data = self._socket.recv(65536)
            except _socket.timeout:
                return b""
            except OSError as error:
                raise Unreachable(f"the daemon went away: {error.strerror or error}") from None
            if not data:
                raise Unreachable("the daemon closed the connection")
            self._input += data
            if len(self._input) > MAX_REPLY:
                raise Unreachable("the daemon's answer does not end")
        line, _, self._input = self._input.partition(b"\n")
        return line

    def close(self) -> None:
        self._socket.close()


def ask(line: bytes, timeout_s: float, path: str = SOCKET) -> bytes:
    """One question, one answer. Raises Unreachable, also when there is no answer in that time."""
    connection = Connection(path, timeout_s)
    try:
        connection.send(line)
        answer = connection.receive(timeout_s)
    finally:
        connection.close()
    if not answer:
        raise Unreachable(f"the daemon does not answer within {timeout_s:g} s")
    return answer


def nudge(path: str = ALERT_SOCKET) -> None:
    """Have the daemon look at Pacemaker's fencing history. Never waits. Raises Unreachable."""
    channel = None
    try:
        channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
        channel.sendto(NUDGE, path)
    except BlockingIOError:
        pass  # its queue is full, so it is about to look anyway
    except OSError as error:
        raise Unreachable(f"{path}: {error.strerror or error}") from None
    finally:
        if channel is not None:
            channel.close()


def number_in(answer: bytes, name: bytes) -> int:
    """N of `{"name":N,...`; -1 if the answer does not begin so."""
    head = b'{"' + name + b'":'
    digits = answer[len(head) :].split(b",", 1)[0].rstrip(b"}")
    return int(digits) if answer.startswith(head) and digits.isdigit() and len(digits) < 4 else -1


def text_in(answer: bytes, name: bytes) -> str:
    """The first text of that name, for messages; "" if there is none."""
    _, found, rest = answer.partition(b'"' + name + b'":"')
    return rest.split(b'"', 1)[0].decode("ascii", "replace") if found else ""
