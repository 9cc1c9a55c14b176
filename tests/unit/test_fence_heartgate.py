"""fence_heartgate: options, metadata, and the agent as a process beside a real daemon core or what one has left on the disk."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartgate.adapters import disk_beats
from heartgate.adapters.base import Delivery, View
from heartgate.core import codec
from heartgate.core.fencing import Answer, Turn
from heartgate.core.model import Disk, Message, Record, Role, Standing
from heartgate.daemon import words
from heartgate.daemon.store import Saved, Store
from heartgate.fencing import options, shooting, table
from heartgate.fencing.doc import renewed
from tests.unit.test_daemon_fakes import PARAMS, Bench

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "unit" / "data" / "fence_heartgate.xml"
RELAXNG = Path("/usr/share/cluster/relaxng")
FRESH_MS = 60_000  # of a disk heartbeat: it stays fresh until a slow machine has started the agent
BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
AGENT = """
import sys
sys.path.append({lib!r})
from pathlib import Path
from heartgate.adapters import journal
journal.JOURNAL_SOCKET = {directory!r} + "/journal"
journal.Journal.__init__.__defaults__ = ("x", journal.JOURNAL_SOCKET, "/nonexistent")
from heartgate.adapters import disk_beats
from heartgate.fencing import facts, levels
disk_beats.FRESH_MS = {fresh_ms}
facts.ASK_S, levels.CIB_S = {ask_s}, {cib_s}
d = Path({directory!r})
facts.Places.__new__.__defaults__ = (str(d / "control.sock"), d / "state", d / "corosync.conf", d / "beats", facts.BOOT_ID,
                                       ("/bin/sh", str(d / "cibadmin"), "--local"))
from heartgate.fencing.agent import main
sys.exit(main(sys.argv[1:], b"" if sys.argv[1:] else sys.stdin.buffer.read()))
"""
COROSYNC = """
totem {
    version: 2
}
nodelist {
    node {
        name: nodea
        nodeid: 1
    }
    node {
        name: nodeb
    }
    node {
        name: quorum
    }
}
"""


class Done:
    def __init__(self, process: subprocess.CompletedProcess[bytes], elapsed_s: float) -> None:
        self.rc, self.elapsed_s = process.returncode, elapsed_s
        self.out, self.err = process.stdout.decode(), process.stderr.decode()

    def __repr__(self) -> str:
        return f"rc {self.rc} after {self.elapsed_s:.2f} s\n{self.out}\n{self.err}"


def agent(directory: Path, *arguments: str, stdin: bytes = b"", ask_s: float = 60, cib_s: float = 60) -> Done:
    """ask_s, cib_s: how long an answer of the daemon and of Pacemaker is waited for."""
    patience = {"ask_s": ask_s, "cib_s": cib_s, "fresh_ms": FRESH_MS}
    code = AGENT.format(lib=str(ROOT / "lib"), directory=str(directory), **patience)
    argv = ["/usr/bin/python3", "-IS", "-c", code, *arguments]
    began = time.monotonic()
    return Done(subprocess.run(argv, input=stdin, capture_output=True, timeout=200, check=False), time.monotonic() - began)


def left_on_disk(
    directory: Path, standing: Standing, device: str = "r0", boot: str = BOOT, me: str = "nodea", **params: str
) -> Store:
    store = Store(directory / "state")
    store.save_config(Saved(device, me, {**PARAMS, "device": device, **params}, True))
    in_sync = (me,) if standing is Standing.SOLO else ("nodea", "nodeb")
    store.save_record(device, Record(standing, 3, in_sync, boot))
    return store


# --- options, metadata ------------------------------------------------------------------------------------------------------


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


# --- without a daemon ---------------------------------------------------------------------------------------------------------


def recorded_too(directory: Path, *arguments: str, stdin: bytes = b"") -> Tuple[Done, Dict[str, str]]:
    """And the fields of what it has sent to the journal: among them its turn, which the time tells only roughly."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(directory / "journal"))
        listener.settimeout(60)
        done = agent(directory, *arguments, stdin=stdin)
        return done, dict(line.partition("=")[::2] for line in listener.recv(65536).decode().splitlines())


@pytest.mark.req("E7", "E1")
def test_a_blocked_node_refuses_and_records_why(tmp_path: Path) -> None:
    left_on_disk(tmp_path, Standing.BLOCKED)
    done, entry = recorded_too(tmp_path, "-o", "off", "-n", "nodeb")
    assert done.rc == 1 and entry["HEARTGATE_TURN"] == "at_once"
    assert done.err == ("fence_heartgate: nodeb is not shot: r0 is blocked on this node, and the data of nodeb may be the "
                        "better one (rule data)\n")  # fmt: skip
    assert entry["HEARTGATE_RULE"] == "data" and entry["HEARTGATE_NODE"] == "nodeb" and entry["HEARTGATE_SOURCE"] == "disk"
    assert entry["SYSLOG_IDENTIFIER"] == "fence_heartgate" and entry["HEARTGATE_PASSED"] == "False"
    recorded = json.loads(entry["HEARTGATE_FACTS"])
    assert recorded["devices"][0]["standing"] == "blocked" and recorded["target"] == "nodeb"


@pytest.mark.req("E7")
@pytest.mark.parametrize(
    ("standing", "boot", "me", "rc", "rule", "waits"),
    [
        (Standing.SYNCED, BOOT, "nodea", 0, "first", 0),
        (Standing.SYNCED, BOOT, "nodeb", 0, "second", 1),
        (Standing.DECIDING, BOOT, "nodea", 0, "first", 0),
        (Standing.SYNCED, "another-boot", "nodea", 1, "data", 0),  # it may have been shot: unproven
        (Standing.BLOCKED, "another-boot", "nodea", 1, "data", 0),
        (Standing.SOLO, "another-boot", "nodeb", 0, "target-out", 0),
        (Standing.UNPROVEN, BOOT, "nodea", 1, "data", 0),
    ],
)
def test_the_daemon_is_dead(
    tmp_path: Path, standing: Standing, boot: str, me: str, rc: int, rule: str, waits: int
) -> None:
    left_on_disk(tmp_path, standing, boot=boot, me=me)
    target = "nodeb" if me == "nodea" else "nodea"
    rank_delay = 2 if waits else 60  # who waits for no turn is done long before the first one
    done, entry = recorded_too(tmp_path, stdin=f"action=reboot\nplug={target}\nrank_delay={rank_delay}\n".encode())
    assert done.rc == rc and f"(rule {rule})" in done.out + done.err, done
    assert entry["HEARTGATE_TURN"] == ("second" if waits else "at_once")
    assert done.elapsed_s >= 2 if waits else done.elapsed_s < 60, done


def test_roles_are_not_known_without_a_daemon(tmp_path: Path) -> None:
    left_on_disk(tmp_path, Standing.SYNCED, policy="active-first")
    done, entry = recorded_too(tmp_path, "-o", "off", "-n", "nodeb", "--rank-delay=2")
    assert done.rc == 0 and "(rule unsure)" in done.out and done.elapsed_s >= 4, done
    assert entry["HEARTGATE_TURN"] == "late"


@pytest.mark.parametrize("content", [None, b"garbage", b"", b"\xff" * 2_000_000], ids=["none", "garbage", "empty", "huge"])
def test_a_record_that_cannot_be_read_is_not_known_and_stays_where_it_is(tmp_path: Path, content: Optional[bytes]) -> None:
    store = left_on_disk(tmp_path, Standing.SYNCED)
    path = store.directory / "r0.state"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    (store.directory / "r0.config").write_bytes(b"{}")
    before = sorted(entry.name for entry in store.directory.iterdir())
    done = agent(tmp_path, "-o", "off", "-n", "nodeb", "--rank-delay=1")
    assert done.rc == 0 and "(rule not-known)" in done.out and "r0: " in done.err and "Traceback" not in done.err, done
    assert before == sorted(entry.name for entry in store.directory.iterdir())


def test_nothing_at_all_is_known(tmp_path: Path) -> None:
    done, entry = recorded_too(tmp_path, "-o", "off", "-n", "zzz", "--rank-delay=3")
    assert done.rc == 0 and "(rule nothing-known)" in done.out and done.elapsed_s >= 6, done
    assert entry["HEARTGATE_TURN"] == "late", "not the last one"


def test_delay_is_honoured_and_comes_first(tmp_path: Path) -> None:
    left_on_disk(tmp_path, Standing.SYNCED)
    assert agent(tmp_path, "--delay", "2", "-o", "off", "-n", "nodeb").elapsed_s >= 2
    left_on_disk(tmp_path, Standing.SYNCED, me="nodeb")
    assert agent(tmp_path, "--delay", "1", "-o", "off", "-n", "nodea", "--rank-delay=1").elapsed_s >= 2


def test_on_always_succeeds(tmp_path: Path) -> None:
    left_on_disk(tmp_path, Standing.BLOCKED)
    for stdin in (b"action=on\nplug=nodeb\n", b"action=on\n", b"action=on\nplug=no de\nrank_delay=x\nquiet=y\n"):
        assert agent(tmp_path, stdin=stdin).rc == 0


def test_status_and_monitor_only_note_a_dead_daemon(tmp_path: Path) -> None:
    left_on_disk(tmp_path, Standing.SYNCED)
    for stdin in (b"action=monitor\n", b"action=status\nplug=nodeb\n"):
        done = agent(tmp_path, stdin=stdin)
        assert done.rc == 0 and "r0 synced" in done.out and "heartgated does not answer" in done.err, done
    noted = agent(tmp_path, stdin=b"action=monitor\ndevices=r0 r7\n")
    assert noted.rc == 0 and "devices names r7, which is not guarded on this node" in noted.err


def test_list_names_all_nodes_of_the_cluster(tmp_path: Path) -> None:
    assert agent(tmp_path, "-o", "list").rc == 1
    left_on_disk(tmp_path, Standing.SYNCED)
    assert agent(tmp_path, "-o", "list").out == "nodea,\nnodeb,\n"
    (tmp_path / "corosync.conf").write_text(COROSYNC)
    assert agent(tmp_path, "-o", "list").out == "nodea,\nnodeb,\nquorum,\n"


@pytest.mark.parametrize(
    "text",
    [
        COROSYNC.replace("name: nodeb", ""),
        COROSYNC.replace("name: nodeb", "name: "),
        COROSYNC.replace("totem {", "totem { token: 1000"),
        COROSYNC.rstrip().rstrip("}"),
        "nodelist {\n}\n",
        "",
    ],
    ids=["left-out", "empty", "refused", "unclosed", "no-nodes", "nothing"],
)
def test_a_node_list_that_is_not_sure_excludes_nobody(tmp_path: Path, text: str) -> None:
    """A name left out, none given, two files that Corosync refuses too, no node at all."""
    (tmp_path / "corosync.conf").write_text(text)
    assert agent(tmp_path, "-o", "list").rc == 1
    left_on_disk(tmp_path, Standing.SOLO)
    assert agent(tmp_path, "-o", "list").out == "nodea,\nnodeb,\n"
    assert "not a node of this cluster" not in agent(tmp_path, "-o", "status", "-n", "nodez").err


def test_a_node_without_replicas_is_nobody_elses_business(tmp_path: Path) -> None:
    (tmp_path / "corosync.conf").write_text(COROSYNC)
    left_on_disk(tmp_path, Standing.BLOCKED)
    done = agent(tmp_path, "-o", "off", "-n", "quorum")
    assert done.rc == 0 and "(rule not-shared)" in done.out


def test_devices_restricts_what_is_decided_by(tmp_path: Path) -> None:
    left_on_disk(tmp_path, Standing.BLOCKED, "r0")
    left_on_disk(tmp_path, Standing.SYNCED, "r1")
    assert agent(tmp_path, "-o", "off", "-n", "nodeb").rc == 1
    assert agent(tmp_path, "-o", "off", "-n", "nodeb", "--devices=r1").rc == 0
    done = agent(tmp_path, "-o", "off", "-n", "nodeb", "--devices=r1,r9", "--rank-delay=1")
    assert done.rc == 0 and "(rule not-known)" in done.out and "r9" in done.out


@pytest.mark.parametrize(("delay", "warns"), [("10", False), ("20", True)])
def test_a_budget_beyond_pacemakers_default_is_spoken_of(tmp_path: Path, delay: str, warns: bool) -> None:
    done = agent(tmp_path, stdin=f"action=validate-all\nrank_delay={delay}\n".encode())
    assert done.rc == 0 and ("pcmk_off_timeout" in done.err) is warns, done


# --- fencing levels ---------------------------------------------------------------------------------------------------------------

def cib(levels: str) -> str:
    return (
        '<cib><configuration><crm_config/><nodes/><resources><primitive id="gate" class="stonith" type="fence_heartgate"/>'
        '<primitive id="other" class="stonith" type="fence_heartgate"/><primitive id="power" class="stonith" type="fence_ipmilan"/>'
        f"</resources><fencing-topology>{levels}</fencing-topology></configuration></cib>"
    )


def level(devices: str, index: int = 1, target: str = 'target="nodeb"') -> str:
    return f'<fencing-level {target} index="{index}" devices="{devices}"/>'


def answers(directory: Path, text: str, before: str = "") -> None:
    """What cibadmin prints there."""
    (directory / "cib.xml").write_text(text)
    (directory / "cibadmin").write_text(f"{before}\ncat {directory}/cib.xml\n")


@pytest.mark.req("E7", "D6", "E1")
@pytest.mark.parametrize(
    ("levels", "why"),
    [
        (level("gate,power", target='target="nodea"') + level("gate,power"), ""),
        (level("gate,power,other"), ""),
        (level("power,gate"), ""),  # in the wrong order, and the power has been cut
        (level("gate,power", target='target-pattern="node."'), ""),
        (level("gate,power", target='target-pattern="node[[:alpha:]]"'), ""),
        (level("gate,power", target='target-attribute="rack" target-value="1"'), ""),
        (level("gate,power", target='target="NODEB"'), ""),
        (level("gate,power") + level("power", 2), ""),
        (level("gate,power") + level("gate", target='target="nodea"'), ""),
        ("", "no fencing level of nodeb has fence_heartgate"),
        (level("power"), "no fencing level of nodeb has fence_heartgate"),
        (level("gate,power", target='target="nodea"'), "no fencing level of nodeb has fence_heartgate"),
        (level("gate"), "level 1 of nodeb has gate and nothing that cuts the power"),
        (level("gate,other"), "level 1 of nodeb has gate, other and nothing that cuts the power"),
        (level("gate,power") + level("gate", 2), "level 2 of nodeb has gate and nothing"),
        (level("gate,power") + level("gate", 2, 'target-attribute="rack" target-value="1"'), "level 2 of rack=1 has gate"),
    ],
)
def test_a_yes_that_would_count_as_a_fencing_is_not_given(tmp_path: Path, levels: str, why: str) -> None:
    left_on_disk(tmp_path, Standing.SYNCED)
    answers(tmp_path, cib(levels))
    for action in ("off", "reboot"):
        done = agent(tmp_path, stdin=f"action={action}\nplug=7\nnodename=nodeb\n".encode())
        if why:
            assert done.rc == 1 and "(rule alone)" in done.err and why in done.err, done
        else:
            assert done.rc == 0 and "(rule first)" in done.out and "levels" not in done.err, done


def test_nothing_but_a_shot_needs_levels(tmp_path: Path) -> None:
    left_on_disk(tmp_path, Standing.SYNCED)
    answers(tmp_path, cib(""), f"touch {tmp_path}/asked")
    for action in ("on", "status", "monitor", "list", "validate-all", "metadata"):
        assert agent(tmp_path, stdin=f"action={action}\nplug=nodeb\n".encode()).rc == 0
    assert not (tmp_path / "asked").exists()


def test_a_monitor_loads_nothing_that_starts_programs() -> None:
    code = f"""
import sys
sys.path.append({str(ROOT / "lib")!r})
from heartgate.fencing import shooting
print([name for name in ("subprocess", "heartgate.checks.cib_conf", "heartgate.fencing.levels") if name in sys.modules])
"""
    done = subprocess.run(["/usr/bin/python3", "-IS", "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "[]\n", done


@pytest.mark.parametrize(
    ("text", "before", "says"),
    [
        ("", "echo no cluster >&2; exit 102", "rc 102: no cluster"),
        ("<cib>", "", "CIB:1"),
        ("<status/>", "", "expected <cib>"),
        ("", "sleep 180", "no answer within 3 s"),
    ],
)
def test_levels_that_cannot_be_read_keep_nobody_from_being_shot(tmp_path: Path, text: str, before: str, says: str) -> None:
    left_on_disk(tmp_path, Standing.SYNCED)
    answers(tmp_path, text, before)
    done = agent(tmp_path, stdin=b"action=off\nplug=nodeb\n", cib_s=3 if "sleep" in before else 60)
    assert done.rc == 0 and "(rule first)" in done.out and "the fencing levels of nodeb are not known" in done.err, done
    assert says in done.err and "Traceback" not in done.err and done.elapsed_s < 120, done


def test_a_pacemaker_without_local_queries_is_asked_as_it_can_be(tmp_path: Path) -> None:
    left_on_disk(tmp_path, Standing.SYNCED)
    answers(tmp_path, cib(""), '[ "$1" = --local ] && exit 64')
    assert "(rule alone)" in agent(tmp_path, stdin=b"action=off\nplug=nodeb\n").err


# --- disk heartbeats --------------------------------------------------------------------------------------------------------------


@pytest.mark.req("E7")
@pytest.mark.parametrize(
    ("standing", "age_ms", "rc", "rule"),
    [
        (Standing.SOLO, 500, 1, "target-solo"),
        (Standing.SOLO, FRESH_MS + 1000, 0, "second"),  # not fresh: not known
        (Standing.SYNCED, 500, 0, "second"),
        (Standing.BLOCKED, 500, 0, "target-out"),
    ],
)
def test_a_fresh_disk_heartbeat_counts(tmp_path: Path, standing: Standing, age_ms: int, rc: int, rule: str) -> None:
    left_on_disk(tmp_path, Standing.SYNCED, me="nodeb")
    seen = disk_beats.monotonic_ms() - age_ms
    disk_beats.write({"nodea": disk_beats.DiskBeat(seen, {"r0": (standing, 3)})}, tmp_path / "beats")
    done = agent(tmp_path, "-o", "off", "-n", "nodea", "--rank-delay=1")
    assert done.rc == rc and f"(rule {rule})" in done.out + done.err, done


def test_unreadable_disk_heartbeats_are_not_known(tmp_path: Path) -> None:
    left_on_disk(tmp_path, Standing.SYNCED)
    for content in (b"garbage", codec.seal(disk_beats.KIND, disk_beats.VERSION, {"nodeb": {"seen_ms": "x"}})):
        (tmp_path / "beats").write_bytes(content)
        done = agent(tmp_path, "-o", "off", "-n", "nodeb")
        assert done.rc == 0 and "(rule first)" in done.out and "beats: " in done.err and "Traceback" not in done.err, done


# --- with a daemon ----------------------------------------------------------------------------------------------------------------


class Served:
    """A bench turned by a thread."""

    def __init__(self, directory: Path, **params: str) -> None:
        self.bench = Bench(directory)
        self._params = params
        self._end = False
        self._todo: List[Tuple[object, threading.Event]] = []
        self._thread = threading.Thread(target=self._turn)

    def _turn(self) -> None:
        self.bench.daemon.start()
        self.bench.guard(**self._params)
        while not self._end:
            self.bench.daemon.loop.turn(0.02)
        self.bench.close()

    def __enter__(self) -> Bench:
        self._thread.start()
        return self.bench

    def __exit__(self, *_: object) -> None:
        self._end = True
        self._thread.join()


def heard_from_b(standing: Standing, role: Role, epoch: int = 0) -> bytes:
    message = Message("r0", "nodeb", "run-b", standing, epoch, ("nodea", "nodeb"), Disk.UPTODATE, role, "G1", (), ())
    return codec.encode_payload("nodeb", "run-b", [codec.encode_message(message)])


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Bench]:
    with Served(tmp_path) as bench:
        yield bench


def test_the_daemon_is_asked_first(served: Bench, tmp_path: Path) -> None:
    """A new device is unproven; the daemon knows that before it is on any disk."""
    until(lambda: "r0" in served.daemon.guards)
    done = agent(tmp_path, stdin=b"action=off\nplug=nodeb\nverbose=1\n")
    assert done.rc == 1 and "r0 is unproven on this node" in done.err and "does not answer" not in done.err, done
    assert "heartgated says: r0 unproven" in agent(tmp_path, "-o", "monitor").out


def test_a_daemon_that_does_not_answer_counts_as_dead(tmp_path: Path) -> None:
    left_on_disk(tmp_path, Standing.SYNCED)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "control.sock"))
        silent.listen(8)
        done = agent(tmp_path, "-o", "off", "-n", "nodeb", "-v", ask_s=0.5)
        assert done.rc == 0 and "does not answer within 0.5 s" in done.err, done


@pytest.mark.parametrize(
    "reply", [b"[]", b"{}", b'{"ok":true}', b'{"ok":true,"node":"nodea","devices":[{}]}', b"\xff", b'{"ok":false}']
)
def test_a_daemon_that_talks_nonsense_counts_as_dead(tmp_path: Path, reply: bytes) -> None:
    left_on_disk(tmp_path, Standing.SYNCED)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "control.sock"))
        listener.listen(8)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.send(reply + b"\n")

        thread = threading.Thread(target=serve)
        thread.start()
        done = agent(tmp_path, "-o", "off", "-n", "nodeb")
        thread.join(60)
    assert done.rc == 0 and "(rule first)" in done.out and "its answer makes no sense" in done.err, done


def until(probe: object) -> None:
    deadline = time.monotonic() + 60
    while not probe():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_daemon_tells_what_is_known_of_the_target(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.daemon.start()
    bench.guard()

    def told() -> Dict[str, object]:
        answer = json.loads(bench.ask(b'{"op":"fencing","node":"nodeb"}\n'))
        assert answer["node"] == "nodea"
        device: Dict[str, object] = answer["devices"][0]
        return device

    try:
        assert told()["target"] is None and told()["believed_roles"] == ["unknown"]
        carrier = bench.world.carriers[-1]
        carrier.arrive(View(("nodea", "nodeb"), ("nodea", "nodeb"), True))
        carrier.arrive(Delivery("nodeb", heard_from_b(Standing.SYNCED, Role.SECONDARY, 7)))
        bench.until("the message", lambda: told()["target"])
        known = told()
        assert known["target"] == {"standing": "synced", "epoch": 7, "disk": "uptodate", "role": "secondary", "live": True}
        assert known["priorities"] == {"nodea": 1, "nodeb": 2} and known["policy"] == "priority"
        carrier.arrive(View(("nodea",), ("nodea",), True))
        bench.until("the loss", lambda: told()["target"]["live"] is False)  # type: ignore[index]
        assert told()["target"] == {**known["target"], "live": False}  # type: ignore[dict-item]
    finally:
        bench.close()


def test_roles_that_the_other_node_may_believe() -> None:
    now = [100.0]
    memory = words.Words(lambda: now[0])

    def tell(role: Role) -> None:
        memory.told(Message("r0", "nodea", "run", Standing.SYNCED, 1, (), Disk.UPTODATE, role, "", (), ()))

    def believed() -> set[Role]:
        return set(memory.believed_roles("r0", "nodeb"))

    tell(Role.SECONDARY)
    assert believed() == {Role.UNKNOWN}, "it has given no sign of life in this run"
    memory.alive("nodeb")
    assert believed() == {Role.UNKNOWN, Role.SECONDARY}, "the run before this one may have told it anything"
    now[0] += words.SETTLED_S + 0.1
    assert believed() == {Role.UNKNOWN, Role.SECONDARY}, "time alone settles nothing: it has to be alive afterwards"
    memory.alive("nodeb")
    assert believed() == {Role.SECONDARY}
    tell(Role.PRIMARY)
    assert believed() == {Role.SECONDARY, Role.PRIMARY}
    now[0] += 60
    assert believed() == {Role.SECONDARY, Role.PRIMARY}, "the links were lost in the moment of the change"
    tell(Role.SECONDARY)
    assert believed() == {Role.SECONDARY, Role.PRIMARY}
    memory.alive("nodeb")
    now[0] += words.SETTLED_S + 0.1
    memory.alive("nodeb")
    assert believed() == {Role.SECONDARY}


# --- turns ------------------------------------------------------------------------------------------------------------------------


class FakeLook:
    def __init__(self, answer: Answer) -> None:
        self.answer = answer


def turns(script: List[Tuple[float, Answer]]) -> Tuple[Answer, float, int]:
    """(answer, when, looks). script: from when on which answer would be given."""
    now, looks = [0.0], [0]

    def look() -> FakeLook:
        looks[0] += 1
        return FakeLook([answer for since, answer in script if since <= now[0]][-1])

    def sleep(seconds: float) -> None:
        assert seconds > 0
        now[0] += seconds

    found = shooting.in_turn(look, 10.0, lambda: now[0], sleep)  # type: ignore[arg-type]
    return found.answer, now[0], looks[0]


FIRST = Answer("first", True, Turn.AT_ONCE, "")
SECOND = Answer("second", True, Turn.SECOND, "")
UNSURE = Answer("unsure", True, Turn.LATE, "")
DATA = Answer("data", False, Turn.AT_ONCE, "")
HOLD = Answer("hold", False, Turn.SECOND, "")


@pytest.mark.parametrize(
    ("script", "answer", "at"),
    [
        ([(0, FIRST)], FIRST, 0),
        ([(0, DATA)], DATA, 0),
        ([(0, SECOND)], SECOND, 10),
        ([(0, SECOND), (5, DATA)], DATA, 10),  # blocked while it waited
        ([(0, SECOND), (9, UNSURE)], UNSURE, 20),
        ([(0, UNSURE), (3, FIRST)], FIRST, 20),  # an early answer could meet the other node's
        ([(0, HOLD)], HOLD, 10),
        ([(0, HOLD), (4.5, FIRST)], FIRST, 5),
        ([(0, HOLD), (4.5, SECOND)], SECOND, 15),  # the turns are counted from the end of the hold, on both nodes
    ],
)
def test_an_answer_waits_its_turn_and_looks_again(script: List[Tuple[float, Answer]], answer: Answer, at: float) -> None:
    found, when, _ = turns(script)
    assert (found, when) == (answer, at)
