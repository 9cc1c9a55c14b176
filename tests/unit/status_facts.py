"""A whole cluster as `heartgate status` sees it, with nothing wrong: for tests, which then spoil one thing at a time.

Pacemaker's part is what a real cluster of the namespace lab said (data/crm_mon).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Tuple

from heartgate.checks import cib_conf, crm_mon
from heartgate.checks.heartbeats import Channel, Heartbeat
from heartgate.checks.lint_facts import LintFacts
from heartgate.checks.status_model import Daemon, Device, Flush, Live, PeerWord, Proof, StatusFacts, SyncLink

DATA = Path(__file__).with_name("data") / "crm_mon"
AT_MS = 1_795_305_000_000
UP, DOWN, UNKNOWN = Channel.UP, Channel.DOWN, Channel.UNKNOWN


def text(name: str) -> str:
    return (DATA / name).read_text()


def said(name: str) -> crm_mon.Pacemaker:
    return crm_mon.parse(text(f"{name}.xml"))


def heartbeat(name: str, state: Channel = UP, sending: Channel = UP, receiving: Channel = UP, node: str = "nodeb") -> Heartbeat:
    where = f"10.77.1{name}.1 (hb{name})", f"10.77.1{name}.{'abc'.index(node[-1]) + 1}"
    return Heartbeat("network", node, name, state, sending, receiving, *where)


LIVE = Live(
    active=True,
    driver="exec",
    policy="priority",
    on_isolation="fence",
    bias_wanted="",
    bias_agreed="",
    role="primary",
    disk="uptodate",
    frozen=False,
    links={"nodeb": SyncLink("up", "uptodate")},
    peers={"nodeb": PeerWord("synced", 4, "uptodate", "secondary")},
    lacks={"nodeb": 0},
)
BOTH = {"nodea": 1, "nodeb": 2}
DEVICE = Device("r0", "synced", "synced", 4, ("nodea", "nodeb"), since_ms=AT_MS - 64_000, priorities=BOTH, live=LIVE)
DAEMON = Daemon("nodea", "0.1.0", True, ("nodea", "nodeb"), ("nodea", "nodeb"), True, {"nodeb": 120}, 0)
HEALTHY_HEARTBEATS = (heartbeat("0"), heartbeat("1"))
HEALTHY = StatusFacts(
    node="nodea",
    at_ms=AT_MS,
    daemon=DAEMON,
    devices=(DEVICE,),
    pacemaker=said("healthy"),
    heartbeats=HEALTHY_HEARTBEATS,
    config=LintFacts("nodea", cib=cib_conf.parse(text("cib.xml"))),
)
SOLO = {
    "standing": "solo",
    "shown": "solo",
    "epoch": 5,
    "in_sync": ("nodea",),
    "proofs": (Proof("nodeb", "confirmed", 5),),
    "flush": Flush(AT_MS - 40_000, (("filesystem:/srv", True, "synced"),)),
}
BLOCKED_PEER = {
    "links": {"nodeb": SyncLink("down", "unknown")},
    "peers": {"nodeb": PeerWord("blocked", 5, "outdated", "secondary")},
    "lacks": {"nodeb": 3_400_000},
}


def with_device(facts: StatusFacts = HEALTHY, live: Any = None, **changes: Any) -> StatusFacts:
    """The device r0 changed; live: fields of what the daemon knows."""
    device = facts.devices[0]
    assert device.live is not None
    return replace(facts, devices=(replace(device, live=replace(device.live, **(live or {})), **changes),))


def with_daemon(facts: StatusFacts = HEALTHY, **changes: Any) -> StatusFacts:
    assert isinstance(facts.daemon, Daemon)
    return replace(facts, daemon=replace(facts.daemon, **changes))


def with_pacemaker(facts: StatusFacts = HEALTHY, **changes: Any) -> StatusFacts:
    assert isinstance(facts.pacemaker, crm_mon.Pacemaker)
    return replace(facts, pacemaker=replace(facts.pacemaker, **changes))


def with_node(name: str, **changes: Any) -> StatusFacts:
    assert isinstance(HEALTHY.pacemaker, crm_mon.Pacemaker)
    nodes = tuple(replace(each, **changes) if each.name == name else each for each in HEALTHY.pacemaker.nodes)
    return with_pacemaker(nodes=nodes)


def with_instance(ident: str, on: str, **changes: Any) -> StatusFacts:
    assert isinstance(HEALTHY.pacemaker, crm_mon.Pacemaker)
    found = HEALTHY.pacemaker.instances
    assert any(each.ident == ident and each.node == on for each in found)
    return with_pacemaker(instances=tuple(replace(x, **changes) if (x.ident, x.node) == (ident, on) else x for x in found))


def with_cib(*changes: Tuple[str, str]) -> StatusFacts:
    """The CIB with pieces of its text replaced."""
    xml = text("cib.xml")
    for before, after in changes:
        assert before in xml, before
        xml = xml.replace(before, after)
    return replace(HEALTHY, config=LintFacts("nodea", cib=cib_conf.parse(xml)))


def three(**words: Dict[str, Any]) -> StatusFacts:
    """Three replicas; words: what is different about a peer (standing, disk ...)."""
    peers = {node: PeerWord(**{"standing": "synced", "epoch": 4, "disk": "uptodate", "role": "secondary", **words.get(node, {})})
             for node in ("nodeb", "nodec")}  # fmt: skip
    links = {node: SyncLink("up", "uptodate") for node in peers}
    facts = with_device(live={"peers": peers, "links": links}, in_sync=("nodea", "nodeb", "nodec"),
                        priorities={"nodea": 1, "nodeb": 2, "nodec": 3})  # fmt: skip
    all_three = ("nodea", "nodeb", "nodec")
    third = replace(said("healthy").nodes[1], name="nodec")
    assert isinstance(facts.pacemaker, crm_mon.Pacemaker)
    more = tuple(replace(x, node="nodec") for x in facts.pacemaker.instances if x.node == "nodeb" and x.ident != "gate")
    attributes = {**(facts.pacemaker.attributes or {}), ("nodec", "heartgate-r0"): "synced"}
    facts = with_pacemaker(facts, nodes=(*facts.pacemaker.nodes, third), instances=facts.pacemaker.instances + more,
                           attributes=attributes)  # fmt: skip
    facts = replace(facts, heartbeats=(*HEALTHY_HEARTBEATS, heartbeat("0", node="nodec"), heartbeat("1", node="nodec")))
    return with_daemon(facts, reachable=all_three, online=all_three, beats_ms={"nodeb": 120, "nodec": 200})
