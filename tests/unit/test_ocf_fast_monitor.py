"""heartbeat-link's monitor that asks nobody: the real script under each shell, against files. Everything unusual is Python's."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Dict, Iterator, List

import pytest

from heartgate.daemon import all_well
from heartgate.daemon.all_well import LASTS_S, Process
from heartgate.daemon.link_params import DEFAULTS
from tests.unit.agent_scripts import PYTHON_RAN, Script, shells

SEEN_S = 13054
WRITER = Process(812, "4711")
EVERYTHING = {
    "interface": "nodea:hb0 nodeb:eth3",
    "client_interface": "lan",
    "sync_interfaces": " eth2  eth3 ",
    "addressing": "any",
    "waivers": r"speed=1 Gbit/s is 'enough' \here `x` $HOME *; vlan=\\ \"so\" %s",
    "on_loss": "fail",
    "name": "beat",
    "dampen": "08",
}


class Node:
    """A runtime directory and a /proc of the test's own."""

    def __init__(self, directory: Path, shell: str) -> None:
        self.script = Script(directory, "heartbeat-link", shell)
        self.runtime, self.proc = directory / "runtime", directory / "proc"
        self.runtime.mkdir(mode=0o700)
        self.file = self.runtime / "well-beat"
        self.script.set(RUNTIME=str(self.runtime), PROC=str(self.proc))
        self.uptime("13055.80 12144.58\n")
        self.process("S")
        self.write({"interface": "hb0"})

    def write(self, raw: Dict[str, str]) -> None:
        whole = all_well.text(raw, SEEN_S + 0.9, WRITER)
        assert whole is not None
        self.file.write_text(whole)

    def uptime(self, text: str) -> None:
        self.proc.mkdir(exist_ok=True)
        (self.proc / "uptime").write_text(text)

    def process(self, state: str, began: str = WRITER.began, name: str = "a) S (b c") -> None:
        place = self.proc / str(WRITER.pid)
        place.mkdir(exist_ok=True)
        rest = " ".join(["1"] * 18)
        (place / "stat").write_text(f"{WRITER.pid} ({name}) {state} {rest} {began} 10 11 12\n")

    def monitor(self, resource: str = "beat:0", interval: str = "10000", action: str = "monitor", **raw: str) -> bool:
        """Whether it answered by itself: nothing said, 0. Else Python was started."""
        parameters = {f"OCF_RESKEY_{name}": value for name, value in (raw or {"interface": "hb0"}).items()}
        meta = {"OCF_RESOURCE_INSTANCE": resource, "OCF_RESKEY_CRM_meta_interval": interval}
        done = self.script.run(action, **parameters, **meta)
        ran = f"['heartbeat-link', '{action}']\n"
        assert (done.returncode, done.stdout, done.stderr) in ((0, "", ""), (PYTHON_RAN, ran, "")), done
        return done.returncode == 0


@pytest.fixture(params=shells())
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Node:
    return Node(tmp_path, str(request.param))


# --- what it answers


def test_a_fresh_file_is_the_answer(node: Node) -> None:
    assert node.monitor() and node.monitor("beat")
    node.script.set(PYTHON="/nonexistent", BODY="/nonexistent")
    given = {"OCF_RESKEY_interface": "hb0", "OCF_RESOURCE_INSTANCE": "beat", "OCF_RESKEY_CRM_meta_interval": "2000"}
    assert node.script.run("monitor", PATH="/nonexistent", **given).returncode == 0, "nor any other program"


def test_all_parameters_are_compared_as_they_are(node: Node) -> None:
    node.write(EVERYTHING)
    assert node.monitor(**EVERYTHING)
    for name, value in EVERYTHING.items():
        for other in (value + " ", " " + value, value[:-1], value.upper() + "x", "", value + "\n", value + "\nend"):
            if other != value:
                assert not node.monitor(**{**EVERYTHING, name: other}), (name, other)


def test_what_is_not_given_is_as_an_empty_text(node: Node) -> None:
    assert node.monitor(interface="hb0", waivers="", on_loss="")
    assert not node.monitor(interface="hb0", on_loss="degraded")


def test_a_name_of_the_environment_is_no_parameter(node: Node) -> None:
    assert node.monitor(interface="hb0", CRM_meta_timeout="20000", unknown="x")


# --- what is not for it


@pytest.mark.parametrize("action", ["status", "start", "validate-all", "Monitor"])
def test_other_actions(node: Node, action: str) -> None:
    assert not node.monitor(action=action)


@pytest.mark.parametrize("interval", ["0", "", "-1", "10s", " 10000"])
def test_probes_and_calls_by_hand(node: Node, interval: str) -> None:
    assert not node.monitor(interval=interval)


def test_a_call_without_pacemakers_names(node: Node) -> None:
    assert node.script.run("monitor", OCF_RESKEY_interface="hb0", OCF_RESOURCE_INSTANCE="beat").returncode == PYTHON_RAN
    node.file.rename(node.runtime / "well-heartbeat-link")
    given = {"OCF_RESKEY_interface": "hb0", "OCF_RESKEY_CRM_meta_interval": "10000"}
    assert node.script.run("monitor", **given).returncode == PYTHON_RAN


OTHERS = ("other", "", ":0", "beat0", "../runtime/well-beat", "x/../well-beat", "be*t", "bea?", "be at")


@pytest.mark.parametrize("resource", OTHERS)
def test_other_resources(node: Node, resource: str) -> None:
    (node.runtime / "well-x").mkdir()
    (node.runtime / "well-").write_text(node.file.read_text())
    assert not node.monitor(resource)


# --- freshness


@pytest.mark.parametrize(
    "now, fresh",
    [
        (SEEN_S - 1, False),
        (SEEN_S, True),
        (SEEN_S + LASTS_S - 1, True),
        (SEEN_S + LASTS_S, False),
        (SEEN_S + 100_000, False),
        (9, False),
    ],
)
def test_it_is_believed_for_its_time_alone(node: Node, now: int, fresh: bool) -> None:
    node.uptime(f"{now}.99 0.00\n")
    assert node.monitor() is fresh


def test_numbers_are_never_octal(node: Node) -> None:
    text = node.file.read_text()
    node.file.write_text(text.replace(f"{SEEN_S} {SEEN_S + LASTS_S} ", "0080 0099 "))
    node.uptime("090.08 1.0\n")
    assert node.monitor()
    node.uptime("0100.00 1.0\n")
    assert not node.monitor()


NO_UPTIMES = ("", "\n", "x.80 1\n", "13055", "-5.0 1\n", "99999999999913055.1 1\n", "13055x.1\n", "+13055.1 2\n")


@pytest.mark.parametrize("text", NO_UPTIMES)
def test_an_uptime_that_is_none(node: Node, text: str) -> None:
    node.uptime(text)
    assert not node.monitor()


def test_no_uptime(node: Node) -> None:
    (node.proc / "uptime").unlink()
    assert not node.monitor()


@pytest.mark.parametrize("state", "RSTtZDX")
def test_a_writer_that_is_stopped_is_not_believed(node: Node, state: str) -> None:
    node.process(state)
    assert node.monitor() is (state in "RS")


def test_another_process_with_the_writers_id(node: Node) -> None:
    node.process("S", began="4712")
    assert not node.monitor()


@pytest.mark.parametrize("text", ["", "812 (x) S\n", "812\n", ") S 4711\n"])
def test_a_writer_that_cannot_be_told(node: Node, text: str) -> None:
    (node.proc / "812" / "stat").write_text(text)
    assert not node.monitor()


def test_a_writer_that_is_gone(node: Node) -> None:
    (node.proc / "812" / "stat").unlink()
    assert not node.monitor()


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_the_real_proc(node: Node, child: subprocess.Popen[bytes]) -> None:
    """Alive, stopped, going on, dead but not buried, gone."""
    node.script.set(PROC="/proc")
    writer = all_well.this_process(Path(f"/proc/{child.pid}/stat"))
    whole = all_well.text({"interface": "hb0"}, time.clock_gettime(time.CLOCK_BOOTTIME), writer)
    assert whole is not None
    node.file.write_text(whole)
    states = {"S": signal.SIGCONT, "T": signal.SIGSTOP}
    for state in ("S", "T", "S"):
        child.send_signal(states[state])
        wait_for(child.pid, state)
        assert node.monitor() is (state == "S"), state
    child.kill()
    wait_for(child.pid, "Z")
    assert not node.monitor()
    child.wait()
    assert not node.monitor()


def wait_for(pid: int, state: str) -> None:
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != state:
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- files that the daemon did not write


def spoilt() -> Dict[str, str]:
    whole = all_well.text({"interface": "hb0"}, SEEN_S, WRITER) or ""
    lines = whole.splitlines(keepends=True)
    times = f"{SEEN_S} {SEEN_S + LASTS_S}"
    cut: Dict[str, str] = {f"cut after {number} lines": "".join(lines[:number]) for number in range(len(lines))}
    return {
        **cut,
        "end cut off": whole[:-2],
        "end without its newline": whole[:-1],
        "another version": whole.replace("heartbeat-link 1", "heartbeat-link 2"),
        "one line more before the end": whole.replace("end\n", "more=\nend\n"),
        "two lines changed places": "".join([*lines[:2], lines[3], lines[2], *lines[4:]]),
        "no times": whole.replace(times, " "),
        "times that are none": whole.replace(times, "0 x"),
        "a time that is too long": whole.replace(times, "0 99999999999999999999"),
        "negative": whole.replace(times, f"-1 {SEEN_S + 10}"),
        "no process": whole.replace("812 4711", ""),
        "a path as process": whole.replace("812 4711", "../proc/812 4711"),
        "a field more": whole.replace("812 4711", "812 4711 1"),
        "DOS": whole.replace("\n", "\r\n"),
        "garbage": "\x00\x01\\\n$(exit 0)\n`exit 0`\n" * 50,
        "blank": "\n" * 20,
        "many lines": whole.replace("end\n", "x\n" * 300_000),
        "a long line": "x" * 300_000,
        "long parameter": whole.replace("=hb0", "=hb0" + "0" * 300_000),
    }


@pytest.mark.parametrize("what", sorted(spoilt()))
def test_a_file_that_is_not_whole_or_not_ours(node: Node, what: str) -> None:
    node.file.write_bytes(spoilt()[what].encode("ascii"))
    assert not node.monitor()


def test_what_is_no_file(node: Node) -> None:
    real = node.file.rename(node.runtime / "real")
    assert not node.monitor()
    node.file.symlink_to(real)
    assert not node.monitor(), "a symbolic link"
    node.file.unlink()
    node.file.mkdir()
    assert not node.monitor(), "a directory"
    node.file.rmdir()
    os.mkfifo(node.file)
    assert not node.monitor(), "a FIFO, which nobody would write"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("what", ["file", "runtime"])
def test_what_is_somebody_elses(node: Node, what: str) -> None:
    """Others' right to write in the directory is what no shell can see: the daemon takes that away when it starts."""
    os.chown(getattr(node, what), 65534, 65534)
    assert not node.monitor()


def test_no_directory(node: Node) -> None:
    node.script.set(RUNTIME="/nonexistent")
    assert not node.monitor()


def test_the_script_compares_all_parameters_in_the_files_order() -> None:
    lines = (Path(__file__).resolve().parents[2] / "agents" / "heartbeat-link").read_text().splitlines()
    compared: List[str] = [line.split()[1] for line in lines if line.strip().startswith("same ")]
    assert compared == list(DEFAULTS)
    for name in compared:
        assert any(f'same {name} "${{OCF_RESKEY_{name}-}}"' in line for line in lines)
