"""`heartgate status` as it is seen: the screen, colours, --watch, --json and its schema, and a node where little is there."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import jsonschema
import pytest

from heartgate.adapters import process
from heartgate.checks import status_decode
from heartgate.checks.status_model import Health, Interface, Missing, Served, StatusFacts, SyncLink
from heartgate.checks.status_reasons import REASONS, table
from heartgate.checks.status_report import report
from heartgate.cli import show, status_data, status_sources, watch
from heartgate.cli.main import main
from heartgate.core.model import Record, Standing
from heartgate.daemon.store import Store
from tests.unit.status_facts import (
    BLOCKED_PEER,
    DOWN,
    HEALTHY,
    SOLO,
    UNKNOWN,
    heartbeat,
    said,
    three,
    with_daemon,
    with_device,
)
from tests.unit.test_daemon_fakes import ALONE, TOGETHER, Bench
from tests.unit.test_status_report import WRONG

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).with_name("data") / "status"
SCHEMA: Dict[str, Any] = json.loads((ROOT / "packaging" / "status.schema.json").read_text())
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)
COLOUR = re.compile(r"\033\[[0-9;]*m")


def pages() -> Dict[str, StatusFacts]:
    solo = with_device(live={**BLOCKED_PEER, "interfaces": {"sync0": False}}, **SOLO)
    cut = (heartbeat("0", DOWN, DOWN, UNKNOWN), heartbeat("1"))
    lost = {
        "role": "secondary",
        "peers": {},
        "links": {"nodeb": SyncLink("down", "unknown")},
        "lacks": {},
        "waits": "waits to hear nodeb over a heartbeat, since it may have newer data",
        "ends_wait": "heartgate mark-synchronized r0",
    }
    stranded = with_device(live=lost,
                           standing="unproven", shown="unproven")  # fmt: skip
    stopped = replace(WRONG["daemon-down"], pacemaker=Missing("Pacemaker does not run here (Connection refused)", down=True),
                      heartbeats=Missing("Corosync does not run here, or does not answer (library error)"),
                      configured=(heartbeat("0", UNKNOWN, UNKNOWN, UNKNOWN),))  # fmt: skip
    return {
        "protected": HEALTHY,
        "degraded": replace(HEALTHY, heartbeats=cut),
        "solo": replace(solo, pacemaker=said("sync"), heartbeats=cut),
        "stranded": with_daemon(stranded, reachable=("nodea",), online=("nodea",)),
        "stopped": stopped,
        "three": three(nodeb={"standing": "blocked", "disk": "outdated"}),
    }


# --- the screen


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("name", sorted(pages()))
def test_the_screen_is_as_it_was_agreed(name: str, utc: None) -> None:
    """Write them anew with REWRITE=1, and read the difference."""
    made, golden = show.page(report(pages()[name])) + "\n", GOLDEN / f"{name}.txt"
    if os.environ.get("REWRITE"):
        golden.write_text(made)
    assert made == golden.read_text()


@pytest.mark.parametrize("name", [*pages(), *(each.ident for each in REASONS)])
def test_a_screen_has_80_columns_and_the_order_of_the_questions(name: str) -> None:
    facts = pages().get(name) or WRONG[name]
    made = report(facts)
    lines = show.page(made).split("\n")
    longest = max(lines, key=len)
    assert len(longest) <= 80 or len(longest.split()) <= 2, longest  # a word that is longer
    text = "\n".join(lines)
    health = text.index(made.health.value.upper() + ":")
    for each in made.serving:
        assert text.index(each.words[:20]) < health
    for reason in made.reasons:
        assert health < text.index(f"[{reason.ident}]")
    assert text.count(" -> ") >= len(made.reasons) and ("Nothing to do." in text) == (not made.reasons)


def test_long_addresses_have_a_line_of_their_own() -> None:
    long = replace(heartbeat("0"), local="2001:db8:1234:5678::ffff:1 (enp129s0f0np0)", remote="2001:db8:1234:5678::ffff:2")
    lines = show.page(report(replace(HEALTHY, heartbeats=(long, heartbeat("1"))))).split("\n")
    assert lines[-4:] == ["nodeb         link 0  up     up       up", f"  {long.local} -> {long.remote}",
                          "nodeb         link 1  up     up       up", "  10.77.11.1 (hb1) -> 10.77.11.2"]  # fmt: skip
    assert max(map(len, lines)) <= 80


def test_colours_change_no_letter() -> None:
    for facts in pages().values():
        plain, coloured = (show.page(report(facts), colour=colour) for colour in (False, True))
        assert COLOUR.sub("", coloured) == plain and "\033" not in plain
        assert coloured.count("\033[0m") * 2 == coloured.count("\033[")


def test_foreign_text_moves_no_cursor() -> None:
    evil = Interface("beat\033[2J", "hb0", "lost", "hb0\033]0;x\a has\nno carrier")
    text = show.page(report(with_daemon(interfaces=(evil,))))
    assert "\033" not in text and "\a" not in text and "has?no carrier" in text.replace("\n    ", " ")


# --- programs


class Ran:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def data(self) -> Dict[str, Any]:
        found: Dict[str, Any] = json.loads(self.out)
        VALIDATOR.validate(found)
        return found


def command(*arguments: str, where: Path, device: Optional[str] = None) -> List[str]:
    start = "import sys; from heartgate.cli.main import main; sys.exit(main(sys.argv[1:]))"
    names = [device] if device else []
    apart = ["--socket", str(where / "control.sock"), "--state-dir", str(where / "state")]
    return ["/usr/bin/python3", "-c", start, "status", *names, *arguments, *apart]


def environment() -> Dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")}
    return {**kept, "PYTHONPATH": str(ROOT / "lib"), "TERM": "xterm"}


def run(bench: Optional[Bench], where: Path, *arguments: str, device: Optional[str] = None) -> Ran:
    """As a process, while the daemon is turned."""
    process = subprocess.Popen(command(*arguments, where=where, device=device), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, env=environment())  # fmt: skip
    printed: List[Tuple[str, str]] = []
    thread = threading.Thread(target=lambda: printed.append(process.communicate(timeout=120)))
    thread.start()
    while thread.is_alive():
        if bench is not None:
            bench.daemon.loop.turn(0.01)
        else:
            thread.join(0.1)
    return Ran(process.returncode, *printed[0])


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    it = Bench(tmp_path)
    it.world.initial = {"r0": TOGETHER}
    it.daemon.start()
    yield it
    it.close()


# --- what it asks, and what it tells


def test_what_a_daemon_says_is_passed_on_and_judged(bench: Bench, tmp_path: Path) -> None:
    bench.guard()
    quick = run(bench, tmp_path, "--json", "--quick").data()
    assert (quick["health"], quick["daemon"], quick["node"]) == ("at-risk", "running", "nodea"), "nodeb is not heard"
    assert {each["source"] for each in quick["unknown"]} == {"Pacemaker", "Corosync", "configuration"}
    (device,) = quick["devices"]
    guarded = SCHEMA["definitions"]["guarded"]["allOf"][1]["properties"]
    assert set(quick) <= set(SCHEMA["properties"])
    assert set(device) <= {*SCHEMA["definitions"]["device"]["properties"], *guarded}
    assert device["standing"] in ("synced", "unproven") and "lacks_bytes" not in device
    assert [row["node"] for row in device["replicas"]] == ["nodea", "nodeb"]
    whole = run(bench, tmp_path, "--json").data()
    assert whole["devices"][0]["lacks_bytes"] == {"nodeb": None} and whole["health"] == "at-risk"


def driver_of(bench: Bench) -> Any:
    return bench.daemon.guards["r0"].operations.driver


def test_bytes_out_of_sync_come_from_the_driver(bench: Bench, tmp_path: Path) -> None:
    bench.world.initial = {"r0": ALONE}
    bench.guard()
    driver_of(bench).answers["out_of_sync"] = {"nodeb": 3_400_000}
    data = run(bench, tmp_path, "--json").data()
    assert data["devices"][0]["replicas"][1]["out_of_sync_bytes"] == 3_400_000
    assert "3.2 MiB" in run(bench, tmp_path).out


def test_a_driver_that_hangs_holds_nobody_up(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.guard()
    let_go = threading.Event()
    came: List[bool] = []

    def hangs(deadline_s: float) -> Dict[str, int]:
        came.append(let_go.wait(120))
        return {}

    def device() -> Dict[str, Any]:
        found: Dict[str, Any] = json.loads(bench.ask(b'{"op":"status","look":"1"}\n'))["devices"][0]
        return found

    monkeypatch.setattr(driver_of(bench), "out_of_sync", hangs)
    try:
        for why in ("does not answer", "has not been answered"):
            assert why in device()["lacks_unknown"] and not came, "answered while the driver hangs"
        bench.until("the worker to give it up", lambda: bench.daemon.workers.hung)  # the thread hangs on
        assert "has not been answered" in device()["lacks_unknown"] and not came
    finally:
        let_go.set()
    bench.until("its end", lambda: not bench.daemon.workers.hung)
    assert "lacks_unknown" not in device() and came[0]


def test_exit_codes_are_as_they_were(bench: Bench, tmp_path: Path) -> None:
    bench.guard()
    standing = json.loads(bench.ask(b'{"op":"status"}\n'))["devices"][0]["shown"]
    assert run(bench, tmp_path, "--quick").code == (0 if standing in ("synced", "solo") else 3)
    missing = run(bench, tmp_path, "--quick", device="r9")
    assert missing.code == 5 and "r9: no such device is guarded on this node" in missing.out
    assert run(bench, tmp_path, "--quick", "--watch", "0").code == 2


def test_no_daemon_shows_what_it_wrote(tmp_path: Path) -> None:
    Store(tmp_path / "state").save_record("r0", Record(Standing.BLOCKED, 7, ("nodea", "nodeb"), "boot", promised_to="nodeb"))
    ran = run(None, tmp_path)
    assert ran.code == 4 and "r0 here: blocked, epoch 7, as last written" in ran.out and "block promised to nodeb" in ran.out
    assert "[daemon-down]" in ran.out and "AT-RISK" in ran.out and "not known: heartgated does not run here" in ran.out
    data = run(None, tmp_path, "--json").data()
    assert (data["daemon"], data["exit_code"]) == ("not running", 4) and data["devices"][0]["standing"] == "blocked"


def test_a_record_that_cannot_be_read_is_said_and_shown(tmp_path: Path) -> None:
    Store(tmp_path / "state").save_record("r0", Record(Standing.SYNCED, 7, ("nodea",), "boot"))
    (tmp_path / "state" / "r0.state").write_text("{")
    ran = run(None, tmp_path)
    assert ran.code == 4 and "[record-unreadable]" in ran.out and "its record cannot be used" in ran.out
    run(None, tmp_path, "--json").data()


def test_a_node_with_nothing_gives_a_clear_answer(tmp_path: Path) -> None:
    ran = run(None, tmp_path)
    assert ran.code == 4 and "no guarded device is known on this node" in ran.out and "UNKNOWN: whether" in ran.out
    assert "Traceback" not in ran.out + ran.err
    data = run(None, tmp_path, "--json").data()
    assert data["health"] == "unknown" and data["devices"] == [] and data["reasons"][0]["level"] == "unknown"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
@pytest.mark.req("D11")
def test_who_is_not_root_is_told_so(bench: Bench, tmp_path: Path) -> None:
    bench.guard()
    for place in (tmp_path, *list(tmp_path.parents)[:3]):
        if place != Path("/tmp"):
            place.chmod(0o755)
    process = subprocess.run(["setpriv", "--reuid", "nobody", "--clear-groups", *command("--json", where=tmp_path)],
                             capture_output=True, text=True, env=environment(), timeout=120)  # fmt: skip
    data = Ran(process.returncode, process.stdout, process.stderr).data()
    assert process.returncode == 1 and data["ok"] is False and "control.sock: Permission denied (only root" in data["error"]
    assert data["health"] == "unknown" and data["devices"] == []
    assert any("sudo heartgate status" in each["remedy"] for each in data["reasons"])


RUNS = b'{"ok":true,"daemon":"running","node":"a"'
ANSWERS = [
    b"",
    b"\n",
    b"{}\n",
    b"[1]\n",
    b"\xff\xfe\n",
    b"[" * 9000 + b"\n",
    b'{"ok":true}\n',
    b'{"ok":false,"error":"out of order"}\n',
    RUNS + b',"devices":[{"device":5}]}\n',
    RUNS + b',"devices":[{"device":"r0","standing":"synced","role":7}]}\n',
    RUNS + b',"beats_ms_ago":{"a":"soon"}}\n',
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_that_makes_no_sense_is_no_traceback(answer: bytes, tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "control.sock"))
    listener.listen(4)

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            client.recv(65536)
            client.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    ran = run(None, tmp_path, "--json", "--quick")
    thread.join(60)
    listener.close()
    assert "Traceback" not in ran.err and ran.data()["health"] == "unknown" and ran.code in (0, 1, 4)


XML = '<pacemaker-result><status code="{}" message="x"><errors><error>{}</error></errors></status></pacemaker-result>'
MON = [  # (exit code, output) of crm_mon -> what is said, known to be down, not allowed
    (124, "", "did not answer within", False, False),
    (127, "", "not installed", True, False),
    (102, XML.format(102, "Connection refused"), "does not run here (Connection refused)", True, False),
    (4, XML.format(4, "Permission denied"), "only root and the group haclient", False, True),
    (1, "", "crm_mon: rc 1", False, False),
    (0, "Segmentation fault", "expected XML", False, False),
    (0, "<pacemaker-result><status code='0'/></pacemaker-result>", "expected <summary>", False, False),
]


@pytest.mark.parametrize("rc, output, why, down, refused", MON)
def test_what_pacemaker_does_not_say(
    rc: int, output: str, why: str, down: bool, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "run", lambda argv, timeout_s: process.Completed(rc, output, ""))
    found = status_sources.pacemaker()
    assert isinstance(found, Missing) and why in found.why and (found.down, found.refused) == (down, refused)


def test_decoding_refuses_what_is_no_status() -> None:
    proof = {"proofs": [{"epoch": "1"}]}
    for nonsense in ({"devices": 1}, {"devices": [1]}, {"devices": [{"standing": 1}]}, {"devices": [proof]}):
        with pytest.raises(status_decode.DecodeError):
            status_decode.devices(nonsense)
    assert status_decode.devices({}) == ()


# --- JSON


@pytest.mark.parametrize("ident", [each.ident for each in REASONS])
def test_every_reason_fits_the_schema(ident: str) -> None:
    raw = {"ok": True, "daemon": "not running", "devices": [{"device": "r0", "standing": "solo", "shown": "solo"}]}
    data = status_data.as_data(report(WRONG[ident]), raw, 3)
    VALIDATOR.validate(json.loads(json.dumps(data)))
    assert [each["id"] for each in data["reasons"]].count(ident) >= 1


def test_what_is_printed_is_named_in_the_schema() -> None:
    """A name that is added may not break whoever checks by an older schema, so the schema itself does not refuse it."""
    raw = {"ok": True, "daemon": "not running", "devices": [{"device": "r0", "standing": "solo", "shown": "solo"}]}
    data = status_data.as_data(report(pages()["stopped"]), raw, 4)
    named = SCHEMA["properties"]
    assert set(data) <= set(named)
    for part in ("reasons", "serving", "heartbeats", "unknown"):
        for each in data[part]:
            assert set(each) == set(named[part]["items"]["properties"]) == set(named[part]["items"]["required"])
    (device,) = data["devices"]
    assert set(device) <= set(SCHEMA["definitions"]["device"]["properties"])
    assert set(device["replicas"][0]) == set(SCHEMA["definitions"]["replica"]["properties"])


def test_the_schema_is_one_and_refuses() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    good = status_data.as_data(report(HEALTHY), {"ok": True, "daemon": "not running", "devices": []}, 0)
    VALIDATOR.validate(good)
    for spoilt in ({"health": "fine"}, {"health": None}, {"format_version": 2}, {"reasons": [{}]}, {"daemon": "running"},
                   {"heartbeats": [{"state": "DOWN"}]}):  # fmt: skip
        with pytest.raises(jsonschema.ValidationError):
            VALIDATOR.validate({**good, **spoilt})


def test_the_document_names_every_reason_and_word() -> None:
    text = (ROOT / "docs" / "status.md").read_text()
    assert table() in text
    for word in (*Health, *Served):
        assert f"| `{word.value}` |" in text


# --- a terminal, and again and again


terminals: List[Terminal] = []


@pytest.fixture(autouse=True)
def _nothing_is_left_running() -> Iterator[None]:
    yield
    while terminals:
        process = terminals.pop().process
        if process.poll() is None:
            process.kill()
            process.wait()


class Terminal:
    """The command on a pty of a given size."""

    def __init__(self, argv: List[str], rows: int = 60, columns: int = 100, **more: str) -> None:
        import fcntl
        import struct
        import termios

        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        with_more = {**environment(), **more}
        self.process = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, env=with_more, start_new_session=True)
        os.close(slave)
        self.printed = b""
        terminals.append(self)
        self.reader = threading.Thread(target=self._drain)
        self.reader.start()

    def _drain(self) -> None:
        while True:
            try:
                data = os.read(self.master, 65536)
            except OSError:  # the other side is closed
                return
            if not data:
                return
            self.printed += data

    def until(self, wanted: bytes, count: int = 1) -> None:
        deadline = time.monotonic() + 60
        while self.printed.count(wanted) < count:
            assert time.monotonic() < deadline and self.process.poll() is None, self.printed
            time.sleep(0.02)

    def end(self) -> Tuple[int, str]:
        code = self.process.wait(60)
        self.reader.join(60)
        os.close(self.master)
        return code, self.printed.decode()


def test_colour_is_for_terminals_alone(tmp_path: Path) -> None:
    argv = command("--quick", where=tmp_path)
    assert "\033[" in Terminal(argv).end()[1]
    assert "\033[" not in Terminal(argv, NO_COLOR="1").end()[1]
    assert "\033[" not in Terminal(argv, TERM="dumb").end()[1]
    assert "\033[" not in run(None, tmp_path, "--quick").out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_watch_draws_over_itself_and_ends_cleanly(tmp_path: Path, number: int) -> None:
    terminal = Terminal(command("--quick", "--watch", "0.2", where=tmp_path))
    terminal.until(b"\033[H", 3)
    terminal.process.send_signal(number)
    code, printed = terminal.end()
    assert code == 0 and "Traceback" not in printed and "interrupted" not in printed
    assert printed.count("\033[2J") == 1, "cleared once: after that it is drawn over"
    assert printed.count("\033[?25l") == 1 and printed.rstrip().endswith("\033[?25h"), "the cursor is hidden, and comes back"
    first, second = printed.split("\033[H")[1:3]
    assert COLOUR.sub("", first.split("\n", 1)[1]) == COLOUR.sub("", second.split("\n", 1)[1]), "the same but for the time"
    assert all(line.endswith("\033[K\r") for line in second.split("\n")[:-1]), "each line ends what was there before"


def test_watch_fits_a_small_window(tmp_path: Path) -> None:
    terminal = Terminal(command("--quick", "--watch", "0.2", where=tmp_path), rows=8)
    terminal.until(b"\033[H", 2)
    terminal.process.send_signal(signal.SIGINT)
    _, printed = terminal.end()
    assert printed.split("\033[H")[1].count("\n") <= 7 and "more lines" in printed


@pytest.mark.parametrize("rows, lengths, shown", [(10, [5] * 9, 9), (10, [5] * 10, 8), (10, [30, 5, 5], 3), (4, [30, 30, 30], 1)])
def test_what_fits_counts_rows_and_not_colours(rows: int, lengths: List[int], shown: int) -> None:
    text = "\n".join("\033[31;1m" + "x" * length + "\033[0m" for length in lengths)
    found = watch.fitted(text, rows, 20)
    whole = shown == len(lengths)
    assert len(found) == shown + (not whole) and ("more lines" in found[-1]) is not whole


def test_watch_in_a_pipe_and_as_json(tmp_path: Path) -> None:
    for arguments in (("--watch", "0.1"), ("--watch", "0.1", "--json")):
        process = subprocess.Popen(command("--quick", *arguments, where=tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True, env=environment())  # fmt: skip
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)] if "--json" in arguments else [process.stdout.readline()]
        process.send_signal(signal.SIGINT)
        try:
            rest, errors = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == 0 and errors == "" and "\033" not in "".join(lines) + rest
        if "--json" in arguments:
            for line in lines:
                VALIDATOR.validate(json.loads(line))


@pytest.mark.parametrize("arguments", [("--quick",), ("--quick", "--watch", "0.1", "--json")])
def test_a_reader_that_goes_away_is_no_error(tmp_path: Path, arguments: Tuple[str, ...]) -> None:
    process = subprocess.Popen(command(*arguments, where=tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=environment())  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait(60) in (0, 4) and process.stderr.read() == ""
    process.stderr.close()


def test_help_names_the_exit_codes_and_the_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["status", "--help"])
    text = capsys.readouterr().out
    for word in ("protected", "degraded", "at-risk", "unknown", "docs/status.md", "  5  no such device"):
        assert word in text
    assert sys.version_info >= (3, 9)
