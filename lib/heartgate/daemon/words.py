"""What the other nodes said last, and what they may believe of this one.

The policy forgets who cannot be heard, since what it said is no knowledge of what it does now. For the order of shooting
it is the best there is: both nodes decide by the words that were exchanged before the links were lost.
"""

from __future__ import annotations

import time
from typing import Callable, Dict, FrozenSet, Optional, Tuple

from heartgate.core.model import Message, Role

# Messages are repeated once a second. Who gave a sign of life so long after a change has had it at least once.
SETTLED_S = 2.0


class Words:
    """Loop thread only; volatile."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heard: Dict[Tuple[str, str], Message] = {}
        self._told: Dict[str, Role] = {}
        self._ended: Dict[str, Dict[Role, float]] = {}  # by device: when this node last ceased to tell that role
        self._alive: Dict[str, float] = {}

    def heard(self, message: Message) -> None:
        self._heard[(message.device, message.sender)] = message

    def alive(self, node: str) -> None:
        """A sign of life of that node's daemon has arrived."""
        self._alive[node] = self._clock()

    def told(self, message: Message) -> None:
        """This node tells that from now on. Before its first words it may have told anything, in an earlier run."""
        before = self._told.get(message.device, Role.UNKNOWN)
        first = message.device not in self._told
        if first or before is not message.role:
            self._ended.setdefault(message.device, {})[before] = self._clock()
            self._told[message.device] = message.role

    def forget(self, device: str) -> None:
        for device_and_node in [key for key in self._heard if key[0] == device]:
            del self._heard[device_and_node]
        self._told.pop(device, None)
        self._ended.pop(device, None)

    def last(self, device: str, node: str) -> Optional[Message]:
        return self._heard.get((device, node))

    def believed_roles(self, device: str, node: str) -> FrozenSet[Role]:
        """Every role that `node` may believe this node's replica to have. UNKNOWN among them: any."""
        seen = self._alive.get(node)
        if seen is None or device not in self._told:
            return frozenset({Role.UNKNOWN})
        older = {role for role, at in self._ended[device].items() if at > seen - SETTLED_S}
        return frozenset(older | {self._told[device]})
