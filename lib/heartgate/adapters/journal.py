"""Structured messages to systemd's journal, by a datagram that is never waited for.

python-systemd has a ready-made send(), but it blocks when the journal is slow, and the journal may lie on the very
storage that hangs. So the (stable, documented) native protocol is spoken here:
https://systemd.io/JOURNAL_NATIVE_PROTOCOL/. Without a journal the message goes to syslog's socket, without that to
stderr; when none of them takes it at once it is dropped and counted.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import sys
from typing import Dict, List, NamedTuple, Optional

JOURNAL_SOCKET = "/run/systemd/journal/socket"
SYSLOG_SOCKET = "/dev/log"
FIELD_LIMIT = 16 * 1024  # characters of one field
FIELD_NAME = re.compile(r"[^A-Z0-9_]")
LOG_DAEMON = 3 << 3
ERROR, WARNING, NOTICE, INFO = 3, 4, 5, 6


class Kind(NamedTuple):
    """One kind of message. uuid never changes once released; text: for the journal's catalog."""

    uuid: str
    priority: int
    subject: str
    text: str


KINDS: Dict[str, Kind] = {
    "rule": Kind(
        "5a1c0a3e6d2f4b0c9e6b7f0d1c8a4e21", INFO, "A rule of the policy fired",
        "HEARTGATE_RULE names the rule, HEARTGATE_EPOCH the epoch in which it fired.\n"
        "`heartgate explain` replays the verdict from the recorded facts."),
    "standing": Kind(
        "0d7e4bb39a514f27a6e3c2f1b85d9c02", NOTICE, "The standing of the replica of @HEARTGATE_DEVICE@ changed",
        "New standing: @HEARTGATE_STANDING@. Only `synced` and `solo` may serve."),
    "solo": Kind(
        "c8f27a106eb94d5f8a0d3b9e47c15f03", WARNING, "@HEARTGATE_DEVICE@ goes on alone on this node",
        "Every other replica is known not to serve; HEARTGATE_PROOFS tells how that is known.\n"
        "There is no second up-to-date copy until replication is back and a resync has ended."),
    "blocked": Kind(
        "71b3f5d8c04e4e1ab2967c5d0fa83e04", WARNING, "@HEARTGATE_DEVICE@ is blocked on this node",
        "Another node goes on with this device, so this replica refuses reads and writes.\n"
        "The block is lifted when the replication link is back and the replica is up to date.\n"
        "It survives power loss and reboot."),
    "deciding": Kind(
        "e4965c2d71f84ab3930b1f7de26a8c05", WARNING, "@HEARTGATE_DEVICE@ is frozen until a verdict",
        "Writes wait. They go on or are refused as soon as the nodes have decided, or a fencing has completed."),
    "readmitted": Kind(
        "19d0a7e3b56c4f88815e2c4d9b730f06", NOTICE, "@HEARTGATE_DEVICE@ is in sync again",
        "The replicas are connected and up to date; earlier blocks and proofs have ended."),
    "unproven": Kind(
        "a3c64e1f28d9405bb7f05d8e16c92a07", WARNING, "The data of @HEARTGATE_DEVICE@ may be old",
        "This node restarted while it was not alone with the data, and has met no peer since. It waits to meet one.\n"
        "`heartgate mark-synchronized` lets a person decide, and shows first what would be lost."),
    "fence-asked": Kind(
        "5f81b2c09d3e46a7ae44607b9c1d3e08", WARNING, "Pacemaker was asked to fence @HEARTGATE_NODE@",
        "The node did not confirm that it is blocked. Nothing goes on before the fencing has completed."),
    "fence-seen": Kind(
        "d26e9b47f1034c60925a8e7f3bc04d09", NOTICE, "A fencing of @HEARTGATE_NODE@ ended",
        "HEARTGATE_OK tells whether it succeeded, HEARTGATE_MANUAL whether a person vouched for it."),
    "fence-passed": Kind(
        "1a2ae526a8da49f6b6721a9aeebd4e97", NOTICE, "This node may fence @HEARTGATE_NODE@",
        "The next device of the fencing level cuts the power. HEARTGATE_RULE names the rule that gave the answer,\n"
        "HEARTGATE_FACTS what it was based on, HEARTGATE_SOURCE whether the daemon or only its files could be asked."),
    "fence-refused": Kind(
        "67f575aa9fe0442f92947ccd8166deac", WARNING, "This node does not fence @HEARTGATE_NODE@",
        "HEARTGATE_RULE names the rule that gave the answer, HEARTGATE_FACTS what it was based on.\n"
        "The agent that cuts the power was not called. docs/fence_heartgate.md lists the rules."),
    "handler": Kind(
        "86f3d01e5ac74928b07d4e2a95b1c60a", NOTICE, "A replication handler was answered",
        "HEARTGATE_CODE: 4 = the peer is blocked, 7 = the peer was fenced, 1 = stay frozen."),
    "action-failed": Kind(
        "3b90e7d5641c4fa2806cd19f27e85b0b", ERROR, "An action on @HEARTGATE_DEVICE@ failed",
        "HEARTGATE_ACTION names it, HEARTGATE_HOW the reason. The policy treats it as not done."),
    "flush": Kind(
        "f05a42c7983e4d16bd3c7e60a1928f0c", NOTICE, "Caches of @HEARTGATE_DEVICE@ were flushed",
        "One message for each target: HEARTGATE_TARGET, HEARTGATE_HOW, HEARTGATE_ELAPSED_MS."),
    "flush-failed": Kind(
        "4e7c15d9b2a04836957fd0e83b6ac10d", ERROR, "A flush of @HEARTGATE_DEVICE@ failed",
        "This node is the only copy, and @HEARTGATE_TARGET@ may still hold data that is not on stable storage.\n"
        "The verdict stands; look at the target and run `heartgate flush` again."),
    "source-lost": Kind(
        "b92d8f6e07c34a51a8e1f5d3704b9c0e", ERROR, "A source of facts ended",
        "What it told is unknown until it has been read anew; unknown is never taken for down, off or dead."),
    "carrier": Kind(
        "60e1c9a8f75d4b2394bd07e2c63a510f", WARNING, "The connection to the other nodes' daemons changed",
        "HEARTGATE_REACHABLE: nodes whose daemon can be heard. HEARTGATE_ONLINE: Corosync's members."),
    "setup": Kind(
        "2ca7f03b9e684d15b60fd4e8915c7a10", ERROR, "The set-up of @HEARTGATE_DEVICE@ is not safe",
        "HEARTGATE_REMEDY holds what to change. `heartgate check` lists everything."),
    "invariant": Kind(
        "97be35d0c1f24e6a8d5b0f72ea64c311", ERROR, "An action was refused, since it would break an invariant",
        "This is an error in heartgate. The device stays as it is; please report the message with its fields."),
    "daemon": Kind(
        "ed4870b6a3294c1fb95e2d7c0f816a12", INFO, "The node daemon",
        "Start, stop and state of heartgated itself."),
    "self-reset": Kind(
        "0a5fd3c7e8614b92a7d9361ce05b4f13", ERROR, "This node resets itself",
        "A blocked device has users inside the kernel, which would acknowledge writes that are going to be lost."),
    "sync-link": Kind(
        "504038bcd8e6499fa166611ea2f7dfeb", NOTICE, "The carrier of an interface for replication changed",
        "HEARTGATE_INTERFACE names it. When the last of a device's sync_interfaces has no carrier, its connection is\n"
        "given up at once."),
    "heartbeat-link": Kind(
        "8d6f0c1b5e7a4c3f9b2a61d47e90c513", NOTICE, "A heartbeat interface changed",
        "HEARTGATE_INTERFACE names it, HEARTGATE_STATE tells what is known of its carrier. The node attribute HEARTGATE_ATTRIBUTE\n"
        "follows; no service is stopped by that alone."),
    "operation": Kind(
        "1e1e3e391f814e5a8a99544f924e3247", NOTICE, "An action on @HEARTGATE_DEVICE@ was carried out",
        "HEARTGATE_ACTION names it, HEARTGATE_HOW tells what the driver did."),
    "publish": Kind(
        "cae2da11a0504ff183f0232a24872ffc", NOTICE, "Pacemaker takes the node attributes again",
        "Writing HEARTGATE_DEVICE had failed before; its value is HEARTGATE_VALUE now."),
    "bad-message": Kind(
        "37d0275eb0a04c42b0e6df4ba063cce3", WARNING, "A message in the group was refused",
        "It could not be read, or said something impossible. Nothing follows from it."),
    "unknown-device": Kind(
        "c337a237abc64bf7a4bb2383eb80262d", INFO, "Another node tells about a device that is not guarded here",
        "Expected while the resource replica-guard starts on one node after the other."),
    "internal": Kind(
        "f90e08c4381641dfb1fd3fe686d551c3", ERROR, "An error inside heartgated",
        "What failed was left undone. Please report the message with its fields."),
    "operator": Kind(
        "c1386e9f5b7a42d0916de4fb02a87c14", WARNING, "A person decided about @HEARTGATE_DEVICE@",
        "HEARTGATE_COMMAND is what was ordered, HEARTGATE_UID who ordered it."),
}  # fmt: skip


def catalog_text() -> str:
    """Contents of the journal's message catalog (packaging/heartgate.catalog)."""
    entries = []
    for name, kind in KINDS.items():
        entries.append(f"# {name}\n-- {kind.uuid}\nSubject: {kind.subject}\nDefined-By: heartgate\n\n{kind.text}\n")
    header = "# Generated from lib/heartgate/adapters/journal.py; do not edit.\n\n"
    return header + "\n".join(entries)


def encode(fields: Dict[str, str]) -> bytes:
    """One entry in the journal's native format: KEY=value, or for several lines KEY, a length and the value."""
    parts: List[bytes] = []
    for name, value in fields.items():
        data = value[:FIELD_LIMIT].encode("utf-8", "replace")
        if b"\n" in data:
            parts += [name.encode(), b"\n", struct.pack("<Q", len(data)), data, b"\n"]
        else:
            parts += [name.encode(), b"=", data, b"\n"]
    return b"".join(parts)


def field_name(name: str) -> str:
    """HEARTGATE_NAME, with nothing in it that the journal would refuse."""
    return "HEARTGATE_" + FIELD_NAME.sub("_", name.upper())[:48]


class Journal:
    """send() never raises and never blocks. dropped: messages that nobody took."""

    def __init__(
        self, identifier: str = "heartgated", journal: str = JOURNAL_SOCKET, syslog: str = SYSLOG_SOCKET
    ) -> None:
        self.dropped = 0
        self._identifier, self._paths = identifier, {"journal": journal, "syslog": syslog}
        self._socket: Optional[socket.socket] = None
        with contextlib.suppress(OSError):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)

    def send(
        self, kind: str, message: str, *, device: str = "", rule: str = "", epoch: int = -1, **fields: object
    ) -> None:
        """kind: a name of the table KINDS (an unknown one is sent without a message id); fields become
        HEARTGATE_<NAME>."""
        try:
            self._send(kind, message, device, rule, epoch, fields)
        except Exception:  # journalling must not be what ends the daemon
            self.dropped += 1

    def _send(self, kind: str, message: str, device: str, rule: str, epoch: int, fields: Dict[str, object]) -> None:
        known = KINDS.get(kind)
        priority = known.priority if known else INFO
        entry = {
            "MESSAGE": message,
            "PRIORITY": str(priority),
            "SYSLOG_IDENTIFIER": self._identifier,
            "HEARTGATE_KIND": kind,
        }
        if known:
            entry["MESSAGE_ID"] = known.uuid
        if device:
            entry["HEARTGATE_DEVICE"] = device
        if rule:
            entry["HEARTGATE_RULE"] = rule
        if epoch >= 0:
            entry["HEARTGATE_EPOCH"] = str(epoch)
        entry.update({field_name(name): str(value) for name, value in fields.items() if value is not None})
        plain = f"<{LOG_DAEMON | priority}>{self._identifier}[{os.getpid()}]: {message}".encode("utf-8", "replace")
        for path, data in ((self._paths["journal"], encode(entry)), (self._paths["syslog"], plain)):
            sent = self._offer(path, data)
            if sent is not None:
                self.dropped += 0 if sent else 1
                return
        self._stderr(f"{self._identifier}: {message}\n")

    def _offer(self, path: str, data: bytes) -> Optional[bool]:
        """True: taken. False: its queue is full (drop). None: nobody listens there."""
        if self._socket is None:
            return None
        try:
            self._socket.sendto(data, path)
        except BlockingIOError:
            return False
        except OSError:
            return None
        return True

    def _stderr(self, line: str) -> None:
        if sys.stderr is None:
            self.dropped += 1
            return
        descriptor = sys.stderr.fileno()
        # Non-blocking only for this write: the descriptor may be shared with others.
        blocking = os.get_blocking(descriptor)
        os.set_blocking(descriptor, False)
        try:
            os.write(descriptor, line.encode("utf-8", "replace"))
        finally:
            os.set_blocking(descriptor, blocking)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
