"""heartbeat-link: its parameters, and its exit codes as a real process against a real socket."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path
from typing import Dict, Iterator, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartgate.checks.findings import Finding, Severity
from heartgate.checks.link_report import Report, decode, encode
from heartgate.daemon import link_params
from heartgate.ocf.heartbeat_link_table import PARAMETERS
from heartgate.ocf.metadata import generated
from tests.unit.test_daemon_fakes import Bench
from tests.unit.test_ocf_replica_guard import BROKEN, Upgrade, daemon_is_dead

ROOT = Path(__file__).resolve().parents[2]
AGENT = """
import sys
sys.path.append({lib!r})
from heartgate.daemon import client
from heartgate.ocf import heartbeat_link, thin_client
ask = client.ask
client.ask = lambda line, timeout_s: ask(line, timeout_s, {path!r})
thin_client.START_S = thin_client.BACK_S = {start_s}
thin_client.SYSTEMD = thin_client.DAEMON = "/nonexistent"
thin_client.RUNTIME_DIR = {directory!r}
sys.exit(heartbeat_link.main({action!r}))
"""


def problems(**raw: str) -> str:
    return "\n".join(f"{problem.message}; {problem.remedy}" for problem in link_params.parse(raw)[1])


def test_names_per_node() -> None:
    found, wrong = link_params.parse({"interface": "nodea:hb0 nodeb:eth3", "dampen": "500ms", "client_interface": "lan"})
    assert not wrong and found is not None and found.dampen_ms == 500
    assert found.question("nodeb").interface == "eth3" and found.question("nodeb").client_interface == "lan"
    assert found.attribute("beat") == "heartgate-link-beat"
    with pytest.raises(ValueError, match="nodec is not named; nodea, nodeb are"):
        found.question("nodec")
    alike, _ = link_params.parse({"interface": "bond0.7@x"})
    assert alike is not None and alike.attribute("beat") == "heartgate-link-bond0.7_x"


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"interface": ""}, ["interface is not given", "interface=hb0"]),
        ({"interface": "hb0 hb1"}, ["interface has 'hb0'", "NODE:INTERFACE"]),
        ({"interface": "a:x a:y"}, ["interface names a twice"]),
        ({"interface": "a/b"}, ["interface has 'a/b'"]),
        ({"client_interface": "a:b:c"}, ["client_interface has", "client_interface=hb0"]),
        ({"waivers": "nonsense=x"}, ['there is no rule "nonsense"', "docs/heartbeat-rules.md"]),
        ({"waivers": "speed= "}, ["gives no reason"]),
        ({"addressing": "none"}, ["addressing='none'", "any, static, dhcp"]),
        ({"on_loss": "stop"}, ["on_loss='stop'", "degraded, fail"]),
        ({"dampen": "-1"}, ["dampen='-1'", "dampen=1s"]),
        ({"dampen": "2m"}, ["0 to 60s"]),
        ({"name": "a b"}, ["name='a b'"]),
        ({"sync_interfaces": "x:y"}, ["sync_interfaces: 'x:y'"]),
    ],
)
def test_bad_parameters_name_parameter_and_remedy(changes: Dict[str, str], parts: List[str]) -> None:
    text = problems(**{"interface": "hb0", **changes})
    assert all(part in text for part in parts) and len(text.splitlines()) <= 2, text


@given(st.dictionaries(st.sampled_from(sorted(link_params.DEFAULTS)), st.text(max_size=40)))
def test_any_text_is_a_value_or_a_problem(raw: Dict[str, str]) -> None:
    found, wrong = link_params.parse(raw)
    assert (found is None) == bool(wrong)


@given(st.text(max_size=60))
def test_any_report_is_read_or_refused(text: str) -> None:
    try:
        decode(text)
    except ValueError:
        return


def test_a_report_comes_back_as_it_was() -> None:
    report = Report("hb0", None, None, (0, 2), (Finding("vlan", Severity.ERROR, "hb0", "a", "b", (), "why"),))
    assert decode(encode(report)) == report


def test_table_and_defaults_agree() -> None:
    assert {parameter.name: parameter.default for parameter in PARAMETERS} == dict(link_params.DEFAULTS)
    assert (ROOT / "ocf-metadata" / "heartbeat-link.xml").read_text() == generated()["heartbeat-link.xml"]


# --- a process


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    it = Bench(tmp_path)
    it.daemon.start()
    it.world.links.tell("hb0", True)
    yield it
    it.close()


def run(directory: Path, action: str, level: str = "0", **parameters: str) -> subprocess.CompletedProcess[str]:
    code = AGENT.format(lib=str(ROOT / "lib"), path=str(directory / "control.sock"), directory=str(directory), action=action,
                        start_s=0.2 if daemon_is_dead(directory) else 60)  # fmt: skip
    environment = {f"OCF_RESKEY_{name}": value for name, value in parameters.items()}
    environment.setdefault("OCF_RESKEY_CRM_meta_interval", "10000")
    environment.update(OCF_RESOURCE_INSTANCE="beat:0", OCF_CHECK_LEVEL=level)
    argv = ["/usr/bin/python3", "-IS", "-c", code]
    return subprocess.run(argv, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False)


def beside(bench: Bench, action: str, level: str = "0", **parameters: str) -> subprocess.CompletedProcess[str]:
    done: List[subprocess.CompletedProcess[str]] = []
    thread = threading.Thread(target=lambda: done.append(run(bench.directory, action, level, **parameters)))
    thread.start()
    bench.until("the agent", lambda: not thread.is_alive(), 120)
    return done[0]


def test_life_of_a_resource(bench: Bench) -> None:
    bench.world.reports["hb0"] = Report("hb0", True, 10000, (0,), ())
    assert beside(bench, "monitor", interface="hb0").returncode == 7
    started = beside(bench, "start", interface="hb0")
    assert started.returncode == 0 and started.stderr == ""
    assert beside(bench, "monitor", interface="hb0").returncode == 0
    bench.world.links.tell("hb0", False)
    bench.turn(0.1)
    lost = beside(bench, "monitor", interface="hb0")
    assert lost.returncode == 190 and "ocf-exit-reason:hb0 has no carrier" in lost.stderr
    probe = beside(bench, "monitor", interface="hb0", CRM_meta_interval="0")
    assert probe.returncode == 0
    assert beside(bench, "stop", interface="", waivers="what=?", on_loss="never").returncode == 0
    assert beside(bench, "monitor", interface="hb0").returncode == 7


@pytest.mark.req("B3")
def test_a_local_fault_is_2_and_never_6(bench: Bench) -> None:
    bad = (Finding("vlan", Severity.ERROR, "hb0", "hb0 runs in VLAN 7", "use another"),
           Finding("bond-mode", Severity.ERROR, "hb0", "hb0 balances", "use active-backup"))  # fmt: skip
    bench.world.reports["hb0"] = Report("hb0", True, 10000, (0,), bad)
    done = beside(bench, "start", interface="hb0")
    lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    assert done.returncode == 2 and len(lines) == 2 and "VLAN 7 (rule vlan); use another" in lines[0], done
    assert beside(bench, "validate-all", interface="hb0").returncode == 0
    looked = beside(bench, "validate-all", level="10", interface="hb0")
    assert looked.returncode == 2 and "VLAN 7" in looked.stderr
    assert not bench.daemon.heartbeats.all


def test_without_a_daemon(tmp_path: Path) -> None:
    assert run(tmp_path, "monitor", interface="hb0", CRM_meta_interval="0").returncode == 7
    silent = run(tmp_path, "monitor", interface="hb0")
    assert silent.returncode == 1 and "nobody watches" in silent.stderr
    assert run(tmp_path, "start", interface="hb0").returncode == 1
    assert run(tmp_path, "stop").returncode == 0
    assert run(tmp_path, "start").returncode == 2
    assert run(tmp_path, "promote").returncode == 3


# --- while an upgrade replaces the library


@pytest.mark.parametrize("broken", BROKEN)
def test_an_upgrade_fails_nothing(tmp_path: Path, broken: str) -> None:
    upgrade = Upgrade(tmp_path, "heartbeat-link", broken)
    stopped = upgrade.run("stop")
    assert stopped.returncode == 0 and len(stopped.stderr.splitlines()) == 1, stopped
    timer = threading.Timer(1.0, upgrade.repair)
    timer.start()
    whole = upgrade.run("validate-all")
    timer.join()
    assert (whole.returncode, whole.stderr) == (0, "")


@pytest.mark.parametrize("broken", BROKEN)
def test_a_library_that_stays_broken(tmp_path: Path, broken: str) -> None:
    upgrade = Upgrade(tmp_path, "heartbeat-link", broken)
    upgrade.impatient()
    done = upgrade.run("monitor")
    assert done.returncode == BROKEN[broken] and done.stderr.startswith("ERROR: heartbeat-link: "), done
