"""fence_heartgate: its options, its metadata, its page, and what it loads."""

from __future__ import annotations

import contextlib
import re
import subprocess
from pathlib import Path
from typing import List
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartgate.core.model import Standing
from heartgate.fencing import options, table
from heartgate.fencing.doc import renewed
from tests.unit.fence_process import COROSYNC, ROOT, agent, left_on_disk

GOLDEN = ROOT / "tests" / "unit" / "data" / "fence_heartgate.xml"
RELAXNG = Path("/usr/share/cluster/relaxng")


@pytest.mark.parametrize(
    ("stdin", "says"),
    [
        (b"action=off\n", "no node is named: action=off needs plug"),
        (b"", "no node is named: action=reboot needs plug"),
        (b"action=off\nplug=\n", "no node is named"),
        (b"action=off\nplug=no de\n", "plug='no de' is not a node's name"),
        (b"action=off\nplug=nodeb\nport=nodea\n", "plug='nodeb' and port='nodea' contradict each other"),
        (b"action=off\naction=on\nplug=nodeb\n", "action is given twice, as 'off' and as 'on'"),
        (b"action=explode\nplug=nodeb\n", "action='explode' is not known, use one of: on off reboot"),
        (b"garbage\n", "line 1 on stdin is not name=value: 'garbage'"),
        (b"action=off\n=nodeb\n", "line 2 on stdin is not name=value"),
        (b"\xff\xfe\x00\n", "stdin is not text"),
        (b"x=" + b"y" * 70000, "more than 65536 bytes on stdin"),
        (b"action=off\nplug=nodeb\nrank_delay=soon\n", "rank_delay='soon' is not a time from 1 to 600 seconds"),
        (b"action=off\nplug=nodeb\nrank_delay=0\n", "rank_delay='0' is not a time"),
        (b"action=monitor\nrank_delay=-1\n", "rank_delay='-1' is not a time"),
        (b"action=off\nplug=nodeb\ndelay=1e9\n", "delay='1e9' is not a time from 0 to 600"),
        (b"action=off\nplug=nodeb\nhold_while_synced=maybe\n", "hold_while_synced='maybe' is neither 1 nor 0"),
        (b"action=off\nplug=nodeb\ndevices=r0 ../x\n", "devices: '../x' is not a resource's name"),
        (b"action=off\nplug=nodez\n", "plug=nodez is not a node of this cluster (it has: nodea nodeb quorum)"),
        (b"action=status\nplug=nodez\n", "plug=nodez is not a node of this cluster"),
    ],
)
def test_bad_input_is_one_line_and_code_1(tmp_path: Path, stdin: bytes, says: str) -> None:
    (tmp_path / "corosync.conf").write_text(COROSYNC)
    left_on_disk(tmp_path, Standing.SOLO)
    done = agent(tmp_path, stdin=stdin)
    assert done.rc == 1 and says in done.err, done
    lines = [line for line in done.err.splitlines() if "deciding by what is on the disk" not in line]
    assert len(lines) == 1 and lines[0].startswith("fence_heartgate: "), done


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--shoot"], "'--shoot' is not an option of fence_heartgate"),
        (["nodeb"], "'nodeb' is not an option"),
        (["-x"], "'-x' is not an option"),
        (["-o"], "option '-o' lacks its value"),
        (["--quiet=1"], "option '--quiet=1' takes no value"),
        (["-o", "off", "--plug=nodea", "-n", "nodeb"], "plug is given twice"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: List[str], says: str) -> None:
    done = agent(tmp_path, *arguments)
    assert done.rc == 1 and says in done.err and len(done.err.splitlines()) == 1, done


def test_both_ways_say_the_same() -> None:
    line = options.from_arguments(["-o", "off", "--plug=nodeb", "--rank-delay", "5s", "--devices=r0,r1", "-q", "--"])
    read = options.from_stdin(b"# Pacemaker\n\naction=off\nport = nodeb\nnodename=nodeb\nrank_delay=5\ndevices=r0 r1\nquiet=1\n")
    for one in (line, read):
        assert (one.action, one.target, one.devices, one.flag("quiet")) == ("off", "nodeb", ("r0", "r1"), True)
        assert one.seconds("rank_delay", 1) == 5.0 and not one.notes
    assert options.from_stdin(b"plug=7\nnodename=nodeb\n").target == "nodeb", "a plug of pcmk_host_map is no node"
    assert options.from_stdin(b"option=enable\n").is_on
    assert options.from_stdin(b"rank_delay=1500ms").seconds("rank_delay", 1) == 1.5


def test_what_nobody_declared_is_noted_and_ignored(tmp_path: Path) -> None:
    done = agent(tmp_path, stdin=b"action=validate-all\nipaddr=10.0.0.1\npower_timeout=5\n")
    assert done.rc == 0 and "option 'ipaddr' is not known and is ignored" in done.err and "power_timeout" not in done.err


@given(st.binary(max_size=200))
def test_any_bytes_are_options_or_one_message(data: bytes) -> None:
    try:
        found = options.from_stdin(data)
        assert isinstance(found.action, str) and isinstance(found.target, str)
    except options.Bad as error:
        assert "\n" not in str(error)


@given(st.lists(st.text(max_size=12), max_size=6))
def test_any_arguments_are_options_or_one_message(arguments: List[str]) -> None:
    try:
        options.from_arguments(arguments)
    except options.Bad as error:
        assert "\n" not in str(error)


@given(st.text(max_size=12))
def test_any_text_is_a_time_or_a_message(value: str) -> None:
    with contextlib.suppress(options.Bad):
        assert 0 <= options.Options({"delay": value}, []).seconds("delay", 0.0) <= 600


def test_every_option_that_is_used_is_declared() -> None:
    used = set()
    for path in (ROOT / "lib" / "heartgate" / "fencing").glob("*.py"):
        used |= set(re.findall(r'\.(?:text|flag|seconds|_given\.get)\("(\w+)"', path.read_text(encoding="utf-8")))
    assert {"action", "rank_delay", "delay", "devices"} <= used
    assert used <= {name for name, *_ in table.PARAMETERS} | set(table.SILENT), used


def test_the_golden_metadata(tmp_path: Path) -> None:
    for action in ("metadata", "manpage", "meta-data"):
        done = agent(tmp_path, "-o", action)
        assert done.rc == 0 and not done.err
        assert done.out == GOLDEN.read_text(encoding="ascii"), "fence_heartgate -o metadata > tests/unit/data/fence_heartgate.xml"
    root = ElementTree.fromstring(GOLDEN.read_text(encoding="ascii"))
    assert {one.get("name") for one in root.iter("action")} == set(table.ACTIONS)


@pytest.mark.skipif(not (RELAXNG / "metadata.rng").exists(), reason="needs fence-agents")
def test_the_metadata_passes_fence_agents_own_checks(tmp_path: Path) -> None:
    for argv in (
        ["xmllint", "--noout", "--relaxng", str(RELAXNG / "metadata.rng"), str(GOLDEN)],
        ["xsltproc", "--output", str(tmp_path / "rng"), str(RELAXNG / "fence2rng.xsl"), str(GOLDEN)],
        ["xsltproc", "--output", str(tmp_path / "man"), str(RELAXNG / "fence2man.xsl"), str(GOLDEN)],
    ):
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    group = (tmp_path / "rng").read_text()
    whole = '<grammar xmlns="http://relaxng.org/ns/structure/1.0" xmlns:rha="x"><start><element name="device">'
    (tmp_path / "whole").write_text(f"{whole}{group}</element></start></grammar>")
    device = tmp_path / "device"
    device.write_text('<device plug="nodeb" rank_delay="10" hold_while_synced="1"/>')
    argv = ["xmllint", "--noout", "--relaxng", str(tmp_path / "whole"), str(device)]
    assert subprocess.run(argv, capture_output=True, check=False).returncode == 0
    assert "rank_delay" in (tmp_path / "man").read_text()


def test_the_page_is_in_step() -> None:
    page = (ROOT / "docs" / "fence_heartgate.md").read_text(encoding="utf-8")
    assert page == renewed(page), "run: PYTHONPATH=lib python3 -m heartgate.fencing.doc docs/fence_heartgate.md"


def test_the_common_actions_load_next_to_nothing() -> None:
    code = "import sys; sys.path.append(sys.argv[1]); import heartgate.fencing.agent; print(*sys.modules)"
    argv = ["/usr/bin/python3", "-IS", "-c", code, str(ROOT / "lib")]
    loaded = set(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split())
    assert not loaded & {"json", "re", "socket", "argparse", "subprocess", "logging", "typing", "enum", "pexpect", "site"}
