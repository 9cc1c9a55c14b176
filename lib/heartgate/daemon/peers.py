"""The other daemons: joining the group, sending, beats, receiving.

Everything new is sent at once. Twice a second there is a beat, empty or with half of the devices' newest messages, so
that each is repeated once a second. While the carrier is gone nobody can be heard; it is joined anew as soon as
Corosync is there.
"""

from __future__ import annotations

import time
from typing import Callable, Dict, List, Optional, Union

from heartgate.adapters.base import CarrierBusy, CarrierLost, Delivery, View
from heartgate.core import codec
from heartgate.core.codec import CodecError
from heartgate.core.model import Heard, Membership, Message, sorted_nodes
from heartgate.daemon.services import NamedCarrier, Services, why

BEAT_S = 0.5
BATCH_BYTES = 64 * 1024
BUSY_S = 0.01
JOIN_S = 5.0  # then it is said that Corosync does not answer
REJOIN_S = (0.2, 0.5, 1.0, 2.0)
NOTE_EVERY_S = 60.0


class Told:
    """The newest message of one device, encoded once."""

    __slots__ = ("fragment", "message")

    def __init__(self, message: Message) -> None:
        self.message = message
        self.fragment = codec.encode_message(message)


class Peers:
    """Loop thread only."""

    def __init__(
        self,
        services: Services,
        heard: Callable[[Heard], bool],
        membership: Callable[[Membership], None],
        joined: Callable[[str], None],
        alive: Callable[[str], None],
    ) -> None:
        self._services = services
        self._heard = heard  # False: no such device here
        self._membership = membership
        self._joined = joined
        self._alive = alive
        self._carrier: Optional[NamedCarrier] = None
        self._fd = -1
        self._told: Dict[str, Told] = {}
        self._outbox: Dict[str, Told] = {}
        self._flushing = False
        self._attempts = 0
        self._beat = 0
        self._last_note: Dict[str, float] = {}
        self.view: Optional[View] = None
        self.last_beat: Dict[str, float] = {}  # node -> monotonic time of its last sign of life
        self.counts: Dict[str, int] = {"sent": 0, "received": 0, "refused": 0, "unknown-device": 0, "busy": 0}

    # --- joining

    @property
    def connected(self) -> bool:
        return self._carrier is not None

    @property
    def unsent(self) -> bool:
        """Something new that could be sent has not been."""
        return self._carrier is not None and bool(self._outbox)

    def start(self) -> None:
        self._join()
        self._services.loop.after(BEAT_S, self._tick)

    def membership_now(self, me: str) -> Membership:
        view = self.view
        if view is None:
            return Membership((me,), (me,))
        return Membership(sorted_nodes((*view.reachable, me)), sorted_nodes((*view.online, me)))

    def _join(self) -> None:
        """In a worker: a stopped Corosync keeps it waiting without a limit. Whatever it comes to is taken, however late: a carrier
        that nobody holds would be a member of the group that nobody hears."""
        world, mailbox = self._services.world, self._services.loop.mailbox

        def work() -> None:
            result: Union[NamedCarrier, Exception]
            try:
                result = world.carrier()
            except Exception as error:  # noqa: BLE001 - told, and tried again
                result = error
            mailbox.post(lambda: self._made(result))

        self._services.workers.submit("carrier", work, self._waits, JOIN_S)

    def _waits(self, result: Union[None, Exception]) -> None:
        if isinstance(result, Exception):
            self._services.journal.send("carrier", f"cannot join the other daemons: Corosync does not answer ({why(result)})")

    def _made(self, result: Union[NamedCarrier, Exception]) -> None:
        if isinstance(result, Exception):
            if self._attempts == 0:
                self._services.journal.send("carrier", f"cannot join the other daemons: {why(result)}")
            pause = REJOIN_S[min(self._attempts, len(REJOIN_S) - 1)]
            self._attempts += 1
            self._services.loop.after(pause, self._join)
            return
        self._attempts = 0
        self._carrier, self._fd = result, result.fileno()
        self._services.loop.watch(self._fd, lambda _: self._receive())
        self._services.journal.send("carrier", f"joined the other daemons as {result.local}")
        self._joined(result.local)
        self._outbox = dict(self._told)
        self._schedule()

    def _lost(self, reason: str) -> None:
        carrier, self._carrier = self._carrier, None
        self._services.loop.forget(self._fd)
        if carrier is not None:
            carrier.close()
            self._services.journal.send("carrier", f"the carrier is gone, nobody can be heard: {reason}")
        self.view = None
        self.last_beat.clear()
        self._membership(Membership((), ()))
        self._services.loop.after(REJOIN_S[0], self._join)

    def close(self) -> None:
        if self._carrier is not None:
            self._services.loop.forget(self._fd)
            self._carrier.close()
            self._carrier = None

    # --- sending

    def send(self, message: Message) -> None:
        """At once; while the carrier is busy only the newest of each device is kept."""
        told = Told(message)
        self._told[message.device] = told
        self._outbox[message.device] = told
        self._schedule()

    def forget(self, device: str) -> None:
        self._told.pop(device, None)
        self._outbox.pop(device, None)

    def _schedule(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._services.loop.soon(self._flush)  # devices that change together travel together

    def _flush(self) -> None:
        self._flushing = False
        while self._outbox and self._carrier is not None:
            batch = self._batch(self._carrier.local)
            if not batch:
                return
            if not self._put([self._outbox[device].fragment for device in batch], self._outbox[batch[0]].message.run):
                return
            for device in batch:
                del self._outbox[device]

    def _batch(self, local: str) -> List[str]:
        """Of one run: the payload's head has it. What was told under another name of this node stays here: the others would
        take it for that of another node."""
        chosen: List[str] = []
        size, run = 0, ""
        self._outbox = {device: told for device, told in self._outbox.items() if told.message.sender == local}
        for device, told in self._outbox.items():
            if run not in ("", told.message.run):
                continue
            run = told.message.run
            size += len(told.fragment) + 1
            if chosen and (size > BATCH_BYTES or len(chosen) >= codec.MAX_MESSAGES):
                break
            chosen.append(device)
        return chosen

    def _put(self, fragments: List[bytes], run: str) -> bool:
        """False: not now; it will be tried again."""
        carrier = self._carrier
        if carrier is None:
            return False
        try:
            carrier.send(codec.encode_payload(carrier.local, run, fragments))
        except CarrierBusy:
            self.counts["busy"] += 1
            if not self._flushing:
                self._flushing = True
                self._services.loop.after(BUSY_S, self._flush)
            return False
        except CarrierLost as error:
            self._lost(str(error))
            return False
        self.counts["sent"] += 1
        return True

    def _tick(self) -> None:
        self._services.loop.after(BEAT_S, self._tick)
        if self._carrier is None:
            return
        self._beat += 1
        due = [device for number, device in enumerate(self._told) if (number + self._beat) % 2 == 0]
        if due:
            for device in due:
                self._outbox.setdefault(device, self._told[device])
            self._flush()
        elif not self._outbox:
            self._put([], self._services.run)

    # --- receiving

    def _receive(self) -> None:
        carrier = self._carrier
        if carrier is None:
            return
        try:
            arrived = carrier.dispatch()
        except CarrierLost as error:
            self._lost(str(error))
            return
        for item in arrived:
            if isinstance(item, View):
                self._changed(item)
            elif item.node != carrier.local:
                self._delivered(item)

    def _changed(self, view: View) -> None:
        newcomers = set(view.reachable) - set(self.view.reachable if self.view else ())
        self.view = view
        for node in list(self.last_beat):
            if node not in view.reachable:
                del self.last_beat[node]
        self._membership(Membership(sorted_nodes(view.reachable), sorted_nodes(view.online)))
        if newcomers:
            self._outbox = {**self._told, **self._outbox}
            self._schedule()

    def _delivered(self, delivery: Delivery) -> None:
        self.counts["received"] += 1
        try:
            sender, _, messages = codec.decode_payload(delivery.payload)
        except CodecError as error:
            self._refuse(delivery.node, f"message from {delivery.node} cannot be understood: {error}")
            return
        if sender != delivery.node:
            self._refuse(delivery.node, f"message from {delivery.node} claims to be from {sender}: dropped")
            return
        self.last_beat[sender] = time.monotonic()
        self._alive(sender)
        for message in messages:
            if not self._heard(Heard(message)):
                self._unknown_device(message)

    def _unknown_device(self, message: Message) -> None:
        self.counts["unknown-device"] += 1
        text = f"{message.sender} tells about {message.device}, which is not guarded here"
        self._note_rarely(f"device {message.device}", "unknown-device", text)

    def _refuse(self, node: str, text: str) -> None:
        self.counts["refused"] += 1
        self._note_rarely(f"node {node}", "bad-message", text)

    def _note_rarely(self, key: str, kind: str, text: str) -> None:
        now = time.monotonic()
        if now - self._last_note.get(key, -NOTE_EVERY_S) < NOTE_EVERY_S or len(self._last_note) > 1000:
            return
        self._last_note[key] = now
        self._services.journal.send(kind, text)


