"""The rules of one heartbeat interface that need the facts of its own host alone."""

from __future__ import annotations

from typing import Tuple

from heartgate.checks.findings import apply_waivers, parse_waivers
from heartgate.checks.heartbeat_rules import LINK_RULES, RULES
from heartgate.checks.link_report import Question, Report
from heartgate.checks.links import Addressing, Plan
from heartgate.checks.model import HostFacts
from heartgate.checks.planning import make_plan

# An event of its own: a node that boots alone has no carrier on a direct cable, and has to work all the same.
LIVE_RULES = frozenset({"carrier"})
# Without carrier there may be no address and no route yet: then these tell nothing.
NEED_CARRIER = frozenset({"addressing", "network", "corosync-link"})


def judge(local: HostFacts, question: Question) -> Report:
    """The rules of one link that need this host's facts alone. Raises PlanError and WaiverError."""
    waivers = parse_waivers(question.waivers, RULES)
    plan = _plan(local, question)
    item = local.interface(question.interface)
    link = plan.heartbeats[0]
    skipped = LIVE_RULES if item is not None and item.carrier is True else LIVE_RULES | NEED_CARRIER
    found = [
        each for rule in LINK_RULES if rule.info.rule not in skipped for each in rule.judge(link, plan, rule.info)
    ]
    return Report(
        item.name if item else None,
        item.carrier if item else None,
        item.speed_mbit if item else None,
        _links_on(local, item.name) if item else (),
        apply_waivers(found, waivers),
    )


def _plan(local: HostFacts, question: Question) -> Plan:
    client = (question.client_interface, None) if question.client_interface else None
    syncs = [(name, None) for name in question.sync_interfaces]
    beats = [(question.interface, None)]
    return make_plan(local, None, beats, syncs, client, addressing=Addressing(question.addressing))


def _links_on(local: HostFacts, name: str) -> Tuple[int, ...]:
    paths = local.corosync.paths if local.corosync else ()
    owners = {path.link: local.by_address(path.local) for path in paths}
    found = {path.link for path in paths if path.interface == name}
    return tuple(sorted(found | {link for link, owner in owners.items() if owner is not None and owner.name == name}))
