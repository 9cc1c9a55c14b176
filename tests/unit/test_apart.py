"""tests/apart.py: the same results as in line, nothing lost when a process dies, nothing left running."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, List, Set, Tuple

import pytest

from tests.conftest import ROOT

CONFTEST = "from tests.conftest import *  # noqa: F403\n"
INI = '[pytest]\naddopts = --strict-markers\nmarkers =\n  apart: as in the project\n  slow: as in the project\n  req: as well\n'
MIXED = """
import os
import pytest
pytestmark = pytest.mark.apart
def test_passes(): pass
def test_fails(): assert 1 == 2, "what is wrong"
def test_skips(): pytest.skip("why not")
@pytest.mark.xfail
def test_known(): assert False
@pytest.fixture
def broken(): raise OSError("no fixture")
def test_setup(broken): pass
@pytest.mark.slow
def test_slow(): pass
"""
IDLE = """
import os
import pytest
@pytest.mark.apart
@pytest.mark.parametrize("i", range(3))
def test_idle(i): assert (os.sched_getscheduler(0), os.nice(0)) == (os.SCHED_IDLE, 19)
def test_here(): assert os.sched_getscheduler(0) == int(os.environ["SCHEDULER"])
"""
HERE = """
import sys
import pytest
@pytest.mark.apart
@pytest.mark.parametrize("i", range(3))
def test_here(i): assert "--apart-worker" not in " ".join(sys.argv)
"""
DIES = """
import os, signal
import pytest
pytestmark = pytest.mark.apart
def test_dies():
    os.write(1, b"my last words")
    os.kill(os.getpid(), signal.SIGKILL)
@pytest.mark.parametrize("i", range(4))
def test_others(i): pass
"""
ALL_DIE = """
import os
import pytest
@pytest.mark.apart
@pytest.mark.parametrize("i", range(3))
def test_dies(i): os._exit(5)
"""
SLEEPS = """
import os, time
from pathlib import Path
import pytest
@pytest.mark.apart
@pytest.mark.parametrize("i", range(2))
def test_sleeps(i):
    Path(f"pid-{i}").write_text(f"{os.getpid()}")
    time.sleep(600)
"""
IN_VAIN = """
import time
from pathlib import Path
def test_fails():
    end = time.monotonic() + 120
    while len(list(Path().glob("pid-*"))) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    assert False
"""

Begin = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture()
def begin(tmp_path: Path) -> Begin:
    """A pytest of its own: begin(source, *options)."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text(INI)
    ours = {"PYTHONPATH": f"{ROOT}/lib:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1", "SCHEDULER": str(os.sched_getscheduler(0))}
    ours["TMPDIR"] = str(tmp_path)  # who is killed leaves its files behind
    environment = {**os.environ, **ours}

    def run(source: str, *options: str) -> subprocess.Popen[str]:
        (tmp_path / "test_it.py").write_text(source)
        command = [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", *options]
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip

    return run


def output(process: subprocess.Popen[str]) -> str:
    try:
        return process.communicate(timeout=300)[0]
    finally:
        process.kill()


def outcomes(said: str) -> Set[str]:
    return set(re.findall(r"^(?:PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS) .*", said, re.M))


def test_the_same_results_as_in_line(begin: Begin) -> None:
    in_line = begin(MIXED, "--apart=0")
    expected = output(in_line)
    beside = begin(MIXED, "--apart=2")
    told = output(beside)
    assert outcomes(told) == outcomes(expected)
    assert len(outcomes(told)) == 6
    assert "what is wrong" in told and "no fixture" in told
    assert beside.returncode == in_line.returncode == 1


def test_they_are_idle(begin: Begin) -> None:
    assert "4 passed" in output(begin(IDLE, "--apart=2"))


@pytest.mark.parametrize("options", [("-s",), ("--pdb",), ("--apart=0",), ("-k", "test_here and 1")])
def test_in_line_where_somebody_looks(options: Tuple[str, ...], begin: Begin) -> None:
    assert "passed" in output(begin(HERE, "--apart=2", *options)).splitlines()[-1]
    assert "3 failed" in output(begin(HERE, "--apart=2"))


def test_who_dies_takes_one_test_with_it(begin: Begin, tmp_path: Path) -> None:
    process = begin(DIES, "--apart=2")
    said = output(process)
    assert process.returncode == 1
    assert not list(tmp_path.glob("heartgate-apart-*"))
    assert "1 failed, 4 passed" in said
    assert "ended with code -9" in said and "never begun" not in said


def test_all_die(begin: Begin) -> None:
    said = output(begin(ALL_DIE, "--apart=2"))
    assert "3 failed" in said
    assert "ended with code 5" in said and "never begun" in said


def pids(place: Path) -> List[int]:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        found = [path.read_text() for path in place.glob("pid-*")]
        if len(found) == 2 and all(found):
            return [int(pid) for pid in found]
        time.sleep(0.05)
    raise AssertionError("the tests were not begun")


def gone(pid: int) -> bool:
    """Long before it ends by itself; one that nobody has waited for yet is gone too."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_running(number: int, begin: Begin, tmp_path: Path) -> None:
    process = begin(SLEEPS, "--apart=2")
    begun = pids(tmp_path)
    os.kill(process.pid, number)
    output(process)
    assert [gone(pid) for pid in begun] == [True, True]


def test_nothing_is_left_running_after_the_first_failure(begin: Begin, tmp_path: Path) -> None:
    said = output(begin(SLEEPS + IN_VAIN, "--apart=2", "-x"))
    assert "1 failed" in said and "stopping after 1" in said
    assert [gone(pid) for pid in pids(tmp_path)] == [True, True]
