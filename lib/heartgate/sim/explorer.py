"""Walks through every interleaving of two nodes with a bounded number of faults, and judges every state.

Free moves: what happens by itself in any order and at any time (a kernel notices a loss, a daemon learns of it, a message arrives,
a repaired link comes back, Pacemaker promotes or demotes, a fenced node boots). Faults are counted: a link is cut, power is cut,
a daemon dies (between two events or between two actions of one), a message is lost, a deadline passes early.
Breadth first, so that the script that leads to a violation is a shortest one.
"""

from __future__ import annotations

from collections import deque
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from heartgate.core import policy
from heartgate.core.invariants import check_local
from heartgate.core.model import (
    SERVING,
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
    Membership,
    Persist,
    Rank,
    Record,
    Release,
    ReplicaChanged,
    Role,
    Send,
    Standing,
    make_config,
)
from heartgate.sim import world as w
from heartgate.sim.world import NAMES, Flaws, Kernel, Node, World

Move = Tuple[str, World]


class Violation(NamedTuple):
    """What was broken, and the shortest script that leads there."""

    what: str
    script: Tuple[str, ...]


class Report(NamedTuple):
    states: int
    moves: int
    violation: Optional[Violation]
    complete: bool  # False: stopped at the limit of states


class Broken(Exception):
    """An invariant does not hold."""


class Setting(NamedTuple):
    """What is explored."""

    rank: Rank = Rank.PRIORITY
    omitted: Tuple[str, ...] = ()
    flaws: Flaws = Flaws()
    primaries: Tuple[int, ...] = (0,)
    faults: int = 3


def start(setting: Setting) -> World:
    """Both nodes up, connected, in sync, everything known to everybody."""
    configs = make_configs(setting)
    kernels = [
        Kernel(role=Role.PRIMARY if i in setting.primaries else Role.SECONDARY, conn=1, last_conn=1) for i in (0, 1)
    ]
    record = [Record(Standing.SYNCED, 1, NAMES, f"{NAMES[i]}1") for i in (0, 1)]
    nodes = [Node(True, kernels[i], record[i], None, runs=0) for i in (0, 1)]
    world = World((nodes[0], nodes[1]), True, True, (None, None), (None, None), 0)
    explorer = Explorer(setting)
    for me in (0, 1):
        world = explorer._emit(world, me, w.start_daemon(configs[me], world.nodes[me], me, setting.flaws))
    for _ in range(100):
        moves = [m for me in (0, 1) for m in explorer._fact_moves(world, me)]
        moves += [m for m in explorer.free_moves(world) if m[0].split(" ")[0] in QUIET]
        if not moves:
            return world._replace(faults=setting.faults)
        world = moves[0][1]
    raise AssertionError("the initial world does not come to rest")


QUIET = frozenset({"observe", "members", "deliver", "beat"})
OUTWARD = (Persist, Send, AnswerHandler, Block, Release, AskFence)


def make_configs(setting: Setting) -> Tuple[Config, Config]:
    def one(me: str) -> Config:
        return make_config("r0", me, {"a": 1, "b": 2}, setting.rank, omitted_rules=setting.omitted)

    return one("a"), one("b")


class Explorer:
    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.configs = make_configs(setting)
        self._steps: Dict[object, Tuple[w.Stepped, Tuple[int, ...]]] = {}

    # --- one daemon, one event -------------------------------------------------------------------------------------------

    def _step(self, node: Node, me: int, event: Event, upto: Optional[int] = None) -> Tuple[w.Stepped, Tuple[int, ...]]:
        """The node after the event, and where a death between two actions matters. Remembered: many worlds share a step."""
        key = (me, node, event, upto)
        known = self._steps.get(key)
        if known is None:
            known = self._steps[key] = self._step_anew(node, me, event, upto)
        return known

    def _step_anew(self, node: Node, me: int, event: Event, upto: Optional[int]) -> Tuple[w.Stepped, Tuple[int, ...]]:
        before, config = node.state, self.configs[me]
        if before is None:
            raise AssertionError("a dead daemon cannot take an event")
        after, actions = policy.step(config, before, event)
        if not config.omitted_rules:
            broken = check_local(config, before, after, actions)
            if broken:
                raise Broken(f"{NAMES[me]}: {'; '.join(broken)}")
        cuts = tuple(i + 1 for i, action in enumerate(actions[:-1]) if isinstance(action, OUTWARD))
        return w.run_actions(node, after, actions, me, self.setting.flaws, upto), cuts

    def _emit(self, world: World, me: int, stepped: w.Stepped) -> World:
        nodes, channels = list(world.nodes), list(world.channels)
        nodes[me] = stepped.node
        if stepped.sent is not None and world.heartbeat:
            channels[me] = stepped.sent
        return world._replace(nodes=(nodes[0], nodes[1]), channels=(channels[0], channels[1]))

    def _daemon_moves(self, world: World, me: int, label: str, event: Event, node: Optional[Node] = None) -> Iterator[Move]:
        """The event is handled; or, as a fault, the daemon dies between two of the actions."""
        node = world.nodes[me] if node is None else node
        stepped, cuts = self._step(node, me, event)
        yield label, self._emit(world, me, stepped)
        if world.faults:
            for upto in cuts:
                partly, _ = self._step(node, me, event, upto)
                died = self._emit(world, me, partly)._replace(faults=world.faults - 1)
                yield f"{label}, DAEMON DIES after its action {upto}", died

    # --- moves -----------------------------------------------------------------------------------------------------------

    def moves(self, world: World) -> Iterator[Move]:
        """All moves, each with what the daemons learn of it at once (unless they are slow)."""
        for label, after in self._bare_moves(world):
            yield from self._learn(label, after)

    def _learn(self, label: str, world: World) -> Iterator[Move]:
        for me in (0, 1):
            if world.nodes[me].slow:
                continue
            news = list(self._fact_moves(world, me))
            if news:
                for step_label, after in news:
                    yield from self._learn(f"{label}; {step_label}", after)
                return
        yield label, world

    def _bare_moves(self, world: World) -> Iterator[Move]:
        yield from self.free_moves(world)
        yield from self.pacemaker_moves(world)
        yield from self.repairs(world)
        if world.faults:
            yield from self.faults(world)

    def free_moves(self, world: World) -> Iterator[Move]:
        """What happens by itself without any help from outside."""
        for me in (0, 1):
            node, peer = world.nodes[me], world.nodes[1 - me]
            if not node.powered:
                continue
            yield from self._kernel_moves(world, me, node, peer)
            if node.state is None:
                yield (
                    f"start-daemon {NAMES[me]}",
                    self._emit(world, me, w.start_daemon(self.configs[me], node, me, self.setting.flaws)),
                )
                continue
            if node.slow:
                yield from self._fact_moves(world, me)
                yield f"catches-up {NAMES[me]}", _with(world, me, node._replace(slow=False))
            yield from self._operation_moves(world, me, node)
            yield from self._message_moves(world, me, node, peer)

    def _kernel_moves(self, world: World, me: int, node: Node, peer: Node) -> Iterator[Move]:
        mine, theirs = node.kernel, peer.kernel
        broken = not world.cable or not peer.powered or theirs.conn != mine.conn
        if mine.conn and broken:
            yield f"notice-loss {NAMES[me]}", _with(world, me, node._replace(kernel=w.lose(mine)))
        if me == 0 and world.cable and peer.powered and not mine.conn and not theirs.conn:
            ident = max(mine.last_conn, theirs.last_conn) + 1
            try:
                both = w.connect(mine, theirs, ident)
            except w.SplitBrain as error:
                raise Broken(f"I2 {error}") from None
            if both is not None:
                nodes = (node._replace(kernel=both[0]), peer._replace(kernel=both[1]))
                yield "connect", world._replace(nodes=nodes)
        in_contact = mine.conn and mine.conn == theirs.conn
        if in_contact and mine.disk is Disk.INCONSISTENT and theirs.disk is Disk.UPTODATE:
            yield f"resync-done {NAMES[me]}", _with(world, me, node._replace(kernel=w.resync(theirs, mine)))

    def _fact_moves(self, world: World, me: int) -> Iterator[Move]:
        """The first thing that this daemon does not know yet."""
        node, peer = world.nodes[me], world.nodes[1 - me]
        if not node.powered or node.state is None:
            return
        online = world.heartbeat and peer.powered
        reachable = online and peer.state is not None
        event = w.pending_event(node, peer, reachable, online, me) or w.pending_handler(node, me)
        if isinstance(event, Membership):
            told = node._replace(told_membership=(reachable, online), quorate=node.quorate or online)
            yield from self._daemon_moves(world, me, f"members {NAMES[me]}", event, told)
        elif event is not None:
            name = "observe" if isinstance(event, ReplicaChanged) else "handler"
            yield from self._daemon_moves(world, me, f"{name} {NAMES[me]}", event)

    def _operation_moves(self, world: World, me: int, node: Node) -> Iterator[Move]:
        for op in node.ops:
            kind, value = op
            left = node._replace(ops=tuple(o for o in node.ops if o != op))
            name = f"{kind} {NAMES[me]}"
            if kind == "block":
                kernel, holds = w.block(left.kernel)
                done = left._replace(kernel=kernel)
                yield from self._daemon_moves(world, me, name, BlockDone(value, holds), done)
            elif kind == "fenced":
                yield from self._daemon_moves(world, me, name, FenceDone(NAMES[1 - me], value, True), left)
            elif kind == "release":
                yield name, self._released(world, me, left)
            elif kind == "drop":
                dropped = w.lose(left.kernel) if left.kernel.last_conn == value else left.kernel
                yield name, _with(world, me, left._replace(kernel=dropped))
            elif kind == "unblock":
                disk = Disk.CONSISTENT if left.kernel.disk is Disk.OUTDATED else left.kernel.disk
                yield name, _with(world, me, left._replace(kernel=left.kernel._replace(disk=disk)))
            elif kind == "fence":
                yield f"fence {NAMES[1 - me]}", _fenced(_with(world, me, left), me)

    def _released(self, world: World, me: int, left: Node) -> World:
        before = left.kernel
        world = _with(world, me, left._replace(kernel=w.release(before)))
        if self.setting.flaws.release_without_kill and before.frozen and before.role is Role.PRIMARY:
            # The write in flight is acknowledged from the local disk alone.
            peer = world.nodes[1 - me]
            world = _with(world, 1 - me, peer._replace(kernel=peer.kernel._replace(missing=True)))
        return world

    def _message_moves(self, world: World, me: int, node: Node, peer: Node) -> Iterator[Move]:
        """me receives; me repeats what the other has not got (the beat)."""
        coming, late = world.channels[1 - me], world.late[1 - me]
        if coming is not None and world.heartbeat:
            rest = _with_channel(world, 1 - me, None)
            yield from self._daemon_moves(rest, me, f"deliver {NAMES[me]}", Heard(coming))
        if late is not None and world.heartbeat:
            rest = _with_late(world, 1 - me, None)
            yield from self._daemon_moves(rest, me, f"deliver-late {NAMES[me]}", Heard(late))
        state = node.state
        if state is None or peer.state is None or not (world.heartbeat and peer.powered):
            return
        if world.channels[me] is None and peer.state.message_of(NAMES[me]) != state.told:
            yield f"beat {NAMES[me]}", _with_channel(world, me, state.told)

    def pacemaker_moves(self, world: World) -> Iterator[Move]:
        """Pacemaker promotes where the attribute lets it, demotes where it must, fences whom it has lost."""
        for me in (0, 1):
            node, peer = world.nodes[me], world.nodes[1 - me]
            if not node.powered or node.record is None or node.record.boot != f"{NAMES[me]}{node.boots}":
                continue  # the node attribute is gone after a boot until the daemon has set it again
            standing = node.record.standing
            if standing in (Standing.BLOCKED, Standing.UNPROVEN):
                if node.kernel.role is Role.PRIMARY and not node.kernel.frozen:
                    yield f"demote {NAMES[me]}", _with(
                        world, me, node._replace(kernel=node.kernel._replace(role=Role.SECONDARY))
                    )
            elif not (peer.powered and peer.kernel.role is Role.PRIMARY):
                promoted = w.promote(node.kernel, peer.kernel, me)
                if promoted is not None:
                    yield f"promote {NAMES[me]}", _with(world, me, node._replace(kernel=promoted))
            if node.quorate and not (world.heartbeat and peer.powered) and not self._fencing_known(node):
                yield f"pacemaker-fences {NAMES[1 - me]}", _fenced(world, me)

    @staticmethod
    def _fencing_known(node: Node) -> bool:
        """Pacemaker fences a lost node once: as long as its proof stands there is no need for another."""
        if any(kind == "fenced" for kind, _ in node.ops):
            return True
        return node.record is not None and any(p.epoch == node.record.epoch for p in node.record.proofs)

    def repairs(self, world: World) -> Iterator[Move]:
        if not world.cable:
            yield "mend sync", world._replace(cable=True)
        if not world.heartbeat:
            yield "mend heartbeat", world._replace(heartbeat=True)
        for me in (0, 1):
            if not world.nodes[me].powered:
                node = world.nodes[me]
                booted = node._replace(
                    powered=True, kernel=w.boot(node.kernel), boots=node.boots + 1, quorate=False,
                    told_membership=(False, False),
                )
                yield f"boot {NAMES[me]}", _with(world, me, booted)

    def faults(self, world: World) -> Iterator[Move]:
        less = world._replace(faults=world.faults - 1)
        if world.cable:
            yield "CUT sync", less._replace(cable=False)
        if world.heartbeat:
            yield "CUT heartbeat", less._replace(heartbeat=False)
        for me in (0, 1):
            node = world.nodes[me]
            if node.powered:
                yield f"POWER-CUT {NAMES[me]}", _power_off(less, me)
            if node.state is not None:
                yield f"KILL-DAEMON {NAMES[me]}", _with(less, me, w.kill_daemon(node))
                if not node.slow:
                    yield f"SLOW {NAMES[me]}", _with(less, me, node._replace(slow=True))
                for op in node.ops:
                    if op[0] == "deadline":
                        left = node._replace(ops=tuple(o for o in node.ops if o != op))
                        yield from self._daemon_moves(less, me, f"DEADLINE {NAMES[me]}", Deadline(op[1]), left)
            if world.channels[me] is not None:
                yield f"LOSE-MESSAGE from {NAMES[me]}", _with_channel(less, me, None)
                if world.late[me] is None:
                    held = _with_late(less, me, world.channels[me])
                    yield f"HOLD-UP-MESSAGE from {NAMES[me]}", _with_channel(held, me, None)


# --- helpers ----------------------------------------------------------------------------------------------------------------


def _with(world: World, me: int, node: Node) -> World:
    nodes = (node, world.nodes[1]) if me == 0 else (world.nodes[0], node)
    return world._replace(nodes=nodes)


def _with_channel(world: World, me: int, message: Optional[w.Message]) -> World:
    channels = (message, world.channels[1]) if me == 0 else (world.channels[0], message)
    return world._replace(channels=channels)


def _with_late(world: World, me: int, message: Optional[w.Message]) -> World:
    late = (message, world.late[1]) if me == 0 else (world.late[0], message)
    return world._replace(late=late)


def _power_off(world: World, me: int) -> World:
    node = world.nodes[me]
    kernel = node.kernel._replace(role=Role.SECONDARY, conn=0, frozen=False, call=0, promoting=False)
    return _with(world, me, node._replace(powered=False, kernel=kernel, state=None, ops=(), slow=False))


def _fenced(world: World, me: int) -> World:
    """The peer loses power; the result is reported to this node's daemon, under the epoch that is in force now."""
    world = _power_off(world, 1 - me)
    node = world.nodes[me]
    if node.state is None or node.record is None:
        return world
    report = ("fenced", node.record.epoch)
    return _with(world, me, node if report in node.ops else node._replace(ops=(*node.ops, report)))


# --- judging ----------------------------------------------------------------------------------------------------------------


def completes_alone(node: Node) -> bool:
    kernel = node.kernel
    return node.powered and kernel.role is Role.PRIMARY and not kernel.frozen and not kernel.conn


def completes_together(node: Node, peer: Node) -> bool:
    kernel = node.kernel
    connected = kernel.conn != 0 and peer.powered and peer.kernel.conn == kernel.conn
    return node.powered and kernel.role is Role.PRIMARY and not kernel.frozen and connected


def judge(world: World) -> World:
    """Let everybody write who can, then check I1, I2, I4 and I5. Raises Broken."""
    alone = [completes_alone(n) for n in world.nodes]
    if alone[0] and alone[1]:
        raise Broken("I1 both nodes complete writes without contact")
    for me in (0, 1):
        node, peer = world.nodes[me], world.nodes[1 - me]
        if alone[me]:
            _judge_alone(me, node)
            if not peer.kernel.missing:
                world = _with(world, 1 - me, peer._replace(kernel=peer.kernel._replace(missing=True)))
        elif completes_together(node, peer) and node.kernel.missing and node.kernel.disk is Disk.UPTODATE:
            raise Broken(f"I2 {NAMES[me]} serves without a write that was acknowledged")
    if world.nodes[0].kernel.missing and world.nodes[1].kernel.missing:
        raise Broken("I2 an acknowledged write is on neither copy")
    return world


def _judge_alone(me: int, node: Node) -> None:
    if node.kernel.missing:
        raise Broken(f"I2 {NAMES[me]} goes on alone without a write that was acknowledged")
    if node.kernel.disk is not Disk.UPTODATE:
        raise Broken(f"I4 {NAMES[me]} serves {node.kernel.disk.value} data")
    if node.record is not None and node.record.standing in (Standing.BLOCKED, Standing.UNPROVEN):
        raise Broken(f"I5 {NAMES[me]} serves while {node.record.standing.value}")


def judge_rest(world: World) -> None:
    """Liveness, in a world where nothing moves by itself any more. Raises Broken."""
    if not world.heartbeat or any(not n.powered or n.state is None for n in world.nodes):
        return
    records = [n.record for n in world.nodes]
    if not any(n.kernel.disk in (Disk.UPTODATE, Disk.CONSISTENT, Disk.OUTDATED) for n in world.nodes):
        return
    serving = [i for i in (0, 1) if records[i] is not None and records[i].standing in SERVING]
    if not serving:
        raise Broken(f"liveness: nobody may serve ({_standings(world)})")
    if world.cable and len(serving) != 2:
        raise Broken(f"liveness: the sync link is back, but {_standings(world)}")
    for me in serving:
        kernel = world.nodes[me].kernel
        if kernel.role is Role.PRIMARY and kernel.frozen:
            raise Broken(f"liveness: {NAMES[me]} may serve but stays frozen ({_standings(world)})")


def _standings(world: World) -> str:
    return ", ".join(
        f"{NAMES[i]} {n.record.standing.value if n.record else 'nothing'} {n.kernel.disk.value}"
        for i, n in enumerate(world.nodes)
    )


# --- the walk ---------------------------------------------------------------------------------------------------------------


def explore(
    setting: Setting, limit: int = 50_000_000, progress: Optional[Callable[[int], None]] = None
) -> Report:
    """Breadth first until a violation, the end, or `limit` states."""
    explorer, first = Explorer(setting), start(setting)
    packer = Packer()
    seen: Dict[Tuple[int, ...], int] = {packer.pack(first): 0}
    worlds: deque[Tuple[int, Tuple[int, ...]]] = deque([(0, packer.pack(first))])
    parents: List[Tuple[int, str]] = [(-1, "")]
    count = 0
    while worlds:
        index, packed = worlds.popleft()
        world = packer.unpack(packed)
        label = ""
        try:
            resting = True
            for label, after in explorer.moves(world):
                count += 1
                if label.split(" ")[0] in AT_REST:
                    pass
                else:
                    resting = resting and label[0].isupper()
                key = packer.pack(judge(after))
                if key not in seen:
                    seen[key] = len(parents)
                    worlds.append((len(parents), key))
                    parents.append((index, label))
            if resting:
                label = "(at rest)"
                judge_rest(world)
        except Broken as broken:
            return Report(len(seen), count, Violation(str(broken), _script(parents, index, label)), True)
        if len(seen) >= limit:
            return Report(len(seen), count, None, False)
        if progress is not None and index % 20_000 == 0:
            progress(len(seen))
    return Report(len(seen), count, None, True)


# Moves that may wait for ever: repairs, and what Pacemaker may or may not do. They do not count as "still moving".
AT_REST = frozenset({"mend", "promote", "demote", "pacemaker-fences", "boot"})


def _script(parents: List[Tuple[int, str]], index: int, last: str) -> Tuple[str, ...]:
    script = [last]
    while index > 0:
        index, label = parents[index]
        script.append(label)
    return tuple(script[::-1])


class Packer:
    """Worlds as short tuples of numbers: nodes and channels repeat in millions of worlds, and are kept once."""

    def __init__(self) -> None:
        self._numbers: Dict[object, int] = {}
        self._things: List[object] = []

    def _number(self, thing: object) -> int:
        known = self._numbers.get(thing)
        if known is None:
            known = self._numbers[thing] = len(self._things)
            self._things.append(thing)
        return known

    def pack(self, world: World) -> Tuple[int, ...]:
        number = self._number
        return (
            number(world.nodes[0]),
            number(world.nodes[1]),
            number(world.channels),
            number(world.late),
            world.faults * 4 + world.cable * 2 + world.heartbeat,
        )

    def unpack(self, packed: Tuple[int, ...]) -> World:
        things = self._things
        nodes, channels, late = (things[packed[0]], things[packed[1]]), things[packed[2]], things[packed[3]]
        flags = packed[4]
        return World(nodes, bool(flags & 2), bool(flags & 1), channels, late, flags // 4)  # type: ignore[arg-type]
