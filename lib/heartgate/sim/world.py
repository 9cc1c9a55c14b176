"""A world of two nodes around the real policy core: kernel replication, power, Pacemaker, wires.

The kernel part behaves as DRBD 8.4 with `fencing resource-and-stonith` was seen to behave: a loss freezes a Primary in
the same state change and calls the handler; 4 and 7 thaw under a new data generation; reconnecting thaws; a Secondary
can be promoted while unconnected only through the handler; the older generation becomes the target of a resync.

`missing` marks a copy that lacks an acknowledged write. Writers are adversarial: whoever could complete a write has
done so.
"""

from __future__ import annotations

from functools import lru_cache
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
    Standing,
    State,
    Unblock,
)

FIRST_FRESH_GENERATION = 100  # those below are names that sim.canonical has given
NAMES = ("a", "b")


class Kernel(NamedTuple):
    """Replication as the kernel of one node has it. conn: sees itself connected (the other end may have lost it: a new
    connection needs both to have noticed); call: number of the fence-peer call that waits, 0 for none; promoting: that
    call decides about a promotion. generation: every generation of the data, the newest last. missing: this copy lacks
    an acknowledged write."""

    role: Role = Role.SECONDARY
    disk: Disk = Disk.UPTODATE
    conn: bool = False
    frozen: bool = False
    call: int = 0
    calls: int = 0
    promoting: bool = False
    peer_outdated: bool = False
    generation: Tuple[int, ...] = (0,)
    made: int = FIRST_FRESH_GENERATION  # names the generations begun here
    missing: bool = False
    deaf: bool = False  # a fault: does not notice by itself that this connection is lost


class Node(NamedTuple):
    """One machine. state None: the daemon is dead. ops: what the daemon has ordered and has not got back. met:
    replication connections that its daemons have seen; runs: of the daemon."""

    powered: bool
    kernel: Kernel
    record: Optional[Record]
    state: Optional[State]
    runs: int = 1
    met: int = 0
    ops: Tuple[Tuple[str, int], ...] = ()
    slow: bool = False  # a fault: the daemon learns late of what its kernel and its cluster see
    told_membership: Tuple[bool, bool] = (True, True)  # as last told: (peer's daemon reachable, peer online)
    quorate: bool = True  # has met the peer since its boot (wait_for_all): may have it fenced
    peer_clean: bool = False  # the lost peer has been fenced: Pacemaker does it once for a loss
    stuck: bool = False  # a fault: until the next power cut the driver cannot block this replica


class World(NamedTuple):
    nodes: Tuple[Node, Node]
    cable: bool
    heartbeat: bool
    late: Tuple[Optional[Message], Optional[Message]]  # [0]: a copy of an older message, from node 0 to 1
    faults: int  # still to be had
    accepted: bool = False  # a person has given up what one copy lacks: data that went apart are then discarded by a person


def reachable(world: World) -> bool:
    """Can the daemons hear each other?"""
    one, other = world.nodes
    return world.heartbeat and one.powered and other.powered and one.state is not None and other.state is not None


def online(world: World) -> bool:
    return world.heartbeat and world.nodes[0].powered and world.nodes[1].powered


def meet(world: World) -> World:
    """Nodes that are online see each other: they are quorate, and a fencing of the other is history."""
    one, other = world.nodes
    if not online(world) or (one.quorate and other.quorate and not one.peer_clean and not other.peer_clean):
        return world
    one, other = (n._replace(quorate=True, peer_clean=False) for n in world.nodes)
    return world._replace(nodes=(one, other))


class Broken(Exception):
    """An invariant does not hold."""


class Flaws(NamedTuple):
    """Deliberate faults of the world's side, to show that each of them is seen."""

    thaw_without_generation: bool = False
    release_without_kill: bool = False
    block_too_late: bool = False  # carried out though the node has been readmitted meanwhile
    blind_person: bool = False  # marks a copy without having looked whether the other node serves


def facts(node: Node, peer_node: Node, peer_name: str) -> Replica:
    """What the driver would report."""
    return _facts(node.kernel, node.met, peer_node.kernel.conn, peer_node.kernel.disk, peer_name)


@lru_cache(maxsize=4096)  # asked for several times in each move, and there are a few hundred of them
def _facts(kernel: Kernel, met: int, peer_connected: bool, peer_disk: Disk, peer_name: str) -> Replica:
    connected = kernel.conn and peer_connected
    their_disk = peer_disk if connected else (Disk.OUTDATED if kernel.peer_outdated else Disk.UNKNOWN)
    if kernel.conn and not connected:
        their_disk = Disk.UPTODATE  # the loss has not been noticed
    link = PeerLink(Link.UP if kernel.conn else Link.DOWN, met, their_disk)
    generation = str(kernel.generation[-1])
    ancestors = tuple(str(g) for g in kernel.generation[:-1])
    return Replica(kernel.disk, kernel.role, kernel.frozen, ((peer_name, link),), generation, ancestors)


# --- the kernel -------------------------------------------------------------------------------------------------------


def lose(kernel: Kernel) -> Kernel:
    """The connection is gone: a Primary freezes in the same change and calls the handler."""
    if not kernel.conn:
        return kernel
    kernel = kernel._replace(conn=False, deaf=False)
    if kernel.role is Role.PRIMARY:
        return kernel._replace(frozen=True, call=kernel.calls + 1, calls=kernel.calls + 1, promoting=False)
    return kernel


def new_generation(kernel: Kernel, me: int) -> Kernel:
    """Writes from here on belong to a generation of their own."""
    ident = 2 * kernel.made + me
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


def promote(kernel: Kernel, peer: Kernel, me: int, dual: bool = False) -> Optional[Kernel]:
    """Pacemaker promotes; None where DRBD refuses. Unconnected, it either asks the handler or knows the peer
    outdated."""
    if kernel.role is Role.PRIMARY or kernel.promoting:
        return None
    if kernel.conn:
        allowed = kernel.disk is Disk.UPTODATE and peer.conn and (dual or peer.role is Role.SECONDARY)
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
        calls=kernel.calls,
        peer_outdated=kernel.peer_outdated,
        generation=kernel.generation,
        made=kernel.made,
        missing=kernel.missing,
    )


def _newer(one: Kernel, other: Kernel) -> Optional[bool]:
    """True: `one` is the source of the resync, False: the other, None: no resync. Unrelated data: split-brain."""
    if (one.disk is Disk.INCONSISTENT) != (other.disk is Disk.INCONSISTENT):
        return other.disk is Disk.INCONSISTENT
    if one.generation == other.generation:
        return None
    if one.generation[: len(other.generation)] == other.generation:
        return True
    if other.generation[: len(one.generation)] == one.generation:
        return False
    raise Broken("I2 both copies have a data generation that the other lacks")


def refuse(kernel: Kernel) -> Kernel:
    """A handshake that ends in StandAlone since the target of the resync is a Primary: every Primary freezes and asks
    again."""
    if kernel.role is not Role.PRIMARY:
        return kernel
    return kernel._replace(frozen=True, call=kernel.calls + 1, calls=kernel.calls + 1)


def discarded(one: Kernel, other: Kernel) -> bool:
    """Both copies have a generation that the other lacks: only a person can say which one is to be thrown away."""
    shorter = min(len(one.generation), len(other.generation))
    return one.generation[:shorter] != other.generation[:shorter]


def connect(one: Kernel, other: Kernel, dual: bool = False, discard: Optional[int] = None) -> Optional[Tuple[Kernel, Kernel]]:
    """The handshake; None where nothing comes of it. discard: whose data (0 or 1) a person throws away if they went apart."""
    if discard is not None and discarded(one, other):
        thrown = (other if discard else one)._replace(generation=(one if discard else other).generation[:1])
        one, other = (one, thrown) if discard else (thrown, other)
    if Disk.INCONSISTENT is one.disk is other.disk or (not dual and one.role is other.role is Role.PRIMARY):
        return None
    newer = _newer(one, other)
    if newer is not None and (other if newer else one).role is Role.PRIMARY:
        return refuse(one), refuse(other)
    both = [k._replace(conn=True, frozen=False, peer_outdated=False, promoting=False) for k in (one, other)]
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
    """The driver's `block`, and whether it holds: certain for a Secondary and for a frozen Primary, not for a Primary
    that has been connected anew in the meantime."""
    if kernel.role is Role.PRIMARY:
        return kernel, kernel.frozen
    if not kernel.conn and kernel.disk in (Disk.UPTODATE, Disk.CONSISTENT):
        return kernel._replace(disk=Disk.OUTDATED), True
    return kernel, True


def lose_record(node: Node) -> Node:
    """The daemon dies, and the next one finds no record that it can read."""
    return kill_daemon(node)._replace(record=None)


def release(kernel: Kernel) -> Kernel:
    """Users killed, detached, resumed, demoted, attached again, outdated: the end of the driver's sequence."""
    if kernel.role is not Role.PRIMARY or not kernel.frozen:
        return kernel
    disk = kernel.disk if kernel.disk is Disk.INCONSISTENT else Disk.OUTDATED
    return kernel._replace(role=Role.SECONDARY, frozen=False, call=0, disk=disk)


# --- the daemon -------------------------------------------------------------------------------------------------------


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
                node = node._replace(kernel=refuse(kernel))
        else:
            op = _operation(action)
            if op is not None and op not in node.ops:
                node = node._replace(ops=(*node.ops, op))
    if upto is None:
        return Stepped(node._replace(state=state, ops=_live(node.ops, state)), sent)
    return Stepped(kill_daemon(node), sent)


def _live(ops: Tuple[Tuple[str, int], ...], state: State) -> Tuple[Tuple[str, int], ...]:
    """Without what would change nothing: deadlines of questions that are no longer open, reports about epochs long
    gone."""
    current = state.round.ask.request if state.round else 0
    return tuple(sorted(op for op in ops if op[0] != "deadline" or op[1] == current))


def _operation(action: object) -> Optional[Tuple[str, int]]:
    if isinstance(action, Block):
        return ("block", action.token)
    if isinstance(action, AskFence):
        return ("fence", 0)
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
    """Whatever it had ordered and not got back is forgotten; the kernel and the handler processes go on waiting. A fencing
    stays in Pacemaker's history, and what had been there before is kept on the disk, so the next daemon finds it."""
    return node._replace(state=None, ops=tuple(op for op in node.ops if op[0] == "fenced"), slow=False)


def role_of(primary: bool) -> Role:
    return Role.PRIMARY if primary else Role.SECONDARY


def initial_record(me: int) -> Record:
    return Record(Standing.SYNCED, 1, NAMES, this_boot(me))


def this_boot(me: int) -> str:
    return f"{NAMES[me]}1"


def power_on(node: Node, me: int) -> Node:
    record = node.record and node.record._replace(boot=f"{NAMES[me]}0")
    return node._replace(powered=True, kernel=boot(node.kernel), record=record, quorate=False, told_membership=(False, False))


def start_daemon(config: Config, node: Node, me: int, flaws: Flaws) -> Stepped:
    run = f"{NAMES[me]}{node.runs + 1}"
    state, actions = policy.initial(config, node.record, this_boot(me), run)
    met = int(node.kernel.conn)
    node = node._replace(runs=node.runs + 1, met=met, told_membership=(False, False))
    return run_actions(node, state, actions, me, flaws)


def pending_event(node: Node, peer: Node, heard: bool, online: bool, me: int) -> Optional[Event]:
    """Something that the daemon does not know yet: facts, membership, a waiting handler (in this order)."""
    state = node.state
    if state is None:
        return None
    seen = facts(node, peer, NAMES[1 - me])
    if seen != state.replica:
        return ReplicaChanged(seen)
    if (heard, online) != node.told_membership:
        here, there = NAMES[me], NAMES[1 - me]
        return Membership((here, there) if heard else (here,), (here, there) if online else (here,))
    return None


def pending_handler(node: Node, me: int) -> Optional[Event]:
    state, kernel = node.state, node.kernel
    if state is None or not kernel.call or any(h.handler == str(kernel.call) for h in state.handlers):
        return None
    return HandlerCalled(str(kernel.call), NAMES[1 - me])
