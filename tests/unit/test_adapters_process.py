"""The process runner and the line reader, with real children."""

import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from heartgate.adapters import process
from heartgate.adapters.base import AdapterError


def lines_until_end(reader, timeout_s=60.0):
    lines, deadline = [], time.monotonic() + timeout_s
    while not reader.ended and time.monotonic() < deadline:
        select.select([reader], [], [], 0.1)
        lines += reader.read_lines()
    return lines


def test_output_code_and_stdin():
    done = process.run(["sh", "-c", "cat; echo err >&2; exit 3"], timeout_s=60, stdin="given")
    assert done == process.Completed(3, "given", "err\n")
    assert done.brief() == "rc 3: err"


def test_environment_is_empty_but_for_what_is_given(monkeypatch):
    monkeypatch.setenv("SECRET", "x")
    done = process.run(["env"], timeout_s=60, env={"HEARTGATE_NODE": "nodea"})
    assert set(done.stdout.split()) == {"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HEARTGATE_NODE=nodea"}


def test_no_descriptor_is_handed_down():
    read, write = os.pipe()
    os.set_inheritable(write, True)
    done = process.run(["ls", "/proc/self/fd"], timeout_s=60)
    os.close(read), os.close(write)
    assert str(write) not in done.stdout.split() or write <= 3


def test_not_found_and_not_executable(tmp_path):
    assert process.run(["no-such-program"], timeout_s=60).rc == 127
    broken = tmp_path / "broken"
    broken.write_text("no interpreter line")
    broken.chmod(0o755)
    assert process.run([str(broken)], timeout_s=60).rc == 126


def test_timeout_kills_the_whole_group():
    started = time.monotonic()
    done = process.run(["sh", "-c", "sleep 298.7 & echo $!; wait"], timeout_s=2)
    assert done.rc == 124 and "deadline passed" in done.stderr
    wait_until_gone(done.stdout.strip())
    assert time.monotonic() - started < 200, "it has ended by itself"


def wait_until_gone(pid):
    deadline = time.monotonic() + 60
    while state(pid) not in ("", "Z"):
        assert time.monotonic() < deadline, pid
        time.sleep(0.02)


def state(pid):
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_timeout_although_the_child_closed_its_outputs():
    assert process.run(["sh", "-c", "exec >&- 2>&-; sleep 50"], timeout_s=0.3).rc == 124


def test_too_much_output_ends_the_command(monkeypatch):
    monkeypatch.setattr(process, "OUTPUT_LIMIT", 100_000)
    assert process.run(["sh", "-c", "yes"], timeout_s=60).rc == 125


def test_bytes_that_are_no_text():
    assert process.run(["printf", r"\377\376x"], timeout_s=60).stdout.endswith("x")


def test_lines_arrive_and_the_end_is_seen():
    reader = process.LineProcess(["sh", "-c", "echo one; echo two; printf unfinished"])
    assert lines_until_end(reader) == [b"one", b"two"]
    assert reader.ended
    reader.close()


def test_reading_never_blocks():
    reader = process.LineProcess(["sleep", "60"])
    assert reader.read_lines() == [] and not reader.ended and state(reader.pid) != "", "before anything has come"
    reader.close()
    assert reader.ended


def test_endless_line_ends_the_reader():
    reader = process.LineProcess(["sh", "-c", "yes | tr -d '\\n'"], line_limit=10_000)
    assert lines_until_end(reader) == [] and reader.ended
    reader.close()


def test_reader_of_a_missing_program():
    with pytest.raises(AdapterError, match="not found"):
        process.LineProcess(["no-such-program"])


def test_programs_have_ordinary_priority_under_a_real_time_daemon():
    """And the daemon's threads do not pass through it: see process._ordinary_priority."""
    code = (
        "from heartgate.adapters import process, system\n"
        "print(system.real_time() or 'real-time')\n"
        "print(process.run(['sh', '-c', 'ps -o cls= -p $$'], timeout_s=60).stdout.strip())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ}, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    if "SCHED_RR" in first:
        pytest.skip(f"no real-time priority here: {first}")
    assert second == "TS"


def test_a_command_that_hung_is_reaped_when_it_has_ended(monkeypatch):
    """In the kernel no kill ends it: made so here by not killing."""
    started = []
    monkeypatch.setattr(process, "kill_group", started.append)
    assert process.run(["sleep", "60"], timeout_s=0.1).rc == process.RC_TIMEOUT
    assert started[0] in process._HUNG and state(started[0].pid) not in ("", "Z"), "left behind, and not waited for"
    started[0].kill()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{started[0].pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
        assert process.run(["true"], timeout_s=60).ok
    assert not Path(f"/proc/{started[0].pid}").exists() and not process._HUNG
