"""`heartgate budget`: the timeout budget of this node's configuration, and what to change. Looks, and changes nothing."""

from __future__ import annotations

import argparse
import json
import os
from typing import TYPE_CHECKING, Any, Dict, List, Sequence

if TYPE_CHECKING:
    from heartgate.checks.budget import Budget, Inequality
    from heartgate.checks.findings import Finding
    from heartgate.checks.lint_facts import LintFacts

EPILOG = """Exit codes of budget:
  0  every inequality holds
  1  one whose breach is a warning does not hold
  2  one whose breach is an error does not hold
  3  something is not known, and no error was found"""


def add_arguments(commands: Any) -> None:
    parser = commands.add_parser("budget", help="whether the stack's time limits fit together, and what to change")
    parser.set_defaults(run=run)
    parser.description = (
        "Compares the time limits of Corosync, DRBD, SBD, Pacemaker and heartgate on this node (docs/timeouts.md). "
        "Changes nothing."
    )
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--all", action="store_true", help="show also what holds")
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    parser.add_argument("--corosync-conf", default=None, metavar="FILE", help="default: /etc/corosync/corosync.conf")


def run(options: argparse.Namespace) -> int:
    from heartgate.adapters.cluster_config import Collector, Places
    from heartgate.checks import budget as judge
    from heartgate.checks.budget_quantities import build
    from heartgate.checks.findings import exit_code, worst_first

    places = Places(corosync=options.corosync_conf) if options.corosync_conf else Places()
    facts = Collector(places).facts(os.uname().nodename)
    found = build(facts)
    findings = worst_first([*judge.findings(found), *unreadable(facts)])
    code = exit_code(findings)
    if options.json:
        print(json.dumps(as_data(found, findings, code), indent=2, sort_keys=True))
    else:
        print(page(found, findings, options.all))
    return code


def unreadable(facts: LintFacts) -> List[Finding]:
    """A configuration that could not be read leaves out its inequalities: that is no clean budget."""
    from heartgate.checks import config_lint

    return [each for each in config_lint.findings(facts) if each.rule in ("config-unreadable", "config-syntax")]


def page(budget: Budget, findings: Sequence[Finding], everything: bool) -> str:
    from heartgate.checks.budget import Status, sentence

    lines: List[str] = []
    for finding in findings:
        lines += [
            f"{finding.severity.value.upper():8} {finding.rule} ({finding.subject})",
            f"    {finding.evidence}",
            f"    {finding.remedy}",
        ]
    if everything:
        for item in budget.inequalities:
            if budget.status(item) is Status.HOLDS:
                lines += [f"HOLDS    {item.law.name} ({item.subject})", f"    {sentence(budget, item)}"]
    conflict = budget.conflict()
    if conflict:
        lines += ["", "Smallest conflict: " + ", ".join(f"{item.name} ({item.where})" for item in conflict)]
    changes = budget.change()
    if changes:
        lines += ["Least change that mends everything:", *(f"    {change}" for change in changes)]
    elif changes is None:
        lines.append("No change of settings mends everything.")
    states = [budget.status(item) for item in budget.inequalities]
    counts = ", ".join(f"{states.count(status)} {word}" for status, word in (
        (Status.HOLDS, "hold"), (Status.VIOLATED, "do not"), (Status.UNKNOWN, "not known")))  # fmt: skip
    return "\n".join([*lines, *([""] if lines else []), f"{len(states)} inequalities: {counts}"])


def as_data(budget: Budget, findings: Sequence[Finding], code: int) -> Dict[str, Any]:
    changes = budget.change()
    conflict = budget.conflict()
    return {
        "quantities": {
            name: {"ms": item.ms, "where": item.where, "setting": item.setting} for name, item in budget.quantities.items()
        },
        "inequalities": [_inequality(budget, item) for item in budget.inequalities],
        "findings": [
            {
                "rule": each.rule,
                "severity": each.severity.value,
                "subject": each.subject,
                "evidence": each.evidence,
                "remedy": each.remedy,
            }
            for each in findings
        ],
        "conflict": None if conflict is None else [item.name for item in conflict],
        "changes": None
        if changes is None
        else [{"quantity": each.quantity.name, "ms": each.ms, "text": str(each)} for each in changes],
        "exit_code": code,
    }


def _inequality(budget: Budget, item: Inequality) -> Dict[str, Any]:
    from heartgate.checks.budget import sentence

    return {"rule": item.law.name, "subject": item.subject, "status": budget.status(item).value, "text": sentence(budget, item)}
