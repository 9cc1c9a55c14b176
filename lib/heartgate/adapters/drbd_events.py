"""What `drbdsetup events2` says, as pure functions and a table: no process is started here.

Format: `ACTION OBJECT key:value ...`, the dump ends with `exists -`; `- skipped N` says that the kernel's messages did
not come in the order of their numbers: either some were lost, or they overtook each other and the N add up to 0 (seen
at every second loss of a connection, where the call of the handler and a change of state overtake each other). Read in
drbd-utils 9.22 (drbdsetup for DRBD 9, and its 8.4 twin, which always writes `peer-node-id:0 conn-name:peer`, since 8.4
knows one peer only) and seen on 8.4.11.
"""

from __future__ import annotations

from typing import Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple

from heartgate.core.model import Disk, Link, PeerLink, Replica, Role

ACTIONS = frozenset({"exists", "create", "change", "destroy", "call", "response"})
OBJECTS = frozenset({"resource", "connection", "device", "peer-device", "path", "helper"})

DISKS: Mapping[str, Disk] = {
    "UpToDate": Disk.UPTODATE,
    "Consistent": Disk.CONSISTENT,
    "Outdated": Disk.OUTDATED,
    "Inconsistent": Disk.INCONSISTENT,
    "Diskless": Disk.DISKLESS,
    "Attaching": Disk.DISKLESS,
    "Detaching": Disk.DISKLESS,
    "Failed": Disk.DISKLESS,
}
# The data of a resource with several volumes is as good as its worst volume.
WORST_FIRST = (
    Disk.UNKNOWN,
    Disk.ABSENT,
    Disk.DISKLESS,
    Disk.INCONSISTENT,
    Disk.OUTDATED,
    Disk.CONSISTENT,
    Disk.UPTODATE,
)
ROLES: Mapping[str, Role] = {"Primary": Role.PRIMARY, "Secondary": Role.SECONDARY}
DOWN_WORDS = frozenset(
    [
        "StandAlone",
        "Disconnecting",
        "Unconnected",
        "Timeout",
        "BrokenPipe",
        "NetworkFailure",
        "ProtocolError",
        "TearDown",
        "Connecting",
        "WFConnection",
        "WFReportParams",
    ]
)
# Replication states in which every write reaches the peer before it is acknowledged (protocol C), or a resync gets it
# there. Not Ahead and Behind: those let the peer fall back.
REPLICATING = frozenset(
    [
        "Established",
        "StartingSyncS",
        "StartingSyncT",
        "WFBitMapS",
        "WFBitMapT",
        "WFSyncUUID",
        "SyncSource",
        "SyncTarget",
        "VerifyS",
        "VerifyT",
        "PausedSyncS",
        "PausedSyncT",
    ]
)
SUSPENDED_WORDS = frozenset({"user", "no-data", "fencing", "quorum"})


class Unreadable(ValueError):
    """A line that is not understood: the facts have to be read anew."""


class Event(NamedTuple):
    action: str
    object: str  # "-" at the end of the dump, "skipped" for a gap
    fields: Mapping[str, str]


def parse_line(line: bytes) -> Event:
    """Raises Unreadable."""
    try:
        words = line.decode("ascii").split()
    except UnicodeDecodeError as error:
        raise Unreadable(f"not ASCII: {line[:80]!r}") from error
    if len(words) == 3 and words[:2] == ["-", "skipped"] and words[2].lstrip("-").isdigit() and len(words[2]) < 12:
        return Event("-", "skipped", {"count": words[2]})
    if len(words) < 2 or words[0] not in ACTIONS:
        raise Unreadable(f"unknown action: {line[:80]!r}")
    action, kind = words[0], words[1]
    if kind == "-":
        return Event(action, kind, {})
    if kind not in OBJECTS:
        raise Unreadable(f"unknown object: {line[:80]!r}")
    fields: Dict[str, str] = {}
    for word in words[2:]:
        key, colon, value = word.partition(":")
        if not colon or not key:
            raise Unreadable(f"not key:value: {line[:80]!r}")
        fields[key] = value
    if kind != "helper" and "name" not in fields:
        raise Unreadable(f"names no resource: {line[:80]!r}")
    return Event(action, kind, fields)


def disk_of(word: str) -> Disk:
    return DISKS.get(word, Disk.UNKNOWN)


def worst(disks: Iterable[Disk]) -> Disk:
    return min(disks, key=WORST_FIRST.index)


def frozen_of(suspended: Optional[str]) -> Optional[bool]:
    """`no`, or a list of reasons. A word that is not known says nothing."""
    if suspended is None:
        return None
    reasons = set(suspended.split(","))
    if reasons == {"no"}:
        return False
    return True if reasons & SUSPENDED_WORDS else None


def link_of(connection: Optional[str], replication: Iterable[Optional[str]]) -> Link:
    if connection in DOWN_WORDS:
        return Link.DOWN
    if connection != "Connected":
        return Link.UNKNOWN
    states = list(replication)
    # `Off` while Connected is a moment between two lines.
    return Link.UP if states and all(state in REPLICATING for state in states) else Link.UNKNOWN


class Device(NamedTuple):
    minor: Optional[int]
    disk: str


class Resource:
    """One resource as the lines so far describe it. Connections go by (peer-node-id, conn-name)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.role: Optional[str] = None
        self.suspended: Optional[str] = None
        self.devices: Dict[str, Device] = {}
        self.connections: Dict[Tuple[str, str], str] = {}
        self.peer_devices: Dict[Tuple[str, str], Dict[str, Tuple[Optional[str], str]]] = {}

    def disk(self) -> Disk:
        return worst(disk_of(device.disk) for device in self.devices.values()) if self.devices else Disk.ABSENT

    def minors(self) -> List[int]:
        return sorted(device.minor for device in self.devices.values() if device.minor is not None)

    def disks(self) -> List[Tuple[int, str]]:
        """By minor; -1 for a volume whose minor has not been told."""
        return [(-1 if device.minor is None else device.minor, device.disk) for device in self.devices.values()]

    def peer_link(self, connection: Tuple[str, str]) -> Tuple[Link, Disk]:
        volumes = self.peer_devices.get(connection, {})
        link = link_of(
            self.connections.get(connection), (volumes.get(number, (None, ""))[0] for number in self.devices)
        )
        disks = [disk_of(disk) for _, disk in volumes.values()]
        return link, worst(disks) if disks else Disk.UNKNOWN


class Table:
    """Everything that the lines since the start of one `events2` say."""

    def __init__(self) -> None:
        self.resources: Dict[str, Resource] = {}
        self.complete = False  # the dump has ended
        self.doubtful = False  # messages were lost or overtook each other: read everything anew
        self.missing = 0  # sum of the gaps: 0 if they only overtook each other

    def apply(self, event: Event) -> Optional[str]:
        """Take in one event; the resource that it is about. Raises Unreadable."""
        if event.object == "-":
            self.complete = True
            return None
        if event.object == "skipped":
            self.doubtful = True
            self.missing += int(event.fields["count"])
            return None
        if event.object in ("helper", "path"):
            return event.fields.get("name")
        name = event.fields["name"]
        if event.object == "resource" and event.action == "destroy":
            self.resources.pop(name, None)
            return name
        resource = self.resources.setdefault(name, Resource(name))
        handler = {
            "resource": _apply_resource,
            "connection": _apply_connection,
            "device": _apply_device,
            "peer-device": _apply_peer_device,
        }[event.object]
        handler(resource, event)
        return name


def _apply_resource(resource: Resource, event: Event) -> None:
    resource.role = event.fields.get("role", resource.role)
    resource.suspended = event.fields.get("suspended", resource.suspended)


def _connection_key(event: Event) -> Tuple[str, str]:
    return event.fields.get("peer-node-id", "0"), event.fields.get("conn-name", "")


def _apply_connection(resource: Resource, event: Event) -> None:
    key = _connection_key(event)
    if event.action == "destroy":
        resource.connections.pop(key, None)
        resource.peer_devices.pop(key, None)
        return
    resource.connections[key] = event.fields.get("connection", resource.connections.get(key, ""))


def _apply_device(resource: Resource, event: Event) -> None:
    volume = _volume(event)
    if event.action == "destroy":
        resource.devices.pop(volume, None)
        return
    known = resource.devices.get(volume, Device(None, ""))
    text = event.fields.get("minor", "")
    minor = int(text) if text.isdigit() and len(text) < 8 else known.minor
    resource.devices[volume] = Device(minor, event.fields.get("disk", known.disk))


def _apply_peer_device(resource: Resource, event: Event) -> None:
    volume, volumes = _volume(event), resource.peer_devices.setdefault(_connection_key(event), {})
    if event.action == "destroy":
        volumes.pop(volume, None)
        return
    replication, disk = volumes.get(volume, (None, ""))
    volumes[volume] = (event.fields.get("replication", replication), event.fields.get("peer-disk", disk))


def _volume(event: Event) -> str:
    if "volume" not in event.fields:
        raise Unreadable(f"{event.action} {event.object}: no volume")
    return event.fields["volume"]


def peer_name(connection: Tuple[str, str], peers: Mapping[str, str], others: Tuple[str, ...]) -> Optional[str]:
    """Node name of a connection. peers: by DRBD 9's node id; others: the configuration's other hosts. None when not
    known."""
    number, name = connection
    if name in others:
        return name
    # DRBD 8.4 calls every connection "peer" and gives it the number 0.
    if name in ("", "peer") and len(others) == 1:
        return others[0]
    return peers.get(number)


class Incarnations:
    """Counts the connections established to each peer of each resource, over restarts of `events2` too.

    base: where to start, different in every run of the daemon, so that a peer never takes a connection of this run for one
    that a former run reported.
    """

    def __init__(self, base: int = 0) -> None:
        self._base = base
        self._counts: Dict[Tuple[str, str], int] = {}
        self._up: Dict[Tuple[str, str], bool] = {}

    def see(self, resource: str, peer: str, link: Link) -> int:
        key = (resource, peer)
        if link is Link.UP and not self._up.get(key, False):
            self._counts[key] = self._counts.get(key, self._base) + 1
        self._up[key] = link is Link.UP
        return self._counts.get(key, 0)

    def count(self, resource: str, peer: str) -> int:
        return self._counts.get((resource, peer), 0)

    def interrupted(self) -> None:
        """Nothing was heard for a while, so whatever is up now may be another connection."""
        self._up.clear()


def snapshot(
    resource: Optional[Resource], name: str, others: Tuple[str, ...], ids: Mapping[str, str], incarnations: Incarnations
) -> Replica:
    """Facts about one resource; None: the kernel does not have it."""
    if resource is None:
        gone = [(peer, PeerLink(Link.DOWN, incarnations.see(name, peer, Link.DOWN))) for peer in sorted(others)]
        return Replica(disk=Disk.ABSENT, role=Role.SECONDARY, frozen=False, peers=tuple(gone))
    links: Dict[str, PeerLink] = {}
    for connection in resource.connections:
        peer = peer_name(connection, ids, others)
        if peer is not None:
            link, disk = resource.peer_link(connection)
            links[peer] = PeerLink(link, incarnations.see(name, peer, link), disk)
    for peer in others:  # `drbdadm disconnect` on DRBD 9, `del-peer`: no connection object is no connection
        if peer not in links:
            links[peer] = PeerLink(Link.DOWN, incarnations.see(name, peer, Link.DOWN))
    return Replica(
        disk=resource.disk(),
        role=ROLES.get(resource.role or "", Role.UNKNOWN),
        frozen=frozen_of(resource.suspended),
        peers=tuple(sorted(links.items())),
    )


# --- generations
# ----------------------------------------------------------------------------------------------------------

ZERO = "0" * 16
PRIMARY_BIT = 1  # lowest bit of a UUID: the node was Primary when it was written; no part of the identity
MOST_COMBINATIONS = 256


def parse_gi(text: str) -> List[Tuple[str, Tuple[str, ...]]]:
    """Output of `get-gi`: for each line (= volume) the current UUID and those that its data contains. Raises
    Unreadable."""
    volumes = []
    for line in text.split():
        parts = line.split(":")
        if len(parts) < 5:
            raise Unreadable(f"no generation identifier: {line[:100]!r}")
        uuids = [_identity(part) for part in parts if len(part) == 16]
        if len(uuids) < 4:
            raise Unreadable(f"fewer than four UUIDs: {line[:100]!r}")
        ancestors = dict.fromkeys(uuid for uuid in uuids[1:] if uuid and uuid != uuids[0])
        volumes.append((uuids[0], tuple(ancestors)))
    if not volumes:
        raise Unreadable("no generation identifier")
    return volumes


def _identity(text: str) -> str:
    try:
        value = int(text, 16) & ~PRIMARY_BIT
    except ValueError as error:
        raise Unreadable(f"not a UUID: {text!r}") from error
    return f"{value:016X}" if value else ""


def combined(volumes: List[Tuple[str, Tuple[str, ...]]]) -> Tuple[str, Tuple[str, ...]]:
    """One generation for all volumes of a resource: their UUIDs joined by `+`; ancestors: every mixture of them.
    Unknown ("") when a volume has none yet or there would be too many mixtures."""
    if not volumes or any(not current for current, _ in volumes):
        return "", ()
    mixtures = [""]
    for current, ancestors in volumes:
        mixtures = [f"{head}+{uuid}" if head else uuid for head in mixtures for uuid in (current, *ancestors)]
        if len(mixtures) > MOST_COMBINATIONS:
            return "", ()
    return mixtures[0], tuple(mixtures[1:])
