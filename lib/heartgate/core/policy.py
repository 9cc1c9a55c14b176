"""The policy: fold an event into the state, then let the rules of the table act until none fires.

Interface (what the daemon and the simulator call):
    initial(config, record, boot, run) -> (State, actions)      after a start of the daemon
    step(config, state, event) -> (State, actions)              for every event
Actions come in the order in which they must be carried out; `Persist` is always first.
"""

from __future__ import annotations

from typing import Optional, Tuple

from heartgate.core.model import Action, Config, Event, Record, State


def initial(config: Config, record: Optional[Record], boot: str, run: str) -> Tuple[State, Tuple[Action, ...]]:
    raise NotImplementedError


def step(config: Config, state: State, event: Event) -> Tuple[State, Tuple[Action, ...]]:
    raise NotImplementedError
