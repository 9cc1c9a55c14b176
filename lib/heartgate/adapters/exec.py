"""Replication that is not DRBD: an executable that speaks a small protocol (version 1).

    PROGRAM describe RESOURCE     prints {"protocol": 1, "resource": R, "peers": [NODE...], "device": PATH|null,
                                  "can_freeze": true}
    PROGRAM watch RESOURCE        prints one JSON object a line, the first at once, each of them complete:
        {"disk": "uptodate|consistent|outdated|inconsistent|diskless|absent|unknown",
         "role": "primary|secondary|unknown", "frozen": true|false|null,
         "generation": STRING|null, "ancestors": [STRING...] (may be left out),
         "peers": {NODE: {"link": "up|down|unknown", "connection": N, "disk": WORD, "out_of_sync_bytes": N|null}}}
    PROGRAM block RESOURCE        0 only when it is certain that nothing can be completed here; prints {"how": WORD}. On
                                  a secondary the mark persists until its peer has brought it up to date, or `unblock`.
                                  Connections that it ends must not be back within the time that a block takes: the one
                                  who asked would go back to what it was, ask anew at the next loss, and so on
    PROGRAM unblock RESOURCE      the copy was chosen to serve: lift the persistent mark
    PROGRAM disconnect RESOURCE   lose the connection to HEARTGATE_PEER now; it may come back by itself
    PROGRAM thaw RESOURCE         the verdict allows this node to go on alone
    PROGRAM release RESOURCE      blocked, primary and frozen: end the users, then make I/O fail, in this order

The environment is PATH, LC_ALL, HEARTGATE_NODE and, for disconnect, HEARTGATE_PEER. `connection` is an integer of the
program's choice that no other connection to that peer has during one boot of the node. An unreadable line, a word that
is not in the list, or the end of the output makes all facts unknown, and the program is started again after a growing
pause.
"""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from heartgate.adapters.base import NOT_THAT, NOT_WANTED, AdapterError, Outcome, Problem, always
from heartgate.adapters.process import Completed, LineProcess, run
from heartgate.adapters.readiness import Backoff, Readiness
from heartgate.core.model import UNKNOWN_REPLICA, Disk, Link, PeerLink, Replica, Role

PROTOCOL = 1
CHECK_TIMEOUT_S = 10.0
FIRST_LINE_POLL_S = 0.02
MOST_PEERS = 64
MOST_ANCESTORS = 64


def refusal(program: str) -> str:
    """Why this program must not be run as root by the daemon; "" when it may. Looks at the file and at every directory
    above it."""
    if not program.startswith("/"):
        return f"{program!r}: the program must be given by its absolute path"
    real = os.path.realpath(program)
    try:
        mode = Path(real).stat().st_mode
        if not stat.S_ISREG(mode) or not mode & 0o111:
            return f"{program}: not an executable file"
        for part in (Path(real), *Path(real).parents):
            status = part.stat()
            sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
            if status.st_uid != 0:
                return f"{program}: {part} belongs to uid {status.st_uid}, not to root"
            if status.st_mode & 0o022 and not sticky:
                return f"{program}: {part} can be written by others than root (mode {stat.S_IMODE(status.st_mode):04o})"
    except OSError as error:
        return f"{program}: {error.strerror}"
    return ""


def _environment(me: str) -> Dict[str, str]:
    return {"HEARTGATE_NODE": me}


# --- facts
# ----------------------------------------------------------------------------------------------------------------


def parse_watch(line: bytes) -> Tuple[Replica, Mapping[str, int]]:
    """One line of `watch` -> (facts with every incarnation 0, the program's connection numbers by peer). Raises
    ValueError."""
    try:
        facts = json.loads(line.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(facts, dict):
        raise ValueError("not an object")
    peers = facts.get("peers", {})
    if not isinstance(peers, dict) or len(peers) > MOST_PEERS:
        raise ValueError("peers: not an object, or too many")
    links: List[Tuple[str, PeerLink]] = []
    numbers: Dict[str, int] = {}
    for node, told in sorted(peers.items()):
        if not isinstance(told, dict):
            raise ValueError(f"peer {node}: not an object")
        links.append((node, PeerLink(Link(_word(told, "link")), 0, Disk(_word(told, "disk")))))
        numbers[node] = _number(told, "connection")
    replica = Replica(
        disk=Disk(_word(facts, "disk")),
        role=Role(_word(facts, "role")),
        frozen=_tristate(facts, "frozen"),
        peers=tuple(links),
        generation=_text(facts.get("generation")),
        ancestors=_texts(facts.get("ancestors")),
    )
    return replica, numbers


def _word(facts: Mapping[str, Any], key: str) -> str:
    value = facts.get(key, "unknown")
    if not isinstance(value, str):
        raise ValueError(f"{key}: not a word")
    return value


def _number(facts: Mapping[str, Any], key: str) -> int:
    value = facts.get(key, 0)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{key}: not a number from 0 on")
    return value


def _tristate(facts: Mapping[str, Any], key: str) -> Optional[bool]:
    value = facts.get(key)
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{key}: neither true, false nor null")
    return value


def _text(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError("generation: not a string")
    return value


def _texts(value: object) -> Tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MOST_ANCESTORS or not all(isinstance(item, str) for item in value):
        raise ValueError("ancestors: not a list of strings")
    return tuple(value)


class Incarnations:
    """Turns the program's connection numbers into counts of established connections. base: see drbd_events.Incarnations."""

    def __init__(self, base: int = 0) -> None:
        self._base = base
        self._counts: Dict[str, int] = {}
        self._last_up: Dict[str, int] = {}
        self._was_up: Dict[str, bool] = {}

    def apply(self, replica: Replica, numbers: Mapping[str, int]) -> Replica:
        links = []
        for node, told in replica.peers:
            number = numbers.get(node, 0)
            if told.link is Link.UP and self._is_new(node, number):
                self._counts[node] = self._counts.get(node, self._base) + 1
                self._last_up[node] = number
            self._was_up[node] = told.link is Link.UP
            links.append((node, told._replace(incarnation=self._counts.get(node, 0))))
        return replica._replace(peers=tuple(links))

    def interrupted(self) -> None:
        """Nothing was heard for a while: an unnumbered connection may have been lost and made again."""
        self._was_up.clear()

    def _is_new(self, node: str, number: int) -> bool:
        if number == 0:  # not numbered: every change from down to up counts
            return not self._was_up.get(node, False)
        return self._last_up.get(node) != number


class _Watched:
    """One device: its program, and what it said last."""

    def __init__(self, resource: str, program: str, base: int) -> None:
        self.resource, self.program = resource, program
        self.process: Optional[LineProcess] = None
        self.backoff = Backoff()
        self.start_at = 0.0
        self.incarnations = Incarnations(base)
        self.told: Optional[Replica] = None  # what read() gave out last


class ExecSource:
    """Source for all devices with the `exec` driver: one `watch` process for each. Use it in the loop's thread
    alone."""

    def __init__(self, me: str, base: int = 0) -> None:
        self._me = me
        self._base = base
        self._readiness = Readiness()
        self._watched: Dict[str, _Watched] = {}

    def add(self, resource: str, program: str) -> None:
        """Start watching. Raises AdapterError when the program is refused (not absolute, not root's, writable by
        others)."""
        why = refusal(program)
        if why:
            raise AdapterError(why)
        known = self._watched.get(resource)
        if known is not None:
            if known.program == program:
                return
            self.discard(resource)
        self._watched[resource] = _Watched(resource, program, self._base)
        self._readiness.wake()

    def discard(self, resource: str) -> None:
        watched = self._watched.pop(resource, None)
        if watched is not None:
            self._stop(watched)

    def fileno(self) -> int:
        return self._readiness.fileno()

    def read(self) -> Mapping[str, Replica]:
        """Devices whose facts changed since the last call."""
        self._readiness.consume()
        changed: Dict[str, Replica] = {}
        for watched in self._watched.values():
            replica = self._advance(watched)
            if replica != watched.told:
                watched.told = replica
                changed[watched.resource] = replica
        return changed

    def close(self) -> None:
        for resource in list(self._watched):
            self.discard(resource)
        self._readiness.close()

    def _advance(self, watched: _Watched) -> Replica:
        """Start, read or restart one program; what is known of its device now."""
        if watched.process is None and not self._start(watched):
            return UNKNOWN_REPLICA
        assert watched.process is not None
        replica = watched.told or UNKNOWN_REPLICA
        try:
            for line in watched.process.read_lines():
                replica = watched.incarnations.apply(*parse_watch(line))
        except ValueError:
            watched.process.ended = True
        if watched.process.ended:
            self._stop(watched)
            return UNKNOWN_REPLICA
        return replica

    def _start(self, watched: _Watched) -> bool:
        wait = watched.start_at - time.monotonic()
        if wait > 0:
            self._readiness.alarm(wait)
            return False
        watched.backoff.started()
        try:
            # Looked at again at every start: the file may have been replaced.
            why = refusal(watched.program)
            if why:
                raise AdapterError(why)
            watched.process = LineProcess([watched.program, "watch", watched.resource], env=_environment(self._me))
        except AdapterError:
            self._later(watched)
            return False
        self._readiness.watch(watched.process.fileno())
        return True

    def _stop(self, watched: _Watched) -> None:
        if watched.process is not None:
            self._readiness.unwatch(watched.process.fileno())
            watched.process.close()
            watched.process = None
        watched.incarnations.interrupted()
        self._later(watched)

    def _later(self, watched: _Watched) -> None:
        pause = watched.backoff.failed()
        watched.start_at = time.monotonic() + pause
        self._readiness.alarm(pause)


# --- driver
# ---------------------------------------------------------------------------------------------------------------


class ExecDriver:
    """Driver that calls the program. Every method blocks, at most for its deadline."""

    def __init__(self, resource: str, program: str, me: str) -> None:
        self.name = resource
        self._program, self._me = program, me

    def check(self, nodes: Sequence[str]) -> Sequence[Problem]:
        why = refusal(self._program)
        if why:
            remedy = f"chown root {self._program}; chmod go-w {self._program} (and every directory above it)"
            return [Problem("program-refused", why, remedy)]
        done = self._call("describe", CHECK_TIMEOUT_S)
        if not done.ok:
            return [
                Problem(
                    "describe-failed",
                    f"{self._program} describe {self.name}: {done.brief()}",
                    "see the program's manual",
                )
            ]
        return check_description(done.stdout, self.name, nodes, self._me)

    def block(self, replica: Replica, deadline_s: float) -> Outcome:
        return self._outcome(self._call("block", deadline_s), "blocked")

    def holds(self, deadline_s: float) -> Outcome:
        return Outcome(False, "not known")  # the protocol has no verb for a look that changes nothing

    def release(self, replica: Replica, deadline_s: float, wanted: Callable[[], bool] = always) -> Outcome:
        if not wanted():
            return Outcome(True, NOT_WANTED)
        return self._outcome(self._call("release", deadline_s), "released")

    def enforce_blocked(self, replica: Replica, deadline_s: float) -> Outcome:
        held = replica.frozen or replica.disk in (Disk.OUTDATED, Disk.INCONSISTENT, Disk.DISKLESS, Disk.ABSENT)
        connected = any(link.link is Link.UP for _, link in replica.peers)
        if held or connected or replica.role is not Role.SECONDARY:
            return Outcome(True, "nothing to do")
        return self.block(replica, deadline_s)

    def unblock(self, replica: Replica, deadline_s: float) -> Outcome:
        return self._outcome(self._call("unblock", deadline_s), "unblocked")

    def drop(self, peer: str, deadline_s: float, wanted: Callable[[], bool] = always) -> Outcome:
        if not wanted():
            return Outcome(True, NOT_THAT)
        return self._outcome(self._call("disconnect", deadline_s, {"HEARTGATE_PEER": peer}), "dropped")

    def rehandle(self, replica: Replica, deadline_s: float) -> Outcome:
        """There is no kernel that could ask again: the program is told to go on."""
        return self._outcome(self._call("thaw", deadline_s), "thawed")

    def out_of_sync(self, deadline_s: float) -> Mapping[str, int]:
        """The first line of `watch` is complete; the program is ended after it."""
        why = refusal(self._program)
        if why:
            raise AdapterError(why)
        process = LineProcess([self._program, "watch", self.name], env=_environment(self._me))
        try:
            deadline = time.monotonic() + deadline_s
            while time.monotonic() < deadline and not process.ended:
                lines = process.read_lines()
                if lines:
                    return _behind(lines[0])
                time.sleep(FIRST_LINE_POLL_S)
        finally:
            process.close()
        raise AdapterError(f"{self._program} watch {self.name}: printed nothing within {deadline_s:g} s")

    def _call(self, verb: str, deadline_s: float, more: Optional[Mapping[str, str]] = None) -> Completed:
        why = refusal(self._program)
        if why:
            return Completed(126, "", why)
        environment = {**_environment(self._me), **(more or {})}
        return run([self._program, verb, self.name], timeout_s=deadline_s, env=environment)

    @staticmethod
    def _outcome(done: Completed, otherwise: str) -> Outcome:
        if not done.ok:
            return Outcome(False, done.brief())
        try:
            answer = json.loads(done.stdout)
            how = answer.get("how") if isinstance(answer, dict) else None
        except (ValueError, RecursionError):
            how = None
        return Outcome(True, how[:200] if isinstance(how, str) and how else otherwise)


def _behind(line: bytes) -> Dict[str, int]:
    try:
        parse_watch(line)
        peers = json.loads(line.decode("utf-8")).get("peers", {})
        return {n: _number(told, "out_of_sync_bytes") for n, told in peers.items() if told.get("out_of_sync_bytes") is not None}
    except ValueError as error:
        raise AdapterError(f"watch: unreadable: {error}") from error


def check_description(text: str, resource: str, nodes: Sequence[str], me: str) -> List[Problem]:
    """What is wrong with the answer to `describe`."""
    try:
        told = json.loads(text)
        if not isinstance(told, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        return [
            Problem(
                "describe-unreadable", f"{resource}: describe printed no JSON object ({error})", "repair the program"
            )
        ]
    problems = []
    if told.get("protocol") != PROTOCOL:
        message = f"{resource}: the program speaks protocol {told.get('protocol')!r}, {PROTOCOL} is needed"
        problems.append(Problem("protocol", message, "install a version of the program that fits"))
    if told.get("resource") != resource:
        problems.append(
            Problem("resource", f"{resource}: the program describes {told.get('resource')!r}", "name its resource")
        )
    if told.get("can_freeze") is not True:
        message = f"{resource}: this replication cannot freeze writes when its link is lost, so it may split"
        problems.append(Problem("cannot-freeze", message, "use a replication that can, such as DRBD"))
    peers = told.get("peers")
    wanted = sorted(set(nodes) - {me})
    if not isinstance(peers, list) or sorted(map(str, peers)) != wanted:
        message = f"{resource}: the program's peers {peers!r} are not the other nodes of the priorities {wanted!r}"
        problems.append(Problem("peers", message, "make the nodes of `priorities` those that hold a replica"))
    device = told.get("device")
    if device is not None and not (isinstance(device, str) and Path(device).exists()):
        problems.append(Problem("device", f"{resource}: device {device!r} is not there", "start the replication"))
    return problems
