"""From parameters to a guarded device: everything that can be wrong is found before anything is guarded.

Runs in a worker, since it asks the machine. A restarted daemon skips the checks for what was registered before: it
guards at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional

from heartgate.adapters.base import AdapterError, Driver, Problem
from heartgate.core.codec import is_name
from heartgate.core.model import Config
from heartgate.daemon import params as parameters
from heartgate.daemon.params import Params
from heartgate.daemon.services import World

BY_RESOURCE = Path("/dev/drbd/by-res")


class Settings(NamedTuple):
    config: Config
    params: Params
    driver: Driver
    raw: Mapping[str, str]


class Refused(Exception):
    """Carries everything that is wrong."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(problem.message for problem in problems))
        self.problems = tuple(problems)


def resource_of(device: str, by_resource: Path = BY_RESOURCE) -> str:
    """The resource's name; for a path in /dev the resource whose volume it is. Raises Refused."""
    if is_name(device):
        return device
    path = Path(device)
    if not path.exists():
        raise Refused([Problem("device-absent", f"device: {device} does not exist", "name the replicated resource")])
    real = os.path.realpath(device)
    for link in sorted(by_resource.glob("*")) + sorted(by_resource.glob("*/*")):
        if not link.is_dir() and os.path.realpath(link) == real:
            return link.relative_to(by_resource).parts[0]
    raise Refused(
        [
            Problem(
                "device-unknown",
                f"device: {device} belongs to no DRBD resource that is up on this node",
                "give the name of the replicated resource, e.g. device=r0",
            )
        ]
    )


def settings(world: World, raw: Mapping[str, str], me: str) -> Settings:
    """Without looking at the machine. Raises Refused."""
    params, problems = parameters.parse(raw)
    if params is None:
        raise Refused(problems)
    resource = resource_of(params.device)
    try:
        config = params.config(resource, me)
    except ValueError as error:
        raise Refused([_me_missing(me, str(error))]) from None
    driver = world.driver(params.driver, resource, params.exec_program, me)
    return Settings(config, params, driver, _only_ours(raw))


Before = Callable[[Config], Sequence[Problem]]


def checked(world: World, raw: Mapping[str, str], me: Optional[str], before: Before) -> Settings:
    """With everything that the machine can tell, and (`before`) that was registered before. Blocks: worker thread. Raises
    Refused, OSError."""
    try:
        name = me or world.local_name()
    except AdapterError as error:
        raise Refused([Problem("no-cluster", f"Corosync does not answer: {error}", "start Corosync first")]) from None
    found = settings(world, raw, name)
    problems: List[Problem] = [*before(found.config), *_unknown_nodes(world, found.params), *_flush_targets(world, found.params)]
    problems += _ask_driver(found)
    if problems:
        raise Refused(problems)
    return found


def _ask_driver(found: Settings) -> Sequence[Problem]:
    try:
        return found.driver.check(found.config.nodes)
    except AdapterError as error:
        return [Problem("driver", f"device {found.config.device}: {error}", "look at the replication's own status")]


def _unknown_nodes(world: World, params: Params) -> List[Problem]:
    try:
        known = sorted(world.node_names())
    except AdapterError:
        return []
    strangers = [node for node, _ in params.priorities if node not in known]
    return [
        Problem(
            "priorities-unknown-node",
            f"priorities: {node} is not a node of this cluster",
            f"use the names that Corosync has: {' '.join(known)}",
        )
        for node in strangers
    ]


def _flush_targets(world: World, params: Params) -> List[Problem]:
    problems = []
    for spec in params.flush:
        try:
            wrong = world.flush_target(spec).check()
        except ValueError as error:
            wrong = str(error)
        if wrong:
            problems.append(
                Problem("flush-target", f"flush: {spec}: {wrong}", "correct the target, or remove it from flush")
            )
    return problems


def _me_missing(me: str, text: str) -> Problem:
    return Problem(
        "priorities-me-missing",
        f"priorities: {text}",
        f"name every node that holds a replica, {me} too, or keep the resource off {me} by a location rule",
    )


def _only_ours(raw: Mapping[str, str]) -> Dict[str, str]:
    return {name: value for name, value in raw.items() if name in parameters.DEFAULTS}


def tell(problems: Sequence[Problem]) -> List[Dict[str, str]]:
    """For the answer on the control socket."""
    return [{"code": item.code, "message": item.message, "remedy": item.remedy} for item in problems]


