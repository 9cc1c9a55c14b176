"""What a request on the control socket means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional, Tuple, Union

from heartgate import __version__
from heartgate.adapters.base import AdapterError
from heartgate.core.codec import is_name
from heartgate.core.model import UNKNOWN_REPLICA, HandlerCalled, HandlerGone, Link, Record
from heartgate.daemon import status
from heartgate.daemon.behind import Behind
from heartgate.daemon.control import Client
from heartgate.daemon.forgetting import Forgetting
from heartgate.daemon.guard import Guard
from heartgate.daemon.marking import Marking
from heartgate.daemon.registration import Refused, Settings, checked, tell
from heartgate.daemon.services import why
from heartgate.daemon.store import KeptAside, Saved

if TYPE_CHECKING:
    from heartgate.daemon.heartgated import Daemon

REGISTER_S = 60.0
FACTS_S = 15.0
FACTS_POLL_S = 0.05
LOSS_NEWS_S = 1.0  # the kernel tells of a loss before it calls handlers; this long for that news to be read here
STAY_FROZEN = 1
GUARDED, FAILED, NOT_GUARDED = 0, 1, 7  # as the agent's monitor returns them


class Waiting:
    """A fence-peer handler whose exit code is not decided. answered: it has it, and has not closed yet."""

    def __init__(self, client: Client, device: str) -> None:
        self.client = client
        self.device = device
        self.answered = False


class Requests:
    """Loop thread only."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.waiting: Dict[str, Waiting] = {}
        marking, forgetting, heartbeats = Marking(daemon), Forgetting(daemon), daemon.heartbeats
        self._behind = Behind(daemon)
        self._ops: Mapping[str, Callable[[Client, Mapping[str, Any]], None]] = {
            "ping": self._ping,
            "monitor": self._monitor,
            "register": self._register,
            "unregister": self._unregister,
            "check": self._check,
            "status": self._status,
            "fence-peer": self._fence_peer,
            "unfence-peer": self._unfence_peer,
            "fencing": self._fencing,
            "mark-show": marking.show,
            "mark": marking.mark,
            "forget-show": forgetting.show,
            "forget": forgetting.forget,
            "link-register": heartbeats.register,
            "link-unregister": heartbeats.unregister,
            "link-monitor": heartbeats.monitor,
            "link-check": heartbeats.check,
        }

    def dispatch(self, client: Client, request: Mapping[str, Any]) -> None:
        op = self._ops.get(request["op"])
        if op is None:
            client.reply({"ok": False, "error": f"unknown request {request['op']!r:.40}"})
        else:
            op(client, request)

    # --- the agent

    def _ping(self, client: Client, request: Mapping[str, Any]) -> None:
        client.reply({"ok": True, "version": __version__})

    def _monitor(self, client: Client, request: Mapping[str, Any]) -> None:
        guard = self._daemon.find(str(request.get("device", "")))
        if guard is None or not guard.active:
            client.reply({"rc": NOT_GUARDED, "message": "not guarded"})
        elif guard.persist_failure:
            client.reply({"rc": FAILED, "message": f"the record cannot be written: {guard.persist_failure}"})
        elif guard.broken:
            client.reply({"rc": FAILED, "message": f"stopped by an invariant: {'; '.join(guard.broken)}"})
        else:
            record = guard.state.record
            client.reply({"rc": GUARDED, "message": f"{record.standing.value}, epoch {record.epoch}"})
            if not guard.waiting and guard.persisted == record:  # nothing newer is to be told
                self._daemon.publisher.again(guard.device, record.standing.value)

    def _params(self, client: Client, request: Mapping[str, Any]) -> Optional[Mapping[str, str]]:
        """None: it has its answer."""
        params, trouble = request.get("params"), self._daemon.name_trouble()
        if not isinstance(params, dict) or not all(isinstance(value, str) for value in params.values()):
            client.reply({"ok": False, "error": "params is not an object of texts"})
        elif trouble is not None:
            client.reply(_refusal(Refused([trouble])))
        else:
            return params
        return None

    def _check(self, client: Client, request: Mapping[str, Any]) -> None:
        params, daemon = self._params(client, request), self._daemon
        if params is None:
            return
        given, me, world, before = params, daemon.me, daemon.services.world, daemon.problems_before

        def done(result: Union[Settings, Exception]) -> None:
            client.reply({"ok": True} if isinstance(result, Settings) else _refusal(result))

        self._daemon.workers.submit("check", lambda: checked(world, given, me, before), done, REGISTER_S)

    def _register(self, client: Client, request: Mapping[str, Any]) -> None:
        params, daemon = self._params(client, request), self._daemon
        if params is None:
            return
        given, me, world = params, daemon.me, daemon.services.world

        def work() -> Tuple[Settings, Optional[Record], Optional[KeptAside]]:
            found = checked(world, given, me, daemon.problems_before)
            return (found, *daemon.load(found))

        def done(result: Union[Tuple[Settings, Optional[Record], Optional[KeptAside]], Exception]) -> None:
            if isinstance(result, Exception):
                client.reply(_refusal(result))
                return
            found, record, aside = result
            daemon.report_aside(found.config.device, aside)
            try:
                guard = daemon.guard(found, record)
            except AdapterError as error:
                client.reply(_refusal(error))
                return
            guard.publish()
            daemon.services.journal.send("daemon", f"{guard.device}: guarded", device=guard.device)
            self._when_facts_are_known(client, guard, FACTS_S)

        daemon.workers.submit("register", work, done, REGISTER_S)

    def _when_facts_are_known(self, client: Client, guard: Guard, left_s: float) -> None:
        known = guard.state.replica != UNKNOWN_REPLICA and guard.persisted is not None
        if known or left_s <= 0 or not client.open:
            record = guard.state.record
            answer: Dict[str, object] = {"ok": known, "standing": record.standing.value, "epoch": record.epoch}
            if not known:
                answer["error"] = guard.persist_failure or f"the replication tells nothing about {guard.device}"
            client.reply(answer)
            return
        self._daemon.loop.after(
            FACTS_POLL_S, lambda: self._when_facts_are_known(client, guard, left_s - FACTS_POLL_S)
        )

    def _unregister(self, client: Client, request: Mapping[str, Any]) -> None:
        """The device stays guarded as long as the replica exists: it still answers peers and handlers, and its attribute
        stays true. Taking the attribute away would demote a service only because its guard is restarted."""
        daemon = self._daemon
        device = str(request.get("device", ""))
        guard, store = daemon.find(device), daemon.services.store
        if guard is not None:
            guard.active, device = False, guard.device
        elif not is_name(device):
            client.reply({"ok": True, "note": "was not guarded"})
            return

        def remember() -> None:
            saved, _ = store.load_config(device)
            if saved is not None:
                store.save_config(Saved(device, saved.me, saved.params, False))

        daemon.workers.submit("register", remember, lambda result: None, REGISTER_S)
        client.reply({"ok": True})

    # --- handlers

    def _fence_peer(self, client: Client, request: Mapping[str, Any]) -> None:
        device, peer, handler = (str(request.get(name, "")) for name in ("device", "peer", "handler"))
        guard = self._daemon.find(device)
        if guard is None and device in self._daemon.unread:  # no exit code in it: the handler asks again
            client.reply({"ok": False, "error": f"what was saved of {device} cannot be read yet"})
            return
        reason = ""
        if not (is_name(device) and is_name(peer) and is_name(handler)):
            reason = "device, peer or handler is not a name"
        elif guard is None:
            reason = f"{device} is not guarded here: the resource replica-guard has not been started"
        elif peer not in guard.config.nodes or peer == guard.config.me:
            reason = f"{peer} is not a peer of {device}"
        if reason or guard is None:
            text = f"fence-peer {device} {peer}: {reason}"
            self._daemon.services.journal.send("handler", text, device=device)
            client.reply({"exit": STAY_FROZEN, "reason": reason})
            return
        before = self.waiting.get(handler)
        if before is not None:
            before.client.gone = None  # the same process again, on a new connection
            before.client.close()
        self.waiting[handler] = Waiting(client, guard.device)
        client.gone = lambda: self._handler_gone(handler)
        self._daemon.services.journal.send("handler", f"{device}: fence-peer handler asks about {peer}", device=device)
        self._when_loss_is_known(guard, HandlerCalled(handler, peer), LOSS_NEWS_S)

    def _when_loss_is_known(self, guard: Guard, called: HandlerCalled, left_s: float) -> None:
        """A call that overtakes the news of its loss would be taken for one about a loss that is over."""
        if called.handler not in self.waiting:
            return
        if left_s > 0 and guard.state.replica.peer(called.peer).link is Link.UP:
            self._daemon.loop.after(
                FACTS_POLL_S, lambda: self._when_loss_is_known(guard, called, left_s - FACTS_POLL_S)
            )
            return
        guard.handle(called)

    def answer_handler(self, handler: str, code: int, reason: str) -> None:
        waiting = self.waiting.get(handler)
        if waiting is None:
            return
        waiting.answered = True
        self._daemon.services.journal.send(
            "handler", f"{waiting.device}: handler exits {code}: {reason}", device=waiting.device, code=code
        )
        waiting.client.reply({"exit": code, "reason": reason})

    def let_go(self, device: str, code: int, reason: str) -> None:
        """All handlers of a device that wait."""
        for handler in [name for name, waiting in self.waiting.items() if waiting.device == device and not waiting.answered]:
            self.answer_handler(handler, code, reason)

    def _handler_gone(self, handler: str) -> None:
        waiting = self.waiting.pop(handler, None)
        guard = self._daemon.guards.get(waiting.device) if waiting is not None else None
        if waiting is None or guard is None:
            return
        if not waiting.answered:
            guard.handle(HandlerGone(handler))
        guard.operations.flush_if_ready()

    def handlers_of(self, device: str) -> int:
        """Handlers that were told to exit and have not."""
        return sum(1 for waiting in self.waiting.values() if waiting.device == device and waiting.answered)

    def _unfence_peer(self, client: Client, request: Mapping[str, Any]) -> None:
        self._daemon.services.journal.send(
            "handler", f"{request.get('device')!s:.64}: in sync again with {request.get('peer')!s:.64}"
        )
        client.reply({"exit": 0, "reason": "noted"})

    # --- people

    def _fencing(self, client: Client, request: Mapping[str, Any]) -> None:
        target = str(request.get("node", ""))
        client.reply(status.for_fencing(self._daemon, self._daemon.guards.values(), target))

    def _status(self, client: Client, request: Mapping[str, Any]) -> None:
        wanted = request.get("device")
        everyone = self._daemon.guards.values()
        guards = [guard for guard in everyone if wanted in (None, guard.device, guard.params.device)]
        if request.get("look") == "1" and guards:
            self._behind.tell(client, guards)
        else:
            client.reply(status.of_daemon(self._daemon, guards))


def _refusal(result: Exception) -> Dict[str, object]:
    if isinstance(result, Refused):
        return {"ok": False, "problems": tell(result.problems)}
    return {"ok": False, "error": why(result)}
