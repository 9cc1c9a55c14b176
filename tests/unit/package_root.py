"""A root to install packages into: this machine's own files under an overlay, so that real dpkg, rpm and dependencies are there
within a moment; without network; what is written is gone when it is closed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import List, Optional, Sequence, Type

SETUP = """
set -e
mount -t tmpfs -o mode=755 root "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
mount -t proc proc "$1/root/proc"
mount --rbind /dev "$1/root/dev"
mount -t tmpfs -o mode=755 run "$1/root/run"
mkdir -p "$1/root/run/systemd/system" "$1/root/run/lock"
echo ready
exec cat
"""
# systemd does not run in there. This notes what it is asked for, and which version's files lie there then; what can be done
# without a running systemd (enable, disable, preset) is done by the real one.
SYSTEMCTL = """#!/bin/sh
version=$(sed -n 's/^__version__ = "\\(.*\\)"/\\1/p' "$(cat /library)/heartgate/__init__.py" 2>/dev/null)
echo "${version:-none} $*" >> /calls
case "$*" in
*is-enabled* | *enable* | *disable* | *preset*) SYSTEMD_OFFLINE=1 exec systemctl.real $(printf '%s\\n' "$@" | grep -vx -e --now) ;;
esac
"""


class Root:
    """`library`: where the package under test puts Python's modules."""

    def __init__(self, base: Path, library: str) -> None:
        argv = ["unshare", "--mount", "--propagation", "private", "--net", "sh", "-c", SETUP, "sh", str(base)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process: subprocess.Popen[str] = subprocess.Popen(argv, text=True, **pipes)  # type: ignore[call-overload]
        assert self.process.stdout is not None and self.process.stderr is not None
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError(f"no overlay: {self.process.stderr.read()}")
        self.path = base / "root"
        self.write("/library", library)
        self.run("mv", "/usr/bin/systemctl", "/usr/bin/systemctl.real")
        self.write("/usr/bin/systemctl", SYSTEMCTL, 0o755)
        self.write("/usr/bin/journalctl", "#!/bin/sh\n", 0o755)
        self.run("rm", "-f", "/usr/sbin/policy-rc.d")  # of a container's image: no service would be asked for at all

    def __enter__(self) -> Root:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.process.communicate(timeout=30)  # cat ends with its input, and the mounts with it

    def run(self, *argv: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", f"--target={self.process.pid}", "--mount", "--net", "chroot", str(self.path)]
        environment = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"]
        done = subprocess.run(
            [*enter, *environment, *argv], input=stdin, capture_output=True, text=True, timeout=120, check=False
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(argv)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        script = 'mkdir -p "$(dirname "$0")" && rm -f "$0" && cat > "$0" && chmod "$1" "$0"'
        self.run("sh", "-c", script, path, f"{mode:o}", stdin=text)

    def copy(self, source: Path, target: str) -> None:
        enter = ["nsenter", f"--target={self.process.pid}", "--mount"]
        with source.open("rb") as data:
            subprocess.run([*enter, "sh", "-c", 'cat > "$0"', f"{self.path}{target}"], stdin=data, check=True, timeout=60)

    def find(self, *words: str) -> List[str]:
        """Paths, sorted; `words` are find's."""
        return sorted(self.run("find", *words, check=False).stdout.splitlines())

    def calls(self) -> List[str]:
        """What systemctl was asked for since the last question: "VERSION ARGUMENTS"."""
        told = self.run("sh", "-c", "cat /calls 2>/dev/null; rm -f /calls").stdout
        return told.splitlines()


def needs(*programs: str) -> str:
    """Why the tests cannot run here; empty when they can."""
    if os.geteuid() != 0:
        return "needs root"
    missing: Sequence[str] = [name for name in programs if shutil.which(name) is None]
    return f"needs {', '.join(missing)} (./run package installs them)" if missing else ""
