"""Two nodes for the tests of the set-up, from the texts that a real one gives: corosync.conf, drbdadm dump, the CIB."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Dict, Mapping, Optional, Sequence, Tuple

from heartgate.checks import corosync_edit, facts_codec, setup_cib, setup_codec
from heartgate.checks.links import End, Link
from heartgate.checks.model import Address, Corosync, HostFacts, Interface, Path, RingAddress
from heartgate.checks.setup_cluster import conf
from heartgate.checks.setup_model import Facts, SetupPlan, Tool, Wish
from heartgate.checks.setup_plan import make_plan

NODES = ("nodea", "nodeb")
NETWORKS = {"hb0": "10.77.10", "hb1": "10.77.11", "sync0": "10.77.20", "client0": "10.77.30"}
FENCING = "fencing resource-and-stonith;"
HANDLERS = 'fence-peer "/usr/lib/heartgate/drbd-fence-peer"; unfence-peer "/usr/lib/heartgate/drbd-unfence-peer";'
IPMI = "".join(
    f'<primitive id="ipmi-{node[-1]}" class="stonith" type="fence_ipmilan"><instance_attributes id="ipmi-{node[-1]}-i">'
    f'<nvpair id="ipmi-{node[-1]}-h" name="pcmk_host_list" value="{node}"/></instance_attributes></primitive>'
    for node in NODES
)
DRBD = (
    '<clone id="drbd-clone"><meta_attributes id="dm"><nvpair id="dmp" name="promotable" value="true"/></meta_attributes>'
    '<primitive id="drbd" class="ocf" provider="linbit" type="drbd"><instance_attributes id="di">'
    '<nvpair id="dir" name="drbd_resource" value="r0"/></instance_attributes></primitive></clone>'
)
GATE = '<primitive id="gate" class="stonith" type="fence_heartgate"/>'
LEVELS = "".join(f'<fencing-level id="l{n}" index="1" target="{n}" devices="gate,ipmi-{n[-1]}"/>' for n in NODES)


def clone(ident: str, kind: str, **params: str) -> str:
    pairs = "".join(f'<nvpair id="{ident}-{name}" name="{name}" value="{value}"/>' for name, value in params.items())
    return (
        f'<clone id="{ident}-clone"><primitive id="{ident}" class="ocf" provider="heartgate" type="{kind}">'
        f'<instance_attributes id="{ident}-i">{pairs}</instance_attributes></primitive></clone>'
    )


GUARD = clone("guard", "replica-guard", device="r0", priorities="nodea:1 nodeb:2")
BEATS = "".join(clone(f"beat-{name}", "heartbeat-link", interface=name) for name in ("hb0", "hb1"))
RULE = (
    '<rsc_location id="any" rsc="drbd-clone"><rule id="r" role="Master" score="-INFINITY" boolean-op="or">'
    '<expression id="e1" attribute="heartgate-r0" operation="not_defined"/>'
    '<expression id="e2" attribute="heartgate-r0" operation="eq" value="blocked"/>'
    '<expression id="e3" attribute="heartgate-r0" operation="eq" value="unproven"/></rule></rsc_location>'
)


def dump(net: str = "", handlers: str = "", resources: Sequence[str] = ("r0",)) -> str:
    hosts = "".join(f"on {node} {{ node-id {n}; address ipv4 10.77.20.{n + 1}:7000; }}\n" for n, node in enumerate(NODES))
    body = f"{hosts} net {{ {net} }} handlers {{ {handlers} }}"
    return "".join(f"# defined at /etc/drbd.d/{name}.res:1\nresource {name} {{\n {body} }}\n" for name in resources)


def _ran(ident: str, attributes: str) -> str:
    return f'<lrm_resource id="{ident}"><lrm_rsc_op operation="start" {attributes}/></lrm_resource>'


@dataclass(frozen=True)
class World:
    """What is on both nodes. links: interfaces with a Corosync link, None: there is no corosync.conf. drbd: what drbdadm dumps on
    each node, None: it is not installed; trial: with heartgate's file beside it; show: of the kernel. running: cib is what
    cibadmin says. failures: (primitive, node, reason)."""

    links: Optional[Tuple[str, ...]] = ("hb0", "hb1")
    drbd: Optional[Tuple[str, str]] = (dump(), dump())
    trial: Optional[str] = None
    trial_why: str = "conflicting use of resource section 'common'"
    show: str = ""
    adjust: Optional[str] = None
    drbd9: bool = True
    running: bool = True
    online: Tuple[str, ...] = NODES
    properties: Mapping[str, str] = field(default_factory=dict)
    resources: str = IPMI + DRBD
    constraints: str = ""
    topology: str = ""
    attributes: Mapping[str, Tuple[str, str]] = field(default_factory=dict)
    started: Tuple[str, ...] = ("ipmi-a", "ipmi-b", "drbd")
    failures: Tuple[Tuple[str, str, str], ...] = ()
    pcs_hosts: Tuple[str, ...] = NODES
    authkey: bool = False
    addresses: Mapping[str, str] = field(default_factory=lambda: dict(NETWORKS))

    def but(self, **changes: object) -> World:
        return replace(self, **changes)  # type: ignore[arg-type]

    # --- what the nodes tell

    def host(self, node: str) -> HostFacts:
        number = NODES.index(node) + 1
        interfaces = tuple(
            Interface(name, index, "physical", flags=("up",), carrier=True, speed_mbit=10000, duplex="full", mtu=1500,
                      addresses=(Address(f"{network}.{number}", 24, "global", False),) if network else ())
            for index, (name, network) in enumerate(self.addresses.items(), 1)
        )  # fmt: skip
        return HostFacts(node, "1", interfaces, self._corosync(number), default_route="client0", sync=("sync0",))

    def _corosync(self, number: int) -> Optional[Corosync]:
        if self.links is None:
            return None
        other = 3 - number
        nets = [NETWORKS[name] for name in self.links]
        rings = tuple(RingAddress(NODES[n - 1], link, f"{net}.{n}") for n in (1, 2) for link, net in enumerate(nets))
        paths = tuple(
            Path(link, NODES[other - 1], f"{net}.{number}", f"{net}.{other}", name, True)
            for link, (name, net) in enumerate(zip(self.links, nets))
        )
        return Corosync("corosync.conf", "knet", "aes256", "sha256", NODES[number - 1], rings, paths, True, ())

    def conf(self) -> Optional[str]:
        if self.links is None:
            return None
        text = conf("lab", NODES, [{node: f"{NETWORKS[name]}.{n}" for n, node in enumerate(NODES, 1)} for name in self.links])
        assert len(corosync_edit.nodes(text)) == 2
        return text

    def raw(self, node: str) -> Dict[str, object]:
        drbd = None
        if self.drbd is not None:
            drbd = {"dump": self.drbd[NODES.index(node)], "show": self.show, "drbd9": self.drbd9, "trial": self.trial,
                    "trial_why": self.trial_why, "adjust": self.adjust}  # fmt: skip
        return {
            "format": setup_codec.FORMAT,
            "version": setup_codec.VERSION,
            "host": facts_codec.encode(self.host(node)),
            "programs": ["pcs", "crm"],
            "corosync": self.conf(),
            "authkey": self.authkey,
            "pcs_hosts": list(self.pcs_hosts),
            "drbd": drbd,
            "drbd_why": "",
        }

    def cib(self) -> str:
        pairs = "".join(f'<nvpair id="o-{name}" name="{name}" value="{value}"/>' for name, value in self.properties.items())
        status = "".join(self._state(place, node) for place, node in enumerate(NODES))
        return (
            f'<cib><configuration><crm_config><cluster_property_set id="cib-bootstrap-options">{pairs}</cluster_property_set>'
            f'</crm_config><nodes><node id="1" uname="nodea"/><node id="2" uname="nodeb"/></nodes><resources>{self.resources}'
            f"</resources><constraints>{self.constraints}</constraints><fencing-topology>{self.topology}</fencing-topology>"
            f"</configuration><status>{status}</status></cib>"
        )

    def _state(self, place: int, node: str) -> str:
        on = node in self.online
        operations = [_ran(ident, f'id="{ident}_last_0" rc-code="0" op-status="0" call-id="7"') for ident in self.started]
        for ident, where, reason in self.failures:
            if where == node:
                failed = f'id="{ident}_last_failure_0" rc-code="2" op-status="4" call-id="9" exit-reason="{reason}"'
                operations.append(_ran(ident, failed))
        pairs = "".join(f'<nvpair id="t-{n}" name="{n}" value="{v[place]}"/>' for n, v in self.attributes.items() if v[place])
        return (
            f'<node_state uname="{node}" in_ccm="{str(on).lower()}" crmd="{"online" if on else "offline"}" join="member">'
            f"<lrm><lrm_resources>{''.join(operations)}</lrm_resources></lrm><transient_attributes>"
            f"<instance_attributes>{pairs}</instance_attributes></transient_attributes></node_state>"
        )

    # --- what the planner gets

    def facts(self) -> Facts:
        nodes = tuple(setup_codec.decode(node, self.raw(node)) for node in NODES)
        cluster = setup_cib.parse(self.cib()) if self.running else None
        return Facts((nodes[0], nodes[1]), cluster, "" if self.running else "cibadmin --query: rc 102")

    def link(self, name: str) -> Link:
        return Link(tuple(End(self.host(node), name) for node in NODES))

    def wish(self, **changes: object) -> Wish:
        asked = Wish(
            nodes=NODES,
            local="nodea",
            tool=Tool.PCS,
            device="r0",
            guard={"priorities": "nodea:1 nodeb:2", "sync_interfaces": "sync0"},
            heartbeats=(self.link("hb0"), self.link("hb1")),
            syncs=(self.link("sync0"),),
            assumed=frozenset({"priorities", "sync_interfaces"}),
        )
        return replace(asked, **changes)  # type: ignore[arg-type]

    def plan(self, **changes: object) -> SetupPlan:
        return make_plan(self.wish(**changes), self.facts())


BARE = World()
DONE = World(
    links=("hb0", "hb1", "sync0"),
    drbd=(dump(FENCING, HANDLERS), dump(FENCING, HANDLERS)),
    resources=IPMI + DRBD + GATE + GUARD + BEATS,
    constraints=RULE,
    topology=LEVELS,
    attributes={"heartgate-r0": ("synced", "solo"), "heartgate-link-hb0": ("1", "1"), "heartgate-link-hb1": ("1", "1")},
    started=("ipmi-a", "ipmi-b", "drbd", "gate", "guard", "beat-hb0", "beat-hb1"),
)
