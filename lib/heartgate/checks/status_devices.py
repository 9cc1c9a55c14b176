"""Who serves each guarded device, who could take it over, and what of its replicas speaks against a failover."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Iterator, List, Optional, Tuple

from heartgate.checks.heartbeats import Channel
from heartgate.checks.status_model import (
    SERVING,
    Daemon,
    Device,
    Health,
    Live,
    Missing,
    Reason,
    Replica,
    Served,
    Serving,
    StatusFacts,
)
from heartgate.checks.status_reasons import say

if TYPE_CHECKING:
    from heartgate.checks.cib_conf import Cib
    from heartgate.checks.crm_mon import Instance

FALSE = ("0", "false", "off", "no", "n")  # as Pacemaker reads a boolean
DRBD_AGENT = "ocf:linbit:drbd"
STALE_MS = 5000  # ten beats
WAIT = "mend the replication link, or wait for the verdict"
MEND = "mend the replication link between {nodes} (cable, switch, address)"


# --- rows


def rows(facts: StatusFacts, device: Device) -> Tuple[Replica, ...]:
    """One for each node with a replica, highest priority first."""
    live = device.live
    if live is None:
        standing, mine = "unknown" if device.error else device.standing, device.priorities.get(facts.node)
        own = Replica(facts.node, "written", standing, device.epoch, device.since_ms, mine)
        others = [node for node in device.nodes if node != facts.node]
        return (own, *(Replica(node, "not heard", priority=device.priorities.get(node)) for node in others))
    return tuple(_row(facts, device, live, node) for node in device.nodes or (facts.node,))


def _row(facts: StatusFacts, device: Device, live: Live, node: str) -> Replica:
    priority = device.priorities.get(node)
    if node == facts.node:
        return Replica(node, "here", device.shown, device.epoch, device.since_ms, priority, live.role, live.disk)
    link, word = live.links.get(node), live.peers.get(node)
    sync, lacks = link.link if link else "unknown", live.lacks.get(node)
    if word is None:
        return Replica(node, "not heard", priority=priority, sync=sync, lacks_bytes=lacks)
    standing = "resyncing" if word.standing == "blocked" and sync == "up" and word.disk != "uptodate" else word.standing
    return Replica(node, "heard", standing, word.epoch, None, priority, word.role, word.disk, sync, lacks)


# --- who serves


def serving(facts: StatusFacts, device: Device) -> Serving:
    live, found = device.live, rows(facts, device)
    promoted = _promoted(facts, device)
    if live is None:
        why = "its record cannot be used" if device.error else "heartgated does not run here"
        return Serving(device.name, Served.UNKNOWN, promoted, f"not known: {why}{_pacemakers_word(promoted)}")
    active = [row for row in found if row.role == "primary"]
    good = [row for row in active if row.standing in SERVING and (row.source != "here" or live.frozen is False)]
    if good:
        words = " and ".join(f"{row.node} serves{' alone' if row.standing == 'solo' else ''}" for row in good)
        return Serving(device.name, Served.SERVED, _names(good), f"{words} (Primary, {good[0].standing})")
    stopped = [row for row in active if row.standing == "deciding" or _frozen(row, live)]
    if stopped:
        words = f"{stopped[0].node} is FROZEN (Primary, {stopped[0].standing}): its I/O stands still"
        return Serving(device.name, Served.FROZEN, _names(stopped), words)
    return _unused(device, live, found, promoted)


def _unused(device: Device, live: Live, found: Tuple[Replica, ...], promoted: Tuple[str, ...]) -> Serving:
    """No node that can be heard has it Promoted."""
    ready = [row for row in found if row.standing in SERVING]
    unheard = [row.node for row in found if row.source == "not heard"]
    said = "; ".join([*(_standing(row) for row in found if row.source != "not heard"), *(f"{n} is not heard" for n in unheard)])
    blind = [row.node for row in found if row.role == "unknown" and row.source != "not heard" or _maybe_frozen(row, live)]
    if (unheard or blind) and not any(row.standing == "solo" and row.role == "secondary" for row in ready):
        return Serving(device.name, Served.UNKNOWN, promoted, f"not known: {said}{_pacemakers_word(promoted)}")
    if ready:
        words = f"nobody has it Promoted; {' and '.join(_names(ready))} may serve"
        return Serving(device.name, Served.READY, _names(ready), words)
    return Serving(device.name, Served.NOBODY, (), f"NOBODY MAY SERVE: {said}")


def _maybe_frozen(row: Replica, live: Live) -> bool:
    return row.source == "here" and row.role == "primary" and live.frozen is None


def _standing(row: Replica) -> str:
    blind = ", and its replication tells nothing" if row.role == "unknown" else ""
    return f"{row.node} is {row.standing}{blind}"


def _pacemakers_word(promoted: Tuple[str, ...]) -> str:
    return f". Pacemaker has it promoted on {' and '.join(promoted)}" if promoted else ""


def _frozen(row: Replica, live: Live) -> bool:
    return row.source == "here" and live.frozen is True


def _names(found: List[Replica]) -> Tuple[str, ...]:
    return tuple(row.node for row in found)


# --- Pacemaker's view of a device


def resources_of(facts: StatusFacts, device: str) -> Optional[Tuple[str, ...]]:
    """Ids of what Pacemaker runs for it: what the location rule of its attribute is about, and DRBD's agent. None: the CIB is
    not known."""
    cib = cib_of(facts)
    if cib is None:
        return None
    found = [name for rule in cib.locations if f"heartgate-{device}" in rule.attributes for name in rule.resources]
    found += [item.ident for item in cib.of_kind(DRBD_AGENT) if item.params.get("drbd_resource") == device]
    return tuple(dict.fromkeys(found))


def instances_of(facts: StatusFacts, device: str) -> Tuple[Instance, ...]:
    names, pacemaker = resources_of(facts, device) or (), facts.pacemaker
    if isinstance(pacemaker, Missing):
        return ()
    return tuple(each for each in pacemaker.instances if _named(each.ident, names) or _named(each.parent, names))


def _named(ident: str, names: Tuple[str, ...]) -> bool:
    if ident in names:
        return True
    try:
        return any(name.startswith("PATTERN~") and re.search(name[len("PATTERN~") :], ident) for name in names)
    except re.error:  # Pacemaker reads it as a POSIX expression
        return False


def _promoted(facts: StatusFacts, device: Device) -> Tuple[str, ...]:
    return tuple(each.node for each in instances_of(facts, device.name) if each.promoted)


# --- who could take over


def spare(facts: StatusFacts, device: Device) -> bool:
    """Whether any one replica may be lost now: another one could take over, or goes on. A Primary whose own disk is not up to
    date (DRBD reads and writes through the peer then) goes on with nothing; where one serves alone the others are left out,
    whatever they still say."""
    if device.live is None:
        return False
    found, now = rows(facts, device), serving(facts, device)
    fine = [row for row in found if _could_serve(facts, device, device.live, row)]
    if now.state is not Served.SERVED:
        return len(fine) > 1
    servers, others = ([row for row in found if row.node in now.nodes], [row for row in fine if row.node not in now.nodes])
    if any(row.standing == "solo" for row in servers):
        return False
    carries = any(row.disk == "uptodate" and _heard(facts, row.node) for row in servers)
    return len(others) > (0 if carries else 1)


def _could_serve(facts: StatusFacts, device: Device, live: Live, row: Replica) -> bool:
    """For all that is known: its data is good, it is connected and heard, and Pacemaker would promote it."""
    if row.standing != "synced" or row.disk != "uptodate" or row.role == "unknown":
        return False
    if _frozen(row, live) or _maybe_frozen(row, live):
        return False
    connected = row.sync == "up" if row.source == "heard" else any(link.link == "up" for link in live.links.values())
    return connected and _heard(facts, row.node) and _would_promote(facts, device, row.node)


def _heard(facts: StatusFacts, node: str) -> bool:
    if node == facts.node:
        return True
    fresh = isinstance(facts.daemon, Missing) or silence(facts.daemon, node) is None
    if isinstance(facts.heartbeats, Missing):
        return fresh
    return fresh and any(each.state is not Channel.DOWN for each in facts.heartbeats if each.node == node)


def silence(daemon: Daemon, node: str) -> Optional[str]:
    """Why the words of another node's heartgated are none of now; None if it is heard."""
    if node not in daemon.reachable:
        return "is not heard"
    age_ms = daemon.beats_ms.get(node)
    if age_ms is None:
        return "has not said anything yet"
    return f"has said nothing for {age_ms // 1000} s" if age_ms > STALE_MS else None


def _would_promote(facts: StatusFacts, device: Device, node: str) -> bool:
    pacemaker = facts.pacemaker
    if isinstance(pacemaker, Missing):
        return True
    known = pacemaker.node(node)
    if known is None or not known.online or known.standby or known.maintenance or known.pending or known.unclean:
        return False
    instances, attribute = instances_of(facts, device.name), (node, f"heartgate-{device.name}")
    runs = cib_of(facts) is None or any(each.active and each.node == node for each in instances)
    return runs and (pacemaker.attributes is None or pacemaker.attributes.get(attribute) in SERVING)


def level(facts: StatusFacts, device: Device) -> Health:
    """What the loss of one of its replicas makes of the health."""
    return Health.DEGRADED if spare(facts, device) else Health.AT_RISK


def node_level(facts: StatusFacts, node: str) -> Health:
    """The same for a node: the worst of its devices. One without a replica is missed for its vote alone."""
    if node not in members(facts):
        return Health.DEGRADED
    mine = [each for each in facts.devices if each.live is not None and node in each.nodes]
    return Health.DEGRADED if mine and all(spare(facts, each) for each in mine) else Health.AT_RISK


# --- reasons


def reasons(facts: StatusFacts) -> Iterator[Reason]:
    for device in facts.devices:
        if device.error:
            remedy = f"see docs/policy.md; heartgate explain {device.name} tells what was decided"
            yield say("record-unreadable", device.name, f"the record of {device.name} cannot be used: {device.error}", remedy)
        if device.live is not None:
            yield from _service(facts, device, device.live)
            yield from _duties(facts, device, device.live)
            yield from _replicas(facts, device, device.live)


def _service(facts: StatusFacts, device: Device, live: Live) -> Iterator[Reason]:
    now, name = serving(facts, device), device.name
    what = live.waits or "the verdict is not there yet"
    if now.state is Served.SERVED and len(now.nodes) > 1:
        remedy = f"stop the service on all but one, at once; then heartgate explain {name} on each"
        yield say("two-serve", name, f"{name}: {' and '.join(now.nodes)} both have it Promoted", remedy)
    if now.state is Served.NOBODY:
        remedy = "bring the replicas together (links, machines, heartgated): they decide by themselves"
        yield say("nobody-serves", name, f"{name}: {now.words}", live.ends_wait and "see person-needed" or remedy)
    if now.state is Served.FROZEN:
        here = facts.node in now.nodes
        off = " or ".join(f"stonith_admin --confirm {row.node}" for row in rows(facts, device) if row.source == "not heard")
        remedy = WAIT + ("" if here else f"; see heartgate status on {now.nodes[0]}")
        remedy += f"; for a machine that is certainly off: {off}" if here and off else ""
        yield say("device-frozen", name, f"{name}: {now.words}; {what if here else 'its node decides'}", remedy)
    if live.ends_wait:
        yield say("person-needed", name, f"{name}: {facts.node} {what}",
                  f"if that cannot be had: {live.ends_wait} (see its --help first; data may be lost)")  # fmt: skip


def _duties(facts: StatusFacts, device: Device, live: Live) -> Iterator[Reason]:
    """What keeps this node's daemon from doing its work for the device."""
    name = device.name
    if live.persist_failure:
        yield say("record-not-written", name, f"{name}: the record cannot be written: {live.persist_failure}",
                  "make room or mend the disk under /var/lib/heartgate; it is tried again by itself")  # fmt: skip
    if live.broken:
        yield say("invariant-stopped", name, f"{name}: a step would break: {'; '.join(live.broken)}",
                  f"keep the output of heartgate explain {name} and journalctl -u heartgated, and report it")  # fmt: skip
    if not live.active:
        evidence = f"{name}: replica-guard is stopped on {facts.node}"
        yield say("guard-stopped", name, evidence, "start the resource (pcs resource enable)")
    if live.on_isolation == "freeze":
        yield say("isolation-policy", name, f"{name}: on_isolation=freeze: if a node dies nobody goes on by itself",
                  "nothing, if that was meant; else on_isolation=fence with working STONITH")  # fmt: skip
    elif live.bias_wanted and live.bias_agreed != live.bias_wanted:
        cib = cib_of(facts)
        off = cib is not None and cib.properties.get("stonith-enabled", "true").strip().lower() in FALSE
        yield say("bias-not-agreed", name, f"{name}: {live.bias_wanted} is to go on alone, and that is not agreed",
                  "let both nodes be synced with the same parameters: it is agreed then",
                  Health.AT_RISK if off else None)  # fmt: skip
    elif live.bias_agreed:
        yield say("isolation-policy", name, f"{name}: only {live.bias_agreed} goes on alone (bias): if it dies a person decides",
                  "nothing, if that was meant; else on_isolation=fence with working STONITH")  # fmt: skip
    failed = [f"{target}: {how}" for target, ok, how in device.flush.results if not ok] if device.flush else []
    if device.shown == "solo" and failed:
        evidence = f"{name}: the last flush failed: {'; '.join(failed)}"
        yield say("flush-failed", name, evidence, f"mend it; heartgate explain {name} tells more")


def _replicas(facts: StatusFacts, device: Device, live: Live) -> Iterator[Reason]:
    now, how_bad = serving(facts, device), level(facts, device)
    for row in rows(facts, device):
        if now.state is Served.FROZEN and row.node in now.nodes:
            continue
        if row.source == "not heard":
            if not isinstance(facts.daemon, Missing) and silence(facts.daemon, row.node) is None:
                evidence = f"{device.name}: heartgated on {row.node} is heard and says nothing of it"
                yield say("replica-unheard", device.name, evidence, f"start its replica-guard on {row.node}", how_bad)
            continue
        found = _obstacle(facts, device, live, row, now)
        if found is not None:
            ident, evidence, remedy = found
            own_level = None if ident.endswith("-unknown") else how_bad
            yield say(ident, device.name, f"{device.name}: {evidence}", remedy, own_level)
        yield from _attribute(facts, device, row, how_bad)


def _obstacle(
    facts: StatusFacts, device: Device, live: Live, row: Replica, now: Serving
) -> Optional[Tuple[str, str, str]]:
    """(reason, evidence, remedy) why this replica could not take over."""
    here, node = row.source == "here", row.node
    said = f", {live.waits}" if here and live.waits else ""
    lacks = f" (lacks {size(row.lacks_bytes)})" if row.lacks_bytes else ""
    mend = MEND.format(nodes=f"{facts.node} and {node}" if not here else f"{node} and {_others(device, node)}")
    if row.standing == "blocked":
        runs = row.disk not in ("absent", "diskless")
        evidence = f"{node} is blocked, epoch {row.epoch}{said}{lacks}" + ("" if runs else f"; its disk is {row.disk}")
        first = mend if runs else f"start the replication on {node}, with its disk"
        return "replica-blocked", evidence, f"{first}; the block ends after the resync"
    if row.standing == "resyncing":
        return "replica-resyncing", f"{node} is being brought up to date{lacks}", "wait: the block ends by itself then"
    if row.standing == "unproven":
        remedy = "let it meet the others: machines on, corosync and heartgated running, replication connected"
        return "replica-unproven", f"{node} is unproven, epoch {row.epoch}{said}", remedy
    if row.standing == "deciding":
        return "replica-deciding", f"{node} is deciding, epoch {row.epoch}{said}", WAIT
    if row.disk == "unknown":
        return "replica-unknown", f"the replication on {node} tells nothing", "see that the replication runs there, and its log"
    if row.disk != "uptodate":
        return "replica-not-uptodate", f"the disk of {node} is {row.disk}{lacks}", "start the replication there, or mend the disk"
    return _link(facts, live, row, now.nodes if now.state is Served.SERVED else ())


def _link(facts: StatusFacts, live: Live, row: Replica, servers: Tuple[str, ...]) -> Optional[Tuple[str, str, str]]:
    """The replication between this replica and the one that serves, or any other if none does."""
    if row.source == "here":
        wrong = [(node, live.links[node].link) for node in servers if node in live.links and live.links[node].link != "up"]
    else:
        wrong = [(row.node, row.sync)] if row.node not in servers and row.sync != "up" else []
    if not wrong:
        return None
    node, link = wrong[0]
    if link == "unknown":
        return "sync-link-unknown", f"whether {facts.node} replicates with {node} is not known", "see that it runs here"
    dead = [name for name, carrier in live.interfaces.items() if carrier is False]
    cable = f"; no carrier on {', '.join(dead)}" if dead else ""
    lacks = f" (lacks {size(row.lacks_bytes)})" if row.lacks_bytes else ""
    mend = MEND.format(nodes=f"{facts.node} and {node}")
    return "sync-link-down", f"the replication between {facts.node} and {node} is {link}{cable}{lacks}", mend


def _attribute(facts: StatusFacts, device: Device, row: Replica, how_bad: Health) -> Iterator[Reason]:
    """Pacemaker promotes by the attribute that heartgated publishes."""
    pacemaker, name = facts.pacemaker, f"heartgate-{device.name}"
    if isinstance(pacemaker, Missing) or pacemaker.attributes is None or row.standing not in SERVING:
        return
    node = pacemaker.node(row.node)
    told = pacemaker.attributes.get((row.node, name), "not defined")
    if node is not None and node.online and told not in SERVING:
        evidence = f"{device.name}: {row.node} is {row.standing}, and Pacemaker's {name} is {told}"
        yield say("attribute-wrong", device.name, evidence,
                  f"if it stays so: systemctl restart heartgated on {row.node}", how_bad)  # fmt: skip


def _others(device: Device, node: str) -> str:
    return " and ".join(each for each in device.nodes if each != node) or "the others"


def cib_of(facts: StatusFacts) -> Optional[Cib]:
    return None if isinstance(facts.config, Missing) else facts.config.cib


def members(facts: StatusFacts) -> Tuple[str, ...]:
    """Every node that holds a replica, this one included."""
    found: List[str] = [facts.node]
    for device in facts.devices:
        found += device.nodes
    return tuple(dict.fromkeys(found))


def size(count: int) -> str:
    """Bytes for a person."""
    value, unit = float(count), "bytes"
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
