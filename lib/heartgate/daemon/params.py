"""The parameters of replica-guard: their defaults, and what is wrong with given values.

Used by the agent (syntax, before anything runs) and by the daemon (again, since it trusts nobody's word). Needs nothing
but the values; what has to look at the machine is in `heartgate.daemon.registration`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Dict, List, NamedTuple, Optional, Tuple

from heartgate.adapters.base import Problem
from heartgate.core.codec import is_name
from heartgate.core.model import Config, OnIsolation, Rank, make_config

DEFAULTS: Mapping[str, str] = {
    "device": "",
    "driver": "drbd",
    "exec_program": "",
    "priorities": "",
    "policy": "priority",
    "on_isolation": "fence",
    "bias": "",
    "confirm_timeout": "10",
    "on_blocked_promoted": "release",
    "flush": "",
    "flush_timeout": "60",
    "sync_interfaces": "",
}
DRIVERS = ("drbd", "exec")
EXAMPLE = 'priorities="nodea:1 nodeb:2"'
MAX_TIMEOUT_S = 3600
MAX_PRIORITY = 1_000_000
_INTERFACE = re.compile(r"[^\s/:]{1,15}\Z")
_SECONDS = re.compile(r"(\d{1,6})(s|sec|ms|m|min)?\Z")
_UNITS_MS = {"": 1000, "s": 1000, "sec": 1000, "ms": 1, "m": 60_000, "min": 60_000}


class Params(NamedTuple):
    """Checked values. device: as written (a resource's name, or a block device)."""

    device: str
    driver: str
    exec_program: str
    priorities: Tuple[Tuple[str, int], ...]
    policy: Rank
    on_isolation: OnIsolation
    bias: str
    confirm_timeout_ms: int
    on_blocked_promoted: str
    flush: Tuple[str, ...]
    flush_timeout_s: float
    sync_interfaces: Tuple[str, ...]

    def config(self, resource: str, me: str) -> Config:
        """Raises ValueError when the priorities do not name this node."""
        return make_config(
            resource, me, dict(self.priorities), self.policy, self.on_isolation, self.confirm_timeout_ms, bias=self.bias
        )


def parse(raw: Mapping[str, str]) -> Tuple[Optional[Params], List[Problem]]:
    """The values, or everything that is wrong with them. Unknown names are ignored (Pacemaker adds its own)."""
    given: Dict[str, str] = {name: raw.get(name, "").strip() or default for name, default in DEFAULTS.items()}
    problems: List[Problem] = []
    params = Params(
        device=_device(given["device"], problems),
        driver=_choice(given, "driver", DRIVERS, problems),
        exec_program=_program(given, problems),
        priorities=_priorities(given["priorities"], problems),
        policy=Rank(_choice(given, "policy", tuple(rank.value for rank in Rank), problems)),
        on_isolation=OnIsolation(_choice(given, "on_isolation", tuple(kind.value for kind in OnIsolation), problems)),
        bias=given["bias"],
        confirm_timeout_ms=_duration_ms(given, "confirm_timeout", problems),
        on_blocked_promoted=_choice(given, "on_blocked_promoted", ("release", "fence"), problems),
        flush=_flush(given["flush"], problems),
        flush_timeout_s=_duration_ms(given, "flush_timeout", problems) / 1000,
        sync_interfaces=_interfaces(given["sync_interfaces"], problems),
    )
    if not problems:
        _bias(params, problems)
    return (None if problems else params), problems


def _device(value: str, problems: List[Problem]) -> str:
    if not value:
        problems.append(
            Problem("device-missing", "device is not given", "set device to the replicated resource, e.g. device=r0")
        )
    elif not is_name(value) and not re.match(r"/dev/[A-Za-z0-9._/-]{1,100}\Z", value):
        problems.append(
            Problem(
                "device-name",
                f"device={value!r:.80} is neither a resource name nor a path in /dev",
                "give the name of the replicated resource (letters, digits, '.', '_', '-', at most 64), e.g. device=r0",
            )
        )
    return value


def _choice(given: Mapping[str, str], name: str, allowed: Tuple[str, ...], problems: List[Problem]) -> str:
    value = given[name]
    if value in allowed:
        return value
    problems.append(
        Problem(f"{name}-value", f"{name}={value!r:.80} is not known", f"set {name} to one of: {', '.join(allowed)}")
    )
    return DEFAULTS[name]


def _program(given: Mapping[str, str], problems: List[Problem]) -> str:
    value = given["exec_program"]
    if given["driver"] == "exec" and not value.startswith("/"):
        problems.append(
            Problem(
                "exec-program",
                f"exec_program={value!r:.80} is not a full path, and driver=exec needs one",
                "set exec_program to the full path of the program that speaks the exec driver's protocol",
            )
        )
    return value


def _priorities(value: str, problems: List[Problem]) -> Tuple[Tuple[str, int], ...]:
    def wrong(code: str, message: str, remedy: str = f"write e.g. {EXAMPLE}") -> None:
        problems.append(Problem(code, message, remedy))

    found: Dict[str, int] = {}
    owner: Dict[int, str] = {}
    for item in value.replace(",", " ").split():
        node, colon, number = item.rpartition(":")
        if not colon or not is_name(node) or not number.isdecimal() or not 1 <= int(number[:9]) <= MAX_PRIORITY:
            wrong("priorities-syntax", f"priorities: {item!r:.80} is not NODE:NUMBER, numbers from 1 (the highest)")
        elif node in found:
            wrong("priorities-node-twice", f"priorities: {node} is named twice", "name every node once")
        elif int(number) in owner:
            wrong(
                "priorities-doubled",
                f"priorities: {owner[int(number)]} and {node} both have priority {int(number)}",
                f"give every node a number of its own, 1 is the highest: {EXAMPLE}",
            )
        else:
            found[node], owner[int(number)] = int(number), node
    if not value:
        wrong("priorities-missing", "priorities is not given", f"name every node that holds a replica: {EXAMPLE}")
    elif len(found) < 2 and not any(problem.code.startswith("priorities") for problem in problems):
        wrong("priorities-alone", "priorities names one node, at least two are needed")
    return tuple(sorted(found.items(), key=lambda item: item[1]))


def _bias(params: Params, problems: List[Problem]) -> None:
    """What contradicts itself about the standing agreement."""

    def wrong(code: str, message: str, remedy: str) -> None:
        problems.append(Problem(code, message, remedy))

    bias, nodes = params.bias, [node for node, _ in params.priorities]
    if params.on_isolation is not OnIsolation.BIAS:
        if bias:
            wrong("bias-unused", f"bias={bias!r:.80} is given, but on_isolation={params.on_isolation.value} does not use it",
                  "set on_isolation=bias, or leave bias out")  # fmt: skip
        return
    if not bias:
        wrong("bias-missing", "on_isolation=bias, and bias does not name the node that goes on alone", f"set e.g. bias={nodes[0]}")
    elif bias not in nodes:
        wrong("bias-stranger", f"bias={bias!r:.80} is no node of priorities", f"set bias to one of: {', '.join(nodes)}")
    elif len(nodes) != 2:
        wrong("bias-nodes", f"on_isolation=bias is for two replicas, and priorities names {len(nodes)}",
              "use on_isolation=fence (or freeze) with three and more")  # fmt: skip
    elif params.policy is Rank.PRIORITY and bias != nodes[0]:
        wrong("bias-priority", f"bias={bias}, but with policy=priority {nodes[0]} goes on whenever the two can still talk",
              f"set bias={nodes[0]}, or give {bias} the highest priority")  # fmt: skip


def _duration_ms(given: Mapping[str, str], name: str, problems: List[Problem]) -> int:
    match = _SECONDS.match(given[name])
    if match:
        value = int(match.group(1)) * _UNITS_MS[match.group(2) or ""]
        if 100 <= value <= MAX_TIMEOUT_S * 1000:
            return value
    problems.append(
        Problem(
            f"{name}-value",
            f"{name}={given[name]!r:.80} is not a time from 100ms to {MAX_TIMEOUT_S}s",
            f"write seconds, e.g. {name}={DEFAULTS[name]}",
        )
    )
    return 1000


def _flush(value: str, problems: List[Problem]) -> Tuple[str, ...]:
    targets = tuple(value.split())
    for target in targets:
        kind, colon, argument = target.partition(":")
        if not colon or not kind or not argument:
            problems.append(
                Problem(
                    "flush-syntax",
                    f"flush: {target!r:.80} is not KIND:ARGUMENT",
                    "write e.g. flush=\"filesystem:/srv block:/dev/sdb hook:/etc/heartgate/flush.d\"",
                )
            )
    return targets


def _interfaces(value: str, problems: List[Problem]) -> Tuple[str, ...]:
    names = tuple(value.replace(",", " ").split())
    for name in names:
        if not _INTERFACE.match(name):
            problems.append(
                Problem(
                    "sync_interfaces-value",
                    f"sync_interfaces: {name!r:.80} is not an interface name",
                    "name the interfaces that carry replication, e.g. sync_interfaces=\"eth2 eth3\"",
                )
            )
    return names
