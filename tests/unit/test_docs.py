"""README and docs/: links lead somewhere, and every command, option, parameter and message that they name exists."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Dict, Iterator, List, Set, Tuple

import pytest

from heartgate.adapters import journal
from heartgate.cli.main import main as heartgate
from heartgate.core import policy
from heartgate.core.model import (
    Config,
    Disk,
    Heard,
    Link,
    LinkReport,
    MarkSynchronized,
    Message,
    OnIsolation,
    PeerLink,
    Proof,
    ProofKind,
    Rank,
    Record,
    Replica,
    Role,
    Standing,
    State,
    make_config,
)
from heartgate.core.rules import TABLE, Effect, Rule
from heartgate.ocf.metadata import AGENTS
from heartgate.sim.explorer import explore
from heartgate.sim.mesh import Mesh, Walk
from heartgate.sim.moves import Setting
from tests.unit.core_script import run_script, script_paths

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
sys.path.append(str(ROOT / "packaging"))

from programs import parser_of  # noqa: E402

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"#{1,6} +(.*?) *#*\Z")


def identify(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(text: str) -> str:
    """Without code, in which a bracket is no link."""
    lines, fenced = [], False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        lines.append("" if fenced or line.startswith(("```", "    ")) else re.sub(r"`[^`]*`", "", line))
    return "\n".join(lines)


def anchors(text: str) -> Set[str]:
    """As GitHub makes them of headings."""
    found: Set[str] = set()
    fenced = False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        heading = None if fenced else HEADING.match(line)
        if heading:
            plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.group(1)).lower()
            name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
            taken = sum(1 for each in found if re.fullmatch(re.escape(name) + r"(-\d+)?", each))
            found.add(f"{name}-{taken}" if taken else name)
    return found


@pytest.mark.parametrize("path", PAGES, ids=identify)
def test_links_resolve(path: Path) -> None:
    for target in LINK.findall(prose(path.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists() and ROOT in (file, *file.parents), f"{target}: no such file"
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), f"{target}: no such heading"


def test_every_page_is_reached_from_the_readme() -> None:
    linked = {target.partition("#")[0] for target in LINK.findall(prose((ROOT / "README.md").read_text(encoding="utf-8")))}
    assert {identify(path) for path in PAGES} - {"README.md"} <= linked


@pytest.mark.parametrize("path", PAGES, ids=identify)
def test_files_that_a_page_names_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r"(?<![\w/.])((?:tests|packaging|docs|agents|ocf-metadata)/[\w./-]*\w)", text):
        assert (ROOT / name).exists() or (ROOT / "tests" / name).exists(), name
    for name in re.findall(r"`((?:adapters|core|checks|daemon|cli|ocf|fencing)/[\w/]+\.py)", text):
        assert (ROOT / "lib" / "heartgate" / name).exists(), name


# --- commands


def pieces(text: str) -> Iterator[str]:
    """Lines of code blocks, and code in sentences (which may go on in the next line)."""
    plain, fenced = [], False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
            plain.append("")
        elif fenced or line.startswith("    "):
            yield line.strip()
            plain.append("")
        else:
            plain.append(line)
    for paragraph in re.split(r"\n\s*\n|\n(?=[|#*-])", "\n".join(plain)):
        for code in re.findall(r"`([^`]+)`", paragraph):
            yield " ".join(code.split())


def below(parser: argparse.ArgumentParser) -> Dict[str, argparse.ArgumentParser]:
    return {name: inner for action in parser._actions if isinstance(action, argparse._SubParsersAction)
            for name, inner in action.choices.items()}  # fmt: skip


def unknown(words: List[str], parser: argparse.ArgumentParser) -> str:
    """What in the words of a command line the program does not have; "" if it has all of it."""
    at, name = parser, "heartgate"
    for word in words:
        word = word.strip("[],;.|()")
        if not word or word in ("and", "or") or word.startswith("="):
            return ""
        if word.startswith("--"):
            flags = {flag for action in at._actions for flag in action.option_strings}
            if word.partition("=")[0] not in flags:
                return f"{name} has no {word}"
        elif below(at):
            if word not in below(at):
                return "" if word.isupper() or word == "alone" else f"{name} has no {word}"
            at, name = below(at)[word], f"{name} {word}"
    return ""


@pytest.mark.parametrize("path", PAGES, ids=identify)
def test_commands_and_their_options_exist(path: Path) -> None:
    parser = parser_of(heartgate)
    for code in pieces(path.read_text(encoding="utf-8")):
        for line in re.findall(r"(?:^|&& |sudo |\$ )heartgate ([^#`]*)", code):
            assert not unknown(line.split(), parser), f"{code}: {unknown(line.split(), parser)}"


def test_the_search_for_commands_finds_what_is_wrong() -> None:
    parser = parser_of(heartgate)
    assert unknown(["stauts"], parser) == "heartgate has no stauts"
    assert unknown(["heartbeat", "add", "nodea", "nodeb", "--lnk", "2"], parser) == "heartgate heartbeat add has no --lnk"
    assert unknown(["heartbeat", "list,", "add,", "remove"], parser) == "" == unknown(["check", "--peer", "nodeb"], parser)
    text = "Run `heartgate\nfoo` now.\n\n    heartgate bar --baz\n\n```\nheartgate fly\n```\n"
    found = [each for each in pieces(text) if each.startswith("heartgate")]
    assert found == ["heartgate bar --baz", "heartgate fly", "heartgate foo"]


# --- agents, messages, words


@pytest.mark.parametrize("path", PAGES, ids=identify)
def test_agents_and_journal_kinds_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    agents = {agent.name for agent in AGENTS}
    assert set(re.findall(r"ocf:heartgate:([\w-]+)", text)) <= agents
    assert set(re.findall(r"HEARTGATE_KIND=([\w-]+)", text)) <= set(journal.KINDS)
    assert set(re.findall(r"MESSAGE_ID=(\w+)", text)) <= {kind.uuid for kind in journal.KINDS.values()}


def test_the_page_of_an_agent_has_all_of_its_parameters() -> None:
    for agent in AGENTS:
        page = (ROOT / "docs" / f"{agent.name}.md").read_text(encoding="utf-8")
        text = page.split("\n## Parameters\n", 1)[1].split("\n## ", 1)[0]
        rows = dict(re.findall(r"^\| `(\w+)` \|([^|]*)\|", text, re.MULTILINE))
        assert list(rows) == [parameter.name for parameter in agent.parameters], agent.name
        for parameter in agent.parameters:
            if parameter.default and parameter.name in rows:
                assert f"`{parameter.default}`" in rows[parameter.name], f"{agent.name}: default of {parameter.name}"


# --- the pictures of concepts.md

Arrow = Tuple[str, str, str]
CONCEPTS = ROOT / "docs" / "concepts.md"


def drawing(title: str) -> str:
    """The block of text after that heading."""
    return CONCEPTS.read_text(encoding="utf-8").split(f"\n{title}\n", 1)[1].split("```\n", 2)[1]


def tabled() -> Set[Arrow]:
    """(from, to, rule)"""
    return set(re.findall(r"^\| `(\w+)` \| `(\w+)` \| `([\w-]+)` \|", CONCEPTS.read_text(encoding="utf-8"), re.MULTILINE))


@pytest.fixture()
def seen(monkeypatch: pytest.MonkeyPatch) -> Set[Arrow]:
    """Every change of standing that a rule makes from now on."""
    found: Set[Arrow] = set()

    def watched(rule: Rule) -> Rule:
        def apply(config: Config, state: State) -> Effect:
            effect = rule.apply(config, state)
            before, after = state.record.standing, effect[0].record.standing if effect else state.record.standing
            if before is not after:
                found.add((before.value, after.value, rule.ident))
            return effect

        return rule._replace(apply=apply)

    monkeypatch.setattr(policy, "TABLE", tuple(watched(rule) for rule in TABLE))
    return found


def told(node: str, standing: Standing, epoch: int, in_sync: Tuple[str, ...], links: Tuple[LinkReport, ...] = ()) -> Message:
    return Message("r0", node, f"{node}-run", standing, epoch, in_sync, Disk.UPTODATE, Role.SECONDARY, "g", (), links)


def state_of(me: str, standing: Standing, in_sync: Tuple[str, ...], nodes: Tuple[str, ...]) -> Tuple[Config, State]:
    config = make_config("r0", me, {node: number for number, node in enumerate(nodes, 1)})
    links = tuple((node, PeerLink(Link.UP, 1, Disk.UPTODATE)) for node in nodes if node != me)
    paired = tuple(LinkReport(node, Link.UP, 1, 1, f"{node}-run") for node in nodes if node != me)
    proofs = tuple(Proof(node, ProofKind.FENCED, 2) for node in nodes if node not in in_sync and standing is Standing.SOLO)
    replica = Replica(Disk.UPTODATE, Role.SECONDARY, False, links, "g")
    return config, State(Record(standing, 2, in_sync, "boot", proofs), f"{me}-run", replica, links=paired)


def rare(seen: Set[Arrow]) -> None:
    """What no script and none of these walks comes to, made by hand."""
    for standing in (Standing.SYNCED, Standing.DECIDING, Standing.SOLO):
        config, state = state_of("a", standing, ("a",) if standing is Standing.SOLO else ("a", "b"), ("a", "b"))
        policy.step(config, state, Heard(told("b", Standing.SOLO, 3, ("b",))))
    config, state = state_of("a", Standing.BLOCKED, ("a", "b"), ("a", "b"))
    alone = state.replica._replace(peers=(("b", PeerLink(Link.DOWN, 1)),))
    policy.step(config, state._replace(replica=alone), MarkSynchronized("a test"))
    config, state = state_of("a", Standing.SOLO, ("a", "b", "c"), ("a", "b", "c", "d"))
    for node, other in (("b", "c"), ("c", "b")):
        links = (LinkReport("a", Link.UP, 1, 1, "a-run"), LinkReport(other, Link.DOWN, 1, 1, f"{other}-run"))
        state, _ = policy.step(config, state, Heard(told(node, Standing.DECIDING, 2, ("a", "b", "c"), links)))


def test_the_table_of_standings_has_every_way_and_no_other(seen: Set[Arrow]) -> None:
    """Along the golden scripts, all that two nodes can do with one fault, and walks of three."""
    for path in script_paths():
        run_script(path)
    bias = Setting(faults=1, on_isolation=OnIsolation.BIAS, bias="b", rank=Rank.ACTIVE_FIRST, primaries=(1,))
    for setting in (Setting(faults=1), bias):
        explore(setting, 100_000, lambda line: None)
    for seed in (*range(40), 113):
        Mesh(Walk(rank=tuple(Rank)[seed % 2], primary="abc"[seed % 3]), seed).run()
    rare(seen)
    assert seen == tabled()


def test_the_picture_of_standings_has_the_words_of_the_core() -> None:
    states = drawing("## Picture 1: the standings")
    assert sorted(re.findall(r"\| {1,3}([a-z]{4,}) +\|", states)) == sorted(standing.value for standing in Standing)
    assert set(re.findall(r"\[([a-z-]+)\]", states)) == {rule for _, _, rule in tabled()} - {"accept"}


@pytest.mark.parametrize("standing", list(Standing))
@pytest.mark.parametrize("in_sync", [("a",), ("a", "b")])
def test_what_a_boot_does_is_as_concepts_say(standing: Standing, in_sync: Tuple[str, ...]) -> None:
    config = make_config("r0", "a", {"a": 1, "b": 2, "c": 3})
    after = policy.booted(config, Record(standing, 2, in_sync, "before"), "now").standing
    stays = standing is Standing.BLOCKED or (standing is Standing.SOLO and in_sync == ("a",))
    assert after is (standing if stays else Standing.UNPROVEN)
    assert policy.booted(config, Record(standing, 2, in_sync, "now"), "now").standing is standing
    assert policy.booted(config, None, "now").standing is Standing.UNPROVEN


def test_the_time_line_is_the_golden_script() -> None:
    """The same records in the same order on each node, and the rules that the picture names."""
    picture = drawing("## Picture 2: epochs and proofs, along a split")
    script = (ROOT / "tests" / "unit" / "scripts" / "readmission.txt").read_text(encoding="utf-8")
    right = picture.splitlines()[0].index("nodeb")
    for node in ("nodea", "nodeb"):
        drawn = [found.groups() for line in picture.splitlines() for found in re.finditer(r"([a-z]+) +epoch (\d)", line)
                 if (found.start() >= right) == (node == "nodeb") and found.group(1) in set(Standing)]  # fmt: skip
        assert drawn == re.findall(rf"^{node} PERSIST (\w+) epoch (\d)", script, re.MULTILINE)
    assert set(re.findall(r"\[([a-z-]+)\]", picture)) <= set(re.findall(r" rule ([a-z-]+)", script))
    assert "nodeb:confirmed@2" in script and "b confirmed, epoch 2" in picture
