"""The Debian image both machines start from: root file system, kernel and a small initrd, built once and cached.

Two layers, so that a change to the lab's own guest files costs a second and not minutes: the *root* (packages; keyed by
the recipe below) and the *initrd* (modules and the guest files, copied over the root at every boot).
"""

from __future__ import annotations

import lzma
import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Tuple

from tests.lab.api import LabError
from tests.lab.vm.paths import GUEST_DIR, built_aside, cache_root, digest, exclusive, progress

SUITES = ("bookworm", "trixie")


def chosen_suite() -> str:
    """What `./run test --suite` asks for (tests/conftest.py)."""
    return os.environ.get("HEARTGATE_SUITE") or SUITES[0]


def _words(text: str) -> List[str]:
    return text.split()


PACKAGES = _words("""
    systemd systemd-sysv udev dbus kmod procps psmisc iproute2 iputils-ping ethtool fping strace less
    linux-image-amd64 e2fsprogs xfsprogs dmsetup kpartx zstd corosync pacemaker pacemaker-cli-utils pcs crmsh
    resource-agents fence-agents ipmitool sbd drbd-utils python3 python3-pyroute2 python3-systemd python3-pexpect
    nfs-kernel-server targetcli-fb open-iscsi bridge-utils openvswitch-switch ppp tcpdump openssh-server
""")
RENAMED_IN = {"trixie": {"fence-agents": "fence-agents-common"}}
EXCLUDED_PATHS = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*")
# Tests may start these; nothing may start them by itself.
DISABLED_UNITS = _words("""
    corosync pacemaker pcsd pcsd-ruby nfs-server nfs-blkmap rpcbind rpcbind.socket openvswitch-switch sbd drbd
    iscsid iscsid.socket open-iscsi rtslib-fb-targetctl corosync-notifyd pacemaker_remote crm_mon
    smartmontools ipmievd ssh
""")
MASKED_UNITS = _words("""
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service
    fstrim.timer logrotate.timer man-db.timer systemd-timesyncd.service getty@tty1.service
    serial-getty@ttyS0.service systemd-networkd.service networking.service systemd-random-seed.service
    systemd-update-utmp.service systemd-tmpfiles-clean.timer rpc-statd-notify.service nfs-client.target
    modprobe@efi_pstore.service
""")
INITRD_MODULES = ("crc32c_generic", "virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng", "ext4")
ROOT_SIZE = "6G"

CUSTOMIZE = """#!/bin/sh
# Runs on the host with $1 = the new root.
set -eu
root=$1
for unit in {disabled}; do
    find "$root/etc/systemd/system" -name "$unit*" -type l -delete
done
# sbd ties itself to corosync and pacemaker with Requires= links even when it is not configured.
rm -rf "$root"/etc/systemd/system/*.requires "$root"/lib/systemd/system/*.requires
for unit in {masked}; do ln -sf /dev/null "$root/etc/systemd/system/$unit"; done
: > "$root/etc/machine-id"
rm -f "$root/etc/hostname"
mkdir -p "$root/var/log/journal" "$root/etc/systemd/journald.conf.d" "$root/etc/systemd/system.conf.d"
printf '[Journal]\\nStorage=persistent\\nRateLimitIntervalSec=0\\nSystemMaxUse=64M\\n' > "$root/etc/systemd/journald.conf.d/lab.conf"
printf '[Manager]\\nDefaultTimeoutStopSec=20s\\n' > "$root/etc/systemd/system.conf.d/lab.conf"
printf '/dev/vda / ext4 rw,relatime 0 0\\n' > "$root/etc/fstab"
printf 'root:lab\\n' | chroot "$root" chpasswd
rm -f "$root"/boot/initrd.img-* "$root"/var/cache/apt/*.bin
"""  # noqa: E501


@dataclass(frozen=True)
class Image:
    """What QEMU needs to start a machine. `key` changes with anything that changes the image."""

    key: str
    root: Path
    kernel: Path
    initrd: Path


def build(suite: str = "bookworm") -> Image:
    """The image for a Debian suite, from the cache where its recipe has not changed."""
    if suite not in SUITES:
        raise LabError(f"unknown suite {suite!r}: one of {', '.join(SUITES)}")
    packages = [RENAMED_IN.get(suite, {}).get(name, name) for name in PACKAGES]
    customize = CUSTOMIZE.format(disabled=" ".join(DISABLED_UNITS), masked=" ".join(MASKED_UNITS))
    root_key = digest(suite, packages, EXCLUDED_PATHS, customize, ROOT_SIZE)
    root_dir = cache_root() / f"root-{suite}-{root_key}"
    initrd_key = digest(root_key, INITRD_MODULES, INIT_SCRIPT, _guest_files())
    initrd_dir = cache_root() / f"initrd-{suite}-{initrd_key}"
    with exclusive("image"):
        if not root_dir.is_dir():
            with built_aside(root_dir) as aside:
                _build_root(aside, suite, packages, customize)
        if not initrd_dir.is_dir():
            with built_aside(initrd_dir) as aside:
                _build_initrd(aside, root_dir)
    return Image(initrd_key, root_dir / "root.qcow2", root_dir / "vmlinux", initrd_dir / "initrd.cpio")


def _run(argv: List[str], **options: object) -> None:
    outcome = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)  # type: ignore[call-overload]
    if outcome.returncode != 0:
        raise LabError(f"{shlex.join(argv)} ended with {outcome.returncode}:\n{outcome.stdout[-4000:]}")


# ---- apt sources: whatever this host uses, for the wanted suite


def _apt_sources(suite: str) -> str:
    """The host's own Debian sources in deb822 form, with its suite's name replaced by the wanted one."""
    own = _host_codename()
    stanzas = []
    for path in sorted(Path("/etc/apt/sources.list.d").glob("*.sources")):
        for stanza in path.read_text().split("\n\n"):
            lines = [line for line in stanza.splitlines() if not line.startswith("#")]
            fields = {name.strip().lower(): value for name, _, value in (line.partition(":") for line in lines)}
            if own in " ".join(fields.get("suites", "").split()).replace("-", " ").split():
                stanzas.append("\n".join(lines))
    one_line = Path("/etc/apt/sources.list")
    legacy = [one_line] if one_line.exists() else []
    for path in legacy + sorted(Path("/etc/apt/sources.list.d").glob("*.list")):
        stanzas += [_deb822(line) for line in path.read_text().splitlines() if line.startswith("deb ") and own in line]
    if not stanzas:
        raise LabError(f"found no apt source for {own} under /etc/apt to take the mirror from")
    return "\n\n".join(stanza.replace(own, suite) for stanza in stanzas) + "\n"


def _host_codename() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        name, _, value = line.partition("=")
        if name == "VERSION_CODENAME":
            return value.strip('"')
    raise LabError("/etc/os-release names no VERSION_CODENAME")


def _deb822(line: str) -> str:
    words = line.split()[1:]
    options = ""
    if words[0].startswith("["):
        end = next(i for i, word in enumerate(words) if word.endswith("]"))
        for option in " ".join(words[: end + 1]).strip("[] ").split():
            name, _, value = option.partition("=")
            options += f"\n{name.title()}: {value}"
        words = words[end + 1 :]
    return f"Types: deb\nURIs: {words[0]}\nSuites: {words[1]}\nComponents: {' '.join(words[2:])}{options}"


def _apt_options() -> List[str]:
    """The host's proxy and date settings: without them its mirror may not be usable."""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    wanted = (
        "Acquire::http::",
        "Acquire::https::",
        "Acquire::Check-Valid-Until",
        "Acquire::Check-Date",
        "Acquire::Retries",
    )
    return [f"--aptopt={line.rstrip(';')}" for line in dump.splitlines() if line.startswith(wanted) and '""' not in line]


# ---- root


def _build_root(target: Path, suite: str, packages: List[str], customize: str) -> None:
    progress(f"building the {suite} root (once; about two minutes)")
    tree, hook, sources = target / "tree", target / "customize.sh", target / "lab.sources"
    hook.write_text(customize)
    hook.chmod(0o755)
    sources.write_text(_apt_sources(suite))
    argv = ["unshare", "--mount", "--propagation", "private", "mmdebstrap", "--mode=root", "--variant=apt"]
    argv += [f"--include={','.join(packages)}", f"--customize-hook={hook}", *_apt_options()]
    argv += [f"--dpkgopt=path-exclude={path}" for path in EXCLUDED_PATHS]
    _run([*argv, suite, str(tree), str(sources)])
    progress("packages installed; making the disk image")
    kernels = sorted((tree / "boot").glob("vmlinuz-*"))
    if not kernels:
        raise LabError("the root has no kernel")
    release = kernels[-1].name[len("vmlinuz-") :]
    (target / "release").write_text(release)
    (target / "vmlinux").write_bytes(_extract_vmlinux(kernels[-1]))
    _run(["cp", "-a", "--parents", f"lib/modules/{release}", str(target)], cwd=tree)
    raw = target / "root.raw"
    _run(["truncate", "-s", ROOT_SIZE, str(raw)])
    features = "^metadata_csum_seed,^orphan_file" if suite == "trixie" else "^metadata_csum_seed"
    _run(["mke2fs", "-q", "-F", "-t", "ext4", "-O", features, "-m", "0", "-d", str(tree), str(raw)])
    _run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(target / "root.qcow2")])
    raw.unlink()
    for spent in (hook, sources):
        spent.unlink()
    shutil.rmtree(tree)
    progress("root done")


ELF, XZ, ZSTD = b"\x7fELF", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"


def _extract_vmlinux(bzimage: Path) -> bytes:
    """The ELF kernel inside a bzImage: QEMU starts it directly (PVH), which saves an emulated decompression a boot.

    Four bytes of a beginning may also be a number in the code that decompresses, so every place is tried."""
    data = bzimage.read_bytes()
    for magic, decompress in ((XZ, _xz), (ZSTD, _zstd)):
        at = data.find(magic)
        while at >= 0:
            kernel = decompress(data[at:])
            if kernel.startswith(ELF):
                return kernel
            at = data.find(magic, at + 1)
    raise LabError(f"no ELF kernel found in {bzimage.name}, compressed with xz or zstd")


def _xz(data: bytes) -> bytes:
    try:
        return lzma.LZMADecompressor().decompress(data)
    except lzma.LZMAError:
        return b""


def _zstd(data: bytes) -> bytes:
    """It complains about the bytes after the frame, after having written all of it."""
    return subprocess.run(["zstd", "-dcq"], input=data, capture_output=True).stdout


# ---- initrd

INIT_SCRIPT = """#!/bin/sh
mount -t devtmpfs dev /dev
mount -t proc proc /proc
read -r cmdline < /proc/cmdline
case "$cmdline" in *lab.probe*) reboot -f ;; esac
while read -r module; do insmod /modules/$module; done < /modules.order
tries=0
while [ ! -b /dev/vda ] && [ $tries -lt 200 ]; do sleep 0.05; tries=$((tries + 1)); done
mount -t ext4 -o rw,relatime /dev/vda /newroot || { echo 'lab: no root file system'; exec sh; }
cp -a /guest/. /newroot/
umount /proc
mount --move /dev /newroot/dev
exec switch_root /newroot /sbin/init
"""
APPLETS = ("sh", "mount", "umount", "insmod", "sleep", "cp", "switch_root", "echo", "reboot")


def _guest_files() -> List[Tuple[str, int, bytes]]:
    """Every file below guest/ as (path in the machine, mode, content)."""
    found = []
    for path in sorted(GUEST_DIR.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            executable = path.read_bytes()[:2] == b"#!"
            found.append((str(path.relative_to(GUEST_DIR)), 0o755 if executable else 0o644, path.read_bytes()))
    return found


def _build_initrd(target: Path, root_dir: Path) -> None:
    stage = target / "stage"
    for name in ("bin", "dev", "proc", "modules", "newroot", "guest"):
        (stage / name).mkdir(parents=True)
    (stage / "init").write_text(INIT_SCRIPT)
    (stage / "init").chmod(0o755)
    shutil.copy("/bin/busybox", stage / "bin" / "busybox")
    for applet in APPLETS:
        (stage / "bin" / applet).symlink_to("busybox")
    modules = _module_closure(root_dir)
    for name, path in modules:
        (stage / "modules" / name).write_bytes(_plain_module(path))
    (stage / "modules.order").write_text("".join(f"{name}\n" for name, _ in modules))
    for name, mode, content in _guest_files():
        inside = stage / "guest" / name
        inside.parent.mkdir(parents=True, exist_ok=True)
        inside.write_bytes(content)
        inside.chmod(mode)
    for wants, unit in (("sysinit.target.wants", "lab-agent.service"), ("sysinit.target.wants", "lab-net.service")):
        directory = stage / "guest" / "etc/systemd/system" / wants
        directory.mkdir(parents=True, exist_ok=True)
        (directory / unit).symlink_to(f"../{unit}")
    listing = subprocess.run(["find", ".", "-print0"], cwd=stage, capture_output=True, check=True).stdout
    with open(target / "initrd.cpio", "wb") as out:
        subprocess.run(["cpio", "-0", "-o", "-H", "newc", "-R", "0:0", "--quiet"], cwd=stage, input=listing, stdout=out, check=True)
    shutil.rmtree(stage)


def _module_closure(root_dir: Path) -> List[Tuple[str, Path]]:
    """INITRD_MODULES and what they need, in loading order, as (plain file name, path)."""
    base = root_dir / "lib/modules" / (root_dir / "release").read_text()
    needs: Dict[str, List[str]] = {}
    by_name: Dict[str, str] = {}
    for line in (base / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
        by_name[Path(path).name.split(".")[0].replace("-", "_")] = path
    ordered: List[str] = []
    for name in INITRD_MODULES:
        if name not in by_name:  # built into this kernel
            continue
        for path in [*reversed(needs[by_name[name]]), by_name[name]]:
            if path not in ordered:
                ordered.append(path)
    return [(Path(path).name.split(".")[0] + ".ko", base / path) for path in ordered]


def _plain_module(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dcq"], input=data, capture_output=True, check=True).stdout
    return data
