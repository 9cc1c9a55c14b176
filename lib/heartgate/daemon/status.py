"""What `heartgate status` shows, as plain data: from a running daemon, or from what it left on the disk."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Dict, List, Optional

from heartgate import __version__
from heartgate.core import codec, waiting
from heartgate.core.codec import CodecError
from heartgate.core.model import Disk, Link, Message, Record, Replica, Standing
from heartgate.daemon import params
from heartgate.daemon.store import Store

if TYPE_CHECKING:
    from heartgate.daemon.guard import Guard
    from heartgate.daemon.heartgated import Daemon

Data = Dict[str, Any]

SPEAKING_S = 3.0  # messages are repeated once a second


def of_daemon(daemon: Daemon, guards: Iterable[Guard]) -> Data:
    view, trouble = daemon.peers.view, daemon.name_trouble()
    now = time.monotonic()
    return {
        "ok": True,
        "daemon": "running",
        "version": __version__,
        "run": daemon.services.run,
        "node": daemon.me,
        "name_trouble": {"message": trouble.message, "remedy": trouble.remedy} if trouble is not None else None,
        "carrier": "connected" if daemon.peers.connected else "lost",
        "reachable": list(view.reachable) if view else [],
        "online": list(view.online) if view else [],
        "quorate": view.quorate if view else None,
        "beats_ms_ago": {node: int((now - at) * 1000) for node, at in sorted(daemon.peers.last_beat.items())},
        "counts": dict(daemon.peers.counts),
        "hung_operations": daemon.workers.hung,
        "devices": [_of_guard(daemon, guard) for guard in guards],
        "heartbeat_links": daemon.heartbeats.status(),
    }


def _of_guard(daemon: Daemon, guard: Guard) -> Data:
    state, config = guard.state, guard.config
    data = _of_record(config.device, state.record)
    data.update(
        shown=shown(state.record, state.replica),
        active=guard.active,
        published=daemon.publisher.told.get(config.device),
        policy=config.rank.value,
        on_isolation=config.on_isolation.value,
        bias_wanted=config.bias,
        bias_agreed=state.record.bias,
        priorities=dict(config.priorities),
        priority=config.priority(config.me),
        driver=guard.params.driver,
        role=state.replica.role.value,
        disk=state.replica.disk.value,
        frozen=state.replica.frozen,
        generation=state.replica.generation,
        sync_interfaces=daemon.links.of(guard),
        links={node: _link(state.replica, node) for node in config.nodes if node != config.me},
        peers={node: _peer(message) for node, message in state.heard},
        handlers=[{"handler": handler.handler, "peer": handler.peer} for handler in state.handlers],
        fence_asked=list(state.fence_asked),
        waiting_actions=guard.waiting,
        waits=waiting.waits_for(config, state),
        ends_wait=waiting.command_that_ends(config, state),
        persist_failure=guard.persist_failure,
        broken=list(guard.broken),
        rules=[{"at": at, "rule": rule, "detail": detail} for at, rule, detail in guard.last_rules],
        flush=guard.operations.flushed or daemon.services.store.load_note(config.device, "flush"),
        verdict=last_verdict(daemon.services.store, config.device),
    )
    return data


def for_fencing(daemon: Daemon, guards: Iterable[Guard], target: str) -> Data:
    """What `fence_heartgate` decides by. From memory alone: the disk may be what hangs."""
    return {"ok": True, "node": daemon.me, "devices": [_for_fencing(daemon, guard, target) for guard in guards]}


def _for_fencing(daemon: Daemon, guard: Guard, target: str) -> Data:
    state, device = guard.state, guard.device
    last, now = daemon.words.last(device, target), state.message_of(target)
    data = _of_record(device, state.record)
    data.update(
        policy=guard.config.rank.value,
        priorities=dict(guard.config.priorities),
        disk=state.replica.disk.value,
        link=state.replica.peer(target).link.value,
        believed_roles=sorted(role.value for role in daemon.words.believed_roles(device, target)),
        target=None if last is None else {**_peer(now or last), "live": now is not None},
        others={node: _third(message, target) for node, message in state.heard if node != target and _speaks(guard, node)},
    )
    return data


def _speaks(guard: Guard, node: str) -> bool:
    """A daemon that hangs stays a member of the group, and what it said last is no word of now."""
    return guard.contacts.silent_s(node) < SPEAKING_S


def _third(message: Message, target: str) -> Data:
    report = message.link_to(target)
    return {**_peer(message), "link": (report.link if report is not None else Link.UNKNOWN).value}


def _of_record(device: str, record: Record) -> Data:
    return {
        "device": device,
        "standing": record.standing.value,
        "shown": record.standing.value,
        "epoch": record.epoch,
        "in_sync": list(record.in_sync),
        "proofs": [{"node": proof.node, "kind": proof.kind.value, "epoch": proof.epoch} for proof in record.proofs],
        "promised_to": record.promised_to,
        "boot": record.boot,
    }


def shown(record: Record, replica: Replica) -> str:
    """A blocked replica that is connected and not yet up to date is being brought up to date."""
    connected = any(link.link is Link.UP for _, link in replica.peers)
    if record.standing is Standing.BLOCKED and connected and replica.disk is not Disk.UPTODATE:
        return "resyncing"
    return record.standing.value


def _link(replica: Replica, node: str) -> Data:
    link = replica.peer(node)
    return {"link": link.link.value, "incarnation": link.incarnation, "peer_disk": link.disk.value}


def _peer(message: Message) -> Data:
    return {
        "standing": message.standing.value,
        "epoch": message.epoch,
        "disk": message.disk.value,
        "role": message.role.value,
    }


def last_verdict(store: Store, device: str) -> Optional[Data]:
    """The last recorded step in which the record changed: when, why, by which rules."""
    try:
        entries = store.history(device)
    except OSError:
        return None
    for entry in reversed(entries):
        verdict = _verdict(entry)
        if verdict is not None:
            return verdict
    return None


def _verdict(entry: Any) -> Optional[Data]:
    try:
        event, actions = codec.value_from_json(entry["event"]), codec.value_from_json(entry["actions"])
        before = codec.value_from_json(entry["before"])
        at = int(entry["at"])
    except (CodecError, KeyError, TypeError, ValueError):
        return None
    records = [action.record for action in actions if hasattr(action, "record")]
    old = before.record if before is not None else None
    if not records or (old is not None and records[-1].standing is old.standing and records[-1].epoch == old.epoch):
        return None
    return {
        "at": at,
        "event": event if isinstance(event, str) else type(event).__name__,
        "from": old.standing.value if old is not None else None,
        "to": records[-1].standing.value,
        "epoch": records[-1].epoch,
        "rules": [action.rule for action in actions if hasattr(action, "rule")],
    }


def of_store(store: Store, device: Optional[str] = None) -> Data:
    """Without a daemon: what is persisted holds, what is volatile is not known."""
    devices: List[Data] = []
    for name in sorted({*store.devices(), *store.recorded_devices()}):
        if device in (None, name):
            devices.append(_of_files(store, name))
    return {"ok": True, "daemon": "not running", "version": __version__, "devices": devices}


def _of_files(store: Store, name: str) -> Data:
    try:
        record = store.read_record(name)
    except (CodecError, OSError) as error:
        return {"device": name, "standing": "unproven", "shown": "unproven", "error": str(error)}
    if record is None:
        return {"device": name, "standing": "unproven", "shown": "unproven", "error": "no record"}
    data = _of_record(name, record)
    data["flush"] = store.load_note(name, "flush")
    data["verdict"] = last_verdict(store, name)
    data["priorities"] = _saved_priorities(store, name)
    return data


def _saved_priorities(store: Store, name: str) -> Dict[str, int]:
    try:
        saved = store.read_config(name)
    except (CodecError, OSError):
        return {}
    checked = params.parse(saved.params)[0] if saved is not None else None
    return dict(checked.priorities) if checked is not None else {}


