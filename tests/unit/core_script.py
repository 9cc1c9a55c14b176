"""Golden interaction scripts: events in, records and actions out, with delivery under the script's control.

A script is blocks of a command, a line `----`, and the output that is expected of it, up to an empty line. `#` begins a
comment. With HEARTGATE_REWRITE=1 the test writes the output that it got into the script; read the diff before
you commit it.

    cluster nodea=1 nodeb=2 [rank=active-first] [timeout=10000] [on_isolation=freeze] [bias=nodea]
                                                            the device and its priorities
    want NODE fence|freeze|bias=NODE                        its parameters are changed
    start NODE STANDING EPOCH [in_sync=a,b] [promised=N] [boot=old] [KEY=VALUE of facts ...]  the daemon starts
                                                            (solo: with confirmations of those left out)
    start NODE none                                         the same, without a record that can be read
    restart NODE | reboot NODE                              a new run (in a new boot), with the record last persisted
    facts NODE KEY=VALUE...                                 disk, role, frozen=yes|no|unknown, gen, anc=g1,g2, and
                                                            PEER=up|down|unknown[:DISK]
    lose NODE PEER                                          one end sees the connection down; a Primary is frozen
    connect NODE PEER                                       both ends are connected anew, and thawed
    unknown NODE                                            the source of facts died
    reach NODE [a,b] [online=a,b]                           membership: daemons in the group, members of the cluster
    tell FROM TO                                            the newest message of FROM arrives
    keep FROM NAME / late NAME TO                           put that message aside / it arrives late
    talk [a,b]                                              everybody's messages arrive until nothing new is told
    handler NODE ID PEER | gone NODE ID                     a fence-peer handler calls, or is gone
    block NODE done|failed                                  the driver's answer to the newest `block`
    fenced NODE TARGET [epoch=N] [failed] [manual]          a fencing has ended (epoch: by default the record's)
    deadline NODE [REQUEST]                                 the deadline of the newest (or of another) round
    mark NODE                                               a person declares this replica the good one
    why NODE                                                what it waits for, and which command ends that
    show NODE                                               the record

Every step is put to invariants.check_local as well, and what it finds is part of the output.
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from heartgate.core import policy, waiting
from heartgate.core.invariants import check_local
from heartgate.core.model import UNKNOWN_REPLICA as UNKNOWN
from heartgate.core.model import (
    Action,
    AnswerHandler,
    AskFence,
    Block,
    BlockDone,
    Config,
    Deadline,
    Disk,
    Drop,
    Event,
    FenceDone,
    Flush,
    HandlerCalled,
    HandlerGone,
    Heard,
    Link,
    MarkSynchronized,
    Membership,
    Message,
    Note,
    OnIsolation,
    PeerLink,
    Persist,
    Proof,
    ProofKind,
    Publish,
    Rank,
    Record,
    Replica,
    ReplicaChanged,
    Role,
    Send,
    SetDeadline,
    Standing,
    State,
    make_config,
)

SEPARATOR = "----"
MAX_TALK = 200  # messages that a `talk` may take before it counts as endless


class Node(NamedTuple):
    """One machine of a script. disk_record: what is on stable storage; runs: of its daemon."""

    config: Config
    disk_record: Optional[Record]
    state: State
    replica: Replica
    boot: str
    runs: int
    token: int = 0
    request: int = 0


class Step(NamedTuple):
    """What check_local was given: kept for the tests of the invariants."""

    config: Config
    before: Optional[State]
    after: State
    actions: Tuple[Action, ...]


class Cluster:
    """The nodes of one script, and the commands on them. A command gives its lines of output."""

    def __init__(self) -> None:
        self.configs: Dict[str, Config] = {}
        self.nodes: Dict[str, Node] = {}
        self.kept: Dict[str, Message] = {}
        self.steps: List[Step] = []

    def command(self, line: str) -> List[str]:
        name, *words = line.split()
        commands: Dict[str, Callable[[List[str], Dict[str, str]], List[str]]] = {
            "cluster": self._cluster,
            "start": self._start,
            "restart": self._restart,
            "reboot": self._reboot,
            "facts": self._facts,
            "lose": self._lose,
            "connect": self._connect,
            "unknown": self._unknown,
            "reach": self._reach,
            "tell": self._tell,
            "keep": self._keep,
            "late": self._late,
            "talk": self._talk,
            "handler": self._handler,
            "gone": self._gone,
            "block": self._block,
            "fenced": self._fenced,
            "deadline": self._deadline,
            "mark": self._mark,
            "why": self._why,
            "want": self._want,
            "show": self._show,
        }
        options = dict(word.split("=", 1) for word in words if "=" in word)
        return commands[name]([word for word in words if "=" not in word], options)

    # --- commands -----------------------------------------------------------------------------------------------------

    def _cluster(self, words: List[str], options: Dict[str, str]) -> List[str]:
        rank, timeout = Rank(options.pop("rank", "priority")), int(options.pop("timeout", "10000"))
        bias = options.pop("bias", "")
        isolated = OnIsolation(options.pop("on_isolation", "bias" if bias else "fence"))
        priorities = {node: int(value) for node, value in options.items()}
        for node in priorities:
            self.configs[node] = make_config("data", node, priorities, rank, isolated, timeout, bias=bias)
        return []

    def _want(self, words: List[str], options: Dict[str, str]) -> List[str]:
        """The daemon takes over new parameters, and looks at its state once."""
        node, bias = self.nodes[words[0]], options.get("bias", "")
        isolated = OnIsolation.BIAS if bias else OnIsolation(words[1])
        config = node.config._replace(on_isolation=isolated, bias=bias)
        self.nodes[words[0]] = node._replace(config=config)
        reachable = tuple(sorted({words[0], *(name for name, _ in node.state.heard)}))
        return self._step(words[0], Membership(reachable, node.state.online))

    def _start(self, words: List[str], options: Dict[str, str]) -> List[str]:
        me, standing = words[0], words[1]
        config, boot = self.configs[me], f"{me}-boot1"
        record: Optional[Record] = None
        if standing != "none":
            in_sync = _nodes(options.pop("in_sync", ",".join(config.nodes)))
            written = f"{me}-boot0" if options.pop("boot", "") == "old" else boot
            epoch, left_out = int(words[2]), [n for n in config.nodes if n not in in_sync]
            proofs = tuple(Proof(n, ProofKind.CONFIRMED, epoch) for n in left_out) if standing == "solo" else ()
            record = Record(Standing(standing), epoch, in_sync, written, proofs, options.pop("promised", ""))
        replica = _with_facts(_healthy(config), config, options)
        return self._run(me, Node(config, record, State(Record(Standing.UNPROVEN, 0, (), ""), ""), replica, boot, 0))

    def _run(self, me: str, node: Node) -> List[str]:
        """A run of the daemon begins: it reads its record, then learns the facts."""
        state, actions = policy.initial(node.config, node.disk_record, node.boot, f"{me}-run{node.runs + 1}")
        self.nodes[me] = node._replace(state=state, runs=node.runs + 1, token=0, request=0)
        shown = self._carry_out(me, None, state, actions)
        return shown + self._step(me, ReplicaChanged(node.replica))

    def _restart(self, words: List[str], options: Dict[str, str]) -> List[str]:
        me = words[0]
        node = self.nodes[me]
        links = tuple((n, p._replace(incarnation=1 if p.link is Link.UP else 0)) for n, p in node.replica.peers)
        return self._run(me, node._replace(replica=node.replica._replace(peers=links)))

    def _reboot(self, words: List[str], options: Dict[str, str]) -> List[str]:
        """Power off and on: unconnected, Secondary; up-to-date data is only known to be consistent."""
        me = words[0]
        node = self.nodes[me]
        disk = Disk.CONSISTENT if node.replica.disk is Disk.UPTODATE else node.replica.disk
        links = tuple((name, PeerLink(Link.DOWN, 0, Disk.UNKNOWN)) for name, _ in node.replica.peers)
        replica = node.replica._replace(disk=disk, role=Role.SECONDARY, frozen=False, peers=links)
        return self._run(me, node._replace(replica=replica, boot=f"{me}-boot{node.runs + 1}"))

    def _facts(self, words: List[str], options: Dict[str, str]) -> List[str]:
        node = self.nodes[words[0]]
        return self._learn(words[0], _with_facts(node.replica, node.config, options))

    def _learn(self, me: str, replica: Replica) -> List[str]:
        self.nodes[me] = self.nodes[me]._replace(replica=replica)
        return self._step(me, ReplicaChanged(replica))

    def _lose(self, words: List[str], options: Dict[str, str]) -> List[str]:
        me, peer = words
        replica = self.nodes[me].replica
        gone = replica.peer(peer)._replace(link=Link.DOWN, disk=Disk.UNKNOWN)
        frozen = True if replica.role is Role.PRIMARY else replica.frozen
        return self._learn(me, _with_peer(replica, peer, gone)._replace(frozen=frozen))

    def _connect(self, words: List[str], options: Dict[str, str]) -> List[str]:
        output: List[str] = []
        for me, peer in (words, words[::-1]):
            replica = self.nodes[me].replica
            seen = PeerLink(Link.UP, replica.peer(peer).incarnation + 1, self.nodes[peer].replica.disk)
            output += self._learn(me, _with_peer(replica, peer, seen)._replace(frozen=False))
        return output

    def _unknown(self, words: List[str], options: Dict[str, str]) -> List[str]:
        return self._step(words[0], ReplicaChanged(UNKNOWN))

    def _reach(self, words: List[str], options: Dict[str, str]) -> List[str]:
        reachable = _nodes(words[1]) if len(words) > 1 else (words[0],)
        return self._step(words[0], Membership(reachable, _nodes(options.get("online", ",".join(reachable)))))

    def _tell(self, words: List[str], options: Dict[str, str]) -> List[str]:
        told = self.nodes[words[0]].state.told
        assert told is not None
        return self._step(words[1], Heard(told))

    def _keep(self, words: List[str], options: Dict[str, str]) -> List[str]:
        told = self.nodes[words[0]].state.told
        assert told is not None
        self.kept[words[1]] = told
        return []

    def _late(self, words: List[str], options: Dict[str, str]) -> List[str]:
        return self._step(words[1], Heard(self.kept[words[0]]))

    def _talk(self, words: List[str], options: Dict[str, str]) -> List[str]:
        nodes = _nodes(words[0]) if words else tuple(self.nodes)
        output: List[str] = []
        for _ in range(MAX_TALK):
            for sender, receiver in ((s, r) for s in nodes for r in nodes if s != r):
                told = self.nodes[sender].state.told
                if told is not None and self.nodes[receiver].state.message_of(sender) != told:
                    output += [f"[{sender} > {receiver}]"] + self._step(receiver, Heard(told))
                    break
            else:
                return output
        raise AssertionError("the talk does not come to an end")

    def _handler(self, words: List[str], options: Dict[str, str]) -> List[str]:
        return self._step(words[0], HandlerCalled(words[1], words[2]))

    def _gone(self, words: List[str], options: Dict[str, str]) -> List[str]:
        return self._step(words[0], HandlerGone(words[1]))

    def _block(self, words: List[str], options: Dict[str, str]) -> List[str]:
        """Done: a Secondary with good data is marked outdated, as DRBD would."""
        me, ok = words[0], words[1] == "done"
        node = self.nodes[me]
        output = self._step(me, BlockDone(node.token, ok))
        replica = node.replica
        connected = any(link.link is Link.UP for _, link in replica.peers)
        if ok and replica.role is Role.SECONDARY and replica.disk in (Disk.UPTODATE, Disk.CONSISTENT) and not connected:
            output += self._learn(me, replica._replace(disk=Disk.OUTDATED))
        return output

    def _fenced(self, words: List[str], options: Dict[str, str]) -> List[str]:
        me, target = words[:2]
        epoch = int(options.get("epoch", self.nodes[me].state.record.epoch))
        return self._step(me, FenceDone(target, epoch, "failed" not in words, "manual" in words))

    def _deadline(self, words: List[str], options: Dict[str, str]) -> List[str]:
        me = words[0]
        return self._step(me, Deadline(int(words[1]) if len(words) > 1 else self.nodes[me].request))

    def _mark(self, words: List[str], options: Dict[str, str]) -> List[str]:
        node = self.nodes[words[0]]
        refused = waiting.refusal(node.config, node.state)
        return ([f"{words[0]} refused: {refused}"] if refused else []) + self._step(words[0], MarkSynchronized("a person"))

    def _why(self, words: List[str], options: Dict[str, str]) -> List[str]:
        node = self.nodes[words[0]]
        lines = [waiting.waits_for(node.config, node.state), waiting.command_that_ends(node.config, node.state)]
        return [f"{words[0]} {line}" for line in lines if line]

    def _show(self, words: List[str], options: Dict[str, str]) -> List[str]:
        return [f"{words[0]} {show_record(self.nodes[words[0]].state.record)}"]

    # --- steps --------------------------------------------------------------------------------------------------------

    def _step(self, me: str, event: Event) -> List[str]:
        node = self.nodes[me]
        after, actions = policy.step(node.config, node.state, event)
        self.nodes[me] = node._replace(state=after)
        return self._carry_out(me, node.state, after, actions)

    def _carry_out(self, me: str, before: Optional[State], after: State, actions: Tuple[Action, ...]) -> List[str]:
        node = self.nodes[me]
        self.steps.append(Step(node.config, before, after, actions))
        for action in actions:
            if isinstance(action, Persist):
                node = node._replace(disk_record=action.record)
            elif isinstance(action, Block):
                node = node._replace(token=action.token)
            elif isinstance(action, SetDeadline):
                node = node._replace(request=action.request)
        self.nodes[me] = node
        broken = [f"{me} BROKEN {reason}" for reason in check_local(node.config, before, after, actions)]
        return [f"{me} {show_action(action)}" for action in actions] + broken


# --- facts in words ---------------------------------------------------------------------------------------------------


def _nodes(text: str) -> Tuple[str, ...]:
    return tuple(sorted(word for word in text.split(",") if word))


def _healthy(config: Config) -> Replica:
    """Connected to everybody, up to date, Secondary."""
    peers = tuple((n, PeerLink(Link.UP, 1, Disk.UPTODATE)) for n in sorted(config.nodes) if n != config.me)
    return Replica(Disk.UPTODATE, Role.SECONDARY, False, peers, "g1", ())


def _with_peer(replica: Replica, peer: str, link: PeerLink) -> Replica:
    return replica._replace(peers=tuple((name, link if name == peer else old) for name, old in replica.peers))


def _with_facts(replica: Replica, config: Config, options: Dict[str, str]) -> Replica:
    for key, value in options.items():
        if key == "disk":
            replica = replica._replace(disk=Disk(value))
        elif key == "role":
            replica = replica._replace(role=Role(value))
        elif key == "frozen":
            replica = replica._replace(frozen={"yes": True, "no": False, "unknown": None}[value])
        elif key == "gen":
            replica = replica._replace(generation=value)
        elif key == "anc":
            replica = replica._replace(ancestors=_nodes(value))
        elif key in config.nodes:
            link, _, disk = value.partition(":")
            before = replica.peer(key)
            seen = PeerLink(Link(link), before.incarnation, Disk(disk) if disk else Disk.UNKNOWN)
            replica = _with_peer(replica, key, seen)
        else:
            raise ValueError(f"no such fact: {key}")
    return replica


# --- output -----------------------------------------------------------------------------------------------------------


def show_record(record: Record) -> str:
    proofs = ",".join(f"{p.node}:{p.kind.value}@{p.epoch}" for p in record.proofs)
    text = f"{record.standing.value} epoch {record.epoch} in_sync {','.join(record.in_sync)}"
    text += f" proofs {proofs}" if proofs else ""
    text += f" bias {record.bias}" if record.bias else ""
    return text + (f" promised {record.promised_to}" if record.promised_to else "")


def show_message(message: Message) -> str:
    """In one line: `nodeb:up/1~2` is the connection to nodeb, up, the first one here and the second one there."""
    links = " ".join(f"{r.peer}:{r.link.value}/{r.incarnation}~{r.paired}" for r in message.links)
    text = f"{message.standing.value} {message.epoch} {message.disk.value} {message.role.value} {links}".rstrip()
    text += f" bias {message.bias}" if message.bias else ""
    if message.ask is not None:
        text += f" ASK#{message.ask.request} epoch {message.ask.epoch} keep {','.join(message.ask.keep)}"
    for answer in message.answers:
        meaning = "BLOCKED" if answer.blocked else "AGREED"
        text += f" {meaning} to {answer.to} ({answer.run}#{answer.request}) epoch {answer.epoch}"
    return text


def show_action(action: Action) -> str:
    if isinstance(action, Persist):
        return f"PERSIST {show_record(action.record)}"
    if isinstance(action, Send):
        return f"tells {show_message(action.message)}"
    if isinstance(action, Note):
        return f"rule {action.rule}"
    if isinstance(action, AnswerHandler):
        return f"ANSWER handler {action.handler}: {action.code}"
    if isinstance(action, Publish):
        return f"publish {action.standing.value}"
    if isinstance(action, Block):
        return f"BLOCK #{action.token}"
    if isinstance(action, AskFence):
        return f"FENCE {action.node} epoch {action.epoch}"
    if isinstance(action, SetDeadline):
        return f"deadline #{action.request} in {action.delay_ms} ms"
    if isinstance(action, Flush):
        return f"FLUSH epoch {action.epoch}"
    if isinstance(action, Drop):
        return f"DROP {action.peer} connection {action.incarnation}"
    return type(action).__name__.upper()


# --- scripts ----------------------------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    text: str  # the script with the output that it gave
    steps: Tuple[Step, ...]


def run_script(path: Path) -> Outcome:
    """Run a script; the text of the outcome is the script's own if everything came as expected."""
    cluster, lines = Cluster(), path.read_text().splitlines()
    output: List[str] = []
    index = 0
    while index < len(lines):
        line = lines[index]
        index += 1
        output.append(line)
        if not line.strip() or line.startswith("#"):
            continue
        try:
            got = cluster.command(line)
        except Exception as error:
            raise AssertionError(f"{path.name}:{index}: {line}: {error!r}") from error
        if index < len(lines) and lines[index] == SEPARATOR:
            while index < len(lines) and lines[index].strip():
                index += 1
        output += [SEPARATOR, *got] if got else []
        if got and not (index < len(lines) and not lines[index].strip()):
            output.append("")
    return Outcome("\n".join(output).rstrip("\n") + "\n", tuple(cluster.steps))


def script_paths() -> Sequence[Path]:
    return sorted((Path(__file__).parent / "scripts").glob("*.txt"))
