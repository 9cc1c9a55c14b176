"""The same configuration in the words of pcs and of crmsh. Pure.

A change of several parts is one change of the CIB with both: pcs edits a copy and pushes what is different, crmsh loads a text.
It matters with the gate: between `stonith create` and the levels Pacemaker could use fence_heartgate alone, and take its yes for
a completed fencing. Seen with pcs 0.11 and crmsh 4.4.
"""

from __future__ import annotations

import shlex
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from heartgate.checks.cib_conf import Level
from heartgate.checks.setup_model import Command, Tool

BEFORE, CHANGED = "/run/heartgate-setup-before.xml", "/run/heartgate-setup.xml"
GUARD, BEAT, DRBD, GATE = "ocf:heartgate:replica-guard", "ocf:heartgate:heartbeat-link", "ocf:linbit:drbd", "fence_heartgate"
# crmsh takes no time-outs from an agent's metadata, and warns of what is shorter than they say. pcs takes them.
OPERATIONS: Mapping[str, Tuple[str, ...]] = {
    GUARD: ("start timeout=60s", "stop timeout=30s", "monitor interval=10s timeout=20s"),
    BEAT: ("start timeout=60s", "stop timeout=30s", "monitor interval=10s timeout=20s"),
    DRBD: (
        "start timeout=240s",
        "stop timeout=100s",
        "promote timeout=90s",
        "demote timeout=90s",
        "notify timeout=90s",
        "monitor interval=10s timeout=20s role=Promoted",
        "monitor interval=20s timeout=20s role=Unpromoted",
    ),
}
PROMOTABLE = ("promoted-max=1", "promoted-node-max=1", "clone-max=2", "clone-node-max=1", "notify=true")


def _pairs(params: Mapping[str, str]) -> List[str]:
    return [f"{name}={value}" for name, value in params.items()]


def _crm_pairs(params: Mapping[str, str]) -> str:
    return "".join(f' {name}="{value}"' for name, value in params.items())


def _load(node: str, *lines: str) -> Tuple[Command, ...]:
    return (Command(node, ("crm", "configure", "load", "update", "-"), "".join(f"{line}\n" for line in lines)),)


def clone(
    tool: Tool, node: str, ident: str, kind: str, params: Mapping[str, str], promotable: bool = False
) -> Tuple[Command, ...]:
    """A resource that runs on both nodes; its clone is called IDENT-clone."""
    if tool is Tool.PCS:
        ending = ["promotable", *PROMOTABLE] if promotable else ["clone"]
        return (Command(node, ("pcs", "resource", "create", ident, kind, *_pairs(params), *ending)),)
    operations = "".join(f" op {words}" for words in OPERATIONS[kind])
    meta = f" meta promotable=true {' '.join(PROMOTABLE)}" if promotable else ""
    return _load(node, f"primitive {ident} {kind} params{_crm_pairs(params)}{operations}", f"clone {ident}-clone {ident}{meta}")


def refuse_promotion(tool: Tool, node: str, ident: str, resource: str, attribute: str) -> Tuple[Command, ...]:
    """The location rule: Promoted only where the attribute allows it."""
    when = f"not_defined {attribute} or {attribute} eq blocked or {attribute} eq unproven"
    if tool is Tool.PCS:
        start = ("pcs", "constraint", "location", resource, "rule", f"constraint-id={ident}")
        return (Command(node, (*start, "role=Promoted", "score=-INFINITY", *when.split())),)
    return _load(node, f"location {ident} {resource} rule $role=Promoted -inf: {when}")


def gate(
    tool: Tool, node: str, ident: Optional[str], params: Mapping[str, str], before: Sequence[Level], after: Sequence[Level]
) -> Tuple[Command, ...]:
    """fence_heartgate (ident None: it is there already) and the levels, at once. before: all levels that there are."""
    name = ident or ""
    if tool is Tool.CRMSH:
        lines = [f"primitive {name} stonith:{GATE}{' params' + _crm_pairs(params) if params else ''} op monitor interval=60s"]
        return _load(node, *(lines if ident else ()), _topology(after))
    steps: List[Tuple[str, ...]] = [("stonith", "create", name, GATE, *_pairs(params))] if ident else []
    old = {(level.target, level.index): level for level in before}
    for level in after:
        present = old.get((level.target, level.index))
        if present == level:
            continue
        if present:
            steps.append(("stonith", "level", "remove", str(level.index), "target", level.target, "stonith", *present.devices))
        steps.append(("stonith", "level", "add", str(level.index), level.target, *level.devices))
    return (
        # A CIB has the passwords of power switches in it: nobody else may read the copies.
        Command(node, ("install", "-m", "600", "/dev/null", BEFORE)),
        Command(node, ("pcs", "cluster", "cib", BEFORE)),
        Command(node, ("cp", "--preserve=mode", BEFORE, CHANGED)),
        *(Command(node, ("pcs", "-f", CHANGED, *words)) for words in steps),
        Command(node, ("pcs", "cluster", "cib-push", CHANGED, f"diff-against={BEFORE}")),
        Command(node, ("rm", "-f", BEFORE, CHANGED)),
    )


def _topology(levels: Sequence[Level]) -> str:
    """crmsh has one text for all levels, numbered as they stand."""
    targets: Dict[str, List[str]] = {}
    for level in sorted(levels, key=lambda each: (each.target, each.index)):
        targets.setdefault(level.target, []).append(",".join(level.devices))
    return "fencing_topology " + " ".join(f"{target}: {' '.join(devices)}" for target, devices in targets.items())


def power_example(tool: Tool, node: str, device: str) -> str:
    words = f"{device} stonith:fence_ipmilan params ip=ADDRESS" if tool is Tool.CRMSH else f"{device} fence_ipmilan ip=ADDRESS"
    tool_words = "crm configure primitive" if tool is Tool.CRMSH else "pcs stonith create"
    return f"{tool_words} {words} username=USER password_script=/PATH lanplus=1 pcmk_host_list={node}"


def update(tool: Tool, ident: str, name: str, value: str) -> str:
    if tool is Tool.CRMSH:
        return f"crm resource param {ident} set {name} {shlex.quote(value)}"
    return f"pcs resource update {ident} {shlex.quote(f'{name}={value}')}"


def cleanup(tool: Tool, ident: str) -> str:
    return f"{'crm' if tool is Tool.CRMSH else 'pcs'} resource cleanup {ident}"


def start_cluster(tool: Tool) -> str:
    return "pcs cluster start --all" if tool is Tool.PCS else "crm cluster start, on each node"
