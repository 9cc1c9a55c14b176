"""`heartgate explain`: what it says, and what it refuses to say."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heartgate.cli import explain, explain_pick, main
from heartgate.core import codec
from heartgate.core.codec import to_json
from heartgate.core.model import Standing
from heartgate.core.replay import Step, replay
from tests.unit.core_script import script_paths
from tests.unit.replay_book import CORE, Book, books_of, resealed

SCRIPTS = Path(__file__).parent / "scripts"
PAGE = Tuple[int, str, str]


class Files(NamedTuple):
    """A state directory with the history of one node."""

    directory: Path
    book: Book

    def write(self, data: bytes) -> None:
        (self.directory / "data.verdicts").write_bytes(data)


@pytest.fixture(autouse=True)
def same_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain, "core_version", lambda: CORE)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Files]:
    def make(script: str, node: str) -> Files:
        made = Files(tmp_path, books_of(SCRIPTS / f"{script}.txt", monkeypatch)[node])
        made.write(made.book.data)
        last = made.book.noted[-1].after.record
        (tmp_path / "data.state").write_bytes(codec.encode_record(last))
        return made

    return make


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., PAGE]:
    def run(*argv: str) -> PAGE:
        capsys.readouterr()
        try:
            code = main.main(["explain", *argv, "--state-dir", str(tmp_path), "--socket", str(tmp_path / "no.sock")])
        except SystemExit as error:
            code = int(str(error.code))
        out, err = capsys.readouterr()
        return code, " ".join(out.split()), err

    return run


# --- what it says


@pytest.mark.req("E1", "E6")
def test_the_winner(files: Any, ask: Any) -> None:
    files("sync_cut_active_on_b_priority", "nodea")
    code, out, err = ask("data")
    assert (code, err) == (0, "")
    for text in (
        "data on nodea: SOLO since 2023-11-14",
        "decided in 20 ms",
        "seen the sync link to nodeb is down rule loss: Contact with a node in sync is lost",
        "do ask for nodea to go on, nodeb to block (question 1, epoch 2)",
        "seen nodeb answers: it is blocked (epoch 2) rule commit: Every kept node has agreed",
        "proof nodeb cannot serve: it has written down that it is blocked, and said so (confirmed)",
        "do answer handler 1 with 4: This node goes on: the peer has confirmed its block.",
        "nodeb said: blocked, epoch 2, disk uptodate, primary, sync link to nodea down",
        "proof: nodeb confirmed, epoch 2",
        "serves: nodea may serve",
        "ends by: the return of the sync link to nodeb",
        "heartgated does not run; when it last wrote",
    ):
        assert text in out


@pytest.mark.req("E1", "E6")
def test_the_loser(files: Any, ask: Any) -> None:
    files("sync_cut_active_on_b_priority", "nodeb")
    code, out, _ = ask("data")
    assert code == 0
    for text in (
        "data on nodeb: BLOCKED since",
        "I/O is frozen rule loss",
        "nodea asks: nodea to go on, nodeb to block",
        "rule ask-block: The verdict's first node asks: persist blocked, make it so, then confirm.",
        "do make the replica refuse reads and writes",
        "seen the block holds do answer nodea: blocked, epoch 2",
        "proof: none: this node does not go on; its block was promised to nodea",
        "serves: nodea serves (it says: solo, epoch 2",
        "ends by: the return of the sync link to nodea",
    ):
        assert text in out


@pytest.mark.req("E1")
def test_a_fencing_is_told_with_its_proof(files: Any, ask: Any) -> None:
    files("fence_after_deadline", "nodea")
    _, out, _ = ask("data")
    for text in ("ask-fence: No confirmation in time", "do ask Pacemaker to fence nodeb", "proof: nodeb fenced, epoch 2",
                 "with 7: This node goes on: the peer was fenced", "nodeb not heard"):  # fmt: skip
        assert text in out


def test_the_rules_are_those_of_the_table() -> None:
    from heartgate.cli import explain_words
    from heartgate.core import rules

    assert {rule.ident: rule.text for rule in rules.TABLE} == explain_words.RULES


def test_there_are_words_for_everything_in_the_model() -> None:
    """What is added to the model needs words here."""
    from heartgate.cli import explain_words
    from heartgate.core import model

    assert set(explain_words._SEEN) == set(model.Event.__args__)  # type: ignore[attr-defined]
    in_place = {model.Persist, model.Send, model.AnswerHandler, model.Publish, model.Note}
    assert {*explain_words._ORDERED, *in_place} == set(model.Action.__args__)  # type: ignore[attr-defined]
    assert set(explain_words.PROOFS) == set(model.ProofKind)
    assert {standing.value for standing in Standing} <= set(explain.text.MEANING)


@pytest.mark.req("E6")
def test_at_a_time(files: Any, ask: Any) -> None:
    made = files("readmission", "nodeb")
    told = [item for item in replay(made.book.data, CORE) if isinstance(item, Step) and explain_pick.is_verdict(item)]
    standings = [step.after.record.standing for step in told]
    assert Standing.BLOCKED in standings and standings[-1] is Standing.SYNCED

    def at(step: Step) -> Dict[str, Any]:
        chain = explain_pick.pick(replay(made.book.data, CORE), step.head.at_ms)
        assert chain is not None
        return {"verdict": chain.verdict, "following": chain.following, "items": chain.items}

    for step, after in zip(told, [*told[1:], None]):
        found = at(step)
        assert found["verdict"] == step and step in found["items"]
        assert found["following"] == after or step.after.record.standing is Standing.DECIDING


@pytest.mark.req("E6")
def test_at_before_the_split_it_was_in_sync(files: Any, ask: Any) -> None:
    made = files("sync_cut_active_on_b_priority", "nodea")
    lines = [json.loads(line) for line in made.book.lines]
    lost = next(i for i, line in enumerate(lines) if b'"loss"' in made.book.lines[i])
    for i, line in enumerate(lines):  # the seconds before it, and the split at 22:20:00
        line["at"] = 1_700_000_400_000 + i * 10 if i >= lost else 1_700_000_000_000 + i * 10
        line["us"] = (line["at"] - 1_700_000_000_000) * 1000
    made.write(b"".join(resealed([to_json(line) for line in lines])))
    code, out, _ = ask("data", "--at", "2023-11-14 22:19")
    assert code == 0 and "In force at 2023-11-14 22:19:00.000: data on nodea: SYNCED" in out
    assert "the next verdict: deciding, at 2023-11-14 22:20:00" in out and "commit" not in out
    code, out, _ = ask("data", "--at", "2023-11-14 22:20:00")
    assert code == 0 and ("SYNCED" in out or "it was deciding; the verdict came" in out)
    code, out, _ = ask("data", "--at", "2023-11-14 22:20:01")
    assert code == 0 and "data on nodea: SOLO" in out
    first = json.loads(made.book.lines[lost])["at"]
    assert first
    code, _, err = ask("data", "--at", "2023-11-14 22:13")
    assert code == 3 and "nothing is recorded for 2023-11-14 22:13:00.000; the history begins at 2023-11-14 22:13:20.000" in err


@pytest.mark.req("E6")
def test_while_it_was_deciding(files: Any, ask: Any) -> None:
    made = files("sync_cut_active_on_b_priority", "nodea")
    items = replay(made.book.data, CORE)
    deciding = next(i for i in items if isinstance(i, Step) and i.after.record.standing is Standing.DECIDING)
    chain = explain_pick.pick(items, deciding.head.at_ms)
    assert chain is not None and chain.verdict == deciding
    page = explain.text.page(chain, explain_pick.steps_of(items)[-1], True, deciding.head.at_ms)
    assert "it was deciding; the verdict came at" in page and "SOLO since" in page and "\nnow: solo" in page


@pytest.mark.req("E6")
def test_everything_in_json(files: Any, ask: Any, capsys: Any, tmp_path: Path) -> None:
    files("sync_cut_active_on_b_priority", "nodea")
    code, out, _ = ask("data", "--json")
    told = json.loads(out)
    assert code == 0 and told["ok"] is True and told["refused"] == []
    assert told["verdict"]["standing"] == "solo" and told["verdict"]["undecided_ms"] == 20
    assert told["verdict"]["proofs"] == [{"node": "nodeb", "kind": "confirmed", "epoch": 2}]
    fired = [rule["rule"] for entry in told["chain"] for rule in entry.get("rules", [])]
    assert fired == ["loss", "propose", "deadline", "commit", "handlers"]
    assert told["now"]["daemon"] == "not running" and told["said"]["nodeb"]


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in script_paths()])
def test_every_moment_of_every_script_can_be_told(path: Path, files: Any, ask: Any, monkeypatch: Any) -> None:
    for node in list(books_of(path, monkeypatch)):
        made = files(path.stem, node)
        items = replay(made.book.data, CORE)
        for step in explain_pick.steps_of(items):
            chain = explain_pick.pick(items, step.head.at_ms)
            assert chain is not None and not chain.refused
            page = explain.text.page(chain, explain_pick.steps_of(items)[-1], True, step.head.at_ms)
            assert "seen  \n" not in page
            assert max(len(line) for line in page.splitlines()) <= 160
            json.dumps(explain.text.data(chain, explain_pick.steps_of(items)[-1], True, None))
        assert ask("data")[0] == 0


# --- what it refuses


@pytest.mark.req("E1", "E6")
def test_an_altered_record_is_refused_whichever_field_it_is(files: Any, ask: Any) -> None:
    made = files("sync_cut_active_on_b_priority", "nodea")
    number = next(i for i, line in enumerate(made.book.lines) if b'"commit"' in line)
    entry = json.loads(made.book.lines[number])
    for field in entry:
        changed = {**entry, field: 7 if entry[field] != 7 else 8}
        made.write(b"".join([*made.book.lines[:number], to_json(changed) + b"\n", *made.book.lines[number + 1 :]]))
        code, out, err = ask("data")
        assert code == 6, field
        assert f"line {number + 1} of its history" in err and "SOLO" not in out, field
        assert "this record does not replay" in err or field == "v", field


@pytest.mark.req("E1", "E6")
def test_a_forged_verdict_does_not_replay(files: Any, ask: Any) -> None:
    """Its checks are good, but the policy would never have gone on alone there."""
    made = files("sync_cut_active_on_b_priority", "nodea")
    number = next(i for i, line in enumerate(made.book.lines) if b'"commit"' in line)
    forged = made.book.lines[number].replace(b'"confirmed"', b'"fenced"')
    assert forged != made.book.lines[number]
    made.write(b"".join(resealed([*made.book.lines[:number], forged, *made.book.lines[number + 1 :]])))
    code, out, err = ask("data")
    assert code == 6 and "this record does not replay: what followed [1], Persist [1], Record" in err
    assert 'recorded "fenced", by the replay "confirmed"; it was altered, or written by another version' in err
    assert '"Note"' in out and "SOLO" not in out, "the entry itself is shown"


@pytest.mark.req("E1")
def test_another_version_of_the_policy(files: Any, ask: Any, monkeypatch: Any) -> None:
    made = files("sync_cut_active_on_b_priority", "nodea")
    monkeypatch.setattr(explain, "core_version", lambda: "2.0+new")
    assert ask("data")[0] == 0, "it comes out the same"
    number = next(i for i, line in enumerate(made.book.lines) if b'"commit"' in line)
    other = made.book.lines[number].replace(b'{"Note":["commit"', b'{"Note":["go-on"')
    made.write(b"".join(resealed([*made.book.lines[:number], other, *made.book.lines[number + 1 :]])))
    code, _, err = ask("data")
    assert code == 6 and f"written by another version (heartgate {CORE} wrote it, this is 2.0+new)" in err


@pytest.mark.req("E1")
def test_after_an_upgrade_the_old_entries_are_one_line_and_the_new_run_is_told(files: Any, ask: Any, monkeypatch: Any) -> None:
    """What the new version does not understand of the old one's words must not bury what it does understand."""
    made = files("sync_cut_active_on_b_priority", "nodea")
    old = list(made.book.lines)
    for here, there in ((b'"fence"', b'"hold"'), (b"1700000000", b"1600000000"), (b"nodea-run1", b"nodea-run0")):
        old = [line.replace(here, there) for line in old]
    made.write(b"".join(resealed(old)) + made.book.data)
    monkeypatch.setattr(explain, "core_version", lambda: "2.0+new")
    code, out, err = ask("data")
    assert (code, err) == (0, "") and "data on nodea: SOLO" in out and "entries of the history are of another version" in out
    code, out, err = ask("data", "--at", "2023-11-14 22:13:19")
    assert code == 6 and err.count("\n") == 1 and "written by another version" in err
    assert "nothing is recorded" in ask("data", "--at", "2020-01-01")[2]


@pytest.mark.req("E1")
def test_a_missing_end_is_noticed_by_the_record(files: Any, ask: Any) -> None:
    made = files("sync_cut_active_on_b_priority", "nodea")
    number = next(i for i, line in enumerate(made.book.lines) if b'"commit"' in line)
    made.write(b"".join(made.book.lines[:number]))
    code, _, err = ask("data")
    assert code == 6
    assert "the end of its history: its end is missing: the record on the disk says solo, epoch 2; the last entry deciding" in err
    made.write(made.book.data[:-9])
    code, _, err = ask("data")
    assert code == 6 and "damaged or cut off" in err


def test_damage_elsewhere_is_mentioned_and_does_not_hide_the_verdict(files: Any, ask: Any) -> None:
    made = files("readmission", "nodeb")
    lines = list(made.book.lines)
    lines[0] = b'{"v":1}\n'
    made.write(b"".join(lines))
    code, out, err = ask("data")
    assert code == 6 and "data on nodeb: SYNCED" in out and "elsewhere: data: line 1 of its history" in err


def test_entries_without_a_check_are_said_to_be_old(files: Any, ask: Any) -> None:
    made = files("sync_cut_active_on_b_priority", "nodea")
    old = b'{"at":1,"run":"r","event":"start","config":null,"before":null,"actions":[]}\n'
    made.write(old + made.book.data)
    code, out, err = ask("data")
    assert (code, err) == (0, "") and "1 entries of the history are of another version" in out
    made.write(old)
    code, _, err = ask("data")
    assert code == 3 and "a version of heartgate wrote it that kept no checks" in err


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pick=st.data())
def test_nonsense_with_good_checks_gives_a_message_and_no_traceback(files: Any, ask: Any, pick: st.DataObject) -> None:
    made = files("sync_cut_active_on_b_priority", "nodea")
    lines = [json.loads(line) for line in made.book.lines]
    inner: Any = pick.draw(st.sampled_from(lines))
    while True:
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        key = pick.draw(st.sampled_from(keys))
        if isinstance(inner[key], (dict, list)) and inner[key] and pick.draw(st.booleans()):
            inner = inner[key]
            continue
        inner[key] = pick.draw(st.sampled_from([None, 0, -1, 2**53 - 1, 2**60, True, "x", "", [], {}, {"Record": []}, [[]], "é"]))
        break
    try:
        made.write(b"".join(resealed([to_json(line) for line in lines])))
    except (KeyError, TypeError):
        return
    code, out, err = ask("data")
    assert code in (0, 6) and (out or err)
    assert ask("data", "--json")[0] == code


# --- nothing to say


def test_no_such_device(files: Any, ask: Any, tmp_path: Path) -> None:
    assert ask("data") == (5, "", "heartgate: no device 'data' here; none was ever guarded on this node\n")
    files("readmission", "nodea")
    for name in ("r9", "../data", "", "data\n", "x" * 300, "/dev/drbd0"):
        code, out, err = ask(name)
        assert code == 5 and out == "" and "there is: data" in err


def test_no_verdict_yet(ask: Any, tmp_path: Path) -> None:
    (tmp_path / "data.config").write_bytes(b"")
    assert ask("data") == (3, "", "heartgate: data: no verdict is recorded yet (heartgated has not guarded it on this node)\n")
    (tmp_path / "data.verdicts").write_bytes(b"")
    assert ask("data", "--json")[0] == 3


def test_what_cannot_be_read(ask: Any, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "data.verdicts").mkdir()
    code, _, err = ask("data")
    assert code == 1 and err == f"heartgate: {tmp_path}/data.verdicts: Is a directory\n"

    def denied(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", denied)
    code, _, err = ask("data")
    assert code == 1 and err == f"heartgate: {tmp_path}: Permission denied (only root may look)\n"


@pytest.mark.parametrize(
    "text",
    ["", "3", "25:00", "12:61", "2023-13-01", "2023-02-30", "soon", "-10", "-10lightyears", "2999-01-01", "-999999999d", "-1 "],
)
def test_no_time(files: Any, ask: Any, text: str) -> None:
    files("readmission", "nodea")
    code, out, err = ask("data", f"--at={text}")
    assert code in (2, 3) and out == "" and len(err.splitlines()) == 1
    assert code == 2 or text == "-999999999d"


NOW = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC


@pytest.mark.parametrize(
    ("text", "ago_s"),
    [("22:13", 20), ("22:13:19", 1), ("22:14", 86400 - 40), ("0:00", 22 * 3600 + 800), ("-10min", 600), ("-30s", 30), ("-2h", 7200),
     ("-1d", 86400), ("-3hours", 10800), ("-2mins", 120), ("2023-11-14", 22 * 3600 + 800), ("2023-11-13 22:13:20", 86400),
     ("2023-11-14T22:13", 20)],
)  # fmt: skip
def test_times(text: str, ago_s: int) -> None:
    assert explain_pick.parse_time(text, NOW) == (NOW - ago_s) * 1000


def test_a_time_ago_needs_no_equals_sign(files: Any, ask: Any) -> None:
    files("readmission", "nodea")
    assert ask("data", "--at", "-10min")[0] == 0


def test_help_names_the_exit_codes(ask: Any) -> None:
    code, out, _ = ask("--help")
    assert code == 0
    for number in (explain.OK, explain.FAILED, explain.BAD_USAGE, explain.NOTHING, explain.NO_DEVICE, explain.REFUSED):
        assert f" {number} " in out


def test_status_still_works(tmp_path: Path) -> None:
    directory = os.fspath(tmp_path)
    argv: List[str] = ["status", "--state-dir", directory, "--socket", f"{directory}/no.sock"]
    assert main.main(argv) == 4
