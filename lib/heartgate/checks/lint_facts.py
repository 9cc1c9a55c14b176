"""What the lint looks at: the configurations of one host, parsed; and what could not be read, with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Optional, Tuple

from heartgate.checks.cib_conf import Cib
from heartgate.checks.corosync_conf import CorosyncConf
from heartgate.checks.drbd_conf import Resource
from heartgate.checks.findings import Finding, RuleInfo, Severity
from heartgate.checks.storage_conf import Lio, Sbd

GUARD_AGENT = "ocf:heartgate:replica-guard"


@dataclass(frozen=True)
class Unreadable:
    """A source that could not be looked at (`broken` False: no permission, no answer) or does not parse (`broken` True)."""

    what: str
    why: str
    broken: bool = False


@dataclass(frozen=True)
class LintFacts:
    """One host. None: the host has no such thing, or `unreadable` says why it is not known.

    drbd: the files (`drbdadm dump`); drbd_running: the kernel (`drbdsetup show`). networks: the networks that the host's
    interfaces are in, "10.0.0.0/24"; None if not known.
    """

    host: str
    corosync: Optional[CorosyncConf] = None
    cib: Optional[Cib] = None
    drbd: Optional[Tuple[Resource, ...]] = None
    drbd_running: Optional[Tuple[Resource, ...]] = None
    sbd: Optional[Sbd] = None
    lio: Optional[Lio] = None
    networks: Optional[Tuple[str, ...]] = None
    unreadable: Tuple[Unreadable, ...] = ()


def table(*rules: RuleInfo) -> Mapping[str, RuleInfo]:
    return {rule.rule: rule for rule in rules}


@dataclass(frozen=True)
class Reporter:
    """Makes findings of one table of rules for one host."""

    rules: Mapping[str, RuleInfo]
    host: str

    def found(
        self, rule: str, subject: str, evidence: str, remedy: str, *, severity: Optional[Severity] = None, local: bool = True
    ) -> Finding:
        """severity: another than the rule's own. local False: it is about the cluster, not about this host."""
        nodes = (self.host,) if local and self.host else ()
        return Finding(rule, severity or self.rules[rule].severity, subject, evidence, remedy, nodes)
