"""fence_heartgate's answers, beside a real daemon core or by what one has left on the disk; and when they are given."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

import pytest

from heartgate.adapters import disk_beats
from heartgate.adapters.base import Delivery, View
from heartgate.core import codec
from heartgate.core.fencing import Answer, Turn
from heartgate.core.model import Disk, Message, Role, Standing
from heartgate.daemon import words
from heartgate.fencing import shooting
from tests.unit.fence_process import BOOT, COROSYNC, FRESH_MS, ROOT, Done, Served, agent, left_on_disk, until
from tests.unit.test_daemon_fakes import Bench

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
