"""`heartgate facts` and `heartgate check` as a person calls them: messages, exit codes, waivers. Real facts of this host; the
peer's come from a file or from a program in ssh's place."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Callable, List, Optional, Tuple

import pytest

from heartgate.adapters import interface_facts
from heartgate.checks import heartbeat_rules
from heartgate.checks.facts_codec import decode, encode
from heartgate.checks.heartbeat_doc import render
from heartgate.checks.model import Address, HostFacts, Interface
from heartgate.cli import main as command
from heartgate.cli.check import sources

ROOT = Path(__file__).resolve().parents[2]
LOCAL = "lo"
PYTHON = "/usr/bin/python3"
MAIN = "import sys; from heartgate.cli.main import main; sys.exit(main(sys.argv[1:]))"


def call(capsys: pytest.CaptureFixture[str], *words: str) -> Tuple[int, str, str]:
    try:
        code = command.main(list(words))
    except SystemExit as error:
        code = int(error.code or 0)
    told = capsys.readouterr()
    return code, told.out, told.err


def peer(**facts: object) -> HostFacts:
    made = Interface(
        "lo", 1, "loopback", flags=("up",), carrier=True, mtu=65536, addresses=(Address("127.0.0.2", 8, "host", False),)
    )
    return replace(HostFacts("the-peer", "1", (made,)), **facts)


def peer_file(tmp_path: Path, content: Optional[bytes] = None) -> str:
    place = tmp_path / "peer.json"
    place.write_bytes(encode(peer()).encode() if content is None else content)
    return str(place)


def program(tmp_path: Path, text: str) -> str:
    place = tmp_path / "ssh"
    place.write_text(f"#!/bin/sh\n{text}\n")
    place.chmod(0o755)
    return str(place)


def check(capsys: pytest.CaptureFixture[str], tmp_path: Path, *words: str) -> Tuple[int, str, str]:
    return call(capsys, "check", "--listen", "0", "--heartbeat", LOCAL, "--corosync-conf", str(tmp_path / "none"), *words)


def test_facts_are_what_check_reads(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = call(capsys, "facts", "--corosync-conf", str(tmp_path / "none"))
    assert (code, err) == (0, "")
    facts = decode(out.encode())
    assert facts.host == os.uname().nodename and facts.interface("lo") and facts.corosync is None
    place = tmp_path / "facts.json"
    assert call(capsys, "facts", "--output", str(place)) == (0, "", "")
    assert {item.name for item in decode(place.read_bytes()).interfaces} == {item.name for item in interface_facts.collect()}


def test_facts_of_what_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = call(capsys, "facts", "--interface", "nosuch0")
    assert code == 3 and decode(out.encode()) and err.count("\n") == 1 and "has no interface 'nosuch0'" in err
    code, out, err = call(capsys, "facts", "--output", str(tmp_path / "no/where"))
    assert (code, out) == (3, "") and "cannot be written: No such file" in err


def test_a_report_for_people_and_for_programs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = check(capsys, tmp_path, "--peer-facts", peer_file(tmp_path))
    assert (code, err) == (2, "")
    assert "and the-peer. Heartbeats: lo;" in out.splitlines()[0]
    assert "  ERROR   real-adapter (B1): lo of" in out and "          -> give the heartbeat an adapter of its own" in out
    assert out.index("ERROR") < out.index("NOTE") and out.rstrip().splitlines()[-1].startswith("Found: ")
    code, out, _ = check(capsys, tmp_path, "--peer-facts", peer_file(tmp_path), "--json")
    data = json.loads(out)
    assert code == data["exit_code"] == 2 and data["format"] == "heartgate-check"
    first = data["findings"][0]
    assert set(first) == {"rule", "requirement", "severity", "subject", "nodes", "evidence", "remedy", "waived"}


def test_waivers_show_up(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = peer_file(tmp_path)
    before = json.loads(check(capsys, tmp_path, "--peer-facts", file, "--json")[1])["findings"]
    rules = sorted({each["rule"] for each in before if each["severity"] != "note"})
    words: List[str] = [word for rule in rules for word in ("--waive", f"{rule}=only a test")]
    code, out, _ = check(capsys, tmp_path, "--peer-facts", file, *words, "--waive", "mtu@nosuch=for nothing")
    assert code == 0 and out.count("waived (") == len([each for each in before if each["rule"] in rules])
    assert "only a test" in out and "The waiver of mtu@nosuch was not needed (for nothing)" in out


@pytest.mark.parametrize(
    "words, said",
    [
        (("--waive", "nosuch=x"), 'there is no rule "nosuch"; the rules are addressing, '),
        (("--waive", "vlan"), "gives no reason: write vlan=WHY"),
        (("--heartbeat", "a:b:c"), '"a:b:c": write an interface'),
        (("--heartbeat", "a b"), '"a b": write an interface'),
        (("--peer", "-oProxyCommand=x"), "expected one argument"),
        (("--peer=-oProxyCommand=x",), "that is no host name"),
        (("--peer", "a;b"), "that is no host name"),
        (("--peer-facts", "/nosuch/file"), "/nosuch/file: No such file"),
        (("--peer", "x", "--peer-facts", "y"), "not allowed with argument"),
        (("--compare", "colour"), "invalid choice: 'colour'"),
        (("--listen", "-1"), "no number of seconds from 0"),
        (("--listen", "nan"), "no number of seconds from 0"),
    ],
)
def test_bad_arguments(capsys: pytest.CaptureFixture[str], tmp_path: Path, words: Tuple[str, ...], said: str) -> None:
    code, out, err = check(capsys, tmp_path, *words)
    assert (code, out) == (3, "") and said in err and "Traceback" not in err


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "empty: "),
        (b"{", "line 1 column 2: not JSON"),
        (encode(peer()).encode()[:300], "(cut short?)"),
        (encode(peer()).replace('"version": 3', '"version": 9').encode(), "made by a later heartgate: format version 9"),
        (encode(peer()).replace('"mtu": 65536', '"mtu": "x"').encode(), "facts.interfaces[0].mtu: not a number"),
    ],
)
def test_bad_facts(capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes, said: str) -> None:
    file = peer_file(tmp_path, content)
    code, out, err = check(capsys, tmp_path, "--peer-facts", file)
    assert (code, out) == (3, "") and said in err and file in err and err.count("\n") == 1
    ssh = program(tmp_path, f"cat {file}")
    code, out, err = check(capsys, tmp_path, "--peer", "nodeb", "--ssh", ssh)
    assert (code, out) == (3, "") and err.startswith("heartgate check: nodeb: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    "script, said",
    [
        (
            "echo 'connect to host nodeb port 22: No route to host' >&2; exit 255",
            "cannot be reached by ssh (connect to host nodeb port 22: No r",
        ),
        ("echo 'heartgate: command not found' >&2; exit 127", "there is no heartgate"),
        ("echo \"heartgate: error: invalid choice: 'facts'\" >&2; exit 2", "does not know `facts` as this one does"),
        ("exit 1", "failed there with code 1"),
        ('cat "$(dirname $0)/peer.json"; exit 1', "failed there with code 1"),
        ("kill -9 $$", "failed there with code -9"),
        ("printf '\\033[2Jbad' >&2; exit 255", "(?[2Jbad)"),
    ],
)
def test_a_peer_that_cannot_be_asked(capsys: pytest.CaptureFixture[str], tmp_path: Path, script: str, said: str) -> None:
    peer_file(tmp_path)
    code, out, err = check(capsys, tmp_path, "--peer", "nodeb", "--ssh", program(tmp_path, script))
    assert (code, out) == (3, "") and said in err and err.startswith("heartgate check: nodeb: ") and err.count("\n") == 1


def test_a_peer_that_never_answers(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from heartgate.cli import check as module

    monkeypatch.setattr(module, "SSH_GRACE_S", 0.5)
    code, _, err = check(capsys, tmp_path, "--peer", "nodeb", "--ssh", program(tmp_path, "sleep 60"))
    assert code == 3 and "nodeb: did not answer within" in err


def test_the_real_ssh_to_nowhere(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Port 22 of an address of this host alone, where nobody listens; or no ssh at all."""
    code, _, err = check(capsys, tmp_path, "--peer", "127.0.0.77")
    assert code == 3 and ("cannot be reached by ssh" in err or "no ssh here" in err) and err.count("\n") == 1


def test_the_peer_hears_what_is_asked_for(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """ssh gets one word for the shell over there, quoted, and nothing that it could take for an option."""
    place = tmp_path / "asked"
    ssh = program(tmp_path, f'printf "%s\\n" "$@" > {place}; cat {peer_file(tmp_path)}')
    check(capsys, tmp_path, "--peer", "root@nodeb", "--ssh", ssh, "--heartbeat", "hb0:e;x")
    assert place.read_text().splitlines() == [
        "-o",
        "BatchMode=yes",
        "-o",
        "ConnectTimeout=10",
        "-T",
        "root@nodeb",
        "heartgate facts --listen 0 --interface lo --interface 'e;x'",
    ]


def test_the_peers_facts_are_not_our_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    place = tmp_path / "own.json"
    assert call(capsys, "facts", "--output", str(place))[0] == 0
    code, _, err = check(capsys, tmp_path, "--peer-facts", str(place))
    assert code == 3 and ("are those of this very host" in err or "have this host's name" in err)
    place.write_bytes(encode(peer(host=os.uname().nodename)).encode())
    code, _, err = check(capsys, tmp_path, "--peer-facts", str(place))
    assert code == 3 and "have this host's name" in err


def test_a_corosync_conf_that_does_not_parse(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    conf = tmp_path / "none"
    conf.write_text("totem {\n  version 2\n}\n")
    code, out, err = check(capsys, tmp_path, "--peer-facts", peer_file(tmp_path))
    assert code == 2 and err == "" and f"{conf}:2: expected" in out.replace("\n          ", " ")


def test_progress_only_for_those_who_wait(tmp_path: Path) -> None:
    argv = [
        "/usr/bin/python3",
        "-c",
        "import sys; from heartgate.cli.main import main; sys.exit(main(sys.argv[1:]))",
        "check",
        "--heartbeat",
        "lo",
        "--corosync-conf",
        str(tmp_path / "none"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "lib")}
    for seconds, waited in (("0", False), ("3", True)):
        done = subprocess.run(
            [*argv, "--listen", seconds], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert ("listening on lo" in done.stderr) is waited, done.stderr


def test_interrupted(tmp_path: Path) -> None:
    """While it waits for a peer: no traceback, and its own exit code."""
    argv = [
        PYTHON,
        "-c",
        MAIN,
        "check",
        "--heartbeat",
        "lo",
        "--listen",
        "0",
        "--peer",
        "nodeb",
        "--ssh",
        program(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 300"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "lib")}
    with subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stderr
        assert running.stderr.readline() == "waiting for nodeb\n"
        wait_for("the ssh", lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"))
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=50)  # the ssh takes 300 s
    assert (running.returncode, out) == (130, "") and "interrupted" in err and "Traceback" not in err
    ssh = Path("/proc", (tmp_path / "pid").read_text().strip(), "cmdline")
    wait_for("the end of the ssh that it had started", lambda: not ssh.exists() or not ssh.read_bytes())


def wait_for(what: str, probe: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not probe():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


# --- the table


def test_the_document_is_the_table() -> None:
    remedy = "run: PYTHONPATH=lib python3 -m heartgate.checks.heartbeat_doc > docs/heartbeat-rules.md"
    assert (ROOT / "docs/heartbeat-rules.md").read_text() == render(), remedy


def test_rules_of_all_families_have_names_of_their_own() -> None:
    names = [name for family in sources() for name in family.rules]
    assert len(names) == len(set(names)) and set(heartbeat_rules.RULES) <= set(names)
