"""`heartgate forget`: a device that was guarded here is guarded no more, and what was kept of it is removed.

What a person is shown comes from here, and so does what speaks against it. As with `mark-synchronized`, the order carries the
node's name where somebody has to have confirmed it, and what had been shown (`seen`): a confirmation is good for that only.

Order: the guard ends, its work comes to rest, Pacemaker's attribute is withdrawn, the files are removed, the record last.
Interrupted before that, the next daemon finds the record. What goes wrong puts the guard back as a restart would.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Callable, Dict, FrozenSet, List, NamedTuple, Optional, Tuple, Union

from heartgate.core.codec import CodecError, is_name
from heartgate.core.model import Record, Role, Standing
from heartgate.core.verdict import CURRENT
from heartgate.daemon.control import Client
from heartgate.daemon.guard import Guard
from heartgate.daemon.registration import Settings
from heartgate.daemon.services import why
from heartgate.daemon.store import Saved, Store

if TYPE_CHECKING:
    from heartgate.daemon.heartgated import Daemon

LOOK_S = 10.0
QUIET_S = 12.0  # longer than a block or a write of the record may take
WITHDRAW_S = 5.0
REMOVE_S = 10.0
POLL_S = 0.05
SILENT_S = 3.0  # messages are repeated once a second; who lives on and tells nothing of the device has forgotten it
STAY_FROZEN = 1

Data = Dict[str, Any]


class Files(NamedTuple):
    """What lies on the disk. trouble: why the record cannot be read."""

    saved: Optional[Saved]
    record: Optional[Record]
    names: Tuple[str, ...]
    trouble: str = ""


class Caution(NamedTuple):
    """Why a person has to confirm it. code: stable, part of what was shown."""

    code: str
    text: str


class Forgetting:
    """Loop thread only."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def show(self, client: Client, request: Mapping[str, Any]) -> None:
        self._with_files(client, request, lambda device, files: client.reply(self._shown(device, files)))

    def forget(self, client: Client, request: Mapping[str, Any]) -> None:
        self._with_files(client, request, lambda device, files: self._decide(client, request, device, files))

    def _with_files(self, client: Client, request: Mapping[str, Any], then: Callable[[str, Files], None]) -> None:
        asked = str(request.get("device", ""))
        guard, store = self._daemon.find(asked), self._daemon.services.store
        device = guard.device if guard is not None else asked
        if not is_name(device):
            client.reply({"ok": False, "unknown": True, "error": f"{asked!r:.80} is no device's name"})
            return

        def done(result: Union[Files, Exception]) -> None:
            if isinstance(result, Exception):
                client.reply({"ok": False, "error": f"what is kept of {device} cannot be read: {why(result)}"})
            elif not result.names and device not in self._daemon.guards:
                client.reply({"ok": False, "unknown": True, "error": f"nothing is kept of {device} on this node"})
            else:
                then(device, result)

        self._daemon.workers.submit(f"look:{device}", lambda: read(store, device), done, LOOK_S)

    # --- what there is

    def _shown(self, device: str, files: Files) -> Data:
        guard = self._daemon.guards.get(device)
        record = guard.state.record if guard is not None else files.record
        cautions = self._cautions(device, files)
        data: Data = {
            "ok": True,
            "device": device,
            "node": self._daemon.me or (files.saved.me if files.saved is not None else "this node"),
            "guarded": guard is not None,
            "standing": record.standing.value if record is not None else "",
            "epoch": record.epoch if record is not None else 0,
            "in_sync": list(record.in_sync) if record is not None else [],
            "files": list(files.names),
            "attribute": attribute(device),
            "published": self._daemon.publisher.told.get(device),
            "refusal": self._refusal(device, files),
            "cautions": [each.text for each in cautions],
            "seen": self._seen(device, files, cautions),
            "peers": {},
        }
        if guard is not None:
            replica = guard.state.replica
            data.update(disk=replica.disk.value, role=replica.role.value, generation=replica.generation)
            speaking = self._speaking(guard)
            data["peers"] = {node: _peer(guard, node, node in speaking) for node in guard.config.nodes if node != guard.config.me}
        return data

    def _seen(self, device: str, files: Files, cautions: List[Caution]) -> str:
        guard = self._daemon.guards.get(device)
        record = guard.state.record if guard is not None else files.record
        head = f"{record.standing.value} {record.epoch}" if record is not None else "no record"
        return " ".join([f"{head}:", *sorted(each.code for each in cautions)])

    def _refusal(self, device: str, files: Files) -> str:
        guard, saved = self._daemon.guards.get(device), files.saved
        if device in self._daemon.leaving:
            return f"{device} is being forgotten already"
        if guard.active if guard is not None else saved is not None and saved.active:
            return (
                f"replica-guard is registered for {device} on this node: stop it first (`pcs resource disable RESOURCE`, `crm "
                f"resource stop RESOURCE`; deleting it stops it too). If Pacemaker has no such resource any more, and heartgated "
                f"did not run when it was stopped: `OCF_RESKEY_device={device} "
                f"/usr/lib/ocf/resource.d/heartgate/replica-guard stop`"
            )
        if guard is not None and guard.persist_failure:
            return f"nothing can be written here now ({guard.persist_failure}): make /var/lib/heartgate writable first"
        return ""

    def _cautions(self, device: str, files: Files) -> List[Caution]:
        guard = self._daemon.guards.get(device)
        if guard is None:
            if files.trouble:
                return [Caution("unreadable", f"its record cannot be read ({files.trouble}): it may have been blocked")]
            return of_record(device, files.record) or of_nobody_watched(files.record)
        return [*of_record(device, guard.state.record), *of_facts(guard, self._speaking(guard))]

    def _speaking(self, guard: Guard) -> FrozenSet[str]:
        """Who speaks of this device still. The policy keeps the last word of every node that lives; one that is slow is no
        one that has forgotten it."""
        now, beats = time.monotonic(), self._daemon.peers.last_beat
        return frozenset(
            node for node, _ in guard.state.heard if guard.contacts.silent_s(node) - (now - beats.get(node, 0.0)) < SILENT_S
        )

    # --- doing it

    def _decide(self, client: Client, request: Mapping[str, Any], device: str, files: Files) -> None:
        me, given = self._shown(device, files)["node"], request.get("node")
        cautions = self._cautions(device, files)
        reason = self._refusal(device, files)
        if not reason and given is not None and given != me:
            reason = f"the order names {given!r:.70}, and this node is {me}"
        elif not reason and not _good_for(str(request.get("seen", "")), self._seen(device, files, cautions)):
            reason = f"what is known of {device} has changed since it was shown, or was not shown: look again"
        elif not reason and cautions and given is None:
            reason = f"not without a person's word: {'; '.join(each.text for each in cautions)}"
        by = f"uid {request.get('uid', '?')!s:.12}"
        self._tell(device, f"forget {device}" + (f" refused: {reason}" if reason else ""), by)
        if reason:
            client.reply({"ok": False, "error": reason})
        else:
            Leaving(self._daemon, client, device, files, by, given is not None).start()

    def _tell(self, device: str, command: str, by: str) -> None:
        self._daemon.services.journal.send("operator", f"{device}: {command} ({by})", device=device, command=command)


class Leaving:
    """One device on its way out. Loop thread only."""

    def __init__(self, daemon: Daemon, client: Client, device: str, files: Files, by: str, confirmed: bool) -> None:
        self._daemon, self._client, self._device, self._by, self._confirmed = daemon, client, device, by, confirmed
        self._guard: Optional[Guard] = None
        self._standing, self._epoch = (files.record.standing.value, files.record.epoch) if files.record else ("", -1)
        self._withdrawn = False

    def start(self) -> None:
        daemon, device = self._daemon, self._device
        daemon.leaving.add(device)
        self._guard = daemon.guards.get(device)
        if self._guard is not None:
            record = self._guard.state.record
            self._standing, self._epoch = record.standing.value, record.epoch
            if self._guard.waiting:
                self._guard = None  # it goes on as it was
                self._failed("its record is being written just now: try again")
                return
            daemon.drop(self._guard)
            daemon.requests.let_go(device, STAY_FROZEN, "the device is being forgotten")
        self._when_quiet(QUIET_S)

    def _when_quiet(self, left_s: float) -> None:
        """What was ordered before must not write a file, or touch the replica, after it."""
        daemon, device = self._daemon, self._device
        lanes = ("register", "notes", *(f"{lane}:{device}" for lane in ("record", "driver", "contacts", "flush")))
        busy = [lane for lane in lanes if daemon.workers.busy(lane)]
        if busy and left_s <= 0:
            self._failed(f"an operation has not come to its end ({', '.join(busy)}): try again")
        elif busy:
            daemon.loop.after(POLL_S, lambda: self._when_quiet(left_s - POLL_S))
        elif device in daemon.guards:
            self._guard = None
            self._failed("it was registered again meanwhile")
        else:
            self._withdraw()

    def _withdraw(self) -> None:
        """Pacemaker may not run, and has forgotten the attribute then: it is not waited for long, and tried until it is done."""
        publisher, device = self._daemon.publisher, self._device
        going: List[bool] = []

        def go_on(withdrawn: bool) -> None:
            if not going:
                going.append(withdrawn)
                self._withdrawn = withdrawn
                self._remove()

        if publisher.told.get(f"{device}-flush") is not None:
            publisher.want(f"{device}-flush", None)
        publisher.want(device, None, lambda: go_on(True))
        self._daemon.loop.after(WITHDRAW_S, lambda: go_on(False))

    def _remove(self) -> None:
        store, device = self._daemon.services.store, self._device
        self._daemon.workers.submit(f"forget:{device}", lambda: store.forget(device), self._removed, REMOVE_S)

    def _removed(self, result: Union[None, Exception]) -> None:
        if result is not None:
            self._failed(f"its files cannot be removed: {why(result)}")
            return
        daemon, device = self._daemon, self._device
        daemon.leaving.discard(device)
        word = "a person confirmed it" if self._confirmed else "nothing spoke against it"
        if self._guard is not None:
            self._guard.history.done("forgotten", True, f"{word}; {self._by}")
        daemon.services.journal.send(
            "forgotten",
            f"{device}: forgotten; it was {self._standing or 'without a record'}, epoch {self._epoch}; {word} ({self._by})",
            device=device, epoch=self._epoch, standing=self._standing, by=self._by, confirmed=self._confirmed,
        )  # fmt: skip
        daemon.settle_name()
        self._client.reply({"ok": True, "device": device, "withdrawn": self._withdrawn})

    def _failed(self, reason: str) -> None:
        daemon, guard = self._daemon, self._guard
        daemon.leaving.discard(self._device)
        text = f"not done: {reason}"
        if guard is not None:
            config, params, driver = guard.config, guard.params, guard.operations.driver
            try:
                daemon.guard(Settings(config, params, driver, {}), guard.persisted, guard.active)
            except Exception as error:  # noqa: BLE001 - whatever it is, the person has to know
                text += f"; and it could not be guarded again ({why(error)}): systemctl restart heartgated"
        daemon.services.journal.send("operator", f"{self._device}: forget: {text}", device=self._device, command="forget")
        self._client.reply({"ok": False, "error": text})


# --- what there is, and what speaks against it


def read(store: Store, device: str) -> Files:
    """Blocks: worker thread. Raises OSError."""
    record, saved, trouble = None, None, ""
    try:
        record = store.read_record(device)
    except CodecError as error:
        trouble = str(error)
    try:
        saved = store.read_config(device)
    except CodecError:
        saved = None
    return Files(saved, record, tuple(store.kept(device)), trouble)


def of_record(device: str, record: Optional[Record]) -> List[Caution]:
    """By the standing. `synced` has nothing to lose."""
    if record is None or record.standing is Standing.SYNCED:
        return []
    epoch, other = record.epoch, record.promised_to or "another node"
    text = {
        Standing.BLOCKED: f"this copy is BLOCKED: {other} was allowed to go on without it (epoch {epoch}), so what was written "
        f"there may be missing here. Forgotten, nothing of heartgate keeps this old copy from being promoted",
        Standing.UNPROVEN: "this copy is UNPROVEN: it is not known whether another node went on without it, so it may be old. "
        "Forgotten, nothing of heartgate keeps it from being promoted",
        Standing.DECIDING: f"{device} is being decided about (epoch {epoch}): forgotten here, it stays frozen, and the others wait "
        f"for this node's answer until it is fenced",
        Standing.SOLO: f"this copy is SOLO (epoch {epoch}): only its record says that the others lack what was written here. "
        f"Forgotten before they are up to date again, an older copy may be chosen",
    }[record.standing]
    return [Caution(record.standing.value, text)]


def of_nobody_watched(record: Optional[Record]) -> List[Caution]:
    """`synced`, and no guard: another node may have gone on since it was written."""
    if record is None:
        return []
    text = f"its record says {record.standing.value}, and nothing has guarded it since: another node may have gone on without it"
    return [Caution("unwatched", f"{text}, so this copy may be old")]


def of_facts(guard: Guard, speaking: FrozenSet[str]) -> List[Caution]:
    """By what is known beside the record."""
    found, device, state = [], guard.device, guard.state
    if state.replica.role is Role.PRIMARY:
        text = f"{device} is Primary here: Pacemaker demotes it as soon as {attribute(device)} is gone, if the location rule for it"
        found.append(Caution("in-use", f"{text} is there still"))
    if state.handlers:
        found.append(Caution("handler", "a replication handler waits for an answer: it gets 1 (the device stays frozen)"))
    if guard.broken:
        text = f"its steps are refused ({'; '.join(guard.broken)}): what it says of its standing may be out of date"
        found.append(Caution("stopped", text))
    for node, said in state.heard:
        if said.standing in CURRENT and guard.config.me in said.in_sync and node in speaking:
            text = (
                f"{node} says that it is {said.standing.value} and in sync with this copy (epoch {said.epoch}): if it loses the "
                f"replication before {device} is forgotten there too, it waits for an answer of this node, and has it fenced"
            )
            found.append(Caution(f"in-sync:{node}", text))
    return found


def attribute(device: str) -> str:
    """Name of the node attribute, for people."""
    return f"heartgate-{device}"


def _good_for(shown: str, now: str) -> bool:
    """The same record, and nothing speaks against it that was not shown. (What spoke against it then may have gone.)"""
    (head_then, _, codes_then), (head_now, _, codes_now) = shown.partition(":"), now.partition(":")
    return head_then == head_now and set(codes_now.split()) <= set(codes_then.split())


def _peer(guard: Guard, node: str, speaks: bool) -> Data:
    said = guard.state.message_of(node)
    told = f"{said.standing.value}, epoch {said.epoch}, disk {said.disk.value}" if said is not None and speaks else ""
    return {"link": guard.state.replica.peer(node).link.value, "says": told}
