"""The policy: fold an event into the state, then let the rules of the table act until none applies.

What the daemon and the simulator call:
    initial(config, record, boot, run) -> (State, actions)      after a start of the daemon
    step(config, state, event) -> (State, actions)              for every event
Actions come in the order in which they must be carried out. `Persist` is first: nothing of a record takes effect
before the record is on stable storage. `Send` comes after it, and so on: a step that cannot persist does nothing at
all.
"""

from __future__ import annotations

from typing import List, Optional, Tuple

from heartgate.core.fold import fold, message
from heartgate.core.model import (
    Action,
    Config,
    Event,
    Note,
    Persist,
    Publish,
    Record,
    Send,
    Standing,
    State,
)
from heartgate.core.rules import TABLE, on, on_change

# More rules than this in one step can only be a fault of the table: it must not spin in a daemon with real-time
# priority.
MAX_RULES_A_STEP = 64


class PolicyError(RuntimeError):
    """The table does not come to rest: a fault in heartgate, never a matter of input."""


def initial(config: Config, record: Optional[Record], boot: str, run: str) -> Tuple[State, Tuple[Action, ...]]:
    """The state after a start of the daemon.

    record: what was persisted, None if there is none or it could not be read (then nothing is known: unproven). boot:
    this boot's id. run: unique to this run of the daemon.
    """
    state = State(booted(config, record, boot), run)
    before = state._replace(record=state.record if record is None else record)
    after, notes = _settle(config, state)
    return _finish(config, before, after, notes, first=True)


def booted(config: Config, record: Optional[Record], boot: str) -> Record:
    """What a persisted record is worth in this boot.

    `solo` (all alone) and `blocked` stay: everyone else is blocked under that epoch. Any other standing was shared
    with a node that may have fenced this one and gone on.
    """
    if record is None:
        return Record(Standing.UNPROVEN, 0, config.nodes and tuple(sorted(config.nodes)), boot)
    if record.boot == boot:
        return record
    alone = record.standing is Standing.SOLO and record.in_sync == (config.me,)
    if alone or record.standing is Standing.BLOCKED or not on(config, "boot-unproven"):
        return record._replace(boot=boot)
    return record._replace(standing=Standing.UNPROVEN, boot=boot, proofs=(), bias="")


def step(config: Config, state: State, event: Event) -> Tuple[State, Tuple[Action, ...]]:
    """The next state, and what has to be done, in this order."""
    after, notes = _settle(config, fold(config, state, event))
    return _finish(config, state, after, notes)


def _settle(config: Config, state: State) -> Tuple[State, List[Action]]:
    """Run the table until no rule applies. A rule left out (explorer only) is skipped."""
    effects: List[Action] = []
    for _ in range(MAX_RULES_A_STEP):
        for rule in TABLE:
            if rule.ident in config.omitted_rules:
                continue
            found = rule.apply(config, state)
            if found is not None:
                state, actions = found
                effects.append(Note(rule.ident, _detail(state)))
                effects.extend(actions)
                break
        else:
            return state, effects
    raise PolicyError(f"{config.device}: the rules do not come to rest: {effects[-4:]!r}")


def _detail(state: State) -> str:
    return f"{state.record.standing.value} epoch {state.record.epoch} in_sync {','.join(state.record.in_sync)}"


def _finish(
    config: Config, before: State, after: State, effects: List[Action], first: bool = False
) -> Tuple[State, Tuple[Action, ...]]:
    actions: List[Action] = []
    if first or before.record.standing is not after.record.standing:
        actions.append(Publish(after.record.standing))
    actions.extend(effects)
    actions.extend(on_change(config, before, after))
    told = message(config, after)
    if told != after.told:
        after = after._replace(told=told)
        actions.append(Send(told))
    if first or before.record != after.record:
        persist = Persist(after.record)
        # Left out only to show the explorer that the order matters.
        actions = [persist, *actions] if on(config, "persist-first") else [*actions, persist]
    return after, tuple(actions)
