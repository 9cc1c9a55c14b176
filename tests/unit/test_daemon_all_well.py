"""The file by which a monitor knows that all is well: what is in it, when it is there, and that it never outlives the truth."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartgate.adapters.base import AdapterError
from heartgate.checks.findings import Finding, Severity
from heartgate.checks.heartbeats import Counters
from heartgate.checks.link_report import KnetLook, Report
from heartgate.daemon import all_well, heartbeats
from heartgate.daemon.all_well import EVERY_S, HEAD, LASTS_S, AllWell, Process
from heartgate.daemon.heartbeats import LOOK_S
from heartgate.daemon.link_params import DEFAULTS
from heartgate.daemon.workers import MARGIN_S
from tests.unit.agent_scripts import PYTHON_RAN, Script
from tests.unit.test_daemon_fakes import Bench

WRITER = Process(812, "4711")
GOOD = Report("hb0", True, 10000, (0,), ())
BRIDGE = Finding("virtual-switch", Severity.ERROR, "hb0", "hb0 is a port of br0", "change it", (), None)


# --- what is in it


def test_the_text() -> None:
    assert all_well.text({"interface": "hb0", "waivers": "speed=why not", "unknown": "\n"}, 13054.9, WRITER) == (
        f"{HEAD}\n13054 13064 812 4711\ninterface=hb0\nclient_interface=\nsync_interfaces=\naddressing=\nwaivers=speed=why not\n"
        "on_loss=\nname=\ndampen=\nend\n"
    )


@given(st.dictionaries(st.sampled_from(sorted(DEFAULTS)), st.text(max_size=40)), st.floats(0, 1e9))
def test_it_has_its_lines_whatever_the_parameters_are(raw: Dict[str, str], seen_s: float) -> None:
    whole = all_well.text(raw, seen_s, WRITER)
    plain = all(" " <= letter <= "~" for value in raw.values() for letter in value)
    assert (whole is not None) == plain
    if whole is not None:
        assert len(whole.split("\n")) == len(DEFAULTS) + 4 and whole.endswith("\nend\n")


def test_what_is_too_long_is_asked_for() -> None:
    assert all_well.text({"waivers": "x" * 3900}, 1.0, WRITER) is not None
    assert all_well.text({"waivers": "x" * 4096}, 1.0, WRITER) is None


def test_a_file_is_never_found_too_old_while_the_daemon_lives() -> None:
    """The longest time between two of them: a look that hangs and is given up, one tick after the last that was answered at once.
    Whole seconds take up to one of it."""
    assert EVERY_S + LOOK_S + MARGIN_S < LASTS_S - 1


def test_this_process() -> None:
    here = all_well.this_process()
    assert here.pid == os.getpid() and here == all_well.this_process(Path(f"/proc/{os.getpid()}/stat"))


def test_what_is_in_memory() -> None:
    found = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        head, _, tail = line.partition(" - ")
        found[head.split(" ")[4]] = tail.split(" ")[0]
    for place, kind in found.items():
        if Path(place).is_dir() and " " not in place and place in ("/", "/proc", "/dev/shm", "/run"):
            assert all_well.in_memory(Path(place).stat().st_dev) is (kind == "tmpfs"), place
    assert not all_well.in_memory(os.makedev(4095, 4095))


# --- the directory


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(all_well, "in_memory", lambda device: True)


def test_where_it_may_not_be(tmp_path: Path, memory: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert AllWell(tmp_path).usable
    tmp_path.chmod(0o710)
    assert not AllWell(tmp_path).usable, "others may look in"
    tmp_path.chmod(0o700)
    assert not AllWell(tmp_path / "absent").usable
    (tmp_path / "link").symlink_to(tmp_path)
    assert not AllWell(tmp_path / "link").usable
    if os.geteuid() == 0:
        (tmp_path / "theirs").mkdir(mode=0o700)
        os.chown(tmp_path / "theirs", 65534, 65534)
        assert not AllWell(tmp_path / "theirs").usable
    monkeypatch.setattr(all_well, "in_memory", lambda device: False)
    disk = AllWell(tmp_path)
    disk.tell("beat", {}, 1.0)
    assert not disk.usable and not list(tmp_path.glob("*well*"))


def test_a_file_is_roots_alone_and_replaced_whole(tmp_path: Path, memory: None) -> None:
    well, path = AllWell(tmp_path), tmp_path / "well-beat"
    well.tell("beat", {"interface": "hb0"}, 100.0)
    with path.open() as before:
        well.tell("beat", {"interface": "hb0"}, 104.0)
        assert "\n100 110 " in before.read() and "\n104 114 " in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and [each.name for each in tmp_path.iterdir()] == ["well-beat"]


def test_what_cannot_be_written_is_not_there(tmp_path: Path, memory: None) -> None:
    well = AllWell(tmp_path)
    well.tell("beat", {"interface": "hb0"}, 100.0)
    well.tell("beat", {"interface": "h\u00e4"}, 104.0)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "well-beat").mkdir()
    well.tell("beat", {"interface": "hb0"}, 100.0)
    assert [each.name for each in tmp_path.iterdir()] == ["well-beat"]
    (tmp_path / "well-beat").rmdir()
    tmp_path.rmdir()
    well.tell("beat", {"interface": "hb0"}, 100.0)
    well.take_back("beat")


def test_nothing_goes_through_a_link(tmp_path: Path, memory: None) -> None:
    well, target = AllWell(tmp_path), tmp_path / "target"
    target.write_text("kept")
    (tmp_path / ".well-beat.new").symlink_to(target)
    well.tell("beat", {"interface": "hb0"}, 100.0)
    (tmp_path / "well-beat").symlink_to(target)
    well.tell("beat", {"interface": "hb0"}, 100.0)
    assert target.read_text() == "kept" and not (tmp_path / "well-beat").is_symlink()


def test_leftovers_go(tmp_path: Path, memory: None) -> None:
    for name in ("well-beat", ".well-beat.new", "control.sock", "lock"):
        (tmp_path / name).write_text("")
    AllWell(tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["control.sock", "lock"]


# --- in the daemon


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: None) -> Iterator[Bench]:
    monkeypatch.setattr(heartbeats, "SETTLE_S", 0.02)
    monkeypatch.setattr(heartbeats, "REST_S", 0.02)
    monkeypatch.setattr(heartbeats, "EVERY_S", 0.05)
    it = Bench(tmp_path)
    it.daemon.start()
    it.world.reports["hb0"] = GOOD
    it.world.links.tell("hb0", True)
    it.turn(0.05)
    yield it
    it.close()


def ask(bench: Bench, op: str, **more: Any) -> Dict[str, Any]:
    answer: Dict[str, Any] = json.loads(bench.ask(json.dumps({"op": op, "resource": "beat", **more}).encode() + b"\n"))
    return answer


def register(bench: Bench, **params: str) -> None:
    assert ask(bench, "link-register", params={"interface": "hb0", **params})["ok"] is True


def path(bench: Bench) -> Path:
    return bench.directory / "well-beat"


def until_told(bench: Bench) -> None:
    bench.until("the file", path(bench).exists)


def never_told(bench: Bench) -> bool:
    """Not for many ticks."""
    there = []
    for _ in range(15):
        bench.turn(0.02)
        there.append(path(bench).exists())
    return not any(there)


def test_a_monitor_and_a_tick_tell_it(bench: Bench) -> None:
    register(bench)
    assert not path(bench).exists()
    assert ask(bench, "link-monitor")["rc"] == 0 and path(bench).exists()
    path(bench).unlink()
    until_told(bench)
    lines = path(bench).read_text().splitlines()
    since = int(lines[1].split()[0])
    assert 0 <= time.clock_gettime(time.CLOCK_BOOTTIME) - since < 3 and "interface=hb0" in lines


def test_it_is_renewed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    register(bench)
    until_told(bench)
    before = path(bench).stat().st_ino
    bench.until("another one", lambda: path(bench).stat().st_ino != before)


def order(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> List[Tuple[Optional[str], bool]]:
    """Of each telling of the attribute: its value, and whether the file was there when it began to be told."""
    found: List[Tuple[Optional[str], bool]] = []
    want = bench.daemon.heartbeats.publisher.want

    def wanted(name: str, value: Optional[str], *rest: Any) -> None:
        found.append((value, path(bench).exists()))
        want(name, value, *rest)

    monkeypatch.setattr(bench.daemon.heartbeats.publisher, "want", wanted)
    return found


@pytest.mark.parametrize("carrier, value", [(False, "0"), (None, "0")])
@pytest.mark.parametrize("on_loss", ["degraded", "fail"])
def test_a_loss_takes_it_away_before_it_is_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, carrier: Optional[bool], value: str, on_loss: str
) -> None:
    register(bench, on_loss=on_loss)
    until_told(bench)
    told = order(bench, monkeypatch)
    bench.world.links.tell("hb0", carrier)
    bench.until("the attribute", lambda: told)
    assert told == [(value, False)] and never_told(bench)
    bench.world.links.tell("hb0", True)
    until_told(bench)
    assert told[1][0] == "1"


def test_what_the_rules_find_takes_it_away(bench: Bench) -> None:
    register(bench)
    until_told(bench)
    bench.world.reports["hb0"] = GOOD._replace(findings=(BRIDGE,))
    bench.world.links.tell("x", True)
    bench.until("it to go", lambda: not path(bench).exists())
    assert never_told(bench)
    bench.world.reports["hb0"] = GOOD
    bench.world.links.tell("x", False)
    until_told(bench)


def test_the_rules_take_it_away_without_a_tick(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeats, "EVERY_S", 60.0)
    register(bench)
    assert ask(bench, "link-monitor")["rc"] == 0 and path(bench).exists()
    bench.world.reports["hb0"] = GOOD._replace(findings=(BRIDGE,))
    bench.world.links.tell("x", True)
    bench.until("it to go", lambda: not path(bench).exists())


def test_the_rules_are_asked_once_a_minute_by_a_tick(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """No monitor comes any more that would."""
    register(bench)
    until_told(bench)
    monkeypatch.setattr(heartbeats, "STALE_S", 0.1)
    bench.world.reports["hb0"] = GOOD._replace(findings=(BRIDGE,))
    bench.until("it to go", lambda: not path(bench).exists())


def look(at_ms: float, connected: bool, packets: int = 1) -> KnetLook:
    other = Counters(True, 1, 1, 1, 0)
    return KnetLook(at_ms, {("nodeb", 0): Counters(connected, packets, packets, packets, 0), ("nodeb", 1): other}, {0: 500, 1: 500})


@pytest.mark.req("C5")
def test_a_direction_that_is_lost_takes_it_away_without_a_monitor(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    connected = [True]
    clock = [0]

    def now(numbers: Any) -> KnetLook:
        clock[0] += 10_000
        return look(clock[0], connected[0])

    monkeypatch.setattr(bench.world, "knet_look", now)
    register(bench)
    until_told(bench)
    connected[0] = False
    bench.until("it to go", lambda: not path(bench).exists())
    assert never_told(bench)
    # What the ticks saw meanwhile is not what two monitors are compared by.
    first, second = ask(bench, "link-monitor"), ask(bench, "link-monitor")
    assert first["rc"] == second["rc"] == 190
    assert "receiving unknown" in first["message"] and "receiving down" in second["message"]
    connected[0] = True
    until_told(bench)
    assert ask(bench, "link-monitor")["rc"] == 0


def test_a_monitor_waits_for_the_look_that_is_under_way(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It must not be taken for a Corosync that is stopped."""
    began, go_on = threading.Event(), threading.Event()
    register(bench)

    def slow(numbers: Any) -> KnetLook:
        began.set()
        go_on.wait(5)
        return look(0, False)

    monkeypatch.setattr(bench.world, "knet_look", slow)
    bench.until("a tick", began.is_set)
    threading.Timer(0.2, go_on.set).start()
    assert ask(bench, "link-monitor")["rc"] == 190


def test_a_corosync_that_is_stopped_is_unknown_and_the_file_stays_new(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    register(bench)
    until_told(bench)
    monkeypatch.setattr(heartbeats, "LOOK_S", -MARGIN_S)  # given up at once

    def hang(numbers: Any) -> KnetLook:
        go_on.wait(20)
        raise AdapterError("Corosync was stopped")

    monkeypatch.setattr(bench.world, "knet_look", hang)
    bench.turn(0.2)
    before = path(bench).stat().st_ino
    bench.until("another one", lambda: path(bench).stat().st_ino != before)
    assert ask(bench, "link-monitor")["rc"] == 0
    go_on.set()


def test_a_stop_takes_it_away_before_its_answer(bench: Bench) -> None:
    register(bench)
    until_told(bench)
    assert ask(bench, "link-unregister")["ok"] is True and not path(bench).exists()
    assert never_told(bench) and ask(bench, "link-monitor")["rc"] == 7


def test_a_look_that_ends_after_the_stop_brings_nothing_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    began, go_on = threading.Event(), threading.Event()

    def slow(numbers: Any) -> KnetLook:
        began.set()
        go_on.wait(5)
        return look(0, True)

    register(bench)
    monkeypatch.setattr(bench.world, "knet_look", slow)
    bench.until("a tick", began.is_set)
    waiting = bench.connect()
    waiting.send(b'{"op":"link-monitor","resource":"beat"}\n')
    bench.turn(0.05)
    ask(bench, "link-unregister")
    go_on.set()
    assert json.loads(bench.read(waiting))["rc"] == 7 and never_told(bench)
    waiting.close()


def test_other_parameters_take_the_old_ones_away(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeats, "EVERY_S", 60.0)
    register(bench)
    ask(bench, "link-monitor")
    assert "on_loss=\n" in path(bench).read_text()
    register(bench, on_loss="fail")
    assert not path(bench).exists()
    ask(bench, "link-monitor")
    assert "on_loss=fail\n" in path(bench).read_text()


def test_another_name_of_the_node_takes_it_away(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeats, "EVERY_S", 60.0)
    for params in ({}, {"interface": "nodea:hb0"}):
        register(bench, **params)
        ask(bench, "link-monitor")
        assert path(bench).exists()
        bench.daemon.heartbeats.renamed("nodez")
        assert not path(bench).exists()


def test_an_orderly_end_and_the_next_start_take_it_away(bench: Bench, tmp_path: Path) -> None:
    register(bench)
    until_told(bench)
    whole = path(bench).read_text()
    bench.close()
    assert not path(bench).exists()
    path(bench).write_text(whole)  # as after a kill
    second = Bench(tmp_path)
    assert not path(bench).exists()
    second.close()


def test_nothing_is_looked_at_for_nobody(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: List[object] = []
    monkeypatch.setattr(bench.world, "knet_look", looked.append)
    bench.turn(0.2)
    assert not looked
    register(bench)
    bench.until("a tick", lambda: len(looked) > 2)
    ask(bench, "link-unregister")
    bench.turn(0.1)
    before = len(looked)
    bench.turn(0.2)
    assert len(looked) == before


def test_on_a_disk_all_is_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(all_well, "in_memory", lambda device: False)
    monkeypatch.setattr(heartbeats, "EVERY_S", 0.02)
    bench = Bench(tmp_path)
    bench.daemon.start()
    bench.world.reports["hb0"] = GOOD
    bench.world.links.tell("hb0", True)
    register(bench)
    looked: List[object] = []
    monkeypatch.setattr(bench.world, "knet_look", looked.append)
    bench.turn(0.2)
    assert not looked and ask(bench, "link-monitor")["rc"] == 0 and not path(bench).exists()
    monkeypatch.setattr(heartbeats, "STALE_S", 0.0)
    bench.world.reports["hb0"] = GOOD._replace(findings=(BRIDGE,))
    bench.until("the rules", lambda: ask(bench, "link-monitor")["rc"] == 190)
    bench.close()


def test_the_script_and_the_daemon_understand_each_other(bench: Bench, tmp_path: Path) -> None:
    """The whole way, with the real /proc: this process is the daemon."""
    script = Script(tmp_path, "heartbeat-link", "dash")
    script.set(RUNTIME=str(tmp_path))
    given = {"interface": "hb0", "waivers": "speed=it's \"enough\"", "dampen": "2s"}
    register(bench, **given)
    until_told(bench)
    environment = {f"OCF_RESKEY_{name}": value for name, value in given.items()}
    environment.update(OCF_RESOURCE_INSTANCE="beat:0", OCF_RESKEY_CRM_meta_interval="10000")
    assert script.run("monitor", **environment).returncode == 0
    bench.world.links.tell("hb0", False)
    bench.until("it to go", lambda: not path(bench).exists())
    assert script.run("monitor", **environment).returncode == PYTHON_RAN
