"""Worlds that differ only in the names of their counters are one world.

The core compares run ids, request numbers, connection counts and data generations with each other and does nothing
else with them, and of epochs it uses the order and the successor. So they can be renamed, the same everywhere in a
world, without changing what can happen next. A node that was killed, started and taken back is then the very world
from before, and need not be explored anew.

`_node` and `_message` walk through every number of a part of a world and let a function replace it: once to collect
the numbers, once to rename them.
"""

from __future__ import annotations

from typing import Callable, Dict, List, NamedTuple, Optional, Tuple, Union

from heartgate.core.model import Answer, Ask, LinkReport, Message, Record, Replica, Standing, State
from heartgate.sim.world import FIRST_FRESH_GENERATION, NAMES, Kernel, Node

Thing = Union[Node, Message]
EPOCH, RUN, REQUEST, CALL, INCARNATION = range(5)
Slot = Tuple[int, int]  # (kind of number, whose: 0 or 1)


class Numbers(NamedTuple):
    """Every number in one part of a world, by slot, and every chain of generations."""

    values: Tuple[Tuple[Slot, Tuple[int, ...]], ...]
    chains: Tuple[Tuple[int, ...], ...]


class Renaming(NamedTuple):
    values: Dict[Slot, Dict[int, int]]
    generations: Dict[int, int]  # those that are the newest of some chain; all others say nothing and are left out


NumberOf = Callable[[Slot, int], int]
ChainOf = Callable[[Tuple[int, ...]], Tuple[int, ...]]


def collect(thing: Thing, me: int) -> Numbers:
    """The numbers in a node, or in a message that `me` has sent."""
    values: Dict[Slot, set[int]] = {}
    chains: List[Tuple[int, ...]] = []

    def number(slot: Slot, value: int) -> int:
        values.setdefault(slot, set()).add(value)
        return value

    def chain(known: Tuple[int, ...]) -> Tuple[int, ...]:
        if known not in chains:
            chains.append(known)
        return known

    _rewrite(thing, me, number, chain)
    return Numbers(tuple((slot, tuple(sorted(values[slot]))) for slot in sorted(values)), tuple(chains))


def renaming(parts: Tuple[Numbers, ...]) -> Renaming:
    """How to rename all numbers of a world."""
    values: Dict[Slot, set[int]] = {}
    chains: Dict[Tuple[int, ...], None] = {}
    for part in parts:
        for slot, numbers in part.values:
            values.setdefault(slot, set()).update(numbers)
        chains.update(dict.fromkeys(part.chains))
    named = {slot: _names(slot[0], sorted(numbers)) for slot, numbers in values.items()}
    generations: Dict[int, int] = {}
    for chain in chains:
        generations.setdefault(chain[-1], len(generations))
    return Renaming(named, generations)


def _names(kind: int, numbers: List[int]) -> Dict[int, int]:
    if kind == EPOCH:
        # 0 says that a record was lost: then nothing is renamed.
        return {n: n - numbers[0] + 1 if numbers[0] else n for n in numbers}
    counted = {n: i for i, n in enumerate([n for n in numbers if n], 1)}
    return {**counted, 0: 0}


def renamed(numbers: Numbers, names: Renaming) -> Numbers:
    """What `collect` finds in a thing after it has been renamed."""
    values = tuple((slot, tuple(sorted({names.values[slot][n] for n in found}))) for slot, found in numbers.values)
    chains = (tuple(names.generations[g] for g in chain if g in names.generations) for chain in numbers.chains)
    return Numbers(values, tuple(dict.fromkeys(chains)))


def rename(thing: Thing, me: int, names: Renaming) -> Thing:
    def number(slot: Slot, value: int) -> int:
        return names.values[slot][value]

    def chain(known: Tuple[int, ...]) -> Tuple[int, ...]:
        return tuple(names.generations[g] for g in known if g in names.generations)

    return _rewrite(thing, me, number, chain)


def _rewrite(thing: Thing, me: int, number: NumberOf, chain: ChainOf) -> Thing:
    return _node(thing, me, number, chain) if isinstance(thing, Node) else _message(thing, number, chain)


# --- one walk for both ------------------------------------------------------------------------------------------------


def _whose(name: str) -> int:
    return NAMES.index(name)


def _run(run: str, number: NumberOf) -> str:
    owner = _whose(run[0])
    return f"{run[0]}{number((RUN, owner), int(run[1:]))}"


def relevant(node: Node) -> Node:
    """Without what can make no difference any more (docs/exploration.md says why for each)."""
    kernel, record, state = node.kernel, node.record, node.state
    waiting = [int(h.handler) for h in state.handlers] if state else []
    calls = max([kernel.call, *waiting])
    if calls != kernel.calls:
        kernel = kernel._replace(calls=calls)
    if record is not None:
        record = _relevant_record(record)
    if state is not None:
        links = {link.peer: link.incarnation for link in state.links}
        dropped = tuple(d for d in state.dropped if d[1] >= links.get(d[0], 0))
        state = state._replace(record=_relevant_record(state.record), dropped=dropped)
    ops = tuple(op for op in node.ops if op[0] != "drop" or (kernel.conn and op[1] == node.met))
    return node._replace(kernel=kernel, record=record, state=state, ops=ops)


def _relevant_record(record: Record) -> Record:
    if record.proofs and record.standing in (Standing.BLOCKED, Standing.UNPROVEN):
        return record._replace(proofs=())
    return record


def _node(node: Node, me: int, number: NumberOf, chain: ChainOf) -> Node:
    return node._replace(
        runs=number((RUN, me), node.runs),
        met=number((INCARNATION, me), node.met),
        kernel=_kernel(node.kernel, me, number, chain),
        record=node.record and _record(node.record, number),
        state=node.state and _state(node.state, me, number, chain),
        ops=tuple(sorted({(kind, _operation(kind, value, node, me, number)) for kind, value in node.ops})),
    )


def _operation(kind: str, value: int, node: Node, me: int, number: NumberOf) -> int:
    if kind in ("block", "deadline"):
        return number((REQUEST, me), value)
    if kind == "drop":
        return number((INCARNATION, me), value)
    if kind == "fenced" and node.record is not None:
        # A report for an older epoch is as good as any other one for an older epoch.
        return number((EPOCH, 0), max(value, node.record.epoch - 1))
    return 0


def _kernel(kernel: Kernel, me: int, number: NumberOf, chain: ChainOf) -> Kernel:
    return kernel._replace(
        call=number((CALL, me), kernel.call),
        calls=number((CALL, me), kernel.calls),
        made=FIRST_FRESH_GENERATION,
        generation=chain(kernel.generation),
    )


def _record(record: Record, number: NumberOf) -> Record:
    kept = tuple(p._replace(epoch=number((EPOCH, 0), max(p.epoch, record.epoch - 1))) for p in record.proofs)
    return record._replace(epoch=number((EPOCH, 0), record.epoch), proofs=kept)


def _replica(replica: Replica, me: int, number: NumberOf, chain: ChainOf) -> Replica:
    generation, ancestors = _generations(replica.generation, replica.ancestors, chain)
    peers = tuple((n, p._replace(incarnation=number((INCARNATION, me), p.incarnation))) for n, p in replica.peers)
    return replica._replace(peers=peers, generation=generation, ancestors=ancestors)


def _generations(newest: str, ancestors: Tuple[str, ...], chain: ChainOf) -> Tuple[str, Tuple[str, ...]]:
    if not newest:
        return newest, ancestors
    named = [str(g) for g in chain((*(int(g) for g in ancestors), int(newest)))]
    return named[-1], tuple(named[:-1])


def _links(links: Tuple[LinkReport, ...], me: int, number: NumberOf) -> Tuple[LinkReport, ...]:
    return tuple(
        link._replace(
            incarnation=number((INCARNATION, me), link.incarnation),
            paired=number((INCARNATION, 1 - me), link.paired),
            paired_run=_run(link.paired_run, number) if link.paired_run else "",
        )
        for link in links
    )


def _ask(ask: Optional[Ask], me: int, number: NumberOf) -> Optional[Ask]:
    return ask and ask._replace(request=number((REQUEST, me), ask.request), epoch=number((EPOCH, 0), ask.epoch))


def _answers(answers: Tuple[Answer, ...], number: NumberOf) -> Tuple[Answer, ...]:
    return tuple(
        a._replace(
            run=_run(a.run, number),
            request=number((REQUEST, _whose(a.to)), a.request),
            epoch=number((EPOCH, 0), a.epoch),
        )
        for a in answers
    )


def _state(state: State, me: int, number: NumberOf, chain: ChainOf) -> State:
    current, blocking = state.round, state.blocking
    if current is not None:
        ask = _ask(current.ask, me, number)
        current = current._replace(ask=ask or current.ask, answers=_answers(current.answers, number))
    if blocking is not None:
        owner = _whose(blocking.asker)
        token = number((REQUEST, me), blocking.token) if blocking.token > 0 else blocking.token
        blocking = blocking._replace(
            run=_run(blocking.run, number), request=number((REQUEST, owner), blocking.request), token=token
        )
    return state._replace(
        record=_record(state.record, number),
        run=_run(state.run, number),
        replica=_replica(state.replica, me, number, chain),
        heard=tuple((n, _message(m, number, chain)) for n, m in state.heard),
        links=_links(state.links, me, number),
        round=current,
        blocking=blocking,
        answers=_answers(state.answers, number),
        handlers=tuple(h._replace(handler=str(number((CALL, me), int(h.handler)))) for h in state.handlers),
        next_request=number((REQUEST, me), state.next_request),
        told=state.told and _message(state.told, number, chain),
        dropped=tuple((n, number((INCARNATION, me), i)) for n, i in state.dropped),
    )


def _message(said: Message, number: NumberOf, chain: ChainOf) -> Message:
    me = _whose(said.sender)
    generation, ancestors = _generations(said.generation, said.ancestors, chain)
    return said._replace(
        run=_run(said.run, number),
        epoch=number((EPOCH, 0), said.epoch),
        generation=generation,
        ancestors=ancestors,
        links=_links(said.links, me, number),
        ask=_ask(said.ask, me, number),
        answers=_answers(said.answers, number),
    )
