"""The status with what each peer is known to lack: the driver is asked, and nobody waits for it longer than a moment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Set, Union

from heartgate.daemon import status
from heartgate.daemon.control import Client
from heartgate.daemon.guard import Guard
from heartgate.daemon.services import why
from heartgate.daemon.workers import TimedOut

if TYPE_CHECKING:
    from heartgate.daemon.heartgated import Daemon

LOOK_S = 1.5  # the answer goes out then, with or without it

Data = Dict[str, Any]


class Behind:
    """Loop thread only."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._late: Set[str] = set()  # devices whose driver has not come back: not asked again before it has

    def tell(self, client: Client, guards: List[Guard]) -> None:
        """Answers with the status, and for each device `lacks_bytes` and, if that is not known, `lacks_unknown`."""
        found: Dict[str, Data] = {}
        answered = False

        def answer() -> None:
            nonlocal answered
            if answered:
                return
            answered = True
            for guard in guards:
                if guard.device not in found:
                    self._late.add(guard.device)
            data = status.of_daemon(self._daemon, guards)
            for item in data["devices"]:
                item.update(found.get(item["device"]) or _not_known("the replication driver does not answer"))
            client.reply(data)

        def done(guard: Guard, result: Union[Mapping[str, int], Exception]) -> None:
            if not isinstance(result, TimedOut):
                self._late.discard(guard.device)
            found[guard.device] = _told(guard, result)
            if len(found) == len(guards):
                answer()

        for guard in guards:
            if guard.device in self._late and self._daemon.workers.busy(_lane(guard)):
                found[guard.device] = _not_known("the last question has not been answered")
            else:
                self._ask(guard, done)
        if len(found) == len(guards):
            answer()
        else:
            self._daemon.loop.after(LOOK_S, answer)

    def _ask(self, guard: Guard, done: Any) -> None:
        driver = guard.operations.driver
        self._daemon.workers.submit(
            _lane(guard), lambda: driver.out_of_sync(LOOK_S), lambda result: done(guard, result), LOOK_S
        )


def _lane(guard: Guard) -> str:
    return f"look:{guard.device}"


def _told(guard: Guard, result: Union[Mapping[str, int], Exception]) -> Data:
    if isinstance(result, Exception):
        return _not_known(why(result))
    peers = [node for node in guard.config.nodes if node != guard.config.me]
    lacks: Dict[str, Optional[int]] = {node: result.get(node) for node in peers}
    return {"lacks_bytes": lacks}


def _not_known(text: str) -> Data:
    return {"lacks_bytes": {}, "lacks_unknown": text}
