"""The lint of a cluster's configuration: corosync.conf, Pacemaker's fencing, DRBD, SBD, LIO. Pure; `adapters/cluster_config.py`
collects the facts. What could not be read is a finding too, never silence."""

from __future__ import annotations

from typing import Iterator, Mapping, Tuple

from heartgate.checks import lint_corosync, lint_fencing, lint_storage
from heartgate.checks.findings import Finding, RuleInfo, Severity
from heartgate.checks.lint_facts import LintFacts, Reporter, Unreadable, table

__all__ = ["RULES", "LintFacts", "Unreadable", "findings"]

_OWN = table(
    RuleInfo("config-unreadable", Severity.UNKNOWN, "", "Every configuration could be read."),
    RuleInfo("config-syntax", Severity.ERROR, "", "Every configuration parses."),
)
RULES: Mapping[str, RuleInfo] = {**_OWN, **lint_corosync.RULES, **lint_fencing.RULES, **lint_storage.RULES}


def findings(facts: LintFacts) -> Tuple[Finding, ...]:
    """Everything about one host."""
    parts = (lint_corosync.findings(facts), lint_fencing.findings(facts), lint_storage.findings(facts))
    return tuple(_unreadable(facts)) + tuple(finding for part in parts for finding in part)


def _unreadable(facts: LintFacts) -> Iterator[Finding]:
    report = Reporter(RULES, facts.host)
    for item in facts.unreadable:
        if item.broken:
            yield report.found("config-syntax", item.what, item.why, "correct that line; nothing else in it could be checked")
        else:
            yield report.found(
                "config-unreadable", item.what, item.why, "make it readable (as root, the cluster running) and check again"
            )
