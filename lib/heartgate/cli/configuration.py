"""What `heartgate check` says of this node's configuration: the lint of corosync.conf, fencing, DRBD, SBD and LIO, and the
timeout budget."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Mapping, Optional, Tuple

if TYPE_CHECKING:
    from heartgate.checks.findings import Finding, RuleInfo


def rules() -> Mapping[str, RuleInfo]:
    from heartgate.checks import budget, config_lint

    return {**config_lint.RULES, **budget.RULES}


def findings(corosync_conf: Optional[str] = None, host: Optional[str] = None) -> Tuple[Finding, ...]:
    """Blocks, some seconds at most. host: this node's name in the cluster (default: its host name)."""
    from heartgate.adapters.cluster_config import Collector, Places
    from heartgate.checks import budget, config_lint
    from heartgate.checks.budget_quantities import build

    places = Places(corosync=str(corosync_conf)) if corosync_conf else Places()
    facts = Collector(places).facts(host or os.uname().nodename)
    return (*config_lint.findings(facts), *budget.findings(build(facts)))
