"""From the facts of two nodes to the steps that are missing for a guarded device. Pure; `cli/setup.py` collects, carries out.

The order matters. The location rule comes last, when the standings are seen: a rule on an attribute that is not there yet would
demote a service that runs. What a person has to do stands where it is needed, and nothing after it is begun before.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from heartgate.checks import setup_cluster, setup_drbd, setup_fencing, setup_tools
from heartgate.checks.cib_conf import Cib, Primitive
from heartgate.checks.findings import Finding, Severity
from heartgate.checks.heartbeat_rules import RULES as HEARTBEAT_RULES
from heartgate.checks.links import Link
from heartgate.checks.setup_model import (
    Action,
    ClusterFacts,
    Command,
    Expression,
    Facts,
    LocationRule,
    Problem,
    PutFile,
    SetupPlan,
    State,
    Step,
    Wish,
)

SERVING = ("synced", "solo")
GUARD_S, BEAT_S, REPLICA_S = 90.0, 90.0, 120.0
COROSYNC_RULES = ("crypto", "names", "corosync-differs", "corosync-link")
NO_CLUSTER = ClusterFacts(Cib("a cluster that is not there yet"))


def make_plan(wish: Wish, facts: Facts, findings: Sequence[Finding] = ()) -> SetupPlan:
    """findings: what the rules of heartbeat links say, the waivers in them."""
    cluster = facts.cluster or NO_CLUSTER
    if setup_cluster.with_sample(wish, facts):  # what the rules say of that corosync.conf is of no interest
        findings = [each for each in findings if each.rule not in COROSYNC_RULES]
    forced = frozenset(each.subject for each in findings if each.waived is not None and each.severity is Severity.ERROR)
    steps, problems = setup_cluster.steps(wish, facts, forced)
    if not steps:
        return SetupPlan((), (*_refused(findings, ()), *problems))
    unknown = facts.cluster is None and facts.of(wish.local).corosync is not None
    coming = tuple(link.subject for link in setup_cluster.wanted(wish) if setup_cluster.present(link, wish, facts) is None)
    if unknown or steps[0].state is State.BY_HAND:  # what its CIB holds is not known
        return SetupPlan(tuple(steps[:1]), (*_refused(findings, coming), *problems))
    steps.append(setup_fencing.stonith(wish, cluster))
    steps += [_beat(link, wish, cluster) for link in _beats(wish)]
    steps += [_drbd(wish, facts)] if wish.drbd else []
    replica, clone = _replica(wish, cluster)
    steps += [replica, _guard(wish, cluster)]
    gate = setup_fencing.gate(wish, cluster)
    steps += [gate] if gate else []
    steps.append(_rule(wish, cluster, clone))
    return SetupPlan(tuple(steps), (*_refused(findings, coming), *problems))


def _refused(findings: Sequence[Finding], coming: Tuple[str, ...]) -> List[Problem]:
    """Errors that nobody waived; but for the missing links that this plan makes."""
    return [
        Problem(
            f"{each.rule}: {each.evidence}", f"{each.remedy}; or, if you know better, --waive {each.rule}@{each.subject}=REASON"
        )
        for each in findings
        if each.counts and each.severity is Severity.ERROR and not (each.rule == "corosync-link" and each.subject in coming)
    ]


# --- heartbeat-link


def _beats(wish: Wish) -> Tuple[Link, ...]:
    """One that carries replication too is watched by replica-guard, unless it was named as a heartbeat."""
    return tuple(link for link in wish.heartbeats if wish.named or not setup_cluster.carries_replication(link, wish))


def _interface(link: Link, wish: Wish) -> str:
    mine, theirs = link.ends
    names = {wish.local: mine.name, wish.peer: theirs.name}
    return mine.name if mine.name == theirs.name else " ".join(f"{node}:{names[node]}" for node in wish.nodes)


def _beat(link: Link, wish: Wish, cluster: ClusterFacts) -> Step:
    interface = _interface(link, wish)
    label = re.sub(r"[^A-Za-z0-9_.-]", "-", link.subject)
    reason = (
        f"Watches {link.subject}: refuses to run if it is not fit for heartbeats, and tells a lost carrier as a node attribute, "
        "so that a heartbeat is not lost unnoticed."
    )
    present = next(
        (item for item in cluster.cib.of_kind(setup_tools.BEAT) if _words(item, "interface") == set(interface.split())), None
    )
    ident = present.ident if present else f"beat-{label}"
    attribute = (
        present.params.get("name") if present else ""
    ) or f"heartgate-link-{interface if ' ' not in interface else ident}"
    expects = f"{attribute} is 1 on both nodes (crm_mon -1A)"
    if present is None:
        if cluster.cib.primitive(ident):
            return Step(
                f"beat-{label}", reason, expects, State.BY_HAND, by_hand=f"another resource is called {ident}: rename it"
            )
        params = {"interface": interface, **_beat_params(link, wish)}
        actions = setup_tools.clone(wish.tool, wish.local, ident, setup_tools.BEAT, params)
        return Step(f"beat-{label}", reason, expects, State.TODO, actions, wait_s=BEAT_S)
    values = {node: cluster.attributes.get((node, attribute), "not set") for node in wish.nodes}
    return _seen(Step(f"beat-{label}", reason, expects, State.DONE, wait_s=BEAT_S), values, ("1",), ident, cluster)


def _beat_params(link: Link, wish: Wish) -> Mapping[str, str]:
    waived = [
        f"{waiver.rule}={waiver.reason}"
        for waiver in wish.waivers
        if waiver.subject in (None, link.subject) and waiver.rule in HEARTBEAT_RULES
    ]
    params = {"addressing": wish.addressing} if wish.addressing != "any" else {}
    return {**params, "waivers": ";".join(waived)} if waived else params


def _words(item: Primitive, name: str) -> set[str]:
    return set(item.params.get(name, "").replace(",", " ").split())


def _seen(step: Step, values: Mapping[str, str], good: Tuple[str, ...], ident: str, cluster: ClusterFacts) -> Step:
    """The step as done, or waiting for values that are not there yet."""
    if all(value in good for value in values.values()):
        return step
    shown = ", ".join(f"{value} on {node}" for node, value in values.items())
    return replace(step, state=State.WAITING, seen=shown, failures=cluster.failures.get(ident, ()))


# --- the replicated device


def _drbd(wish: Wish, facts: Facts) -> Step:
    name = wish.device
    reason = (
        "DRBD has to freeze a Primary in the very moment in which it loses its peer (fencing resource-and-stonith), and to ask "
        "heartgate who goes on (the handlers). replica-guard refuses to start without."
    )
    expects = f"on both nodes, drbdadm dump {name} shows them, and nothing that speaks against them; the kernel has them too"
    by_hand: Dict[str, List[str]] = {}
    actions: List[Action] = []
    for node in wish.nodes:
        told, todo = _drbd_of(node, wish, facts)
        if told:
            by_hand.setdefault(told, []).append(node)
        actions += todo
    if by_hand:
        lines = [f"{' and '.join(nodes)}: {told}" for told, nodes in by_hand.items()]
        return Step("drbd", reason, expects, State.BY_HAND, by_hand="\n".join(lines))
    return Step("drbd", reason, expects, State.TODO if actions else State.DONE, tuple(actions))


def _drbd_of(node: str, wish: Wish, facts: Facts) -> Tuple[str, List[Action]]:
    """(what a person has to do, what can be done)."""
    drbd = facts.of(node).drbd
    if drbd is None:
        why = facts.of(node).drbd_why or "drbdadm is not installed, or there is no /etc/drbd.conf"
        return f"DRBD's configuration cannot be read: {why}", []
    resource = drbd.resource(wish.device)
    if resource is None:
        known = ", ".join(item.name for item in drbd.resources) or "none"
        return f"DRBD has no resource {wish.device} (it has {known}): define it on both nodes, or give another --device", []
    if sorted(resource.nodes) != sorted(wish.nodes):
        return f"{wish.device} is on {', '.join(resource.nodes)} ({resource.where}): the names have to be the cluster's", []
    found = setup_drbd.wrong(drbd, resource, node)
    if not found:
        return "", []
    text = setup_drbd.own_file(drbd.drbd9)
    ours = any(each.rule in setup_drbd.OURS for each in found)
    why_not = setup_drbd.no_own_file(drbd, resource) if ours else None
    foreign = any(each.rule not in (*setup_drbd.OURS, setup_drbd.NOT_IN_FORCE) for each in found)
    in_kernel = drbd.in_kernel(wish.device) is not None
    more = setup_drbd.adjust_does_more(drbd) if in_kernel and not why_not and not foreign else None
    if why_not or foreign:
        return setup_drbd.to_write(resource, found, drbd.drbd9, why_not or ""), []
    if more:
        return f"{more}. Look at it, then: drbdadm adjust {wish.device}", []
    actions: List[Action] = [PutFile(node, setup_drbd.OWN_FILE, text)] if ours else []
    return "", [*actions, *([Command(node, ("drbdadm", "adjust", wish.device))] if in_kernel else [])]


def _replica(wish: Wish, cluster: ClusterFacts) -> Tuple[Step, str]:
    """The promotable clone of the device, and its name."""
    reason = (
        f"Pacemaker starts and promotes {wish.device} through a promotable clone; the rule that heartgate needs is about it."
    )
    expects = "it runs on both nodes"
    primitive = _replica_primitive(wish, cluster)
    if wish.clone and primitive is None:
        known = ", ".join(sorted(cluster.promotable)) or "none"
        by_hand = f"there is no promotable clone {wish.clone} (there is {known}): create it, or give its name with --clone"
        return Step("replica", reason, expects, State.BY_HAND, by_hand=by_hand), wish.clone
    if primitive is None:
        ident = f"drbd-{wish.device}"
        if cluster.cib.primitive(ident):
            told = f"{ident} is there and is not {setup_tools.DRBD} with drbd_resource={wish.device}: rename it"
            return Step("replica", reason, expects, State.BY_HAND, by_hand=told), ""
        params = {"drbd_resource": wish.device}
        actions = setup_tools.clone(wish.tool, wish.local, ident, setup_tools.DRBD, params, promotable=True)
        return Step("replica", reason, expects, State.TODO, actions, wait_s=REPLICA_S), f"{ident}-clone"
    clone = cluster.clones.get(primitive, "")
    if clone not in cluster.promotable:
        by_hand = (
            f"{primitive} is in no promotable clone: pcs resource promotable {primitive} (crmsh: clone, meta promotable=true)"
        )
        return Step("replica", reason, expects, State.BY_HAND, by_hand=by_hand), clone
    missing = [node for node in wish.nodes if (primitive, node) not in cluster.started]
    if missing:
        failures, seen = cluster.failures.get(primitive, ()), f"{primitive} does not run on {', '.join(missing)}"
        return Step("replica", reason, expects, State.WAITING, seen=seen, failures=failures, wait_s=REPLICA_S), clone
    return Step("replica", reason, expects, State.DONE), clone


def _replica_primitive(wish: Wish, cluster: ClusterFacts) -> Optional[str]:
    if wish.clone:
        inside = [
            primitive for primitive, clone in cluster.clones.items() if clone == wish.clone and clone in cluster.promotable
        ]
        return inside[0] if inside else None
    drbd = cluster.cib.of_kind(setup_tools.DRBD)
    return next((item.ident for item in drbd if item.params.get("drbd_resource") == wish.device), None)


# --- replica-guard, and the rule


def _guard(wish: Wish, cluster: ClusterFacts) -> Step:
    reason = (
        f"Guards {wish.device}: when the sync links are lost, it blocks the replica of the lower priority and lets the other go "
        "on, with proof. It writes the standing of each node into an attribute."
    )
    expects = f"{wish.attribute} is {' or '.join(SERVING)} on both nodes (crm_mon -1A; heartgate status)"
    present = next((item for item in cluster.cib.of_kind(setup_tools.GUARD) if item.params.get("device") == wish.device), None)
    ident = present.ident if present else f"guard-{wish.device}"
    if present is None:
        by_path = next((item for item in cluster.cib.of_kind(setup_tools.GUARD) if item.params.get("device", "/")[:1] == "/"), None)
        if by_path:
            told = f"{by_path.ident} guards {by_path.params.get('device')}: if that is {wish.device}, let it name the resource: "
            told += setup_tools.update(wish.tool, by_path.ident, "device", wish.device)
            return Step("guard", reason, expects, State.BY_HAND, by_hand=told)
        if cluster.cib.primitive(ident):
            return Step("guard", reason, expects, State.BY_HAND, by_hand=f"another resource is called {ident}: rename it")
        params = {"device": wish.device, **wish.guard}
        return Step(
            "guard",
            reason,
            expects,
            State.TODO,
            setup_tools.clone(wish.tool, wish.local, ident, setup_tools.GUARD, params),
            wait_s=GUARD_S,
        )
    different = [
        f"{ident} has {name}={present.params.get(name, '(not set)')}, and you want {value}: "
        + setup_tools.update(wish.tool, ident, name, value)
        for name, value in wish.guard.items()
        if name not in wish.assumed and _words(present, name) != set(value.replace(",", " ").split())
    ]
    if different:
        return Step("guard", reason, expects, State.BY_HAND, by_hand="\n".join(different))
    values = {node: cluster.attributes.get((node, wish.attribute), "not set") for node in wish.nodes}
    return _seen(Step("guard", reason, expects, State.DONE, wait_s=GUARD_S), values, SERVING, ident, cluster)


def _rule(wish: Wish, cluster: ClusterFacts, clone: str) -> Step:
    name = wish.attribute
    reason = (
        "Pacemaker must not promote a replica that is blocked or whose data may be old, nor one that nobody guards. It comes "
        "last: on a node without the attribute it would demote a service that runs."
    )
    subject = clone or "the clone"
    expects = f"a location constraint refuses the Promoted role of {subject} where {name} is not set, blocked or unproven"
    wanted = frozenset({Expression(name, "not_defined"), Expression(name, "eq", "blocked"), Expression(name, "eq", "unproven")})
    about = [rule for rule in cluster.rules if any(each.attribute == name for each in rule.expressions)]
    if any(_is_it(rule, clone, wanted) for rule in about):
        return Step("rule", reason, expects, State.DONE)
    if about:
        told = f"the constraint {about[0].ident} on {about[0].resource} is another rule about {name}: look at it, and remove it"
        return Step("rule", reason, expects, State.BY_HAND, by_hand=told)
    if not clone:
        return Step("rule", reason, expects, State.BY_HAND, by_hand="it needs the promotable clone, see above")
    return Step("rule", reason, expects, State.TODO, setup_tools.refuse_promotion(wish.tool, wish.local, name, clone, name))


def _is_it(rule: LocationRule, clone: str, wanted: frozenset[Expression]) -> bool:
    return (
        rule.resource == clone
        and rule.role == "Promoted"
        and rule.score.upper() == "-INFINITY"
        and rule.boolean == "or"
        and rule.expressions == wanted
    )
