"""Findings for a person: grouped by what they are about, worst first, each with what to do. And the same for programs."""

from __future__ import annotations

import textwrap
from itertools import groupby
from typing import Any, Dict, List, Mapping, Sequence

from heartgate.checks.findings import Finding, RuleInfo, Severity, Waiver
from heartgate.checks.links import Link, Plan

WIDTH = 110
FORMAT, VERSION = "heartgate-check", 1


def page(plan: Plan, findings: Sequence[Finding], waivers: Sequence[Waiver], rules: Mapping[str, RuleInfo]) -> str:
    lines = [_head(plan)]
    for subject, group in groupby(findings, key=lambda each: each.subject):
        lines += ["", subject]
        for finding in group:
            lines += _finding(finding, rules)
    clean = [link.subject for link in plan.heartbeats if link.subject not in {each.subject for each in findings}]
    lines += ["", *(f"{subject}: nothing found" for subject in clean)]
    lines += [f"The waiver of {_waiver(each)} was not needed ({each.reason})" for each in _idle(findings, waivers)]
    return "\n".join([*lines, _counts(findings)])


def _head(plan: Plan) -> str:
    def listed(links: Sequence[Link]) -> str:
        return " ".join(link.subject for link in links) or "none known"

    nodes = " and ".join(host.host for host in plan.hosts)
    syncs = "not known" if plan.syncs is None else listed(plan.syncs)
    client = plan.client.subject if plan.client else "none known"
    return f"Looked at {nodes}. Heartbeats: {listed(plan.heartbeats)}; replication: {syncs}; clients: {client}."


def _finding(finding: Finding, rules: Mapping[str, RuleInfo]) -> List[str]:
    info = rules.get(finding.rule)
    rule = f"{finding.rule} ({info.requirement})" if info and info.requirement else finding.rule
    word = "waived" if finding.waived is not None else finding.severity.value.upper()
    lines = _wrapped(f"  {word:<8}{rule}: {finding.evidence}.", "          ")
    if finding.waived is not None:
        return [*lines, *_wrapped(f"          waived ({finding.severity.value}): {finding.waived}", "            ")]
    return [*lines, *_wrapped(f"          -> {finding.remedy}.", "             ")]


def _wrapped(text: str, indent: str) -> List[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _idle(findings: Sequence[Finding], waivers: Sequence[Waiver]) -> List[Waiver]:
    return [
        each for each in waivers if not any(one.rule == each.rule and each.subject in (None, one.subject) for one in findings)
    ]


def _waiver(waiver: Waiver) -> str:
    return waiver.rule + (f"@{waiver.subject}" if waiver.subject else "")


def _counts(findings: Sequence[Finding]) -> str:
    counted = [
        (sum(each.severity is severity and each.waived is None for each in findings), severity.value) for severity in Severity
    ]
    shown = [f"{count} {word}{'s' if count != 1 and word != 'unknown' else ''}" for count, word in counted if count]
    waived = sum(each.waived is not None for each in findings)
    return "Found: " + (", ".join([*shown, *([f"{waived} waived"] if waived else [])]) or "nothing") + "."


def as_data(
    plan: Plan, findings: Sequence[Finding], waivers: Sequence[Waiver], rules: Mapping[str, RuleInfo], code: int
) -> Dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "hosts": [{"host": host.host, "heartgate": host.heartgate} for host in plan.hosts],
        "heartbeats": [_link(link) for link in plan.heartbeats],
        "syncs": None if plan.syncs is None else [_link(link) for link in plan.syncs],
        "client": _link(plan.client) if plan.client else None,
        "findings": [_data(finding, rules) for finding in findings],
        "idle_waivers": [_waiver(each) for each in _idle(findings, waivers)],
        "exit_code": code,
    }


def _link(link: Link) -> Dict[str, Any]:
    return {"subject": link.subject, "ends": [{"host": end.host.host, "interface": end.name} for end in link.ends]}


def _data(finding: Finding, rules: Mapping[str, RuleInfo]) -> Dict[str, Any]:
    info = rules.get(finding.rule)
    return {
        "rule": finding.rule,
        "requirement": info.requirement if info else "",
        "severity": finding.severity.value,
        "subject": finding.subject,
        "nodes": list(finding.nodes),
        "evidence": finding.evidence,
        "remedy": finding.remedy,
        "waived": finding.waived,
    }
