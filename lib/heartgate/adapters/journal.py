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
    """One kind of message: an entry of the journal's catalog (`journalctl -x`) and of docs/troubleshooting.md.

    uuid never changes once released. means: what has happened; look: what to look at; todo: what a person does about it. Each is
    one paragraph. A field that is named in one of them must be sent with every message of the kind, or that is said (a test).
    """

    uuid: str
    priority: int
    subject: str
    means: str
    look: str = ""
    todo: str = ""


NOTHING = "Nothing."
KINDS: Dict[str, Kind] = {
    "rule": Kind(
        "5a1c0a3e6d2f4b0c9e6b7f0d1c8a4e21", INFO, "A rule of the policy fired",
        "HEARTGATE_RULE names the rule (docs/rules.md), HEARTGATE_EPOCH the epoch in which it fired.",
        "`heartgate explain DEVICE` replays the verdict from the recorded facts, with all of its rules in their order.",
        NOTHING),
    "standing": Kind(
        "0d7e4bb39a514f27a6e3c2f1b85d9c02", NOTICE, "The standing of the replica of @HEARTGATE_DEVICE@ changed",
        "New standing: @HEARTGATE_STANDING@. Only `synced` and `solo` may serve. Kept for standings without a message of "
        "their own; at present each has one, so this one is not sent.",
        "`heartgate status`.",
        NOTHING),
    "solo": Kind(
        "c8f27a106eb94d5f8a0d3b9e47c15f03", WARNING, "@HEARTGATE_DEVICE@ goes on alone on this node",
        "Every other replica is known not to serve; HEARTGATE_PROOFS tells how that is known (NODE:KIND:EPOCH). There is "
        "no second up-to-date copy until replication is back and a resync has ended.",
        "`heartgate explain DEVICE` shows what was lost and in which order. Then the replication cable, and the other "
        "node.",
        "Bring the replication link, or the other node, back: the resync and the return follow by themselves. Until then "
        "keep this node and its disk in one piece; it has the only copy. (After a restart a node that was alone is `solo` "
        "again; one of several that went on together is `unproven`.)"),
    "blocked": Kind(
        "71b3f5d8c04e4e1ab2967c5d0fa83e04", WARNING, "@HEARTGATE_DEVICE@ is blocked on this node",
        "Another node goes on with this device, or may do so, and this replica refuses reads and writes. The block is "
        "lifted when the replication link is back and the replica is up to date. It survives power loss and reboot. Sent "
        "again when what it waits for has changed; the message says what.",
        "`heartgate status` says what it waits for.",
        "Mend what it waits for, as a rule the replication link. Nothing has to be connected, promoted or cleaned up by "
        "hand. Only if the node that went on is gone for good: `heartgate mark-synchronized DEVICE`, which shows first "
        "what would be lost."),
    "deciding": Kind(
        "e4965c2d71f84ab3930b1f7de26a8c05", WARNING, "@HEARTGATE_DEVICE@ is frozen until a verdict",
        "Replication was lost. Reads and writes wait; they go on or are refused as soon as the nodes have decided, or a "
        "fencing has completed.",
        "`heartgate status` says for whose confirmation or fencing it waits. For a fencing: `stonith_admin --history "
        "'*' --verbose`, and `journalctl -t fence_heartgate`.",
        "As a rule nothing. If it waits for the fencing of a machine that is certainly off: `stonith_admin --confirm "
        "NODE`, which is your word that it cannot write. Never `drbdadm resume-io`, never `primary --force`."),
    "readmitted": Kind(
        "19d0a7e3b56c4f88815e2c4d9b730f06", NOTICE, "@HEARTGATE_DEVICE@ is in sync again",
        "The replicas are connected and up to date; earlier blocks and proofs have ended. Sent also when the daemon "
        "starts and finds it so.",
        "`heartgate explain DEVICE`, if you want to know how it came about.",
        NOTHING),
    "unproven": Kind(
        "a3c64e1f28d9405bb7f05d8e16c92a07", WARNING, "The data of @HEARTGATE_DEVICE@ may be old",
        "This node restarted while it was not alone with the data, and has met no peer since: a peer may have gone on "
        "without it. Or its record could not be read; then the message names the file and where it was put. It does not "
        "serve, and waits to meet the others. Sent again when what it waits for has changed.",
        "`heartgate status` here and on the other nodes.",
        "Start the other node, Corosync and heartgated on it, and let the replication connect: the nodes then decide by "
        "themselves. Only if that cannot be: `heartgate mark-synchronized DEVICE` lets a person decide, and shows first "
        "what would be lost."),
    "fence-asked": Kind(
        "5f81b2c09d3e46a7ae44607b9c1d3e08", WARNING, "Pacemaker was asked to fence @HEARTGATE_NODE@",
        "The node is a member of the cluster, and has not confirmed within `confirm_timeout` that it is blocked. Nothing "
        "goes on before the fencing has completed.",
        "The journal of heartgated on @HEARTGATE_NODE@ from before it was fenced (`journalctl -b -1 -t heartgated`): did "
        "it hang, or could it not block (`action-failed`)?",
        "Nothing now. If the node was only slow: a longer `confirm_timeout` of replica-guard; `heartgate budget` says "
        "whether it fits."),
    "fence-seen": Kind(
        "d26e9b47f1034c60925a8e7f3bc04d09", NOTICE, "A fencing of @HEARTGATE_NODE@ ended",
        "HEARTGATE_OK tells whether it succeeded, HEARTGATE_MANUAL whether a person vouched for it. HEARTGATE_HOW (of one that "
        "heartgated asked for) tells how it ended; HEARTGATE_ALERTED (of one that Pacemaker reports) whether Pacemaker's "
        "alert had the daemon look. HEARTGATE_OLD is sent with one that proves nothing: it came into Pacemaker's history late, "
        "as after a restart of Pacemaker, and was complete before this epoch's first reading; or it was under way at that "
        "reading, so that the power may have been cut before this epoch began, or ended before such a one did.",
        "If it failed: `stonith_admin --history '*' --verbose`, and `journalctl -t fence_heartgate` on all nodes.",
        "If it failed: mend the power switch or the way to it; Pacemaker is asked again. If the machine is certainly off: "
        "`stonith_admin --confirm NODE`."),
    "fence-passed": Kind(
        "1a2ae526a8da49f6b6721a9aeebd4e97", NOTICE, "This node may fence @HEARTGATE_NODE@",
        "The next device of the fencing level cuts the power. HEARTGATE_RULE names the rule that gave the answer "
        "(docs/fence_heartgate.md), HEARTGATE_FACTS what it was based on, HEARTGATE_SOURCE whether the daemon or only its "
        "files could be asked.",
        "`journalctl -t fence_heartgate -o verbose`.",
        NOTHING),
    "fence-refused": Kind(
        "67f575aa9fe0442f92947ccd8166deac", WARNING, "This node does not fence @HEARTGATE_NODE@",
        "HEARTGATE_RULE names the rule that gave the answer (docs/fence_heartgate.md), HEARTGATE_FACTS what it was based "
        "on. The agent that cuts the power was not called. For Pacemaker this counts as a failed fencing.",
        "`fence_heartgate -o status -n NODE` says what it would decide by now. Rule `data`: a copy on this node is "
        "behind. Rule `alone`: no device cuts the power beside this one. Rule `hold`: `hold_while_synced` is set, and the "
        "replication is connected still.",
        "Rule `alone`: put a device that cuts the power behind fence_heartgate in every level of the node (`heartgate check`, "
        "`fence-gate-alone`). Otherwise as a rule nothing: a node with old data must not shoot the one that has the data. "
        "Mend the links; or have the node shot by one that may."),
    "handler": Kind(
        "86f3d01e5ac74928b07d4e2a95b1c60a", NOTICE, "A replication handler asks, or was answered",
        "The kernel asks through fence-peer whether it may go on without a peer. The answer has HEARTGATE_CODE: 4 = the "
        "peer is blocked, 7 = the peer was fenced, 1 = stay frozen, or the promotion is refused.",
        "After a question without an answer: `heartgate status` says what is waited for. `is not guarded here`: "
        "replica-guard does not run for this device, and every promotion without its peer is refused.",
        "As a rule nothing. Not guarded: start the replica-guard of this device."),
    "action-failed": Kind(
        "3b90e7d5641c4fa2806cd19f27e85b0b", ERROR, "An action on @HEARTGATE_DEVICE@ failed",
        "HEARTGATE_ACTION names it; the message has the reason. The policy treats it as not done. `persist`: the record "
        "cannot be written, everything of this device waits for that, and it is tried again. `publish`: Pacemaker does "
        "not take a node attribute; tried until it does. `block`, `release`, `drop`, `rehandle`, `unblock`, `enforce`: "
        "the driver's operations; tried again a few times; if a block does not succeed the peer has this node fenced, if "
        "a release does not this node resets itself. `history`, `contacts`, `keep-fencings`: notes on the disk that "
        "decide nothing.",
        "`persist`, `history`, `contacts`, `keep-fencings`: `df /var/lib/heartgate`, and the kernel's messages about that "
        "disk. `publish`: `systemctl status pacemaker`. The driver's: `drbdadm status DEVICE`, and the kernel's messages.",
        "Make /var/lib/heartgate writable; start Pacemaker; or repair what the reason names. Then nothing more: it is "
        "tried again, or is of no use any more."),
    "flush": Kind(
        "f05a42c7983e4d16bd3c7e60a1928f0c", NOTICE, "A cache of @HEARTGATE_DEVICE@ was flushed",
        "One message for each target (HEARTGATE_TARGET), with how and how long. `not-here`: what the target names is not "
        "mounted, or does not exist, on this node.",
        "`heartgate status` shows the last flush.",
        NOTHING),
    "flush-failed": Kind(
        "4e7c15d9b2a04836957fd0e83b6ac10d", ERROR, "A flush of @HEARTGATE_DEVICE@ failed",
        "This node is the only copy, and @HEARTGATE_TARGET@ may still hold data that is not on stable storage. The "
        "verdict stands. The node attribute heartgate-DEVICE-flush is `failed` until a later flush succeeds.",
        "The target: the reason is in the message. A deadline that passed: the disk below it is slow or hangs, or "
        "`flush_timeout` is short.",
        "Mend it, then flush by hand: `sync -f MOUNTPOINT` for filesystem:, `sync DEVICE` for block:, the programs for "
        "hook:. The mark goes with `attrd_updater -n heartgate-DEVICE-flush -D`."),
    "source-lost": Kind(
        "b92d8f6e07c34a51a8e1f5d3704b9c0e", ERROR, "A source of facts ended",
        "The message names it: facts of a driver, the carrier of the interfaces, the history of fencings, or events that "
        "were too many. What it told is unknown until it has been read anew; unknown is never taken for down, off or "
        "dead. It is tried again by itself.",
        "Driver drbd: `drbdsetup events2 --now all`, and whether the module is loaded. Fencings: `stonith_admin --history "
        "'*' --verbose`.",
        "Nothing, if it came once. If it stays: repair what the message names; until then no verdict is reached that "
        "needs it."),
    "carrier": Kind(
        "60e1c9a8f75d4b2394bd07e2c63a510f", WARNING, "The connection to the other nodes' daemons changed",
        "Joined, cannot be joined, or gone. The daemons talk through Corosync; without it nobody can be heard, and that "
        "means \"not known\", not \"dead\". It is joined again by itself.",
        "`systemctl status corosync`; `corosync-cfgtool -n`; `heartgate heartbeat list`.",
        "Start Corosync, if it does not run."),
    "setup": Kind(
        "2ca7f03b9e684d15b60fd4e8915c7a10", ERROR, "A set-up cannot be used",
        "The daemon cannot start, or what it had saved of a resource cannot be used; the message says why. Nothing is "
        "thawed by that: DRBD's handlers wait, or stay frozen (exit 1) where the device is not guarded.",
        "The message, and `systemctl status heartgated`. `heartgate check` lists all that is wrong with the "
        "configuration.",
        "Correct it; then `systemctl restart heartgated`, and have Pacemaker start the resource again (`crm_resource "
        "--cleanup -r RESOURCE`)."),
    "invariant": Kind(
        "97be35d0c1f24e6a8d5b0f72ea64c311", ERROR, "An action was refused, since it would break an invariant",
        "Nothing of the step was carried out (HEARTGATE_EVENT is what led to it), so the device stays as it is: frozen, if it "
        "was. The monitor of its replica-guard fails. It is an error in heartgate, or files in "
        "/var/lib/heartgate were changed by hand.",
        "`heartgate status` names the invariant.",
        "Please report it, with `journalctl -o verbose` of this message and /var/lib/heartgate/DEVICE.verdicts of all nodes. "
        "`systemctl restart heartgated` thaws nothing and begins anew with the record on the disk."),
    "daemon": Kind(
        "ed4870b6a3294c1fb95e2d7c0f816a12", INFO, "The node daemon",
        "Start and end of heartgated, devices that are guarded, a record that can be written again. `no memory lock`, `no "
        "real-time priority`: it works, but may be late on a busy machine. `alerts cannot reach this daemon`: fencings are "
        "found by reading the history alone.",
        "`systemctl status heartgated`; for the alerts the reason in the message.",
        "Nothing; for `no ...`: LimitMEMLOCK and LimitRTPRIO of the unit as the package has them; for the alerts: remove "
        "what stands at /run/heartgate-alert, or install Pacemaker, which brings the group haclient. It is tried again "
        "every minute."),
    "self-reset": Kind(
        "0a5fd3c7e8614b92a7d9361ce05b4f13", ERROR, "This node resets itself",
        "A blocked and frozen device has users that cannot be ended, as a rule inside the kernel (NFS server, LIO, loop, "
        "md, dm, swap): they would acknowledge writes that are going to be lost. HEARTGATE_REASON names them. Or "
        "it cannot be told who uses the device. Or `on_blocked_promoted=fence` asks for it.",
        "The reason, in the journal of the boot before (`journalctl -b -1 -t heartgated`).",
        "Nothing: the node comes back blocked, and is taken back after the resync. With `policy=active-first` the node in "
        "use is the one that goes on, so that this is rare."),
    "sync-link": Kind(
        "504038bcd8e6499fa166611ea2f7dfeb", NOTICE, "The carrier of an interface for replication changed",
        "HEARTGATE_INTERFACE names it, HEARTGATE_UP tells the carrier (it is left out when the interface is gone). When "
        "the last of a device's sync_interfaces has no carrier, its connection is given up at once.",
        "The cable, both adapters; without a direct cable the switch. On a direct cable the carrier goes with the other "
        "node's power.",
        "Put the cable in again."),
    "heartbeat-link": Kind(
        "8d6f0c1b5e7a4c3f9b2a61d47e90c513", NOTICE, "A heartbeat interface changed",
        "HEARTGATE_INTERFACE names it, HEARTGATE_STATE tells what is known of its carrier. The node attribute "
        "HEARTGATE_ATTRIBUTE follows; no service is stopped by that alone.",
        "`heartgate heartbeat list`; `heartgate check --peer NODE`.",
        "Mend the link while the others still live: the next loss may be the last one's."),
    "operation": Kind(
        "1e1e3e391f814e5a8a99544f924e3247", NOTICE, "An action on @HEARTGATE_DEVICE@ was carried out",
        "HEARTGATE_ACTION names it, HEARTGATE_HOW tells what the driver did.",
        "`heartgate explain DEVICE` shows why.",
        NOTHING),
    "publish": Kind(
        "cae2da11a0504ff183f0232a24872ffc", NOTICE, "Pacemaker takes the node attributes again",
        "Writing HEARTGATE_DEVICE had failed before; its value is HEARTGATE_VALUE now.",
        "`attrd_updater -n heartgate-DEVICE -Q -A`.",
        NOTHING),
    "bad-message": Kind(
        "37d0275eb0a04c42b0e6df4ba063cce3", WARNING, "A message in the group was refused",
        "It could not be read, or said something impossible; the message says what and from whom. Nothing follows from "
        "it. Said at most once a minute for each node.",
        "`heartgate version` on all nodes.",
        "Upgrade all nodes to one version. With one version everywhere: please report it."),
    "unknown-device": Kind(
        "c337a237abc64bf7a4bb2383eb80262d", INFO, "Another node tells about a device that is not guarded here",
        "Expected while the resource replica-guard starts on one node after the other. Said at most once a minute for "
        "each device.",
        "`crm_mon -1`: does the replica-guard of that device run here? Does DRBD name the resource the same on all nodes?",
        "If it stays: start the replica-guard here."),
    "internal": Kind(
        "f90e08c4381641dfb1fd3fe686d551c3", ERROR, "An error inside heartgated",
        "What failed was left undone.",
        "The message: it has the place in the program.",
        "Please report it."),
    "renamed": Kind(
        "abe854db31694322ad9a12cfd1e5e7a5", WARNING, "Corosync has another name for this node",
        "It was HEARTGATE_BEFORE and is HEARTGATE_NAME since Corosync was joined anew. If nothing is guarded under the old "
        "name the new one is taken over, and the message says so. Otherwise the devices that the message names stay guarded "
        "under the old one, which the other nodes cannot hear, and no resource can be registered.",
        "`corosync-quorumtool -l`; nodelist in /etc/corosync/corosync.conf on all nodes.",
        "Taken over: nothing. Otherwise give the node its old name back in corosync.conf on all nodes and restart Corosync; "
        "or, for the new name, delete the replica-guard, `heartgate forget DEVICE` on every node, and create it anew with "
        "the new name."),
    "forgotten": Kind(
        "fe94f7090bfb4953a4613e22c78c8169", WARNING, "@HEARTGATE_DEVICE@ is not guarded here any more",
        "`heartgate forget`: its record, configuration and notes were removed, and the node attribute withdrawn. It was "
        "HEARTGATE_STANDING. HEARTGATE_BY is who ordered it; HEARTGATE_CONFIRMED tells whether a person had to confirm it "
        "(the copy was blocked, unproven, deciding, solo or in use, or another node was in sync with it).",
        "`heartgate status` on all nodes; `heartgate explain DEVICE` still tells what was before.",
        "On the other nodes the same, or a replica-guard here again: DRBD's handlers are told that the device is not "
        "guarded, and the next loss keeps it frozen."),
    "operator": Kind(
        "c1386e9f5b7a42d0916de4fb02a87c14", WARNING, "A person decided about @HEARTGATE_DEVICE@",
        "HEARTGATE_COMMAND is what was ordered; the message has the user's number, and the reason if it was refused.",
        "`heartgate status` on all nodes.",
        "After mark-synchronized: keep the other machines off, or let them be heard, so that they block. One with writes "
        "of its own is refused by DRBD (split-brain) until they are thrown away there."),
}  # fmt: skip


def catalog_text() -> str:
    """Contents of the journal's message catalog (packaging/heartgate.catalog)."""
    import textwrap  # not in the daemon, nor in an agent

    entries = []
    for name, kind in KINDS.items():
        parts = (kind.means, kind.look and f"Look at: {kind.look}", kind.todo and f"To do: {kind.todo}")
        text = "\n\n".join(textwrap.fill(part, 100, break_long_words=False, break_on_hyphens=False) for part in parts if part)
        entries.append(f"# {name}\n-- {kind.uuid}\nSubject: {kind.subject}\nDefined-By: heartgate\n\n{text}\n")
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
