"""Node attributes: the newest value of each wins, and it is tried until Pacemaker has it."""

from __future__ import annotations

import time
from typing import Callable, Dict, Optional, Union

from heartgate.adapters.base import Cluster, Outcome
from heartgate.daemon.services import Services, why

DEADLINE_S = 10.0
AGAIN_S = 10.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 20.0
# Most verdicts take less. Pacemaker would compute two transitions for nothing, and be in the way of the block.
HELD_BACK_S = {"deciding": 1.5}


class Publisher:
    """Loop thread only."""

    def __init__(self, services: Services, cluster: Callable[[], Optional[Cluster]]) -> None:
        self._services = services
        self._cluster = cluster
        self._wanted: Dict[str, Optional[str]] = {}
        self._busy: Dict[str, Optional[str]] = {}
        self._pause: Dict[str, float] = {}
        self._then: Dict[str, Callable[[], None]] = {}
        self.told: Dict[str, Optional[str]] = {}  # what Pacemaker has
        self._told_at: Dict[str, float] = {}

    def want(self, name: str, value: Optional[str], then: Optional[Callable[[], None]] = None) -> None:
        """Publish (None: withdraw), even if it was published before: Pacemaker forgets when it restarts.
        then: called once when it has been done."""
        self._wanted[name] = value
        if then is not None:
            self._then[name] = then
        pause = HELD_BACK_S.get(value or "", 0.0)
        if pause:
            self._services.loop.after(pause, lambda: self._start(name))
        else:
            self._start(name)

    def again(self, name: str, value: str) -> None:
        """Publish what was published before, if that is a while ago: Pacemaker may have lost it, and tells nobody. Nothing happens
        while anything is on its way: it must not come behind what is newer."""
        on_its_way = name in self._wanted or name in self._busy
        if on_its_way or self.told.get(name) != value or time.monotonic() - self._told_at[name] <= AGAIN_S:
            return
        self._wanted[name] = value
        self._start(name)

    def _start(self, name: str) -> None:
        cluster = self._cluster()
        if name not in self._wanted or name in self._busy:
            return
        if cluster is None:
            self._again(name)
            return
        value = self._wanted.pop(name)
        self._busy[name] = value

        def work() -> Outcome:
            return self._tell(cluster, name, value)

        self._services.workers.submit(f"publish:{name}", work, lambda result: self._done(name, result), DEADLINE_S)

    def _tell(self, cluster: Cluster, name: str, value: Optional[str]) -> Outcome:
        """Worker thread."""
        if value is None:
            return cluster.withdraw(name, DEADLINE_S)
        return cluster.publish(name, value, DEADLINE_S)

    def _done(self, name: str, result: Union[Outcome, Exception]) -> None:
        value = self._busy.pop(name)
        if isinstance(result, Outcome) and result.ok:
            if name in self._pause and value is not None:
                self._services.journal.send("publish", f"{name}: Pacemaker knows {value} now", device=name, value=value)
            self._pause.pop(name, None)
            self.told[name], self._told_at[name] = value, time.monotonic()
            if name in self._wanted:
                self._start(name)
            elif name in self._then:
                self._then.pop(name)()
            return
        if name not in self._pause:
            self._services.journal.send(
                "action-failed",
                f"{name}: cannot tell Pacemaker {value}: {why(result)}",
                device=name,
                action="publish",
                how=why(result),
            )
        self._wanted.setdefault(name, value)
        self._again(name)

    def _again(self, name: str) -> None:
        pause = self._pause.get(name, FIRST_PAUSE_S)
        self._pause[name] = min(pause * 2, LONGEST_PAUSE_S)
        self._services.loop.after(pause, lambda: self._start(name))


class AttributePublisher(Publisher):
    """For attributes with a name of their own, and with Pacemaker's dampening."""

    def __init__(self, services: Services, cluster: Callable[[], Optional[Cluster]]) -> None:
        super().__init__(services, cluster)
        self.dampen_ms: Dict[str, int] = {}

    def _tell(self, cluster: Cluster, name: str, value: Optional[str]) -> Outcome:
        return cluster.tell(name, value, self.dampen_ms.get(name, 0), DEADLINE_S)
