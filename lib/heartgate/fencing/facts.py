"""Facts for `heartgate.core.fencing`: from the daemon if it answers soon, else from what it has left on the disk."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Tuple

from heartgate.adapters import disk_beats
from heartgate.core import policy
from heartgate.core.codec import CodecError
from heartgate.core.fencing import DeviceFacts, Facts, Other, Word
from heartgate.core.model import Config, Disk, Link, Rank, Role, Standing
from heartgate.daemon import client, params
from heartgate.daemon.store import Store

ASK_S = 3.0
STATE_DIR = Path("/var/lib/heartgate")
COROSYNC_CONF = Path("/etc/corosync/corosync.conf")
CIB = ("cibadmin", "--query", "--local")  # what this node has itself, also where no DC can be asked
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Places(NamedTuple):
    """Where to look. Tests have their own."""

    socket: str = client.SOCKET
    state: Path = STATE_DIR
    corosync: Path = COROSYNC_CONF
    beats: Path = disk_beats.PATH
    boot_id: Path = BOOT_ID
    cib: Tuple[str, ...] = CIB


class Known(NamedTuple):
    """Everything that this node knows. devices: (facts, its nodes; empty if not known). notes: for people."""

    me: str
    devices: Tuple[Tuple[DeviceFacts, Tuple[str, ...]], ...]
    source: str
    notes: Tuple[str, ...]

    @property
    def nodes(self) -> Tuple[str, ...]:
        return tuple(sorted({node for _, nodes in self.devices for node in nodes}))


def gather(target: str, places: Places) -> Known:
    """Never raises for what it finds: what cannot be read is not known, and is noted."""
    try:
        return _of_daemon(_asked(target, places.socket), target)
    except client.Unreachable as error:
        reason = str(error)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"its answer makes no sense ({type(error).__name__}: {error})"
    return _of_store(target, places, f"heartgated does not answer ({reason}); deciding by what is on the disk")


def facts(action: str, target: str, wanted: Tuple[str, ...], hold: bool, known: Known, places: Places) -> Tuple[Facts, str]:
    """The facts about the devices that both nodes hold (or that were named), and what is wrong with the disk heartbeats."""
    beat, wrong = disk_beats.read_fresh(target, disk_beats.monotonic_ms(), places.beats)
    held = [item for item in known.devices if not wanted or item[0].device in wanted]
    shared = [device for device, nodes in held if not nodes or target in nodes]
    devices = tuple(_with_beat(device, beat) for device in sorted(shared, key=lambda device: device.device))
    lacking = tuple(name for name in wanted if name not in {device.device for device, _ in known.devices})
    return Facts(action, known.me, target, devices, bool(known.devices), lacking, hold), wrong


def _with_beat(device: DeviceFacts, beat: Optional[disk_beats.DiskBeat]) -> DeviceFacts:
    """A fresh disk heartbeat is as good as being heard."""
    if beat is None or device.device not in beat.devices:
        return device
    standing, epoch = beat.devices[device.device]
    return device._replace(target=Word(standing, epoch, True), solo_on_disk=standing is Standing.SOLO)


# --- the daemon


def _asked(target: str, socket: str) -> Mapping[str, Any]:
    answer = json.loads(client.ask(client.request("fencing", node=target), ASK_S, socket))
    if answer.get("ok") is not True:
        raise ValueError(str(answer.get("error")))
    return dict(answer)


def _of_daemon(data: Mapping[str, Any], target: str) -> Known:
    me = str(data["node"] or os.uname().nodename)
    return Known(me, tuple(_of_guard(me, target, item) for item in data["devices"]), "daemon", ())


def _of_guard(me: str, target: str, item: Mapping[str, Any]) -> Tuple[DeviceFacts, Tuple[str, ...]]:
    priorities = {str(node): int(value) for node, value in item["priorities"].items()}
    said = item["target"]
    device = DeviceFacts(
        device=str(item["device"]),
        standing=Standing(item["standing"]),
        epoch=int(item["epoch"]),
        in_sync=tuple(item["in_sync"]),
        disk=Disk(item["disk"]),
        link=Link(item["link"]),
        policy=Rank(item["policy"]),
        before_target=priorities[me] < priorities.get(target, 0),
        own_roles=frozenset(Role(role) for role in item["believed_roles"]),
        target_role=Role(said["role"]) if said else Role.UNKNOWN,
        target=Word(Standing(said["standing"]), int(said["epoch"]), said["live"] is True) if said else None,
        promised_to=str(item.get("promised_to", "")),
        others=tuple(_other(str(node), told) for node, told in sorted(item.get("others", {}).items()) if node in priorities),
    )
    return device, tuple(priorities)


def _other(node: str, told: Mapping[str, Any]) -> Other:
    """A shot may rest on this: nothing is made to fit."""
    epoch = told["epoch"]
    if type(epoch) is not int:
        raise TypeError(f"the epoch of {node} is {epoch!r:.40}")
    return Other(node, Standing(told["standing"]), epoch, Disk(told["disk"]), Link(told["link"]))


# --- the disk


def _of_store(target: str, places: Places, note: str) -> Known:
    store, notes = Store(places.state, create=False), [note]
    me, found = os.uname().nodename, []
    try:
        names = sorted({*store.devices(), *store.recorded_devices()})
        boot = places.boot_id.read_text(encoding="ascii").strip()
    except OSError as error:
        return Known(me, (), "nothing", (note, f"{error.filename}: {error.strerror}"))
    for name in names:
        me, device, nodes = _of_files(store, name, target, boot, me, notes)
        found.append((device, nodes))
    return Known(me, tuple(found), "disk" if found else "nothing", tuple(notes))


def _of_files(
    store: Store, name: str, target: str, boot: str, me: str, notes: List[str]
) -> Tuple[str, DeviceFacts, Tuple[str, ...]]:
    device, nodes = DeviceFacts(name), tuple[str, ...]()
    try:
        saved = store.read_config(name)
        checked = params.parse(saved.params)[0] if saved is not None else None
        if saved is not None and checked is not None:
            me, order = saved.me, dict(checked.priorities)
            nodes = tuple(order)
            before = order.get(me, 0) < order.get(target, 0)
            device = device._replace(policy=checked.policy, before_target=before)
        else:
            notes.append(f"{name}: its configuration is not known")
    except (CodecError, OSError) as error:
        notes.append(f"{name}: its configuration cannot be read: {error}")
    try:
        record = store.read_record(name)
        if record is None:
            notes.append(f"{name}: there is no record of its standing")
        else:
            worth = policy.booted(Config(name, me, ()), record, boot)
            device = device._replace(standing=worth.standing, epoch=worth.epoch, in_sync=worth.in_sync)
    except (CodecError, OSError) as error:
        notes.append(f"{name}: the record of its standing cannot be read: {error}")
    return me, device, nodes


# --- Corosync


def cluster_nodes(path: Path) -> Optional[Tuple[str, ...]]:
    """Names of all nodes in corosync.conf; None if it cannot be read (nor be understood: Corosync would refuse it as well) or
    does not name them all."""
    from heartgate.checks import corosync_conf  # not for `monitor`, which runs again and again and asks for no node
    from heartgate.checks.source import ParseError

    try:
        conf = corosync_conf.parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError, ParseError):
        return None
    names = tuple(node.name for node in conf.nodes)
    return names if names and all(names) else None
