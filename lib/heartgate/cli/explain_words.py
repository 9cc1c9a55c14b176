"""Events, actions and standings in plain words."""

from __future__ import annotations

from typing import Callable, Dict, List, Optional, Tuple

from heartgate.core import model
from heartgate.core.model import (
    SERVING,
    UNKNOWN_REPLICA,
    Action,
    AnswerHandler,
    Config,
    Link,
    Message,
    Note,
    Persist,
    ProofKind,
    Publish,
    Record,
    Replica,
    Role,
    Send,
    Standing,
    State,
)
from heartgate.core.replay import Done, Start, Step
from heartgate.core.rules import TABLE
from heartgate.core.rules_doc import EXITS

RULES: Dict[str, str] = {rule.ident: rule.text for rule in TABLE}
CODES: Dict[str, str] = dict(EXITS)
PROOFS = {
    ProofKind.CONFIRMED: "it has written down that it is blocked, and said so",
    ProofKind.FENCED: "Pacemaker reported it fenced",
    ProofKind.FENCED_MANUALLY: "a person vouched that it is off",
    ProofKind.AGREED: "a standing agreement made beforehand",
    ProofKind.OPERATOR: "a person declared the replica here the good one, and gave up what that node may have",
}
LINKS = {Link.UP: "up", Link.DOWN: "down", Link.UNKNOWN: "not known"}
FROZEN = {True: "I/O is frozen", False: "I/O goes on", None: "frozen or not: not known"}


def names(nodes: Tuple[str, ...]) -> str:
    return " and ".join(nodes) if len(nodes) < 3 else ", ".join(nodes[:-1]) + f" and {nodes[-1]}"


def standing(record: Record) -> str:
    """in_sync of a node that may not serve is what it was before: it would only confuse."""
    members = f", in sync: {names(record.in_sync)}" if record.standing in SERVING else ""
    return f"{record.standing.value}, epoch {record.epoch}{members}"


def proof(kind: ProofKind) -> str:
    return PROOFS.get(kind, "see docs/concepts.md")


# --- what was seen ---------------------------------------------------------------------------------------------------


def seen(step: Step) -> List[str]:
    """The event, as what it changed; [] if it changed nothing that a person would ask about."""
    event, before = step.event, step.before
    if isinstance(event, Start) or before is None:
        return _start(step)
    in_words = _SEEN.get(type(event))
    return in_words(step.config, before, event) if in_words is not None else [f"{type(event).__name__} (--json has it)"]


def detail(step: Step) -> str:
    """For a step that did something, though `seen` has no words for what it saw."""
    event = step.event
    if isinstance(event, model.Heard):
        return f"a detail of what {event.message.sender} says, such as which connection it sees (--json has it)"
    return "a detail (--json has it)"


def _start(step: Step) -> List[str]:
    found = step.event.record if isinstance(step.event, Start) else None
    if found is None:
        return ["heartgated began to guard, and found no record that it could read"]
    rebooted = " of another boot" if found.boot != step.after.record.boot else ""
    return [f"heartgated began to guard, and found a record{rebooted}: {standing(found)}"]


def _replica(config: Config, before: State, event: model.ReplicaChanged) -> List[str]:
    old, new = before.replica, event.replica
    if new == UNKNOWN_REPLICA:
        return ["what the replication driver knows is unknown now (its source died, or could not be read)"]
    words: List[str] = []
    for node in config.nodes:
        here, there = old.peer(node), new.peer(node)
        if node != config.me and (here.link, here.incarnation) != (there.link, there.incarnation):
            words.append(f"the sync link to {node} is {LINKS[there.link]}")
        elif node != config.me and here.disk is not there.disk:
            words.append(f"the kernel sees {node}'s disk as {there.disk.value}")
    if old.disk is not new.disk:
        words.append(f"the disk here is {new.disk.value}")
    if old.role is not new.role:
        words.append(f"the replica here is {new.role.value}")
    if old.frozen is not new.frozen:
        words.append(FROZEN[new.frozen])
    if not words and old.generation != new.generation:
        words.append("a new data generation began here")
    return words


def _heard(config: Config, before: State, event: model.Heard) -> List[str]:
    said = event.message
    node, old = said.sender, before.message_of(said.sender)
    words: List[str] = []
    if old is None or old.run != said.run:
        words.append(f"{node} can be heard: {told(said)}")
    else:
        words += _news(old, said)
    link, known = said.link_to(config.me), old.link_to(config.me) if old is not None else None
    if link is not None and (known is None or known.link is not link.link):
        words.append(f"{node} sees the sync link to {config.me} {LINKS[link.link]}")
    if said.ask is not None and (old is None or old.ask != said.ask):
        words.append(f"{node} asks: {_ask(said.ask, config)}")
    for answer in said.answers:
        if answer.to == config.me and (old is None or answer not in old.answers):
            words.append(f"{node} answers: {'it is blocked' if answer.blocked else 'it agrees'} (epoch {answer.epoch})")
    return words


def _news(old: Message, said: Message) -> List[str]:
    words: List[str] = []
    if (old.standing, old.epoch) != (said.standing, said.epoch):
        words.append(f"{said.sender} says that it is {said.standing.value}, epoch {said.epoch}")
    if old.disk is not said.disk:
        words.append(f"{said.sender} says that its disk is {said.disk.value}")
    if old.role is not said.role:
        words.append(f"{said.sender} says that its replica is {said.role.value}")
    return words


def told(message: Message) -> str:
    return f"{message.standing.value}, epoch {message.epoch}, disk {message.disk.value}, {message.role.value}"


def _ask(ask: model.Ask, config: Config) -> str:
    others = tuple(node for node in config.nodes if node not in ask.keep)
    block = f", {names(others)} to block" if others else ""
    return f"{names(ask.keep)} to go on{block} (question {ask.request}, epoch {ask.epoch})"


def _membership(config: Config, before: State, event: model.Membership) -> List[str]:
    words: List[str] = []
    heard = [node for node, _ in before.heard]
    gone = tuple(node for node in heard if node not in event.reachable)
    if gone:
        words.append(f"{names(gone)} cannot be heard any more: what was said is not known any more")
    for node in config.nodes:
        if (node in event.online) != (node in before.online):
            words.append(f"{node} is {'a member of the cluster' if node in event.online else 'no member of the cluster any more'}")
    return words


def _fence(config: Config, before: State, event: model.FenceDone) -> List[str]:
    if not event.ok:
        return [f"the fencing of {event.node} failed or was refused"]
    by = "a person vouched that it is off" if event.manual else "Pacemaker reports that it is complete"
    late = "" if event.epoch == before.record.epoch else f"; it began in epoch {event.epoch}, so it proves nothing now"
    return [f"fencing of {event.node}: {by}{late}"]


def _block_done(config: Config, before: State, event: model.BlockDone) -> List[str]:
    return ["the block holds" if event.ok else "the replica could not be blocked"]


def _deadline(config: Config, before: State, event: model.Deadline) -> List[str]:
    current = before.round
    if current is None or current.ask.request != event.request:
        return []
    return [f"not everybody has answered question {event.request} within {_duration(config.confirm_timeout_ms)}"]


_SEEN: Dict[type, Callable[..., List[str]]] = {
    model.ReplicaChanged: _replica,
    model.Heard: _heard,
    model.Membership: _membership,
    model.HandlerCalled: lambda config, before, event: [
        f"fence-peer handler {event.handler} asks what to do about {event.peer}"
    ],
    model.HandlerGone: lambda config, before, event: [f"fence-peer handler {event.handler} has gone"],
    model.BlockDone: _block_done,
    model.FenceDone: _fence,
    model.Deadline: _deadline,
    model.MarkSynchronized: lambda config, before, event: [f"a person ({event.by}) declares the replica here the good one"],
}


# --- what was done ---------------------------------------------------------------------------------------------------


def fired(step: Step) -> List[Tuple[str, str]]:
    """(rule, its text), in the order in which they fired."""
    notes = [action for action in step.actions if isinstance(action, Note)]
    return [(note.rule, RULES.get(note.rule, "")) for note in notes]


def ordered(step: Step) -> List[str]:
    """What the actions of a step are for a person. Telling the others is one only where it asks or answers."""
    return [text for text in (_ordered(step, action) for action in step.actions) if text]


def _ordered(step: Step, action: Action) -> str:
    if isinstance(action, Persist):
        return f"write down: {standing(action.record)}"
    if isinstance(action, Send):
        return _tell(step, action.message)
    if isinstance(action, AnswerHandler):
        return f"answer handler {action.handler} with {action.code}: {CODES.get(str(action.code), '')}"
    if isinstance(action, (Publish, Note)):
        return ""
    in_words = _ORDERED.get(type(action))
    return in_words(action) if in_words is not None else type(action).__name__


def _tell(step: Step, message: Message) -> str:
    before = step.before.told if step.before is not None else None
    words: List[str] = []
    if message.ask is not None and (before is None or before.ask != message.ask):
        words.append(f"ask for {_ask(message.ask, step.config)}")
    for answer in message.answers:
        if before is None or answer not in before.answers:
            words.append(f"answer {answer.to}: {'blocked' if answer.blocked else 'agreed'}, epoch {answer.epoch}")
    return "; ".join(words)


_ORDERED: Dict[type, Callable[..., str]] = {
    model.Block: lambda action: "make the replica refuse reads and writes",
    model.Release: lambda action: "end what uses the replica, then let its I/O fail",
    model.Unblock: lambda action: "lift the mark `outdated` from the replica",
    model.Drop: lambda action: f"drop the sync link to {action.peer}",
    model.Rehandle: lambda action: "make the kernel ask again",
    model.AskFence: lambda action: f"ask Pacemaker to fence {action.node}",
    model.Flush: lambda action: "flush the caches, since this is the only copy",
    model.SetDeadline: lambda action: f"wait for answers for at most {_duration(action.delay_ms)}",
}


def _duration(milliseconds: int) -> str:
    return f"{milliseconds / 1000:g} s"


DONE = {"persist": "written down", "block": "block", "release": "release", "unblock": "mark lifted", "drop": "sync link dropped",
        "rehandle": "asked again", "enforce": "keeping it blocked", "flush": "flush", "answer": "answered handler",
        "forgotten": "FORGOTTEN (heartgate forget), nothing of it is guarded here any more",
        "refused": "REFUSED BY AN INVARIANT, nothing of it was carried out"}  # fmt: skip


def outcome(done: Done) -> str:
    """Without its time."""
    failed = "" if done.ok or done.what == "refused" else " FAILED"
    return f"{DONE.get(done.what, done.what)}{failed}: {done.how}"


# --- now -------------------------------------------------------------------------------------------------------------


def serving(config: Config, state: State) -> str:
    """Who serves, as far as this node knows."""
    record, me = state.record, config.me
    if record.standing in SERVING:
        return f"{names(record.in_sync)} may serve{_in_use(config, state)}"
    others = [f"{n} serves (it says: {told(m)})" for n, m in state.heard if m.standing in SERVING and n != me]
    if others:
        return "; ".join(others)
    if record.standing is Standing.BLOCKED and record.promised_to:
        return f"{record.promised_to} was told that {me} is blocked; whether it serves is not known here, since it cannot be heard"
    return "nobody that can be heard"


def _in_use(config: Config, state: State) -> str:
    roles = [(config.me, state.replica.role), *((n, m.role) for n, m in state.heard if n in state.record.in_sync)]
    used = tuple(node for node, role in roles if role is Role.PRIMARY)
    frozen = "; I/O here is frozen all the same" if state.replica.frozen else ""
    return (f"; in use on {names(used)}" if used else "; in use nowhere that is known") + frozen


def ends(config: Config, state: State) -> str:
    """What would end this state."""
    record = state.record
    others = tuple(node for node in config.nodes if node != config.me)
    out = tuple(node for node in others if node not in record.in_sync)
    if record.standing is Standing.SYNCED:
        return f"the loss of the sync link to {_or(others)}"
    if record.standing is Standing.SOLO:
        return f"the return of the sync link to {_or(out)}: when that replica is up to date again, both serve"
    if record.standing is Standing.DECIDING:
        lacking = tuple(node for node in others if node in record.in_sync)
        return (f"for each of {names(lacking)} that is not kept: its word that it is blocked, or a completed fencing;"
                " or the return of the sync link before that")  # fmt: skip
    if record.standing is Standing.BLOCKED:
        server = next((n for n, m in state.heard if m.standing in SERVING), record.promised_to or "the node that serves")
        return (f"the return of the sync link to {server}: when this replica is up to date again, it is taken back;"
                " or, if nobody serves, a verdict of all nodes together")  # fmt: skip
    return (f"hearing from {names(others)}: who serves takes this replica back when it is connected and up to date;"
            " if nobody serves, all of them together choose")  # fmt: skip


def _or(nodes: Tuple[str, ...]) -> str:
    return " or ".join(nodes)


def here(replica: Replica) -> str:
    frozen = {True: ", frozen", False: "", None: ", frozen or not: not known"}[replica.frozen]
    links = "".join(f", sync link to {node} {LINKS[link.link]}" for node, link in replica.peers)
    return f"disk {replica.disk.value}, {replica.role.value}{frozen}{links}"


def there(message: Optional[Message], me: str) -> str:
    if message is None:
        return "not heard"
    link = message.link_to(me)
    return f"said: {told(message)}" + (f", sync link to {me} {LINKS[link.link]}" if link is not None else "")
