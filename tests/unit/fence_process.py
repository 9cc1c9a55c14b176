"""fence_heartgate as a process, beside a real daemon core that a thread turns or what a daemon has left on the disk."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path
from typing import List, Tuple

from heartgate.core.model import Record, Standing
from heartgate.daemon.store import Saved, Store
from tests.unit.test_daemon_fakes import PARAMS, Bench

ROOT = Path(__file__).resolve().parents[2]
FRESH_MS = 60_000  # of a disk heartbeat: it stays fresh until a slow machine has started the agent
BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
AGENT = """
import sys
sys.path.append({lib!r})
from pathlib import Path
from heartgate.adapters import journal
journal.JOURNAL_SOCKET = {directory!r} + "/journal"
journal.Journal.__init__.__defaults__ = ("x", journal.JOURNAL_SOCKET, "/nonexistent")
from heartgate.adapters import disk_beats
from heartgate.fencing import facts, levels
disk_beats.FRESH_MS = {fresh_ms}
facts.ASK_S, levels.CIB_S = {ask_s}, {cib_s}
d = Path({directory!r})
facts.Places.__new__.__defaults__ = (str(d / "control.sock"), d / "state", d / "corosync.conf", d / "beats", facts.BOOT_ID,
                                       ("/bin/sh", str(d / "cibadmin"), "--local"))
from heartgate.fencing.agent import main
sys.exit(main(sys.argv[1:], b"" if sys.argv[1:] else sys.stdin.buffer.read()))
"""
COROSYNC = """
totem {
    version: 2
}
nodelist {
    node {
        name: nodea
        nodeid: 1
    }
    node {
        name: nodeb
    }
    node {
        name: quorum
    }
}
"""


class Done:
    def __init__(self, process: subprocess.CompletedProcess[bytes], elapsed_s: float) -> None:
        self.rc, self.elapsed_s = process.returncode, elapsed_s
        self.out, self.err = process.stdout.decode(), process.stderr.decode()

    def __repr__(self) -> str:
        return f"rc {self.rc} after {self.elapsed_s:.2f} s\n{self.out}\n{self.err}"


def agent(directory: Path, *arguments: str, stdin: bytes = b"", ask_s: float = 60, cib_s: float = 60) -> Done:
    """ask_s, cib_s: how long an answer of the daemon and of Pacemaker is waited for."""
    patience = {"ask_s": ask_s, "cib_s": cib_s, "fresh_ms": FRESH_MS}
    code = AGENT.format(lib=str(ROOT / "lib"), directory=str(directory), **patience)
    argv = ["/usr/bin/python3", "-IS", "-c", code, *arguments]
    began = time.monotonic()
    return Done(subprocess.run(argv, input=stdin, capture_output=True, timeout=200, check=False), time.monotonic() - began)


def left_on_disk(
    directory: Path, standing: Standing, device: str = "r0", boot: str = BOOT, me: str = "nodea", **params: str
) -> Store:
    store = Store(directory / "state")
    store.save_config(Saved(device, me, {**PARAMS, "device": device, **params}, True))
    in_sync = (me,) if standing is Standing.SOLO else ("nodea", "nodeb")
    store.save_record(device, Record(standing, 3, in_sync, boot))
    return store


class Served:
    """A bench turned by a thread."""

    def __init__(self, directory: Path, **params: str) -> None:
        self.bench = Bench(directory)
        self._params = params
        self._end = False
        self._todo: List[Tuple[object, threading.Event]] = []
        self._thread = threading.Thread(target=self._turn)

    def _turn(self) -> None:
        self.bench.daemon.start()
        self.bench.guard(**self._params)
        while not self._end:
            self.bench.daemon.loop.turn(0.02)
        self.bench.close()

    def __enter__(self) -> Bench:
        self._thread.start()
        return self.bench

    def __exit__(self, *_: object) -> None:
        self._end = True
        self._thread.join()


def until(probe: object) -> None:
    deadline = time.monotonic() + 60
    while not probe():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)
