"""The invariants as code: what one node can check of itself before it acts (`check_local`).

What only an observer of all nodes can check (I1, I2) is in `heartgate.sim.world`, which calls these as well.

I1 no two nodes out of sync contact both complete writes      I2 no acknowledged write is missing from who goes on
I3 solo implies proof about every other replica               I4 a replica that is not up to date never serves
I5 blocked is left only through readmission, the meeting rule or an operator, and survives restarts
I6 losing the daemon, the cluster stack or the journal's disk never thaws anything
"""

from __future__ import annotations

from typing import Iterable, List, Optional, Tuple

from heartgate.core.model import (
    SERVING,
    Action,
    AnswerHandler,
    Config,
    Disk,
    Flush,
    Message,
    Persist,
    Record,
    Send,
    Standing,
    State,
    Unblock,
)
from heartgate.core.rules import STAY


def check_local(config: Config, before: Optional[State], after: State, actions: Iterable[Action]) -> Tuple[str, ...]:
    """Ids of the invariants that this step would break, with a short reason each; empty when it may be carried out.

    before: None for the first step after a start. The daemon carries out nothing of a step that breaks one.
    """
    done = tuple(actions)
    broken: List[str] = []
    broken.extend(_unproven_claim(config, after.record))
    if before is not None:
        broken.extend(_block_kept(before.record, after))
        if after.record.epoch < before.record.epoch:
            broken.append(f"I3 epoch went back from {before.record.epoch} to {after.record.epoch}")
        if before.record != after.record and not (done and isinstance(done[0], Persist)):
            broken.append("I6 the record is not persisted before its effects")
    broken.extend(_thaws(config, after, done))
    return tuple(broken)


def _unproven_claim(config: Config, record: Record) -> List[str]:
    if record.standing not in SERVING:
        return []
    if config.me not in record.in_sync:
        return [f"I3 {record.standing.value} without being in sync"]
    proven = {proof.node for proof in record.proofs}
    missing = [n for n in config.nodes if n not in record.in_sync and n not in proven]
    return [f"I3 {record.standing.value} without proof about {','.join(missing)}"] if missing else []


def _block_kept(before: Record, after: State) -> List[str]:
    """From blocked only to blocked, or to serving under a higher epoch (readmission and meeting both raise it)."""
    now = after.record
    if before.standing is not Standing.BLOCKED or now.standing is Standing.BLOCKED:
        return []
    if now.standing in SERVING and now.epoch > before.epoch:
        return []
    return [f"I5 blocked left for {now.standing.value} under epoch {now.epoch}"]


def _thaws(config: Config, after: State, actions: Tuple[Action, ...]) -> List[str]:
    record, broken = after.record, []
    for action in actions:
        thaws = isinstance(action, AnswerHandler) and action.code != STAY
        if thaws and record.standing not in SERVING:
            broken.append(f"I3 a handler is let go while {record.standing.value}")
        if thaws and after.replica.disk not in (Disk.UPTODATE, Disk.CONSISTENT):
            broken.append(f"I4 a handler is let go on {after.replica.disk.value} data")
        if isinstance(action, (Unblock, Flush)) and record.standing not in SERVING:
            broken.append(f"I5 {type(action).__name__.lower()} while {record.standing.value}")
        if isinstance(action, Send):
            broken.extend(_tells_the_record(record, action.message))
    return broken


def _tells_the_record(record: Record, message: Message) -> List[str]:
    if (message.standing, message.epoch, message.in_sync) == (record.standing, record.epoch, record.in_sync):
        return []
    return ["I6 a message tells what is not in the record"]
