"""`drbd-fence-peer`, `drbd-unfence-peer`, `exec-fence-peer`: ask the daemon, wait without a limit, exit with its
answer.

Exit codes of fence-peer: 4 the peer's block is confirmed, 7 the peer was fenced, 1 stay frozen. Nothing else ever: 5
would mean "assume that it is dead". While no daemon answers this waits and tries again, since frozen is safe; after a
restart of the daemon it is the same question (the same handler id). It ends when its caller is gone, because nobody
would hear the answer.
"""

import os
import sys
import time

from heartgate.daemon import client

STAY_FROZEN = 1
ANSWERS = (4, 7, STAY_FROZEN)
POLL_S = 2.0  # how soon the end of the caller is noticed
PAUSES_S = (0.05, 0.1, 0.2, 0.5, 1.0)


class BadEnvironment(Exception):
    """Whoever called us did not say what this is about."""


def complain(text: str) -> None:
    """To whoever reads: the kernel's helpers often have no stderr."""
    if sys.stderr is not None:
        sys.stderr.write(text + "\n")
    import syslog

    syslog.syslog(syslog.LOG_ERR, "heartgate " + text)


def question(prefix: str, environment: "os._Environ[str]") -> "tuple[str, str]":
    """(device, peer) from DRBD_... or REPLICA_... Raises BadEnvironment."""
    device = environment.get(prefix + "_RESOURCE", "")
    peer = environment.get(prefix + "_PEER", "")
    if not peer:
        peers = environment.get(prefix + "_PEERS", "").split()
        peer = peers[0] if len(peers) == 1 else ""
    if not peer:  # DRBD 9 gives the id, and a name for each id
        peer = environment.get("DRBD_NODE_ID_" + environment.get("DRBD_PEER_NODE_ID", "none"), "")
    for name, value in ((prefix + "_RESOURCE", device), (prefix + "_PEER", peer)):
        if not is_name(value):
            raise BadEnvironment(f"{name}={value!r:.80} is missing or not a name; only the replication calls this")
    return device, peer


def is_name(value: str) -> bool:
    return 0 < len(value) <= 64 and value.isascii() and all(char.isalnum() or char in "._-" for char in value)


def identity() -> str:
    """The same for the life of this process, and for no other one: pid and start time."""
    with open("/proc/self/stat", "rb") as stat:
        fields = stat.read().rpartition(b")")[2].split()
    return f"{os.getpid()}-{int(fields[19])}"


def wait_for_verdict(line: bytes, path: str) -> int:
    caller = os.getppid()
    attempt = 0
    while os.getppid() == caller:
        try:
            code, reason = _ask_once(line, path, caller)
        except client.Unreachable as error:
            code, reason = -1, str(error)
        if code in ANSWERS:
            return code
        if attempt == len(PAUSES_S):
            complain(f"fence-peer: waiting, frozen, for heartgated: {reason}")
        time.sleep(PAUSES_S[min(attempt, len(PAUSES_S) - 1)])
        attempt += 1
    return STAY_FROZEN


def _ask_once(line: bytes, path: str, caller: int) -> "tuple[int, str]":
    connection = client.Connection(path)
    try:
        connection.send(line)
        answer = b""
        while not answer and os.getppid() == caller:
            answer = connection.receive(POLL_S)
    finally:
        connection.close()
    return client.number_in(answer, b"exit"), client.text_in(answer, b"error")


def fence_peer(prefix: str = "DRBD", path: str = client.SOCKET) -> int:
    try:
        device, peer = question(prefix, os.environ)
    except BadEnvironment as error:
        complain(f"fence-peer: {error}")
        return STAY_FROZEN
    return wait_for_verdict(client.request("fence-peer", device=device, peer=peer, handler=identity()), path)


def unfence_peer(prefix: str = "DRBD", path: str = client.SOCKET) -> int:
    """Only tells; the daemon sees the same in the replication's own events, so it does not matter if nobody listens."""
    try:
        device, peer = question(prefix, os.environ)
        client.ask(client.request("unfence-peer", device=device, peer=peer), 2.0, path)
    except (BadEnvironment, client.Unreachable) as error:
        complain(f"unfence-peer: {error}")
    return 0
