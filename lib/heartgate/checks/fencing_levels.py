"""Which fencing levels apply to a node, and whether anything in them cuts the power. Pure. For the lint, and before each shot."""

from __future__ import annotations

import re
from typing import FrozenSet

from heartgate.checks.cib_conf import Cib, Level

GATE_AGENT = "stonith:fence_heartgate"
PATTERN = "PATTERN~"


def gates(cib: Cib) -> FrozenSet[str]:
    return frozenset(device.ident for device in cib.fencing if device.kind == GATE_AGENT)


def applies(level: Level, node: str) -> bool:
    """A level by attribute may apply, and so may one by a pattern that is not Python's: then it is not reported as missing.
    Pacemaker compares names without regard to case where no level has the very name."""
    if level.target.startswith(PATTERN):
        pattern = level.target[len(PATTERN) :]
        if re.search(r"\[[.:=]", pattern):
            return True
        try:
            return bool(re.search(pattern, node))
        except re.error:
            return True
    return level.target.lower() == node.lower() or "=" in level.target


def why_alone(cib: Cib, node: str) -> str:
    """Why fence_heartgate's yes could count as a completed fencing of the node; "" where each of its levels has something that cuts
    the power. One that stands before the gate counts too: in the wrong order, but it has cut the power."""
    ours = gates(cib)
    levels = [level for level in cib.levels if applies(level, node) and not ours.isdisjoint(level.devices)]
    for level in levels:
        if ours.issuperset(level.devices):
            return f"level {level.index} of {level.target} has {', '.join(level.devices)} and nothing that cuts the power"
    return "" if levels else f"no fencing level of {node} has fence_heartgate before a device that cuts the power"
