"""Judging worlds: the invariants in every one, liveness in those where nothing moves by itself any more."""

from __future__ import annotations

from heartgate.core.model import SERVING, Disk, Role, Standing
from heartgate.core.verdict import CURRENT, HAS_DATA
from heartgate.sim.moves import put
from heartgate.sim.world import NAMES, Broken, Node, World, this_boot


def completes_alone(node: Node) -> bool:
    """Can this node acknowledge a write that no other one has?"""
    kernel = node.kernel
    return node.powered and kernel.role is Role.PRIMARY and not kernel.frozen and not kernel.conn


def completes_together(node: Node, peer: Node) -> bool:
    kernel = node.kernel
    connected = kernel.conn and peer.powered and peer.kernel.conn
    return node.powered and kernel.role is Role.PRIMARY and not kernel.frozen and connected


def judge(world: World) -> World:
    """Let everybody write who can, then check I1 to I5. Raises Broken."""
    one, other = world.nodes
    _judge_proofs(world)
    alone = (completes_alone(one), completes_alone(other))
    if alone[0] and alone[1]:
        raise Broken("I1 both nodes complete writes without contact")
    for me in (0, 1):
        node, peer = world.nodes[me], world.nodes[1 - me]
        if alone[me]:
            _judge_alone(me, node)
            if completes_together(peer, node):
                raise Broken("I1 both nodes complete writes without contact")
            if not peer.kernel.missing:
                world = put(world, 1 - me, peer._replace(kernel=peer.kernel._replace(missing=True)))
        elif completes_together(node, peer) and node.kernel.missing and node.kernel.disk is Disk.UPTODATE:
            raise Broken(f"I2 {NAMES[me]} serves without a write that was acknowledged")
    if world.nodes[0].kernel.missing and world.nodes[1].kernel.missing:
        raise Broken("I2 an acknowledged write is on neither copy")
    return world


def _judge_proofs(world: World) -> None:
    """A proof must be true: while one goes on without the other, that one may not serve, nor come to it by itself."""
    for me in (0, 1):
        node, peer = world.nodes[me], world.nodes[1 - me]
        if not (_in_force(node, me) and _in_force(peer, 1 - me) and _may_serve(node)):
            continue
        without = node.record is not None and NAMES[1 - me] not in node.record.in_sync
        bound = peer.record is not None and peer.record.bias == NAMES[me]  # by the agreement: it cannot come to serve alone
        if without and not bound and peer.record is not None and peer.record.standing in CURRENT:
            raise Broken(f"I3 {NAMES[me]} goes on without {NAMES[1 - me]}, which is {peer.record.standing.value}")


def _in_force(node: Node, me: int) -> bool:
    """Its record is one of this boot: what a daemon that starts finds in it, it goes by."""
    return node.powered and node.record is not None and node.record.boot == this_boot(me)


def _judge_alone(me: int, node: Node) -> None:
    record = node.record
    if node.kernel.missing:
        raise Broken(f"I2 {NAMES[me]} goes on alone without a write that was acknowledged")
    if node.kernel.disk is not Disk.UPTODATE:
        raise Broken(f"I4 {NAMES[me]} serves {node.kernel.disk.value} data")
    if record is None or record.epoch == 0:
        return  # the record was lost: Pacemaker will demote this node, nothing else can tell it
    if record.standing in (Standing.BLOCKED, Standing.UNPROVEN):
        raise Broken(f"I5 {NAMES[me]} serves while {record.standing.value}")
    if record.standing is not Standing.SOLO or NAMES[1 - me] in record.in_sync:
        raise Broken(f"I3 {NAMES[me]} serves alone while {record.standing.value} with {','.join(record.in_sync)}")
    if NAMES[1 - me] not in {p.node for p in record.proofs}:
        raise Broken(f"I3 {NAMES[me]} is solo without proof about {NAMES[1 - me]}")


def judge_bereaved(world: World) -> None:
    """In a world where nothing moves by itself any more, and one machine is off for good and was fenced: the other does not
    wait for it. Raises Broken."""
    for me in (0, 1):
        node = world.nodes[me]
        waits = node.record is not None and node.record.standing is Standing.DECIDING and not node.slow
        if waits and node.peer_clean and node.state is not None and not world.nodes[1 - me].powered:
            raise Broken(f"liveness: {NAMES[me]} waits for ever for {NAMES[1 - me]}, which was fenced ({standings(world)})")


def judge_isolated(world: World) -> None:
    """In a world where nothing moves by itself any more, and the two can reach each other over nothing: one goes on, the other
    knows that it does not. Raises Broken."""
    alive = all(n.powered and n.state is not None and not n.slow for n in world.nodes)
    if world.cable or world.heartbeat or not alive:
        return
    if not any(_may_serve(n) for n in world.nodes):
        raise Broken(f"liveness: isolated, and nobody goes on ({standings(world)})")
    if any(n.record is not None and n.record.standing is Standing.DECIDING for n in world.nodes):
        raise Broken(f"liveness: isolated, and somebody waits for nothing ({standings(world)})")


def judge_rest(world: World) -> None:
    """In a world where nothing moves by itself any more, with both machines up and a heartbeat: somebody serves.
    Raises Broken."""
    if not world.heartbeat or any(not n.powered or n.state is None for n in world.nodes):
        return
    if not any(n.kernel.disk in HAS_DATA for n in world.nodes):
        return
    serving = [i for i in (0, 1) if _may_serve(world.nodes[i])]
    if not serving:
        raise Broken(f"liveness: nobody may serve ({standings(world)})")
    if world.cable and len(serving) != 2:
        raise Broken(f"liveness: the sync link is back, but {standings(world)}")
    for me in (0, 1):
        kernel = world.nodes[me].kernel
        if kernel.role is Role.PRIMARY and kernel.frozen:
            what = "may serve but stays frozen" if me in serving else "may not serve, and is never released"
            raise Broken(f"liveness: {NAMES[me]} {what} ({standings(world)})")
        if kernel.call:
            raise Broken(f"liveness: a handler waits for ever on {NAMES[me]} ({standings(world)})")


def _may_serve(node: Node) -> bool:
    return node.record is not None and node.record.standing in SERVING


def standings(world: World) -> str:
    """Both nodes in one line, for a person."""
    links = [name for name, up in (("sync", world.cable), ("heartbeat", world.heartbeat)) if not up]
    cut = f"  [{' and '.join(links)} cut]" if links else ""
    return "; ".join(_standing(NAMES[i], n) for i, n in enumerate(world.nodes)) + cut


def _standing(name: str, node: Node) -> str:
    if not node.powered:
        return f"{name} off"
    kernel, record = node.kernel, node.record
    words = [record.standing.value, f"epoch {record.epoch}"] if record else ["no record"]
    words += [kernel.disk.value, *(["Primary"] if kernel.role is Role.PRIMARY else [])]
    for word, holds in (
        ("frozen", kernel.frozen), ("connected", kernel.conn), ("daemon dead", node.state is None), ("slow", node.slow),
        ("lacks a write", kernel.missing),
    ):  # fmt: skip
        words += [word] if holds else []
    return f"{name} {' '.join(words)}"
