"""Folding events into the state: what is now known. No decision is taken here."""

from __future__ import annotations

from typing import Callable, Dict, List, Optional, Tuple, Type

from heartgate.core.model import (
    Answer,
    BlockDone,
    Config,
    Deadline,
    Disk,
    Event,
    FenceDone,
    Handler,
    HandlerCalled,
    HandlerGone,
    Heard,
    Link,
    LinkReport,
    MarkSynchronized,
    Membership,
    Message,
    Proof,
    ProofKind,
    ReplicaChanged,
    Round,
    Standing,
    State,
)
from heartgate.core.waiting import refusal

FAILED_BLOCK = -1  # Blocking.token after the driver said that it could not
BLOCK_AGAIN = 0  # ... and the replica has changed since: it may be able to now


def fold(config: Config, state: State, event: Event) -> State:
    """The state after learning of the event. Events about strangers, other rounds or other runs change nothing."""
    return _FOLDS[type(event)](config, state, event)


def message(config: Config, state: State) -> Message:
    """What this node has to tell now."""
    record, replica = state.record, state.replica
    return Message(
        config.device,
        config.me,
        state.run,
        record.standing,
        record.epoch,
        record.in_sync,
        replica.disk,
        replica.role,
        replica.generation,
        replica.ancestors,
        state.links,
        state.round.ask if state.round else None,
        state.answers,
        record.promised_to,
        record.bias,
        config.bias,
    )


def lost(config: Config, state: State, node: str) -> bool:
    """The replication connection to node is known to be down: by the local driver, or by the other end's word about
    this very connection. Not known is not lost."""
    if state.replica.disk is Disk.ABSENT:
        return True
    here = state.replica.peer(node).link
    return here is Link.DOWN or (here is Link.UP and lost_by_word(config, state, node))


def lost_by_word(config: Config, state: State, node: str) -> bool:
    """The other end says that the connection which this node still sees is down."""
    told, mine = state.message_of(node), _report_of(state.links, node)
    theirs = told.link_to(config.me) if told else None
    if theirs is None or mine is None or theirs.link is not Link.DOWN or mine.incarnation == 0:
        return False
    return (theirs.paired, theirs.paired_run) == (mine.incarnation, state.run)


def _report_of(links: Tuple[LinkReport, ...], node: str) -> Optional[LinkReport]:
    for report in links:
        if report.peer == node:
            return report
    return None


def _fold_replica(config: Config, state: State, event: ReplicaChanged) -> State:
    """New facts. A new connection voids what was agreed before it: the own round, and confirmations given to that
    peer."""
    links: List[LinkReport] = []
    renewed: List[str] = []
    for node in config.nodes:
        if node == config.me:
            continue
        fact, before = event.replica.peer(node), _report_of(state.links, node)
        if before is None or before.incarnation != fact.incarnation:
            if fact.link is Link.UP:
                renewed.append(node)
            links.append(LinkReport(node, fact.link, fact.incarnation, 0))
        else:
            links.append(before._replace(link=fact.link))
    blocking, before_it, now = state.blocking, state.replica, event.replica
    if blocking is not None and blocking.token == FAILED_BLOCK:
        changed = (before_it.role, before_it.frozen, before_it.disk) != (now.role, now.frozen, now.disk)
        blocking = blocking._replace(token=BLOCK_AGAIN) if changed else blocking
    state = state._replace(replica=now, links=tuple(links), blocking=blocking)
    if renewed and "connection-voids" not in config.omitted_rules:
        kept = tuple(a for a in state.answers if a.to not in renewed)
        state = state._replace(round=None, answers=kept)
    return state


def _fold_heard(config: Config, state: State, event: Heard) -> State:
    said = event.message
    if said.device != config.device or said.sender == config.me or said.sender not in config.nodes:
        return state
    others = tuple(item for item in state.heard if item[0] != said.sender)
    state = state._replace(heard=tuple(sorted(others + ((said.sender, said),))))
    state = _pair(config, state, said)
    if state.round is not None:
        state = state._replace(round=_collect(config, state, state.round, said))
    return state


def _pair(config: Config, state: State, said: Message) -> State:
    """Note which connection of the other end belongs to ours: the one it reported while ours was up."""
    theirs = said.link_to(config.me)
    if theirs is None or theirs.link is not Link.UP:
        return state
    links = tuple(
        report._replace(paired=theirs.incarnation, paired_run=said.run)
        if report.peer == said.sender and report.link is Link.UP
        else report
        for report in state.links
    )
    return state._replace(links=links)


def _collect(config: Config, state: State, current: Round, said: Message) -> Round:
    """Take an answer to the round that is open now; a late one answers nothing else."""
    for answer in said.answers:
        if answer.to == config.me and _matches(config, state, current, answer):
            others = [(n, a) for n, a in zip(current.from_nodes, current.answers) if n != said.sender]
            others.append((said.sender, answer))
            return current._replace(answers=tuple(a for _, a in others), from_nodes=tuple(n for n, _ in others))
    return current


def _matches(config: Config, state: State, current: Round, answer: Answer) -> bool:
    if "answer-matches" in config.omitted_rules:
        return True
    return answer.run == state.run and answer.request == current.ask.request


def _fold_membership(config: Config, state: State, event: Membership) -> State:
    """Who cannot be heard any more is unknown: what it said last is forgotten. Who comes back has the whole time to
    answer: a deadline that passed while it was away must not have it fenced the moment it is a member again."""
    heard = tuple(item for item in state.heard if item[0] in event.reachable)
    online = tuple(n for n in config.nodes if n in event.online)
    current = state.round
    if current is not None and not set(online) <= set(state.online):
        current = current._replace(overdue=False, armed=False)
    return state._replace(heard=heard, online=online, round=current)


def _fold_handler(config: Config, state: State, event: HandlerCalled) -> State:
    if any(h.handler == event.handler for h in state.handlers):
        return state
    return state._replace(handlers=state.handlers + (Handler(event.handler, event.peer),))


def _fold_handler_gone(config: Config, state: State, event: HandlerGone) -> State:
    return state._replace(handlers=tuple(h for h in state.handlers if h.handler != event.handler))


def _fold_block_done(config: Config, state: State, event: BlockDone) -> State:
    blocking = state.blocking
    if blocking is None or blocking.token != event.token:
        return state
    if not event.ok or state.record.standing is not Standing.BLOCKED:
        return state._replace(blocking=blocking._replace(token=FAILED_BLOCK))
    answer = Answer(blocking.asker, blocking.run, blocking.request, state.record.epoch, True)
    return state._replace(blocking=None, answers=give(state.answers, answer))


def give(answers: Tuple[Answer, ...], answer: Answer) -> Tuple[Answer, ...]:
    """One answer per asker: the newest."""
    return tuple(a for a in answers if a.to != answer.to) + (answer,)


def _fold_fence(config: Config, state: State, event: FenceDone) -> State:
    """A completed fencing is a proof in the epoch in which it was got, and in no other."""
    state = state._replace(fence_asked=tuple(n for n in state.fence_asked if n != event.node))
    record = state.record
    if event.node == config.me or event.node not in config.nodes:
        return state
    if not event.ok:
        # Asked again when the deadline passes once more: a fence device that fails at once must not make us spin.
        again = state.round._replace(overdue=False, armed=False) if state.round else None
        return state._replace(round=again)
    if event.epoch != record.epoch and "fence-epoch" not in config.omitted_rules:
        return state
    kind = ProofKind.FENCED_MANUALLY if event.manual else ProofKind.FENCED
    proofs = tuple(p for p in record.proofs if p.node != event.node) + (Proof(event.node, kind, record.epoch),)
    return state._replace(record=record._replace(proofs=proofs))


def _fold_deadline(config: Config, state: State, event: Deadline) -> State:
    if state.round is None or state.round.ask.request != event.request:
        return state
    return state._replace(round=state.round._replace(overdue=True))


def _fold_mark(config: Config, state: State, event: MarkSynchronized) -> State:
    return state._replace(marked=not refusal(config, state))


_FOLDS: Dict[Type[object], Callable[..., State]] = {
    ReplicaChanged: _fold_replica,
    Heard: _fold_heard,
    Membership: _fold_membership,
    HandlerCalled: _fold_handler,
    HandlerGone: _fold_handler_gone,
    BlockDone: _fold_block_done,
    FenceDone: _fold_fence,
    Deadline: _fold_deadline,
    MarkSynchronized: _fold_mark,
}
