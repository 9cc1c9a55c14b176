"""Corosync that is not there, netlink messages, flushing, the journal, the machine, and who uses a device."""

import ast
import errno
import os
import re
import socket
import stat
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartgate.adapters import corosync, cpg, device_users, flush, journal, journal_doc, netlink, system
from heartgate.adapters.base import CarrierLost

ROOT = Path(__file__).resolve().parents[2]

# --- Corosync


def test_names():
    entries = [
        {"nodeid": 1, "name": "nodea", "ring0_addr": "10.0.0.1"},
        {"nodeid": 2, "ring0_addr": "nodeb"},
        {"name": "x"},
    ]
    assert corosync.names_of(entries) == {1: "nodea", 2: "nodeb"}


@pytest.mark.skipif(Path("/var/run/corosync.pid").exists(), reason="a Corosync runs here")
def test_no_corosync():
    for attempt in (corosync.node_names, cpg.CpgCarrier, corosync.LinkStats, corosync.Quorum):
        before = len(list(Path("/proc/self/fd").iterdir()))
        with pytest.raises(CarrierLost):
            attempt()
        assert len(list(Path("/proc/self/fd").iterdir())) == before


# --- netlink


def link(name, index=2, carrier=1, flags=0x10001, kind="RTM_NEWLINK", family=0):
    return {
        "event": kind,
        "index": index,
        "flags": flags,
        "family": family,
        "attrs": [("IFLA_IFNAME", name), ("IFLA_CARRIER", carrier), ("IFLA_OPERSTATE", "UP")],
    }


def test_carrier_words():
    assert netlink.carrier_of(link("a")) is True
    assert netlink.carrier_of(link("a", carrier=0)) is False
    assert netlink.carrier_of(link("a", flags=0x10000)) is False  # switched off
    assert netlink.carrier_of({"attrs": [("IFLA_OPERSTATE", "LOWERLAYERDOWN")]}) is False
    assert netlink.carrier_of({"attrs": [("IFLA_OPERSTATE", "UNKNOWN")]}) is None
    assert netlink.carrier_of({}) is None and netlink.name_of({"attrs": None}) is None


class Route:
    """pyroute2's IPRoute: messages to come, then nothing."""

    links, queue, overflow = [], [], False

    def __init__(self):
        self.read, self.write = socket.socketpair()

    def bind(self, groups):
        pass

    def fileno(self):
        if self.queue or Route.overflow:
            self.write.send(b"x")
        return self.read.fileno()

    def get(self):
        self.read.recv(1)
        if Route.overflow:
            Route.overflow = False
            raise OSError(errno.ENOBUFS, "no buffer space")
        messages, self.queue[:] = list(self.queue), []
        return messages

    def get_links(self):
        return list(self.links)

    def close(self):
        self.read.close(), self.write.close()


def test_watch_follows_and_survives_overflow(monkeypatch):
    import pyroute2

    monkeypatch.setattr(pyroute2, "IPRoute", Route)
    Route.links = [link("eth0"), link("eth1", index=3, carrier=0)]
    watch = netlink.CarrierWatch()
    assert sorted(watch.read()) == [("eth0", True), ("eth1", False)]
    Route.queue[:] = [
        link("eth0", carrier=0),
        link("eth0", carrier=0),
        link("eth1", index=3, kind="RTM_DELLINK", family=7),
        link("eth1", index=3, kind="RTM_DELLINK"),
        {"event": "RTM_NEWADDR"},
    ]
    watch._route.fileno()
    assert watch.read() == [("eth0", False), ("eth1", None)]
    Route.overflow, Route.links = True, [link("eth5", index=5)]
    watch._route.fileno()
    assert sorted(watch.read()) == [("eth0", None), ("eth5", True)]
    watch.close()


def test_watch_for_real():
    watch = netlink.CarrierWatch()
    assert dict(watch.read()).get("lo", "missing") in (True, False)
    assert watch.read() == []
    watch.close()


# --- flush


@pytest.mark.parametrize(
    "spec", ["", "filesystem", "filesystem:", "filesystem:relative", "zebra:/x", "block:x", "hook:\n"]
)
def test_flush_syntax(spec):
    with pytest.raises(ValueError):
        flush.parse(spec)


def test_flush_of_a_file_system():
    result = flush.parse("filesystem:/proc").flush("r0", 60.0)
    assert result.ok and result.how == "synced" and result.elapsed_ms >= 0
    assert flush.parse("filesystem:/usr/../usr/lib").flush("r0", 60.0).how == "not-here"
    assert flush.parse("filesystem:/nowhere").check()


def test_flush_of_a_device(tmp_path):
    assert flush.parse("block:/dev/nosuch").flush("r0", 60.0).how == "not-here"
    assert not flush.parse("block:/dev/null").flush("r0", 60.0).ok
    assert flush.parse("block:/dev/null").check()


def test_flush_has_a_deadline():
    result = flush._bounded("x:y", 0.1, lambda: time.sleep(120) or (True, ""))
    assert not result.ok and "deadline" in result.how and 100 <= result.elapsed_ms < 60_000


def test_flush_hooks():
    if os.geteuid() != 0:
        pytest.skip("needs root")
    place = Path(f"/run/heartgate-hooks-{os.getpid()}")
    place.mkdir(mode=0o755)
    try:
        for name, code in (("10-a", 0), ("20-b", 3), ("30-c", 0)):
            (place / name).write_text(f"#!/bin/sh\necho {name} $1 >> {place}/.log\nexit {code}\n")
            (place / name).chmod(0o755)
        (place / "README").write_text("")
        result = flush.parse(f"hook:{place}").flush("r0", 60.0)
        assert not result.ok and "20-b: rc 3" in result.how
        assert (place / ".log").read_text() == "10-a r0\n20-b r0\n30-c r0\n"
        (place / "20-b").chmod(0o777)
        assert "written by others" in flush.parse(f"hook:{place}").check()
    finally:
        subprocess.run(["rm", "-r", str(place)], check=True)


def test_mount_points_with_blanks():
    text = "36 35 98:0 / /mnt/a\\040b rw - ext3 /dev/root rw\nnonsense\n37 35 98:1 / /mnt/a\\040b rw - xfs /dev/x rw\n"
    assert flush.mount_points(text) == {"/mnt/a b": "xfs"}


# --- journal


def test_catalog_and_ids():
    ids = [kind.uuid for kind in journal.KINDS.values()]
    assert len(set(ids)) == len(ids) and all(uuid.UUID(word).hex == word for word in ids)
    text = journal.catalog_text()
    assert text.count("\n-- ") == len(ids) and "Defined-By: heartgate" in text
    assert not re.search(r"[^\n]{140}", text)


def test_the_packaged_catalog_is_the_generated_one():
    assert (ROOT / "packaging" / "heartgate.catalog").read_text() == journal.catalog_text()


def test_every_kind_that_is_sent_is_in_the_catalog():
    source = "".join(path.read_text() for path in (ROOT / "lib" / "heartgate").rglob("*.py"))
    sent = set(re.findall(r'journal\.send\(\s*"([a-z-]+)"', source))
    sent |= set(re.findall(r'_note_rarely\(f"[^"]*", "([a-z-]+)"', source)) | {"operation", "flush", "flush-failed"}
    assert len(sent) > 12 and sent <= set(journal.KINDS), sent - set(journal.KINDS)


def test_troubleshooting_is_current():
    remedy = "run: PYTHONPATH=lib python3 -m heartgate.adapters.journal_doc > docs/troubleshooting.md"
    assert (ROOT / "docs" / "troubleshooting.md").read_text() == journal_doc.render(), remedy


@pytest.mark.parametrize("name", sorted(journal.KINDS))
def test_every_kind_says_what_to_look_at_and_what_to_do(name):
    kind = journal.KINDS[name]
    for text in (kind.means, kind.look, kind.todo):
        assert text[:1] in "`" or text[:1].isupper(), f"{name}: {text!r}"
        assert text.endswith((".", "?", ".)")), f"{name}: {text!r}"
        assert "\n" not in text and "  " not in text


def sends():
    """(kind, names of its fields) of every call in the library that sends one; kinds that are no literal are given by hand."""
    by_hand = {"_KIND_OF[standing]": ("blocked", "unproven"), "NOTE": ("heartbeat-link",)}
    by_hand["kind"] = ("bad-message", "unknown-device")
    by_hand["_KIND_OF.get(action.standing, 'standing')"] = ("standing", "readmitted", "solo", "blocked", "deciding", "unproven")
    for path in sorted((ROOT / "lib" / "heartgate").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute) or call.func.attr != "send":
                continue
            sender = ast.unparse(call.func.value)
            if not (sender.endswith("journal") or sender.startswith("_Record(")) or not call.args:
                continue
            first = call.args[0]
            kinds = [each.value for each in ast.walk(first) if isinstance(each, ast.Constant) and each.value in journal.KINDS]
            fields = {journal.field_name(each.arg) for each in call.keywords if each.arg}
            for kind in by_hand.get(ast.unparse(first), kinds):
                yield kind, fields, f"{path.name}:{call.lineno}"


def test_fields_that_the_catalog_names_are_sent():
    """A field that a text names goes with every message of the kind, unless its sentence says with which."""
    partly = {"fence-seen": {"HEARTGATE_HOW", "HEARTGATE_OLD", "HEARTGATE_ALERTED"}, "handler": {"HEARTGATE_CODE"}}
    seen = set()
    for kind, fields, where in sends():
        seen.add(kind)
        entry = journal.KINDS[kind]
        named = set(re.findall(r"HEARTGATE_[A-Z]+", " ".join(entry[2:])))
        assert named - partly.get(kind, set()) <= fields, f"{where}: {kind} names {named - fields}"
    assert seen == set(journal.KINDS), set(journal.KINDS) - seen


def test_message_to_the_journal(tmp_path):
    path = str(tmp_path / "journal")
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(path)
    journal.Journal(journal=path).send("solo", "alone\nnow", device="r0", rule="S1", epoch=4, **{"proofs x": "a"})
    data = server.recv(65536)
    assert b"HEARTGATE_DEVICE=r0\n" in data and b"HEARTGATE_EPOCH=4\n" in data and b"HEARTGATE_PROOFS_X=a\n" in data
    assert (
        b"MESSAGE\n\x09\0\0\0\0\0\0\0alone\nnow\n" in data
        and b"MESSAGE_ID=" + journal.KINDS["solo"].uuid.encode() in data
    )
    server.close()


def test_full_queue_drops_and_counts(tmp_path):
    path = str(tmp_path / "journal")
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(path)
    log = journal.Journal(journal=path)
    for _ in range(5000):  # nobody reads: who waited for room would wait for ever
        log.send("rule", "x" * 1000)
    assert log.dropped > 0
    server.close()


def test_without_a_journal_it_goes_to_syslog_or_stderr(tmp_path, capfd):
    path = str(tmp_path / "log")
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(path)
    journal.Journal(journal="/nowhere", syslog=path).send("daemon", "hello")
    assert server.recv(4096).endswith(b"hello")
    server.close()
    log = journal.Journal(journal="/nowhere", syslog="/nowhere")
    log.send("no such kind", "hello", what=object())
    assert "hello" in capfd.readouterr().err and log.dropped == 0


# --- machine


def test_machine(monkeypatch, tmp_path):
    assert uuid.UUID(system.boot_id())
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not system.sd_notify("READY=1")
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind("\0heartgate-test-notify")
    monkeypatch.setenv("NOTIFY_SOCKET", "@heartgate-test-notify")
    assert system.sd_notify("WATCHDOG=1") and server.recv(100) == b"WATCHDOG=1"
    server.close()
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    assert system.watchdog_interval_s() == 5.0
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert system.watchdog_interval_s() == 0.0


def test_self_reset_writes_only_where_it_is_told_and_only_really(tmp_path):
    trigger = tmp_path / "trigger"
    trigger.write_text("")
    system.self_reset(trigger=str(trigger))
    assert trigger.read_text() == ""
    system.self_reset(really=True, trigger=str(trigger))
    assert trigger.read_text() == "b"


# --- users of a device

SCRIPT = """
mount -t tmpfs heartgate-test "$1" && cd "$1" || exit 1
mountpoint -d "$1"
(cd /; exec sleep 91 3> "$1/open" >/dev/null) &
(exec sleep 92 >/dev/null) &
(exec sleep 93 >/dev/null) < /dev/null & cd /; umount -l "$1" 2>/dev/null; read line
"""


def test_users_of_a_file_system_are_found_and_killed(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root")
    script = SCRIPT.replace('umount -l "$1" 2>/dev/null; ', "")
    shell = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        device = shell.stdout.readline().strip()
        assert re.fullmatch(r"\d+:\d+", device)
        argv = [sys.executable, "-IS", device_users.__file__, device, "/dev/heartgate-test"]
        import json

        deadline = time.monotonic() + 60
        while True:  # the shell starts them one after the other
            found = json.loads(subprocess.run(argv, capture_output=True, check=True, text=True).stdout)
            if len(found["left"]) >= 3 or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        assert sorted(why for _, why in found["left"]) == ["cwd", "cwd", "fd 3"]
        assert found["killed"] == found["kernel"] == found["protected"] == []
        killed = json.loads(
            subprocess.run([*argv[:3], "--kill", *argv[3:]], capture_output=True, check=True, text=True).stdout
        )
        assert sorted(killed["killed"]) == sorted(pid for pid, _ in found["left"]) and not killed["left"]
    finally:
        shell.communicate("\n")


def test_kernel_users(tmp_path):
    world = device_users.World(str(tmp_path))

    def put(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    mountinfo = "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 20 147:0 / /srv rw - xfs /dev/drbd0 rw\n" + (
        "31 20 0:50 / /merged rw - overlay overlay rw,lowerdir=/a,upperdir=/srv/up,workdir=/srv/work\n"
    )
    put("proc/1/mountinfo", mountinfo)
    put("proc/1/comm", "nfsd\n")
    put("proc/swaps", "Filename Type Size Used Priority\n/srv/swap file 1 0 -2\n")
    put("sys/block/drbd0/dev", "147:0\n")
    put("sys/block/drbd0/holders/dm-0", "")
    put("sys/block/loop0/loop/backing_file", "/srv/image (deleted)\n")
    put("sys/block/loop1/loop/backing_file", "/elsewhere\n")
    put("sys/kernel/config/target/core/iblock_0/disk/udev_path", "/dev/drbd0\n")
    put("sys/kernel/config/target/core/fileio_0/file/udev_path", "/merged/file\n")
    put("var/lib/nfs/etab", "/srv/export 10.0.0.0/8(rw)\n/other *(ro)\n")
    target = device_users.Target({"147:0"}, {"/dev/drbd0"})
    mounts = device_users.parse_mountinfo(mountinfo)
    ours = device_users.our_mounts(world, target, mounts)
    assert [mount.point for mount in ours] == ["/srv", "/merged"]
    assert device_users.kernel_users(world, target, mounts, ours) == [
        "block device dm-0",
        "loop device loop0",
        "swap on /srv/swap",
        "LIO backstore fileio_0/file /merged/file",
        "LIO backstore iblock_0/disk /dev/drbd0",
        "NFS export /srv/export",
    ]


class Nodes(device_users.World):
    """Where device nodes are cannot be made up in a directory: told instead."""

    def __init__(self, root, nodes):
        super().__init__(str(root))
        self.nodes = nodes

    def inode(self, path):
        return device_users.Inode("0:5", self.nodes.get(os.path.realpath(path), ""))


def process(root, pid, mountinfo, fds, task=None, maps=""):
    """A process in a made-up /proc; task: its main thread has exited, this other one lives on."""
    base = root / "proc" / str(pid)
    place = base / "task" / str(task or pid)
    for part in (place, base) if task is None else (place,):
        (part / "fd").mkdir(parents=True, exist_ok=True)
        (part / "fdinfo").mkdir(exist_ok=True)
        (part / "exe").symlink_to("/usr/bin/program")
        (part / "mountinfo").write_text(mountinfo)
        (part / "maps").write_text(maps)
        for number, (path, mount) in fds.items():
            (part / "fd" / str(number)).symlink_to(path)
            (part / "fdinfo" / str(number)).write_text(f"pos:\t0\nflags:\t02\nmnt_id:\t{mount}\n")


MOUNTS = "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n21 20 0:5 / /dev rw - devtmpfs udev rw\n40 20 0:60 / /net rw - nfs4 srv:/ rw\n"


@pytest.mark.parametrize(
    ("path", "mount", "user"),
    [
        ("/dev/data", 21, True),  # as a container may call it
        ("/srv/node", 20, True),
        ("/srv/other-node", 20, False),
        ("/dev/drbd0", 21, False),  # another device of that name
        ("/dev/null", 21, False),
    ],
)
def test_a_device_node_under_any_name_is_a_user(tmp_path, path, mount, user):
    nodes = {"/dev/data": "147:0", "/srv/node": "147:0", "/srv/other-node": "147:1", "/dev/drbd0": "8:5"}
    process(tmp_path, 77, MOUNTS, {3: (path, mount)})
    report = device_users.survey(
        Nodes(tmp_path, nodes), device_users.Target({"147:0"}, {"/dev/drbd0"}), kill=False, with_maps=True
    )
    assert report.killed == ([77] if user else [])  # there is no thread in this /proc that could still run


def test_a_shared_map_of_a_device_node_is_a_user(tmp_path):
    lines = "7f0000000000-7f0000001000 rw-s 00000000 00:05 99 /srv/node\n"
    process(tmp_path, 77, MOUNTS, {}, maps=lines)
    place = tmp_path / "proc/77/map_files"
    place.mkdir()
    (place / "7f0000000000-7f0000001000").symlink_to("/srv/node")
    target = device_users.Target({"147:0"}, {"/dev/drbd0"})
    world = Nodes(tmp_path, {"/srv/node": "147:0"})
    assert device_users.survey(world, target, kill=False, with_maps=True).killed == [77]
    assert device_users.survey(world, target, kill=False, with_maps=False).killed == []


def test_a_process_whose_main_thread_has_exited_is_a_user(tmp_path):
    process(tmp_path, 77, MOUNTS, {3: ("/dev/drbd0", 21)}, task=78)
    (tmp_path / "proc/77/task/78/status").write_text("State:\tS (sleeping)\nSigPnd:\t0\nShdPnd:\t0\n")
    target = device_users.Target({"147:0"}, {"/dev/drbd0"})
    report = device_users.survey(Nodes(tmp_path, {"/dev/drbd0": "147:0"}), target, kill=False, with_maps=True)
    assert report.left == [(77, "fd 3")]


EXITED = """
import ctypes, platform, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
print("ready", flush=True)
ctypes.CDLL(None).syscall({"x86_64": 60}.get(platform.machine(), 93), 0)
"""


def test_a_living_thread_is_found_in_the_real_proc():
    child = subprocess.Popen([sys.executable, "-c", EXITED], stdout=subprocess.PIPE, text=True)
    try:
        child.stdout.readline()
        deadline = time.monotonic() + 60
        while Path(f"/proc/{child.pid}/cwd").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        place = device_users.living(device_users.World(), child.pid)
        assert place.startswith(f"/proc/{child.pid}/task/") and Path(place, "cwd").exists()
    finally:
        child.kill()
        child.communicate()
    assert device_users.living(device_users.World(), 2**22 + 1) == ""


def test_what_the_kernel_says_of_an_inode(tmp_path):
    """statx() without asking a server; the numbers are those of stat()."""
    world, status = device_users.World(), tmp_path.stat()
    assert world.inode(str(tmp_path)) == (f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}", "")
    assert world.inode("/dev/null").block == ""  # a character device
    assert world.inode(str(tmp_path / "absent")) is None
    for path in [path for path in Path("/dev").iterdir() if stat.S_ISBLK(path.lstat().st_mode)][:1]:
        number = path.stat().st_rdev
        assert world.inode(str(path)).block == f"{os.major(number)}:{os.minor(number)}"


@given(st.text(max_size=200))
def test_any_mountinfo(text):
    device_users.parse_mountinfo(text)
    flush.mount_points(text)
