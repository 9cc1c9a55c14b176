"""In which order a cluster can lose its links, its nodes and its programs, until no link is left; and what came of it.

The same list is played in both labs, and on the stock stack beside it. An order does the harm, in real time; `play` waits for the
service to be back, heals everything and judges by what the outside recorder has seen.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Callable, Dict, List, Optional, Protocol, Sequence, Tuple

from tests.lab.api import Lab, LabError

HEARTBEATS = ("hb0", "hb1")
SYNC = ("sync0",)
NODES = ("nodea", "nodeb")


@dataclass(frozen=True)
class Shot:
    """One time that a node's power was taken away. `at_s`: host CLOCK_MONOTONIC."""

    node: str
    by: str
    at_s: float


class Stage(Protocol):
    """A running cluster with a service on `active`, in one of the labs."""

    active: str
    boot_s: float  # a node that is switched on has its cluster stack after this time

    @property
    def lab(self) -> Lab: ...
    def fencing(self, mode: str, delay_s: float = 0.0) -> None:
        """What becomes of fencings from now on: "ok", "unreachable", "failing", "slow" (each takes delay_s)."""

    def shots(self) -> Sequence[Shot]: ...
    def acks(self, since: float) -> Sequence[Tuple[float, str]]:
        """(host time, node) of every acknowledged write since then, in the order of their arrival."""

    def signal(self, node: str, program: str, signal: str) -> None:
        """Send a signal to "corosync", "pacemakerd" or "heartgated"; for the last, KILL also keeps it from being started."""

    def healed(self) -> None:
        """Returns when both replicas are in sync and may serve; LabError if that needs a person."""

    def missing(self) -> Dict[str, int]:
        """Acknowledged writes that each node's copy lacks."""


@dataclass(frozen=True)
class Order:
    name: str
    about: str
    harm: Callable[[Stage], None]


@dataclass
class Result:
    """What came of it. `pause_s`: the longest time without an acknowledged write, from the first harm until the service was back.
    `wrong`: sentences; empty when everything held."""

    order: str
    active: str
    pause_s: float = 0.0
    shot: List[str] = field(default_factory=list)
    served_by: str = ""
    lost: int = 0
    seconds: float = 0.0
    wrong: List[str] = field(default_factory=list)

    def data(self) -> Dict[str, object]:
        return asdict(self)


def other(node: str) -> str:
    return NODES[1 - NODES.index(node)]


# --- harm


def _cut(stage: Stage, links: Sequence[str], **where: str) -> None:
    for link in links:
        stage.lab.cut(link, **where)


def _one_after_the_other(first: Sequence[str], second: Sequence[str], pause_s: float) -> Callable[[Stage], None]:
    def harm(stage: Stage) -> None:
        _cut(stage, first)
        time.sleep(pause_s)
        _cut(stage, second)

    return harm


def _all_at_once(stage: Stage) -> None:
    _cut(stage, (*HEARTBEATS, *SYNC))


def _one_direction(direction: str) -> Callable[[Stage], None]:
    return lambda stage: _cut(stage, (*HEARTBEATS, *SYNC), node=stage.active, direction=direction)


def _frozen(stage: Stage) -> None:
    node = stage.lab.nodes[stage.active]
    node.freeze()
    time.sleep(60)
    if node.powered():
        node.thaw()


def _power_cut(chosen: Callable[[Stage], str]) -> Callable[[Stage], None]:
    return lambda stage: stage.lab.nodes[chosen(stage)].power_off()


def _both_off(first: Optional[str]) -> Callable[[Stage], None]:
    """first: "active" or "standby" is started first, and has to wait for the other; None: both at once."""

    def harm(stage: Stage) -> None:
        for node in stage.lab.nodes.values():
            node.power_off()
        if first is None:
            for node in stage.lab.nodes.values():
                node.power_on()
            return
        alone = stage.active if first == "active" else other(stage.active)
        since = time.monotonic()
        stage.lab.nodes[alone].power_on()
        time.sleep(stage.boot_s + 20)
        _nobody_served(stage, since, f"{alone} was started alone")
        stage.lab.nodes[other(alone)].power_on()

    return harm


def _broken_fencing(mode: str) -> Callable[[Stage], None]:
    """As long as nobody can be fenced nobody may serve; as soon as it works again, one does."""

    def harm(stage: Stage) -> None:
        stage.fencing(mode)
        _all_at_once(stage)
        time.sleep(15)
        since = time.monotonic()
        time.sleep(15)
        _nobody_served(stage, since, f"fencing was {mode}")
        stage.fencing("ok")

    return harm


def _slow_fencing(stage: Stage) -> None:
    stage.fencing("slow", 30.0)
    _all_at_once(stage)


def _program(program: str, signal: str) -> Callable[[Stage], None]:
    return lambda stage: stage.signal(stage.active, program, signal)


def _daemon_dead(chosen: Callable[[Stage], str]) -> Callable[[Stage], None]:
    def harm(stage: Stage) -> None:
        stage.signal(chosen(stage), "heartgated", "KILL")
        time.sleep(0.5)
        _all_at_once(stage)

    return harm


def _nobody_served(stage: Stage, since: float, when: str) -> None:
    served = {node for _, node in stage.acks(since)}
    if served:
        raise Wrong(f"{' and '.join(sorted(served))} served while {when}")


class Wrong(AssertionError):
    """Something that must not happen was seen in the middle of an order."""


def _active(stage: Stage) -> str:
    return stage.active


def _standby(stage: Stage) -> str:
    return other(stage.active)


def _orders() -> List[Order]:
    listed = [
        Order("all-at-once", "every link lost at once", _all_at_once),
        Order("one-direction-out", "the active node's frames are lost on every link, carrier stays", _one_direction("out")),
        Order("one-direction-in", "every frame to the active node is lost, carrier stays", _one_direction("in")),
        Order("frozen", "the active node is frozen for 60 s, then thawed", _frozen),
        Order("active-power-cut", "the active node loses power", _power_cut(_active)),
        Order("standby-power-cut", "the standby node loses power", _power_cut(_standby)),
        Order("both-power-cut", "both lose power and are started together", _both_off(None)),
        Order("both-power-cut-active-first", "both lose power; the active one is started, the other 20 s after it is up",
              _both_off("active")),
        Order("both-power-cut-standby-first", "both lose power; the standby is started, the other 20 s after it is up",
              _both_off("standby")),
        Order("fencing-unreachable", "every link lost, the power controller answers nobody for 30 s",
              _broken_fencing("unreachable")),
        Order("fencing-failing", "every link lost, every fencing fails for 30 s", _broken_fencing("failing")),
        Order("fencing-slow", "every link lost, a fencing takes 30 s", _slow_fencing),
        Order("corosync-killed", "SIGKILL to Corosync on the active node", _program("corosync", "KILL")),
        Order("corosync-stopped", "SIGSTOP to Corosync on the active node", _program("corosync", "STOP")),
        Order("pacemaker-killed", "SIGKILL to pacemakerd on the active node", _program("pacemakerd", "KILL")),
        Order("daemon-dead-active", "heartgated is dead on the active node, then every link is lost", _daemon_dead(_active)),
        Order("daemon-dead-standby", "heartgated is dead on the standby node, then every link is lost", _daemon_dead(_standby)),
    ]
    for pause_s in (0.2, 2.0, 10.0):
        listed += [
            Order(f"heartbeats-then-sync-{pause_s:g}", f"all heartbeats lost, sync {pause_s:g} s later",
                  _one_after_the_other(HEARTBEATS, SYNC, pause_s)),
            Order(f"sync-then-heartbeats-{pause_s:g}", f"sync lost, all heartbeats {pause_s:g} s later",
                  _one_after_the_other(SYNC, HEARTBEATS, pause_s)),
        ]  # fmt: skip
    return listed


ORDERS: Dict[str, Order] = {order.name: order for order in _orders()}

# --- what came of it


def play(stage: Stage, order: Order, *, back_s: float) -> Result:
    """back_s: the service has this long to be back after the harm. What does not hold is in `wrong`; LabError only when the lab
    itself fails."""
    result = Result(order.name, stage.active)
    since = time.monotonic()
    try:
        order.harm(stage)
    except Wrong as wrong:
        result.wrong.append(str(wrong))
        stage.fencing("ok")
    harmed = time.monotonic()
    _wait_served(stage, harmed, back_s, result)
    until = time.monotonic()
    result.pause_s = round(_longest_pause(stage, since, until), 1)
    _heal(stage, order, result)
    result.shot = [shot.node for shot in stage.shots() if shot.at_s >= since]
    if len(set(result.shot)) > 1:
        result.wrong.append(f"both nodes were shot: {', '.join(result.shot)}")
    _judge_turns(stage, since, until, result)
    result.seconds = round(time.monotonic() - since, 1)
    return result


def _wait_served(stage: Stage, since: float, back_s: float, result: Result, count: int = 20) -> None:
    deadline = time.monotonic() + back_s
    # What was under way when the harm was done does not count as being back.
    while time.monotonic() < deadline:
        acks = stage.acks(since + 2.0)
        if len(acks) >= count:
            result.served_by = acks[-1][1]
            return
        time.sleep(0.2)
    result.wrong.append(f"no service {back_s:g} s after the harm")


def _longest_pause(stage: Stage, since: float, until: float) -> float:
    times = [since, *(at for at, _ in stage.acks(since) if at <= until), until]
    return max(later - earlier for earlier, later in zip(times, times[1:]))


def _heal(stage: Stage, order: Order, result: Result) -> None:
    stage.fencing("ok")
    for link in stage.lab.links:
        stage.lab.mend(link)
    for node in stage.lab.nodes.values():
        if not node.powered():
            node.power_on()
    try:
        stage.healed()
    except LabError as error:
        result.wrong.append(f"needs a person: {error}")
        return
    missing = stage.missing()
    result.lost = max(missing.values())
    if result.lost:
        result.wrong.append(f"acknowledged writes are lost: {missing}")


def _judge_turns(stage: Stage, since: float, until: float, result: Result) -> None:
    """Once another node has acknowledged a write, the one before gives no more until all is healed."""
    nodes = [node for at, node in stage.acks(since) if at <= until]
    turns = [node for place, node in enumerate(nodes) if place == 0 or nodes[place - 1] != node]
    if len(turns) > 2:
        result.wrong.append(f"the writers took turns: {', '.join(turns)}")
