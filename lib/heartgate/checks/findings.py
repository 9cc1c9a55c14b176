"""What a check says: findings with a rule id, a severity, the evidence and the remedy; waivers; the order of a report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Dict, Iterable, List, Mapping, Optional, Sequence, Tuple


class Severity(Enum):
    """Worst first. `UNKNOWN`: the check could not look, which is never the same as clean."""

    ERROR = "error"
    UNKNOWN = "unknown"
    WARNING = "warning"
    NOTE = "note"


_ORDER = {severity: place for place, severity in enumerate(Severity)}


@dataclass(frozen=True)
class Finding:
    """One thing that a person should know.

    `subject`: what it is about ("hb0", "corosync.conf", "device data"). `nodes`: the nodes concerned, empty for the cluster as a
    whole. `evidence`: what was seen, in a sentence. `remedy`: what to do, in a sentence. `waived`: the reason that a person gave.
    """

    rule: str
    severity: Severity
    subject: str
    evidence: str
    remedy: str
    nodes: Tuple[str, ...] = ()
    waived: Optional[str] = None

    @property
    def counts(self) -> bool:
        """Whether it decides the exit code: not waived, and more than a note."""
        return self.waived is None and self.severity is not Severity.NOTE


@dataclass(frozen=True)
class RuleInfo:
    """A line of the table of rules. `requirement`: the id in requirements.md, empty if none. `about`: what it asks for, and why."""

    rule: str
    severity: Severity
    requirement: str
    about: str


@dataclass(frozen=True)
class Waiver:
    """A person's "I know": `subject` None waives the rule everywhere."""

    rule: str
    reason: str
    subject: Optional[str] = None


class WaiverError(ValueError):
    """A waiver that cannot be understood; the text is for the person who wrote it."""


def parse_waivers(text: str, known: Mapping[str, RuleInfo]) -> Tuple[Waiver, ...]:
    """`RULE[@SUBJECT]=REASON`, several separated by ";". Raises WaiverError for an unknown rule or a missing reason."""
    waivers: List[Waiver] = []
    for part in (piece.strip() for piece in text.split(";")):
        if not part:
            continue
        name, separator, reason = part.partition("=")
        rule, _, subject = name.strip().partition("@")
        if rule not in known:
            raise WaiverError(f'waiver "{part}": there is no rule "{rule}"; the rules are {", ".join(sorted(known))}')
        if not separator or not reason.strip():
            raise WaiverError(f'waiver "{part}" gives no reason: write {name.strip()}=WHY')
        waivers.append(Waiver(rule, reason.strip(), subject or None))
    return tuple(waivers)


def apply_waivers(findings: Iterable[Finding], waivers: Sequence[Waiver]) -> Tuple[Finding, ...]:
    """The findings, those that somebody waived marked so. They stay in the report."""
    return tuple(_waived(finding, waivers) for finding in findings)


def _waived(finding: Finding, waivers: Sequence[Waiver]) -> Finding:
    for waiver in waivers:
        if waiver.rule == finding.rule and waiver.subject in (None, finding.subject):
            return replace(finding, waived=waiver.reason)
    return finding


def worst_first(findings: Iterable[Finding]) -> Tuple[Finding, ...]:
    """Grouped by subject, the subject with the worst finding first; within one, worst first; what is waived comes last."""
    def rank(finding: Finding) -> Tuple[int, int]:
        return (int(finding.waived is not None), _ORDER[finding.severity])

    listed = list(findings)
    worst: Dict[str, Tuple[int, int]] = {}
    for each in listed:
        worst[each.subject] = min(rank(each), worst.get(each.subject, rank(each)))
    return tuple(sorted(listed, key=lambda each: (worst[each.subject], each.subject, rank(each), each.rule, each.nodes)))


def exit_code(findings: Iterable[Finding]) -> int:
    """0 clean, 1 warnings, 2 errors, 3 could not look at everything (and found no error)."""
    severities = {finding.severity for finding in findings if finding.counts}
    if Severity.ERROR in severities:
        return 2
    if Severity.UNKNOWN in severities:
        return 3
    return 1 if Severity.WARNING in severities else 0
