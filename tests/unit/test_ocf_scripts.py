"""The agents' shell scripts, run by every shell that may be /bin/sh: what they print themselves, and what Python is started for."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import List

import pytest

from tests.unit.agent_scripts import AGENTS, PYTHON_RAN, ROOT, Script, shells

RUNNING_ON = {"heartbeat-link": "watching", "replica-guard": "guarding"}


@pytest.fixture(params=AGENTS)
def agent(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=shells())
def script(request: pytest.FixtureRequest, agent: str, tmp_path: Path) -> Script:
    return Script(tmp_path, agent, str(request.param))


def test_the_metadata_is_printed_without_python(script: Script) -> None:
    stored = (ROOT / "ocf-metadata" / f"{script.agent}.xml").read_text()
    script.metadata.write_text(stored)
    script.set(PYTHON="/nonexistent", BODY="/nonexistent")
    done = script.run("meta-data")
    assert (done.returncode, done.stdout, done.stderr) == (0, stored, "")


def test_the_installed_metadata_is_the_agents_own(agent: str) -> None:
    assert f"\nMETADATA=/usr/share/heartgate/ocf-metadata/{agent}.xml\n" in (ROOT / "agents" / agent).read_text()


@pytest.mark.parametrize("what", ["absent", "directory"])
def test_metadata_that_cannot_be_read(script: Script, what: str) -> None:
    script.metadata.unlink()
    if what == "directory":
        script.metadata.mkdir()
    done = script.run("meta-data")
    assert done.returncode == 5 and done.stdout == ""
    assert done.stderr == f"{script.agent}: the metadata cannot be read ({script.metadata}); install heartgate again\n"


@pytest.mark.parametrize("words", [["start"], ["monitor"], ["status"], ["stop"], ["validate-all"], ["what ever", "else"], []])
def test_everything_else_is_pythons(script: Script, words: List[str]) -> None:
    done = script.run(*words)
    assert (done.returncode, done.stdout) == (PYTHON_RAN, f"{[script.agent, *words]}\n"), done
    assert done.stderr == ""


def test_python_is_isolated(script: Script) -> None:
    script.body.write_text("import sys\nprint(sys.flags.isolated, sys.flags.no_site)\n")
    assert script.run("start", PYTHONHOME="/nonexistent").stdout == "1 1\n"


@pytest.mark.parametrize("constant", ["PYTHON", "BODY"])
def test_what_is_missing_never_fails_a_stop(script: Script, constant: str) -> None:
    script.set(**{constant: "/nonexistent/it"})
    done = script.run("stop")
    assert done.returncode == 0 and done.stderr.startswith(f"WARNING: {script.agent}: the library cannot be used (")
    assert done.stderr.endswith(f"; heartgated was not told of the stop and goes on {RUNNING_ON[script.agent]}\n")
    assert len(done.stderr.splitlines()) == 1 and "/nonexistent/it" in done.stderr


@pytest.mark.parametrize("constant", ["PYTHON", "BODY"])
def test_what_stays_missing_is_not_installed(script: Script, constant: str) -> None:
    script.set(**{constant: "/nonexistent/it", "left_s": "1"})
    done = script.run("monitor")
    assert done.returncode == 5 and done.stderr.startswith(f"ERROR: {script.agent}: the library cannot be used ("), done
    assert len(done.stderr.splitlines()) == 1 and done.stderr.endswith("; install heartgate again\n")


def test_what_comes_back_in_a_moment_is_waited_for(script: Script) -> None:
    away = script.body.rename(script.directory / "away")
    timer = threading.Timer(0.5, lambda: away.rename(script.body))
    timer.start()
    done = script.run("start")
    timer.join()
    assert (done.returncode, done.stderr) == (PYTHON_RAN, "")


def test_both_wait_for_it_as_long_as_for_the_library() -> None:
    for agent in AGENTS:
        assert "\nleft_s=6\n" in (ROOT / "agents" / agent).read_text()


def test_the_scripts_differ_in_what_they_must_alone() -> None:
    """Two files, since one that they share may be missing just when a stop needs it."""
    ours, guards = ((ROOT / "agents" / agent).read_text() for agent in AGENTS)
    theirs = guards.replace("replica-guard", "heartbeat-link").replace("goes on guarding", "goes on watching").splitlines()
    assert [line for line in theirs if line and not line.startswith("#")] == [
        line for line in theirs if line and not line.startswith("#") and line in ours.splitlines()
    ]


@pytest.mark.parametrize("words", [[], ["nonsense", "stop"]])
def test_the_common_file_is_for_our_agents(words: List[str]) -> None:
    body = ROOT / "agents" / "common" / "ocf-agent"
    done = subprocess.run([str(body), *words], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 3 and done.stderr == "usage: ocf-agent {heartbeat-link|replica-guard} ACTION\n"


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
def test_shellcheck_finds_nothing(agent: str) -> None:
    argv = ["shellcheck", str(ROOT / "agents" / agent)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_they_are_executable(agent: str) -> None:
    assert os.access(ROOT / "agents" / agent, os.X_OK)
