"""The exec driver and source against a small real program."""

import contextlib
import os
import select
import shutil
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartgate.adapters import exec as exec_adapter
from heartgate.adapters.base import AdapterError, Outcome
from heartgate.core.model import UNKNOWN_REPLICA, Disk, Link, PeerLink, Replica, Role

FULL = (
    b'{"disk": "uptodate", "role": "primary", "frozen": false, "generation": "g2", "ancestors": ["g1"], '
    b'"peers": {"nodeb": {"link": "up", "connection": 4, "disk": "outdated", "out_of_sync_bytes": null}}}'
)
PROGRAM = r"""#!/bin/sh
dir=$(dirname "$0")
echo "$1 $2 $HEARTGATE_NODE $HEARTGATE_PEER" >> $dir/calls
case $1 in
describe) cat $dir/describe ;;
watch) cat $dir/lines; if [ -e $dir/stay ]; then exec sleep 60; fi ;;
block) echo '{"how": "outdated"}' ;;
release) exit 5 ;;
thaw) sleep 60 ;;
*) echo nothing of interest ;;
esac
"""


@pytest.fixture
def program(monkeypatch):
    # Not below /tmp: the test's temporary directories may belong to somebody else.
    if os.geteuid() != 0:
        pytest.skip("needs root: programs must belong to it")
    place = f"/run/heartgate-test-{os.getpid()}"
    Path(place).mkdir(mode=0o755, exist_ok=True)
    path = f"{place}/program"
    write(path, PROGRAM, 0o755)
    yield path
    shutil.rmtree(place)


def write(path, text, mode=0o644):
    with open(path, "wb") as stream:
        stream.write(text if isinstance(text, bytes) else text.encode())
    Path(path).chmod(mode)


def settle(source, condition, timeout_s=60.0):
    facts, deadline = {}, time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        select.select([source], [], [], 0.1)
        facts.update(source.read())
        if condition(facts):
            return facts
    raise AssertionError(f"waited in vain: {facts}")


def test_parse_full_line():
    replica, numbers = exec_adapter.parse_watch(FULL)
    assert replica == Replica(
        Disk.UPTODATE, Role.PRIMARY, False, (("nodeb", PeerLink(Link.UP, 0, Disk.OUTDATED)),), "g2", ("g1",)
    )
    assert numbers == {"nodeb": 4}


def test_missing_fields_are_unknown():
    assert exec_adapter.parse_watch(b"{}")[0] == UNKNOWN_REPLICA


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"nonsense",
        b'{"disk": "great"}',
        b'{"disk": 1}',
        b'{"frozen": "no"}',
        b'{"peers": []}',
        b'{"peers": {"b": 1}}',
        b'{"peers": {"b": {"connection": -1}}}',
        b'{"peers": {"b": {"connection": true}}}',
        b'{"ancestors": "x"}',
        b'{"generation": 3}',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_unreadable_lines(line):
    with pytest.raises(ValueError):
        exec_adapter.parse_watch(line)


@given(st.binary(max_size=200))
def test_any_bytes(line):
    with contextlib.suppress(ValueError):
        exec_adapter.parse_watch(line)


def test_incarnations_follow_the_programs_numbers():
    counts = exec_adapter.Incarnations()

    def see(link, number):
        replica = Replica(peers=(("b", PeerLink(link)),))
        return counts.apply(replica, {"b": number}).peer("b").incarnation

    assert [see(Link.DOWN, 0), see(Link.UP, 7), see(Link.UP, 7), see(Link.DOWN, 7), see(Link.UP, 9)] == [0, 1, 1, 1, 2]
    counts.interrupted()
    assert see(Link.UP, 9) == 2  # the same connection, says its number
    assert [see(Link.UP, 0), see(Link.DOWN, 0), see(Link.UP, 0)] == [2, 2, 3]


def test_refusals(tmp_path):
    assert "absolute" in exec_adapter.refusal("program")
    assert exec_adapter.refusal("/no/such/program")
    assert exec_adapter.refusal("/usr") and exec_adapter.refusal("/etc/passwd")
    assert exec_adapter.refusal("/usr/bin/env") == ""
    if os.geteuid() == 0:
        loose = tmp_path / "loose"
        loose.write_text("#!/bin/sh\n")
        loose.chmod(0o777)
        assert "written by others" in exec_adapter.refusal(str(loose))
        loose.chmod(0o755)
        os.chown(loose, 65534, 0)
        assert "belongs to uid 65534" in exec_adapter.refusal(str(loose))


def test_driver(program):
    driver = exec_adapter.ExecDriver("r0", program, "nodea")
    assert driver.block(UNKNOWN_REPLICA, 5.0) == Outcome(True, "outdated")
    assert driver.unblock(UNKNOWN_REPLICA, 5.0) == Outcome(True, "unblocked")
    assert driver.drop("nodeb", 5.0).ok
    assert driver.release(UNKNOWN_REPLICA, 5.0) == Outcome(False, "rc 5")
    assert driver.rehandle(UNKNOWN_REPLICA, 0.3).how.startswith("rc 124")
    with open(str(Path(program).parent) + "/calls") as stream:
        assert "disconnect r0 nodea nodeb" in stream.read()


def test_driver_looks_at_the_program_every_time(program):
    driver = exec_adapter.ExecDriver("r0", program, "nodea")
    Path(program).chmod(0o777)
    assert "written by others" in driver.block(UNKNOWN_REPLICA, 5.0).how
    assert [problem.code for problem in driver.check(["nodea", "nodeb"])] == ["program-refused"]


def test_check(program):
    place = str(Path(program).parent)
    driver = exec_adapter.ExecDriver("r0", program, "nodea")
    write(
        f"{place}/describe", '{"protocol": 1, "resource": "r0", "peers": ["nodeb"], "device": null, "can_freeze": true}'
    )
    assert driver.check(["nodea", "nodeb"]) == []
    write(
        f"{place}/describe",
        '{"protocol": 2, "resource": "r1", "peers": ["nodec"], "device": "/dev/nosuch", "can_freeze": false}',
    )
    codes = {problem.code for problem in driver.check(["nodea", "nodeb"])}
    assert codes == {"protocol", "resource", "cannot-freeze", "peers", "device"}
    write(f"{place}/describe", "nonsense")
    assert driver.check(["nodea", "nodeb"])[0].code == "describe-unreadable"


def test_enforce_blocked_does_nothing_where_nothing_is_to_be_done():
    driver = exec_adapter.ExecDriver("r0", "/no/program", "nodea")
    for replica in (Replica(Disk.OUTDATED, Role.SECONDARY), Replica(Disk.UPTODATE, Role.PRIMARY, True)):
        assert driver.enforce_blocked(replica, 1.0) == Outcome(True, "nothing to do")
    assert not driver.enforce_blocked(Replica(Disk.UPTODATE, Role.SECONDARY, False), 1.0).ok


def test_source(program):
    place = str(Path(program).parent)
    write(f"{place}/lines", FULL + b"\n")
    write(f"{place}/stay", "")
    source = exec_adapter.ExecSource("nodea")
    try:
        source.add("r0", program)
        facts = settle(source, lambda facts: facts.get("r0", UNKNOWN_REPLICA).disk is Disk.UPTODATE)
        assert facts["r0"].peer("nodeb") == PeerLink(Link.UP, 1, Disk.OUTDATED)
        assert source.read() == {}
        Path(f"{place}/stay").unlink()
        write(f"{place}/lines", FULL + b"\n{broken\n")
        os.kill(source._watched["r0"].process.pid, signal.SIGKILL)
        settle(source, lambda facts: facts.get("r0") == UNKNOWN_REPLICA)
        write(f"{place}/lines", FULL + b"\n")
        write(f"{place}/stay", "")
        facts = settle(source, lambda facts: facts.get("r0", UNKNOWN_REPLICA).disk is Disk.UPTODATE)
        assert facts["r0"].peer("nodeb").incarnation == 1  # connection 4 still
    finally:
        source.close()


def test_source_refuses():
    source = exec_adapter.ExecSource("nodea")
    with pytest.raises(AdapterError, match="absolute"):
        source.add("r0", "program")
    assert source.read() == {}
    source.close()
