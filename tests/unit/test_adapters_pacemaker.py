"""Pacemaker's fencing history: what was captured, what is read in it, and when it is asked for."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartgate.adapters import pacemaker
from heartgate.adapters.base import AdapterError, FenceSeen
from heartgate.adapters.process import Completed

DATA = Path(__file__).parent / "data"


def test_history_of_pacemaker_2():
    (seen,) = pacemaker.parse_history((DATA / "fence-history-2.1.5.xml").read_text())
    assert (seen.node, seen.done, seen.ok, seen.manual) == ("nodeb", True, True, False)


def test_a_person_who_vouches_is_told_apart():
    (seen,) = pacemaker.parse_history((DATA / "fence-history-manual-2.1.5.xml").read_text())
    assert (seen.node, seen.done, seen.ok, seen.manual) == ("nodeb", True, True, True)


def event(**attributes):
    values = {
        "action": "reboot",
        "target": "b",
        "client": "c",
        "origin": "a",
        "status": "success",
        "delegate": "a",
        **attributes,
    }
    return "<fence_event " + " ".join(f'{key}="{value}"' for key, value in values.items()) + "/>"


def history(*events):
    inner = "".join(events)
    return f"<pacemaker-result api-version='2.38'><fence_history status='0'>{inner}</fence_history></pacemaker-result>"


def test_a_request_is_known_again_when_it_has_ended():
    (begun,) = pacemaker.parse_history(history(event(status="pending", delegate="")))
    (ended,) = pacemaker.parse_history(history(event(completed="2026-11-21 13:33:20Z")))
    (another,) = pacemaker.parse_history(history(event(client="d")))
    assert begun.request == ended.request != another.request and begun.key != ended.key and not begun.done


def test_only_success_is_ok():
    seen = pacemaker.parse_history(
        history(*(event(status=word) for word in ("success", "failed", "pending", "dreamt", "")))
    )
    assert [(entry.done, entry.ok) for entry in seen] == [(True, True), (True, False)] + [(False, False)] * 3


def test_history_of_pacemaker_3():
    """In the words of its st_output.c: microseconds, a number beside "pending", "a human" as ever. Not captured from a cluster."""
    seen = pacemaker.parse_history(
        history(
            event(status="pending", **{"extended-status": "3"}),
            event(completed="2025-11-28 09:30:00.250000Z"),
            event(completed="2025-11-28 09:30:00.125000Z", delegate="a human", action="off"),
        )
    )
    assert [(entry.done, entry.ok, entry.manual) for entry in seen] == [
        (False, False, False), (True, True, False), (True, True, True),
    ]  # fmt: skip
    assert len({entry.key for entry in seen}) == 3


def test_unfencing_is_no_fencing_and_people_are_told_apart():
    seen = pacemaker.parse_history(history(event(action="on"), event(action="off", delegate="a human")))
    assert [(entry.node, entry.manual) for entry in seen] == [("b", True)]


def test_equal_entries_keep_their_keys_when_more_arrive():
    first = pacemaker.parse_history(history(event()))
    second = pacemaker.parse_history(history(event(), event()))
    assert second[-1].key == first[0].key and second[0].key != second[1].key


AT = 1_795_268_000.0  # 2026-11-21 13:33:20 UTC


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-11-21 13:33:20Z", AT),
        ("2026-11-21 14:33:20 +01:00", AT),
        ("2026-11-21 08:03:20 -0530", AT),
        ("2026-11-21 13:33:20", AT),
        ("2026-11-21T13:33:20.25Z", AT + 0.25),
        ("2026-11-21 14:33:20.250000123 +01:00", AT + 0.25),
        ("", None),
        ("Sat Nov 21 13:33:20 2026", None),
        ("2026-11-31 13:33:20Z", None),
        ("2026-11-21 13:33:20 CET", None),
        ("1970-01-03 11:12:13Z", None),  # the time since the boot, as some versions have it
        ("9999-12-31 23:59:59 -12:00", None),
        ("0001-01-01 00:00:00 +12:00", None),
    ],
)
def test_when_a_fencing_was_complete(text, seconds):
    (seen,) = pacemaker.parse_history(history(event(completed=text)))
    assert seen.completed_s == seconds


def test_an_entry_is_the_same_one_in_every_time_zone():
    written = ("2026-11-21 13:33:20Z", "2026-11-21 14:33:20 +01:00", "2026-11-21 13:33:20")
    keys = {pacemaker.parse_history(history(event(completed=text)))[0].key for text in written}
    assert len(keys) == 1
    assert pacemaker.parse_history(history(event(completed="2026-11-21 13:33:21Z")))[0].key not in keys


def ran(monkeypatch, *answers):
    """Programs answer that, one after the other; returns (argv, timeout_s, env) of each."""
    calls, left = [], list(answers)

    def run(argv, *, timeout_s, env=None):
        calls.append((argv, timeout_s, env))
        return left.pop(0)

    monkeypatch.setattr(pacemaker, "run", run)
    return calls


def test_the_whole_history_is_asked_for_in_utc(monkeypatch):
    calls = ran(monkeypatch, Completed(0, history(), ""))
    assert pacemaker.PacemakerCluster("a").fence_history(10.0) == []
    assert calls == [(["stonith_admin", "--history", "*", "--verbose", "--output-as=xml"], 10.0, {"TZ": "UTC"})]


OWN, HUMAN = event(), event(action="off", delegate="a human")


@pytest.mark.parametrize(
    ("answer", "manual"),
    [
        (Completed(0, history(OWN), ""), False),
        (Completed(0, history(HUMAN, OWN), ""), True),
        (Completed(0, history(OWN, HUMAN), ""), False),
        (Completed(0, history(event(target="c", delegate="a human"), event(status="pending"), HUMAN), ""), True),
        (Completed(0, history(event(status="failed"), HUMAN), ""), False),
        (Completed(0, history(), ""), False),
        (Completed(0, "garbage", ""), False),
        (Completed(124, "", "ended: deadline passed"), False),
    ],
)
def test_who_completed_a_fencing(monkeypatch, answer, manual):
    """A look that fails changes nothing but the word."""
    calls = ran(monkeypatch, Completed(0, "off\n", ""), Completed(0, "", ""), answer)
    outcome = pacemaker.PacemakerCluster("a").fence("b", 60.0)
    assert outcome.ok and outcome.manual is manual
    assert outcome.how == ("confirmed by a person" if manual else "fenced (fence)")
    assert calls[1][0][:3] == ["stonith_admin", "--fence", "b"] and calls[2][1] <= pacemaker.LOOK_S


def test_a_failed_fencing_is_not_looked_at(monkeypatch):
    calls = ran(monkeypatch, Completed(0, "reboot\n", ""), Completed(1, "", "no device"))
    outcome = pacemaker.PacemakerCluster("a").fence("b", 60.0)
    assert not outcome.ok and not outcome.manual and len(calls) == 2


@given(st.text(max_size=200))
def test_any_text_is_a_history_or_an_error(text):
    for document in (text, history(text)):
        with contextlib.suppress(AdapterError):
            assert all(isinstance(entry, FenceSeen) for entry in pacemaker.parse_history(document))
