"""The policy as a table: each rule looks at the state and either does not apply (None) or gives the next state and its effects.

`policy.step` runs the table from the top until no rule applies, so the order matters: what takes a right away stands before
what gives one. Rules that are guards inside another rule (they have no effect of their own) are listed in `GUARDS`; both
tables are printed by `docs/rules.md`. A rule id in `Config.omitted_rules` leaves that rule out: that is how the explorer
shows that each of them is necessary. The daemon refuses a configuration that omits any.
"""

from __future__ import annotations

from typing import Callable, NamedTuple, Optional, Tuple

from heartgate.core import verdict
from heartgate.core.fold import BLOCK_AGAIN, FAILED_BLOCK, give, lost, lost_by_word, message
from heartgate.core.model import (
    SERVING,
    Action,
    Answer,
    AnswerHandler,
    Ask,
    AskFence,
    Block,
    Blocking,
    Config,
    Disk,
    Drop,
    Flush,
    Link,
    Message,
    OnIsolation,
    Proof,
    ProofKind,
    Record,
    Rehandle,
    Release,
    Role,
    Round,
    SetDeadline,
    Standing,
    State,
    Unblock,
)
from heartgate.core.waiting import refusal

Effect = Optional[Tuple[State, Tuple[Action, ...]]]
PEER_OUTDATED, PEER_FENCED, STAY = 4, 7, 1  # exit codes of a DRBD fence-peer handler


class Rule(NamedTuple):
    ident: str
    text: str
    apply: Callable[[Config, State], Effect]


def on(config: Config, ident: str) -> bool:
    return ident not in config.omitted_rules


def is_in_contact(config: Config, mine: Message, theirs: Message) -> bool:
    """Both ends report the same connection (or, with that rule left out, any connection). Counts of connections begin
    anew with each run of a daemon, so they mean nothing without the runs that counted: a copy of a message from before
    a boot must not let anybody join."""
    if not on(config, "pairing"):
        return verdict.link_up(mine, theirs)
    here, there = mine.link_to(theirs.sender), theirs.link_to(mine.sender)
    if here is None or there is None or (here.paired_run, there.paired_run) != (theirs.run, mine.run):
        return False
    return verdict.contact(mine, theirs)


def proof_of(record: Record, node: str) -> Optional[Proof]:
    for proof in record.proofs:
        if proof.node == node:
            return proof
    return None


def _others(config: Config, nodes: Tuple[str, ...]) -> Tuple[str, ...]:
    return tuple(n for n in nodes if n != config.me)


def _planned(config: Config, state: State) -> Optional[verdict.Plan]:
    return verdict.plan(config, verdict.by_node(config, message(config, state), state.heard))


def _settled(state: State, record: Record) -> State:
    """A new record ends the own round; the block that is being carried out, and answers given to others while blocked, end
    when the block does."""
    blocked = record.standing is Standing.BLOCKED
    answers, blocking = (state.answers, state.blocking) if blocked else ((), None)
    return state._replace(record=record, round=None, answers=answers, blocking=blocking)


# --- what takes a right away ---------------------------------------------------------------------------------------------


def _excluded(config: Config, state: State) -> Effect:
    record = state.record
    for _, said in state.heard:
        if said.standing not in SERVING or config.me in said.in_sync:
            continue
        if said.epoch > record.epoch or (record.standing is not Standing.BLOCKED and said.epoch == record.epoch):
            blocked = record._replace(
                standing=Standing.BLOCKED, epoch=max(said.epoch, record.epoch), proofs=(), promised_to=said.sender, bias=""
            )
            token = state.next_request
            return _settled(state, blocked)._replace(next_request=token + 1), (Block(token),)
    return None


def _loss(config: Config, state: State) -> Effect:
    record = state.record
    if record.standing not in SERVING:
        return None
    if not any(lost(config, state, node) for node in _others(config, record.in_sync)):
        return None
    return _settled(state, record._replace(standing=Standing.DECIDING)), ()


def _others_lost(config: Config, state: State) -> bool:
    """Two others have lost each other (one of them says so), and the verdict leaves out one that this node counts in. With
    two replicas there are no two others."""
    planned = _planned(config, state)
    if planned is None or planned.situation is not verdict.Situation.SPLIT:
        return False
    left_out = [n for n in _others(config, state.record.in_sync) if n not in planned.keep]
    return any(_apart(state, y, x) for x in left_out for y in _others(config, planned.keep))


def _apart(state: State, one: str, other: str) -> bool:
    """One of the two says that their connection is down. Not known is not down."""
    for here, there in ((one, other), (other, one)):
        said = state.message_of(here)
        report = said.link_to(there) if said is not None else None
        if report is not None and report.link is Link.DOWN:
            return True
    return False


def _split(config: Config, state: State) -> Effect:
    """Who serves with both of them has to be part of the verdict: in front, or among those that are kept."""
    record = state.record
    if record.standing not in SERVING or not _others_lost(config, state):
        return None
    return _settled(state, record._replace(standing=Standing.DECIDING)), ()


def _drop(config: Config, state: State) -> Effect:
    for report in state.links:
        known = (report.peer, report.incarnation)
        if report.link is Link.UP and lost_by_word(config, state, report.peer) and known not in state.dropped:
            kept = tuple(d for d in state.dropped if d[0] != report.peer)
            return state._replace(dropped=kept + (known,)), (Drop(*known),)
    return None


def _agrees(config: Config, state: State, said: Message) -> bool:
    """Should this node block for that asker? Never while serving; else unless its own verdict names another one."""
    record, planned = state.record, _planned(config, state)
    if record.standing in SERVING or said.ask is None:
        return False
    if record.standing is Standing.DECIDING:
        return planned is not None and planned.leader == said.sender and config.me not in planned.keep
    return planned is None or planned.leader != config.me


def _ask_block(config: Config, state: State) -> Effect:
    for _, said in state.heard:
        ask = said.ask
        if ask is None or config.me in ask.keep or _answered(state, said, ask) or not _agrees(config, state, said):
            continue
        record, token = state.record, state.next_request
        epoch = max(record.epoch + 1, ask.epoch) if on(config, "epoch-raise") else record.epoch
        blocked = record._replace(standing=Standing.BLOCKED, epoch=epoch, proofs=(), promised_to=said.sender, bias="")
        state = _settled(state, blocked)._replace(
            blocking=Blocking(said.sender, said.run, ask.request, token), next_request=token + 1
        )
        return state, (Block(token),)
    return None


def _yield(config: Config, state: State) -> Effect:
    """The agreement says that the other one goes on alone: nothing is to be waited for here."""
    record = state.record
    if record.standing is not Standing.DECIDING or record.bias in ("", config.me) or record.bias in state.online:
        return None
    token = state.next_request
    blocked = record._replace(standing=Standing.BLOCKED, proofs=(), promised_to=record.bias, bias="")
    return _settled(state, blocked)._replace(next_request=token + 1), (Block(token),)


def _end_bias(config: Config, state: State) -> Effect:
    """Who has the bias, or could have it by the other's word, and is not to have it any more: gives it up, under a new epoch.
    The other one is bound until it joins that epoch."""
    record = state.record
    if record.standing is not Standing.SYNCED or config.bias == config.me:
        return None
    bound = any(said.bias == config.me and said.epoch == record.epoch for _, said in state.heard)
    if record.bias != config.me and not bound:
        return None
    return _settled(state, record._replace(epoch=record.epoch + 1, bias="")), ()


def _block_again(config: Config, state: State) -> Effect:
    blocking, token = state.blocking, state.next_request
    if blocking is None or blocking.token != BLOCK_AGAIN:
        return None
    return state._replace(blocking=blocking._replace(token=token), next_request=token + 1), (Block(token),)


def _answered(state: State, said: Message, ask: Ask) -> bool:
    """This very question was answered, is being worked on, or could not be carried out."""
    if state.blocking is not None:
        blocking = state.blocking
        if (blocking.asker, blocking.run, blocking.request) == (said.sender, said.run, ask.request):
            return True
        if blocking.token != FAILED_BLOCK:
            return True
    return any((a.to, a.run, a.request) == (said.sender, said.run, ask.request) for a in state.answers)


# --- what gives a right ---------------------------------------------------------------------------------------------------


def _operator(config: Config, state: State) -> Effect:
    """The proof is a person's word, and is recorded as such. The epoch rises above all that is known, so whoever hears of it
    later blocks."""
    if not state.marked:
        return None
    if refusal(config, state):  # what was learnt in this very step is against it
        return state._replace(marked=False), ()
    heard = [said.epoch for _, said in state.heard] + [s.ask.epoch for _, s in state.heard if s.ask is not None]
    epoch = max([state.record.epoch, *heard]) + 1
    proofs = tuple(Proof(n, ProofKind.OPERATOR, epoch) for n in _others(config, config.nodes))
    marked = Record(Standing.SOLO, epoch, (config.me,), state.record.boot, proofs)
    return _settled(state, marked)._replace(fence_asked=(), marked=False), ()


def _join(config: Config, state: State) -> Effect:
    record, mine = state.record, message(config, state)
    for _, said in state.heard:
        if said.standing not in SERVING or config.me not in said.in_sync:
            continue
        decided = record.promised_to == said.sender and record.standing in SERVING and said.in_sync == record.in_sync
        if said.epoch < record.epoch or (said.epoch == record.epoch and (not decided or said.promised_to)):
            continue
        if mine.disk is not Disk.UPTODATE or not is_in_contact(config, mine, said):
            continue
        if said.promised_to and on(config, "all-agree"):
            continue
        proofs = tuple(Proof(n, ProofKind.CONFIRMED, said.epoch) for n in config.nodes if n not in said.in_sync)
        joined = _settled(state, Record(said.standing, said.epoch, said.in_sync, record.boot, proofs))
        if _loss(config, joined) is None and _split(config, joined) is None:  # it would have to decide at once
            return joined, ()
    return None


def _agree_bias(config: Config, state: State) -> Effect:
    """First the one that will block binds itself; who will go on alone takes the bias only when it has heard that."""
    record, mine = state.record, message(config, state)
    if not config.bias or record.standing is not Standing.SYNCED or record.bias == config.bias:
        return None
    for _, said in state.heard:
        together = said.standing is Standing.SYNCED and said.epoch == record.epoch and is_in_contact(config, mine, said)
        bound = said.bias == config.me or not on(config, "agree-first")
        if together and said.wants == config.bias and (config.bias != config.me or bound):
            return state._replace(record=record._replace(bias=config.bias)), ()
    return None


def _self_return(config: Config, state: State) -> Effect:
    record = state.record
    returning = record.standing is Standing.DECIDING or (
        record.standing is Standing.BLOCKED and not on(config, "promise")
    )
    if not returning or state.replica.disk is not Disk.UPTODATE:
        return None
    for node in _others(config, record.in_sync):
        seen = state.replica.peer(node)
        if seen.link is not Link.UP or seen.disk is not Disk.UPTODATE or lost_by_word(config, state, node):
            return None
    # Handlers that wait for this loss are done: DRBD has thawed by itself and only logs their code.
    done = tuple(AnswerHandler(h.handler, STAY) for h in state.handlers)
    back = _settled(state, record._replace(standing=_standing_of(config, record.in_sync)))._replace(handlers=())
    return None if _others_lost(config, state) or _others_lost(config, back) else (back, done)


def _standing_of(config: Config, in_sync: Tuple[str, ...]) -> Standing:
    return Standing.SYNCED if set(in_sync) == set(config.nodes) else Standing.SOLO


def _accept(config: Config, state: State) -> Effect:
    """Agree to be kept. Who serves enlarges its own in_sync first: afterwards it needs proof about the new ones too."""
    mine = message(config, state)
    for _, said in state.heard:
        ask = said.ask
        if ask is None or config.me not in ask.keep or _answered(state, said, ask):
            continue
        if not is_in_contact(config, mine, said):
            continue
        record = state.record
        if record.standing in SERVING:
            if not set(record.in_sync) <= set(ask.keep):
                continue
            record = record._replace(
                standing=_standing_of(config, ask.keep),
                epoch=max(record.epoch, ask.epoch),
                in_sync=tuple(sorted(ask.keep)),
                proofs=tuple(p for p in record.proofs if p.node not in ask.keep),
                promised_to=said.sender,
                bias="",
            )
        answer = Answer(said.sender, said.run, ask.request, record.epoch, False)
        agreed = state._replace(record=record, answers=give(state.answers, answer))
        if record.standing not in SERVING or not _others_lost(config, agreed):
            return agreed, ()
    return None


def _may_propose(config: Config, state: State, planned: verdict.Plan) -> bool:
    record = state.record
    if planned.situation is verdict.Situation.REUNION:
        # Their word is not enough: this node's own kernel has to see their data up to date as well.
        seen = [state.replica.peer(n).disk for n in _others(config, planned.keep)]
        return record.standing in SERVING and all(disk is Disk.UPTODATE for disk in seen)
    if planned.situation is verdict.Situation.SPLIT:
        own = any(lost(config, state, node) for node in _others(config, record.in_sync))
        return record.standing is Standing.DECIDING and (own or _others_lost(config, state))
    return record.standing not in SERVING


def _ask_again(state: State, planned: verdict.Plan, current: Round) -> bool:
    """In a meeting nobody can be fenced for not answering, and a block that failed is only tried for a new question."""
    meeting = planned.situation is verdict.Situation.MEETING
    return meeting and current.overdue and state.record.standing is not Standing.DECIDING


def _propose(config: Config, state: State) -> Effect:
    planned = _planned(config, state)
    wanted = planned is not None and planned.leader == config.me and _may_propose(config, state, planned)
    if planned is None or not wanted:
        return (state._replace(round=None), ()) if state.round is not None else None
    if state.round is not None and state.round.ask.keep == planned.keep and not _ask_again(state, planned, state.round):
        return None
    heard = [said.epoch for _, said in state.heard] + [s.ask.epoch - 1 for _, s in state.heard if s.ask is not None]
    request, epoch = state.next_request, max([state.record.epoch, *heard]) + 1
    opened = Round(Ask(request, epoch, planned.keep))
    return state._replace(round=opened, next_request=request + 1), ()


def _arm(config: Config, state: State) -> Effect:
    if state.round is None or state.round.armed:
        return None
    request = state.round.ask.request
    return state._replace(round=state.round._replace(armed=True)), (SetDeadline(request, config.confirm_timeout_ms),)


def _evidence(config: Config, state: State, node: str) -> Optional[Proof]:
    """Why `node`, which is not in the open round's keep set, cannot serve; None where there is no proof yet."""
    current, record = state.round, state.record
    if current is None:
        return None
    for name, answer in zip(current.from_nodes, current.answers):
        if name == node and answer.blocked:
            return Proof(node, ProofKind.CONFIRMED, current.ask.epoch)
    if record.standing is not Standing.DECIDING and record.standing not in SERVING:
        return None  # blocked and unproven nodes never claim by fencing, nor by what they once knew
    if record.bias == config.me and node not in state.online:
        return Proof(node, ProofKind.AGREED, record.epoch)
    if record.bias == node and on(config, "bound"):
        return None
    known = proof_of(record, node)
    if known is not None and known.kind is ProofKind.FENCED and config.on_isolation is OnIsolation.FREEZE and on(config, "freeze"):
        return None
    if known is not None and (known.epoch == record.epoch or not on(config, "fence-epoch")):
        return known
    return None


def _commit(config: Config, state: State) -> Effect:
    current, record = state.round, state.record
    if current is None:
        return None
    keep = current.ask.keep
    accepted = {n for n, a in zip(current.from_nodes, current.answers) if not a.blocked}
    if any(n not in accepted for n in _others(config, keep)):
        return None
    found = {n: _evidence(config, state, n) for n in config.nodes if n not in keep}
    if on(config, "proof") and any(p is None for p in found.values()):
        return None
    epoch = max([current.ask.epoch, *(a.epoch for a in current.answers)])
    proofs = tuple(p._replace(epoch=epoch) for p in found.values() if p is not None)
    settled = Record(_standing_of(config, keep), epoch, tuple(sorted(keep)), record.boot, proofs)
    return _settled(state, settled)._replace(fence_asked=()), ()


def _fence(config: Config, state: State) -> Effect:
    """Still a member of the cluster, and no confirmation in time: have it fenced (A11)."""
    current = state.round
    if current is None or not current.overdue or state.record.standing is not Standing.DECIDING:
        return None
    if config.on_isolation is OnIsolation.FREEZE or state.record.bias not in ("", config.me):
        return None  # it could not use a fencing
    for node in config.nodes:
        silent = node not in current.ask.keep and _evidence(config, state, node) is None
        if silent and node in state.online and node not in state.fence_asked:
            asked = state._replace(fence_asked=state.fence_asked + (node,))
            return asked, (AskFence(node, state.record.epoch),)
    return None


def _handlers(config: Config, state: State) -> Effect:
    for handler in state.handlers:
        code = _exit_code(config, state, handler.peer)
        if code is not None:
            rest = tuple(h for h in state.handlers if h is not handler)
            return state._replace(handlers=rest), (AnswerHandler(handler.handler, code),)
    return None


def _exit_code(config: Config, state: State, peer: str) -> Optional[int]:
    """What a fence-peer handler about `peer` is to exit with; None: it waits."""
    record, replica = state.record, state.replica
    if record.standing is Standing.BLOCKED:
        return STAY
    if record.standing is Standing.UNPROVEN:
        return STAY if replica.role is Role.SECONDARY else None
    if record.standing not in SERVING:
        return None
    if peer in record.in_sync:
        # A call for a loss that is over: DRBD goes on by itself and only logs the code. Never 4: the peer is not outdated.
        return STAY if replica.peer(peer).link is Link.UP and not lost(config, state, peer) else None
    if replica.disk not in (Disk.UPTODATE, Disk.CONSISTENT):
        return None
    proof = proof_of(record, peer)
    if proof is None and on(config, "proof"):
        return None
    fenced = proof is not None and proof.kind in (ProofKind.FENCED, ProofKind.FENCED_MANUALLY)
    return PEER_FENCED if fenced else PEER_OUTDATED


TABLE: Tuple[Rule, ...] = (
    Rule("excluded", "Another node serves without this one: block.", _excluded),
    Rule("loss", "Contact with a node in sync is lost: nothing may be decided alone any more.", _loss),
    Rule("split", "Two others have lost each other and one of them is left out: decide with them.", _split),
    Rule("yield", "Nobody can be heard, and the standing agreement is for the other one: block.", _yield),
    Rule("end-bias", "The bias is not to be here any more: give it up, under a new epoch.", _end_bias),
    Rule("drop", "The other end has lost this very connection: drop it here too, so that the kernel freezes.", _drop),
    Rule("ask-block", "The verdict's first node asks: persist blocked, make it so, then confirm.", _ask_block),
    Rule("block-again", "The block did not hold, and the replica has changed since: try again.", _block_again),
    Rule("operator", "A person declares this replica the good one: serve alone.", _operator),
    Rule("join", "A serving node counts this one in, over the connection both see now: serve.", _join),
    Rule("agree-bias", "In sync, and both are to have the same agreement: bind oneself first, then take the bias.", _agree_bias),
    Rule("self-return", "The connection is back before any verdict and both are up to date: go on as before.", _self_return),
    Rule("accept", "The verdict's first node wants to keep this one: agree.", _accept),
    Rule("propose", "This node is the verdict's first: ask the others (or withdraw a question that is out of date).", _propose),
    Rule("deadline", "A question is open: set its deadline.", _arm),
    Rule("commit", "Every kept node has agreed and there is proof about every other one: serve.", _commit),
    Rule("ask-fence", "No confirmation in time from a member of the cluster: ask Pacemaker to fence it.", _fence),
    Rule("handlers", "A waiting fence-peer handler can be answered.", _handlers),
)

GUARDS: Tuple[Tuple[str, str], ...] = (
    ("boot-unproven", "A node that boots out of synced or deciding is unproven: a peer may have fenced it and gone on."),
    ("persist-first", "The record is on stable storage before anything of it is told or done; so who serves alone gives "
                      "that up before it tells the other."),
    ("epoch-raise", "Who blocks raises its epoch above its own and the asker's."),
    ("answer-matches", "An answer counts only for the run and the request that asked."),
    ("pairing", "Contact, readmission and loss by word count only for the connection under which they were reported."),
    ("connection-voids", "A new connection voids the open round and the confirmations given before it."),
    ("fence-epoch", "A fencing proof counts only in the epoch in which it was got."),
    ("meeting", "When all replicas can be heard and none may serve, the first rank among the up-to-date ones is chosen."),
    ("promise", "Who has confirmed a block leaves it only by readmission over the same connection, or by the meeting rule."),
    ("all-agree", "With three and more: who is taken back joins when all who serve have agreed, not when the first of them has."),
    ("agree-first", "Who has the bias takes it only when the other one has bound itself, in this epoch."),
    ("bound", "Who is bound by the agreement cannot claim by fencing."),
    ("freeze", "With on_isolation=freeze a fencing is no proof."),
    ("proof", "Nobody serves without proof about everybody else."),
)


def on_change(config: Config, before: State, after: State) -> Tuple[Action, ...]:
    """Actions that follow from a condition becoming true, whatever rule or fact made it so."""
    actions: list[Action] = []
    if after.record.standing is Standing.SOLO and before.record.standing is not Standing.SOLO:
        if _is_frozen_primary(config, after) and not before.handlers:
            # Its handler has gone with another answer: only a new call of it can thaw under a new data generation.
            actions.append(Rehandle())
        actions.append(Flush(after.record.epoch))
    for condition, action in _CONDITIONS:
        if condition(config, after) and not condition(config, before):
            actions.append(action)
    return tuple(actions)


def _needs_unblock(config: Config, state: State) -> bool:
    return state.record.standing is Standing.SOLO and state.replica.disk is Disk.OUTDATED


def _is_frozen_primary(config: Config, state: State) -> bool:
    return state.replica.role is Role.PRIMARY and state.replica.frozen is True


def _needs_release(config: Config, state: State) -> bool:
    return state.record.standing is Standing.BLOCKED and _is_frozen_primary(config, state)


_CONDITIONS: Tuple[Tuple[Callable[[Config, State], bool], Action], ...] = (
    (_needs_unblock, Unblock()),
    (_needs_release, Release()),
)
