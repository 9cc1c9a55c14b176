"""The set-up's part in fencing: which devices cut whose power, and fence_heartgate before them in every level. Pure."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Dict, List, Mapping, Optional, Tuple

from heartgate.checks import setup_tools
from heartgate.checks.cib_conf import Cib, Level, Primitive, is_false
from heartgate.checks.fencing_levels import GATE_AGENT
from heartgate.checks.setup_model import ClusterFacts, State, Step, Wish

GATE_ID = "gate"
Power = Mapping[str, Tuple[str, ...]]


def hosts(device: Primitive) -> Tuple[str, ...]:
    """Nodes that a fencing device says to fence; empty if it does not say so in its parameters."""
    listed = re.split(r"[,;\s]+", device.params.get("pcmk_host_list", ""))
    mapped = [pair.partition(":")[0] for pair in re.split(r"[,;\s]+", device.params.get("pcmk_host_map", ""))]
    return tuple(dict.fromkeys(name for name in (*listed, *mapped) if name))


def power(wish: Wish, cib: Cib) -> Tuple[Power, Dict[str, str]]:
    """(node -> devices that cut its power, node -> what is missing). Named by the person, in a level already, or the only one
    that says to fence that node."""
    found: Dict[str, Tuple[str, ...]] = {}
    missing: Dict[str, str] = {}
    for node in wish.nodes:
        devices, why = _power_of(node, wish, cib)
        if why:
            missing[node] = why
        else:
            found[node] = devices
    return found, missing


def _power_of(node: str, wish: Wish, cib: Cib) -> Tuple[Tuple[str, ...], str]:
    cutting = {device.ident: device for device in cib.fencing if device.kind != GATE_AGENT}
    named = wish.power.get(node, ())
    in_levels = tuple(device for level in cib.levels if level.target == node for device in level.devices if device in cutting)
    if named:
        unknown = [device for device in named if device not in cutting]
        known = ", ".join(cutting) or "none"
        if unknown:
            return (), f"there is no fencing device {', '.join(unknown)} that cuts power (there is {known})"
        if in_levels and set(named) != set(in_levels):
            return (
                (),
                f"its levels have {', '.join(in_levels)}, you named {', '.join(named)}: leave --fence out, or change them",
            )
        return named, ""
    if in_levels:
        return in_levels, ""
    telling = tuple(ident for ident, device in cutting.items() if node in hosts(device))
    if len(telling) == 1:
        return telling, ""
    if telling:
        return (), f"{', '.join(telling)} can all fence it: name the one, or several in their order, with --fence {node}:DEVICE"
    if cutting:
        return (), f"none of {', '.join(cutting)} says to fence it (pcmk_host_list): name its device with --fence {node}:DEVICE"
    return (), "there is no fencing device"


def stonith(wish: Wish, cluster: ClusterFacts) -> Step:
    """Whether there is fencing; heartgate cannot make it, since only a person knows the addresses and passwords."""
    reason = (
        "A node that cannot be heard may still write. Only a completed fencing proves that it does not: without STONITH nobody "
        "goes on when all links are lost (on_isolation=fence)."
    )
    expects = "stonith-enabled is true, and each node has a device that cuts its power"
    found, missing = power(wish, cluster.cib)
    disabled = is_false(cluster.cib.properties.get("stonith-enabled", "true"))
    shown = "; ".join(f"{node}: {', '.join(devices)}" for node, devices in found.items())
    if not missing and not disabled:
        return Step("stonith", reason, expects, State.DONE, notes=(shown,))
    lines = [f"{node}: {why}" for node, why in missing.items()]
    lines += ["stonith-enabled is false: Pacemaker fences nobody"] if disabled else []
    if wish.isolation != "fence":
        told = f"on_isolation={wish.isolation} goes without fencing, so this is left as it is: {'; '.join(lines)}"
        return Step("stonith", reason, expects, State.DONE, notes=(told,))
    for node in missing:
        if node not in wish.power and not cluster.cib.fencing:
            lines.append(f"for example: {setup_tools.power_example(wish.tool, node, f'fence-{node}')}")
    if disabled:
        pcs, crm = "pcs property set stonith-enabled=true", "crm configure property stonith-enabled=true"
        lines.append(f"when there is a device for each node: {crm if wish.tool.value == 'crmsh' else pcs}")
    return Step("stonith", reason, expects, State.BY_HAND, by_hand="\n".join(lines))


def gate(wish: Wish, cluster: ClusterFacts) -> Optional[Step]:
    """None without devices that cut the power: alone, fence_heartgate would be taken for one."""
    cib = cluster.cib
    found, missing = power(wish, cib)
    if missing and wish.isolation != "fence":
        return None
    reason = (
        "fence_heartgate decides which node may shoot, by the data: first in the level, it keeps old data from shooting good "
        "data, and two nodes from shooting each other. It comes together with the levels: alone it would pass for a power switch."
    )
    expects = "it is started, and stands first in each level of both nodes"
    if missing:
        return Step("gate", reason, expects, State.BY_HAND, by_hand="it needs the devices that cut the power, see stonith")
    odd = [level.target for level in cib.levels if level.target.startswith("PATTERN~") or "=" in level.target]
    if odd:
        by_hand = f"there are levels by pattern or attribute ({', '.join(odd)}): put fence_heartgate first into them yourself"
        return Step("gate", reason, expects, State.BY_HAND, by_hand=by_hand)
    present = next((device.ident for device in cib.fencing if device.kind == GATE_AGENT), None)
    if present is None and cib.primitive(GATE_ID):
        return Step("gate", reason, expects, State.BY_HAND, by_hand=f"another resource is called {GATE_ID}: rename it")
    name = present or GATE_ID
    levels = _levels(wish, cib, found, name)
    if present is None or sorted(levels, key=_key) != sorted(cib.levels, key=_key):
        actions = setup_tools.gate(wish.tool, wish.local, None if present else name, wish.gate, cib.levels, levels)
        return Step("gate", reason, expects, State.TODO, actions)
    if not any(primitive == name for primitive, _ in cluster.started):
        failures = cluster.failures.get(name, ())
        return Step("gate", reason, expects, State.WAITING, seen=f"{name} is started nowhere", failures=failures)
    return Step("gate", reason, expects, State.DONE)


def _key(level: Level) -> Tuple[str, int]:
    return level.target, level.index


def _levels(wish: Wish, cib: Cib, found: Power, name: str) -> Tuple[Level, ...]:
    """All levels as they should be; those of other nodes stay."""
    gates = {device.ident for device in cib.fencing if device.kind == GATE_AGENT} | {name}
    levels: List[Level] = []
    for level in cib.levels:
        cutting = tuple(device for device in level.devices if device not in gates)
        mine = level.target in wish.nodes and level.devices[:1] != (name,)
        levels.append(replace(level, devices=(name, *cutting)) if mine else level)
    for node in wish.nodes:
        if node in found and not any(level.target == node for level in cib.levels):
            levels.append(Level(node, 1, (name, *found[node])))
    return tuple(levels)
