"""`heartgate mark-synchronized`: what a person is shown before deciding, and the decision itself.

Nothing is asked here and nothing is typed: that is the command's part. The node's name comes with the order, so that one
given on the wrong machine does nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Dict, Optional, Union

from heartgate.core import waiting
from heartgate.core.model import MarkSynchronized, ProofKind, Standing
from heartgate.daemon.control import Client
from heartgate.daemon.guard import Guard
from heartgate.daemon.services import why

if TYPE_CHECKING:
    from heartgate.daemon.heartgated import Daemon

LOOK_S = 10.0
WRITTEN_S = 15.0
POLL_S = 0.05

Data = Dict[str, Any]


class Marking:
    """Loop thread only."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def show(self, client: Client, request: Mapping[str, Any]) -> None:
        guard = self._find(client, request)
        if guard is None:
            return
        found, driver = guard, guard.operations.driver

        def done(result: Union[Mapping[str, int], Exception]) -> None:
            behind = {} if isinstance(result, Exception) else dict(result)
            data = _shown(found, behind)
            if isinstance(result, Exception):
                data["out_of_sync_unknown"] = why(result)
            client.reply({"ok": True, "node": self._daemon.me, **data})

        self._daemon.workers.submit(f"look:{guard.device}", lambda: driver.out_of_sync(LOOK_S), done, LOOK_S + 1)

    def mark(self, client: Client, request: Mapping[str, Any]) -> None:
        guard, me = self._find(client, request), self._daemon.me
        if guard is None:
            return
        if request.get("node") != me:
            client.reply({"ok": False, "error": f"the order names {request.get('node')!r:.70}, and this node is {me}"})
            return
        reason = waiting.refusal(guard.config, guard.state) or _cannot_write(guard)
        by = f"uid {request.get('uid', '?')!s:.12}"
        self._tell(guard, f"mark-synchronized {guard.device}" + (f" refused: {reason}" if reason else ""), by)
        if reason:
            client.reply({"ok": False, "error": reason})
            return
        guard.handle(MarkSynchronized(by))
        self._when_written(client, guard, guard.state.record.epoch, WRITTEN_S)

    def _when_written(self, client: Client, guard: Guard, epoch: int, left_s: float) -> None:
        """Answered when the decision is on the disk: before that nothing of it has been carried out."""
        record = guard.state.record
        if record.standing is not Standing.SOLO or record.epoch < epoch or not waiting.marked_by_a_person(guard.state):
            text = "; ".join(guard.broken) or f"what was learnt at that moment was against it (now {record.standing.value})"
            client.reply({"ok": False, "error": f"not done: {text}"})
        elif guard.persisted == record:
            client.reply({"ok": True, "standing": record.standing.value, "epoch": record.epoch})
        elif left_s <= 0:
            text = f"the record could not be written ({guard.persist_failure or 'the disk does not answer'}); it is still tried"
            client.reply({"ok": False, "error": text})
        else:
            self._daemon.loop.after(POLL_S, lambda: self._when_written(client, guard, epoch, left_s - POLL_S))

    def _find(self, client: Client, request: Mapping[str, Any]) -> Optional[Guard]:
        guard = self._daemon.find(str(request.get("device", "")))
        if guard is None:
            known = ", ".join(sorted(self._daemon.guards)) or "none"
            client.reply({"ok": False, "unknown": True, "error": f"no such device is guarded on this node (guarded: {known})"})
        return guard

    def _tell(self, guard: Guard, command: str, by: str) -> None:
        self._daemon.services.journal.send(
            "operator", f"{guard.device}: {command} ({by})", device=guard.device, epoch=guard.state.record.epoch, command=command
        )


def _cannot_write(guard: Guard) -> str:
    if guard.persist_failure:
        return f"the record of {guard.device} cannot be written ({guard.persist_failure}), and the decision has to be"
    return f"stopped by an invariant: {'; '.join(guard.broken)}" if guard.broken else ""


def _shown(guard: Guard, behind: Mapping[str, int]) -> Data:
    state, config, contacts = guard.state, guard.config, guard.contacts.last()
    peers: Dict[str, Data] = {}
    for node in config.nodes:
        if node != config.me:
            heard, last = state.message_of(node), contacts.get(node, {})
            peers[node] = {
                "heard": heard is not None,
                "link": state.replica.peer(node).link.value,
                "last": last or None,
                "lacks_bytes": behind.get(node),
            }
    return {
        "device": config.device,
        "standing": state.record.standing.value,
        "epoch": state.record.epoch,
        "in_sync": list(state.record.in_sync),
        "promised_to": state.record.promised_to,
        "proofs": [p.node for p in state.record.proofs if p.kind is ProofKind.OPERATOR],
        "disk": state.replica.disk.value,
        "role": state.replica.role.value,
        "generation": state.replica.generation,
        "ancestors": list(state.replica.ancestors),
        "peers": peers,
        "refusal": waiting.refusal(config, state) or _cannot_write(guard),
        "lost": waiting.lost_by_marking(config, state),
        "waits": waiting.waits_for(config, state),
    }
