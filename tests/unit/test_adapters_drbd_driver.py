"""The driver of DRBD 8.4: what it does to the kernel, and in which order."""

import pytest

from heartgate.adapters import drbd_driver
from heartgate.adapters.process import Completed
from heartgate.core.model import UNKNOWN_REPLICA
from tests.unit.drbd_samples import DUMP84, GI, OUTDATED_GI


class Kernel:
    """A DRBD 8.4 of one resource that answers commands, and keeps them in the order in which they came."""

    def __init__(self, role="Primary", disk="UpToDate", connection="Connected", suspended="no", gi=OUTDATED_GI):
        self.role, self.disk, self.connection, self.suspended, self.gi = role, disk, connection, suspended, gi
        self.connects_meanwhile = False
        self.calls, self.users, self.sockets, self.up = (
            [],
            {"killed": [], "left": [], "kernel": [], "protected": []},
            2,
            True,
        )

    def __call__(self, argv, *, timeout_s):
        assert timeout_s > 0
        line = " ".join(argv)
        self.calls.append(line)
        if argv[:2] == ["drbdsetup", "events2"]:
            return Completed(0, self.dump(), "")
        if argv[:2] == ["drbdadm", "dump-xml"]:
            return Completed(0, DUMP84, "")
        if "device_users" in line:
            return Completed(0, __import__("json").dumps(self.users), "")
        return self.act(line)

    def dump(self):
        if not self.up:
            return "exists -\n"
        replication = "Established" if self.connection == "Connected" else "Off"
        connection = (
            ""
            if self.connection == ""
            else (
                f"exists connection name:r0 peer-node-id:0 conn-name:peer connection:{self.connection} role:Unknown\n"
                f"exists peer-device name:r0 peer-node-id:0 conn-name:peer volume:0 replication:{replication} peer-disk:DUnknown\n"  # noqa: E501
            )
        )
        return (
            f"exists resource name:r0 role:{self.role} suspended:{self.suspended}\n{connection}"
            f"exists device name:r0 volume:0 minor:0 disk:{self.disk}\nexists -\n"
        )

    def act(self, line):
        if line.startswith("ss -K"):
            if self.sockets and self.connection == "Connected":
                self.connection, self.suspended = "Connecting", "fencing" if self.role == "Primary" else "no"
                return Completed(0, "ESTAB\n" * self.sockets, "")
        elif line == "drbdsetup outdate 0":
            if self.connects_meanwhile:
                self.connection, self.connects_meanwhile = "Connected", False
            if self.connection == "Connected":
                return Completed(17, "", "State change failed: (-7) State change was refused by peer node")
            self.disk = "Outdated"
        elif line == "drbdsetup detach 0 --force":
            self.disk = "Diskless"
        elif line == "drbdsetup resume-io 0":
            self.suspended = "no"
        elif line == "drbdadm disconnect r0":
            self.connection = ""
        elif line.startswith("drbdadm disconnect --force"):
            self.connection, self.suspended = "", "fencing"
        elif line == "drbdadm connect r0":
            self.connection = "Connecting"
        elif line == "drbdadm attach r0":
            self.disk = "Consistent"
        elif line == "drbdadm down r0":
            self.up = False
        elif line == "drbdadm up r0":
            self.up, self.disk = True, "Consistent" if self.gi.split(":")[5] == "1" else "Outdated"
        elif line.endswith("get-gi") or line.startswith("drbdsetup get-gi"):
            return Completed(0, self.gi + "\n", "")
        elif " set-gi " in line:
            self.gi = line.split()[-1]
        return Completed(0, "", "")

    def done(self):
        """The commands that change something."""
        looks = ("drbdsetup events2", "drbdadm dump-xml", "drbdsetup get-gi")
        return [call for call in self.calls if not call.startswith(looks) and not call.endswith("get-gi")]


def driver(kernel, tmp_path):
    return drbd_driver.DrbdDriver84("r0", "nodea", runner=kernel, run_dir=str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("facts", "how"),
    [
        ({"role": "Secondary"}, "secondary"),
        ({"role": "Secondary", "connection": "Connecting"}, "outdated"),
        ({"role": "Secondary", "connection": "", "disk": "Inconsistent"}, "inconsistent"),
        ({"connection": "Connecting", "suspended": "fencing"}, "frozen"),
        ({}, "frozen"),
    ],
)
def test_block(facts, how, tmp_path):
    kernel = Kernel(**facts)
    outcome = driver(kernel, tmp_path).block(UNKNOWN_REPLICA, 2.0)
    assert outcome.ok and outcome.how == how
    assert any(call.startswith("ss -K") for call in kernel.done()) == (facts == {})


def test_a_block_that_the_kernel_refuses_is_no_block(tmp_path):
    """The connection came back between the look and the command."""
    kernel = Kernel(role="Secondary", connection="Connecting")
    kernel.connects_meanwhile = True
    outcome = driver(kernel, tmp_path).block(UNKNOWN_REPLICA, 2.0)
    assert outcome.ok and outcome.how == "secondary"


def test_block_of_what_is_not_there(tmp_path):
    kernel = Kernel()
    kernel.up = False
    assert driver(kernel, tmp_path).block(UNKNOWN_REPLICA, 2.0) == drbd_driver.Outcome(True, "absent")


def test_a_primary_that_serves_alone_is_not_called_blocked(tmp_path):
    assert not driver(Kernel(connection="Connecting"), tmp_path).block(UNKNOWN_REPLICA, 1.0).ok


def test_block_without_facts_is_no_block(tmp_path):
    for answer in (
        Completed(20, "", "no module"),
        Completed(0, "exists resource name:r0 role:Secondary suspended:no\n", ""),
        Completed(0, "garbage\n", ""),
        Completed(124, "", ""),
    ):
        outcome = drbd_driver.DrbdDriver84("r0", "nodea", runner=lambda argv, timeout_s, a=answer: a).block(
            UNKNOWN_REPLICA, 0.5
        )
        assert not outcome.ok


@pytest.mark.parametrize("sockets, asked", [(2, 1), (0, 2)])
def test_a_drop_leaves_a_connection_that_came_meanwhile(tmp_path, sockets, asked):
    """Reading DRBD's configuration and state takes a second on a busy machine, and so does a new connection."""
    kernel = Kernel()
    kernel.sockets = sockets
    answers = iter([True] * (asked - 1) + [False])
    outcome = driver(kernel, tmp_path).drop("nodeb", 2.0, lambda: next(answers))
    assert (outcome.ok, outcome.how) == (True, "no longer that connection")
    assert not [line for line in kernel.done() if "disconnect" in line]
    assert len([line for line in kernel.done() if line.startswith("ss -K")]) == asked - 1


def test_drop_falls_back_to_disconnect(tmp_path):
    kernel = Kernel()
    kernel.sockets = 0
    assert driver(kernel, tmp_path).drop("nodeb", 2.0).how == "disconnect"
    assert kernel.done()[-2:] == ["drbdadm disconnect --force r0", "drbdadm connect r0"]


def test_release_kills_before_it_detaches_before_it_resumes(tmp_path):
    kernel = Kernel(connection="Connecting", suspended="fencing")
    kernel.users["killed"] = [4711]
    outcome = driver(kernel, tmp_path).release(UNKNOWN_REPLICA, 2.0)
    assert outcome.ok, outcome
    done = [call.split("device_users")[0][:20] if "device_users" in call else call for call in kernel.done()]
    users = done[0]
    assert done == [users, users, "drbdsetup detach 0 --force", users, users, "drbdsetup resume-io 0"]
    assert driver(kernel, tmp_path).release(UNKNOWN_REPLICA, 2.0).how == "released before"


class Volumes(Kernel):
    """As the kernel: `detach --force` makes a disk Failed, and Diskless only `slow` looks later; `resume-io` while a disk counts
    writes a new generation."""

    def __init__(self, *disks, slow=2, **facts):
        super().__init__(**{"connection": "Connecting", "suspended": "fencing", **facts})
        self.disks, self.slow, self.split, self.on = dict(enumerate(disks)), slow, False, {}

    def dump(self):
        if self.disk == "Consistent":  # attached again
            self.disks, self.disk = dict.fromkeys(self.disks, "Consistent"), "UpToDate"
        self.slow -= "Failed" in self.disks.values()
        if self.slow <= 0:
            self.disks = {minor: "Diskless" if word == "Failed" else word for minor, word in self.disks.items()}
        lines = "".join(f"exists device name:r0 volume:{m} minor:{m} disk:{word}\n" for m, word in self.disks.items())
        return super().dump().replace(f"exists device name:r0 volume:0 minor:0 disk:{self.disk}\n", lines)

    def __call__(self, argv, *, timeout_s):
        for part, act in self.on.items():
            if part in " ".join(argv):
                act()
        return super().__call__(argv, timeout_s=timeout_s)

    def act(self, line):
        words = line.split()
        if line.startswith("drbdsetup detach"):
            self.disks[int(words[2])] = "Failed"
        elif line.startswith("drbdsetup resume-io"):
            self.split = set(self.disks.values()) != {"Diskless"}
        elif line.startswith("drbdsetup outdate"):
            if self.disks[int(words[2])] == "Diskless":
                return Completed(17, "", "no disk")
            self.disks[int(words[2])] = "Outdated"
        elif line.startswith("drbdadm attach minor-"):
            self.disks[int(words[2][len("minor-") :])] = "Consistent"
        return super().act(line.replace("detach 0", "detach none"))


@pytest.mark.parametrize("disks", [("UpToDate",), ("Diskless", "UpToDate"), ("UpToDate", "Detaching", "Diskless")])
def test_io_is_resumed_only_when_no_volume_has_a_disk(disks, tmp_path):
    """Failed still counts as a disk in the kernel: a thaw would write a new generation, and let the other volumes write on."""
    kernel = Volumes(*disks)
    outcome = driver(kernel, tmp_path).release(UNKNOWN_REPLICA, 5.0)
    assert outcome.ok, outcome
    assert not kernel.split and set(kernel.disks.values()) == {"Diskless"} and kernel.suspended == "no"
    detached = [call for call in kernel.done() if "detach" in call]
    assert detached == [f"drbdsetup detach {n} --force" for n, word in enumerate(disks) if word != "Diskless"]


def test_io_is_not_resumed_while_a_disk_hangs(tmp_path):
    kernel = Volumes("UpToDate", slow=10**6)
    assert not driver(kernel, tmp_path).release(UNKNOWN_REPLICA, 0.7).ok
    assert kernel.suspended == "fencing" and not any("resume-io" in call for call in kernel.calls)


def test_users_who_came_during_the_detach_are_ended_too(tmp_path):
    kernel = Volumes("UpToDate")
    kernel.on["detach"] = lambda: kernel.users.update(left=[[4711, "fd 3"]])
    assert not driver(kernel, tmp_path).release(UNKNOWN_REPLICA, 1.0).ok
    assert kernel.suspended == "fencing" and not any("resume-io" in call for call in kernel.calls)


def test_a_connection_that_comes_back_during_the_detach_ends_the_release(tmp_path):
    kernel = Volumes("UpToDate")
    kernel.on["detach"] = lambda: setattr(kernel, "connection", "Connected")
    ours = driver(kernel, tmp_path)
    assert not ours.release(UNKNOWN_REPLICA, 2.0).ok
    assert not any("resume-io" in call for call in kernel.calls)
    kernel.role, kernel.calls = "Secondary", []
    assert ours.enforce_blocked(UNKNOWN_REPLICA, 2.0).how == "attached, outdated"


def test_what_is_attached_still_is_not_attached_again(tmp_path):
    """The release ended half way; vol 1 was never detached, and `drbdadm attach r0` would stop at it."""
    kernel = Volumes("Diskless", "UpToDate", role="Secondary", connection="Connecting", suspended="no")
    ours = driver(kernel, tmp_path)
    ours._marker.parent.mkdir()
    ours._marker.touch()
    assert ours.enforce_blocked(UNKNOWN_REPLICA, 2.0).how == "attached, outdated"
    assert [call for call in kernel.done() if "attach" in call] == ["drbdadm attach minor-0"]
    assert set(kernel.disks.values()) == {"Outdated"}


def test_every_volume_of_a_secondary_is_outdated(tmp_path):
    kernel = Volumes("Diskless", "UpToDate", role="Secondary", suspended="no")
    assert driver(kernel, tmp_path).block(UNKNOWN_REPLICA, 2.0).ok
    assert kernel.disks[1] == "Outdated"
    kernel = Volumes("Attaching", role="Secondary", suspended="no")  # may become anything
    kernel.on["outdate"] = lambda: kernel.disks.update({0: "Diskless"})
    assert driver(kernel, tmp_path).block(UNKNOWN_REPLICA, 2.0).how == "diskless"


def test_a_mark_without_a_detached_disk_does_not_stay(tmp_path):
    """Else a disk that fails by itself, long after, would be attached again."""
    kernel = Kernel(role="Secondary", disk="Outdated", connection="Connecting")
    ours = driver(kernel, tmp_path)
    ours._marker.parent.mkdir()
    ours._marker.touch()
    ours.enforce_blocked(UNKNOWN_REPLICA, 2.0)
    assert not ours._marker.exists()


class BlindOnce(Volumes):
    """The memory maps cannot be read for so many looks."""

    def __init__(self, looks):
        super().__init__("UpToDate")
        self.looks = looks

    def __call__(self, argv, *, timeout_s):
        if "device_users" in " ".join(argv) and "--no-maps" not in argv and self.looks:
            self.calls.append("users?")
            self.looks -= 1
            return Completed(124, "", "")
        return super().__call__(argv, timeout_s=timeout_s)


def test_maps_that_cannot_be_read_are_no_empty_maps(tmp_path):
    kernel = BlindOnce(10**6)
    outcome = driver(kernel, tmp_path).release(UNKNOWN_REPLICA, 2.0)
    assert not outcome.ok and outcome.how.startswith("kernel-users: ")
    assert not any("detach" in call for call in kernel.calls)


def test_maps_are_read_again_when_those_in_the_way_were_killed(tmp_path):
    kernel = BlindOnce(1)
    kernel.users["killed"] = [4711]
    assert driver(kernel, tmp_path).release(UNKNOWN_REPLICA, 2.0).ok


@pytest.mark.parametrize("until", ["dump-xml", "device_users"])
def test_a_release_that_is_not_wanted_any_more_stops_before_the_disk_is_gone(until, tmp_path):
    """A meeting has chosen this replica meanwhile."""
    kernel, wanted = Volumes("UpToDate"), [True]
    kernel.on[until] = lambda: wanted.clear()
    outcome = driver(kernel, tmp_path).release(UNKNOWN_REPLICA, 2.0, lambda: bool(wanted))
    assert (outcome.ok, outcome.how) == (True, "not wanted any more")
    assert not any("detach" in call for call in kernel.calls)
    assert until != "dump-xml" or not any("device_users" in call for call in kernel.calls)


@pytest.mark.parametrize(
    ("kernel", "how"),
    [
        (Volumes("UpToDate"), "frozen"),
        (Volumes("Failed", slow=99), "frozen"),
        (Volumes("Diskless", "Diskless", suspended="no"), "diskless"),
        (Volumes("Diskless", "UpToDate", suspended="no"), ""),
        (Volumes("Failed", slow=99, suspended="no"), ""),
        (Volumes("UpToDate", connection="Connected"), ""),
        (Volumes("Diskless", connection="Connected", suspended="no"), ""),
        (Volumes("UpToDate", role="Secondary"), ""),
        (Volumes("UpToDate", role="Unknown"), ""),
    ],
)
def test_a_look_tells_whether_the_block_holds_and_changes_nothing(kernel, how, tmp_path):
    outcome = driver(kernel, tmp_path).holds(2.0)
    assert (outcome.ok, outcome.how) == (bool(how), how or "not yet")
    assert kernel.done() == []


def test_a_look_without_facts_is_no_block(tmp_path):
    blind = drbd_driver.DrbdDriver84("r0", "nodea", runner=lambda argv, timeout_s: Completed(124, "", ""))
    assert not blind.holds(0.5).ok


def test_a_released_primary_is_blocked_until_it_is_demoted(tmp_path):
    kernel = Volumes("UpToDate")
    ours = driver(kernel, tmp_path)
    assert ours.release(UNKNOWN_REPLICA, 5.0).ok
    assert ours.block(UNKNOWN_REPLICA, 2.0) == drbd_driver.Outcome(True, "diskless")


@pytest.mark.parametrize("kind", ["kernel", "protected"])
def test_release_leaves_users_alone_that_cannot_be_killed(kind, tmp_path):
    kernel = Kernel(connection="Connecting", suspended="fencing")
    kernel.users[kind] = ["loop device loop0"]
    outcome = driver(kernel, tmp_path).release(UNKNOWN_REPLICA, 2.0)
    assert not outcome.ok and outcome.how.startswith("kernel-users: ")
    assert not any("detach" in call or "resume" in call for call in kernel.calls)


def test_release_waits_for_every_user(tmp_path):
    kernel = Kernel(connection="Connecting", suspended="fencing")
    kernel.users["left"] = [[4711, "fd 3"]]
    assert not driver(kernel, tmp_path).release(UNKNOWN_REPLICA, 0.5).ok
    assert not any("detach" in call or "resume" in call for call in kernel.calls)


@pytest.mark.parametrize("facts", [{}, {"connection": "Connecting"}])
def test_release_only_of_a_frozen_unconnected_primary(facts, tmp_path):
    kernel = Kernel(**facts)
    assert not driver(kernel, tmp_path).release(UNKNOWN_REPLICA, 1.0).ok
    assert kernel.done() == []


def test_after_a_release_the_disk_is_outdated_before_it_connects(tmp_path):
    kernel = Kernel(connection="Connecting", suspended="fencing")
    ours = driver(kernel, tmp_path)
    assert ours.release(UNKNOWN_REPLICA, 2.0).ok
    kernel.role, kernel.calls = "Secondary", []
    assert ours.enforce_blocked(UNKNOWN_REPLICA, 2.0).ok
    assert kernel.done() == ["drbdadm disconnect r0", "drbdadm attach r0", "drbdsetup outdate 0", "drbdadm connect r0"]
    kernel.calls = []
    assert ours.enforce_blocked(UNKNOWN_REPLICA, 2.0).how == "nothing to do"
    assert kernel.done() == []


def test_a_disk_that_failed_by_itself_is_not_attached(tmp_path):
    kernel = Kernel(role="Secondary", disk="Diskless", connection="Connecting")
    assert driver(kernel, tmp_path).enforce_blocked(UNKNOWN_REPLICA, 2.0).ok
    assert kernel.done() == []


def test_connecting_again_has_pauses(tmp_path):
    kernel = Kernel(role="Secondary", disk="Outdated", connection="StandAlone")
    ours = driver(kernel, tmp_path)
    assert ours.enforce_blocked(UNKNOWN_REPLICA, 2.0).how == "connect"
    kernel.connection = "StandAlone"
    assert "waits" in ours.enforce_blocked(UNKNOWN_REPLICA, 2.0).how


def test_unblock_sets_one_flag_and_nothing_else(tmp_path):
    kernel = Kernel(role="Secondary", disk="Outdated", connection="Connecting")
    assert driver(kernel, tmp_path).unblock(UNKNOWN_REPLICA, 2.0) == drbd_driver.Outcome(True, "consistent")
    down, write, up = kernel.done()
    assert (down, up) == ("drbdadm down r0", "drbdadm up r0")
    assert write.startswith("drbdmeta --force 0 v08 /dev/vdb internal set-gi ")
    assert kernel.gi == OUTDATED_GI.replace(":1:0:0:0:0:0:1", ":1:1:0:0:0:0:1")
    assert not any("primary" in call for call in kernel.calls)


@pytest.mark.parametrize(
    "gi", [GI, "", "x:y", OUTDATED_GI.replace(":1:0:0", ":0:0:0"), OUTDATED_GI + ":2", "0" * 16 + OUTDATED_GI[16:]]
)
def test_unblock_refuses_the_unexpected(gi, tmp_path):
    kernel = Kernel(role="Secondary", disk="Outdated", connection="Connecting", gi=gi)
    assert not driver(kernel, tmp_path).unblock(UNKNOWN_REPLICA, 1.0).ok
    assert kernel.done() == []


def test_unblock_only_of_an_unconnected_secondary(tmp_path):
    for facts in ({"role": "Primary"}, {"connection": "Connected"}, {"disk": "Inconsistent"}):
        kernel = Kernel(**{"role": "Secondary", "disk": "Outdated", "connection": "Connecting", **facts})
        assert not driver(kernel, tmp_path).unblock(UNKNOWN_REPLICA, 1.0).ok
        assert kernel.done() == []


def test_rehandle_connects_whatever_happened(tmp_path):
    kernel = Kernel(connection="Connecting", suspended="fencing")
    outcome = driver(kernel, tmp_path).rehandle(UNKNOWN_REPLICA, 0.6)
    assert outcome == drbd_driver.Outcome(False, "still frozen")
    assert kernel.done() == ["drbdadm disconnect r0", "drbdadm connect r0"]


def test_which_kernel():
    assert not drbd_driver.kernel_is_9("version: 8.4.11 (api:1/proto:86-101)\n", "")
    assert drbd_driver.kernel_is_9("version: 9.1.7 (api:2/proto:110-121)\n", "")
    assert drbd_driver.kernel_is_9("", "DRBD_KERNEL_VERSION_CODE=0x090200\nDRBD_KERNEL_VERSION=9.2.0\n")
    assert not drbd_driver.kernel_is_9("", "DRBD_KERNEL_VERSION=0\n")
