"""Three and more nodes as `heartgate.sim.mesh` walks through them: kernels that replicate in a mesh, wires, heartbeats."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, List, Optional, Set, Tuple

from heartgate.core.model import Disk, Link, PeerLink, Record, Replica, Role, State
from heartgate.sim.world import Broken


@dataclass
class Machine:
    """One node: its kernel, its disk, its daemon (state None: dead). missing conn: not connected; given: peers that the
    handler has allowed it to go on without."""

    name: str
    powered: bool = True
    role: Role = Role.SECONDARY
    disk: Disk = Disk.UPTODATE
    frozen: bool = False
    promoting: bool = False
    renew: bool = False  # the next write begins a new data generation, since a peer will lack it
    conn: Set[str] = field(default_factory=set)
    given: Set[str] = field(default_factory=set)
    calls: Dict[str, str] = field(default_factory=dict)
    met: Dict[str, int] = field(default_factory=dict)
    chain: Tuple[int, ...] = (0,)
    data: int = 0
    record: Optional[Record] = None
    state: Optional[State] = None
    boots: int = 1
    runs: int = 0
    called: int = 0
    paused: bool = False
    told_membership: Tuple[Tuple[str, ...], Tuple[str, ...]] = ((), ())
    ops: List[Tuple[str, object]] = field(default_factory=list)

    @property
    def boot(self) -> str:
        return f"{self.name}{self.boots}"


class MeshWorld:
    """What there is besides the daemons."""

    def __init__(self, nodes: Tuple[str, ...]) -> None:
        self.machines = {name: Machine(name) for name in nodes}
        self.cut: Set[Tuple[str, str]] = set()
        self.apart: Set[str] = set()  # nodes that no heartbeat reaches
        self.clean: Set[str] = set()  # lost, and fenced since
        self.acknowledged = 0
        self.writes = 0
        self.generations = 0

    # --- the world

    def pair_up(self, one: str, other: str) -> bool:
        cut = (min(one, other), max(one, other)) in self.cut
        return self.machines[one].powered and self.machines[other].powered and not cut

    def connected(self, one: str, other: str) -> bool:
        return other in self.machines[one].conn and one in self.machines[other].conn

    def group(self, name: str) -> Tuple[str, ...]:
        """Members of the cluster that this node is in."""
        if name in self.apart:
            return (name,)
        return tuple(n for n, m in self.machines.items() if m.powered and n not in self.apart)

    def quorate(self, name: str) -> bool:
        return 2 * len(self.group(name)) > len(self.machines)

    def facts(self, me: Machine) -> Replica:
        peers = []
        for name, peer in sorted(self.machines.items()):
            if name == me.name:
                continue
            disk = Disk.OUTDATED if name in me.given else Disk.UNKNOWN
            if name in me.conn:
                disk = peer.disk if self.connected(me.name, name) else Disk.UPTODATE
            up = Link.UP if name in me.conn else Link.DOWN
            peers.append((name, PeerLink(up, me.met.get(name, 0), disk)))
        ancestors = tuple(str(g) for g in me.chain[:-1])
        return Replica(me.disk, me.role, me.frozen, tuple(peers), str(me.chain[-1]), ancestors)

    # --- the kernel

    def lose(self, me: Machine, peer: str) -> None:
        me.conn.discard(peer)
        if me.role is Role.PRIMARY:
            me.frozen = True
            self.call(me, peer)

    def call(self, me: Machine, peer: str) -> None:
        me.called += 1
        me.calls[peer] = f"{me.name}-{peer}-{me.called}"

    def new_generation(self, me: Machine) -> None:
        """Whoever is connected gets the writes, and the new generation with them."""
        self.generations += 1
        before = me.chain
        me.chain = (*before, self.generations)
        for name in me.conn:
            peer = self.machines[name]
            if self.connected(me.name, name) and peer.chain == before and peer.disk is not Disk.INCONSISTENT:
                peer.chain = me.chain

    def settle(self, me: Machine) -> None:
        """A frozen Primary, or one that is being promoted, goes on when every peer is connected or given up."""
        gone = [n for n in self.machines if n != me.name and n not in me.conn]
        if any(n not in me.given for n in gone):
            return
        if me.promoting:
            if not all(self.connected(me.name, n) for n in me.conn):
                me.promoting = False  # the connected ones have to agree to a promotion
                return
            me.promoting, me.role, me.disk = False, Role.PRIMARY, Disk.UPTODATE
            me.calls.clear()
        elif not (me.role is Role.PRIMARY and me.frozen):
            return
        me.frozen = False
        me.renew = me.renew or bool(gone)

    def answer(self, me: Machine, handler: str, code: int) -> None:
        """The handler exits. A code for an older call, or after a reconnect, is only logged."""
        for peer, call in list(me.calls.items()):
            if call == handler:
                del me.calls[peer]
                if code in (4, 7) and peer not in me.conn:
                    me.given.add(peer)
                    self.settle(me)
                elif code not in (4, 7):
                    me.promoting = False

    def connect(self, one: Machine, other: Machine) -> None:
        newer = newer_of(one, other)
        if one.role is other.role is Role.PRIMARY or (newer is not None and other.role is Role.PRIMARY and newer is one):
            newer = None if one.role is other.role else newer
            for machine in (one, other):
                self.stand_alone(machine, other.name if machine is one else one.name)
            return
        if newer is other and one.role is Role.PRIMARY:
            for machine in (one, other):
                self.stand_alone(machine, other.name if machine is one else one.name)
            return
        good = (Disk.UPTODATE, Disk.CONSISTENT)
        if newer is None and (one.disk in good or other.disk in good):
            one.disk = other.disk = Disk.UPTODATE
        for source, target in ((one, other), (other, one)):
            if newer is source and source.disk in good:
                source.disk, target.disk = Disk.UPTODATE, Disk.INCONSISTENT
        for machine, peer in ((one, other), (other, one)):
            machine.conn.add(peer.name)
            machine.met[peer.name] = machine.met.get(peer.name, 0) + 1
            machine.given.discard(peer.name)
            machine.calls.pop(peer.name, None)
            machine.promoting = False
            self.settle(machine)

    def stand_alone(self, machine: Machine, peer: str) -> None:
        if machine.role is Role.PRIMARY and not (machine.frozen and peer in machine.calls):
            machine.frozen = True
            self.call(machine, peer)

    def resync_source(self, target: Machine) -> Optional[Machine]:
        """Up to date, connected, and not connected to a Primary that the target is not connected to."""
        for name in sorted(target.conn):
            source = self.machines[name]
            if not self.connected(name, target.name) or source.disk is not Disk.UPTODATE or not self.pair_up(name, target.name):
                continue
            if source.chain[: len(target.chain)] != target.chain and target.disk is not Disk.INCONSISTENT:
                continue
            primaries = [n for n in source.conn if self.machines[n].role is Role.PRIMARY and n != target.name]
            if all(self.connected(n, target.name) for n in primaries):
                return source
        return None

    def write(self, me: Machine) -> None:
        """Acknowledged by every connected copy; whoever is connected to one of those, but not to me, is known to be behind."""
        if me.renew:
            self.new_generation(me)
            me.renew = False
        self.writes += 1
        bit = 1 << self.writes
        self.acknowledged |= bit
        me.data |= bit
        for name in me.conn:
            self.machines[name].data |= bit
        for machine in self.machines.values():
            weak = machine is not me and me.name not in machine.conn and machine.conn & me.conn
            if weak and machine.disk is Disk.UPTODATE:
                machine.disk = Disk.OUTDATED

    def can_write(self, me: Machine) -> bool:
        whole = all(self.connected(me.name, n) and self.pair_up(me.name, n) for n in me.conn)
        return me.powered and me.role is Role.PRIMARY and not me.frozen and whole


def newer_of(one: Machine, other: Machine) -> Optional[Machine]:
    """The source of the resync; None where there is none. Raises Broken for data that went apart."""
    if (one.disk is Disk.INCONSISTENT) != (other.disk is Disk.INCONSISTENT):
        return other if one.disk is Disk.INCONSISTENT else one
    if one.chain == other.chain:
        return None
    if one.chain[: len(other.chain)] == other.chain:
        return one
    if other.chain[: len(one.chain)] == one.chain:
        return other
    raise Broken(f"I2 {one.name} and {other.name} both have a data generation that the other lacks")
