"""Three and more nodes around the real policy core: random walks, each from its seed, judged at every step and at rest.

The worlds of `heartgate.sim.world` are of two nodes and are visited completely. Of three nodes there are too many for that,
so this walks: faults and everything that may follow, in any order that the seed gives; then everything is mended, and the
cluster has to come back by itself. The kernel is a mesh of connections, as in DRBD 9: a Primary that loses one freezes and
calls the handler about that peer; it thaws when every peer is connected or given up, under a new data generation.
"""

from __future__ import annotations

import random
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
    Drop,
    Event,
    FenceDone,
    HandlerCalled,
    Heard,
    Membership,
    Persist,
    Rank,
    Record,
    Rehandle,
    Release,
    ReplicaChanged,
    Role,
    SetDeadline,
    Standing,
    State,
    Unblock,
    make_config,
)
from heartgate.core.verdict import CURRENT
from heartgate.sim.mesh_world import Machine, MeshWorld, newer_of
from heartgate.sim.world import Broken

REST_STEPS = 4000
REST_DEADLINES = 60


class Walk(NamedTuple):
    """What is walked. steps: of the storm, in which faults happen with `fault_share` of the moves."""

    nodes: Tuple[str, ...] = ("a", "b", "c")
    rank: Rank = Rank.PRIORITY
    primary: str = "a"
    omitted: Tuple[str, ...] = ()
    steps: int = 120
    fault_share: float = 0.06
    faults: int = 4


Move = Tuple[str, Callable[[], None]]


class Mesh(MeshWorld):
    """One walk."""

    def __init__(self, walk: Walk, seed: int) -> None:
        super().__init__(walk.nodes)
        self.walk, self.random = walk, random.Random(seed)
        priorities = {name: number for number, name in enumerate(walk.nodes, 1)}
        self.configs: Dict[str, Config] = {
            n: make_config("r0", n, priorities, walk.rank, omitted_rules=walk.omitted) for n in walk.nodes
        }
        self.script: List[str] = []

    # --- power and daemons

    def power_off(self, me: Machine) -> None:
        me.powered = me.paused = me.frozen = me.promoting = me.renew = False
        me.role, me.state = Role.SECONDARY, None
        me.conn, me.calls, me.ops, me.met = set(), {}, [], {}
        me.told_membership = ((), ())

    def power_on(self, me: Machine) -> None:
        me.powered = True
        me.boots += 1
        if me.disk is Disk.UPTODATE and len(me.given) < len(self.machines) - 1:
            me.disk = Disk.CONSISTENT
        self.clean.discard(me.name)
        self.start_daemon(me)

    def start_daemon(self, me: Machine) -> None:
        me.runs += 1
        me.met = dict.fromkeys(me.conn, 1)
        me.told_membership = ((), ())
        state, actions = policy.initial(self.configs[me.name], me.record, me.boot, f"{me.name}r{me.runs}")
        self.carry_out(me, state, actions)

    def kill_daemon(self, me: Machine) -> None:
        me.state, me.ops, me.paused = None, [], False

    def fence(self, target: Machine, by: str) -> None:
        """The power is cut; everybody in the same part of the cluster hears of it."""
        self.power_off(target)
        self.clean.add(target.name)
        for name in self.group(by):
            machine = self.machines[name]
            if machine.state is not None and machine.record is not None and name != target.name:
                machine.ops.append(("fenced", FenceDone(target.name, machine.record.epoch, True)))

    def handle(self, me: Machine, event: Event) -> None:
        assert me.state is not None
        config = self.configs[me.name]
        after, actions = policy.step(config, me.state, event)
        broken = check_local(config, me.state, after, actions) if not config.omitted_rules else ()
        if broken:
            raise Broken(f"{me.name}: {'; '.join(broken)}")
        self.carry_out(me, after, actions)

    def carry_out(self, me: Machine, state: State, actions: Tuple[object, ...]) -> None:
        me.state = state
        for action in actions:
            if isinstance(action, Persist):
                me.record = action.record
            elif isinstance(action, AnswerHandler):
                self.answer(me, action.handler, action.code)
            elif isinstance(action, Rehandle):
                for peer in self.machines:
                    if me.frozen and peer != me.name and peer not in me.conn | me.given and peer not in me.calls:
                        self.call(me, peer)
            elif isinstance(action, (Block, AskFence, SetDeadline, Release, Unblock, Drop)):
                me.ops.append((type(action).__name__, action))

    def do(self, me: Machine, kind: str, order: object) -> None:
        """What the daemon ordered is done."""
        blocked = me.record is not None and me.record.standing is Standing.BLOCKED
        if isinstance(order, Block):
            self.handle(me, BlockDone(order.token, blocked and self.block(me)))
        elif isinstance(order, FenceDone):
            self.handle(me, order)
        elif isinstance(order, AskFence):
            self.fence(self.machines[order.node], me.name)
        elif isinstance(order, SetDeadline):
            self.handle(me, Deadline(order.request))
        elif isinstance(order, Drop):
            if order.peer in me.conn and me.met.get(order.peer) == order.incarnation:
                self.lose(me, order.peer)
        elif isinstance(order, Unblock):
            me.disk = Disk.CONSISTENT if me.disk is Disk.OUTDATED else me.disk
        elif isinstance(order, Release) and blocked and me.role is Role.PRIMARY and me.frozen:
            me.role, me.frozen, me.calls = Role.SECONDARY, False, {}
            me.disk = me.disk if me.disk is Disk.INCONSISTENT else Disk.OUTDATED

    def block(self, me: Machine) -> bool:
        """A connected Primary loses all its connections first, as the drivers do it."""
        if me.role is Role.PRIMARY:
            for peer in sorted(me.conn):
                self.lose(me, peer)
            return me.frozen
        if not me.conn and me.disk in (Disk.UPTODATE, Disk.CONSISTENT):
            me.disk = Disk.OUTDATED
        return True

    # --- moves

    def moves(self) -> List[Move]:
        """What happens by itself, sooner or later (deadlines apart)."""
        found: List[Move] = []
        for me in self.machines.values():
            if me.powered:
                found += self._kernel_moves(me)
                found += self._daemon_moves(me)
        return found

    def _kernel_moves(self, me: Machine) -> Iterator[Move]:
        for name, peer in self.machines.items():
            if name in me.conn and not (self.pair_up(me.name, name) and me.name in peer.conn):
                yield f"notice-loss {me.name} of {name}", lambda name=name: self.lose(me, name)  # type: ignore[misc]
            idle = name not in me.conn and me.name not in peer.conn
            if me.name < name and idle and self.pair_up(me.name, name) and self._worthwhile(me, peer):
                yield f"connect {me.name} {name}", lambda peer=peer: self.connect(me, peer)  # type: ignore[misc]
        if me.disk in (Disk.INCONSISTENT, Disk.OUTDATED):
            source = self.resync_source(me)
            if source is not None:
                yield f"resync-done {me.name} from {source.name}", lambda: self._resynced(me, source)

    def _worthwhile(self, me: Machine, peer: Machine) -> bool:
        """A handshake that is refused again changes nothing."""
        if me.disk is peer.disk is Disk.INCONSISTENT:
            return False
        newer = newer_of(me, peer)
        primaries = [m for m in (me, peer) if m.role is Role.PRIMARY]
        refused = len(primaries) == 2 or (newer is not None and any(m is not newer for m in primaries))
        return not refused or any(not m.frozen for m in primaries)

    def _resynced(self, target: Machine, source: Machine) -> None:
        target.disk, target.chain, target.data = Disk.UPTODATE, source.chain, source.data

    def _daemon_moves(self, me: Machine) -> Iterator[Move]:
        if me.state is None:
            yield f"start-daemon {me.name}", lambda: self.start_daemon(me)
            return
        if me.paused:
            return
        event = self._news(me)
        if event is not None:
            yield f"{type(event).__name__} {me.name}", lambda: self._learn(me, event)
        for name in self.group(me.name):
            state = self.machines[name].state
            if name == me.name or state is None or state.told is None or name not in me.told_membership[0]:
                continue
            if me.state.message_of(name) != state.told:
                told = Heard(state.told)
                yield f"deliver {name} to {me.name}", lambda told=told: self.handle(me, told)  # type: ignore[misc]
        for op in me.ops:
            if op[0] != "SetDeadline":
                yield f"{op[0]} {me.name}", lambda op=op: self._ordered(me, op)  # type: ignore[misc]

    def _ordered(self, me: Machine, op: Tuple[str, object]) -> None:
        me.ops.remove(op)
        self.do(me, *op)

    def _news(self, me: Machine) -> Optional[Event]:
        assert me.state is not None
        seen = self.facts(me)
        if seen != me.state.replica:
            return ReplicaChanged(seen)
        group = self.group(me.name)
        members = (tuple(n for n in group if self.machines[n].state is not None), group)
        if members != me.told_membership:
            return Membership(*members)
        known = {h.handler for h in me.state.handlers}
        for peer, call in sorted(me.calls.items()):
            if call not in known:
                return HandlerCalled(call, peer)
        return None

    def _learn(self, me: Machine, event: Event) -> None:
        if isinstance(event, Membership):
            me.told_membership = (event.reachable, event.online)
        self.handle(me, event)

    def deadlines(self) -> List[Move]:
        found: List[Move] = []
        for me in self.machines.values():
            current = me.state.round.ask.request if me.state is not None and me.state.round is not None else 0
            me.ops = [op for op in me.ops if not isinstance(op[1], SetDeadline) or op[1].request == current]
            for op in me.ops:
                if isinstance(op[1], SetDeadline) and not me.paused:
                    found.append((f"deadline {me.name}", lambda me=me, op=op: self._ordered(me, op)))  # type: ignore[misc]
        return found

    def pacemaker(self) -> List[Move]:
        found: List[Move] = []
        for me in self.machines.values():
            if not me.powered:
                continue
            if self.quorate(me.name):
                lost = [m for n, m in self.machines.items() if n not in self.group(me.name) and n not in self.clean]
                for target in lost:
                    run = lambda target=target, by=me.name: self.fence(target, by)  # noqa: E731
                    found.append((f"pacemaker-fences {target.name}", run))
            found += self._roles(me)
        return found

    def _roles(self, me: Machine) -> Iterator[Move]:
        record = me.record
        if record is None or record.boot != me.boot:
            return
        if record.standing in (Standing.BLOCKED, Standing.UNPROVEN):
            if me.role is Role.PRIMARY and not me.frozen:
                yield f"demote {me.name}", lambda: setattr(me, "role", Role.SECONDARY)
        elif me.role is Role.SECONDARY and not me.promoting:
            taken = any(m.role is Role.PRIMARY or m.promoting for m in self.machines.values())
            if not taken and me.disk in (Disk.UPTODATE, Disk.CONSISTENT) and record.standing in SERVING:
                yield f"promote {me.name}", lambda: self._promote(me)

    def _promote(self, me: Machine) -> None:
        gone = [n for n in self.machines if n != me.name and n not in me.conn]
        if not gone and me.disk is not Disk.UPTODATE:
            return
        me.promoting = True
        for peer in gone:
            if peer not in me.given and peer not in me.calls:
                self.call(me, peer)
        self.settle(me)

    def faults(self) -> List[Move]:
        found: List[Move] = []
        names = list(self.machines)
        for i, one in enumerate(names):
            for other in names[i + 1 :]:
                if (one, other) not in self.cut:
                    found.append((f"CUT {one}-{other}", lambda pair=(one, other): self.cut.add(pair)))  # type: ignore[misc]
        for me in self.machines.values():
            if me.name not in self.apart:
                found.append((f"HEARTBEAT of {me.name}", lambda me=me: self.apart.add(me.name)))  # type: ignore[misc]
            if me.powered:
                found.append((f"POWER {me.name}", lambda me=me: self.power_off(me)))  # type: ignore[misc]
            if me.state is not None:
                found.append((f"KILL {me.name}", lambda me=me: self.kill_daemon(me)))  # type: ignore[misc]
            if me.state is not None and not me.paused:
                found.append((f"PAUSE {me.name}", lambda me=me: setattr(me, "paused", True)))  # type: ignore[misc]
        return found

    def repairs(self) -> List[Move]:
        found: List[Move] = []
        for pair in sorted(self.cut):
            found.append((f"mend {pair[0]}-{pair[1]}", lambda pair=pair: self.cut.discard(pair)))  # type: ignore[misc]
        return found + self.mend_all_but_sync()

    def mend_all_but_sync(self) -> List[Move]:
        found: List[Move] = []
        for name in sorted(self.apart):
            found.append((f"mend heartbeat of {name}", lambda name=name: self._rejoin(name)))  # type: ignore[misc]
        for me in self.machines.values():
            noticed = not any(me.name in m.conn for m in self.machines.values())
            if not me.powered and noticed:
                found.append((f"boot {me.name}", lambda me=me: self.power_on(me)))  # type: ignore[misc]
            if me.paused:
                found.append((f"wake {me.name}", lambda me=me: setattr(me, "paused", False)))  # type: ignore[misc]
        return found

    def _rejoin(self, name: str) -> None:
        self.apart.discard(name)
        self.clean.discard(name)

    # --- the walk

    def begin(self) -> None:
        for me in self.machines.values():
            me.conn = {n for n in self.machines if n != me.name}
            me.record = Record(Standing.SYNCED, 1, tuple(sorted(self.machines)), me.boot)
            self.start_daemon(me)
        self.machines[self.walk.primary].role = Role.PRIMARY
        self.rest("at the start")

    def perform(self, move: Move) -> None:
        label, run = move
        self.script.append(label)
        run()
        self.judge()
        for me in self.machines.values():
            if self.can_write(me):
                self.judge_writer(me)
                self.write(me)

    def run(self) -> None:
        """Raises Broken; `script` tells what happened."""
        self.begin()
        faults = self.walk.faults
        for _ in range(self.walk.steps):
            if faults and self.random.random() < self.walk.fault_share:
                faults -= 1
                self.perform(self.random.choice(self.faults()))
            elif self.random.random() < 0.05:
                self._any(self.repairs())
            else:
                slow = self.deadlines() if self.random.random() < 0.1 else []
                self._any([*self.moves(), *(self.pacemaker() if self.random.random() < 0.3 else []), *slow])
        if self.random.random() < 0.5:
            self.mend(self.mend_all_but_sync)
            self.rest("with sync links cut")
            self.judge_rest(whole=False)
        self.mend(self.repairs)
        self.rest("mended")
        self.judge_rest(whole=True)

    def _any(self, moves: List[Move]) -> None:
        if moves:
            self.perform(self.random.choice(moves))

    def mend(self, which: Callable[[], List[Move]]) -> None:
        for _ in range(200):
            moves = which()
            if moves:
                self.perform(moves[0])
            elif all(m.powered for m in self.machines.values()):
                return
            else:
                self._any(self.moves())

    def rest(self, when: str) -> None:
        """Until nothing moves by itself any more."""
        deadlines = 0
        for _ in range(REST_STEPS):
            down = [m for m in self.machines.values() if not m.powered]
            moves = [*self.moves(), *(self.mend_all_but_sync() if down else [])] or self.pacemaker()
            if not moves:
                moves = self.deadlines()
                deadlines += bool(moves)
                if not moves or deadlines > REST_DEADLINES:
                    return
            self.perform(self.random.choice(moves))
        raise Broken(f"liveness: does not come to rest {when} ({self.standings()})")

    # --- judging

    def judge(self) -> None:
        for me in self.machines.values():
            if not _in_force(me) or me.record is None or me.record.standing not in SERVING:
                continue
            for name, peer in self.machines.items():
                if name in me.record.in_sync or not _in_force(peer) or peer.record is None:
                    continue
                if peer.record.standing in CURRENT:
                    raise Broken(f"I3 {me.name} goes on without {name}, which is {peer.record.standing.value}")
        writers = [m for m in self.machines.values() if self.can_write(m)]
        for i, one in enumerate(writers):
            for other in writers[i + 1 :]:
                if not self.connected(one.name, other.name):
                    raise Broken(f"I1 {one.name} and {other.name} both complete writes")

    def judge_writer(self, me: Machine) -> None:
        """Whoever is missing has to be out for this node, or for one that gets the write too (a Primary that is to be blocked
        thaws when it is connected anew)."""
        if self.acknowledged & ~me.data:
            raise Broken(f"I2 {me.name} serves without a write that was acknowledged")
        if me.disk is not Disk.UPTODATE and not me.conn:
            raise Broken(f"I4 {me.name} serves {me.disk.value} data")
        together = [m.record for m in (me, *(self.machines[n] for n in me.conn)) if m.record is not None]
        for name in self.machines:
            if name == me.name or name in me.conn:
                continue
            if not any(r.standing in CURRENT and name not in r.in_sync for r in together):
                standing = me.record.standing.value if me.record else "without a record"
                raise Broken(f"I3 {me.name} completes writes without {name} while {standing}")

    def judge_rest(self, whole: bool) -> None:
        def fail(what: str) -> None:
            raise Broken(f"liveness: {what} ({self.standings()})")

        machines = list(self.machines.values())
        standing = {m.name: m.record.standing for m in machines if m.record is not None}
        if not any(s in SERVING for s in standing.values()):
            fail("nobody may serve")
        if whole and any(s is not Standing.SYNCED for s in standing.values()):
            fail("everything is mended, and not everybody is synced")
        if whole and any(m.record is not None and m.record.promised_to for m in machines):
            fail("somebody has agreed to a question that was never decided")
        if whole and len({m.record.epoch for m in machines if m.record is not None}) > 1:
            fail("everybody is synced, under different epochs")
        if any(m.role is Role.PRIMARY and m.frozen for m in machines):
            fail("a Primary stays frozen")
        if any(m.calls for m in machines):
            fail("a handler waits for ever")
        if not any(m.role is Role.PRIMARY for m in machines):
            fail("nobody is promoted")

    def standings(self) -> str:
        words = []
        for me in self.machines.values():
            record = me.record
            text = f"{record.standing.value}@{record.epoch}{list(record.in_sync)}" if record else "no record"
            more = [w for w, h in (("OFF", not me.powered), ("Primary", me.role is Role.PRIMARY), ("frozen", me.frozen)) if h]
            words.append(f"{me.name} {text} {me.disk.value} conn {sorted(me.conn)} {' '.join(more)}".rstrip())
        return "; ".join(words) + f"; cut {sorted(self.cut)} apart {sorted(self.apart)}"


def _in_force(machine: Machine) -> bool:
    return machine.powered and machine.record is not None and machine.record.boot == machine.boot


class Found(NamedTuple):
    seed: int
    what: str
    script: Tuple[str, ...]


def walk_many(walk: Walk, seeds: Iterator[int]) -> Tuple[int, Optional[Found]]:
    """(walks, the first violation). The same seeds give the same walks."""
    done = 0
    for seed in seeds:
        mesh = Mesh(walk, seed)
        done += 1
        try:
            mesh.run()
        except Broken as broken:
            return done, Found(seed, str(broken), tuple(mesh.script))
    return done, None
