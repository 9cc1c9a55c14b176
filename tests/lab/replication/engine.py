"""The replication daemon of the lab: one device, two nodes, DRBD's behaviour with `fencing resource-and-stonith`.

One thread (asyncio), so every change of state is one step: the step that notices the loss of the peer freezes a
primary. A write is acknowledged when it is on both copies; alone, only after `thaw` started a new generation.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any, Awaitable, Callable, Dict, List, Optional, Set

from .generations import Copy, direction, joined, new_generation
from .store import RECORD_BYTES, Store, load_configuration
from .wire import Json, Link, Refused, Write, is_alive

OPTIONS: Json = {"port": 7800, "fence_peer": "/usr/lib/heartgate/exec-fence-peer", "two_primaries": False,
                 "ping_interval_s": 0.2, "ping_timeout_s": 0.6, "connect_interval_s": 0.2, "resync_s": 0.0}


class Replica:
    def __init__(self, resource: str, node: str) -> None:
        self.resource, self.node = resource, node
        self.config: Json = {**OPTIONS, **load_configuration(resource)}
        self.peer = next(name for name in self.config["nodes"] if name != node)
        self.store = Store(resource)
        if not self.store.locked:
            raise SystemExit(f"replicad: {resource} is running already")
        self.store.load_records()
        self.state = self.store.state
        self.role, self.peer_role, self.peer_disk = "secondary", "unknown", "unknown"
        self.consistent = False  # True: the data are whole, but whether they are the newest is not known
        self.frozen = self.standalone = self.promoting = self.syncing = False
        self.error = ""
        self.link: Optional[Link] = None
        self.losses = 0
        self.writes: Dict[int, Write] = {}
        self.next_write = 0
        self.users: Dict[Link, int] = {}
        self.changed: Set[asyncio.Event] = set()
        self.thawed = asyncio.Event()
        self.thawed.set()
        self.votes: List[asyncio.Future[bool]] = []
        self.tasks: Set[asyncio.Task[Any]] = set()
        self.after_boot()

    def after_boot(self) -> None:
        if self.state["primary"]:
            self.state.update(loose=True, primary=False)
        if self.state["blocked"] and self.state["disk"] == "uptodate":
            self.state.update(disk="outdated", outdated_by_block=True)
        self.consistent = self.state["disk"] == "uptodate" and not self.state["peer_outdated"]
        if self.state["peer_outdated"]:
            self.peer_disk = "outdated"
        self.store.save()

    # --- what it is ---

    @property
    def disk(self) -> str:
        return "consistent" if self.consistent and self.state["disk"] == "uptodate" else str(self.state["disk"])

    def copy(self) -> Copy:
        state = self.state
        return Copy(self.node, state["current"], state["base"], tuple(state["history"]), state["disk"], self.role,
                    state["loose"])

    def take(self, copy: Copy) -> None:
        self.state.update(current=copy.current, base=copy.base, history=list(copy.history)[:32], loose=copy.loose)

    def facts(self) -> Json:
        return {"disk": self.disk, "role": self.role, "frozen": self.frozen, "generation": self.state["current"],
                "ancestors": list(self.copy().ancestors()),
                "peers": {self.peer: {"link": "up" if self.link else "down", "connection": self.state["connections"],
                                      "disk": self.peer_disk,
                                      "out_of_sync_bytes": len(self.store.dirty) * RECORD_BYTES}}}

    def status(self) -> Json:
        return {**self.facts(), "peer_role": self.peer_role, "standalone": self.standalone, "error": self.error,
                "blocked": self.state["blocked"], "pending": len(self.writes), "syncing": self.syncing}

    def notify(self) -> None:
        for event in self.changed:
            event.set()

    def commit(self) -> None:
        """Persist, and tell whoever watches and the peer."""
        self.store.save()
        if self.link:
            self.link.send({"say": "state", "role": self.role, "disk": self.disk})
        self.notify()

    def background(self, work: Awaitable[Any]) -> None:
        task: asyncio.Task[Any] = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    # --- writes ---

    def freeze(self) -> None:
        self.frozen = True
        self.thawed.clear()

    async def write(self, number: int, value: str) -> None:
        if self.role != "primary":
            raise Refused("read-only: this node is not primary")
        write = Write(number, value)
        self.next_write += 1
        self.writes[self.next_write] = write
        if not self.frozen:
            self.carry_out(self.next_write)
        await write.done

    def carry_out(self, key: int) -> None:
        write = self.writes[key]
        if self.link is None and write.number not in self.store.dirty:
            self.store.dirty.add(write.number)
            self.store.save()
        if not write.stored:
            self.store.put(write.number, write.value)
            write.stored = True
        if self.link is not None:
            self.link.send({"say": "write", "key": key, "number": write.number, "value": write.value})
        else:
            del self.writes[key]
            write.finish()

    def unfreeze(self) -> None:
        """Frozen writes go where writes go now: to the peer, or here alone under a new generation."""
        self.frozen = False
        self.thawed.set()
        for key in sorted(self.writes):
            self.carry_out(key)

    def thaw_alone(self) -> None:
        """As DRBD does when its handler returned 4 or 7."""
        self.take(new_generation(self.copy()))
        self.store.save()
        self.unfreeze()
        self.commit()

    # --- the peer is lost ---

    def lost(self, link: Link, why: str) -> None:
        if self.link is not link:
            return
        self.link, self.syncing = None, False
        link.close()
        self.losses += 1
        self.peer_role = self.peer_disk = "unknown"
        self.state["peer_outdated"] = False
        if self.role == "primary":
            self.freeze()
        self.error = why
        for vote in self.votes:
            if not vote.done():
                vote.set_result(False)
        self.commit()
        if self.role == "primary":
            self.background(self.fence_after_loss())

    async def fence_after_loss(self) -> None:
        loss = self.losses
        code = await self.fence_peer()
        if code in (4, 7) and loss == self.losses and self.link is None and self.frozen and not self.state["blocked"]:
            self.state["peer_outdated"], self.peer_disk = True, "outdated"
            self.thaw_alone()

    async def fence_peer(self) -> int:
        program = self.config["fence_peer"]
        if not program:
            return 1
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HEARTGATE_NODE": self.node,
                       "REPLICA_RESOURCE": self.resource, "REPLICA_PEER": self.peer}
        try:
            process = await asyncio.create_subprocess_exec(program, self.resource, self.peer, env=environment)
        except OSError as error:
            print(f"replicad: {program}: {error}", file=sys.stderr, flush=True)
            return 1
        return await process.wait()

    # --- meeting the peer ---

    async def serve_peer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(reader, writer)
        if self.standalone:
            link.close()
            return
        if self.link is not None:
            self.lost(self.link, "the peer connects anew")
        try:
            await asyncio.wait_for(self.handshake(link), self.config["ping_timeout_s"])
            await self.converse(link)
        except (ConnectionError, OSError, ValueError, asyncio.TimeoutError, asyncio.IncompleteReadError) as error:
            self.lost(link, f"{type(error).__name__} {error}".strip())
        finally:
            link.close()

    async def handshake(self, link: Link) -> None:
        """Both say what they have; the answer to `who is newer` is computed alike on both sides."""
        mine = self.copy()
        link.send({"say": "hello", "node": self.node, "current": mine.current, "base": mine.base,
                   "history": mine.history, "disk": mine.disk, "role": mine.role, "loose": mine.loose,
                   "discard": self.error == "discard"})
        hello = await link.receive()
        if mine != self.copy() or self.link is not None:
            raise ConnectionError("changed while meeting")
        theirs = Copy(hello["node"], hello["current"], hello["base"], tuple(hello["history"]), hello["disk"],
                      hello["role"], hello["loose"])
        verdict = direction(mine, theirs)
        if verdict in ("split", "unrelated") and (self.error == "discard") != hello["discard"]:
            verdict = "target" if self.error == "discard" else "source"
        if verdict in ("split", "unrelated"):
            self.stand_alone("split-brain" if verdict == "split" else "unrelated data")
        if verdict == "target" and self.role == "primary":
            self.stand_alone("would be the target of a resync, but is primary")
        if mine.role == theirs.role == "primary" and not self.config["two_primaries"]:
            self.stand_alone("both are primary")
        self.established(link, verdict, theirs)

    def stand_alone(self, why: str) -> None:
        self.standalone, self.error = True, why
        self.notify()
        raise ConnectionError(why)

    def established(self, link: Link, verdict: str, theirs: Copy) -> None:
        self.link, self.error = link, ""
        self.losses += 1
        self.state["connections"] += 1
        self.peer_role, self.peer_disk = theirs.role, theirs.disk
        self.state["peer_outdated"] = False
        self.syncing = verdict != "none"
        if verdict == "target":
            self.state["disk"] = "inconsistent"
        elif verdict == "source":
            self.peer_disk = "inconsistent"
            self.background(self.resync(link))
        else:
            self.equal(theirs)
        if self.state["disk"] == "uptodate":
            self.consistent = False
        self.commit()
        if self.frozen and not self.state["blocked"]:
            self.unfreeze()
            self.commit()

    def equal(self, theirs: Copy) -> None:
        """Same generation, same data. An outdated copy learns from an up-to-date one that it is not."""
        self.store.dirty.clear()
        self.take(joined(self.copy()))
        if self.state["disk"] == "outdated" and theirs.disk == "uptodate":
            self.brought_up_to_date()
        if theirs.disk == "outdated" and self.state["disk"] == "uptodate":
            self.peer_disk = "uptodate"

    def brought_up_to_date(self) -> None:
        """By the peer: that ends the mark which a block left on a secondary, as it does with DRBD."""
        self.state.update(disk="uptodate", outdated_by_block=False)
        if self.role == "secondary":
            self.state["blocked"] = False

    async def resync(self, link: Link) -> None:
        if self.config["resync_s"]:
            await asyncio.sleep(self.config["resync_s"])
        if self.link is link:
            link.send({"say": "all", "records": list(self.store.records.items()), "disk": self.state["disk"],
                       "current": self.state["current"], "history": list(joined(self.copy()).history)})

    async def converse(self, link: Link) -> None:
        self.background(self.keep_alive(link))
        while self.link is link:
            message = await link.receive()
            if self.link is link:
                self.hear(link, message)

    async def keep_alive(self, link: Link) -> None:
        while self.link is link:
            if time.monotonic() - link.heard > self.config["ping_timeout_s"]:
                self.lost(link, "ping timeout")
                return
            link.send({"say": "ping"})
            await asyncio.sleep(self.config["ping_interval_s"])

    def hear(self, link: Link, message: Json) -> None:
        word = message["say"]
        if word == "write":
            self.store.put(message["number"], message["value"])
            link.send({"say": "stored", "key": message["key"]})
        elif word == "stored":
            write = self.writes.pop(message["key"], None)
            if write is not None:
                write.finish()
        elif word == "state":
            self.peer_role = message["role"]
            if not self.syncing or message["disk"] != "uptodate":
                self.peer_disk = message["disk"]
            self.notify()
        elif word == "all":
            self.store.replace_all({int(number): value for number, value in message["records"]})
            self.store.dirty.clear()
            self.state.update(current=message["current"], base=None, history=message["history"], loose=False,
                              disk=message["disk"], outdated_by_block=False)
            if message["disk"] == "uptodate":
                self.brought_up_to_date()
            self.consistent = self.syncing = False
            self.peer_disk = message["disk"]
            self.commit()
            link.send({"say": "all-stored"})
        elif word == "all-stored":
            self.store.dirty.clear()
            self.take(joined(self.copy()))
            self.syncing, self.peer_disk = False, self.state["disk"]
            self.commit()
        elif word == "may-promote":
            busy = self.role == "primary" or (self.promoting and self.node < self.peer)
            link.send({"say": "vote", "yes": bool(self.config["two_primaries"]) or not busy})
        elif word == "vote":
            for vote in self.votes:
                if not vote.done():
                    vote.set_result(bool(message["yes"]))

    async def reconnect_for_ever(self) -> None:
        """The node whose name sorts first calls, the other one listens."""
        own, other = self.config["nodes"][self.node], self.config["nodes"][self.peer]
        if self.node > self.peer:
            self.server = await asyncio.start_server(self.serve_peer, own, self.config["port"], limit=1 << 26)
            return
        while True:
            if self.link is None and not self.standalone:
                try:
                    opening = asyncio.open_connection(other, self.config["port"], local_addr=(own, 0), limit=1 << 26)
                    reader, writer = await asyncio.wait_for(opening, 0.5)
                    await self.serve_peer(reader, writer)
                except (OSError, asyncio.TimeoutError):
                    pass
            await asyncio.sleep(self.config["connect_interval_s"])

    # --- roles and blocks ---

    async def promote(self) -> None:
        if self.role == "primary":
            return
        self.promoting = True
        try:
            await self._promote()
        finally:
            self.promoting = False

    async def _promote(self) -> None:
        self.may_promote()
        if self.link is None and not self.state["peer_outdated"]:
            loss = self.losses
            code = await self.fence_peer()
            self.may_promote()
            if self.link is None:
                if code not in (4, 7) or loss != self.losses:
                    raise Refused(f"unconnected, and the fence-peer program said {code} (4 or 7 would permit it)")
                self.state["peer_outdated"], self.peer_disk = True, "outdated"
        if self.link is not None:
            link = self.link
            vote: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self.votes.append(vote)
            link.send({"say": "may-promote"})
            allowed = await vote
            self.votes.remove(vote)
            self.may_promote()
            if not allowed or self.link is not link:
                raise Refused("the peer is primary or was lost")
        else:
            self.consistent = False
            self.take(new_generation(self.copy()))
        self.role = "primary"
        self.state["primary"] = True
        self.commit()

    def may_promote(self) -> None:
        if self.state["blocked"]:
            raise Refused("blocked")
        if self.state["disk"] != "uptodate":
            raise Refused(f"the disk is {self.state['disk']}")
        if self.peer_role == "primary" and not self.config["two_primaries"]:
            raise Refused("the peer is primary")

    def demote(self) -> None:
        if self.frozen or self.writes or self.users:
            raise Refused("busy: frozen" if self.frozen else "busy: it is in use")
        self.role = "secondary"
        self.state["primary"] = False
        self.commit()

    def outdate(self) -> None:
        if self.role == "primary":
            raise Refused("primary: cannot be outdated")
        if self.state["disk"] == "uptodate":
            self.state["disk"] = "outdated"
        self.commit()

    def block(self) -> Json:
        if self.role == "primary" and not self.frozen:
            raise Refused("primary and not frozen: block cannot be certain")
        if self.link is not None:
            self.lost(self.link, "blocked")
        self.state["blocked"] = True
        if self.role == "secondary" and self.state["disk"] == "uptodate":
            self.state.update(disk="outdated", outdated_by_block=True)
        self.commit()
        return {"how": "frozen" if self.role == "primary" else "outdated"}

    def unblock(self) -> None:
        if self.state["outdated_by_block"] and self.state["disk"] == "outdated":
            self.state["disk"] = "uptodate"
            self.consistent = self.link is None
        self.state.update(blocked=False, outdated_by_block=False)
        self.commit()
        if self.frozen and self.link is not None:
            self.unfreeze()
            self.commit()

    async def release(self) -> None:
        """Users die before their I/O fails: they must never see a success that a resync takes back."""
        if self.role == "secondary":
            return
        if not self.frozen:
            raise Refused("primary and not frozen: nothing to release")
        self.state.update(blocked=True, loose=True)
        self.store.save()
        deadline = time.monotonic() + 5
        while True:
            living = [pid for pid in set(self.users.values()) if is_alive(pid)]
            for pid in living:
                os.kill(pid, signal.SIGKILL)
            if not living:
                break
            if time.monotonic() > deadline:
                raise Refused(f"users do not die: {living}")
            await asyncio.sleep(0.01)
        if not self.frozen:
            raise Refused("it thawed meanwhile")
        for write in self.writes.values():
            write.finish("I/O error")
        self.writes.clear()
        self.role = "secondary"
        self.state.update(primary=False, disk="outdated", outdated_by_block=True)
        self.frozen = self.standalone = False
        self.thawed.set()
        if self.link is not None:  # meet anew, as the copy that this one is now
            self.lost(self.link, "released")
        self.commit()

    def disconnect(self) -> None:
        if self.link is not None:
            self.lost(self.link, "disconnect")
        elif self.frozen:
            self.losses += 1
            self.background(self.fence_after_loss())

    def thaw(self) -> None:
        if self.role != "primary" or not self.frozen:
            raise Refused("not a frozen primary")
        if self.state["blocked"]:
            raise Refused("blocked")
        self.state["peer_outdated"], self.peer_disk = True, "outdated"
        self.thaw_alone()

    def connect(self, discard_my_data: bool) -> None:
        if discard_my_data and self.role == "primary":
            raise Refused("primary: cannot discard its data")
        self.standalone = False
        self.error = "discard" if discard_my_data else ""
        self.notify()

    # --- control socket ---

    async def serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Link.__new__(Link)
        client.reader, client.writer, client.heard = reader, writer, 0.0
        sock = writer.get_extra_info("socket")
        pid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        try:
            while True:
                request = await client.receive()
                if request["op"] in ("open", "write"):
                    self.users[client] = pid
                if request["op"] == "watch":
                    await self.watch(client)
                try:
                    client.send({"ok": True, "value": await self.handle(request)})
                except Refused as refused:
                    client.send({"ok": False, "error": str(refused)})
                await writer.drain()
        except (ConnectionError, OSError, ValueError):
            pass
        finally:
            self.users.pop(client, None)
            client.close()

    async def watch(self, client: Link) -> None:
        event = asyncio.Event()
        self.changed.add(event)
        gone = asyncio.ensure_future(client.reader.read())
        last: Optional[Json] = None
        try:
            while not gone.done():
                event.clear()
                facts = self.facts()
                if facts != last:
                    client.send(facts)
                    last = facts
                waiting = asyncio.ensure_future(event.wait())
                await asyncio.wait({gone, waiting}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
        finally:
            self.changed.discard(event)
            gone.cancel()
        raise ConnectionError

    async def handle(self, request: Json) -> Any:
        operation = str(request["op"])
        simple: Dict[str, Callable[[], Any]] = {
            "status": self.status, "secondary": self.demote, "outdate": self.outdate, "block": self.block,
            "unblock": self.unblock, "disconnect": self.disconnect, "thaw": self.thaw,
            "connect": lambda: self.connect(bool(request.get("discard_my_data")))}
        if operation in simple:
            return simple[operation]()
        if operation == "primary":
            return await self.promote()
        if operation == "release":
            return await self.release()
        if operation == "write":
            return await self.write(int(request["number"]), str(request["value"]))
        if operation in ("open", "last", "read"):
            if self.role != "primary":
                raise Refused("this node is not primary")
            while self.frozen:
                await self.thawed.wait()
            if self.role != "primary":
                raise Refused("I/O error")
            if operation == "read":
                return self.store.records.get(int(request["number"]))
            return max(self.store.records, default=0)
        raise Refused(f"unknown operation {operation!r}")


async def run(resource: str, node: str) -> None:
    replica = Replica(resource, node)
    path = Path(f"/run/replicad/{resource}.sock")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(replica.serve_client, str(path))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    replica.background(replica.reconnect_for_ever())
    await stop.wait()
    server.close()
    path.unlink()
    os._exit(0)


def main() -> None:
    asyncio.run(run(sys.argv[1], os.environ.get("HEARTGATE_NODE") or socket.gethostname()))
