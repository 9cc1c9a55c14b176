"""What `ocf:heartgate:replica-guard` declares."""

from __future__ import annotations

from heartgate import __version__
from heartgate.daemon.params import DEFAULTS
from heartgate.ocf.declare import Action, Agent, Parameter

PARAMETERS = (
    Parameter(
        "device",
        "string",
        "Replicated device",
        "The replicated device to guard: the name of its resource (as in DRBD's configuration, e.g. r0), or "
        "its path in /dev.",
        required=True,
        unique=True,
        reloadable=False,
    ),
    Parameter(
        "driver",
        "string",
        "Kind of replication",
        "drbd, or exec for a replication that a program of yours speaks for (see exec_program).",
        default=DEFAULTS["driver"],
        reloadable=False,
        choices=("drbd", "exec"),
    ),
    Parameter(
        "exec_program",
        "string",
        "Program of the exec driver",
        "With driver=exec: full path of the program that watches, blocks and unblocks the device. It must "
        "belong to root.",
        reloadable=False,
    ),
    Parameter(
        "priorities",
        "string",
        "Priority of every node that holds a replica",
        'NODE:NUMBER for every node that holds a replica, e.g. "nodea:1 nodeb:2". 1 is the highest; no two may '
        'be alike. '
        "When the sync links are lost, the replica of the lowest priority is blocked, unless its data is the "
        "better one.",
        required=True,
    ),
    Parameter(
        "policy",
        "string",
        "Who goes on",
        "priority: the highest priority goes on, and the service moves there if need be. "
        "active-first: the node where the device is Promoted goes on, then by priority.",
        default=DEFAULTS["policy"],
        choices=("priority", "active-first"),
    ),
    Parameter(
        "on_isolation",
        "string",
        "What to do when no other node can be heard",
        "fence: stay frozen until Pacemaker reports the peer fenced (needs STONITH). bias: the node named by bias goes on alone at "
        "once, the other one blocks and cannot claim by fencing; for two nodes without STONITH. freeze: nobody goes on until "
        "the nodes can talk again, or a person decides.",
        default=DEFAULTS["on_isolation"],
        choices=("fence", "bias", "freeze"),
    ),
    Parameter(
        "bias",
        "string",
        "Who goes on alone, with on_isolation=bias",
        "The node that goes on at once when no other node can be heard. Both nodes agree to it while they are in sync, and it "
        "moves only by agreement. With policy=priority it is the node of the highest priority. If it dies, a person "
        "decides (heartgate mark-synchronized).",
    ),
    Parameter(
        "confirm_timeout",
        "time",
        "How long to wait for a confirmation",
        "How long a peer that is a member of the cluster may take to confirm that it is blocked, before "
        "Pacemaker is asked to "
        "fence it.",
        default=DEFAULTS["confirm_timeout"],
    ),
    Parameter(
        "on_blocked_promoted",
        "string",
        "What to do with a blocked replica that is Promoted",
        "release: end its users (SIGKILL), then let I/O fail, so that Pacemaker can demote it; if that is not "
        "possible, "
        "as fence. fence: this node resets itself at once.",
        default=DEFAULTS["on_blocked_promoted"],
        choices=("release", "fence"),
    ),
    Parameter(
        "flush",
        "string",
        "What to flush when this node goes on alone",
        'Targets, separated by blanks: filesystem:/MOUNTPOINT, block:/dev/DEVICE, hook:/DIRECTORY, e.g. '
        '"filesystem:/srv". '
        "They are flushed as soon as this node has become the only up-to-date copy.",
    ),
    Parameter(
        "flush_timeout",
        "time",
        "Deadline of one flush target",
        "How long one target may take. A failed flush is reported and never undoes the verdict.",
        default=DEFAULTS["flush_timeout"],
    ),
    Parameter(
        "sync_interfaces",
        "string",
        "Interfaces that carry replication",
        'Names of the network interfaces that carry replication, e.g. "eth2 eth3". When the last of them loses its carrier '
        "the connection is given up at once, instead of after the replication's own time limits (several seconds).",
    ),
)

ACTIONS = (
    Action("start", "60s"),
    Action("stop", "30s"),
    Action("monitor", "20s", "10s", "0"),
    Action("reload-agent", "60s"),
    Action("notify", "10s"),
    Action("validate-all", "30s"),
    Action("meta-data", "5s"),
)

AGENT = Agent(
    "replica-guard",
    __version__,
    "Guards a replicated device against two writers",
    "Applies heartgate's failover policy to one replicated device. When replication is lost while the nodes "
    "still hear each "
    "other, the replica of the lower priority is blocked for reads and writes until it is up to date again; "
    "the other goes on "
    "only with proof, and flushes its caches. Run it as a clone on every node that holds a replica. The node attribute "
    "heartgate-DEVICE tells the standing of each replica (synced, solo, deciding, blocked, unproven).",
    PARAMETERS,
    ACTIONS,
)
