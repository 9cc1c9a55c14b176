"""One guarded device: events through the policy, and its actions carried out strictly in order.

Nothing after a `Persist` happens before that record is on the disk; if it cannot be written the rest waits, loudly, and
the write is tried again. A step that breaks an invariant, or fails, is thrown away as a whole: the device stays as it
was, which is frozen if it was.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Callable, Deque, Dict, List, Optional, Tuple, Union

from heartgate.adapters.base import Driver
from heartgate.core import policy, waiting
from heartgate.core.fold import FAILED_BLOCK
from heartgate.core.invariants import check_local
from heartgate.core.model import (
    Action,
    AnswerHandler,
    AskFence,
    Block,
    BlockDone,
    Config,
    Deadline,
    Drop,
    Event,
    Flush,
    Heard,
    Membership,
    Message,
    Note,
    Persist,
    Publish,
    Record,
    Rehandle,
    Release,
    ReplicaChanged,
    Send,
    SetDeadline,
    Standing,
    State,
    Unblock,
)
from heartgate.daemon.contacts import Contacts
from heartgate.daemon.history import History, now_us
from heartgate.daemon.operations import Operations
from heartgate.daemon.params import Params
from heartgate.daemon.services import Services, why

PERSIST_DEADLINE_S = 10.0
PERSIST_RETRY_S = (0.1, 0.3, 1.0, 3.0)
PENDING_LIMIT = 256
SETTLED_S = 3.0

Check = Callable[[Config, Optional[State], State, Tuple[Action, ...]], Sequence[str]]


class Outside:
    """What a guard needs from the rest of the daemon. One object for all guards."""

    def __init__(
        self,
        send: Callable[[Message], None],
        answer: Callable[[str, int, str], None],
        ask_fence: Callable[[Guard, str, int], None],
        publish: Callable[[str, Optional[str]], None],
        handlers: Callable[[str], int],
        changed: Callable[[Guard], None],
    ) -> None:
        self.send = send
        self.answer = answer
        self.ask_fence = ask_fence
        self.publish = publish
        self.handlers = handlers  # how many of a device's handlers have not returned
        self.changed = changed  # the record was changed, or the changed one has come to the disk


class Guard:
    """Loop thread only."""

    def __init__(
        self,
        services: Services,
        outside: Outside,
        config: Config,
        params: Params,
        driver: Driver,
        check: Check = check_local,
        run: str = "",
    ) -> None:
        self.services = services
        self.run = run or services.run
        self.ended = False
        self.outside = outside
        self.config = config
        self.params = params
        self.active = True  # the resource runs: what `monitor` says
        self.history = History(services, config.device, self.run)
        self.operations = Operations(self, driver)
        self.contacts = Contacts(services, config.device)
        self._told_wait = ""  # what was last said in the journal of what this node waits for
        self.persist_failure = ""
        self.broken: Tuple[str, ...] = ()  # invariants broken by the last step
        self.persisted: Optional[Record] = None
        self.last_rules: Deque[Tuple[int, str, str]] = deque(maxlen=20)  # (wall ms, rule, detail)
        self._check = check
        self._pending: Deque[Action] = deque()
        self._writing = False
        self._failures = 0
        self._state: Optional[State] = None

    @property
    def device(self) -> str:
        return self.config.device

    @property
    def state(self) -> State:
        assert self._state is not None, "begin() comes first"
        return self._state

    @property
    def waiting(self) -> int:
        """Actions that wait for a record to be written."""
        return len(self._pending)

    @property
    def owes(self) -> bool:
        """Somebody waits for what is under way here: a record, an operation on the device, the answer to a question that was
        asked, or that is about to be (this node has lost a connection too, and the other one can be heard)."""
        state = self.state
        blocking = state.blocking is not None and state.blocking.token != FAILED_BLOCK
        asked = state.record.standing is Standing.DECIDING and bool(state.heard)
        return bool(self._pending) or blocking or asked or self.services.workers.busy(f"driver:{self.device}")

    def begin(self, record: Optional[Record]) -> None:
        """After a start of the daemon, with what was found on the disk."""
        self.persisted = record
        self._state, actions = policy.initial(self.config, record, self.services.world.boot, self.run)
        broken = tuple(self._check(self.config, None, self._state, actions))
        if broken:
            self._refuse("start", broken)
        else:
            self.history.start(self.config, record, self._state, actions)
            self._carry_out(actions)

    def end(self) -> None:
        """The device is not guarded any more: whatever still comes, from a timer or a worker, changes nothing."""
        self.ended = True

    def handle(self, event: Event) -> None:
        if self.ended:
            return
        old = self.state
        try:
            new, actions = policy.step(self.config, old, event)
            broken = tuple(self._check(self.config, old, new, actions))
        except Exception as error:  # noqa: BLE001 - a fault of ours must not decide anything
            broken, new, actions = (f"{type(error).__name__}: {error}",), old, ()
        if broken:
            self._refuse(event, broken)
            return
        self.broken = ()
        self._state = new
        if actions or new != old:
            self.history.step(self.config, old, event, new, actions)
        self._note_contacts(event, old)
        if actions:
            self._carry_out(actions)
        if isinstance(event, (ReplicaChanged, BlockDone)) or old.record != new.record:
            self.operations.facts_changed()
        if old.record != new.record:
            self.outside.changed(self)

    def _note_contacts(self, event: Event, old: State) -> None:
        if isinstance(event, Heard):
            self.contacts.heard(event.message)
        elif isinstance(event, Membership):
            self.contacts.gone(node for node, _ in old.heard if node not in event.reachable)
        wait = self._wait()
        if wait != self._told_wait:
            self.services.loop.after(SETTLED_S, lambda: self._tell_wait(wait))

    def _wait(self) -> str:
        """What it waits for and how a person can end that, for a replica that may not serve until it has met others."""
        if self.ended or self.state.record.standing not in (Standing.UNPROVEN, Standing.BLOCKED):
            return ""
        command = waiting.command_that_ends(self.config, self.state)
        told = waiting.waits_for(self.config, self.state)
        return told + (f"; a person can end this wait: {command}" if command else "")

    def _tell_wait(self, wait: str) -> None:
        """Said when it has not changed for a moment: just after a boot there is news with every message."""
        if wait != self._wait() or wait == self._told_wait:
            return
        self._told_wait = wait
        if wait:
            standing = self.state.record.standing
            self.services.journal.send(
                _KIND_OF[standing], f"{self.device}: {standing.value}: {wait}", device=self.device, standing=standing.value,
                epoch=self.state.record.epoch,
            )  # fmt: skip

    def reconfigure(self, config: Config, params: Params, driver: Driver) -> None:
        self.config, self.params = config, params
        self.operations.driver = driver

    def publish(self) -> None:
        """Tell Pacemaker the standing, anew."""
        self.outside.publish(self.device, self.state.record.standing.value)

    # --- actions

    def _refuse(self, event: Union[Event, str], broken: Tuple[str, ...]) -> None:
        if broken != self.broken:
            self.services.journal.send(
                "invariant",
                f"{self.device}: a step would break {', '.join(broken)}; nothing of it is carried out",
                device=self.device,
                epoch=self.state.record.epoch,
                event=repr(event)[:500],
            )
            self.history.done("refused", False, f"{'; '.join(broken)}: on {event!r}")
        self.broken = broken

    def _carry_out(self, actions: Tuple[Action, ...]) -> None:
        self._pending.extend(actions)
        if len(self._pending) > PENDING_LIMIT:
            self._thin_out()
        self._run()

    def _thin_out(self) -> None:
        """The disk does not answer: of what is repeated anyhow only the newest is kept."""
        kept: List[Action] = []
        seen: set[type] = set()
        for action in reversed(self._pending):
            repeated = isinstance(action, (Send, Publish, Note))
            if repeated and type(action) in seen:
                continue
            seen.add(type(action))
            kept.append(action)
        self._pending = deque(reversed(kept))

    def _run(self) -> None:
        while self._pending and not self._writing:
            action = self._pending[0]
            if isinstance(action, Persist):
                if action.record != self.persisted:
                    self._persist(action.record)
                    return
                self._pending.popleft()
            else:
                self._pending.popleft()
                _PERFORM[type(action)](self, action)

    def _persist(self, record: Record) -> None:
        self._writing = True
        device, store, ordered_us = self.device, self.services.store, now_us()
        self.services.workers.submit(
            f"record:{device}",
            lambda: store.save_record(device, record),
            lambda result: self._persisted(record, result, ordered_us),
            PERSIST_DEADLINE_S,
        )

    def _persisted(self, record: Record, result: Union[None, Exception], ordered_us: int) -> None:
        how = f"{record.standing.value}, epoch {record.epoch}" if result is None else why(result)
        self.history.done("persist", result is None, how, now_us() - ordered_us)
        if result is None:
            self._writing = False
            if self.persist_failure:
                self.services.journal.send(
                    "daemon", f"{self.device}: the record is on the disk again", device=self.device
                )
            self.persist_failure, self._failures, self.persisted = "", 0, record
            self.outside.changed(self)  # an epoch is in force from now on: which fencings are old is to be read under it
            if self._pending and self._pending[0] == Persist(record):
                self._pending.popleft()
            self._run()
            return
        self.persist_failure = why(result)
        self.services.journal.send(
            "action-failed",
            f"{self.device}: cannot write the record ({self.persist_failure}); everything after it waits",
            device=self.device,
            epoch=record.epoch,
            action="persist",
            how=self.persist_failure,
            attempt=self._failures + 1,
        )
        pause = PERSIST_RETRY_S[min(self._failures, len(PERSIST_RETRY_S) - 1)]
        self._failures += 1
        self.services.loop.after(pause, lambda: self._persist(record))

    def _send(self, action: Send) -> None:
        self.outside.send(action.message)

    def _answer(self, action: AnswerHandler) -> None:
        record = self.state.record
        reason = f"standing {record.standing.value}, epoch {record.epoch}"
        self.outside.answer(action.handler, action.code, reason)
        self.history.done("answer", True, f"{action.handler} {action.code}")

    def _ask_fence(self, action: AskFence) -> None:
        self.outside.ask_fence(self, action.node, action.epoch)

    def _set_deadline(self, action: SetDeadline) -> None:
        self.services.loop.after(action.delay_ms / 1000, lambda: self.handle(Deadline(action.request)))

    def _publish(self, action: Publish) -> None:
        record = self.state.record
        self.services.journal.send(
            _KIND_OF.get(action.standing, "standing"),
            f"{self.device}: {action.standing.value}, epoch {record.epoch}",
            device=self.device,
            epoch=record.epoch,
            standing=action.standing.value,
            proofs=" ".join(f"{proof.node}:{proof.kind.value}:{proof.epoch}" for proof in record.proofs),
        )
        self.outside.publish(self.device, action.standing.value)

    def _note(self, action: Note) -> None:
        self.last_rules.append((int(time.time() * 1000), action.rule, action.detail))
        self.services.journal.send(
            "rule",
            f"{self.device}: {action.rule}: {action.detail}",
            device=self.device,
            rule=action.rule,
            epoch=self.state.record.epoch,
        )


_PERFORM: Dict[type, Callable[[Guard, Any], None]] = {
    Send: Guard._send,
    AnswerHandler: Guard._answer,
    Block: lambda guard, action: guard.operations.block(action.token),
    Release: lambda guard, action: guard.operations.release(),
    Unblock: lambda guard, action: guard.operations.unblock(),
    Drop: lambda guard, action: guard.operations.drop(action.peer, action.incarnation),
    Rehandle: lambda guard, action: guard.operations.rehandle(),
    AskFence: Guard._ask_fence,
    Flush: lambda guard, action: guard.operations.flush(action.epoch),
    SetDeadline: Guard._set_deadline,
    Publish: Guard._publish,
    Note: Guard._note,
}


_KIND_OF = {
    Standing.SYNCED: "readmitted",
    Standing.SOLO: "solo",
    Standing.BLOCKED: "blocked",
    Standing.DECIDING: "deciding",
    Standing.UNPROVEN: "unproven",
}


def tell_all(guards: Iterable[Guard], event: Event) -> None:
    for guard in list(guards):
        guard.handle(event)
