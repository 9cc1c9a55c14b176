"""What a replica that may not serve waits for, in words, and when a person may decide for it. Pure, like the policy itself.

The daemon shows the first in `heartgate status` and in the journal; the second guards `heartgate mark-synchronized`.
"""

from __future__ import annotations

from typing import Iterable, List

from heartgate.core.model import SERVING, Config, Disk, Link, ProofKind, Standing, State
from heartgate.core.verdict import CURRENT, HAS_DATA


def refusal(config: Config, state: State) -> str:
    """Why a person may not declare this replica the good one now; "" when it may be done."""
    record, disk = state.record, state.replica.disk
    if record.standing in SERVING:
        return f"this node is {record.standing.value}: it may serve already"
    if record.standing is Standing.DECIDING:
        missing = _others(config, record.in_sync)
        if record.bias in missing:
            return f"this node is deciding, and bound to let {record.bias} go on, which is a member of the cluster still"
        return (
            f"this node is deciding and goes on by itself as soon as {_either(missing)} confirms its block or is fenced; if a "
            f"machine is certainly off, say so with `stonith_admin --confirm NODE`"
        )
    for node, said in state.heard:
        if said.standing in CURRENT:
            what = "serves" if said.standing in SERVING else "is about to decide"
            return f"{node} can be heard, is {said.standing.value} (epoch {said.epoch}) and {what}: connect the replication to it"
    if disk not in HAS_DATA:
        return f"the replica here cannot be used: its disk is {disk.value}" + _why_not(disk)
    for node in _others(config, config.nodes):
        if state.message_of(node) is None and state.replica.peer(node).link is Link.UP:
            return (
                f"the replication to {node} is connected, but its heartgated cannot be heard, so whether it serves is not known: "
                f"mend the heartbeat (or heartgated on {node}), and the two decide by themselves"
            )
    return ""


def _why_not(disk: Disk) -> str:
    if disk is Disk.INCONSISTENT:
        return " (a resync towards it has begun and has not ended)"
    return " (start the replication first)" if disk in (Disk.ABSENT, Disk.DISKLESS, Disk.UNKNOWN) else ""


def waits_for(config: Config, state: State) -> str:
    """One sentence for a replica that may not serve; "" for one that may."""
    record = state.record
    if record.standing in SERVING:
        return ""
    if record.standing is Standing.DECIDING:
        return _deciding(config, state)
    serving = [node for node, said in state.heard if said.standing in SERVING]
    if serving:
        down = [n for n in serving if state.replica.peer(n).link is not Link.UP]
        if down:
            return f"waits for the replication link to {_both(down)}, which {'serve' if len(down) > 1 else 'serves'}"
        return f"waits to be up to date; {_both(serving)} then takes it back"
    silent = [n for n in _others(config, config.nodes) if state.message_of(n) is None]
    if silent:
        return (
            f"waits to hear {_both(silent)} over a heartbeat, since {'each of them' if len(silent) > 1 else 'it'} may have newer "
            f"data (is the machine on? corosync and heartgated running? a heartbeat link up?)"
        )
    return "hears everybody and waits for a meeting: no replica can be shown to have every write; connect the replication"


def command_that_ends(config: Config, state: State) -> str:
    """The command with which a person can end the wait, on this node; "" where there is none (see `refusal`)."""
    return "" if refusal(config, state) else f"heartgate mark-synchronized {config.device}"


def _deciding(config: Config, state: State) -> str:
    current = state.round
    if current is None:
        return "waits for the verdict of the others" if state.heard else "waits for a verdict; nobody can be heard"
    answered = {n for n, a in zip(current.from_nodes, current.answers) if a.blocked}
    proven = {p.node for p in state.record.proofs if p.epoch == state.record.epoch}
    missing = [n for n in config.nodes if n not in current.ask.keep and n not in answered | proven]
    unagreed = [n for n in current.ask.keep if n not in (config.me, *current.from_nodes)]
    parts: List[str] = []
    if missing:
        parts.append(f"for {_both(missing)} to confirm the block, or to be fenced")
    if unagreed:
        parts.append(f"for {_both(unagreed)} to agree")
    return "waits " + (" and ".join(parts) or "for its own verdict")


def lost_by_marking(config: Config, state: State) -> str:
    """What a person gives up who declares this replica the good one."""
    record = state.record
    others = _others(config, config.nodes)
    if record.standing is Standing.BLOCKED and record.promised_to:
        return (
            f"{record.promised_to} was allowed to go on without this node (epoch {record.epoch}): everything that was written "
            f"there since then, and on any other node, and is not here, is lost"
        )
    return (
        f"it is not known whether {_either(others)} went on without this node: everything that was written there and is not "
        f"here is lost"
    )


def marked_by_a_person(state: State) -> bool:
    """This node serves by the word of a person."""
    return any(proof.kind is ProofKind.OPERATOR for proof in state.record.proofs)


def _others(config: Config, nodes: Iterable[str]) -> List[str]:
    return [n for n in nodes if n != config.me]


def _both(nodes: List[str]) -> str:
    return " and ".join(nodes)


def _either(nodes: List[str]) -> str:
    return " or ".join(nodes)
