"""The source of DRBD's facts: one `drbdsetup events2` (in its place a script that says the same), and what is told of it."""

import select
import time

import pytest

from heartgate.adapters import drbd, drbd_events, process
from heartgate.adapters.process import Completed
from heartgate.core.model import UNKNOWN_REPLICA, Disk, Link, PeerLink, Role
from tests.unit.drbd_samples import DUMP84, GI

DUMP = """exists resource name:r0 role:Primary suspended:no
exists connection name:r0 peer-node-id:0 conn-name:peer connection:Connected role:Secondary
exists device name:r0 volume:0 minor:0 disk:UpToDate
exists peer-device name:r0 peer-node-id:0 conn-name:peer volume:0 replication:Established peer-disk:UpToDate
exists -
"""


class Script:
    """Programs in place of drbdsetup and drbdadm: each start of `events2` takes the next text; the last one stays."""

    def __init__(self, monkeypatch, *texts):
        self.texts, self.started = list(texts), 0
        monkeypatch.setattr(drbd, "LineProcess", self.start)
        monkeypatch.setattr(drbd, "run", self.run)

    def start(self, argv):
        text = self.texts[min(self.started, len(self.texts) - 1)]
        self.started += 1
        tail = "exec sleep 60" if self.started >= len(self.texts) or "skipped" in text else "exit 0"
        later = text[len(DUMP) :]
        script = f"printf '%s' \"$1\"; sleep 0.3; printf '%s' \"$2\"; {tail}"
        return process.LineProcess(["sh", "-c", script, "sh", DUMP, later])

    def run(self, argv, *, timeout_s):
        return Completed(0, DUMP84 if "dump-xml" in argv else GI, "")


def watch(source, condition, timeout_s=60.0):
    log, deadline = [], time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        select.select([source], [], [], 0.1)
        log += [replica for name, replica in source.read().items() if name == "r0"]
        if log and condition(log[-1]):
            return log
    raise AssertionError(f"waited in vain: {log}")


def complete(replica):
    return replica.peer("nodeb").link is Link.UP and replica.generation != ""


def test_source_tells_everything(monkeypatch):
    Script(monkeypatch, DUMP)
    source = drbd.DrbdSource("nodea")
    source.add("r0")
    source.add("nosuch")
    facts = {}
    watch(source, complete)
    facts = source._told
    assert facts["r0"].peer("nodeb") == PeerLink(Link.UP, 1, Disk.UPTODATE)
    assert (facts["r0"].generation, facts["r0"].ancestors) == ("DE75BF1C4EA83E72", ("57CED1072A380848",))
    assert facts["nosuch"].disk is Disk.ABSENT
    source.close()


@pytest.mark.parametrize("gap", ["", "garbage\n"])
def test_source_is_unknown_after_a_death_and_counts_anew(monkeypatch, gap):
    script = Script(monkeypatch, DUMP + gap, DUMP)
    source = drbd.DrbdSource("nodea")
    source.add("r0")
    log = watch(source, lambda replica: complete(replica) and replica.peer("nodeb").incarnation == 2)
    assert UNKNOWN_REPLICA in log and script.started == 2
    source.close()


@pytest.mark.parametrize(("gaps", "incarnation"), [("- skipped 1\n- skipped -1\n", 1), ("- skipped 3\n", 2)])
def test_source_reads_beside_when_messages_overtook_each_other(monkeypatch, gaps, incarnation):
    script = Script(monkeypatch, DUMP + gaps, DUMP)
    source = drbd.DrbdSource("nodea")
    source.add("r0")
    log = watch(source, lambda replica: complete(replica) and script.started == 2 and source._fresh is None)
    known = log[next(index for index, replica in enumerate(log) if replica.disk is Disk.UPTODATE) :]
    assert UNKNOWN_REPLICA not in known
    assert source._told["r0"].peer("nodeb").incarnation == incarnation
    source.close()


def test_source_outlives_a_command_that_could_not_be_started(monkeypatch):
    """No descriptor was left: nothing is known, and the next change asks again."""
    script = Script(monkeypatch, DUMP + "change device name:r0 volume:0 minor:0 disk:Outdated\n")
    failures = [OSError(24, "Too many open files")] * 3

    def run(argv, *, timeout_s):
        if failures:
            raise failures.pop()
        return script.run(argv, timeout_s=timeout_s)

    monkeypatch.setattr(drbd, "run", run)
    monkeypatch.setattr(drbd, "CONFIG_AGE_S", 0.1)
    source = drbd.DrbdSource("nodea")
    source.add("r0")
    log = watch(source, lambda replica: replica.disk is Disk.OUTDATED and replica.generation != "")
    assert not failures and log
    source.close()


DEMOTED = "change resource name:r0 role:Secondary"
CONNECTION = "change connection name:r0 peer-node-id:0 conn-name:peer connection:"


@pytest.fixture
def connected(monkeypatch):
    """A source that has told of r0, connected; what makes the kernel say more."""
    Script(monkeypatch, DUMP)
    source = drbd.DrbdSource("nodea")
    source.add("r0")
    watch(source, complete)

    def say(lines, condition):
        for line in lines.splitlines():
            source._stream.table.apply(drbd_events.parse_line(line.encode()))
        source._readiness.wake()
        return [replica.peer("nodeb").link for replica in watch(source, condition)]

    yield say
    source.close()


def link_is(link):
    return lambda replica: replica.peer("nodeb").link is link


def test_a_secondary_that_leaves_in_order_has_lost_nobody(connected):
    """`drbdadm down` disconnects first. A first rank that took that for a loss would have the others block, for nothing."""
    connected(DEMOTED, lambda replica: replica.role is Role.SECONDARY)
    told = connected(CONNECTION + "Disconnecting", link_is(Link.UNKNOWN))
    assert Link.DOWN not in told
    told = connected("destroy resource name:r0", lambda replica: replica.disk is Disk.ABSENT)
    assert told == [Link.DOWN]


def test_a_connection_that_is_ended_here_and_stays_so_is_lost(connected):
    """`drbdadm disconnect`, or two histories that DRBD does not join."""
    connected(DEMOTED, lambda replica: replica.role is Role.SECONDARY)
    began = time.monotonic()
    told = connected(CONNECTION + "StandAlone", link_is(Link.DOWN))
    assert told == [Link.UNKNOWN, Link.DOWN] and time.monotonic() - began > drbd.LEAVING_S - 0.1


def test_a_primary_that_ends_its_connection_has_lost_it_at_once(connected):
    """It is frozen by that, and its handler asks."""
    assert connected(CONNECTION + "StandAlone", link_is(Link.DOWN)) == [Link.DOWN]


def test_what_was_lost_before_stays_lost(connected):
    """The node's own `disconnect` and `connect`, by which the kernel calls its handler again."""
    connected(DEMOTED, lambda replica: replica.role is Role.SECONDARY)
    connected(CONNECTION + "Connecting", link_is(Link.DOWN))
    lines = f"{CONNECTION}StandAlone\nchange device name:r0 volume:0 minor:0 disk:Outdated"
    told = connected(lines, lambda replica: replica.disk is Disk.OUTDATED)
    assert set(told) == {Link.DOWN}
