"""The daemon's parts, put together: which devices are guarded, and which event goes to which part."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Dict, NamedTuple, Optional, Sequence, Set, Tuple, Union

from heartgate.adapters.base import AdapterError, Cluster, Problem
from heartgate.core.model import Config, Heard, Membership, Message, Record, Replica, ReplicaChanged
from heartgate.daemon import replicas
from heartgate.daemon.control import ControlServer
from heartgate.daemon.fences import Fences
from heartgate.daemon.guard import Guard, Outside, tell_all
from heartgate.daemon.heartbeats import Heartbeats
from heartgate.daemon.links import Links
from heartgate.daemon.loop import Loop
from heartgate.daemon.nudges import Nudges
from heartgate.daemon.peers import Peers
from heartgate.daemon.publisher import Publisher
from heartgate.daemon.registration import Refused, Settings, settings
from heartgate.daemon.requests import Requests
from heartgate.daemon.services import Services, World, why
from heartgate.daemon.sources import Sources
from heartgate.daemon.store import KeptAside, Saved, Store
from heartgate.daemon.words import Words
from heartgate.daemon.workers import TimedOut, Workers

UNREAD_S = 1.0
READ_S = 10.0
WIND_DOWN_S = 5.0  # with the rest of the end shorter than TimeoutStopSec of the unit
NEWS_S = 0.2  # of a loss that Pacemaker's stop has just caused: from the kernel, to the peer, and its question back
OWED_POLL_S = 0.05


class Kept(NamedTuple):
    """What the disk has of a device."""

    saved: Optional[Saved]
    saved_aside: Optional[KeptAside]
    record: Optional[Record]
    record_aside: Optional[KeptAside]


class Daemon:
    """Everything but the process around it (`heartgate.daemon.main`)."""

    def __init__(
        self, world: World, store: Store, socket: Path, workers: Optional[Workers] = None, alerts: Optional[Path] = None
    ) -> None:
        """alerts: the directory in which Pacemaker's alert agent can reach us; None: nowhere."""
        self.loop = Loop(self._failed, self._overflowed)
        self.workers = workers or Workers(self.loop, world.prepare_thread)
        self.services = Services(self.loop, self.workers, store, world, os.urandom(8).hex())
        self.guards: Dict[str, Guard] = {}
        self.me: Optional[str] = None
        self.called = ""  # what Corosync calls this node since it was joined last
        self.leaving: Set[str] = set()  # devices that are being forgotten
        self.unread: Set[str] = set()  # devices whose files could not be read yet
        self._runs: Dict[str, str] = {}  # of devices that were forgotten: a new guard must not be taken for the old one
        self._cluster: Optional[Cluster] = None
        self._reported: Dict[str, int] = {}
        self._winding_down = False
        self.words = Words()
        self.peers = Peers(self.services, self._heard, self._membership, self._joined, self.words.alive)
        self.publisher = Publisher(self.services, lambda: self._cluster)
        self.fences = Fences(self.services, lambda: self._cluster, lambda: self.guards.values())
        self.sources = Sources(self.services, self._replica_changed)
        self.links = Links(self.services, lambda: self.guards.values())
        self.heartbeats = Heartbeats(self, lambda: self._cluster, socket.parent)
        self.requests = Requests(self)
        self.control = ControlServer(self.loop, socket, self.requests.dispatch)
        self.nudges = Nudges(self.services, alerts, self.fences.nudged) if alerts is not None else None
        self._outside = Outside(
            send=self._send,
            answer=self.requests.answer_handler,
            ask_fence=self.fences.ask,
            publish=self.publisher.want,
            handlers=self.requests.handlers_of,
            changed=lambda guard: self.fences.record_changed(),
        )

    def start(self) -> None:
        """Guards what was guarded before, then looks for the others."""
        for device in self.services.store.devices():
            self._restore(device)
        self.peers.start()
        self.links.start()
        self.heartbeats.restore()
        self.fences.look()
        if self.nudges is not None:
            self.nudges.start()

    def wind_down(self) -> None:
        """Asked to end, as in a planned shutdown. Who waits for this node's answer gets it first: if it went without, that one
        would stand still until this node is back. Bounded, and asked once more it ends at once."""
        if self._winding_down:
            self.loop.stop()
            return
        self._winding_down = True
        self.loop.after(WIND_DOWN_S, self.loop.stop)
        self.loop.after(NEWS_S, self._end_if_nothing_is_owed)

    def _end_if_nothing_is_owed(self) -> None:
        if self.peers.unsent or any(guard.owes for guard in self.guards.values()):
            self.loop.after(OWED_POLL_S, self._end_if_nothing_is_owed)
        else:
            self.loop.stop()

    def close(self) -> None:
        """Thaws nothing: handlers lose their connection and ask the next daemon."""
        self.heartbeats.close()
        self.control.close()
        if self.nudges is not None:
            self.nudges.close()
        self.peers.close()
        self.sources.close()
        self.links.close()
        self.workers.close()
        self.loop.close()

    # --- which devices

    def find(self, device: str) -> Optional[Guard]:
        """By the resource's name, or as it was written in the parameter."""
        found = self.guards.get(device)
        if found is None and device.startswith("/"):
            found = next((guard for guard in self.guards.values() if guard.params.device == device), None)
        return found

    def guard(self, found: Settings, record: Optional[Record], active: bool = True) -> Guard:
        """Begin to guard a device, or take over new parameters. Raises AdapterError."""
        config, params, driver, _ = found
        device = config.device
        self.identify(config.me)
        self.sources.add(device, params.driver, params.exec_program, config.me)
        guard = self.guards.get(device)
        if guard is not None:
            guard.reconfigure(config, params, driver)
            guard.active = active
            guard.handle(self.peers.membership_now(config.me))  # what the new parameters say is told, and acted upon
            return guard
        guard = Guard(self.services, self._outside, config, params, driver, run=self._runs.get(device, ""))
        guard.active = active
        guard.begin(record)
        self.guards[device] = guard
        guard.handle(self.peers.membership_now(config.me))
        self.fences.look()
        return guard

    def _restore(self, device: str) -> None:
        """From the disk, without asking anybody: a restarted daemon guards at once. In the loop's thread: nothing else
        runs yet."""
        try:
            self._take_up(device, self._kept(device))
        except OSError as error:
            self._unreadable(device, error)

    def _kept(self, device: str) -> Kept:
        """Raises OSError."""
        store = self.services.store
        return Kept(*store.load_config(device), *store.load_record(device))

    def _take_up(self, device: str, kept: Kept) -> None:
        """Raises OSError."""
        self.report_aside(device, kept.saved_aside)
        self.report_aside(device, kept.record_aside)
        if kept.saved is None:
            return
        try:
            found = settings(self.services.world, kept.saved.params, kept.saved.me)
            for each in replicas.problems(found.config, replicas.recorded(kept.record)):
                self.services.journal.send("setup", f"{device}: {each.message}; {each.remedy}", device=device)
            self.guard(found, kept.record, kept.saved.active)
        except (Refused, AdapterError, ValueError) as error:
            text = f"{device}: its saved configuration cannot be used: {error}"
            self.services.journal.send("setup", text, device=device)

    def _unreadable(self, device: str, error: Exception) -> None:
        """Out of descriptors, say. What is there may be valid, so nothing is guessed: not guarded until it can be read, and
        until then its handlers wait."""
        if device not in self.unread:
            text = f"{device}: what was saved of it cannot be read: {why(error)}; it is not guarded until that works"
            self.services.journal.send("setup", text, device=device)
        self.unread.add(device)
        self.loop.after(UNREAD_S, lambda: self._read_again(device))

    def _read_again(self, device: str) -> None:
        def done(result: Union[Kept, Exception]) -> None:
            try:
                if isinstance(result, Exception):
                    raise result
                if device in self.leaving:
                    raise AdapterError("it is being forgotten")
                if device not in self.guards:  # registered meanwhile
                    self._take_up(device, result)
            except (OSError, AdapterError, TimedOut) as error:
                self._unreadable(device, error)
                return
            self.unread.discard(device)
            if device in self.guards:
                self.services.journal.send("daemon", f"{device}: read, and guarded after all", device=device)

        # In the lane that removes its files: read before and guarded after that, they would be as good as back.
        self.workers.submit(f"forget:{device}", lambda: self._kept(device), done, READ_S)

    def report_aside(self, device: str, aside: Optional[KeptAside]) -> None:
        if aside is not None:
            self.services.journal.send(
                "unproven",
                f"{device}: {aside.path}: {aside.reason}; kept as {aside.kept_as or 'it is'}, not believed",
                device=device,
                path=aside.path,
                reason=aside.reason,
            )

    def load(self, found: Settings) -> Tuple[Optional[Record], Optional[KeptAside]]:
        """For a device that is registered now: read its record, save its configuration. Blocks: worker thread. Raises
        AdapterError, OSError."""
        store, device = self.services.store, found.config.device
        if device in self.leaving:
            raise AdapterError(f"{device} is being forgotten (heartgate forget): try again")
        if self.me not in (None, found.config.me):
            raise AdapterError(f"this node was {found.config.me} and is {self.me} now: try again")
        try:
            record = store.load_record(device)
        except OSError as error:
            raise AdapterError(f"the record of {device} cannot be read: {why(error)}: try again") from None
        store.save_config(Saved(device, found.config.me, found.raw, True))
        return record

    def problems_before(self, config: Config) -> Sequence[Problem]:
        """What is wrong with it by what was registered before. Blocks: worker thread. Raises OSError."""
        guard = self.guards.get(config.device)
        before = replicas.known(self.services.store, config.device, guard.config if guard is not None else None)
        return replicas.problems(config, before)

    def drop(self, guard: Guard) -> None:
        """Guard it no more. Its files are another matter (`heartgate.daemon.forgetting`)."""
        device = guard.device
        guard.end()
        self.guards.pop(device, None)
        self._runs[device] = os.urandom(8).hex()
        self.sources.discard(device)
        self.peers.forget(device)
        self.words.forget(device)
        self.fences.forget(device)

    # --- this node's name

    def identify(self, me: str) -> None:
        """Of something that is registered, or was. Raises AdapterError."""
        if self.me not in (None, me):
            raise AdapterError(f"this node was {me} and is {self.me} now")
        if self.me is None:
            self._take(me)

    def _take(self, me: str) -> None:
        self.me = me
        self._cluster = self.services.world.cluster(me)

    def _joined(self, name: str) -> None:
        """Corosync was joined, and asked for this node's name: after a restart of Corosync it may be another one."""
        self.called = name
        self.settle_name(anew=True)

    def settle_name(self, anew: bool = False) -> None:
        """Take the name that Corosync has, unless a device is guarded under another one. anew: say so if it is."""
        old, new = self.me, self.called
        if not new or new == old:
            return
        trouble = self.name_trouble()
        if trouble is not None and anew:
            devices = " ".join(self.guards)
            self.services.journal.send(
                "renamed", f"{trouble.message}; {trouble.remedy}", before=old, name=new, devices=devices
            )
        if trouble is not None:
            return
        if old is not None:
            self.sources.close()
            self.services.journal.send(
                "renamed", f"Corosync calls this node {new} now; it was {old}: taken over, nothing is guarded under the old name",
                before=old, name=new,
            )  # fmt: skip
        self._take(new)
        self.heartbeats.renamed(new)

    def name_trouble(self) -> Optional[Problem]:
        """Devices are guarded under a name that Corosync does not have for this node any more."""
        me, called = self.me, self.called
        if me is None or not called or called == me or not self.guards:
            return None
        devices = sorted(self.guards)
        are = f"{' '.join(devices)} {'are' if len(devices) > 1 else 'is'}"
        return Problem(
            "node-renamed",
            f"Corosync calls this node {called} now, and {are} guarded here as {me}: the other nodes "
            f"cannot hear it under that name",
            f"give this node the name {me} back in corosync.conf on all nodes, and restart Corosync; or, for the name {called}: "
            f"delete the resource, `{'; '.join(f'heartgate forget {device}' for device in devices)}` on every node, and create it "
            f'anew with {called} in priorities (docs/operations.md, "Another name for a node")',
        )

    # --- events

    def _heard(self, heard: Heard) -> bool:
        guard = self.guards.get(heard.message.device)
        if guard is None or heard.message.sender not in guard.config.nodes:
            return False
        self.words.heard(heard.message)
        if guard.state.message_of(heard.message.sender) != heard.message:  # a mere repetition tells nothing
            guard.handle(heard)
        else:
            guard.contacts.still_there(heard.message.sender)
        return True

    def _send(self, message: Message) -> None:
        self.words.told(message)
        self.peers.send(message)

    def _membership(self, event: Membership) -> None:
        me = self.me
        if me is not None:
            tell_all(self.guards.values(), self.peers.membership_now(me))
        self.fences.look()

    def _replica_changed(self, device: str, replica: Replica) -> None:
        guard = self.guards.get(device)
        if guard is not None and replica != guard.state.replica:
            guard.handle(ReplicaChanged(replica))

    # --- trouble

    def _failed(self, where: str, error: BaseException) -> None:
        count = self._reported[where] = self._reported.get(where, 0) + 1
        if count <= 3 or count % 1000 == 0:
            trace = error.__traceback__
            place = ""
            while trace is not None:
                place, trace = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}", trace.tb_next
            self.services.journal.send("internal", f"{where} failed: {why(error)} at {place} (occurrence {count})")

    def _overflowed(self, lost: int) -> None:
        self.services.journal.send("source-lost", f"{lost} events were lost: all facts are unknown until told anew")
        self.sources.unknown()


