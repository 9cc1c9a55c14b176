"""What heartgate does to a DRBD resource, on 8.4 and on 9.

Every command has a deadline, and none opens or stats the replicated device or what is mounted on it: it may be frozen.
Each step looks at the facts anew (`drbdsetup events2 --now`, one round trip to the kernel) instead of trusting what it
was told a moment ago.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Callable, Iterable, List, Mapping, Optional, Sequence, Tuple

from heartgate.adapters import device_users, drbd_config, drbd_events
from heartgate.adapters.base import NOT_THAT, NOT_WANTED, AdapterError, Outcome, Problem, always
from heartgate.adapters.drbd_facts import COMMAND_S, Clock, Facts, Failed, Runner, facts_of, out_of_sync
from heartgate.adapters.process import Completed, run
from heartgate.checks.drbd_conf import FENCE_HANDLER, UNFENCE_HANDLER
from heartgate.core.model import Disk, Link, Replica, Role

DRBD_MAJOR = 147
POLL_S = 0.05
RECONNECT_FIRST_S, RECONNECT_MOST_S = 5.0, 60.0
RUN_DIR = "/run/heartgate"
REFUSING = ("Outdated", "Inconsistent", "Diskless")  # disks with which a Secondary cannot be promoted alone


class NotWanted(Failed):
    """The order is stale: nothing more is done."""


class DrbdDriver84:
    """Driver for the DRBD 8.4 kernel module (drbd-utils 9.22). See docs and drbd-spikes for why the steps have this
    order."""

    drbd9 = False

    def __init__(
        self,
        resource: str,
        me: str,
        *,
        runner: Optional[Runner] = None,
        run_dir: str = RUN_DIR,
        world: Optional[device_users.World] = None,
    ) -> None:
        self.name = resource
        self._me = me
        self._run: Runner = runner or run
        self._marker = Path(run_dir) / f"drbd-{resource}.released"
        self._world = world
        self._config: Optional[drbd_config.ResourceConfig] = None
        self._connect_at, self._connect_pause = 0.0, RECONNECT_FIRST_S

    # --- looking

    def check(self, nodes: Sequence[str]) -> Sequence[Problem]:
        try:
            config = self._configuration(Clock(COMMAND_S), anew=True)
        except AdapterError as error:
            return [Problem("drbd-config", str(error), "repair DRBD's configuration (`drbdadm dump` shows where)")]
        found = drbd_config.problems(config, self.name, nodes, self._me, self.drbd9)
        for handler in (FENCE_HANDLER, UNFENCE_HANDLER):
            if not Path(handler).is_file():
                found.append(
                    Problem("handler-missing", f"{handler} is not installed on this node", "install heartgate on it")
                )
        if not Path("/proc/drbd").exists():
            found.append(Problem("no-module", "DRBD's kernel module is not loaded", "modprobe drbd"))
        return found

    def facts(self, clock: Clock) -> Facts:
        """Raises Failed when they cannot be had: no facts are not facts about absence."""
        done = self._run(["drbdsetup", "events2", "--now", "all"], timeout_s=clock.left())
        if not done.ok:
            raise Failed(f"drbdsetup events2 --now: {done.brief()}")
        table = drbd_events.Table()
        try:
            for line in done.stdout.encode().splitlines():
                table.apply(drbd_events.parse_line(line))
        except drbd_events.Unreadable as error:
            raise Failed(f"drbdsetup events2: {error}") from error
        if not table.complete:
            raise Failed("drbdsetup events2 --now: the dump is not complete")
        return facts_of(table.resources.get(self.name))

    def out_of_sync(self, deadline_s: float) -> Mapping[str, int]:
        clock = Clock(deadline_s)
        done = self._run(["drbdsetup", "events2", "--now", "--statistics", self.name], timeout_s=clock.left())
        if not done.ok:
            raise Failed(f"drbdsetup events2 --now --statistics: {done.brief()}")
        config = self._configuration(clock)
        return out_of_sync(done.stdout, config.others(self._me) if config else ())

    def _configuration(self, clock: Clock, anew: bool = False) -> Optional[drbd_config.ResourceConfig]:
        if self._config is None or anew:
            done = self._run(["drbdadm", "dump-xml"], timeout_s=clock.left())
            if not done.ok:
                raise Failed(f"drbdadm dump-xml: {done.brief()}")
            self._config = drbd_config.parse_dump(done.stdout).get(self.name)
        return self._config

    def _await(self, clock: Clock, condition: Callable[[Facts], bool]) -> Optional[Facts]:
        """Facts that meet the condition, or None at the deadline."""
        while not clock.passed():
            try:
                facts = self.facts(clock)
            except Failed:
                if clock.passed():  # the look itself was cut short
                    break
                raise
            if condition(facts):
                return facts
            time.sleep(POLL_S)
        return None

    def _do(self, clock: Clock, *argv: str) -> None:
        """A command that has to succeed."""
        done = self._try(clock, *argv)
        if not done.ok:
            raise Failed(f"{' '.join(argv)}: {done.brief()}")

    def _try(self, clock: Clock, *argv: str) -> Completed:
        return self._run(argv, timeout_s=clock.left())

    @staticmethod
    def _guarded(work: Callable[[], Outcome]) -> Outcome:
        try:
            return work()
        except NotWanted:
            return Outcome(True, NOT_WANTED)
        except (AdapterError, OSError) as error:
            return Outcome(False, str(error))

    # --- block

    def block(self, replica: Replica, deadline_s: float) -> Outcome:
        """How: absent, secondary (connected: it cannot complete writes, and its promotion needs our handler once
        unconnected), outdated, inconsistent, diskless, frozen. The driver's own look counts, not `replica`."""
        clock = Clock(deadline_s)
        return self._guarded(lambda: self._block(clock))

    def holds(self, deadline_s: float) -> Outcome:
        """As true beside a release as at any other time: that keeps the freeze until no volume has a disk."""

        def look() -> Outcome:
            how = self.facts(Clock(deadline_s)).held
            return Outcome(bool(how), how or "not yet")

        return self._guarded(look)

    def _block(self, clock: Clock) -> Outcome:
        dropped = False
        while True:
            facts = self.facts(clock)
            if facts.held:
                return Outcome(True, facts.held)
            if facts.role is Role.SECONDARY:
                how = self._block_secondary(facts, clock)
                if how:
                    return Outcome(True, how)
            elif facts.role is Role.PRIMARY:
                if facts.connected:  # again when it has connected anew between two looks
                    dropped = self._drop_all(clock)
                elif not dropped:
                    # Alone, serving, and nothing left to cut: 8.4 has no way to freeze it that a resync would undo safely.
                    return Outcome(False, "primary-not-frozen")
            else:
                raise Failed("role unknown")
            time.sleep(POLL_S)

    def _block_secondary(self, facts: Facts, clock: Clock) -> str:
        """The word for how it is blocked, "" if it is not yet."""
        if facts.every_disk_is(*REFUSING):
            return str(facts.disk.value)
        if facts.connected:
            return "secondary" if Link.UP in facts.links.values() else ""
        # The kernel refuses it when the connection has come back, or somebody has promoted it, in between; then the next look
        # decides. Where it does not refuse, its word is as good as another look, which costs a peer that waits for us a program.
        serving = [minor for minor, word in facts.disks if word not in REFUSING]
        done = [self._try(clock, "drbdsetup", "outdate", str(minor)).ok for minor in serving]
        return Disk.OUTDATED.value if done and all(done) else ""

    def _drop_all(self, clock: Clock) -> bool:
        config = self._configuration(clock)
        if config is None:
            raise Failed("not in DRBD's configuration")
        for peer in config.others(self._me):
            self._drop(peer, clock)
        return True

    # --- drop, rehandle

    def drop(self, peer: str, deadline_s: float, wanted: Callable[[], bool] = always) -> Outcome:
        clock = Clock(deadline_s)
        return self._guarded(lambda: self._drop(peer, clock, wanted))

    def _drop(self, peer: str, clock: Clock, wanted: Callable[[], bool] = always) -> Outcome:
        """Destroy DRBD's own TCP sockets: the kernel notices at once, freezes, calls the handler, and connects again by
        itself. Where the kernel cannot do that: disconnect by force, then connect."""
        config = self._configuration(clock)
        paths = config.paths(self._me, peer) if config else []
        if not wanted():
            return Outcome(True, NOT_THAT)
        if sum(self._kill_sockets(mine, theirs, clock) for mine, theirs in paths):
            return Outcome(True, "sockets")
        facts = self.facts(clock)
        if not self._connected_to(peer, facts, config):
            return Outcome(True, "not connected")
        if not wanted():
            return Outcome(True, NOT_THAT)
        target = self._connection(peer)
        self._do(clock, "drbdadm", "disconnect", "--force", target)
        self._do(clock, "drbdadm", "connect", target)
        return Outcome(True, "disconnect")

    def _connected_to(self, peer: str, facts: Facts, config: Optional[drbd_config.ResourceConfig]) -> bool:
        others = config.others(self._me) if config else ()
        named = [
            drbd_events.peer_name(connection, {}, others)
            for connection, link in facts.links.items()
            if link is not Link.DOWN
        ]
        return peer in named or None in named

    def _connection(self, peer: str) -> str:
        """How drbdadm names the connection: 8.4 has one for each resource."""
        return self.name

    def _kill_sockets(self, mine: drbd_config.Address, theirs: drbd_config.Address, clock: Clock) -> int:
        """Number of sockets that were destroyed. DRBD has two to each peer; either end may have opened them."""
        if mine.family not in ("ipv4", "ipv6"):
            return 0
        ports = f"( sport = :{mine.port} or dport = :{theirs.port} )"
        argv = ["ss", "-K", "-H", "-t", "-n", "src", _bracketed(mine), "and", "dst", _bracketed(theirs), "and", ports]
        done = self._try(clock, *argv)
        return len(done.stdout.splitlines()) if done.ok else 0

    def rehandle(self, replica: Replica, deadline_s: float) -> Outcome:
        """`disconnect` on a frozen Primary without a connection calls fence-peer again; then connect, always."""
        clock = Clock(deadline_s)
        return self._guarded(lambda: self._rehandle(clock))

    def _rehandle(self, clock: Clock) -> Outcome:
        facts = self.facts(clock)
        if facts.disk is Disk.ABSENT or facts.role is not Role.PRIMARY or not facts.frozen:
            return Outcome(True, "not frozen")
        if facts.connected:
            return Outcome(False, "connected: nothing to ask about")
        patience = Clock(max(0.1, clock.left(3600.0) / 2))
        try:
            self._do(clock, "drbdadm", "disconnect", self.name)
            thawed = self._await(patience, lambda now: not now.frozen)
        finally:
            # Whatever happened: unconnected for ever would be worse than a question lost.
            self._run(["drbdadm", "connect", self.name], timeout_s=COMMAND_S)
        return Outcome(thawed is not None, "thawed" if thawed else "still frozen")

    # --- release

    def release(self, replica: Replica, deadline_s: float, wanted: Callable[[], bool] = always) -> Outcome:
        """A blocked, frozen Primary: SIGKILL its users, and only when none can see a result any more let I/O fail.

        8.4: the write that was in flight at the freeze completes with success at `resume-io`, although the resync will
        throw it away; so nobody may be left who could take note of it. `resume-io` while any volume has a disk would write a
        new generation (split-brain). Users inside the kernel make it fail with "kernel-users: ...": then the node has to
        reset itself.
        """
        clock = Clock(deadline_s)
        return self._guarded(lambda: self._release(clock, wanted))

    def _release(self, clock: Clock, wanted: Callable[[], bool]) -> Outcome:
        facts = self.facts(clock)
        if facts.disk is Disk.ABSENT or facts.role is Role.SECONDARY:
            return Outcome(True, "not primary")
        if facts.role is not Role.PRIMARY or facts.connected:
            raise Failed("connected, or role unknown: not released")
        if facts.diskless and not facts.frozen and self._marker.exists():
            return Outcome(True, "released before")
        if not facts.frozen:
            raise Failed("not frozen: not released")
        killed = self._end_users(facts, clock, wanted)
        facts = self.facts(clock)
        if not facts.alone_and_frozen:
            raise Failed("the connection came back meanwhile: not released")
        if not wanted():
            raise NotWanted(NOT_WANTED)
        self._fail_io(facts, clock)
        return Outcome(True, f"released ({killed} processes killed)")

    def _end_users(self, facts: Facts, clock: Clock, wanted: Callable[[], bool] = always) -> int:
        """SIGKILL until every user has it pending. Raises Failed naming who cannot be ended."""
        stacked = self._stacked(clock)
        if stacked:
            raise Failed("kernel-users: " + ", ".join(stacked)[:400])
        killed: set[int] = set()
        again = True
        while again:  # until a look finds nobody new: a process may have forked a moment before it was killed
            if not wanted():
                raise NotWanted(NOT_WANTED)
            report, whole = self._survey(facts.minors, clock)
            if report.kernel:
                raise Failed("kernel-users: " + ", ".join(report.kernel)[:400])
            if report.protected:
                raise Failed("kernel-users: must not be killed: " + ", ".join(report.protected)[:400])
            fresh = set(report.killed) - killed
            killed |= fresh
            again = bool(report.left or fresh)
            if not (whole or again):
                raise Failed("kernel-users: not known: there is a process whose memory maps cannot be read")
        return len(killed)

    def _survey(self, minors: Iterable[int], clock: Clock) -> Tuple[device_users.Report, bool]:
        """device_users as a process of its own: reading /proc/PID/maps may hang. The second word: whether it could be read;
        where not, ending the other users may free what it waits for."""
        words: List[str] = []
        for minor in minors:
            words += [f"{DRBD_MAJOR}:{minor}", f"/dev/drbd{minor}"]
        program = [sys.executable or "/usr/bin/python3", "-IS", device_users.__file__, "--kill"]
        done = self._try(clock, *program, *words)
        whole = done.ok
        if not whole:
            done = self._try(clock, *program, "--no-maps", *words)
        try:
            answer = json.loads(done.stdout)
            left = [(int(pid), str(why)) for pid, why in answer["left"]]
            report = device_users.Report(list(answer["killed"]), left, list(answer["kernel"]), list(answer["protected"]))
        except (ValueError, KeyError, TypeError) as error:
            raise Failed(f"cannot tell who uses the device: {done.brief()}") from error
        return report, whole

    def _stacked(self, clock: Clock) -> List[str]:
        """DRBD resources whose disk is this device: DRBD leaves no trace in sysfs's holders."""
        done = self._run(["drbdadm", "dump-xml"], timeout_s=clock.left())
        resources = drbd_config.parse_dump(done.stdout) if done.ok else {}
        mine = resources.get(self.name)
        devices = (
            {volume.device for volume in mine.hosts[self._me].volumes} if mine and self._me in mine.hosts else set()
        )
        return [
            f"DRBD resource {other.name}"
            for other in resources.values()
            if other.name != self.name and self._me in other.hosts
            if any(volume.disk in devices for volume in other.hosts[self._me].volumes)
        ]

    def _fail_io(self, facts: Facts, clock: Clock) -> None:
        """8.4: `detach --force` only orders it; resume-io when every volume is Diskless, and whoever came meanwhile has been ended.
        What fails on the way leaves it frozen."""
        attached = [minor for minor, word in facts.disks if word != "Diskless"]  # some may have failed, or a daemon before us began
        if attached:
            self._mark_detached()
        for minor in attached:
            self._do(clock, "drbdsetup", "detach", str(minor), "--force")
        detached = self._await(clock, lambda now: now.diskless or not now.alone_and_frozen)
        if detached is None or not (detached.diskless and detached.alone_and_frozen):
            raise Failed("detach --force did not leave it diskless, frozen and unconnected: not resumed")
        self._end_users(detached, clock)  # wanted or not: without its disk this copy cannot serve any more
        last = self.facts(clock)
        if not (last.diskless and last.alone_and_frozen):
            raise Failed("not diskless, frozen and unconnected any more: not resumed")
        self._do(clock, "drbdsetup", "resume-io", str(facts.minors[0]))

    def _mark_detached(self) -> None:
        """Before it is done: whatever comes in between, the disk is ours to attach again."""
        with contextlib.suppress(OSError):
            self._marker.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._marker.touch()

    def _forget_detached(self) -> None:
        with contextlib.suppress(OSError):
            self._marker.unlink()

    # --- while blocked

    def enforce_blocked(self, replica: Replica, deadline_s: float) -> Outcome:
        """Idempotent: re-attach what release() detached, outdate, connect when StandAlone (with a growing pause, so
        that a split-brain which DRBD itself refuses to connect does not become a loop)."""
        clock = Clock(deadline_s)
        return self._guarded(lambda: self._enforce(clock))

    def _enforce(self, clock: Clock) -> Outcome:
        facts = self.facts(clock)
        if facts.disk is Disk.ABSENT or facts.role is not Role.SECONDARY:
            return Outcome(True, "nothing to do")
        done: List[str] = []
        if facts.disk is Disk.DISKLESS and self._marker.exists():
            done.append(self._reattach(clock))
            facts = self.facts(clock)
        elif facts.disk not in (Disk.DISKLESS, Disk.UNKNOWN):
            self._forget_detached()  # of a release that failed at the detach: not for a disk that fails by itself later
        if any(word in ("UpToDate", "Consistent") for _, word in facts.disks) and not facts.connected:
            done.append(self._block(clock).how)
        # 8.4 has no connection object at all after `disconnect`.
        if not facts.words or "StandAlone" in facts.words:
            done.append(self._reconnect(clock))
        elif facts.connected:
            self._connect_at, self._connect_pause = 0.0, RECONNECT_FIRST_S
        return Outcome(True, ", ".join(done) or "nothing to do")

    def _reattach(self, clock: Clock) -> str:
        """In this order: the disk must be outdated before the peer is met again."""
        self._try(clock, "drbdadm", "disconnect", self.name)
        self._attach(clock)
        attached = self._await(clock, lambda now: now.disk not in (Disk.DISKLESS, Disk.UNKNOWN))
        if attached is None:
            raise Failed("attach: the disk did not come back")
        for minor in attached.minors:
            self._try(clock, "drbdsetup", "outdate", str(minor))
        after = self.facts(clock)
        if not after.every_disk_is("Outdated", "Inconsistent"):
            raise Failed(f"attached, but not outdated ({after.disk.value}): not connected")
        self._forget_detached()
        self._do(clock, "drbdadm", "connect", self.name)
        return "attached, outdated"

    def _attach(self, clock: Clock) -> None:
        """drbdadm stops at a volume that is attached already, as one is when the release failed half way."""
        facts = self.facts(clock)
        bare = [f"minor-{minor}" for minor, word in facts.disks if word == "Diskless"]
        for target in [self.name] if facts.diskless else bare:
            self._do(clock, "drbdadm", "attach", target)

    def _reconnect(self, clock: Clock) -> str:
        now = time.monotonic()
        if now < self._connect_at:
            return "waits before it connects again"
        self._connect_at = now + self._connect_pause
        self._connect_pause = min(self._connect_pause * 2, RECONNECT_MOST_S)
        self._do(clock, "drbdadm", "connect", self.name)
        return "connect"

    # --- unblock

    def unblock(self, replica: Replica, deadline_s: float) -> Outcome:
        """Lift a persistent `outdated`. 8.4 has no command for it, so the flag is set in the meta-data, as a person
        would do it:

        1. get-gi: consistent (first flag) and not up to date (second) is what is expected; anything else: refused;
        2. down; 3. drbdmeta get-gi: the same as before, else refused; 4. drbdmeta set-gi with the second flag set,
        UUIDs unchanged; 5. drbdmeta get-gi: as written; 6. up. The disk comes back Consistent, and its promotion asks
        our handler, as it must.

        Never with --force on `primary`. Whatever is refused, `up` is called at the end.
        """
        clock = Clock(deadline_s)
        return self._guarded(lambda: self._unblock(clock))

    def _unblock(self, clock: Clock) -> Outcome:
        facts = self.facts(clock)
        if facts.disk in (Disk.UPTODATE, Disk.CONSISTENT):
            return Outcome(True, "not outdated")
        if facts.disk is not Disk.OUTDATED or facts.role is not Role.SECONDARY or facts.connected:
            raise Failed(f"{facts.disk.value}, {facts.role.value}: only an unconnected outdated Secondary is unblocked")
        config = self._configuration(clock, anew=True)
        if config is None or self._me not in config.hosts:
            raise Failed("not in DRBD's configuration")
        volumes = config.hosts[self._me].volumes
        wanted = {volume: lifted(self._gi_attached(volume, clock)) for volume in volumes}
        try:
            self._do(clock, "drbdadm", "down", self.name)
            for volume in volumes:
                self._write_gi(volume, wanted[volume], clock)
        finally:
            self._run(["drbdadm", "up", self.name], timeout_s=COMMAND_S)
        after = self._await(clock, lambda now: now.disk not in (Disk.DISKLESS, Disk.UNKNOWN, Disk.ABSENT))
        if after is None or after.disk not in (Disk.CONSISTENT, Disk.UPTODATE):
            raise Failed("the mark is still there after `up`")
        return Outcome(True, after.disk.value)

    def _gi_attached(self, volume: drbd_config.Volume, clock: Clock) -> str:
        done = self._try(clock, "drbdsetup", "get-gi", str(volume.minor))
        if not done.ok:
            raise Failed(f"get-gi: {done.brief()}")
        return done.stdout.strip()

    def _meta(self, volume: drbd_config.Volume) -> List[str]:
        if volume.meta == "internal":
            return ["drbdmeta", str(volume.minor), "v08", volume.disk, "internal"]
        return ["drbdmeta", str(volume.minor), "v08", volume.meta, volume.meta_index or "flex-external"]

    def _write_gi(self, volume: drbd_config.Volume, wanted: str, clock: Clock) -> None:
        meta = self._meta(volume)
        before = self._try(clock, *meta, "get-gi")
        if not before.ok or lifted(before.stdout.strip()) != wanted:
            raise Failed(
                f"the meta-data of minor {volume.minor} changed meanwhile, or cannot be read ({before.brief()})"
            )
        self._do(clock, "drbdmeta", "--force", *meta[1:], "set-gi", wanted)
        after = self._try(clock, *meta, "get-gi")
        if after.stdout.strip() != wanted:
            raise Failed(f"set-gi on minor {volume.minor} wrote something else: {after.stdout.strip()[:100]}")


class DrbdDriver9(DrbdDriver84):
    """Driver for DRBD 9. Written from the manual pages of drbd-utils 9.22; NOT run, since no DRBD 9 kernel was at hand.

    Differs in: connections have names (`RESOURCE:PEER`); I/O is made to fail by `secondary --force`, which ends pending
    requests with errors; the disk stays attached, so nothing has to be attached again.
    """

    drbd9 = True

    def _connection(self, peer: str) -> str:
        return f"{self.name}:{peer}"

    def _fail_io(self, facts: Facts, clock: Clock) -> None:
        self._do(clock, "drbdsetup", "secondary", self.name, "--force")

    def _unblock(self, clock: Clock) -> Outcome:
        facts = self.facts(clock)
        if facts.disk in (Disk.UPTODATE, Disk.CONSISTENT):
            return Outcome(True, "not outdated")
        # v09 meta-data is written by no documented command, and `primary --force` is never ours to give.
        raise Failed("DRBD 9 has no way to lift `outdated` without --force; let it resync, or decide by hand")


def lifted(gi: str) -> str:
    """A v08 generation identifier with the flag "was up to date" set. Raises Failed unless it is consistent and the
    flag is not set."""
    parts = gi.split(":")
    if (
        len(parts) < 6
        or any(len(part) != 16 for part in parts[:4])
        or any(part not in ("0", "1") for part in parts[4:])
    ):
        raise Failed(f"unexpected generation identifier: {gi[:100]!r}")
    consistent, up_to_date = parts[4], parts[5]
    if consistent != "1" or up_to_date != "0" or int(parts[0], 16) == 0:
        raise Failed(f"not a consistent, outdated copy: {gi[:100]}")
    return ":".join([*parts[:5], "1", *parts[6:]])


def _bracketed(address: drbd_config.Address) -> str:
    return f"[{address.host}]" if ":" in address.host else address.host


def kernel_is_9(proc_drbd: str, drbdadm_version: str) -> bool:
    """From /proc/drbd ("" if it is not there), else from `drbdadm --version`. 8.4 when neither tells."""
    words: Mapping[str, str] = dict(line.partition("=")[::2] for line in drbdadm_version.splitlines())
    first = proc_drbd.split("version:")[-1].split()
    version = first[0] if proc_drbd and first else words.get("DRBD_KERNEL_VERSION", "")
    return version.startswith("9.")
