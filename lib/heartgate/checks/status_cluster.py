"""What of the daemons, of Pacemaker, of the fencing and of the configuration speaks against a failover."""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from heartgate.checks.status_devices import FALSE, cib_of, instances_of, level, members, node_level, resources_of, silence
from heartgate.checks.status_model import Daemon, Health, Missing, Reason, StatusFacts
from heartgate.checks.status_reasons import BY_IDENT, say

if TYPE_CHECKING:
    from heartgate.checks.cib_conf import Cib
    from heartgate.checks.crm_mon import Instance, Node, Pacemaker
    from heartgate.checks.findings import Finding
    from heartgate.checks.lint_facts import LintFacts

GUARD_AGENT = "ocf:heartgate:replica-guard"
GATE_AGENT = "stonith:fence_heartgate"
RULE = (
    "pcs constraint location RESOURCE-clone rule role=Promoted score=-INFINITY not_defined heartgate-{device} "
    "or heartgate-{device} eq blocked or heartgate-{device} eq unproven"
)


def reasons(facts: StatusFacts) -> Iterator[Reason]:
    yield from _daemons(facts)
    pacemaker = facts.pacemaker
    if isinstance(pacemaker, Missing):
        ident = "pacemaker-down" if pacemaker.down else "pacemaker-unknown"
        remedy = "systemctl start pacemaker (or pcs cluster start)" if pacemaker.down else _looks(pacemaker, "crm_mon -1")
        yield say(ident, facts.node, f"{facts.node}: {pacemaker.why}", remedy, None if facts.devices else Health.UNKNOWN)
    else:
        yield from _pacemaker(facts, pacemaker)
        yield from _nodes(facts, pacemaker)
        yield from _resources(facts, pacemaker)
        yield from _fencing(facts, pacemaker)
    yield from _configuration(facts)


def _looks(missing: Missing, command: str) -> str:
    if not missing.asked:
        return "leave --quick out"
    return "ask as root: sudo heartgate status" if missing.refused else f"see what {command} says"


# --- heartgated


def _daemons(facts: StatusFacts) -> Iterator[Reason]:
    daemon = facts.daemon
    nothing = not facts.devices and not (isinstance(daemon, Missing) and daemon.refused)
    if isinstance(daemon, Missing):
        if not daemon.down:
            yield say("daemon-unknown", facts.node, f"{facts.node}: {daemon.why}", _looks(daemon, "journalctl -u heartgated"))
        elif facts.devices:
            evidence = f"heartgated does not run on {facts.node} ({daemon.why}); what is frozen stays frozen"
            yield say("daemon-down", facts.node, evidence, "systemctl start heartgated; journalctl -u heartgated tells why")
    else:
        yield from _hears(facts, daemon)
        for each in daemon.interfaces:
            if each.state in ("lost", "gone"):
                yield say("heartbeat-interface", each.resource, f"{each.resource}: {each.message}", "see cable and adapter")
    if nothing and not facts.only:
        what = "heartgated guards no device" if isinstance(daemon, Daemon) else f"no guarded device is known ({daemon.why})"
        remedy = "a device is guarded once its replica-guard has started here"
        yield say("nothing-guarded", facts.node, f"{facts.node}: {what}", remedy)


def _hears(facts: StatusFacts, daemon: Daemon) -> Iterator[Reason]:
    message, remedy = daemon.name_trouble
    if message:
        yield say("daemon-name", daemon.node, message, remedy)
    if daemon.hung:
        yield say("hung-operations", daemon.node, f"{daemon.hung} operations of heartgated on {daemon.node} do not come back",
                  "journalctl -u heartgated names them; a disk or a program hangs")  # fmt: skip
    if not daemon.carrier:
        yield say("carrier-lost", daemon.node, f"heartgated on {daemon.node} hears nobody: Corosync is gone",
                  "systemctl start corosync (or pcs cluster start)")  # fmt: skip
        return
    if daemon.quorate is False and isinstance(facts.pacemaker, Missing):
        yield say("no-quorum", daemon.node, f"Corosync on {daemon.node} has no quorum", "see corosync-quorumtool -s")
    for node in members(facts):
        told = silence(daemon, node)
        if node == daemon.node or told is None:
            continue
        if node in daemon.online:
            yield say("daemon-silent", node, f"{node} is a member, and its heartgated {told}",
                      f"on {node}: systemctl start heartgated; journalctl -u heartgated", node_level(facts, node))  # fmt: skip
        else:
            yield say("node-offline", node, f"{node} is no member of the cluster as Corosync on {daemon.node} sees it",
                      f"start {node}, or corosync and pacemaker on it; see its heartbeats", node_level(facts, node))  # fmt: skip


# --- Pacemaker


def _pacemaker(facts: StatusFacts, pacemaker: Pacemaker) -> Iterator[Reason]:
    if not pacemaker.dc:
        yield say("no-dc", "", "Pacemaker has no DC: it is starting, or has lost its peers", "wait a minute; then see crm_mon -1")
    elif pacemaker.quorate is None:
        yield say("pacemaker-unknown", "", "crm_mon does not tell whether there is quorum", "see corosync-quorumtool -s")
    if pacemaker.quorate is False:
        yield say("no-quorum", "", "this partition has no quorum", "start the other nodes; see corosync-quorumtool -s")
    if pacemaker.maintenance_mode:
        yield say("maintenance-mode", "", "maintenance-mode is true: Pacemaker does nothing at all",
                  "pcs property set maintenance-mode=false")  # fmt: skip
    if pacemaker.stop_all:
        yield say("stop-all", "", "stop-all-resources is true", "pcs property set stop-all-resources=false")


def _nodes(facts: StatusFacts, pacemaker: Pacemaker) -> Iterator[Reason]:
    heard = facts.daemon.online if isinstance(facts.daemon, Daemon) else None
    for name in members(facts):
        node = pacemaker.node(name)
        if node is None:
            evidence = f"Pacemaker knows no node {name} (its nodes: {' '.join(x.name for x in pacemaker.nodes) or 'none'})"
            yield say("node-offline", name, evidence, "use one name for a node everywhere: priorities, corosync.conf, uname -n",
                      node_level(facts, name))  # fmt: skip
        else:
            for ident, what, remedy in _of_node(node, heard is not None and name not in heard):
                yield say(ident, name, f"{name} {what}", remedy, node_level(facts, name))


def _of_node(node: Node, told: bool) -> Iterator[Tuple[str, str, str]]:
    """told: heartgated has said already that it is no member."""
    name = node.name
    if node.unclean:
        remedy = f"mend the fencing; for a machine that is certainly off: stonith_admin --confirm {name}"
        yield "node-unclean", "is unclean: Pacemaker waits for its fencing", remedy
    elif node.pending:
        yield "node-pending", "is not ready in Pacemaker, which is starting or has ended there", f"pcs cluster start {name}"
    elif not node.online and not told:
        yield "node-offline", "is offline as Pacemaker sees it", f"pcs cluster start {name}"
    if node.standby and not node.pending:  # Pacemaker calls a node that is not ready so, too
        yield "node-standby", "is in standby", f"pcs node unstandby {name}"
    if node.maintenance:
        yield "node-maintenance", "is in maintenance", f"pcs node unmaintenance {name}"


def _resources(facts: StatusFacts, pacemaker: Pacemaker) -> Iterator[Reason]:
    ours: Dict[str, str] = {each: device.name for device in facts.devices for each in resources_of(facts, device.name) or ()}
    if not pacemaker.maintenance_mode:
        unmanaged = {x.parent for x in pacemaker.instances if not x.managed and not _on_maintained(pacemaker, x)}
        for name in sorted(unmanaged):
            yield say("resource-unmanaged", name, f"{name} is unmanaged", f"pcs resource manage {name}")
    for each in pacemaker.instances:
        where = f" on {each.node}" if each.node else ""
        if each.blocked:
            evidence = f"{each.ident} is blocked in Pacemaker{where}: a failed stop, or no fencing"
            yield say("resource-blocked", each.ident, evidence,
                      f"mend it, then pcs resource cleanup {each.ident}")  # fmt: skip
        elif each.failed:
            yield say("resource-failed", each.ident, f"{each.ident} counts as failed{where}",
                      f"see pcs resource failcount; then pcs resource cleanup {each.ident}")  # fmt: skip
    cib = cib_of(facts)  # our own rule shows as a ban while it is in force
    own = {rule.ident for rule in (cib.locations if cib else ()) if any(x.startswith("heartgate-") for x in rule.attributes)}
    for ban in pacemaker.bans:
        if ban.resource in ours and ban.ident not in own:
            yield say("resource-banned", ours[ban.resource], f"{ban.resource} is kept from {ban.node} by {ban.ident}",
                      f"pcs resource clear {ban.resource} (pcs constraint delete {ban.ident})")  # fmt: skip
    yield from _of_devices(facts, pacemaker)


def _on_maintained(pacemaker: Pacemaker, each: Instance) -> bool:
    node = pacemaker.node(each.node)
    return node is not None and node.maintenance


def _of_devices(facts: StatusFacts, pacemaker: Pacemaker) -> Iterator[Reason]:
    fit = {node.name for node in pacemaker.nodes if node.online and not (node.standby or node.pending or node.maintenance)}
    for device in facts.devices:
        guards = _guarded_on(facts, pacemaker, device.name)
        here = [node for node in device.nodes if node in fit]
        found = instances_of(facts, device.name)
        if not found and resources_of(facts, device.name):
            yield say("replica-stopped", device.name, f"{device.name}: Pacemaker has no resource that promotes it",
                      "its promotable clone, and the location rule that names heartgate-" + device.name)  # fmt: skip
        disabled = sorted({each.parent for each in found if each.disabled})
        for name in disabled:
            evidence = f"{name} is told to be stopped (target-role)"
            yield say("resource-disabled", device.name, evidence, f"pcs resource enable {name}")
        active = {each.node for each in found if each.active}
        for node in here:
            if found and not disabled and node not in active:
                yield say("replica-stopped", device.name, f"{found[0].parent} does not run on {node}, though the node is there",
                          f"pcs resource cleanup {found[0].ident}; crm_mon -1rf shows why", level(facts, device))  # fmt: skip
            if node not in guards:
                yield say("guard-stopped", device.name, f"{device.name}: Pacemaker runs no replica-guard on {node}",
                          "pcs resource enable or cleanup of the guard; crm_mon -1rf shows why")  # fmt: skip


def _guarded_on(facts: StatusFacts, pacemaker: Pacemaker, device: str) -> Set[str]:
    """Nodes on which a replica-guard of this device runs (any, where the CIB does not tell which one is)."""
    cib = cib_of(facts)
    named = {x.ident for x in (cib.of_kind(GUARD_AGENT) if cib else ()) if x.params.get("device") == device}
    running = [each for each in pacemaker.instances if each.agent == GUARD_AGENT and each.active]
    return {each.node for each in running if not named or each.ident in named}


# --- fencing


def _fencing(facts: StatusFacts, pacemaker: Pacemaker) -> Iterator[Reason]:
    if pacemaker.fencings is None:
        remedy = "see what stonith_admin --history '*' --verbose says"
        yield say("fencing-unknown", "", "the history of fencings could not be read", remedy)
    seen: Set[str] = set()
    for each in pacemaker.fencings or ():  # the newest comes first
        if each.status == "pending":
            yield say("fence-pending", each.target, f"a fencing ({each.action}) of {each.target} is under way", "wait for it")
        elif each.target not in seen:
            seen.add(each.target)
            if each.status != "success" and each.target in members(facts):
                why = f": {each.reason}" if each.reason else ""
                yield say("fence-failed", each.target,
                          f"the last fencing ({each.action}) of {each.target} failed, {each.completed or 'time not known'}{why}",
                          "mend the device and try it (pcs stonith status; fence agent's status action); then "
                          f"stonith_admin --cleanup --history {each.target}")  # fmt: skip
    cib = cib_of(facts)
    if cib is not None and cib.properties.get("stonith-enabled", "true").strip().lower() not in FALSE:
        yield from _devices_of_fencing(cib, pacemaker, members(facts))


def _devices_of_fencing(cib: Cib, pacemaker: Pacemaker, targets: Sequence[str]) -> Iterator[Reason]:
    works = {each.ident for each in pacemaker.instances if each.agent.startswith("stonith:") and each.active and not each.failed}
    works.add("watchdog")
    down = [each.ident for each in cib.fencing if each.ident not in works]
    if not down:
        return
    stuck = [node for node in targets if not _can_be_fenced(cib, works, node)]
    for name in down:
        hit = f": {' and '.join(stuck)} cannot be fenced" if stuck else ""
        yield say("fence-device-down", name, f"the fencing device {name} does not run{hit}",
                  f"pcs resource cleanup {name} (or pcs stonith enable {name}); its log tells why",
                  Health.AT_RISK if stuck else Health.DEGRADED)  # fmt: skip


def _can_be_fenced(cib: Cib, works: Set[str], node: str) -> bool:
    from heartgate.checks.fencing_levels import applies

    levels = [each for each in cib.levels if applies(each, node)]
    if levels:
        return any(set(each.devices) <= works for each in levels)
    return any(each.ident in works for each in cib.fencing if each.kind != GATE_AGENT)


# --- configuration


def _configuration(facts: StatusFacts) -> Iterator[Reason]:
    config = facts.config
    if isinstance(config, Missing):
        return  # Pacemaker was not asked either, which is told
    for unread in config.unreadable:
        if unread.what != "CIB" or not isinstance(facts.pacemaker, Missing):
            yield say("config-unknown", unread.what, f"{unread.what}: {unread.why}", "see heartgate check on this node, as root")
    yield from _not_there(facts, config)
    if facts.devices:
        for device in facts.devices:
            yield from _location(config.cib, device.name)
        yield from _linted(facts, config)


def _not_there(facts: StatusFacts, config: LintFacts) -> Iterator[Reason]:
    """What is neither known nor told to be unreadable."""
    told = {each.what for each in config.unreadable}
    if config.cib is None and "CIB" not in told and not isinstance(facts.pacemaker, Missing):
        yield say("config-unknown", "CIB", "CIB: there is none here", "see heartgate check on this node, as root")
    known = {each.name for each in config.drbd or ()}
    for device in facts.devices:
        on_drbd = device.live is not None and device.live.driver == "drbd"
        if on_drbd and "DRBD" not in told and device.name not in known:
            evidence = f"DRBD: its configuration on this node has no resource {device.name}"
            yield say("config-unknown", device.name, evidence, "see drbdadm dump")


def _linted(facts: StatusFacts, config: LintFacts) -> Iterator[Reason]:
    """Of what `heartgate check` finds, that which stands against a failover."""
    from heartgate.checks import lint_fencing, lint_storage

    names = {each.name for each in facts.devices}  # of other DRBD resources nobody has asked
    found: List[Finding] = [*lint_fencing.findings(config), *(x for x in lint_storage.findings(config) if x.subject in names)]
    for each in found:
        if each.rule in BY_IDENT:
            own = Health.DEGRADED if each.rule in ("fence-disabled", "fence-none") and _all_agreed(facts) else None
            yield say(each.rule, each.subject, each.evidence, each.remedy, own)


def _all_agreed(facts: StatusFacts) -> bool:
    """Whether every device goes on without STONITH, by a standing agreement."""
    return all(each.live is not None and each.live.bias_agreed for each in facts.devices)


def _location(cib: Optional[Cib], device: str) -> Iterator[Reason]:
    if cib is None:
        return
    rules = [each for each in cib.locations if f"heartgate-{device}" in each.attributes]
    if not any(each.promoted and each.never for each in rules):
        evidence = f"{device}: no rule of role Promoted with score -INFINITY looks at heartgate-{device}"
        yield say("location-rule-missing", device, evidence, RULE.format(device=device))
