"""`heartgate budget`: the command as a person runs it, on configurations that it is given, and what it says of broken ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import List

import pytest

from heartgate.adapters import cluster_config
from heartgate.adapters.process import Completed
from heartgate.checks import budget as judge
from heartgate.checks import config_lint
from heartgate.checks.lint_facts import LintFacts
from heartgate.cli import budget, configuration, main
from tests.unit.test_checks_budget import cib, link, made
from tests.unit.test_checks_config_lint import COROSYNC, facts


def told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: LintFacts, *options: str
) -> tuple[int, str]:
    monkeypatch.setattr(cluster_config.Collector, "facts", lambda self, host: given)
    code = main.main(["budget", *options])
    return code, capsys.readouterr().out


SLOW = "knet_ping_interval: 900\nknet_ping_timeout: 4000"


@pytest.mark.req("E5")
def test_what_a_person_reads(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = told(monkeypatch, capsys, facts(corosync=link(1, SLOW), cib=cib()))
    assert code == 1
    assert "WARNING  knet-before-token (link 1)" in text
    assert (
        "Smallest conflict: knet_ping_timeout of link 1 (corosync.conf:6), token (default)\n"
        in text
    )
    assert (
        "set knet_ping_timeout in interface { linknumber: 1 } of corosync.conf to at most 2099 ms (now 4 s, corosync.conf:6)"
        in text
    )
    assert "HOLDS" not in text
    code, text = told(monkeypatch, capsys, facts(cib=cib()), "--all")
    assert code == 0 and "HOLDS    gate-timeout (gate)" in text and text.endswith(" hold, 0 do not, 0 not known\n")


@pytest.mark.req("E5")
def test_for_programs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given = facts(cib=cib(gate="rank_delay=20"))
    code, text = told(monkeypatch, capsys, given, "--json")
    data = json.loads(text)
    assert code == data["exit_code"] == 2
    assert [each["rule"] for each in data["findings"]] == ["gate-timeout"]
    assert len(data["inequalities"]) == len(made(given).inequalities) and data["changes"]


@pytest.mark.parametrize(
    "content, code, said",
    [("totem {\n", 2, ":1: expected"), (COROSYNC, None, "inequalities")],
)
def test_the_command_itself(tmp_path: Path, content: str, code: int, said: str) -> None:
    """In a process of its own, with this machine's real programs."""
    path = tmp_path / "corosync.conf"
    path.write_text(content)
    library = str(Path(__file__).resolve().parents[2] / "lib")
    program = "import sys; from heartgate.cli.main import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, "budget", "--corosync-conf", str(path)],
        env={**os.environ, "PYTHONPATH": library},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == "" and said in done.stdout and done.returncode in ((code,) if code else (0, 1, 2, 3))
    if code:
        assert f"config-syntax (corosync.conf)\n    {path}{said}" in done.stdout


def test_what_could_not_be_looked_at_is_no_clean_budget(tmp_path: Path) -> None:
    asked: List[str] = []

    def nothing(argv: List[str], **_: object) -> Completed:
        asked.append(argv[0])
        return Completed(1, "", "broken")

    given = cluster_config.Collector(cluster_config.Places(corosync=str(tmp_path)), nothing).facts("nodea")
    assert {each.rule for each in budget.unreadable(given)} == {"config-unreadable"}


def test_what_check_says_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    given = facts(corosync=link(1, SLOW).replace("two_node: 1", "two_node: 1\n    wait_for_all: 0"), cib=cib())
    monkeypatch.setattr(cluster_config.Collector, "facts", lambda self, host: given)
    said = {each.rule for each in configuration.findings()}
    assert {"corosync-wait-for-all", "knet-before-token"} <= said <= set(configuration.rules())
    assert len(configuration.rules()) == len(config_lint.RULES) + len(judge.RULES)  # no name is used twice
