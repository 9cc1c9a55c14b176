"""Process 1 of a lab node: builds the node's root over an overlay of the host's, boots it, reaps orphans.

Started by the supervisor inside fresh net, mount, uts, ipc and pid namespaces. It runs with `python3 -IS` and therefore
imports nothing of the project. Its only argument is a JSON object; its inherited socket speaks three words: it says
`hello`, waits for `go` (the interfaces are there now), says `ready` when commands can be run on the node.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2
BOOT_DIRECTORY = Path("/etc/lab/boot.d")
SEEDED_MARK = Path("/var/lib/lab-seeded")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8"}

_libc = ctypes.CDLL(None, use_errno=True)


def _check(what: str, code: int) -> None:
    if code != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    arguments = [source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), data.encode() or None]
    _check(f"mount {source} on {target}", _libc.mount(*arguments))


def bind(source: str, target: str, *, read_only: bool = False) -> None:
    mount(source, target, "", MS_BIND)
    if read_only:
        mount(source, target, "", MS_BIND | MS_REMOUNT | MS_RDONLY)


def mount_overlay(area: str, root: str) -> None:
    """The upper directory outlives a boot; its last mount may still be on its way out."""
    data = f"lowerdir=/,upperdir={area}/upper,workdir={area}/work"
    for attempt in range(50):
        try:
            mount("overlay", root, "overlay", 0, data)
            return
        except OSError:
            if attempt == 49:
                raise
            time.sleep(0.02)


def build_root(config: Dict[str, Any]) -> None:
    area, root = str(config["area"]), str(config["area"]) + "/root"
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    mount_overlay(area, root)
    mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("sysfs", f"{root}/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY)
    mount("/dev", f"{root}/dev", "", MS_BIND | MS_REC)
    for target in ("dev/shm", "run", "tmp"):
        mode = "mode=755" if target == "run" else "mode=1777"
        mount("tmpfs", f"{root}/{target}", "tmpfs", MS_NOSUID | MS_NODEV, mode)
    for directory in ("lock", "lab", "old-root", "resource-agents"):  # what systemd-tmpfiles makes where there is systemd
        Path(f"{root}/run/{directory}").mkdir()
    bind(f"{area}/run", f"{root}/run/lab")
    guard_host(area, root)
    for path in config["visible"]:
        Path(root + path).mkdir(parents=True, exist_ok=True)
        bind(path, root + path, read_only=True)
    _check("pivot_root", _libc.pivot_root(root.encode(), f"{root}/run/old-root".encode()))
    os.chdir("/")
    _check("umount of the old root", _libc.umount2(b"/run/old-root", MNT_DETACH))
    Path("/run/old-root").rmdir()


def guard_host(area: str, root: str) -> None:
    """What belongs to the host's kernel must not be reached from a node: sysrq, watchdogs, kernel parameters."""
    bind(f"{root}/proc/sys", f"{root}/proc/sys", read_only=True)
    bind("/proc/sys/net", f"{root}/proc/sys/net")
    bind(f"{area}/run/boot_id", f"{root}/proc/sys/kernel/random/boot_id")
    if Path(f"{root}/proc/sysrq-trigger").exists():
        bind(f"{area}/run/sysrq", f"{root}/proc/sysrq-trigger")
    for device in Path("/dev").glob("watchdog*"):
        bind("/dev/null", f"{root}{device}")


def configure_network(addresses: Dict[str, str]) -> None:
    lines = ["link set lo up"]
    for link, address in addresses.items():
        lines += [f"addr add {address} dev {link}", f"link set {link} up"]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n", text=True, check=True, env=ENVIRONMENT)


def plant(entries: List[Dict[str, Any]]) -> None:
    """Put the seed on a node that boots for the first time: files and symbolic links."""
    for entry in entries:
        path = Path(entry["path"])
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.exists() or path.is_symlink():
            path.unlink()
        if "target" in entry:
            path.symlink_to(entry["target"])
            continue
        path.write_bytes(base64.b64decode(entry["content"]))
        path.chmod(entry["mode"])
        if entry.get("owner"):
            user, _, group = str(entry["owner"]).partition(":")
            shutil.chown(path, user, group or user)
    SEEDED_MARK.touch()


def run_boot_scripts() -> None:
    """In name order, one after the other: what a script leaves in the background are the node's services."""
    scripts = sorted(BOOT_DIRECTORY.iterdir()) if BOOT_DIRECTORY.is_dir() else []
    with open("/var/log/lab-boot.log", "ab", buffering=0) as log:
        for path in scripts:
            if not os.access(path, os.X_OK):
                continue
            started = time.monotonic()
            with open(os.devnull, "rb") as nothing:
                done = subprocess.run([path], stdin=nothing, stdout=log, stderr=log, env=ENVIRONMENT, check=False)
            log.write(f"{path.name}: exit {done.returncode} after {time.monotonic() - started:.2f} s\n".encode())


def reap_for_ever() -> None:
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            signal.sigtimedwait([signal.SIGCHLD], 1.0)


def main() -> None:
    config = json.loads(sys.argv[1])
    with socket.socket(fileno=int(config["fd"])) as supervisor:
        supervisor.sendall(b"hello")
        if supervisor.recv(2) != b"go":
            sys.exit(1)
        try:
            build_root(config)
            socket.sethostname(config["name"])
            configure_network(config["addresses"])
            if not SEEDED_MARK.exists():
                with open("/run/lab/seed.json", encoding="utf-8") as stream:
                    plant(json.load(stream))
        except (OSError, subprocess.SubprocessError, LookupError) as error:
            supervisor.sendall(f"failed: {error}".encode())
            sys.exit(1)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        boot = os.fork()
        if boot == 0:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
            os.setsid()
            supervisor.close()
            run_boot_scripts()
            os._exit(0)
        supervisor.sendall(b"ready")
    reap_for_ever()


if __name__ == "__main__":
    main()
