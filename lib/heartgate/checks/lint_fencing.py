"""Rules over Pacemaker's fencing: is there any, does the gate stand first in every level, who wins a race; and SBD."""

from __future__ import annotations

import re
from typing import AbstractSet, Iterator, List, Mapping, Optional, Tuple

from heartgate.checks.cib_conf import Cib, Level, Primitive, is_false, parse_time
from heartgate.checks.fencing_levels import GATE_AGENT, applies, gates
from heartgate.checks.findings import Finding, RuleInfo, Severity
from heartgate.checks.lint_facts import GUARD_AGENT, LintFacts, Reporter, table

ERROR, WARNING = Severity.ERROR, Severity.WARNING
ALERT_AGENT = "/usr/lib/heartgate/pacemaker-alert"
ALERT = f"pcs alert create path={ALERT_AGENT} id=heartgate (crmsh: crm configure alert heartgate {ALERT_AGENT} select fencing)"
LEVELS = "pcs stonith level add 1 NODE {gate} POWER-DEVICE (crmsh: fencing_topology NODE: {gate},POWER-DEVICE)"

# Each is documented as fabric fencing. What is not here may still say provides=unfencing.
FABRIC_AGENTS = frozenset(
    f"stonith:fence_{name}" for name in ("scsi", "mpath", "brocade", "cisco_mds", "ifmib", "sanbox2")
)

RULES: Mapping[str, RuleInfo] = table(
    RuleInfo(
        "fence-disabled", ERROR, "D6", "stonith-enabled is true: without fencing nothing proves that a silent node cannot write."
    ),
    RuleInfo("fence-none", ERROR, "D6", "There is a fencing device, or a watchdog that does its work (SBD)."),
    RuleInfo("fence-startup", ERROR, "D6", "startup-fencing is true: a node that was never seen may be running and writing."),
    RuleInfo("quorum-policy", ERROR, "D8", "no-quorum-policy is not ignore: a partition without quorum starts nothing."),
    RuleInfo(
        "fence-gate",
        ERROR,
        "E7",
        "fence_heartgate stands in the fencing levels of every node with a guarded replica; without it a "
        "node whose replica is blocked can shoot the one that has the data.",
    ),
    RuleInfo(
        "fence-gate-first",
        ERROR,
        "E7",
        "In a level fence_heartgate stands before the agent that cuts the power: Pacemaker asks them in "
        "that order, and the first refusal ends the level.",
    ),
    RuleInfo(
        "fence-gate-alone",
        ERROR,
        "E7",
        "After fence_heartgate in a level comes an agent that cuts the power: alone it only decides, and "
        "Pacemaker would take a node for fenced that still runs.",
    ),
    RuleInfo(
        "fence-gate-bypass",
        ERROR,
        "E7",
        "Every level of a node has the gate: when it refuses, Pacemaker goes on to the next level.",
    ),
    RuleInfo(
        "fence-fabric",
        ERROR,
        "D6",
        "No device that cuts a node off from a storage or a switch stands alone for cutting its power: the node goes on running, "
        "and what heartgate takes for proof of a fencing is that it does not.",
    ),
    RuleInfo("fence-level-device", ERROR, "D6", "The devices of a level exist."),
    RuleInfo(
        "fence-race",
        WARNING,
        "E7",
        "Two nodes do not shoot each other at once: the gate, a delay on one of the devices, or priority-fencing-delay decides.",
    ),
    RuleInfo(
        "fence-alert",
        Severity.NOTE,
        "E1",
        "Pacemaker runs heartgate's alert agent: a fencing is known as proof at once then, and not when the history is read next.",
    ),
    RuleInfo("cib-conditional", Severity.UNKNOWN, "", "A property that stands in a set with a rule depends on time or node."),
    RuleInfo(
        "sbd-watchdog",
        ERROR,
        "D6",
        "SBD has a watchdog device: without one a hung node is not reset, and the others believe it is.",
    ),
)

_WATCHED = ("stonith-enabled", "no-quorum-policy", "startup-fencing", "stonith-watchdog-timeout", "stonith-timeout")


def findings(facts: LintFacts) -> Tuple[Finding, ...]:
    report = Reporter(RULES, facts.host)
    found: List[Finding] = list(_sbd(facts, report))
    if facts.cib is not None:
        found += [
            *_properties(facts.cib, report),
            *_devices(facts.cib, report),
            *_fabric(facts.cib, report),
            *_levels(facts.cib, report),
            *_race(facts.cib, report),
            *_alert(facts.cib, report),
        ]
    return tuple(found)


def _say(report: Reporter, rule: str, subject: str, evidence: str, remedy: str) -> Finding:
    return report.found(rule, subject, evidence, remedy, local=False)


def _properties(cib: Cib, report: Reporter) -> Iterator[Finding]:
    if is_false(cib.properties.get("stonith-enabled", "true")):
        yield _say(
            report,
            "fence-disabled",
            "fencing",
            f"stonith-enabled={cib.properties['stonith-enabled']} in {cib.source}",
            "configure a fencing device, then pcs property set stonith-enabled=true",
        )
    if is_false(cib.properties.get("startup-fencing", "true")):
        yield _say(
            report,
            "fence-startup",
            "fencing",
            f"startup-fencing={cib.properties['startup-fencing']} in {cib.source}",
            "pcs property unset startup-fencing",
        )
    policy = cib.properties.get("no-quorum-policy", "stop")
    if policy == "ignore":
        yield _say(
            report,
            "quorum-policy",
            "quorum",
            f"no-quorum-policy=ignore in {cib.source}: a node that boots alone starts everything",
            "pcs property unset no-quorum-policy (stop); two nodes keep quorum through two_node in corosync.conf",
        )
    for name in cib.conditional:
        if name in _WATCHED:
            yield _say(
                report,
                "cib-conditional",
                "fencing",
                f"{name} also stands in a set with a rule",
                f"set {name} once, without a rule",
            )


def _devices(cib: Cib, report: Reporter) -> Iterator[Finding]:
    if is_false(cib.properties.get("stonith-enabled", "true")):
        return
    watchdog = cib.properties.get("stonith-watchdog-timeout", "0").strip()
    if not any(device.kind != GATE_AGENT for device in cib.fencing) and (watchdog != "-1" and not parse_time(watchdog)):
        what = "only fence_heartgate, which cuts no power" if cib.fencing else "no fencing device"
        yield _say(
            report,
            "fence-none",
            "fencing",
            f"{what} in {cib.source}, and stonith-watchdog-timeout is not set",
            "pcs stonith create NAME AGENT ... for every node's power; or SBD with a watchdog and stonith-watchdog-timeout",
        )


def _fabric(cib: Cib, report: Reporter) -> Iterator[Finding]:
    if is_false(cib.properties.get("stonith-enabled", "true")):
        return
    fabric = {device.ident: device for device in cib.fencing if _cuts_no_power(device)}
    power = {device.ident for device in cib.fencing if device.ident not in fabric} - gates(cib)
    for ident, device in fabric.items():
        levels = [level for level in cib.levels if ident in level.devices]
        if levels and all(power.intersection(level.devices) for level in levels):
            continue
        why = "provides=unfencing" if device.kind not in FABRIC_AGENTS else "it cuts a node off from a storage or a switch"
        yield _say(
            report,
            "fence-fabric",
            ident,
            f"{ident} is {device.kind[len('stonith:') :]} ({why}), and no power device stands beside it in every level of it",
            f"put a device that cuts the power into each level of {ident}: pcs stonith level add 1 NODE GATE POWER-DEVICE {ident}",
        )


def _cuts_no_power(device: Primitive) -> bool:
    return device.kind in FABRIC_AGENTS or device.metas.get("provides", "").strip().lower() == "unfencing"


def _levels(cib: Cib, report: Reporter) -> Iterator[Finding]:
    ours = gates(cib)
    used = {device for level in cib.levels for device in level.devices}
    for level in cib.levels:
        yield from _level(cib, level, ours, report)
    for gate in sorted(ours - used):
        yield _say(
            report,
            "fence-gate-alone",
            gate,
            f"{gate} is in no fencing level: Pacemaker uses it by itself and takes its yes for a completed fencing",
            f"put it into levels: {LEVELS.format(gate=gate)}",
        )
    if not ours and not cib.of_kind(GUARD_AGENT):
        return
    if not ours:
        if cib.fencing and not is_false(cib.properties.get("stonith-enabled", "true")):
            yield _say(
                report,
                "fence-gate",
                "fencing",
                f"replica-guard runs, and no fencing device is {GATE_AGENT[8:]} ({cib.source})",
                f"pcs stonith create gate fence_heartgate, then {LEVELS.format(gate='gate')}",
            )
        return
    for node in cib.nodes:
        mine = [level for level in cib.levels if applies(level, node)]
        without = [level.index for level in mine if not ours & set(level.devices)]
        if not mine and used & ours:
            yield _say(
                report,
                "fence-gate",
                node,
                f"{node} has no fencing level, so the gate is not asked about it",
                LEVELS.format(gate=sorted(ours)[0]).replace("NODE", node),
            )
        elif without:
            rule = "fence-gate" if len(without) == len(mine) else "fence-gate-bypass"
            yield _say(
                report,
                rule,
                node,
                f"level {without[0]} of {node} has no fence_heartgate",
                f"put the gate before the power device of level {without[0]} of {node} too, or remove the level",
            )


def _level(cib: Cib, level: Level, ours: AbstractSet[str], report: Reporter) -> Iterator[Finding]:
    name = f"level {level.index} of {level.target}"
    known = {device.ident for device in cib.fencing} | {"watchdog"}
    for device in level.devices:
        if device not in known:
            yield _say(
                report,
                "fence-level-device",
                device,
                f"{name} names {device}, and there is no such fencing device",
                "correct the level, or create it",
            )
    places = [place for place, device in enumerate(level.devices) if device in ours]
    if not places:
        return
    gate = level.devices[places[0]]
    if len(places) == len(level.devices):
        yield _say(
            report,
            "fence-gate-alone",
            gate,
            f"{name} has {gate} and nothing that cuts the power",
            f"add the power device after {gate}",
        )
    elif places[0] > 0:
        yield _say(
            report,
            "fence-gate-first",
            gate,
            f"{name} is {', '.join(level.devices)}: the power is cut before {gate} is asked",
            f"write {gate} first in {name}",
        )


def _race(cib: Cib, report: Reporter) -> Iterator[Finding]:
    power = [device for device in cib.fencing if device.kind != GATE_AGENT]
    gated = any(device.kind == GATE_AGENT for device in cib.fencing)
    if len(cib.nodes) != 2 or not power or gated or is_false(cib.properties.get("stonith-enabled", "true")):
        return
    delays = [device.params.get(name, "0") for device in power for name in ("pcmk_delay_base", "pcmk_delay_max", "delay")]
    if any(_some(delay) for delay in [*delays, cib.properties.get("priority-fencing-delay", "0")]):
        return
    yield _say(
        report,
        "fence-race",
        "fencing",
        f"two nodes, {len(power)} device(s) without a delay, no priority-fencing-delay, no gate",
        "put fence_heartgate first into the levels; or pcs stonith update DEVICE-OF-THE-PREFERRED-NODE pcmk_delay_base=10s",
    )


def _some(delay: str) -> bool:
    """pcmk_delay_base may be a list NODE:TIME."""
    parts: List[Optional[int]] = [parse_time(part.rpartition(":")[2]) for part in re.split(r"[;,\s]+", delay) if part]
    return any(parts)


def _alert(cib: Cib, report: Reporter) -> Iterator[Finding]:
    if not cib.of_kind(GUARD_AGENT) or is_false(cib.properties.get("stonith-enabled", "true")):
        return
    ours = [alert for alert in cib.alerts if alert.path == ALERT_AGENT]
    if any(alert.enabled and (alert.kinds is None or "fencing" in alert.kinds) for alert in ours):
        return
    evidence, remedy = f"no alert in {cib.source} runs {ALERT_AGENT}", ALERT
    if ours:
        first = ours[0]
        state = "is told of no fencing (select)" if first.enabled else "is not enabled"
        evidence = f"alert {first.ident} in {cib.source} {state}"
        remedy = f"pcs alert delete {first.ident} (crmsh: crm configure delete {first.ident}), then {ALERT}"
    yield _say(
        report,
        "fence-alert",
        "fencing",
        f"{evidence}: a fencing that somebody else ordered is seen when the history is read next, up to a minute later",
        remedy,
    )


def _sbd(facts: LintFacts, report: Reporter) -> Iterator[Finding]:
    sbd = facts.sbd
    written = sbd.settings.get("SBD_WATCHDOG_DEV") if sbd else None
    if sbd and written and sbd.in_use is not False and written.value in ("/dev/null", ""):
        yield report.found(
            "sbd-watchdog",
            "sbd",
            f"SBD_WATCHDOG_DEV={written.value} ({written.where})",
            "name a real watchdog, e.g. /dev/watchdog (sbd query-watchdog lists them)",
        )
