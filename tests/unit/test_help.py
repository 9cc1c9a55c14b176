"""Manual pages and completion: made from the programs, complete, and good for the programs that read them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Dict, List
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "packaging"))

import completion  # noqa: E402
import manifest  # noqa: E402
import manpages  # noqa: E402
from programs import Command, command_of, parser_of  # noqa: E402

from heartgate.adapters import journal  # noqa: E402
from heartgate.cli.main import main as heartgate  # noqa: E402
from heartgate.ocf.metadata import generated  # noqa: E402


@pytest.fixture(scope="module")
def pages() -> Dict[str, str]:
    return manpages.pages()


@pytest.fixture(scope="module")
def command() -> Command:
    return command_of(parser_of(heartgate))


def shown(text: str) -> str:
    """A page as it is read, in one line."""
    environment = {"PATH": "/usr/bin:/bin", "MANWIDTH": "2000", "LC_ALL": "C.UTF-8", "MANROFFOPT": "-ww"}
    argv = ["man", "--warnings", "--local-file", "-"]
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=True, env=environment)
    assert done.stderr == "", done.stderr
    return " ".join(done.stdout.replace("\u2010", "-").replace("\u2212", "-").split())


# --- manual pages


@pytest.mark.skipif(shutil.which("man") is None, reason="needs man-db")
def test_pages_say_all_of_the_command(pages: Dict[str, str], command: Command) -> None:
    text = shown(pages["heartgate.8"])
    assert len(command.walk()) >= 3
    for inner in command.walk():
        assert inner.name in text
        for option in (*inner.options, *inner.arguments):
            assert " ".join(option.help.split()) in text, option
            assert all(flag in text for flag in option.flags), option


@pytest.mark.skipif(shutil.which("man") is None, reason="needs man-db")
@pytest.mark.parametrize("name", sorted(generated()))
def test_pages_say_all_of_an_agent(pages: Dict[str, str], name: str) -> None:
    text = shown(pages[f"ocf_heartgate_{name[:-4]}.7"])
    root = ElementTree.fromstring(generated()[name])
    for parameter in root.iter("parameter"):
        assert f"{parameter.get('name')} (" in text
        assert " ".join(parameter.findtext("longdesc", "").split()) in text
    for action in root.iter("action"):
        assert f"{action.get('name')} timeout {action.get('timeout')}" in text


@pytest.mark.skipif(shutil.which("man") is None, reason="needs man-db")
def test_the_daemons_page_says_all_of_its_messages(pages: Dict[str, str]) -> None:
    text = shown(pages["heartgated.8"])
    for name, kind in journal.KINDS.items():
        for part in (f"{name} (", kind.means, f"Look at: {kind.look}", f"To do: {kind.todo}"):
            assert part in text, f"{name}: {part}"


def test_there_is_a_page_for_each_program_and_agent(pages: Dict[str, str]) -> None:
    agents = {f"ocf_heartgate_{path.name}.7" for path in (ROOT / "agents").iterdir() if path.is_file()}
    sbin = {f"{path.name}.8" for folder in ("packaging/sbin", "fence") for path in (ROOT / folder).iterdir() if path.is_file()}
    assert set(pages) == agents | sbin
    installed = {Path(item.target).name for item in manifest.files() if "/man/" in item.target}
    assert installed == {f"{name}.gz" for name in pages}


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="needs mandoc (./run package installs it)")
def test_pages_are_well_formed(pages: Dict[str, str], tmp_path: Path) -> None:
    for name, text in pages.items():
        (tmp_path / name).write_text(text)
        argv = ["mandoc", "-T", "lint", "-W", "all", str(tmp_path / name)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, ""), name


def test_a_paragraph_of_an_epilog_is_one_and_exit_codes_are_a_list() -> None:
    made = manpages._epilog("One sentence that\ngoes on.\n\nAnother one.\n\nExit codes:\n  0  done\n  2  not", ".P")
    assert made == [".P", "One sentence that goes on.", ".P", "Another one.", ".P", "Exit codes:",
                    ".TP", "\\fB0\\fR", "done", ".TP", "\\fB2\\fR", "not"]  # fmt: skip


def test_text_that_looks_like_a_request_is_text() -> None:
    assert manpages.prose(".SH no 'heading\\n") == "\\&.SH no \\(aqheading\\en"
    long = manpages.prose("word " * 15 + "...and so on")
    assert "\n\\&...and" in long


def test_a_program_that_reads_no_arguments_is_no_surprise() -> None:
    with pytest.raises(RuntimeError, match="argparse"):
        parser_of(lambda _: 0)


# --- completion


def complete(script: str, line: str) -> List[str]:
    """What bash itself answers to TAB after `line` (the last word is the one under the cursor)."""
    driver = script + """
words=$(cat); COMP_LINE=$words; COMP_POINT=${#words}
IFS=$'\\x1f' read -r -a COMP_WORDS <<< "$words"
COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
compopt() { :; }
_heartgate
printf '%s\\n' "${COMPREPLY[@]}"
"""
    # bash cuts words at "=" too
    words = line.replace("=", " = ").split(" ")
    done = subprocess.run(["bash", "--norc", "-u", "-c", driver], input="\x1f".join(words) + ("\x1f" if words[-1] == "" else ""),
                          capture_output=True, text=True, check=True, timeout=20)  # fmt: skip
    assert done.stderr == "", done.stderr
    return [word for word in done.stdout.splitlines() if word]


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> str:
    records = tmp_path_factory.mktemp("records")
    for name in ("r0.state", "r1.state", "r1.state.bad", "lock"):
        (records / name).touch()
    return completion.script(str(records))


def test_bash_reads_it(script: str) -> None:
    assert subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=True).stderr == ""
    registered = subprocess.run(["bash", "-c", f"{script}\ncomplete -p heartgate"], capture_output=True, text=True, check=True)
    assert "_heartgate" in registered.stdout


def test_every_command_and_option_is_completed(script: str, command: Command) -> None:
    for inner in command.walk():
        flags = {flag for option in inner.options for flag in option.flags}
        assert set(complete(script, f"{inner.name} -")) == flags
        if inner.commands:
            assert set(complete(script, f"{inner.name} ")) >= {below.name.split()[-1] for below in inner.commands}


def test_words_are_completed_from_their_beginning(script: str) -> None:
    assert complete(script, "heartgate st") == ["status"]
    assert complete(script, "heartgate status --js") == ["--json"]


def test_devices_are_those_with_a_record(script: str) -> None:
    assert complete(script, "heartgate status ") == ["r0", "r1"]
    assert complete(script, "heartgate status r1") == ["r1"]
    assert complete(script, "heartgate status --json r") == ["r0", "r1"]


def test_values_of_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a command line of the test's own: choices, paths, nested commands."""
    import argparse

    def program(argv: List[str]) -> None:
        parser = argparse.ArgumentParser(prog="heartgate")
        commands = parser.add_subparsers()
        link = commands.add_parser("link", help="links").add_subparsers()
        add = link.add_parser("add", help="adds")
        add.add_argument("--speed", choices=["slow", "fast"], help="how fast")
        add.add_argument("--number", type=int, help="which")
        add.add_argument("host", help="whose")
        link.add_parser("hidden")
        parser.parse_args(argv)

    monkeypatch.setattr(completion, "heartgate", program)
    text = completion.script()
    assert complete(text, "heartgate link ") == ["add"]
    assert complete(text, "heartgate link add --speed ") == ["slow", "fast"]
    assert complete(text, "heartgate link add --speed=f") == ["fast"]
    assert complete(text, "heartgate link add --number ") == []
    assert set(complete(text, "heartgate link add --number 3 -")) == {"-h", "--help", "--speed", "--number"}
