"""The parent that stands in for systemd: restarts a daemon that dies, and kills one that hangs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import os, socket, sys, time
runs = sys.argv[1]
number = len(open(runs).readlines()) if os.path.exists(runs) else 0
open(runs, "a").write("run\\n")
name = os.environ["NOTIFY_SOCKET"]
channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
channel.sendto(b"WATCHDOG=1", "\\0" + name[1:])
if number == 0: os.kill(os.getpid(), 9)
if number == 1: time.sleep(60)
if number == 2: raise ValueError("a fault of ours")
sys.exit(3)
"""
PARENT = """
import sys
sys.path.insert(0, sys.argv[1])
from heartgate.daemon import main, respawn
respawn.WATCHDOG_S = 3.0
real, main.respawn = main.respawn, lambda command, final: real(sys.argv[2:], final)
sys.exit(main.main(["--respawn"]))
"""


def test_a_dead_one_is_started_again_and_a_silent_one_is_killed(tmp_path: Path) -> None:
    program, runs = tmp_path / "program.py", tmp_path / "runs"
    program.write_text(PROGRAM)
    library = str(Path(__file__).resolve().parents[2] / "lib")
    argv = [sys.executable, "-c", PARENT, library, sys.executable, str(program), str(runs)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, env=dict(os.environ), check=False)
    assert done.returncode == 3, done.stderr
    assert runs.read_text().count("run") == 4
    assert "ended with 1" in done.stderr, "any traceback"
    assert "ended with -9" in done.stderr and "silent" in done.stderr


def test_asked_to_end_between_two_runs_it_ends() -> None:
    library = str(Path(__file__).resolve().parents[2] / "lib")
    code = PARENT.replace("respawn.WATCHDOG_S = 3.0", "respawn.PAUSES_S = (300.0,)")
    argv = [sys.executable, "-c", code, library, sys.executable, "-c", "raise SystemExit(1)"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as parent:
        assert parent.stderr is not None and "ended with 1" in parent.stderr.readline()
        parent.terminate()
        assert parent.wait(60) == 1, "long before the pause is over"
