"""What `ocf:heartgate:heartbeat-link` declares."""

from __future__ import annotations

from heartgate import __version__
from heartgate.daemon.link_params import ADDRESSINGS, DEFAULTS, ON_LOSS
from heartgate.ocf.declare import Action, Agent, Parameter

PARAMETERS = (
    Parameter(
        "interface",
        "string",
        "The heartbeat interface",
        'The interface that carries heartbeats, e.g. hb0; if it has another name on each node, NODE:INTERFACE for each of them, '
        'e.g. "nodea:hb0 nodeb:eth3".',
        required=True,
        unique=True,
        reloadable=False,
    ),
    Parameter(
        "client_interface",
        "string",
        "The interface that clients use",
        "Heartbeats should be at least as fast as it (rule speed-clients). Default: the interface of the default route. "
        "NODE:INTERFACE as with interface.",
    ),
    Parameter(
        "sync_interfaces",
        "string",
        "Interfaces that carry replication",
        'Names separated by blanks, e.g. "eth2 eth3" (rule shared-link). Default: what DRBD is configured with and what '
        "replica-guard was told.",
    ),
    Parameter(
        "addressing",
        "string",
        "How it has to get its address",
        "static, dhcp, or any (rule addressing).",
        default=DEFAULTS["addressing"],
        choices=ADDRESSINGS,
    ),
    Parameter(
        "waivers",
        "string",
        "Rules that do not count, with reasons",
        'RULE=REASON or RULE@INTERFACE=REASON, several separated by ";", e.g. "speed=1 Gbit/s is enough here". What is waived '
        "stays in the reports. docs/heartbeat-rules.md lists the rules.",
    ),
    Parameter(
        "on_loss",
        "string",
        "What a monitor says when the carrier is lost",
        "degraded: the resource stays started and is shown as degraded, so that nothing that is ordered after it is stopped; the "
        "node attribute tells the loss. fail: the monitor fails, and Pacemaker recovers the resource by its own rules.",
        default=DEFAULTS["on_loss"],
        choices=ON_LOSS,
    ),
    Parameter(
        "name",
        "string",
        "Name of the node attribute",
        "1: the interface has carrier, 0: it has none. Not defined: not known, or not watched. Default: heartgate-link-INTERFACE; "
        "heartgate-link-RESOURCE if the interface has several names.",
        reloadable=False,
    ),
    Parameter(
        "dampen",
        "time",
        "How long Pacemaker waits for more changes",
        "A change of the attribute is known to all nodes at once; the policy engine acts on it after this time, so that what is "
        "lost on both nodes at once is looked at together.",
        default=DEFAULTS["dampen"],
    ),
)

ACTIONS = (
    Action("start", "60s"),
    Action("stop", "30s"),
    Action("monitor", "20s", "10s", "0"),
    Action("reload-agent", "60s"),
    Action("validate-all", "60s"),
    Action("meta-data", "5s"),
)

AGENT = Agent(
    "heartbeat-link",
    __version__,
    "Watches an interface that carries heartbeats",
    "Refuses to start on an interface that is not fit for heartbeats (a VLAN, a port of a bridge, a bond that balances ...: "
    "docs/heartbeat-rules.md), watches its carrier and writes it as a node attribute as soon as the kernel tells of a change. "
    "A monitor is degraded (190) when the carrier is lost, when Corosync hears a node over other links but not over this one, and "
    "when the rules find something that they did not find at the start. Run it as a clone, one for each heartbeat interface. It "
    "stops nothing by itself.",
    PARAMETERS,
    ACTIONS,
)
