"""Every rule of heartbeat links in the situations that it is about: what it finds, how bad it is, and when it is silent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Dict, Optional, Set, Tuple

import pytest

from heartgate.checks import corosync_conf, heartbeat_rules, spof_from_facts
from heartgate.checks.findings import Finding, Severity
from heartgate.checks.links import Addressing, Compare, Link, Plan, single_points
from heartgate.checks.model import (
    Address,
    Bond,
    Corosync,
    Frame,
    Heard,
    HostFacts,
    Interface,
    Neighbour,
    Path,
    Resolution,
    RingAddress,
    Setting,
)
from heartgate.checks.planning import make_plan

E, W, N, U = Severity.ERROR, Severity.WARNING, Severity.NOTE, Severity.UNKNOWN
SILENT: Tuple[Severity, ...] = ()


def adapter(host: int, number: int, name: str, **facts: Any) -> Interface:
    """A good one: 10 Gbit/s on a card of its own, which hears only the same interface of the other host."""
    me, you = (f"02:00:00:00:{number:02x}:{each:02x}" for each in (host, 3 - host))
    base: Dict[str, Any] = {
        "flags": ("up", "broadcast", "multicast", "lower_up"),
        "operstate": "up",
        "carrier": True,
        "speed_mbit": 10000,
        "duplex": "full",
        "mtu": 1500,
        "mac": me,
        "permanent_mac": me,
        "bus": f"0000:{number:02x}:00.0",
        "dev_port": 0,
        "driver": "ixgbe",
        "addresses": (Address(f"10.0.{number}.{host}", 24, "global", False),),
        "neighbours": (Neighbour(f"10.0.{number}.{3 - host}", you, "reachable"),),
        "heard": Heard(35.0, (), (you,)),
        "answers": (f"10.0.{number}.{3 - host}",),
    }
    return Interface(name, number + 10, "physical", **{**base, **facts})


def corosync(host: int) -> Corosync:
    ring = tuple(RingAddress(f"node{each}", 0, f"10.0.1.{each}") for each in (1, 2))
    path = Path(0, f"node{3 - host}", f"10.0.1.{host}", f"10.0.1.{3 - host}", "hb0", True)
    return Corosync("/etc/corosync/corosync.conf", "knet", "aes256", "sha256", f"node{host}", ring, (path,), True, ())


def good(host: int) -> HostFacts:
    interfaces = (adapter(host, 1, "hb0"), adapter(host, 2, "sync0"), adapter(host, 3, "client0"))
    return HostFacts(f"node{host}", "1", interfaces, corosync(host), (), "client0", ("sync0",))


def changed(host: HostFacts, name: str, **facts: Any) -> HostFacts:
    return replace(host, interfaces=tuple(replace(item, **facts) if item.name == name else item for item in host.interfaces))


def added(host: HostFacts, *more: Interface) -> HostFacts:
    return replace(host, interfaces=(*host.interfaces, *more))


def judged(one: HostFacts, two: Optional[HostFacts], rule: str, **wishes: Any) -> Tuple[Finding, ...]:
    return tuple(each for each in heartbeat_rules.judge(make_plan(one, two, **wishes)) if each.rule == rule)


def severities(found: Tuple[Finding, ...]) -> Tuple[Severity, ...]:
    return tuple(sorted((each.severity for each in found), key=lambda each: list(Severity).index(each)))


def hb(**facts: Any) -> Callable[[HostFacts, HostFacts], Tuple[HostFacts, HostFacts]]:
    """Both hosts, with hb0 of the first changed."""
    return lambda one, two: (changed(one, "hb0", **facts), two)


def both(**facts: Any) -> Callable[[HostFacts, HostFacts], Tuple[HostFacts, HostFacts]]:
    return lambda one, two: (changed(one, "hb0", **facts), changed(two, "hb0", **facts))


def on_top(kind: str, **facts: Any) -> Callable[[HostFacts, HostFacts], Tuple[HostFacts, HostFacts]]:
    """Something of this kind runs over hb0 of the first."""
    upper = Interface("over", 90, kind, flags=("up",), carrier=True, lower=("hb0",), **facts)
    return lambda one, two: (added(changed(one, "hb0", upper=("over",)), upper), two)


def port_of(kind: str) -> Callable[[HostFacts, HostFacts], Tuple[HostFacts, HostFacts]]:
    master = Interface("sw0", 90, kind, flags=("up",), carrier=True, lower=("hb0",))
    return lambda one, two: (added(changed(one, "hb0", upper=("sw0",), master="sw0", master_kind=kind), master), two)


def itself(kind: str, **facts: Any) -> Callable[[HostFacts, HostFacts], Tuple[HostFacts, HostFacts]]:
    """hb0 of the first is of this kind and runs over eth9."""
    below = adapter(1, 9, "eth9", addresses=(), upper=("hb0",))
    return lambda one, two: (added(changed(one, "hb0", kind=kind, bus=None, lower=("eth9",), **facts), below), two)


def bond(mode: str, alive: int = 2, **facts: Any) -> Callable[[HostFacts, HostFacts], Tuple[HostFacts, HostFacts]]:
    members = tuple(
        adapter(1, 20 + place, f"m{place}", addresses=(), carrier=place < alive, master="hb0", master_kind="bond", upper=("hb0",))
        for place in range(2)
    )
    watched = {name: facts.pop(name) for name in ("lacp_rate", "miimon_ms", "arp_interval_ms") if name in facts}
    made = replace(Bond(mode, ("m0", "m1"), "m0", None, 100, 0), **watched)
    return lambda one, two: (added(changed(one, "hb0", kind="bond", bus=None, bond=made, lower=("m0", "m1")), *members), two)


STRANGER = "02:99:99:99:99:99"
NO_CARRIER = ("up", "broadcast")


OLD = (("altnames", "this pyroute2 is too old"),)
Change = Callable[[HostFacts, HostFacts], Tuple[HostFacts, HostFacts]]
SITUATIONS: Tuple[Tuple[str, str, Change, Tuple[Severity, ...], str], ...] = (
    # rule, situation, what is changed, what is found, words in the evidence
    (
        "interface",
        "gone",
        lambda a, b: (a, replace(b, interfaces=b.interfaces[1:])),
        (E,),
        "node2 has no interface hb0; it has client0",
    ),
    (
        "interface",
        "perhaps another name of one that is there",
        lambda a, b: (a, replace(b, interfaces=tuple(replace(each, unknown=OLD) for each in b.interfaces[1:]))),
        (U,),
        "of sync0 the other names are not known",
    ),
    ("carrier", "switched off", hb(flags=(), carrier=False), (E,), "is switched off"),
    ("carrier", "no cable", hb(flags=NO_CARRIER, carrier=False), (E,), "has no carrier"),
    ("carrier", "not told", hb(carrier=None), (U,), "does not tell"),
    (
        "direct",
        "LLDP of a switch",
        hb(heard=Heard(35.0, (Frame("lldp", STRANGER, "sw1, port 7"),), ())),
        (N, E),
        "LLDP frames .*sw1, port 7",
    ),
    ("direct", "spanning tree", hb(heard=Heard(3.0, (Frame("stp", STRANGER, ""),), ())), (N, E), "spanning tree frames"),
    (
        "direct",
        "LLDP of the peer itself",
        hb(heard=Heard(35.0, (Frame("lldp", "02:00:00:00:01:02", "node2"),), ())),
        (N, N),
        "nothing was",
    ),
    (
        "direct",
        "a third machine sends",
        hb(heard=Heard(35.0, (), (STRANGER,))),
        (N, E),
        f"frames from {STRANGER}, which the peer does not",
    ),
    (
        "direct",
        "the peer's other interface",
        hb(heard=Heard(35.0, (), ("02:00:00:00:03:02",))),
        (N, E),
        "that of client0 of node2",
    ),
    ("direct", "its own frames", hb(heard=Heard(35.0, (), ("02:00:00:00:01:01",))), (N, E), "its own, sent back"),
    ("direct", "a live neighbour", hb(neighbours=(Neighbour("10.0.1.9", STRANGER, "reachable"),)), (N, E), "neighbour 10.0.1.9"),
    ("direct", "an old neighbour", hb(neighbours=(Neighbour("10.0.1.9", STRANGER, "stale"),)), (N, N, W), "remembers others"),
    ("direct", "a failed neighbour", hb(neighbours=(Neighbour("10.0.1.9", STRANGER, "failed"),)), (N, N), "nothing was"),
    ("direct", "a third machine answers", hb(answers=("fe80::1", "10.0.1.2")), (N, E), "fe80::1 answered"),
    ("direct", "not listened", hb(heard=None, unknown=(("heard", "only root may do that"),)), (N, U), "only root may do that"),
    ("direct", "listened for a moment", hb(heard=Heard(5.0, (), ())), (N, U), "for 5 s only"),
    ("direct", "no ping", hb(answers=None, unknown=(("answers", "no IPv6"),)), (N, N), r"no ping to all nodes: no IPv6"),
    ("direct", "LLDP kept by the firmware", hb(driver="i40e"), (N, N), "firmware may keep LLDP to itself"),
    ("direct", "speeds differ", hb(speed_mbit=1000), (N, N, E), "agree on a speed"),
    ("direct", "carrier at one end", hb(carrier=False), (N, U, E), "not two ends of one cable"),
    ("direct", "virtual machines", both(driver="virtio_net", speed_mbit=None), (N, N), "virtual switch is always in between"),
    ("direct", "serial line", both(kind="ppp", bus="ttyS0", flags=("up", "pointopoint"), heard=None), SILENT, ""),
    ("direct", "PPP over a program", hb(kind="ppp", bus="pts/3"), (U, N), "hb0 of node1 runs over pts/3"),
    ("direct", "PPP over Ethernet", hb(kind="ppp", bus=None, unknown=(("bus", "over no line"),)), (U, N), "known: over no line"),
    ("real-adapter", "loopback", hb(kind="loopback"), (E,), "loopback"),
    ("real-adapter", "veth", hb(kind="veth"), (W,), "veth"),
    ("real-adapter", "tunnel", hb(kind="vxlan"), (E,), "of kind vxlan"),
    ("real-adapter", "serial line", hb(kind="ppp"), SILENT, ""),
    ("real-adapter", "bond", bond("active-backup"), SILENT, ""),
    ("vlan", "it is one", itself("vlan", vlan_id=5), (E,), "runs in VLAN 5"),
    ("vlan", "one on top", on_top("vlan"), (E,), "VLAN over runs on hb0"),
    ("virtual-switch", "bridge port", port_of("bridge"), (E,), "hb0 of node1 is a port of sw0, a bridge"),
    ("virtual-switch", "OVS port", port_of("openvswitch"), (E,), "hb0 of node1 is a port of sw0, Open vSwitch"),
    ("virtual-switch", "team port", port_of("team"), (E,), "hb0 of node1 is a port of sw0, a team"),
    ("virtual-switch", "it is a bridge", itself("bridge"), (E,), "hb0 is a bridge"),
    ("virtual-switch", "it is macvlan", itself("macvlan"), (E,), "hb0 is macvlan"),
    ("virtual-switch", "macvlan on top", on_top("macvlan"), (E,), "hb0 of node1 is below over, macvlan"),
    ("virtual-switch", "macvtap on top", on_top("macvtap"), (E,), "hb0 of node1 is below over, macvtap"),
    ("virtual-switch", "ipvlan on top", on_top("ipvlan"), (E,), "hb0 of node1 is below over, ipvlan"),
    ("virtual-switch", "a port of a bond", bond("active-backup"), SILENT, ""),
    (
        "virtual-switch",
        "runs over another namespace",
        hb(unknown=(("lower", "in another network namespace"),)),
        (U,),
        "another network",
    ),
    ("addressing", "one end by DHCP", hb(addresses=(Address("10.0.1.1", 24, "global", True),)), (E,), "hb0 of node1 is dhcp and"),
    ("addressing", "both by DHCP", both(addresses=(Address("10.0.1.1", 24, "global", True),)), SILENT, ""),
    ("addressing", "no address", hb(addresses=(Address("fe80::1", 64, "link", False),)), (E,), "no address but link-local"),
    ("addressing", "not known", hb(addresses=(Address("10.0.1.1", 24, "global", None),)), (U,), "not known"),
    ("network", "different networks", hb(addresses=(Address("10.0.7.1", 24, "global", False),)), (E,), "no common network"),
    (
        "network",
        "the same address",
        both(addresses=(Address("10.0.1.1", 24, "global", False),)),
        (E,),
        "the same address 10.0.1.1",
    ),
    ("speed", "1 Gbit/s", hb(speed_mbit=1000), (W,), "1000 Mbit/s"),
    ("speed", "virtual machine", hb(driver="virtio_net", speed_mbit=None), (N,), "cannot be told"),
    (
        "speed",
        "not told",
        hb(speed_mbit=None, unknown=(("speed_mbit", "the driver does not tell"),)),
        (U,),
        "the driver does not tell",
    ),
    ("speed", "no carrier", hb(speed_mbit=None, carrier=False), SILENT, ""),
    ("speed-clients", "slower", hb(speed_mbit=1000), (E,), "1000 Mbit/s, client0 of node1, which clients use, at 10000"),
    ("speed-clients", "client not told", lambda a, b: (changed(a, "client0", speed_mbit=None), b), (U,), "how fast client0 is"),
    ("speed-clients", "virtual", hb(driver="virtio_net", speed_mbit=None), (N,), "cannot be compared"),
    ("speed-clients", "a serial line", hb(kind="ppp", speed_mbit=None), SILENT, ""),
    ("bond-mode", "active-backup", bond("active-backup"), SILENT, ""),
    ("bond-mode", "balance-tlb", bond("balance-tlb"), (E,), "mode balance-tlb"),
    ("bond-mode", "balance-alb", bond("balance-alb"), (E,), "mode balance-alb"),
    ("bond-mode", "balance-rr", bond("balance-rr"), (W,), "mode balance-rr"),
    ("bond-mode", "balance-xor", bond("balance-xor"), (W,), "mode balance-xor"),
    ("bond-mode", "broadcast", bond("broadcast"), (W,), "mode broadcast"),
    ("bond-mode", "802.3ad", bond("802.3ad", lacp_rate="slow"), (W,), "mode 802.3ad, lacp_rate slow"),
    ("bond-mode", "a mode of the future", bond("unknown"), (U,), "not known"),
    ("bond-members", "two", bond("active-backup"), SILENT, ""),
    ("bond-members", "one is dead", bond("active-backup", alive=1), (W,), "with carrier: m0"),
    ("bond-members", "not watched", bond("active-backup", miimon_ms=0), (W,), "miimon 0"),
    ("bond-members", "watched by ARP", bond("active-backup", miimon_ms=0, arp_interval_ms=200), SILENT, ""),
    ("bond-members", "perhaps watched by ARP", bond("active-backup", miimon_ms=0, arp_interval_ms=None), (W,), "miimon 0"),
    ("mtu", "differs", hb(mtu=9000), (W,), "9000"),
    ("mtu", "not told", hb(mtu=None), (U,), "MTU of hb0 of node1 is not known"),
    ("duplex", "half", hb(duplex="half"), (E,), "half duplex"),
    ("duplex", "not told", hb(duplex=None), (U,), "is not known"),
    ("duplex", "virtual", hb(duplex=None, driver="virtio_net"), SILENT, ""),
)


@pytest.mark.req("B1", "B2", "B3", "B4", "B5", "B6", "B7")
@pytest.mark.parametrize(
    "rule, situation, change, wanted, words", SITUATIONS, ids=[f"{each[0]}: {each[1]}" for each in SITUATIONS]
)
def test_rule_and_situation(rule: str, situation: str, change: Change, wanted: Tuple[Severity, ...], words: str) -> None:
    found = judged(*change(good(1), good(2)), rule)
    assert severities(found) == tuple(sorted(wanted, key=lambda each: list(Severity).index(each))), found
    if words:
        import re

        assert any(re.search(words, each.evidence) for each in found), found
    assert all(each.evidence and each.remedy and not each.evidence.endswith(".") for each in found)


def test_a_good_pair_has_notes_alone() -> None:
    found = heartbeat_rules.judge(make_plan(good(1), good(2)))
    assert {(each.rule, each.severity) for each in found} == {("direct", N)}


def test_every_rule_is_proved_here() -> None:
    elsewhere = {
        "same-adapter",
        "shared-link",
        "corosync-link",
        "peer-facts",
        "heartbeats",
        "independent",
        "names",
        "crypto",
        "corosync-differs",
        "corosync-conf",
    }
    assert {each[0] for each in SITUATIONS} | elsewhere == set(heartbeat_rules.RULES)


# --- B2


@pytest.mark.req("B2")
@pytest.mark.parametrize(
    "compare, change, wanted",
    [
        (Compare.NAME, lambda item: replace(item, name="eth3"), (E,)),
        (Compare.NAME, lambda item: replace(item, name="eth3", altnames=("hb0",)), SILENT),
        (Compare.NAME, lambda item: replace(item, name="eth3", unknown=(("altnames", "too old"),)), (U,)),
        (Compare.BUS, lambda item: replace(item, name="eth3"), SILENT),
        (Compare.BUS, lambda item: replace(item, bus="0000:07:00.0"), (E,)),
        (Compare.BUS, lambda item: replace(item, dev_port=1), (E,)),
        (Compare.BUS, lambda item: replace(item, bus=None, unknown=(("bus", "not told"),)), (U,)),
        (Compare.PORT, lambda item: replace(item, bus="0000:07:00.0"), SILENT),
        (Compare.PORT, lambda item: replace(item, bus="0000:01:00.1"), (E,)),
        (Compare.PORT, lambda item: replace(item, driver="igb"), (E,)),
        (Compare.PORT, lambda item: replace(item, driver=None), (U,)),
    ],
)
def test_same_adapter(compare: Compare, change: Callable[[Interface], Interface], wanted: Tuple[Severity, ...]) -> None:
    two = good(2)
    two = replace(two, interfaces=(change(two.interfaces[0]), *two.interfaces[1:]))
    assert severities(judged(good(1), two, "same-adapter", compare=compare)) == wanted


@pytest.mark.req("B4")
@pytest.mark.parametrize("wish, wanted", [(Addressing.DHCP, (E, E)), (Addressing.STATIC, SILENT), (Addressing.ANY, SILENT)])
def test_addressing_can_be_asked_for(wish: Addressing, wanted: Tuple[Severity, ...]) -> None:
    assert severities(judged(good(1), good(2), "addressing", addressing=wish)) == wanted


# --- A9, B8: each fact once, by the one family or the other


def apart(one: HostFacts, two: HostFacts, **wishes: Any) -> Dict[str, Set[Severity]]:
    """rule -> severities, of everything that is said about parts that links share."""
    plan = make_plan(one, two, **{"heartbeats": [("hb0", None)], **wishes})
    found = [*heartbeat_rules.judge(plan), *spof_from_facts.findings(plan)]
    told: Dict[str, Set[Severity]] = {}
    for each in found:
        if each.rule == "independent" or each.rule in ("spof-all", "spof-heartbeat", "spof-unknown"):
            told.setdefault(each.rule, set()).add(each.severity)
    return told


TWO: Dict[str, Any] = {"heartbeats": [("hb0", None), ("hb1", None)]}


@pytest.mark.req("A9", "E4")
def test_independent_adapters() -> None:
    one, two = good(1), good(2)
    assert apart(one, two) == {"spof-heartbeat": {W}}  # there is one heartbeat
    second, both_ends = added(one, adapter(1, 4, "hb1")), added(two, adapter(2, 4, "hb1"))
    assert apart(second, both_ends, **TWO) == {}
    same_card = changed(one, "sync0", bus="0000:01:00.1")
    assert apart(same_card, two) == {"spof-all": {E}, "spof-heartbeat": {W}}
    (all_of_them,) = [each for each in spof_from_facts.findings(make_plan(same_card, two)) if each.rule == "spof-all"]
    assert "0000:01:00" in all_of_them.evidence
    # A second heartbeat on a card of its own takes the error away, and leaves a note of the first.
    assert apart(added(same_card, adapter(1, 4, "hb1")), both_ends, **TWO) == {"independent": {N}}
    # Two heartbeats, each beside one of two sync links: no single part takes everything, but none is on its own.
    beside = added(same_card, adapter(1, 4, "hb1"), adapter(1, 5, "sync1", bus="0000:04:00.1"))
    beside_two = added(both_ends, adapter(2, 5, "sync1"))
    links: Dict[str, Any] = {**TWO, "syncs": [("sync0", None), ("sync1", None)]}
    assert apart(beside, beside_two, **links) == {"independent": {W}}
    # Both heartbeats on one card, away from replication.
    one_card = added(one, adapter(1, 4, "hb1", bus="0000:01:00.1"))
    assert apart(one_card, both_ends, **TWO) == {"spof-heartbeat": {W}}


@pytest.mark.req("A9", "E4")
def test_independent_through_bonds_and_vlans() -> None:
    one, two = bond("active-backup")(good(1), good(2))
    assert single_points(one, "hb0") == {"interface hb0"}
    assert "spof-all" not in apart(changed(one, "sync0", bus="0000:14:00.1"), two)  # only one of the bond's two cards
    on_both = changed(changed(one, "m0", bus="0000:02:00.1"), "m1", bus="0000:02:00.2")
    assert apart(on_both, two)["spof-all"] == {E}
    vlan = added(good(1), Interface("sync5", 80, "vlan", flags=("up",), carrier=True, lower=("hb0",)))
    told = apart(vlan, good(2), syncs=[("sync5", "sync0")])
    assert told["spof-all"] == {E} and "independent" not in told


@pytest.mark.req("A9", "E4")
def test_what_is_not_known_is_not_independent() -> None:
    one, two = good(1), good(2)
    nobody = replace(one, sync=None, unknown=(("sync", "there is no drbdadm here"),))
    assert apart(nobody, two)["spof-unknown"] == {U} and not judged(nobody, two, "independent")
    told = [each.evidence for each in spof_from_facts.findings(make_plan(nobody, two)) if each.rule == "spof-unknown"]
    assert any("node1: there is no drbdadm here" in each for each in told), told
    assert severities(judged(replace(one, sync=()), two, "independent")) == (N, N)
    assert apart(changed(one, "hb0", bus=None), two)["spof-unknown"] == {U}
    assert apart(changed(one, "hb0", driver="virtio_net"), two)["spof-unknown"] == {U}


@pytest.mark.req("B8", "A9")
def test_one_link_for_both() -> None:
    found = judged(good(1), good(2), "shared-link", syncs=[("hb0", None)])
    assert severities(found) == (N, N) and not judged(good(1), good(2), "shared-link")
    assert apart(good(1), good(2), syncs=[("hb0", None)])["spof-all"] == {E}


# --- Corosync


def with_path(host: HostFacts, **facts: Any) -> HostFacts:
    assert host.corosync
    return replace(host, corosync=replace(host.corosync, paths=(replace(host.corosync.paths[0], **facts),)))


@pytest.mark.parametrize(
    "change, wanted, words",
    [
        ({"interface": "client0"}, (E,), "has its address on hb0 of node1, but the kernel sends it by client0"),
        ({"local": "10.0.3.1"}, (E,), "leaves by hb0 of node1, but its address is on another interface"),
        (
            {"local": "10.0.3.1", "interface": "client0"},
            (E,),
            "no Corosync link runs on hb0 of node1: link 0 runs on client0",
        ),
        ({"bound": False}, (E,), "does not listen on 10.0.1.1"),
        ({"bound": None}, (U,), "is not known"),
        ({"interface": None, "error": "there is no route"}, (U,), "there is no route"),
        ({"local": "hb.example", "interface": None, "error": "hb.example has no address"}, (U,), "hb.example has no address"),
    ],
)
def test_corosync_really_runs_there(change: Dict[str, Any], wanted: Tuple[Severity, ...], words: str) -> None:
    found = judged(with_path(good(1), **change), good(2), "corosync-link", heartbeats=[("hb0", None)])
    assert severities(found) == wanted
    assert words in found[0].evidence


def test_corosync_that_is_not_there() -> None:
    one, two = good(1), good(2)
    assert not judged(replace(one, corosync=None), two, "corosync-link", heartbeats=[("hb0", None)])
    assert severities(judged(replace(one, corosync=None), two, "corosync-conf", heartbeats=[("hb0", None)])) == (N,)
    unreadable = replace(one, corosync=None, unknown=(("corosync", "corosync.conf:3: expected a key"),))
    for rule in ("corosync-link", "crypto"):
        found = judged(unreadable, two, rule, heartbeats=[("hb0", None)])
        assert severities(found) == (U,) and "corosync.conf:3: expected a key" in found[0].evidence
    assert one.corosync
    stranger = replace(one, corosync=replace(one.corosync, me=None, paths=()))
    assert "is not in the node list" in judged(stranger, two, "corosync-link", heartbeats=[("hb0", None)])[0].evidence
    stopped = with_path(one, bound=False)
    assert stopped.corosync
    assert not judged(replace(stopped, corosync=replace(stopped.corosync, running=False)), two, "corosync-link")


@pytest.mark.req("D11")
@pytest.mark.parametrize(
    "conf, wanted, words",
    [
        ({"crypto_cipher": "none", "crypto_hash": "none"}, (E,), "authenticates nobody"),
        ({"crypto_cipher": "aes256", "crypto_hash": "none"}, (E,), "authenticates nobody"),
        ({"crypto_cipher": "none"}, (W,), "does not encrypt"),
        ({"transport": "udpu"}, (E,), "transport udpu on node1 can neither"),
        ({}, SILENT, ""),
    ],
)
def test_crypto(conf: Dict[str, str], wanted: Tuple[Severity, ...], words: str) -> None:
    one = good(1)
    assert one.corosync
    found = judged(replace(one, corosync=replace(one.corosync, **conf)), good(2), "crypto")
    assert severities(found) == wanted and all(words in each.evidence for each in found)


def named(one: Resolution, two: Optional[Resolution] = None) -> Tuple[HostFacts, HostFacts]:
    """Node 1 is named in the node list, not numbered."""
    hosts = []
    for host, answer in ((good(1), one), (good(2), two or one)):
        assert host.corosync
        ring = (RingAddress("node1", 0, "hb-node1"), host.corosync.addresses[1])
        hosts.append(replace(host, corosync=replace(host.corosync, addresses=ring), resolutions=(answer,)))
    return hosts[0], hosts[1]


@pytest.mark.req("C7")
@pytest.mark.parametrize(
    "addresses, wanted, words",
    [
        (("10.0.1.1",), SILENT, ""),
        ((), (E, E), "resolves to nothing on node1"),
        (("10.0.1.1", "10.0.3.1"), (E, E), "resolves to several addresses on node1: 10.0.1.1, 10.0.3.1"),
        (("10.0.3.1",), (E, E), "that is client0, which is no heartbeat link of node1"),
        (("10.9.9.9",), (E, E), "which no interface of node1 has"),
        (None, (U, U), "could not be looked up on node1: no answer within 5 s"),
    ],
)
def test_names(addresses: Optional[Tuple[str, ...]], wanted: Tuple[Severity, ...], words: str) -> None:
    found = judged(*named(Resolution("hb-node1", addresses, "no answer within 5 s")), "names")
    assert severities(found) == wanted
    assert not words or words in found[0].evidence


@pytest.mark.req("C7")
def test_names_of_loopback_and_of_both_families() -> None:
    one, two = named(Resolution("hb-node1", ("127.0.1.1",)))
    lo = Interface("lo", 1, "loopback", addresses=(Address("127.0.1.1", 8, "host", False),))
    assert "that is the loopback interface of node1" in judged(added(one, lo), two, "names")[0].evidence
    one, two = named(Resolution("hb-node1", ("10.0.1.1", "fd00::1")))
    families = (Address("10.0.1.1", 24, "global", False), Address("fd00::1", 64, "global", False))
    assert severities(judged(changed(one, "hb0", addresses=families), two, "names")) == (W, W)


@pytest.mark.req("C7")
def test_names_differ_between_the_nodes() -> None:
    one, two = named(Resolution("hb-node1", ("10.0.1.1",)), Resolution("hb-node1", ("10.0.2.1",)))
    found = judged(one, two, "names")
    assert severities(found) == (E,) and "10.0.1.1 on node1 and 10.0.2.1 on node2" in found[0].evidence


# --- only one node, no heartbeats


def test_without_the_peer() -> None:
    found = heartbeat_rules.judge(make_plan(good(1), None))
    assert {(each.rule, each.severity) for each in found} == {("peer-facts", U), ("direct", U)}
    crowded = changed(good(1), "hb0", heard=Heard(35.0, (), (STRANGER, "02:00:00:00:01:02")))
    assert severities(judged(crowded, None, "direct")) == (E,)
    answered = changed(good(1), "hb0", answers=("fe80::1", "fe80::2"))
    assert severities(judged(answered, None, "direct")) == (E,)


def test_without_heartbeats() -> None:
    one = replace(good(1), corosync=None)
    assert severities(judged(one, replace(good(2), corosync=None), "heartbeats")) == (U,)


def test_the_peers_interface_comes_from_corosync() -> None:
    two = good(2)
    two = replace(two, interfaces=(replace(two.interfaces[0], name="eth7"), *two.interfaces[1:]))
    plan = make_plan(good(1), two)
    assert [link.subject for link in plan.heartbeats] == ["hb0/eth7"]
    assert [link.subject for link in make_plan(good(1), two, [("hb0", None)]).heartbeats] == ["hb0/eth7"]
    assert [link.subject for link in make_plan(good(1), two, [("hb0", "eth9")]).heartbeats] == ["hb0/eth9"]


def test_a_circle_of_interfaces_ends() -> None:
    """Broken facts must not hang the check."""
    round_ = added(
        good(1), Interface("x", 70, "vlan", lower=("y",), upper=("y",)), Interface("y", 71, "vlan", lower=("x",), upper=("x",))
    )
    assert heartbeat_rules.judge(make_plan(round_, good(2), [("x", "hb0")]))
    assert isinstance(make_plan(round_, good(2)), Plan) and isinstance(make_plan(round_, good(2)).heartbeats[0], Link)


# --- C3

CONF = "totem {\n  version: 2\n  crypto_hash: sha256\n}\nlogging {\n  to_syslog: yes\n}\n"


def with_conf(number: int, text: str) -> HostFacts:
    host = good(number)
    assert host.corosync
    settings = tuple(Setting(key, values) for key, values in corosync_conf.written(corosync_conf.parse(text)).items())
    return replace(host, corosync=replace(host.corosync, settings=settings))


@pytest.mark.req("C3")
@pytest.mark.parametrize(
    "other, wanted, words",
    [
        (CONF, SILENT, ""),
        ("# a comment\n" + CONF.replace("  ", "\t\t"), SILENT, ""),
        (CONF.replace("to_syslog: yes", "to_syslog: no"), SILENT, ""),
        (CONF.replace("version: 2", "version: 2\n token: 9000"), (E,), "totem.token is not there on node1 and 9000 on node2"),
        (CONF.replace("sha256", "sha1"), (E,), "totem.crypto_hash is sha256 on node1 and sha1 on node2"),
    ],
)
def test_hosts_differ(other: str, wanted: Tuple[Severity, ...], words: str) -> None:
    found = judged(with_conf(1, CONF), with_conf(2, other), "corosync-differs")
    assert severities(found) == wanted and all(words in each.evidence for each in found)


@pytest.mark.req("C3", "D11")
def test_a_key_is_compared_and_never_told() -> None:
    one, two = (with_conf(number, CONF.replace("version: 2", f"version: 2\n key: {'secret' * number}")) for number in (1, 2))
    (found,) = judged(one, two, "corosync-differs")
    assert "totem.key" in found.evidence and "secret" not in repr((one, two, found)) and "sha256:" not in found.evidence
    assert not judged(one, replace(two, corosync=one.corosync), "corosync-differs")


@pytest.mark.req("C3")
def test_facts_that_do_not_tell_the_file_are_unknown() -> None:
    old = good(2)
    assert old.corosync
    old = replace(old, corosync=replace(old.corosync, settings=None))
    (found,) = judged(with_conf(1, CONF), old, "corosync-differs")
    assert found.severity is U and "node2" in found.evidence and "earlier heartgate" in found.evidence
    assert not judged(with_conf(1, CONF), replace(old, corosync=None), "corosync-differs")
