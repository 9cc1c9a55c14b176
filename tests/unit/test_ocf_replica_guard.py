"""replica-guard: its parameters, its metadata, and its exit codes (as a real process against a real socket)."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartgate.daemon import params
from heartgate.ocf import heartbeat_link, replica_guard, thin_client
from heartgate.ocf.metadata import generated
from heartgate.ocf.replica_guard_table import PARAMETERS
from tests.unit.test_daemon_fakes import PARAMS, Bench

ROOT = Path(__file__).resolve().parents[2]
GOOD = {"device": "r0", "priorities": "nodea:1 nodeb:2"}
AGENT = """
import sys
sys.path.append({lib!r})
from heartgate.daemon import client
from heartgate.ocf import replica_guard, thin_client
client.SOCKET = thin_client.client.SOCKET = {path!r}
ask = client.ask
thin_client.client.ask = lambda line, timeout_s: ask(line, timeout_s, {path!r})
thin_client.START_S, thin_client.BACK_S = {start_s}, {back_s}
thin_client.SYSTEMD = thin_client.DAEMON = "/nonexistent"
thin_client.RUNTIME_DIR = {directory!r}
sys.exit(replica_guard.main({action!r}))
"""


def problems(**changes: str) -> List[str]:
    return [f"{problem.message}; {problem.remedy}" for problem in params.parse({**GOOD, **changes})[1]]


def test_good_parameters() -> None:
    found, wrong = params.parse(
        {**GOOD, "flush": "filesystem:/srv", "confirm_timeout": "5s", "CRM_meta_timeout": "1"}
    )
    assert not wrong and found is not None
    assert found.priorities == (("nodea", 1), ("nodeb", 2)) and found.confirm_timeout_ms == 5000
    assert found.config("r0", "nodea").device == "r0"


@pytest.mark.req("A1")
@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"device": ""}, ["device is not given", "device=r0"]),
        ({"device": "r 0"}, ["device='r 0'", "name of the replicated resource"]),
        ({"device": "../etc"}, ["device="]),
        ({"priorities": ""}, ["priorities is not given", "nodea:1 nodeb:2"]),
        (
            {"priorities": "nodea:1 nodeb:1"},
            ["priorities: nodea and nodeb both have priority 1", "a number of its own"],
        ),
        ({"priorities": "nodea:1 nodea:2"}, ["priorities: nodea is named twice"]),
        ({"priorities": "nodea:0 nodeb:1"}, ["priorities: 'nodea:0'"]),
        ({"priorities": "nodea nodeb"}, ["priorities: 'nodea'"]),
        ({"priorities": "nodea:1"}, ["priorities names one node"]),
        ({"policy": "best"}, ["policy='best'", "priority, active-first"]),
        ({"on_isolation": "bias"}, ["bias does not name the node that goes on alone", "set e.g. bias=nodea"]),
        ({"bias": "nodea"}, ["bias='nodea' is given, but on_isolation=fence does not use it"]),
        ({"on_isolation": "freeze", "bias": "nodea"}, ["on_isolation=freeze does not use it"]),
        ({"on_isolation": "bias", "bias": "nodex"}, ["bias='nodex' is no node of priorities", "nodea, nodeb"]),
        ({"on_isolation": "bias", "bias": "nodeb"}, ["with policy=priority nodea goes on", "set bias=nodea"]),
        ({"on_isolation": "bias", "bias": "nodea", "priorities": "nodea:1 nodeb:2 nodec:3"}, ["is for two replicas", "names 3"]),
        ({"on_blocked_promoted": "pray"}, ["on_blocked_promoted='pray'", "release, fence"]),
        ({"confirm_timeout": "soon"}, ["confirm_timeout='soon'", "confirm_timeout=10"]),
        ({"confirm_timeout": "0"}, ["confirm_timeout='0'"]),
        ({"flush": "everything"}, ["flush: 'everything'", "filesystem:/srv"]),
        ({"flush_timeout": "-1"}, ["flush_timeout='-1'"]),
        ({"driver": "md"}, ["driver='md'", "drbd, exec"]),
        ({"driver": "exec"}, ["exec_program=''", "full path"]),
        ({"sync_interfaces": "eth0:1"}, ["sync_interfaces: 'eth0:1'"]),
    ],
)
def test_bad_parameters_name_parameter_and_remedy(changes: Dict[str, str], parts: List[str]) -> None:
    text = "\n".join(problems(**changes))
    assert all(part in text for part in parts), text


@given(st.dictionaries(st.sampled_from(sorted(params.DEFAULTS)), st.text(max_size=40)))
def test_any_text_is_a_value_or_a_problem(raw: Dict[str, str]) -> None:
    found, wrong = params.parse(raw)
    assert (found is None) == bool(wrong)


@pytest.mark.parametrize("agent", [replica_guard, heartbeat_link])
def test_what_the_start_of_the_daemon_takes_is_no_more_for_the_answer(monkeypatch: pytest.MonkeyPatch, agent: Any) -> None:
    """Pacemaker kills a start after 60 s, and nobody is told why then; `heartgate budget` counts on 50 s in all."""
    timeouts: List[float] = []
    monkeypatch.setattr(agent, "_validate", lambda local: 0)
    monkeypatch.setattr(agent, "ensure_daemon", lambda: not time.sleep(1.1))
    monkeypatch.setattr(thin_client.client, "ask", lambda line, timeout_s: timeouts.append(timeout_s) or b'{"ok":true}')
    assert agent.start() == 0
    (timeout_s,) = timeouts
    assert 0 < timeout_s <= thin_client.REGISTER_S - 1.1
    assert thin_client.REGISTER_S - thin_client.START_S >= 20, "too little is left"


# --- metadata


def test_metadata_in_step() -> None:
    for name, text in generated().items():
        stored = (ROOT / "ocf-metadata" / name).read_text(encoding="ascii")
        assert stored == text, "run: PYTHONPATH=lib python3 -m heartgate.ocf.metadata ocf-metadata"


def test_metadata_declares_what_is_parsed() -> None:
    assert {parameter.name for parameter in PARAMETERS} == set(params.DEFAULTS)
    for parameter in PARAMETERS:
        assert parameter.default == params.DEFAULTS[parameter.name]
    root = ElementTree.fromstring(generated()["replica-guard.xml"])
    actions = {action.get("name") for action in root.iter("action")}
    assert {"start", "stop", "monitor", "meta-data", "validate-all", "reload-agent", "notify"} == actions


RNG = Path("/usr/share/pcs/data/ocf-1.1.rng")


@pytest.mark.skipif(not RNG.exists(), reason="needs pcs")
def test_metadata_validates() -> None:
    argv = ["xmllint", "--noout", "--relaxng", str(RNG), str(ROOT / "ocf-metadata" / "replica-guard.xml")]
    assert subprocess.run(argv, capture_output=True, check=False).returncode == 0


# --- as a process


class Served:
    """A bench turned by a thread, and the agent run against it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bench = Bench(directory)
        self._end = False
        self._listens = threading.Event()
        self.thread = threading.Thread(target=self._turn)

    def start(self) -> None:
        self.thread.start()
        assert self._listens.wait(60)

    def _turn(self) -> None:
        self.bench.daemon.start()
        self._listens.set()
        while not self._end:
            self.bench.daemon.loop.turn(0.02)
        self.bench.close()

    def stop(self) -> None:
        self._end = True
        self.thread.join()


def daemon_is_dead(directory: Path) -> bool:
    """Nobody waits for it then. One that is there is given the time that a slow machine takes."""
    return not (directory / "control.sock").exists()


def agent(
    directory: Path, action: str, raw: Mapping[str, str], back_s: float = 6.0, **extra: str
) -> subprocess.CompletedProcess[str]:
    code = AGENT.format(
        lib=str(ROOT / "lib"), path=str(directory / "control.sock"), action=action, directory=str(directory / "run"),
        back_s=back_s, start_s=0.2 if daemon_is_dead(directory) else 60,
    )  # fmt: skip
    environment = {
        **{f"OCF_RESKEY_{name}": value for name, value in raw.items()},
        **extra,
        "PATH": os.environ["PATH"],
    }
    argv = ["/usr/bin/python3", "-IS", "-c", code]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    it = Served(tmp_path)
    it.start()
    yield it
    it.stop()


def test_life_of_a_resource(served: Served) -> None:
    assert agent(served.directory, "monitor", PARAMS).returncode == 7
    started = agent(served.directory, "start", PARAMS)
    assert (started.returncode, started.stderr) == (0, "")
    for action in ("monitor", "start", "reload-agent", "notify", "validate-all"):
        assert agent(served.directory, action, PARAMS).returncode == 0
    for _ in range(2):
        assert agent(served.directory, "stop", PARAMS).returncode == 0
        assert agent(served.directory, "monitor", PARAMS).returncode == 7


def test_what_the_daemon_refuses(served: Served) -> None:
    answer = agent(
        served.directory, "start", {**PARAMS, "priorities": "nodea:1 nodez:2", "flush": "filesystem:/absent"}
    )
    assert answer.returncode == 2
    lines = answer.stderr.splitlines()
    assert all(line.startswith("ERROR: ") for line in lines) and len(lines) == 2
    assert "nodez is not a node of this cluster" in lines[0] and "filesystem:/absent" in lines[1]
    assert agent(served.directory, "validate-all", {**PARAMS, "priorities": "nodea:1 nodez:2"}).returncode == 0
    checked = agent(
        served.directory, "validate-all", {**PARAMS, "priorities": "nodea:1 nodez:2"}, OCF_CHECK_LEVEL="10"
    )
    assert checked.returncode == 2


@pytest.mark.parametrize(
    "raw", [{}, PARAMS, {"device": '\u00e4\n"', "priorities": "x"}, {**PARAMS, "priorities": ""}]
)
def test_stop_always_works(tmp_path: Path, raw: Dict[str, str]) -> None:
    assert agent(tmp_path, "stop", raw).returncode == 0


def test_a_dead_daemon(tmp_path: Path) -> None:
    probe = agent(tmp_path, "monitor", PARAMS)
    assert probe.returncode == 7, "a probe before anything was started"
    recurring = agent(tmp_path, "monitor", PARAMS, OCF_RESKEY_CRM_meta_interval="10000")
    assert recurring.returncode == 1 and "heartgated does not answer" in recurring.stderr
    started = agent(tmp_path, "start", PARAMS)
    assert started.returncode == 1 and "heartgated does not answer" in started.stderr


def test_a_daemon_that_is_back_in_a_moment(tmp_path: Path) -> None:
    """Restarted by an upgrade, or after a crash: no failed monitor, so Pacemaker recovers nothing."""
    first = Served(tmp_path)
    first.start()
    assert agent(tmp_path, "start", PARAMS).returncode == 0
    first.stop()
    second: List[Served] = []

    def come_back() -> None:
        second.append(Served(tmp_path))
        second[0].thread.start()

    timer = threading.Timer(1.5, come_back)
    timer.start()
    try:
        monitored = agent(tmp_path, "monitor", PARAMS, back_s=60, OCF_RESKEY_CRM_meta_interval="10000")
    finally:
        timer.join()
        second[0].stop()
    assert (monitored.returncode, monitored.stderr) == (0, "")


# --- while an upgrade replaces the library


class Upgrade:
    """The installed agent, with a library of its own: first `broken`, then whole."""

    def __init__(self, directory: Path, agent: str, broken: str) -> None:
        self.library, self.path = directory / "library", directory / agent
        self._module = self.library / "heartgate" / "ocf" / f"{agent.replace('-', '_')}.py"
        if broken != "absent":
            self.repair()
            self._module.write_text(broken)
        body = directory / "ocf-agent"
        text = (ROOT / "agents" / "common" / "ocf-agent").read_text()
        assert "left_s = 6.0" in text
        body.write_text(text.replace(DEBIAN_LIBRARY, str(self.library)).replace("left_s = 6.0", "left_s = 60.0"))
        script = (ROOT / "agents" / agent).read_text()
        assert INSTALLED_BODY in script
        self.path.write_text(script.replace(INSTALLED_BODY, str(body)))
        self.path.chmod(0o755)
        self._body = body

    def repair(self) -> None:
        shutil.copytree(ROOT / "lib" / "heartgate", self.library / "heartgate", dirs_exist_ok=True)

    def impatient(self) -> None:
        self._body.write_text(self._body.read_text().replace("left_s = 60.0", "left_s = 0.5"))

    def run(self, action: str) -> subprocess.CompletedProcess[str]:
        environment = {"OCF_RESKEY_device": "r0", "OCF_RESKEY_interface": "hb0", "PATH": os.environ["PATH"]}
        return subprocess.run([str(self.path), action], env=environment, capture_output=True, text=True, timeout=120, check=False)


DEBIAN_LIBRARY = "/usr/lib/python3/dist-packages"
INSTALLED_BODY = "/usr/lib/heartgate/ocf-agent"
BROKEN = {
    "absent": 5,
    "from heartgate.daemon.client import what_comes_with_the_next_version": 1,
    "def main(": 1,
    "import heartgate\nheartgate.what_comes_with_the_next_version": 1,
    "def main(action):\n    from heartgate.daemon import what_comes_with_the_next_version": 1,
}


@pytest.mark.parametrize("broken", [*BROKEN, "def main():\n    pass"])
def test_stop_never_fails_for_an_upgrade(tmp_path: Path, broken: str) -> None:
    """A failed stop would have the node fenced."""
    done = Upgrade(tmp_path, "replica-guard", broken).run("stop")
    assert done.returncode == 0 and len(done.stderr.splitlines()) == 1 and "goes on guarding" in done.stderr, done


@pytest.mark.parametrize("broken", BROKEN)
def test_a_library_that_is_whole_in_a_moment(tmp_path: Path, broken: str) -> None:
    upgrade = Upgrade(tmp_path, "replica-guard", broken)
    timer = threading.Timer(1.0, upgrade.repair)
    timer.start()
    done = upgrade.run("validate-all")
    timer.join()
    assert done.returncode == 2 and "priorities is not given" in done.stderr, done


@pytest.mark.parametrize("broken", BROKEN)
def test_a_library_that_stays_broken(tmp_path: Path, broken: str) -> None:
    upgrade = Upgrade(tmp_path, "replica-guard", broken)
    upgrade.impatient()
    done = upgrade.run("monitor")
    assert done.returncode == BROKEN[broken] and done.stderr.startswith("ERROR: replica-guard: "), done
    assert len(done.stderr.splitlines()) == 1


def test_wrong_action(tmp_path: Path) -> None:
    assert agent(tmp_path, "promote", PARAMS).returncode == 3


def test_monitor_imports_next_to_nothing() -> None:
    code = "import sys; sys.path.append(sys.argv[1]); import heartgate.ocf.replica_guard; print(*sys.modules)"
    argv = ["/usr/bin/python3", "-IS", "-c", code, str(ROOT / "lib")]
    loaded = set(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split())
    assert not loaded & {
        "json",
        "re",
        "socket",
        "argparse",
        "subprocess",
        "logging",
        "typing",
        "enum",
        "pyroute2",
        "site",
    }
