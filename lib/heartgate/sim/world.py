"""A world of two nodes around the real policy core: kernel replication, power, Pacemaker, wires.

The kernel part behaves as DRBD 8.4 with `fencing resource-and-stonith` was seen to behave: a loss freezes a Primary in the same
state change and calls the handler; 4 and 7 thaw under a new data generation; reconnecting thaws; a Secondary can be promoted
while unconnected only through the handler; the older generation becomes the target of a resync.

`missing` marks a copy that lacks an acknowledged write. Writers are adversarial: whoever could complete a write has done so.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Tuple

from heartgate.core import policy
from heartgate.core.model import (
    AnswerHandler,
    AskFence,
    Block,
    Config,
    Disk,
    Drop,
    Event,
    HandlerCalled,
    Link,
    Membership,
    Message,
    PeerLink,
    Persist,
    Record,
    Rehandle,
    Release,
    Replica,
    ReplicaChanged,
    Role,
    Send,
    SetDeadline,
    State,
    Unblock,
)


class Kernel(NamedTuple):
    """Replication as the kernel of one node has it. conn: id of the connection, 0 for none; call: number of the fence-peer
    call that waits, 0 for none; promoting: that call decides about a promotion."""

    role: Role = Role.SECONDARY
    disk: Disk = Disk.UPTODATE
    conn: int = 0
    last_conn: int = 0
    frozen: bool = False
    call: int = 0
    calls: int = 0
    promoting: bool = False
    peer_outdated: bool = False
    generation: Tuple[int, ...] = (0,)
    made: int = 0  # generations begun here
    missing: bool = False


class Node(NamedTuple):
    """One machine. state None: the daemon is dead. ops: what the daemon has ordered and has not got back."""

    powered: bool
    kernel: Kernel
    record: Optional[Record]
    state: Optional[State]
    boots: int = 1
    runs: int = 1
    ops: Tuple[Tuple[str, int], ...] = ()
    slow: bool = False  # a fault: the daemon learns late of what its kernel and its cluster see
    told_membership: Tuple[bool, bool] = (True, True)  # (peer's daemon reachable, peer online) as last told to the daemon
    quorate: bool = True  # has met the peer since its boot (wait_for_all): may have it fenced


class World(NamedTuple):
    nodes: Tuple[Node, Node]
    cable: bool
    heartbeat: bool
    channels: Tuple[Optional[Message], Optional[Message]]  # [0]: newest message on its way from node 0 to node 1
    late: Tuple[Optional[Message], Optional[Message]]  # an older one that was held up on the way
    faults: int  # still to be had


class Flaws(NamedTuple):
    """Deliberate faults of the world's side, to show that each of them is seen."""

    thaw_without_generation: bool = False
    release_without_kill: bool = False


NAMES = ("a", "b")


def facts(kernel: Kernel, peer: Kernel, peer_name: str) -> Replica:
    """What the driver would report."""
    connected = kernel.conn != 0 and kernel.conn == peer.conn
    their_disk = peer.disk if connected else (Disk.OUTDATED if kernel.peer_outdated else Disk.UNKNOWN)
    if kernel.conn and not connected:
        their_disk = Disk.UPTODATE  # the loss has not been noticed
    link = PeerLink(Link.UP if kernel.conn else Link.DOWN, kernel.last_conn, their_disk)
    generation = str(kernel.generation[-1])
    ancestors = tuple(str(g) for g in kernel.generation[:-1])
    return Replica(kernel.disk, kernel.role, kernel.frozen, ((peer_name, link),), generation, ancestors)


# --- the kernel -------------------------------------------------------------------------------------------------------------


def lose(kernel: Kernel) -> Kernel:
    """The connection is gone: a Primary freezes in the same change and calls the handler."""
    if not kernel.conn:
        return kernel
    kernel = kernel._replace(conn=0)
    if kernel.role is Role.PRIMARY:
        return kernel._replace(frozen=True, call=kernel.calls + 1, calls=kernel.calls + 1, promoting=False)
    return kernel


def new_generation(kernel: Kernel, me: int) -> Kernel:
    """Writes from here on belong to a generation of their own."""
    ident = 2 * kernel.made + me + 1
    return kernel._replace(made=kernel.made + 1, generation=(*kernel.generation, ident))


def answer(kernel: Kernel, call: int, code: int, me: int, flaws: Flaws) -> Kernel:
    """The handler exits. A code for an older call, or after a reconnect, is only logged."""
    if kernel.call != call:
        return kernel
    kernel = kernel._replace(call=0)
    if kernel.conn or code not in (4, 7):
        return kernel._replace(promoting=False)
    if kernel.promoting:
        kernel = kernel._replace(role=Role.PRIMARY, disk=Disk.UPTODATE, promoting=False)
    if not flaws.thaw_without_generation:
        kernel = new_generation(kernel, me)
    return kernel._replace(frozen=False, peer_outdated=True)


def promote(kernel: Kernel, peer: Kernel, me: int) -> Optional[Kernel]:
    """Pacemaker promotes; None where DRBD refuses. Unconnected, it either asks the handler or knows the peer outdated."""
    if kernel.role is Role.PRIMARY or kernel.promoting:
        return None
    if kernel.conn:
        allowed = kernel.disk is Disk.UPTODATE and kernel.conn == peer.conn and peer.role is Role.SECONDARY
        return kernel._replace(role=Role.PRIMARY) if allowed else None
    if kernel.disk not in (Disk.UPTODATE, Disk.CONSISTENT):
        return None
    if kernel.peer_outdated:
        return new_generation(kernel, me)._replace(role=Role.PRIMARY, disk=Disk.UPTODATE)
    return kernel._replace(call=kernel.calls + 1, calls=kernel.calls + 1, promoting=True)


def boot(kernel: Kernel) -> Kernel:
    """What is left of the kernel's state after a power cut."""
    disk = kernel.disk
    if disk is Disk.UPTODATE and not kernel.peer_outdated:
        disk = Disk.CONSISTENT
    return Kernel(
        disk=disk,
        last_conn=kernel.last_conn,
        calls=kernel.calls,
        peer_outdated=kernel.peer_outdated,
        generation=kernel.generation,
        made=kernel.made,
        missing=kernel.missing,
    )


def _newer(one: Kernel, other: Kernel) -> Optional[bool]:
    """True: `one` is the source of the resync, False: the other, None: no resync. Raises on unrelated data."""
    if (one.disk is Disk.INCONSISTENT) != (other.disk is Disk.INCONSISTENT):
        return other.disk is Disk.INCONSISTENT
    if one.generation == other.generation:
        return None
    if one.generation[: len(other.generation)] == other.generation:
        return True
    if other.generation[: len(one.generation)] == one.generation:
        return False
    raise SplitBrain("both copies have a data generation that the other lacks")


class SplitBrain(Exception):
    """DRBD's own word for it: unrelated generations meet."""


def connect(one: Kernel, other: Kernel, ident: int) -> Optional[Tuple[Kernel, Kernel]]:
    """The handshake; None where DRBD stays unconnected (a Primary would become the target of a resync)."""
    if Disk.INCONSISTENT is one.disk is other.disk or (one.role is Role.PRIMARY and other.role is Role.PRIMARY):
        return None
    newer = _newer(one, other)
    if newer is not None and (other if newer else one).role is Role.PRIMARY:
        return None
    both = [k._replace(conn=ident, last_conn=ident, frozen=False, peer_outdated=False, promoting=False) for k in (one, other)]
    if newer is None:
        both = [k._replace(disk=Disk.UPTODATE) for k in both]
    else:
        source, target = (0, 1) if newer else (1, 0)
        both[source] = both[source]._replace(disk=Disk.UPTODATE)
        both[target] = both[target]._replace(disk=Disk.INCONSISTENT)
    return both[0], both[1]


def resync(source: Kernel, target: Kernel) -> Kernel:
    return target._replace(disk=Disk.UPTODATE, generation=source.generation, missing=source.missing)


def block(kernel: Kernel) -> Tuple[Kernel, bool]:
    """The driver's `block`, and whether it holds: certain for a Secondary and for a frozen Primary, not for a Primary that has
    been connected anew in the meantime."""
    if kernel.role is Role.PRIMARY:
        return kernel, kernel.frozen
    if not kernel.conn and kernel.disk in (Disk.UPTODATE, Disk.CONSISTENT):
        return kernel._replace(disk=Disk.OUTDATED), True
    return kernel, True


def release(kernel: Kernel) -> Kernel:
    """Users killed, detached, resumed, demoted, attached again, outdated: the end of the driver's sequence."""
    if kernel.role is not Role.PRIMARY or not kernel.frozen:
        return kernel
    disk = kernel.disk if kernel.disk is Disk.INCONSISTENT else Disk.OUTDATED
    return kernel._replace(role=Role.SECONDARY, frozen=False, call=0, disk=disk)


# --- the daemon -------------------------------------------------------------------------------------------------------------


class Stepped(NamedTuple):
    """A node after its daemon has handled an event. sent: its newest message, if it sent one."""

    node: Node
    sent: Optional[Message]


def run_actions(
    node: Node, state: State, actions: Tuple[object, ...], me: int, flaws: Flaws, upto: Optional[int] = None
) -> Stepped:
    """Carry out the actions in order; upto: the daemon dies after that many of them."""
    sent: Optional[Message] = None
    for action in actions if upto is None else actions[:upto]:
        if isinstance(action, Persist):
            node = node._replace(record=action.record)
        elif isinstance(action, Send):
            sent = action.message
        elif isinstance(action, AnswerHandler):
            kernel = answer(node.kernel, int(action.handler), action.code, me, flaws)
            node = node._replace(kernel=kernel)
        elif isinstance(action, Rehandle):
            kernel = node.kernel
            if kernel.frozen and not kernel.call:
                node = node._replace(kernel=kernel._replace(call=kernel.calls + 1, calls=kernel.calls + 1))
        else:
            op = _operation(action)
            if op is not None and op not in node.ops:
                node = node._replace(ops=(*node.ops, op))
    if upto is None:
        return Stepped(node._replace(state=state), sent)
    return Stepped(kill_daemon(node), sent)


def _operation(action: object) -> Optional[Tuple[str, int]]:
    if isinstance(action, Block):
        return ("block", action.token)
    if isinstance(action, AskFence):
        return ("fence", action.epoch)
    if isinstance(action, SetDeadline):
        return ("deadline", action.request)
    if isinstance(action, Release):
        return ("release", 0)
    if isinstance(action, Unblock):
        return ("unblock", 0)
    if isinstance(action, Drop):
        return ("drop", action.incarnation)
    return None


def kill_daemon(node: Node) -> Node:
    """Whatever it had ordered and not got back is forgotten; the kernel and the handler processes go on waiting."""
    return node._replace(state=None, ops=(), slow=False)


def start_daemon(config: Config, node: Node, me: int, flaws: Flaws) -> Stepped:
    boot_id, run = f"{NAMES[me]}{node.boots}", f"{NAMES[me]}{node.runs + 1}"
    state, actions = policy.initial(config, node.record, boot_id, run)
    node = node._replace(runs=node.runs + 1, told_membership=(False, False))
    return run_actions(node, state, actions, me, flaws)


def pending_event(node: Node, peer: Node, reachable: bool, online: bool, me: int) -> Optional[Event]:
    """Something that the daemon does not know yet: facts, membership, a waiting handler (in this order)."""
    state = node.state
    if state is None:
        return None
    seen = facts(node.kernel, peer.kernel, NAMES[1 - me])
    if seen != state.replica:
        return ReplicaChanged(seen)
    if (reachable, online) != node.told_membership:
        here, there = NAMES[me], NAMES[1 - me]
        return Membership((here, there) if reachable else (here,), (here, there) if online else (here,))
    return None


def pending_handler(node: Node, me: int) -> Optional[Event]:
    state, kernel = node.state, node.kernel
    if state is None or not kernel.call or any(h.handler == str(kernel.call) for h in state.handlers):
        return None
    return HandlerCalled(str(kernel.call), NAMES[1 - me])
