"""The words of the policy: facts, standings, records, messages, events and actions.

Everything here is immutable and hashable. Facts about the world always have a value that says "not known"; nothing
in the core reads that value as down, off or dead. NamedTuples rather than dataclasses, because the explorer creates and
hashes tens of millions of them.

Terms: *standing*, *epoch*, *proof*, *solo* are ours (docs/concepts.md); everything else is the field's.
"""

from __future__ import annotations

from enum import Enum
from typing import Iterable, Mapping, NamedTuple, Optional, Tuple, Union


class Standing(str, Enum):
    """What a node may do with its replica. Persisted before any outward effect."""

    SYNCED = "synced"  # may serve: up to date with every other replica
    DECIDING = "deciding"  # frozen: sync lost, no verdict yet
    SOLO = "solo"  # may serve: the verdict's keep set, with proof about everybody else
    BLOCKED = "blocked"  # reads and writes refused until readmitted
    UNPROVEN = "unproven"  # rebooted out of synced or deciding, has met nobody since

    def __repr__(self) -> str:
        return self.value


SERVING = frozenset({Standing.SYNCED, Standing.SOLO})


class Disk(str, Enum):
    """State of a replica's data, in DRBD's words."""

    UPTODATE = "uptodate"
    CONSISTENT = "consistent"  # was up to date when last seen, has not met its peer since
    OUTDATED = "outdated"
    INCONSISTENT = "inconsistent"
    DISKLESS = "diskless"
    ABSENT = "absent"  # not configured in the kernel
    UNKNOWN = "unknown"

    def __repr__(self) -> str:
        return self.value


class Role(str, Enum):
    PRIMARY = "primary"
    SECONDARY = "secondary"
    UNKNOWN = "unknown"

    def __repr__(self) -> str:
        return self.value


class Link(str, Enum):
    """The replication connection to one peer."""

    UP = "up"  # established: writes are replicated, or a resync runs
    DOWN = "down"
    UNKNOWN = "unknown"

    def __repr__(self) -> str:
        return self.value


class PeerLink(NamedTuple):
    """What this node sees of its replication connection to one peer.

    incarnation counts the connections established to that peer since the daemon's run began (0: none yet); it keeps its
    value when the connection is lost, and rises when a new one is established.
    """

    link: Link = Link.UNKNOWN
    incarnation: int = 0
    disk: Disk = Disk.UNKNOWN  # the peer's disk as the local kernel sees it


UNKNOWN_LINK = PeerLink()


class Replica(NamedTuple):
    """Everything the replication driver says about the local replica, at one moment.

    frozen: None when not known. generation: identity of the data ("" when not known); ancestors: generations that this data
    contains (DRBD: bitmap and history UUIDs), so that "newer than" can be told.
    """

    disk: Disk = Disk.UNKNOWN
    role: Role = Role.UNKNOWN
    frozen: Optional[bool] = None
    peers: Tuple[Tuple[str, PeerLink], ...] = ()
    generation: str = ""
    ancestors: Tuple[str, ...] = ()

    def peer(self, node: str) -> PeerLink:
        for name, link in self.peers:
            if name == node:
                return link
        return UNKNOWN_LINK


UNKNOWN_REPLICA = Replica()


class ProofKind(str, Enum):
    """Why a node may believe that another one cannot serve."""

    CONFIRMED = "confirmed"  # it persisted blocked and said so
    FENCED = "fenced"  # a power fencing of it was completed
    FENCED_MANUALLY = "fenced-manually"  # a person vouched for it
    AGREED = "agreed"  # standing agreement (bias)
    OPERATOR = "operator"  # a person declared this replica the good one, and gave up what the node may have

    def __repr__(self) -> str:
        return self.value


class Proof(NamedTuple):
    """Evidence about one node, valid only while the record is in the epoch in which it was got (see `Record`)."""

    node: str
    kind: ProofKind
    epoch: int


class Record(NamedTuple):
    """What survives: written with fsync and rename before anything of it takes effect.

    in_sync: the nodes that may serve at this epoch, sorted. proofs: for `solo` (and a part of the replicas in `synced`), why each
    other replica may not; fencing proofs got under this epoch are kept in every standing. boot: the boot id under which
    this was written. promised_to: for `blocked`, to whom that was confirmed; for one that serves with others, whose question
    it has agreed to: it needs those who come back too, but they are not back before that one commits.
    bias: the standing agreement that is in force in this epoch: which node goes on alone when nobody can be heard ("": none).
    """

    standing: Standing
    epoch: int
    in_sync: Tuple[str, ...]
    boot: str
    proofs: Tuple[Proof, ...] = ()
    promised_to: str = ""
    bias: str = ""


class Rank(str, Enum):
    """How replicas are ranked when somebody has to block."""

    PRIORITY = "priority"
    ACTIVE_FIRST = "active-first"

    def __repr__(self) -> str:
        return self.value


class OnIsolation(str, Enum):
    """What to do when no other node can be heard (`fence` is the default)."""

    FENCE = "fence"
    BIAS = "bias"
    FREEZE = "freeze"

    def __repr__(self) -> str:
        return self.value


class Config(NamedTuple):
    """Parameters of one guarded device, the same on every node (they come from the CIB).

    priorities: (node, priority), 1 is the highest, no two alike, sorted by priority. Times in milliseconds.
    """

    device: str
    me: str
    priorities: Tuple[Tuple[str, int], ...]
    rank: Rank = Rank.PRIORITY
    on_isolation: OnIsolation = OnIsolation.FENCE
    confirm_timeout_ms: int = 10_000
    bias: str = ""  # with `on_isolation=bias`: who is to go on alone
    omitted_rules: frozenset[str] = frozenset()  # for the explorer alone; the daemon refuses to run with any

    @property
    def nodes(self) -> Tuple[str, ...]:
        """All nodes that hold a replica, highest priority first."""
        return tuple(node for node, _ in self.priorities)

    def priority(self, node: str) -> int:
        for name, value in self.priorities:
            if name == node:
                return value
        raise KeyError(node)


class LinkReport(NamedTuple):
    """One end's view of a replication connection, as told to the others.

    incarnation: the teller's own count, in its run. paired: the count that the other end last reported for the very same
    connection, 0 if it has reported none since this one was established; paired_run: the run of the other end that counted
    so. All are kept when the connection goes down, so that "down" names the connection that went down.
    """

    peer: str
    link: Link
    incarnation: int
    paired: int
    paired_run: str = ""


class Ask(NamedTuple):
    """A proposal of the verdict's first node: who is kept; everybody else is to block and say so."""

    request: int
    epoch: int
    keep: Tuple[str, ...]


class Answer(NamedTuple):
    """Answer to one Ask: only for the run and request that asked."""

    to: str
    run: str
    request: int
    epoch: int  # the epoch that the answering node is in now
    blocked: bool  # True: "I am blocked"; False: "I agree to be kept"


class Message(NamedTuple):
    """All that a node tells about one device. Sent on every change and repeated with every beat; the newest one counts."""

    device: str
    sender: str
    run: str  # one daemon run of one boot
    standing: Standing
    epoch: int
    in_sync: Tuple[str, ...]
    disk: Disk
    role: Role
    generation: str
    ancestors: Tuple[str, ...]
    links: Tuple[LinkReport, ...]
    ask: Optional[Ask] = None
    answers: Tuple[Answer, ...] = ()
    promised_to: str = ""  # as in the record
    bias: str = ""  # as in the record: what is agreed
    wants: str = ""  # what the parameters say: who is to have the bias

    def link_to(self, node: str) -> Optional[LinkReport]:
        for report in self.links:
            if report.peer == node:
                return report
        return None


class Round(NamedTuple):
    """My own proposal, waiting for answers (volatile: a restarted daemon asks anew)."""

    ask: Ask
    answers: Tuple[Answer, ...] = ()
    overdue: bool = False  # the confirm deadline has passed
    armed: bool = False  # a deadline was set
    from_nodes: Tuple[str, ...] = ()  # who gave answers, in step with `answers`


class Handler(NamedTuple):
    """A DRBD fence-peer handler that waits for its exit code."""

    handler: str
    peer: str


class Blocking(NamedTuple):
    """A block that was asked for and is being carried out; answered when the driver says that it holds."""

    asker: str
    run: str
    request: int
    token: int


class State(NamedTuple):
    """Everything the policy knows about one device on this node. Only `record` survives a restart of the daemon."""

    record: Record
    run: str
    replica: Replica = UNKNOWN_REPLICA
    heard: Tuple[Tuple[str, Message], ...] = ()  # newest message of every node that can be heard, sorted by node
    online: Tuple[str, ...] = ()  # Corosync members, whether their daemon can be heard or not
    links: Tuple[LinkReport, ...] = ()  # pairing of connections, one per peer
    round: Optional[Round] = None
    blocking: Optional[Blocking] = None
    answers: Tuple[Answer, ...] = ()  # my current answers to others, one per asker
    handlers: Tuple[Handler, ...] = ()
    next_request: int = 1
    told: Optional[Message] = None  # the message last given out
    fence_asked: Tuple[str, ...] = ()  # nodes whose fencing was asked for and has not come back
    dropped: Tuple[Tuple[str, int], ...] = ()  # (peer, incarnation) of connections that were ordered to be dropped
    marked: bool = False  # within a step: a person has declared this replica the good one

    def message_of(self, node: str) -> Optional[Message]:
        for name, message in self.heard:
            if name == node:
                return message
        return None


# --- events -------------------------------------------------------------------------------------------------------------


class ReplicaChanged(NamedTuple):
    """The driver's complete facts, anew. UNKNOWN_REPLICA when the source died or a line could not be read."""

    replica: Replica


class Heard(NamedTuple):
    message: Message


class Membership(NamedTuple):
    """reachable: nodes whose daemon is in the group (including this one); online: Corosync's members."""

    reachable: Tuple[str, ...]
    online: Tuple[str, ...]


class HandlerCalled(NamedTuple):
    """A fence-peer handler asks; peer: the node it is about. The same handler may ask again after a daemon restart."""

    handler: str
    peer: str


class HandlerGone(NamedTuple):
    handler: str


class BlockDone(NamedTuple):
    """The driver's answer to `Block`: ok only when it is certain that nothing can be completed here."""

    token: int
    ok: bool


class FenceDone(NamedTuple):
    """A fencing of `node` came to an end. epoch: the epoch of this node's record that was already in force when the fencing
    was not yet complete; a proof only if still in that epoch. ok=False: failed, or refused."""

    node: str
    epoch: int
    ok: bool
    manual: bool = False


class Deadline(NamedTuple):
    """The confirm deadline of round `request` has passed."""

    request: int


class MarkSynchronized(NamedTuple):
    """A person declares this node's replica the good one (`heartgate mark-synchronized`), and gives up what the others may
    have written. by: who, for the journal. Does nothing where `waiting.refusal` has a reason against it."""

    by: str


Event = Union[
    ReplicaChanged, Heard, Membership, HandlerCalled, HandlerGone, BlockDone, FenceDone, Deadline, MarkSynchronized
]


# --- actions ------------------------------------------------------------------------------------------------------------


class Persist(NamedTuple):
    """Write the record durably. If that fails nothing after it may be carried out."""

    record: Record


class Send(NamedTuple):
    message: Message


class AnswerHandler(NamedTuple):
    """Let a waiting handler exit: 4 (block confirmed), 7 (fenced) or 1 (stay frozen, or promotion refused)."""

    handler: str
    code: int


class Block(NamedTuple):
    """Make the local replica refuse; report with BlockDone(token)."""

    token: int


class Release(NamedTuple):
    """The replica is blocked, Promoted and frozen: end its users, then let I/O fail, so that Pacemaker can demote it."""


class Unblock(NamedTuple):
    """This replica was chosen to serve although it is marked outdated: lift the mark."""


class Drop(NamedTuple):
    """The other end has lost this replication connection: drop it here too, so that the kernel freezes. Only this one: the
    order is void when the connection to peer has another incarnation by the time it is carried out."""

    peer: str
    incarnation: int


class Rehandle(NamedTuple):
    """Solo, but frozen with no handler waiting: make the kernel ask again."""


class AskFence(NamedTuple):
    """Ask Pacemaker to fence a node; report with FenceDone(node, epoch)."""

    node: str
    epoch: int


class Flush(NamedTuple):
    """This node became the only copy: flush its caches, after the handlers have returned."""

    epoch: int


class SetDeadline(NamedTuple):
    """Call back with Deadline(request) after delay_ms."""

    request: int
    delay_ms: int


class Publish(NamedTuple):
    """Tell Pacemaker (node attribute) the standing."""

    standing: Standing


class Note(NamedTuple):
    """Journal: this rule fired. detail: short, machine-made, no secrets."""

    rule: str
    detail: str


Action = Union[
    Persist, Send, AnswerHandler, Block, Release, Unblock, Drop, Rehandle, AskFence, Flush, SetDeadline, Publish, Note
]


def sorted_nodes(nodes: Iterable[str]) -> Tuple[str, ...]:
    """Node names without repetition, in a fixed order."""
    return tuple(sorted(set(nodes)))


def make_config(
    device: str,
    me: str,
    priorities: Mapping[str, int],
    rank: Rank = Rank.PRIORITY,
    on_isolation: OnIsolation = OnIsolation.FENCE,
    confirm_timeout_ms: int = 10_000,
    omitted_rules: Iterable[str] = (),
    bias: str = "",
) -> Config:
    """A Config with its priorities checked. Raises ValueError naming what is wrong."""
    if len(priorities) < 2:
        raise ValueError(f"{device}: priorities name {len(priorities)} node(s), at least two are needed")
    if me not in priorities:
        raise ValueError(f"{device}: priorities do not name this node ({me})")
    by_value: dict[int, str] = {}
    for node, value in priorities.items():
        if value < 1:
            raise ValueError(f"{device}: priority of {node} is {value}; 1 is the highest, lower numbers do not exist")
        if value in by_value:
            raise ValueError(f"{device}: {by_value[value]} and {node} have the same priority {value}; no two may be alike")
        by_value[value] = node
    _check_bias(device, priorities, rank, on_isolation, bias)
    ordered = tuple(sorted(priorities.items(), key=lambda item: item[1]))
    return Config(device, me, ordered, rank, on_isolation, confirm_timeout_ms, bias, frozenset(omitted_rules))


def _check_bias(device: str, priorities: Mapping[str, int], rank: Rank, on_isolation: OnIsolation, bias: str) -> None:
    if on_isolation is not OnIsolation.BIAS:
        if bias:
            raise ValueError(f"{device}: bias={bias} is given, but on_isolation is {on_isolation.value}")
        return
    if bias not in priorities:
        raise ValueError(f"{device}: on_isolation=bias names no node of the priorities ({bias or 'none is given'})")
    if len(priorities) != 2:
        raise ValueError(f"{device}: on_isolation=bias is for two replicas; there are {len(priorities)}")
    if rank is Rank.PRIORITY and priorities[bias] != min(priorities.values()):
        raise ValueError(f"{device}: the bias is with {bias}, which has not the highest priority, and policy=priority")
