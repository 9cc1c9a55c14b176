"""Exhaustive enumeration that only branches on what is read.

A situation has fields with small domains. `Situations` runs a check once for every combination of the fields that the
check reads: a field gets a value when it is read for the first time, and a run stands for every situation that agrees
with it on the fields that it has read. The number of situations that each run stands for is added up, and at the end it
must be the size of the whole product: so nothing was left out, and nothing was looked at twice.

That makes the complete space of two nodes (billions of situations) a matter of seconds, without claims made by hand
about which field matters when.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from heartgate.core.model import Disk, Link, Role, Standing

Key = Tuple[str, ...]


class Situations:
    """Walks through all situations. fields: the domain of every field."""

    def __init__(self, fields: Mapping[Key, Sequence[Any]]) -> None:
        self.fields = dict(fields)
        self.total = 1
        for domain in self.fields.values():
            self.total *= len(domain)
        self.runs = 0
        self.covered = 0
        self.ever_read: Set[Key] = set()
        self._keys: List[Key] = []  # the fields in the order of reading, and of each: its domain, the place in it,
        self._domains: List[Sequence[Any]] = []
        self._places: List[int] = []
        self._weights: List[int] = []  # and how many situations agree on it and on all before it
        self._values: Dict[Key, Any] = {}

    def read(self, key: Key) -> Any:
        values = self._values
        if key in values:
            return values[key]
        depth = len(values)
        if depth == len(self._keys):
            domain = self.fields[key]
            self._keys.append(key)
            self.ever_read.add(key)
            self._domains.append(domain)
            self._places.append(0)
            self._weights.append((self._weights[-1] if depth else self.total) // len(domain))
        assert self._keys[depth] == key, f"not the fields of the last run: {self._keys[depth]}, then {key}"
        value = values[key] = self._domains[depth][self._places[depth]]
        return value

    def run(self, check: Callable[[], None]) -> None:
        """Call check for all situations; whatever it asserts is raised with the situation added."""
        while True:
            self._values = {}
            try:
                check()
            except AssertionError as error:
                raise AssertionError(f"{error}\nin the situation {self.describe()}") from error
            self.runs += 1
            self.covered += self._weights[-1] if self._weights else self.total
            while self._keys and self._places[-1] == len(self._domains[-1]) - 1:
                for column in (self._keys, self._domains, self._places, self._weights):
                    column.pop()
            if not self._keys:
                return
            self._places[-1] += 1

    def describe(self) -> str:
        return ", ".join(f"{'.'.join(key)}={value!r}" for key, value in self._values.items())


# Data generations: what a replica may hold. `new` and `fork` both grew out of `old` and know nothing of each other.
GENERATIONS: Dict[str, Tuple[str, Tuple[str, ...]]] = {
    "": ("", ()),
    "old": ("old", ()),
    "new": ("new", ("old",)),
    "fork": ("fork", ("old",)),
}


class LazyLink:
    """A LinkReport whose fields are chosen when they are read."""

    __slots__ = ("_end", "_space", "peer")

    def __init__(self, space: Situations, node: str, peer: str) -> None:
        self._space, self._end, self.peer = space, f"{node}>{peer}", peer

    @property
    def link(self) -> Link:
        value: Link = self._space.read((self._end, "link"))
        return value

    @property
    def incarnation(self) -> int:
        value: int = self._space.read((self._end, "incarnation"))
        return value

    @property
    def paired(self) -> int:
        value: int = self._space.read((self._end, "paired"))
        return value


class JointLink:
    """One end of a connection that both ends see alike: the field is shared by the pair."""

    __slots__ = ("_pair", "_space", "peer")
    incarnation = 1
    paired = 1

    def __init__(self, space: Situations, node: str, peer: str) -> None:
        self._space, self._pair, self.peer = space, "-".join(sorted((node, peer))), peer

    @property
    def link(self) -> Link:
        return Link.UP if self._space.read((self._pair, "contact")) else Link.DOWN


class LazyMessage:
    """A Message whose fields are chosen when they are read; what it has no field for must not be read."""

    def __init__(self, space: Situations, node: str, joint: bool = False) -> None:
        self._space, self.sender, self._joint = space, node, joint

    def _read(self, field: str) -> Any:
        return self._space.read((self.sender, field))

    @property
    def standing(self) -> Standing:
        value: Standing = self._read("standing")
        return value

    @property
    def epoch(self) -> int:
        value: int = self._read("epoch")
        return value

    @property
    def in_sync(self) -> Tuple[str, ...]:
        value: Tuple[str, ...] = self._read("in_sync")
        return value

    @property
    def disk(self) -> Disk:
        value: Disk = self._read("disk")
        return value

    @property
    def role(self) -> Role:
        value: Role = self._read("role")
        return value

    @property
    def promised_to(self) -> str:
        value: str = self._read("promised_to")
        return value

    @property
    def generation(self) -> str:
        return GENERATIONS[self._read("data")][0]

    @property
    def ancestors(self) -> Tuple[str, ...]:
        return GENERATIONS[self._read("data")][1]

    def link_to(self, node: str) -> Optional[Any]:
        if self._joint:
            return JointLink(self._space, self.sender, node)
        if self._space.read((f"{self.sender}>{node}", "reported")) is False:
            return None
        return LazyLink(self._space, self.sender, node)
