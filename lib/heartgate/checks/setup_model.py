"""What `heartgate setup` plans with: what a person wants, what is there, and the steps between the two. Pure.

A step is done when the facts say so, and not because its commands ended well: the same test makes a second run do nothing,
and tells after each step whether it had its effect.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import FrozenSet, Mapping, Optional, Tuple, Union

from heartgate.checks.cib_conf import Cib
from heartgate.checks.drbd_conf import Resource
from heartgate.checks.findings import Waiver
from heartgate.checks.links import Link
from heartgate.checks.model import HostFacts


class Tool(Enum):
    PCS = "pcs"
    CRMSH = "crmsh"


class State(Enum):
    """WAITING: it is configured, and not yet seen to work. BY_HAND: a person has to do it, `by_hand` says what."""

    DONE = "done"
    TODO = "to do"
    WAITING = "waiting"
    BY_HAND = "by hand"


# --- what is wanted


@dataclass(frozen=True)
class Wish:
    """What the person asked for, checked as far as it can be without the facts.

    guard: parameters of replica-guard; assumed: those of them that nobody gave (`priorities` by the order of the names). power:
    node -> fencing devices that cut its power, if they were named. gate: parameters of fence_heartgate. syncs None: which
    interfaces carry the replication is not known.
    named: the heartbeats were named (else they are Corosync's links). clone: the promotable clone, if it
    was named.
    """

    nodes: Tuple[str, str]
    local: str
    tool: Tool
    device: str
    guard: Mapping[str, str]
    heartbeats: Tuple[Link, ...]
    syncs: Optional[Tuple[Link, ...]]
    named: bool = False
    assumed: FrozenSet[str] = frozenset()
    sync_heartbeat: bool = True
    power: Mapping[str, Tuple[str, ...]] = field(default_factory=dict)
    gate: Mapping[str, str] = field(default_factory=dict)
    addressing: str = "any"
    waivers: Tuple[Waiver, ...] = ()
    clone: str = ""
    cluster_name: str = "cluster"

    @property
    def peer(self) -> str:
        return self.nodes[1] if self.local == self.nodes[0] else self.nodes[0]

    @property
    def attribute(self) -> str:
        """The node attribute in which replica-guard tells the standing."""
        return f"heartgate-{self.device}"

    @property
    def isolation(self) -> str:
        return self.guard.get("on_isolation", "fence")

    @property
    def drbd(self) -> bool:
        return self.guard.get("driver", "drbd") == "drbd"


# --- what is there


@dataclass(frozen=True)
class DrbdFacts:
    """One node's DRBD. resources: of its files; running: of the kernel. drbd9: which of the two ways to write the fencing policy.

    trial: the resources as they would be with heartgate's own file beside the others; None if there cannot be such a file, and
    `trial_why` tells why. adjust: what `drbdadm adjust` would run, None if it could not be asked.
    """

    resources: Tuple[Resource, ...] = ()
    running: Tuple[Resource, ...] = ()
    drbd9: bool = True
    trial: Optional[Tuple[Resource, ...]] = None
    trial_why: str = ""
    adjust: Optional[Tuple[str, ...]] = None

    def resource(self, name: str) -> Optional[Resource]:
        return next((item for item in self.resources if item.name == name), None)

    def in_kernel(self, name: str) -> Optional[Resource]:
        return next((item for item in self.running if item.name == name), None)


@dataclass(frozen=True)
class NodeFacts:
    """One node. programs: which of pcs, crm, drbdadm are installed. corosync: the text of corosync.conf, None: there is none.
    pcs_hosts: names that pcs has a token for. authkey: /etc/corosync/authkey is there. drbd None: not installed, or
    `drbd_why` tells why it is not known."""

    node: str
    host: HostFacts
    programs: FrozenSet[str] = frozenset()
    corosync: Optional[str] = None
    authkey: bool = False
    pcs_hosts: Tuple[str, ...] = ()
    drbd: Optional[DrbdFacts] = None
    drbd_why: str = ""


@dataclass(frozen=True)
class Expression:
    attribute: str
    operation: str
    value: str = ""


@dataclass(frozen=True)
class LocationRule:
    """A location constraint with a rule. Promoted and Unpromoted are written so, also where the CIB says Master and Slave."""

    ident: str
    resource: str
    role: str
    score: str
    boolean: str
    expressions: FrozenSet[Expression]


@dataclass(frozen=True)
class ClusterFacts:
    """The running cluster, from one query of the CIB. clones: primitive -> the clone that it is in. attributes: (node, name) ->
    value of the transient attributes. online: nodes that are members and whose Pacemaker runs. started: (primitive, node) that
    runs there. failures: primitive -> its failed operations, in sentences."""

    cib: Cib
    clones: Mapping[str, str] = field(default_factory=dict)
    promotable: FrozenSet[str] = frozenset()
    rules: Tuple[LocationRule, ...] = ()
    attributes: Mapping[Tuple[str, str], str] = field(default_factory=dict)
    online: FrozenSet[str] = frozenset()
    started: FrozenSet[Tuple[str, str]] = frozenset()
    failures: Mapping[str, Tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """Both nodes, this one first. cluster None: Pacemaker does not answer on this node, `cluster_why` tells why."""

    nodes: Tuple[NodeFacts, NodeFacts]
    cluster: Optional[ClusterFacts] = None
    cluster_why: str = ""

    def of(self, node: str) -> NodeFacts:
        return next(item for item in self.nodes if item.node == node)


# --- the steps between the two


@dataclass(frozen=True)
class Command:
    """A program with its words, on one node. stdin: what it reads."""

    node: str
    argv: Tuple[str, ...]
    stdin: str = ""


@dataclass(frozen=True)
class PutFile:
    """A text for a file that is not there yet."""

    node: str
    path: str
    text: str
    mode: int = 0o644


Action = Union[Command, PutFile]


@dataclass(frozen=True)
class Step:
    """One change and how it is known to be done.

    reason: why it is needed, for a person. expects: what is seen when it is done. seen: what is seen now. by_hand: what a
    person has to do, with the lines to write or the commands. failures: what has failed of it, in sentences; then waiting is of
    no use. notes: worth knowing.
    wait_s: how long its effect may take.
    """

    ident: str
    reason: str
    expects: str
    state: State
    actions: Tuple[Action, ...] = ()
    seen: str = ""
    by_hand: str = ""
    failures: Tuple[str, ...] = ()
    notes: Tuple[str, ...] = ()
    wait_s: float = 60.0


@dataclass(frozen=True)
class Problem:
    """Why there is no plan: what is wrong, and what to do."""

    what: str
    remedy: str


@dataclass(frozen=True)
class SetupPlan:
    """With problems nothing may be carried out; the steps are what could be planned all the same."""

    steps: Tuple[Step, ...] = ()
    problems: Tuple[Problem, ...] = ()

    @property
    def finished(self) -> bool:
        return not self.problems and all(step.state is State.DONE for step in self.steps)

    def step(self, ident: str) -> Optional[Step]:
        return next((item for item in self.steps if item.ident == ident), None)
