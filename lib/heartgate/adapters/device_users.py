"""Who uses a block device, and SIGKILL to those who can be killed. A program of its own, standard library alone:

    python3 -IS device_users.py [--kill] [--no-maps] MAJOR:MINOR DEVICE_PATH [MAJOR:MINOR DEVICE_PATH ...]

prints one JSON object: {"killed": [PID...], "left": [[PID, why]...], "kernel": [TEXT...], "protected": [TEXT...]}
    killed     got SIGKILL now, or have it pending: they cannot return to user space, so they see no result of any write
    left       use the device and have no SIGKILL pending (without --kill: all users)
    kernel     users inside the kernel, which no signal ends
    protected  users that must not be killed (init, this program and those who started it)

Nothing here may run into the frozen device, nor into a file server that is gone: no statfs, no open, and no stat() but one
that is told to ask nobody (World.inode). /proc tells the mount of a descriptor (fdinfo's mnt_id) and the path of the rest
(readlink does not touch the file). /proc/PID/maps may wait for a lock of that process, which is why this is a program of its
own that can be killed, and why there is --no-maps: users by a mapping alone are not seen then.
"""

# ruff: noqa: PTH115, PTH116, PTH208
from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import stat
import struct
import sys
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

SIGKILL_BIT = 1 << (signal.SIGKILL - 1)
AT_FDCWD, AT_STATX_DONT_SYNC, STATX_TYPE = -100, 0x4000, 0x1
STATX_SIZE, STATX_MODE_AT, STATX_NUMBERS_AT = 256, 28, 128  # struct statx: stx_mode; stx_rdev_major, _minor, stx_dev_major, _minor
ASK_OTHER_NODES = frozenset({"gfs2", "ocfs2"})  # take a lock of the cluster for every look at an inode, whatever they are told


class Mount(NamedTuple):
    mount_id: int
    dev: str  # "major:minor" of the file system; not the device's own for btrfs
    point: str
    kind: str
    source: str
    options: str


class Target(NamedTuple):
    """The devices in question. mounts: ids of their mounts in every mount namespace; points: (namespace, mount
    point)."""

    devices: Set[str]
    paths: Set[str]


class Inode(NamedTuple):
    """Numbers as "major:minor". dev: of its file system; block: of the block device that it stands for, or ""."""

    dev: str
    block: str


class Report(NamedTuple):
    killed: List[int]
    left: List[Tuple[int, str]]
    kernel: List[str]
    protected: List[str]


class World:
    """Where /proc, /sys and /dev are (other places in tests)."""

    def __init__(self, root: str = "") -> None:
        self.proc, self.sys, self.root = root + "/proc", root + "/sys", root
        self._statx = getattr(ctypes.CDLL(None), "statx", None)  # glibc has it since 2.28

    def read(self, path: str) -> str:
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="surrogateescape") as stream:
            return stream.read()
        return ""

    def listing(self, path: str) -> List[str]:
        with contextlib.suppress(OSError):
            return sorted(os.listdir(path))
        return []

    def link(self, path: str) -> str:
        with contextlib.suppress(OSError):
            return os.readlink(path)
        return ""

    def block_number(self, path: str) -> str:
        """ "major:minor" of a device node under /dev, "" for anything else (nothing else is touched)."""
        if path.startswith("/dev/"):
            with contextlib.suppress(OSError, ValueError):
                status = os.stat(self.root + path)
                if stat.S_ISBLK(status.st_mode):
                    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        return ""

    def inode(self, path: str) -> Optional[Inode]:
        """What a path, or a link to an open file in /proc, leads to; None if that cannot be told. Asks the kernel's own copy of the
        inode and nobody else: os.stat() would wait for an NFS server that is gone."""
        buffer = ctypes.create_string_buffer(STATX_SIZE)
        if self._statx is None or self._statx(AT_FDCWD, os.fsencode(path), AT_STATX_DONT_SYNC, STATX_TYPE, buffer) != 0:
            return None
        (mode,) = struct.unpack_from("=H", buffer, STATX_MODE_AT)
        node_major, node_minor, major, minor = struct.unpack_from("=4I", buffer, STATX_NUMBERS_AT)
        return Inode(f"{major}:{minor}", f"{node_major}:{node_minor}" if stat.S_ISBLK(mode) else "")


def unescape(field: str) -> str:
    for octal, plain in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(octal, plain)
    return field


def parse_mountinfo(text: str) -> List[Mount]:
    """Lines that are not understood are left out."""
    mounts = []
    for line in text.splitlines():
        left, dash, right = line.partition(" - ")
        fields, rest = left.split(" "), right.split(" ")
        if dash and len(fields) >= 6 and len(rest) >= 2 and fields[0].isdigit():
            options = rest[2] if len(rest) > 2 else ""
            mounts.append(
                Mount(int(fields[0]), fields[2], unescape(fields[4]), rest[0], unescape(rest[1]), unescape(options))
            )
    return mounts


def beneath(path: str, point: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")


def owner(path: str, mounts: List[Mount]) -> Optional[Mount]:
    """The mount that a path lies on, by its spelling alone; of equal mount points the last one is on top."""
    best: Optional[Mount] = None
    for mount in mounts:
        if beneath(path, mount.point) and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def our_mounts(world: World, target: Target, mounts: List[Mount]) -> List[Mount]:
    """Mounts of the devices, and what is stacked on them (overlay, file systems whose source is a path on them)."""
    ours: List[Mount] = []
    while True:
        more = [mount for mount in mounts if mount not in ours and _is_ours(world, target, mount, ours, mounts)]
        if not more:
            return ours
        ours += more


def _is_ours(world: World, target: Target, mount: Mount, ours: List[Mount], mounts: List[Mount]) -> bool:
    if (
        mount.dev in target.devices
        or mount.source in target.paths
        or world.block_number(mount.source) in target.devices
    ):
        return True
    if any(mount.dev == other.dev for other in ours):
        return True
    sources = [mount.source] if mount.source.startswith("/") and not mount.source.startswith("/dev/") else []
    if mount.kind in ("overlay", "aufs", "fuse.unionfs"):
        for option in mount.options.split(","):
            key, _, value = option.partition("=")
            if key in ("lowerdir", "upperdir", "workdir"):
                sources += value.split(":")
    return any(owner(source, mounts) in ours for source in sources if source.startswith("/"))


# --- users inside the kernel
# ------------------------------------------------------------------------------------------------


def kernel_users(world: World, target: Target, mounts: List[Mount], ours: List[Mount]) -> List[str]:
    """mounts: of the initial mount namespace; ours: those of the device among them."""

    def on_device(path: str) -> bool:
        if path in target.paths or world.block_number(path) in target.devices:
            return True
        return path.startswith("/") and not path.startswith("/dev/") and owner(path, mounts) in ours

    found = list(_block_layer(world, target))
    found += [f"loop device {name}" for name, path in _loops(world) if on_device(path)]
    found += [f"swap on {path}" for path in _swaps(world) if on_device(path)]
    found += [f"{kind} {path}" for kind, path in _storage_targets(world) if on_device(path)]
    exported = [f"NFS export {path}" for path in _exports(world) if on_device(path)]
    if exported and _nfs_server_runs(world):
        found += exported
    return found


def _block_layer(world: World, target: Target) -> Iterator[str]:
    for name in world.listing(f"{world.sys}/block"):
        if world.read(f"{world.sys}/block/{name}/dev").strip() not in target.devices:
            continue
        for holder in world.listing(f"{world.sys}/block/{name}/holders"):
            yield f"block device {holder}"
        if world.listing(f"{world.sys}/block/{name}/bcache"):
            yield f"bcache on {name}"


def _loops(world: World) -> Iterator[Tuple[str, str]]:
    for name in world.listing(f"{world.sys}/block"):
        backing = world.read(f"{world.sys}/block/{name}/loop/backing_file").rstrip("\n")
        if backing:
            suffix = " (deleted)"
            yield name, backing[: -len(suffix)] if backing.endswith(suffix) else backing


def _swaps(world: World) -> List[str]:
    lines = world.read(f"{world.proc}/swaps").splitlines()[1:]
    return [unescape(line.split()[0]) for line in lines if line.split()]


def _storage_targets(world: World) -> Iterator[Tuple[str, str]]:
    core = f"{world.sys}/kernel/config/target/core"
    for plugin in world.listing(core):
        for store in world.listing(f"{core}/{plugin}"):
            path = world.read(f"{core}/{plugin}/{store}/udev_path").strip()
            if path:
                yield f"LIO backstore {plugin}/{store}", path
    nvmet = f"{world.sys}/kernel/config/nvmet/subsystems"
    for subsystem in world.listing(nvmet):
        for namespace in world.listing(f"{nvmet}/{subsystem}/namespaces"):
            path = world.read(f"{nvmet}/{subsystem}/namespaces/{namespace}/device_path").strip()
            if path:
                yield f"NVMe target {subsystem}/{namespace}", path
    scst = f"{world.sys}/kernel/scst_tgt/devices"
    for device in world.listing(scst):
        lines = world.read(f"{scst}/{device}/filename").splitlines()
        if lines:
            yield f"SCST device {device}", lines[0].strip()


def _nfs_server_runs(world: World) -> bool:
    return any(world.read(f"{world.proc}/{pid}/comm").strip() == "nfsd" for pid in pids(world))


def _exports(world: World) -> Set[str]:
    found = set()
    for source in (f"{world.root}/var/lib/nfs/etab", f"{world.proc}/fs/nfsd/exports", f"{world.proc}/fs/nfs/exports"):
        for line in world.read(source).splitlines():
            if line.startswith("/"):
                found.add(unescape(line.split()[0]))
    return found


# --- processes
# --------------------------------------------------------------------------------------------------------------


def pids(world: World) -> List[int]:
    return sorted(int(name) for name in world.listing(world.proc) if name.isdigit())


def living(world: World, pid: int) -> str:
    """Where /proc tells what this process holds: in its own directory or, when its main thread has exited, in that of a thread
    which has not. "" for kernel threads and zombies, which have no executable, and no descriptors either."""
    base = f"{world.proc}/{pid}"
    if world.link(f"{base}/exe"):
        return base
    tasks = (f"{base}/task/{task}" for task in world.listing(f"{base}/task"))
    return next((place for place in tasks if world.link(f"{place}/exe")), "")


class Namespaces:
    """Mount tables by mount namespace: reading one for every process would cost too much."""

    def __init__(self, world: World, target: Target) -> None:
        self._world, self._target = world, target
        self._tables: Dict[str, Tuple[List[Mount], List[Mount]]] = {}
        self.our_ids: Set[int] = set()
        self.kinds: Dict[int, str] = {}  # of every mount that is in a table
        self.our_devices: Set[str] = set()

    def of(self, place: str) -> Tuple[List[Mount], List[Mount]]:
        """(all mounts, ours) as the process at this place in /proc sees them."""
        key = self._world.link(f"{place}/ns/mnt") + "|" + self._world.link(f"{place}/root")
        if key not in self._tables:
            mounts = parse_mountinfo(self._world.read(f"{place}/mountinfo"))
            ours = our_mounts(self._world, self._target, mounts)
            self._tables[key] = (mounts, ours)
            self.our_ids |= {mount.mount_id for mount in ours}
            self.kinds.update((mount.mount_id, mount.kind) for mount in mounts)
            self.our_devices |= {mount.dev for mount in ours}
        return self._tables[key]


def why_user(world: World, target: Target, spaces: Namespaces, place: str, with_maps: bool) -> str:
    """How the process at this place in /proc uses the device, or ""."""
    mounts, ours = spaces.of(place)
    for name in ("cwd", "root", "exe"):
        path = world.link(f"{place}/{name}")
        if path and _path_is_ours(world, target, path, mounts, ours):
            return name
    for number in world.listing(f"{place}/fd"):
        if _descriptor_is_ours(world, target, spaces, f"{place}/fd/{number}", f"{place}/fdinfo/{number}", mounts, ours):
            return f"fd {number}"
    if with_maps and _maps_are_ours(world, target, place, mounts, ours):
        return "map"
    return ""


def _path_is_ours(world: World, target: Target, path: str, mounts: List[Mount], ours: List[Mount]) -> bool:
    if path.endswith(" (deleted)"):
        path = path[: -len(" (deleted)")]
    if path.startswith("/dev/") and (path in target.paths or world.block_number(path) in target.devices):
        return True
    return path.startswith("/") and owner(path, mounts) in ours if ours else False


def _descriptor_is_ours(
    world: World, target: Target, spaces: Namespaces, link: str, info: str, mounts: List[Mount], ours: List[Mount]
) -> bool:
    path = world.link(link)
    if not path.startswith("/"):
        return False  # pipe:, socket:, anon_inode:
    number = _mount_of(world.read(info))
    if number in spaces.our_ids:
        return True
    # A device node may have any name, on any mount, and a mount that was detached (`umount -l`) is in no table.
    inode = world.inode(link) if spaces.kinds.get(number, "") not in ASK_OTHER_NODES else None
    if inode is not None and inode.block:
        return inode.block in target.devices
    if number in spaces.kinds and not path.startswith("/dev/"):
        return False
    if number >= 0 and number not in spaces.kinds:
        return inode is not None and inode.dev in target.devices | spaces.our_devices
    return _path_is_ours(world, target, path, mounts, ours)


def _mount_of(fdinfo: str) -> int:
    """-1 when it does not say."""
    for line in fdinfo.splitlines():
        key, _, value = line.partition(":")
        if key == "mnt_id" and value.strip().isdigit():
            return int(value)
    return -1


def _maps_are_ours(world: World, target: Target, place: str, mounts: List[Mount], ours: List[Mount]) -> bool:
    devices = target.devices | {mount.dev for mount in ours}
    for line in world.read(f"{place}/maps").splitlines():
        fields = line.split(None, 5)
        if len(fields) < 6 or not fields[5].startswith("/"):
            continue
        major, _, minor = fields[3].partition(":")
        with contextlib.suppress(ValueError):
            if f"{int(major, 16)}:{int(minor, 16)}" in devices:
                return True
        if _path_is_ours(world, target, fields[5], mounts, ours) or _maps_a_node(world, target, place, fields):
            return True
    return False


def _maps_a_node(world: World, target: Target, place: str, fields: List[str]) -> bool:
    """The device itself, mapped under any name. Only shared mappings write, and they are few."""
    if not fields[1].endswith("s"):
        return False
    start, _, end = fields[0].partition("-")
    inode = world.inode(f"{place}/map_files/{start.lstrip('0') or '0'}-{end.lstrip('0') or '0'}")
    return inode is not None and inode.block in target.devices


def kill_pending(world: World, pid: int) -> bool:
    """SIGKILL is pending for every thread (each gets it in its own set), or the process has ended already."""
    for task in world.listing(f"{world.proc}/{pid}/task"):
        fields = dict(
            line.partition(":")[::2] for line in world.read(f"{world.proc}/{pid}/task/{task}/status").splitlines()
        )
        if fields.get("State", "Z").strip()[:1] in ("Z", "X"):
            continue
        if not (int(fields.get("SigPnd", "0"), 16) | int(fields.get("ShdPnd", "0"), 16)) & SIGKILL_BIT:
            return False
    return True


def ancestors(world: World) -> Set[int]:
    """This process and everybody up to init."""
    found, pid = {1}, os.getpid()
    while pid > 0 and pid not in found:
        found.add(pid)
        status = world.read(f"{world.proc}/{pid}/stat")
        fields = status.rpartition(")")[2].split()
        pid = int(fields[1]) if len(fields) > 1 and fields[1].isdigit() else 0
    return found


def survey(world: World, target: Target, kill: bool, with_maps: bool) -> Report:
    spaces = Namespaces(world, target)
    everybody = {pid: place for pid, place in ((pid, living(world, pid)) for pid in pids(world)) if place}
    for place in everybody.values():  # all mount tables first: a descriptor may have come from another namespace
        spaces.of(place)
    mounts, ours = spaces.of(f"{world.proc}/1")
    report = Report([], [], kernel_users(world, target, mounts, ours), [])
    spared, users = ancestors(world), []
    for pid, place in everybody.items():
        why = why_user(world, target, spaces, place, with_maps)
        if why and pid in spared:
            report.protected.append(f"pid {pid} ({world.read(f'{world.proc}/{pid}/comm').strip()}): {why}")
        elif why:
            users.append((pid, why))
    # With users in the kernel, or with ones that must live, the release fails anyhow: leave everybody alone then.
    if kill and not report.kernel and not report.protected:
        for pid, _ in users:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    for pid, why in users:
        if kill_pending(world, pid):
            report.killed.append(pid)
        else:
            report.left.append((pid, why))
    return report


def main(arguments: List[str]) -> int:
    options = {word for word in arguments if word.startswith("--")}
    words = [word for word in arguments if not word.startswith("--")]
    if not words or len(words) % 2 or options - {"--kill", "--no-maps"}:
        sys.stderr.write(str(__doc__))
        return 2
    target = Target(set(words[0::2]), set(words[1::2]))
    report = survey(World(), target, "--kill" in options, "--no-maps" not in options)
    answer: Dict[str, Any] = report._asdict()
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
