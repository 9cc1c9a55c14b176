"""A history is replayed through the policy: it comes out as it was, or it is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heartgate.core import replay
from heartgate.core.codec import to_json, value_to_json
from heartgate.core.model import Heard, LinkReport, Record, Replica, Standing, State
from heartgate.core.replay import Done, Head, Lost, Refused, Step, Trouble, fits
from tests.unit.core_script import script_paths
from tests.unit.replay_book import CORE, Book, books_of, resealed

SCRIPTS = [pytest.param(path, id=path.stem) for path in script_paths()]
CUT = Path(__file__).parent / "scripts" / "sync_cut_active_on_b_priority.txt"
Place = Tuple[Any, ...]


@pytest.fixture
def book(monkeypatch: pytest.MonkeyPatch) -> Book:
    """Of the loser: asked to block, blocked, answered."""
    return books_of(CUT, monkeypatch)["nodeb"]


def refused(data: bytes, core: str = CORE) -> List[Refused]:
    return [item for item in replay.replay(data, core) if isinstance(item, Refused)]


@pytest.mark.req("E1", "E6")
@pytest.mark.parametrize("path", SCRIPTS)
def test_every_step_of_every_script_replays(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for book in books_of(path, monkeypatch).values():
        items = replay.replay(book.data, CORE)
        assert [item for item in items if not isinstance(item, Step)] == []
        assert len(items) == len(book.noted) > 0
        for item, noted in zip(items, book.noted):
            assert isinstance(item, Step)
            assert (item.event, item.before, item.after, item.actions) == noted[:1] + noted[2:]
            assert to_json(value_to_json(item.actions)) == to_json(value_to_json(noted.actions))


# --- altered, cut off, missing


def places(value: Any, path: Place = ()) -> Iterator[Place]:
    """Every leaf, and every empty list, of an entry."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = False
    for key, inner in children:
        found = True
        yield from places(inner, (*path, key))
    if not found:
        yield path


OTHERS: Tuple[Any, ...] = ("other", 7, True, False, None, [], "nodea", "nodeb", "nodec", "up", "down", "synced", "blocked",
                           "uptodate", "primary", "0123456789abcdef")  # fmt: skip


def altered(entry: Any, path: Place, value: Any) -> Any:
    entry = copy.deepcopy(entry)
    inner = entry
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return entry


def at(entry: Any, path: Place) -> Any:
    for key in path:
        entry = entry[key]
    return entry


@pytest.mark.req("E1", "E6")
def test_an_altered_field_is_noticed_whatever_it_is(book: Book) -> None:
    for number, line in enumerate(book.lines):
        entry = json.loads(line)
        for path in places(entry):
            value = "other" if at(entry, path) != "other" else 7
            changed = to_json(altered(entry, path, value)) + b"\n"
            assert refused(changed), f"line {number + 1}: {path} = {value!r} went unnoticed"


@pytest.mark.apart
@pytest.mark.req("E1", "E6")
def test_an_altered_field_with_a_good_check_does_not_replay(book: Book) -> None:
    """The checks made anew: then the replay has to notice it, unless the very same chain of steps comes out."""
    good = [(item.actions, item.after) for item in replay.replay(book.data, CORE) if isinstance(item, Step)]
    harmless, tried = set(), 0
    for number, line in enumerate(book.lines):
        entry = json.loads(line)
        for path in places(entry):
            if path[0] in ("prev", "sum"):
                continue
            for value in OTHERS[:4] if len(path) < 3 else OTHERS[len(path) % 4 :: 4]:
                if to_json(value) == to_json(at(entry, path)):
                    continue
                tried += 1
                lines = [*book.lines[:number], to_json(altered(entry, path, value)), *book.lines[number + 1 :]]
                items = replay.replay(b"".join(resealed(lines)), CORE)
                if any(isinstance(item, Refused) for item in items):
                    continue
                harmless.add(path[0])
                assert [(item.actions, item.after) for item in items if isinstance(item, Step)] == good, (number, path, value)
    assert tried > 1000
    # Only who wrote it and when, and of the record at the start the boot: `booted` gives it this boot's.
    assert harmless <= {"core", "at", "us", "found", "config", "event"}


@pytest.mark.req("E1")
def test_a_missing_an_extra_and_a_moved_entry_are_noticed(book: Book) -> None:
    for number in range(1, len(book.lines) - 1):
        one = book.lines[number]
        rest = [*book.lines[:number], *book.lines[number + 1 :]]
        assert refused(b"".join(rest)), f"line {number + 1} taken out"
        assert refused(b"".join([*book.lines[: number + 1], one, *book.lines[number + 1 :]])), f"line {number + 1} twice"
        assert refused(b"".join([*rest[: number - 1], one, *rest[number - 1 :]])), f"line {number + 1} one place earlier"


@pytest.mark.req("E1")
def test_each_entry_names_the_one_before_it(book: Book) -> None:
    """One entry altered where no replay can notice it (its time), and its own check made anew: the next one tells."""
    for number in range(len(book.lines) - 1):
        entry = json.loads(book.lines[number])
        entry["at"] += 60_000
        previous = entry["prev"].encode()
        del entry["prev"], entry["sum"]
        text = to_json(entry)[:-1] + b',"prev":"' + previous + b'"'
        line = text + b',"sum":"' + replay._check(text).encode() + b'"}\n'
        found = refused(b"".join([*book.lines[:number], line, *book.lines[number + 1 :]]))
        assert [item.line for item in found] == [number + 2] and "does not name the check" in found[0].reason


@pytest.mark.req("E1")
def test_an_entry_that_was_taken_out_leaves_a_gap(book: Book) -> None:
    """Even with all checks made anew, and where nothing else depends on it."""
    head = replay.replay(book.data, CORE)[-1].head  # type: ignore[union-attr]
    last = json.loads(book.lines[-1])
    body = {"what": "flush", "ok": True, "how": "synced", "took_us": 7}
    done = [replay.seal_line(head._replace(n=last["n"] + i, core=CORE), "done", body, "")[0] for i in (1, 2, 3)]
    assert not refused(b"".join(resealed([*book.lines, *done])))
    found = refused(b"".join(resealed([*book.lines, done[0], done[2]])))
    assert [item.line for item in found] == [len(book.lines) + 2] and "1 entries before it are not there" in found[0].reason


@pytest.mark.req("E1")
def test_a_value_of_a_wrong_type_is_refused_although_the_policy_would_not_mind(book: Book) -> None:
    """The loser has never used its time limit."""
    lines = [line.replace(b'{"OnIsolation":"fence"},10000', b'{"OnIsolation":"fence"},"soon"') for line in book.lines]
    found = refused(b"".join(resealed(lines)))
    assert found[0].line == 1 and found[0].reason == "its config is no such value"


@pytest.mark.req("E1")
def test_a_cut_off_end_is_noticed(book: Book) -> None:
    whole = len(book.data)
    last = len(book.lines[-1])
    for size in range(whole - last + 1, whole - 1, 7):
        assert [item.trouble for item in refused(book.data[:size])] == [Trouble.UNREADABLE], size


def test_the_shortened_beginning_is_skipped_up_to_the_first_checkpoint(book: Book) -> None:
    for number in range(1, len(book.lines)):
        items = replay.replay(b"".join(book.lines[number:]), CORE)
        assert not [item for item in items if isinstance(item, Refused)]
        steps = [item for item in items if isinstance(item, Step)]
        first = next((i for i, line in enumerate(book.lines[number:]) if b'"before":' in line), None)
        assert len(steps) == (0 if first is None else len(book.lines) - number - first)


def test_after_a_refusal_it_goes_on_at_the_next_checkpoint(book: Book) -> None:
    lines = list(book.lines)
    lines[0] = b"nonsense\n"
    items = replay.replay(b"".join(lines), CORE)
    assert isinstance(items[0], Refused) and items[0].trouble is Trouble.UNREADABLE
    assert [item for item in items if isinstance(item, Step)]


@pytest.mark.req("E1")
def test_another_version_is_said_to_be_one(book: Book) -> None:
    number = next(i for i, line in enumerate(book.lines) if b'"Note"' in line)
    entry = json.loads(book.lines[number])
    entry["actions"] = [action for action in entry["actions"] if "Note" not in action]  # as other rules would have it
    data = b"".join(resealed([*book.lines[:number], to_json(entry), *book.lines[number + 1 :]]))
    assert refused(data)[0].trouble is Trouble.ALTERED
    found = refused(data, core="1.1+def")[0]
    assert found.trouble is Trouble.VERSION and found.core == CORE and found.line == number + 1
    assert refused(book.data, core="1.1+def") == [], "it replays the same, so the version does not matter"
    for version, trouble in ((2, Trouble.LATER), (0, Trouble.ALTERED), (True, Trouble.ALTERED), ("1", Trouble.ALTERED)):
        entry["v"] = version
        assert refused(resealed([to_json(entry)])[0])[0].trouble is trouble
    del entry["v"]
    assert refused(to_json(entry))[0].trouble is Trouble.NO_CHECK


def test_what_the_daemon_could_not_write_is_told_and_no_alteration(book: Book) -> None:
    number = next(i for i, line in enumerate(book.lines) if i > 2 and b'"before":' in line)
    entry = json.loads(book.lines[number])
    entry["lost"] = 2
    kept = [*book.lines[: number - 2], to_json(entry)]
    items = replay.replay(b"".join(resealed(kept)), CORE)
    assert not [item for item in items if isinstance(item, Refused)]
    assert [item.entries for item in items if isinstance(item, Lost)] == [2]
    entry["lost"] = 1
    assert refused(b"".join(resealed([*kept[:-1], to_json(entry)])))


def test_outcomes_are_read_and_checked() -> None:
    head = Head(0, CORE, "run", 1, 5, 6)
    line, _ = replay.seal_line(head, "done", {"what": "block", "ok": True, "how": "outdated", "took_us": 70}, "")
    assert replay.replay(line, CORE) == (Done(head._replace(line=1), "block", True, "outdated", 70),)
    for wrong in ({"took_us": -1}, {"ok": 1}, {"how": None}, {"what": 3}, {"took_us": True}, {"more": 1}):
        body = {"what": "block", "ok": True, "how": "outdated", "took_us": 70, **wrong}
        assert refused(replay.seal_line(head, "done", body, "")[0]), wrong


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200) | st.text(max_size=80).map(str.encode))
def test_any_bytes_are_a_history_or_are_refused(data: bytes) -> None:
    assert all(isinstance(item, Refused) for item in replay.replay(data, CORE))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pick=st.data())
def test_any_altered_byte_is_noticed(book: Book, pick: st.DataObject) -> None:
    data = bytearray(book.data)
    place = pick.draw(st.integers(0, len(data) - 2))
    data[place] = pick.draw(st.integers(0, 255).filter(lambda byte: byte != data[place]))
    assert refused(bytes(data))


def test_types_down_to_the_last_field() -> None:
    record = Record(Standing.SYNCED, 1, ("a", "b"), "boot")
    state = State(record, "run", Replica(), links=(LinkReport("b", "up", 1, 0),))  # type: ignore[arg-type]
    assert fits(record, Record) and not fits(state, State), "a word where one of ours belongs"
    assert not fits(record._replace(epoch=True), Record) and not fits(record._replace(in_sync="ab"), Record)
    assert not fits(Heard(record), Heard)  # type: ignore[arg-type]
