"""The report of `heartgate status`: all reasons, worst first, the one word that follows from them, and the rows."""

from __future__ import annotations

from typing import Dict, Iterator, List, Sequence

from heartgate.checks import status_cluster, status_devices
from heartgate.checks.heartbeats import Channel, Heartbeat
from heartgate.checks.status_model import DeviceRow, Health, Missing, Reason, Report, StatusFacts, Unknown
from heartgate.checks.status_reasons import say, worst_first


def report(facts: StatusFacts) -> Report:
    found = worst_first([*status_devices.reasons(facts), *status_cluster.reasons(facts), *_heartbeats(facts)])
    if health(found) in (Health.DEGRADED, Health.PROTECTED):
        found = worst_first([*found, *_no_spare(facts)])
    return Report(
        node=facts.node,
        at_ms=facts.at_ms,
        health=health(found),
        reasons=found,
        serving=tuple(status_devices.serving(facts, each) for each in facts.devices),
        devices=tuple(DeviceRow(each, status_devices.rows(facts, each)) for each in facts.devices),
        heartbeats=facts.configured if isinstance(facts.heartbeats, Missing) else facts.heartbeats,
        unknown=tuple(_unknown(facts)),
        facts=facts,
    )


def health(reasons: Sequence[Reason]) -> Health:
    """The worst of them. Without any, everything was looked at and nothing found."""
    levels = {each.level for each in reasons}
    return next((each for each in Health if each in levels), Health.PROTECTED)


def _no_spare(facts: StatusFacts) -> Iterator[Reason]:
    """Nothing was found to be wrong: then somebody has to be there who could take over."""
    for device in facts.devices:
        if not status_devices.spare(facts, device):
            yield say("no-spare", device.name, f"{device.name}: no replica is known that could take over",
                      f"see the replicas of {device.name} below, and heartgate status on the other nodes")  # fmt: skip


# --- heartbeats


def _heartbeats(facts: StatusFacts) -> Iterator[Reason]:
    if isinstance(facts.heartbeats, Missing):
        missing = facts.heartbeats
        remedy = "ask as root: sudo heartgate status" if missing.refused else "see what heartgate heartbeat list says"
        remedy = remedy if missing.asked else "leave --quick out"
        yield say("heartbeats-unknown", facts.node, f"{facts.node}: {missing.why}", remedy)
        return
    by_node: Dict[str, List[Heartbeat]] = {}
    for each in facts.heartbeats:
        by_node.setdefault(each.node, []).append(each)
    for node in status_devices.members(facts):
        if node != facts.node and node not in by_node:
            yield say("no-heartbeat", node, f"no heartbeat to {node} is configured", "heartgate heartbeat add HOST HOST",
                      status_devices.node_level(facts, node))  # fmt: skip
    for node, links in by_node.items():
        yield from _to(facts, node, links)


def _to(facts: StatusFacts, node: str, links: Sequence[Heartbeat]) -> Iterator[Reason]:
    """All heartbeats to one node. One works when both of its channels do."""
    works = [each for each in links if _all(each, Channel.UP)]
    unclear = [each for each in links if each not in works and each.state is not Channel.DOWN]
    if not works and not unclear:
        told = "; ".join(f"{name(each)}: {channels(each)}" for each in links)
        yield say("no-heartbeat", node, f"no heartbeat to {node} works ({told})",
                  f"is {node} on? then see the cables and switches of every heartbeat",
                  status_devices.node_level(facts, node))  # fmt: skip
        return
    for each in links:
        if each.state is Channel.DOWN:
            yield say("heartbeat-down", node, f"{name(each)} to {node} is down ({channels(each)}){_way(each)}",
                      "see its cable, adapters and addresses; heartgate heartbeat list")  # fmt: skip
        elif each in unclear:
            yield say("heartbeat-unknown", node, f"{name(each)} to {node}: {each.reason or 'not known whether it works'}",
                      "heartgate heartbeat list --seconds 10")  # fmt: skip
    if len(works) == 1 and not unclear:
        left = f"one heartbeat to {node} is left: {name(works[0])}"
        which = left if len(links) > 1 else f"there is only one heartbeat to {node}"
        remedy = "mend the others" if len(links) > 1 else "heartgate heartbeat add HOST HOST, over an adapter of its own"
        yield say("one-heartbeat", node, which, remedy)


def _all(each: Heartbeat, value: Channel) -> bool:
    return each.state is value and each.sending is value and each.receiving is value


def name(each: Heartbeat) -> str:
    return f"link {each.name}" if each.kind == "network" else each.name


def channels(each: Heartbeat) -> str:
    return f"sending {each.sending.value}, receiving {each.receiving.value}"


def _way(each: Heartbeat) -> str:
    return f", {each.local or '?'} -> {each.remote or '?'}" if each.local or each.remote else ""


# --- what is not known


def _unknown(facts: StatusFacts) -> Iterator[Unknown]:
    """Each source that told nothing, and what that hides."""
    if isinstance(facts.daemon, Missing):
        hides = "roles, replication links, what other nodes say, bytes out of sync"
        yield Unknown("heartgated", facts.daemon.why, hides)
    if facts.records is not None:
        yield Unknown("records", facts.records.why, "standings and proofs")
    if isinstance(facts.pacemaker, Missing):
        yield Unknown("Pacemaker", facts.pacemaker.why, "where resources run, fencings, maintenance, quorum")
    if isinstance(facts.config, Missing):
        yield Unknown("configuration", facts.config.why, "whether it would let a failover happen")
    else:
        for each in facts.config.unreadable:
            yield Unknown(each.what, each.why, "whether the configuration would let a failover happen")
        if facts.config.cib is not None and facts.config.cib.source.startswith("/"):
            hides = "what was changed on other nodes since this one was in the cluster"
            yield Unknown("CIB", f"{facts.config.cib.source} was read instead", hides)
    if isinstance(facts.heartbeats, Missing):
        yield Unknown("Corosync", facts.heartbeats.why, "whether any heartbeat works")
    for device in facts.devices:
        if device.live is not None and device.live.lacks_unknown:
            yield Unknown(device.name, device.live.lacks_unknown, "bytes out of sync")
