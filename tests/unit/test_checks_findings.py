"""Findings, waivers and the exit code of a check."""

from __future__ import annotations

import pytest

from heartgate.checks.findings import (
    Finding,
    RuleInfo,
    Severity,
    WaiverError,
    apply_waivers,
    exit_code,
    parse_waivers,
    worst_first,
)

RULES = {"vlan": RuleInfo("vlan", Severity.ERROR, "B3", "no VLAN"), "speed": RuleInfo("speed", Severity.WARNING, "B5", "fast")}


def found(rule: str, severity: Severity, subject: str = "hb0") -> Finding:
    return Finding(rule, severity, subject, "seen", "mend it")


@pytest.mark.parametrize(
    "text, said",
    [
        ("vlam=lab", 'no rule "vlam"; the rules are speed, vlan'),
        ("vlan", "gives no reason: write vlan=WHY"),
        ("vlan@hb0= ", "gives no reason: write vlan@hb0=WHY"),
    ],
)
def test_a_bad_waiver_is_named(text: str, said: str) -> None:
    with pytest.raises(WaiverError, match=said):
        parse_waivers(text, RULES)


def test_a_waiver_marks_and_keeps() -> None:
    waivers = parse_waivers("vlan@hb0=only a lab; speed=old cards = fine", RULES)
    assert [(each.rule, each.subject, each.reason) for each in waivers] == [
        ("vlan", "hb0", "only a lab"), ("speed", None, "old cards = fine")]
    before = [found("vlan", Severity.ERROR), found("vlan", Severity.ERROR, "hb1"), found("speed", Severity.WARNING)]
    after = apply_waivers(before, waivers)
    assert [each.waived for each in after] == ["only a lab", None, "old cards = fine"]
    assert exit_code(after) == 2
    assert exit_code(after[:1] + after[2:]) == 0


def test_exit_codes() -> None:
    assert exit_code([]) == 0
    assert exit_code([found("a", Severity.NOTE)]) == 0
    assert exit_code([found("a", Severity.WARNING)]) == 1
    assert exit_code([found("a", Severity.WARNING), found("b", Severity.UNKNOWN)]) == 3
    assert exit_code([found("a", Severity.ERROR), found("b", Severity.UNKNOWN)]) == 2


def test_worst_first() -> None:
    listed = [found("n", Severity.NOTE, "a"), found("w", Severity.WARNING, "b"), found("e", Severity.ERROR, "b")]
    assert [each.rule for each in worst_first(listed)] == ["e", "w", "n"]
