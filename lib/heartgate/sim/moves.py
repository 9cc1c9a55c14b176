"""What can happen next in a world: by itself, through Pacemaker, by repair, and as a fault.

A move is a label and the world after it. What the daemons see at once of a move (their kernel's facts, the membership,
a waiting handler) belongs to the move, unless a daemon is slow: a fault. A fault uses up one of `World.faults`; its
label is in capitals.
"""

from __future__ import annotations

from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

from heartgate.core import policy, verdict, waiting
from heartgate.core.invariants import check_local
from heartgate.core.model import (
    Action,
    AnswerHandler,
    AskFence,
    Block,
    BlockDone,
    Config,
    Deadline,
    Disk,
    Event,
    FenceDone,
    Heard,
    MarkSynchronized,
    Membership,
    Message,
    OnIsolation,
    Persist,
    Rank,
    Release,
    ReplicaChanged,
    Role,
    Send,
    Standing,
    State,
    make_config,
)
from heartgate.core.verdict import CURRENT
from heartgate.sim import world as w
from heartgate.sim.world import NAMES, Broken, Flaws, Node, World

Move = Tuple[str, World]
Decision = Tuple[State, Tuple[Action, ...]]
OUTWARD = (Persist, Send, AnswerHandler, Block, Release, AskFence)


# Kinds of faults: a cut link; power gone; a daemon that dies; one that hangs; a message that comes again late, or a deadline
# that passes before its time.
KINDS = ("link", "power", "death", "pause", "timing")
# Only where a setting names them. Rarer ones: a driver that cannot block any more; an end that does not notice a loss by
# itself; a record that cannot be read when the daemon starts again; a block or a fencing that is said to have failed,
# whether it has or not; a person who declares one copy the good one while the other node does not serve. And parts
# of the ones above, for small settings.
RARE_KINDS = ("stuck", "deaf", "record", "fails", "sync", "heartbeat", "copy", "operator")


# Moves that may wait for ever: repairs, and what Pacemaker may or may not do.
AT_REST = frozenset({"mend", "promote", "demote", "pacemaker-fences", "boot"})


class Setting(NamedTuple):
    """What is explored."""

    rank: Rank = Rank.PRIORITY
    omitted: Tuple[str, ...] = ()
    flaws: Flaws = Flaws()
    primaries: Tuple[int, ...] = (0,)
    faults: int = 3
    kinds: Tuple[str, ...] = KINDS
    hit: Tuple[int, ...] = (0, 1)  # whom faults can hit (a cut link hits both)
    bereaved: bool = False  # judge the survivor of a machine that never comes back, too
    fencing: bool = True  # False: what Pacemaker is asked to fence, it never does
    isolated: bool = False  # judge two that can reach each other over nothing, too
    on_isolation: OnIsolation = OnIsolation.FENCE
    bias: str = ""
    lagging: Tuple[int, ...] = ()  # messages to these may take any time; to others they come at once, but for a fault

    @property
    def dual(self) -> bool:
        return len(self.primaries) == 2


def make_configs(setting: Setting) -> Tuple[Config, Config]:
    def one(me: str) -> Config:
        return make_config(
            "r0", me, {"a": 1, "b": 2}, setting.rank, setting.on_isolation, omitted_rules=setting.omitted, bias=setting.bias
        )

    return one("a"), one("b")


class Moves:
    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.configs = make_configs(setting)
        self._steps: Dict[object, Tuple[w.Stepped, Tuple[int, ...]]] = {}
        self._decisions: Tuple[Dict[object, Decision], Dict[object, Decision]] = ({}, {})

    def of(self, world: World) -> Iterator[Move]:
        """All moves."""
        resting = True
        for label, after in self._bare(world):
            resting = resting and not goes_on(world, label, after)
            yield from self._learn(label, after)
        if resting:
            for label, after in self._time_passes(world):
                yield from self._learn(label, after)

    # --- one daemon, one event ----------------------------------------------------------------------------------------

    def _step(self, node: Node, me: int, event: Event, upto: Optional[int] = None) -> Tuple[w.Stepped, Tuple[int, ...]]:
        """The node after the event, and where a death between two actions matters. Remembered: many worlds share a
        step."""
        key = (me, node, event, upto)
        known = self._steps.get(key)
        if known is None:
            known = self._steps[key] = self._step_anew(node, me, event, upto)
        return known

    def _step_anew(self, node: Node, me: int, event: Event, upto: Optional[int]) -> Tuple[w.Stepped, Tuple[int, ...]]:
        after, actions = self._decide(node, me, event)
        cuts = tuple(i + 1 for i, action in enumerate(actions[:-1]) if isinstance(action, OUTWARD))
        return w.run_actions(node, after, actions, me, self.setting.flaws, upto), cuts

    def _decide(self, node: Node, me: int, event: Event) -> Decision:
        """What the policy makes of it. It knows nothing of the node but its daemon's state."""
        before, config = node.state, self.configs[me]
        if before is None:
            raise AssertionError("a dead daemon cannot take an event")
        key = (before, event)
        known = self._decisions[me].get(key)
        if known is not None:
            return known
        try:
            after, actions = policy.step(config, before, event)
        except policy.PolicyError:
            raise Broken(f"liveness: the rules of {NAMES[me]} do not come to rest") from None
        if not config.omitted_rules:
            broken = check_local(config, before, after, actions)
            if broken:
                raise Broken(f"{NAMES[me]}: {'; '.join(broken)}")
        self._decisions[me][key] = (after, actions)
        return after, actions

    def _daemon(self, world: World, me: int, label: str, event: Event, node: Optional[Node] = None) -> Iterator[Move]:
        """The event is handled; or, as a fault, the daemon dies between two of the actions."""
        node = world.nodes[me] if node is None else node
        stepped, cuts = self._step(node, me, event)
        yield label, put(world, me, stepped.node)
        if not world.faults or "death" not in self.setting.kinds or me not in self.setting.hit:
            return
        for upto in cuts:
            partly, _ = self._step(node, me, event, upto)
            died = put(world, me, partly.node)._replace(faults=world.faults - 1)
            yield f"{label}, DAEMON {NAMES[me]} DIES after action {upto}", died
            peer = died.nodes[1 - me]
            if partly.sent is not None and w.online(world) and peer.state is not None:
                # Its last word arrives before the news of its death.
                heard, _ = self._step(peer, 1 - me, Heard(partly.sent))
                told = f"{label}, DAEMON {NAMES[me]} DIES after action {upto} and is heard"
                yield told, put(died, 1 - me, heard.node)

    # --- moves --------------------------------------------------------------------------------------------------------

    def _learn(self, label: str, world: World) -> Iterator[Move]:
        """What Pacemaker and the daemons see at once."""
        waiting = [(label, world)]
        while waiting:
            label, world = waiting.pop()
            world = w.meet(world)
            news = self._news_at_once(world, 0) or self._news_at_once(world, 1)
            if not news:
                yield label, world
            for step_label, after in reversed(news):
                waiting.append((f"{label}; {step_label}", after))

    def _news_at_once(self, world: World, me: int) -> List[Move]:
        if world.nodes[me].slow:
            return []
        news = list(self.news(world, me))
        if not news and me not in self.setting.lagging:
            news = list(self.delivery(world, me))
        return news

    def _bare(self, world: World) -> Iterator[Move]:
        for me in (0, 1):
            yield from self._node(world, me)
            yield from self._pacemaker(world, me)
        yield from self._repairs(world)
        if world.faults:
            yield from self._faults(world)

    def _node(self, world: World, me: int) -> Iterator[Move]:
        """What happens by itself without any help from outside."""
        node, peer = world.nodes[me], world.nodes[1 - me]
        if not node.powered:
            return
        yield from self._kernel(world, me, node, peer)
        if node.state is None:
            started = w.start_daemon(self.configs[me], node, me, self.setting.flaws)
            yield from self._started(world, me, f"start-daemon {NAMES[me]}", started.node)
            return
        if node.slow:
            yield from self._wakes(world, me)
            return
        if me in self.setting.lagging:
            yield from self.delivery(world, me)
        yield from self._operations(world, me, node)
        copy = world.late[1 - me]
        if copy is not None and w.reachable(world):
            yield from self._daemon(put_late(world, 1 - me, None), me, f"late-copy {NAMES[me]}", Heard(copy))

    def _kernel(self, world: World, me: int, node: Node, peer: Node) -> Iterator[Move]:
        mine, theirs = node.kernel, peer.kernel
        noticed = not (mine.deaf and peer.powered)
        if mine.conn and noticed and not (world.cable and peer.powered and theirs.conn):
            yield f"notice-loss {NAMES[me]}", put(world, me, node._replace(kernel=w.lose(mine)))
        if me == 0 and world.cable and peer.powered and not mine.conn and not theirs.conn:
            discard = next((i for i in (0, 1) if not _claims(world.nodes[i])), None) if world.accepted else None
            both = w.connect(mine, theirs, self.setting.dual, discard)
            if both is not None:
                nodes = [n._replace(kernel=k, met=n.met + k.conn) for n, k in zip(world.nodes, both)]
                label = "connect" if both[0].conn else "handshake-refused"
                if (both[0].conn or both != (mine, theirs)) and not _asking(mine, theirs, both):
                    yield label, world._replace(nodes=(nodes[0], nodes[1]))
        if mine.conn and theirs.conn and mine.disk is Disk.INCONSISTENT and theirs.disk is Disk.UPTODATE:
            yield f"resync-done {NAMES[me]}", put(world, me, node._replace(kernel=w.resync(theirs, mine)))

    def news(self, world: World, me: int) -> Iterator[Move]:
        """The first thing that this daemon does not know yet."""
        node, peer = world.nodes[me], world.nodes[1 - me]
        if not node.powered or node.state is None:
            return
        online = w.online(world)
        heard = online and peer.state is not None
        event = w.pending_event(node, peer, heard, online, me) or w.pending_handler(node, me)
        if isinstance(event, Membership):
            told = node._replace(told_membership=(heard, online))
            yield from self._daemon(world, me, f"members {NAMES[me]}", event, told)
        elif event is not None:
            name = "observe" if isinstance(event, ReplicaChanged) else "handler"
            yield from self._daemon(world, me, f"{name} {NAMES[me]}", event)

    def _started(self, world: World, me: int, label: str, node: Node) -> Iterator[Move]:
        """A daemon starts; or, as a fault, hangs before it has learnt anything."""
        yield label, put(world, me, node)
        if world.faults and "pause" in self.setting.kinds and me in self.setting.hit:
            yield f"{label}, PAUSE {NAMES[me]}", put(world, me, node._replace(slow=True))._replace(faults=world.faults - 1)

    def _wakes(self, world: World, me: int) -> Iterator[Move]:
        """A paused daemon goes on: it learns the facts first, or hears the newest message first."""
        woken = put(world, me, world.nodes[me]._replace(slow=False))
        yield f"wakes {NAMES[me]}", woken
        if me not in self.setting.lagging:
            for label, after in self.delivery(woken, me):
                yield f"wakes {NAMES[me]} and {label}", after

    def delivery(self, world: World, me: int) -> Iterator[Move]:
        """me hears the other's newest message, if it has not. Older ones that it has not heard are overtaken."""
        mine, theirs = world.nodes[me].state, world.nodes[1 - me].state
        if mine is None or theirs is None or theirs.told is None or not w.reachable(world):
            return
        if mine.message_of(NAMES[1 - me]) != theirs.told:
            yield from self._daemon(world, me, f"deliver {NAMES[me]}", Heard(theirs.told))

    def _operations(self, world: World, me: int, node: Node) -> Iterator[Move]:
        """Something that the daemon has ordered is done."""
        for op in node.ops:
            kind, value = op
            left = node._replace(ops=tuple(o for o in node.ops if o != op))
            kernel, name = left.kernel, f"{kind} {NAMES[me]}"
            if kind == "block":
                blocked, holds = _blocked(left, self.setting.flaws)
                done = left._replace(kernel=blocked)
                yield from self._daemon(world, me, name, BlockDone(value, holds), done)
            elif kind == "fenced":
                yield from self._daemon(world, me, name, FenceDone(NAMES[1 - me], value, True), left)
            elif kind == "deadline":
                yield from self._deadline(world, me, Deadline(value), left)
            elif kind == "release":
                yield name, self._released(world, me, left)
            elif kind == "drop":
                lost = w.lose(kernel) if left.met == value else kernel
                yield name, put(world, me, left._replace(kernel=lost))
            elif kind == "unblock":
                disk = Disk.CONSISTENT if kernel.disk is Disk.OUTDATED else kernel.disk
                yield name, put(world, me, left._replace(kernel=kernel._replace(disk=disk)))
            if kind in ("block", "fence") and world.faults and "fails" in self.setting.kinds:
                yield from self._said_to_fail(world, me, op, left)
            if kind == "fence" and self.setting.fencing:
                yield f"fence {NAMES[1 - me]}", fenced(put(world, me, left), me)

    def _deadline(self, world: World, me: int, event: Deadline, left: Node) -> Iterator[Move]:
        """Time is only up where the other one hangs or is dead; earlier than that, it is a fault. While it is not even
        a member of the cluster nothing follows from it: the deadline is set anew when it comes back."""
        peer = world.nodes[1 - me]
        if not w.online(world):
            return
        if peer.slow or peer.state is None or peer.stuck:
            yield from self._daemon(world, me, f"deadline {NAMES[me]}", event, left)
        elif world.faults and "timing" in self.setting.kinds and me in self.setting.hit:
            world = world._replace(faults=world.faults - 1)
            yield from self._daemon(world, me, f"EARLY-DEADLINE {NAMES[me]}", event, left)

    def _said_to_fail(self, world: World, me: int, op: Tuple[str, int], left: Node) -> Iterator[Move]:
        """No success is reported, whatever was done."""
        less, there, kernel = world._replace(faults=world.faults - 1), NAMES[1 - me], left.kernel
        if op[0] == "block":
            for done in dict.fromkeys((kernel, _blocked(left, self.setting.flaws)[0])):
                what = "AFTER ALL" if done != kernel else "UNDONE"
                label, tried = f"BLOCK FAILS {NAMES[me]}, {what}", left._replace(kernel=done)
                yield from self._daemon(less, me, label, BlockDone(op[1], False), tried)
            return
        failed = FenceDone(there, left.record.epoch if left.record else 0, False)
        for label, after in self._daemon(less, me, f"FENCING FAILS {there}", failed, left):
            yield label, after
            yield f"{label}, BUT IT IS OFF", power_off(after, 1 - me)

    def _time_passes(self, world: World) -> Iterator[Move]:
        """Nothing moves by itself any more: then a deadline passes that was waited for."""
        for me in (0, 1):
            node = world.nodes[me]
            for op in node.ops:
                if op[0] == "deadline" and w.online(world):
                    left = node._replace(ops=tuple(o for o in node.ops if o != op))
                    yield from self._daemon(world, me, f"deadline {NAMES[me]}", Deadline(op[1]), left)

    def _released(self, world: World, me: int, left: Node) -> World:
        before = left.kernel
        if left.record is not None and left.record.standing is not Standing.BLOCKED:
            return put(world, me, left)  # the order is void
        if left.stuck:
            return power_off(world, me) if before.frozen else put(world, me, left)  # the last resort: it resets itself
        world = put(world, me, left._replace(kernel=w.release(before)))
        if self.setting.flaws.release_without_kill and before.frozen and before.role is Role.PRIMARY:
            # The write in flight is acknowledged from the local disk alone.
            peer = world.nodes[1 - me]
            world = put(world, 1 - me, peer._replace(kernel=peer.kernel._replace(missing=True)))
        return world

    def _pacemaker(self, world: World, me: int) -> Iterator[Move]:
        """Pacemaker promotes where the attribute lets it, demotes where it must, fences whom it has lost."""
        node, peer = world.nodes[me], world.nodes[1 - me]
        if not node.powered:
            return
        if self.setting.fencing and node.quorate and not w.online(world) and not node.peer_clean:
            yield f"pacemaker-fences {NAMES[1 - me]}", fenced(world, me)
        if node.record is None or node.record.boot != w.this_boot(me):
            return  # the node attribute is gone after a boot until the daemon has set it again
        kernel = node.kernel
        if node.record.standing in (Standing.BLOCKED, Standing.UNPROVEN):
            if kernel.role is Role.PRIMARY and not kernel.frozen:
                yield f"demote {NAMES[me]}", put(world, me, node._replace(kernel=kernel._replace(role=Role.SECONDARY)))
        elif self.setting.dual or not (peer.powered and peer.kernel.role is Role.PRIMARY):
            promoted = w.promote(kernel, peer.kernel, me, self.setting.dual)
            if promoted is not None:
                yield f"promote {NAMES[me]}", put(world, me, node._replace(kernel=promoted))

    def _repairs(self, world: World) -> Iterator[Move]:
        if not world.cable:
            yield "mend sync", world._replace(cable=True)
        if not world.heartbeat:
            yield "mend heartbeat", world._replace(heartbeat=True)
        for me in (0, 1):
            if not world.nodes[me].powered and not world.nodes[1 - me].kernel.conn:
                node = w.power_on(world.nodes[me], me)
                started = w.start_daemon(self.configs[me], node, me, self.setting.flaws)
                yield from self._started(world, me, f"boot {NAMES[me]}", started.node)

    def _faults(self, world: World) -> Iterator[Move]:
        less, kinds = world._replace(faults=world.faults - 1), self.setting.kinds
        if world.cable and ("link" in kinds or "sync" in kinds):
            yield "CUT sync", less._replace(cable=False)
        if "deaf" in kinds:
            yield from self._deaf(world, less)
        if world.heartbeat and ("link" in kinds or "heartbeat" in kinds):
            yield "CUT heartbeat", less._replace(heartbeat=False)
        for me in self.setting.hit:
            yield from self._node_faults(world, less, me)

    def _node_faults(self, world: World, less: World, me: int) -> Iterator[Move]:
        node, peer, kinds = world.nodes[me], world.nodes[1 - me], self.setting.kinds
        copies = "timing" in kinds or "copy" in kinds
        if copies and peer.state is not None and w.reachable(world) and world.late[1 - me] is None:
            yield f"LATE-COPY from {NAMES[1 - me]}", put_late(less, 1 - me, peer.state.told)
        if node.powered and "power" in kinds:
            yield f"POWER-CUT {NAMES[me]}", power_off(less, me)
        if node.state is None:
            return
        if "operator" in kinds:
            yield from self._operator(world, less, me)
        if "stuck" in kinds and not node.stuck:
            yield f"STUCK {NAMES[me]}", put(less, me, node._replace(stuck=True))
        if "record" in kinds:
            yield f"LOSE-RECORD {NAMES[me]}", put(less, me, w.lose_record(node))
        if "death" in kinds:
            yield f"KILL-DAEMON {NAMES[me]}", put(less, me, w.kill_daemon(node))
        if "pause" in kinds and not node.slow:
            yield f"PAUSE {NAMES[me]}", put(less, me, node._replace(slow=True))

    def _operator(self, world: World, less: World, me: int) -> Iterator[Move]:
        """A person has looked: the other machine is off, or does not serve, and it cannot be heard. Whatever this copy
        lacks is given up."""
        node, peer, config = world.nodes[me], world.nodes[1 - me], self.configs[me]
        if node.state is None or node.slow or w.reachable(world) or waiting.refusal(config, node.state):
            return
        looks = not self.setting.flaws.blind_person
        if looks and _claims(peer) and (peer.powered or peer.record is None or peer.record.in_sync == (NAMES[1 - me],)):
            return  # it serves, or will as soon as it boots: no person may vouch for it
        given_up = node._replace(kernel=node.kernel._replace(missing=False))
        accepted = less._replace(accepted=True)
        yield from self._daemon(accepted, me, f"OPERATOR marks {NAMES[me]}", MarkSynchronized("a person"), given_up)

    def _deaf(self, world: World, less: World) -> Iterator[Move]:
        """The sync link is cut, and one end alone will notice. Both have told each other of this connection: who has
        not cannot say of it that it is lost."""
        said = [node.state.told if node.state else None for node in world.nodes]
        if not world.cable or said[0] is None or said[1] is None or not verdict.contact(said[0], said[1]):
            return
        for me in self.setting.hit:
            node = world.nodes[me]
            cut = put(less, me, node._replace(kernel=node.kernel._replace(deaf=True)))
            yield f"CUT sync, unnoticed by {NAMES[me]}", cut._replace(cable=False)


def _claims(node: Node) -> bool:
    return node.record is not None and node.record.standing in CURRENT


def _blocked(node: Node, flaws: Flaws) -> Tuple[w.Kernel, bool]:
    """An order to block is void for a node that has been readmitted meanwhile: it would outdate one that serves."""
    wanted = flaws.block_too_late or (node.record is not None and node.record.standing is Standing.BLOCKED)
    return w.block(node.kernel) if wanted and not node.stuck else (node.kernel, False)


def goes_on(world: World, label: str, after: World) -> bool:
    """Does this move happen by itself, sooner or later?"""
    return after.faults == world.faults and label.split(" ")[0] not in AT_REST


def _asking(mine: w.Kernel, theirs: w.Kernel, both: Tuple[w.Kernel, w.Kernel]) -> bool:
    """A refused handshake changes nothing any more: every Primary is frozen and has its question waiting already."""
    return not both[0].conn and all(k.role is not Role.PRIMARY or (k.frozen and k.call) for k in (mine, theirs))


def put(world: World, me: int, node: Node) -> World:
    nodes = (node, world.nodes[1]) if me == 0 else (world.nodes[0], node)
    return World(nodes, *world[1:])


def put_late(world: World, me: int, message: Optional[Message]) -> World:
    late = (message, world.late[1]) if me == 0 else (world.late[0], message)
    return world._replace(late=late)


def power_off(world: World, me: int) -> World:
    node = world.nodes[me]
    kernel = node.kernel._replace(
        role=Role.SECONDARY, conn=False, frozen=False, call=0, promoting=False, deaf=False
    )
    return put(world, me, node._replace(
        powered=False, kernel=kernel, state=None, ops=(), slow=False, quorate=False, peer_clean=False, stuck=False,
        told_membership=(False, False),
    ))  # fmt: skip


def fenced(world: World, me: int) -> World:
    """The peer loses power; the result is reported to this node's daemon, or to the next one of this boot, under the epoch that
    is in force now."""
    world = power_off(world, 1 - me)
    node = world.nodes[me]._replace(peer_clean=True)
    if node.record is None:
        return put(world, me, node)
    report = ("fenced", node.record.epoch)
    return put(world, me, node if report in node.ops else node._replace(ops=(*node.ops, report)))
