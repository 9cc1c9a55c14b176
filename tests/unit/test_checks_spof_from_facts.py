"""Facts of two hosts become a graph of parts: bonds, VLANs, cards, switches that were heard, what is not known."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Dict, Optional, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartgate.checks import facts_codec, spof, spof_from_facts
from heartgate.checks.findings import Severity
from heartgate.checks.links import End, Link, Plan
from heartgate.checks.model import Frame, Heard, HostFacts, Interface
from heartgate.checks.spof import Goal
from heartgate.cli import check, main


def port(name: str, bus: Optional[str], switch: str = "", **others: object) -> Interface:
    heard = Heard(35.0, (Frame("lldp", "02:00:00:00:00:01", switch),) if switch else (), ())
    return Interface(name=name, index=1, kind="physical", bus=bus, driver="ixgbe", heard=heard, **others)  # type: ignore[arg-type]


def host(name: str, *interfaces: Interface) -> HostFacts:
    return HostFacts(name, "0.1.0", interfaces, sync=())


def plan(one: HostFacts, two: HostFacts, heartbeats: Tuple[str, ...], syncs: Optional[Tuple[str, ...]] = ()) -> Plan:
    def links(names: Tuple[str, ...]) -> Tuple[Link, ...]:
        return tuple(Link((End(one, each), End(two, each))) for each in names)

    return Plan((one, two), links(heartbeats), None if syncs is None else links(syncs))


def singles(given: Plan) -> Dict[Goal, Tuple[str, ...]]:
    return {weak.goal: tuple(ident for (ident,) in weak.of_size(1)) for weak in spof.weaknesses(spof_from_facts.graph(given))}


@pytest.mark.req("A9", "E4")
def test_two_ports_of_one_card() -> None:
    one = host("a", port("hb0", "0000:01:00.0"), port("sync0", "0000:01:00.1"))
    two = host("b", port("hb0", "0000:01:00.0"), port("sync0", "0000:02:00.0"))
    assert singles(plan(one, two, ("hb0",), ("sync0",)))[Goal.BOTH] == ("a/card 0000:01:00",)
    assert {"spof-all"} <= {each.rule for each in spof_from_facts.findings(plan(one, two, ("hb0",), ("sync0",)))}


@pytest.mark.req("A9", "B7")
def test_a_vlan_on_a_bond_over_two_switches() -> None:
    def node(name: str, second: str) -> HostFacts:
        return host(
            name,
            port("eth1", "0000:01:00.0", "switch-1"),
            port("eth2", "0000:02:00.0", second),
            Interface("bond0", 5, "bond", lower=("eth1", "eth2")),
            Interface("bond0.7", 6, "vlan", lower=("bond0",)),
        )

    split = plan(node("a", "switch-2"), node("b", "switch-2"), ("bond0.7",))
    assert singles(split)[Goal.HEARTBEATS] == ()
    sets = spof.weaknesses(spof_from_facts.graph(split))[0].sets
    assert ("switch switch-1", "switch switch-2") in sets and ("a/eth1", "a/eth2") in sets and ("a/eth1", "b/eth2") not in sets
    assert singles(plan(node("a", "switch-1"), node("b", "switch-1"), ("bond0.7",)))[Goal.HEARTBEATS] == ("switch switch-1",)


@pytest.mark.req("B8")
def test_one_link_for_both() -> None:
    one, two = host("a", port("x0", "0000:01:00.0")), host("b", port("x0", "0000:01:00.0"))
    (channel,) = spof_from_facts.graph(plan(one, two, ("x0",), ("x0",))).channels
    assert channel.carries == ("heartbeat", "sync")
    assert len(singles(plan(one, two, ("x0",), ("x0",)))[Goal.BOTH]) == 4


@pytest.mark.req("D7", "E4")
@pytest.mark.parametrize("bus, unknown", [("ttyS0", False), ("pts/3", True), (None, True)])
def test_what_a_serial_line_runs_on_is_known(bus: Optional[str], unknown: bool) -> None:
    """It shares nothing with the card that carries everything else. Where other PPP leads is not known."""
    nodes = [host(name, port("x0", "0000:01:00.0"), Interface("ppp0", 2, "ppp", bus=bus)) for name in "ab"]
    found = plan(nodes[0], nodes[1], ("x0", "ppp0"), ("x0",))
    assert singles(found)[Goal.BOTH] == ()
    assert any(each.rule == "spof-unknown" for each in spof_from_facts.findings(found)) is unknown


def test_a_peer_that_tells_lldp_is_no_switch() -> None:
    one, two = host("a", port("x0", "0000:01:00.0", "b.example.org")), host("b", port("x0", "0000:01:00.0", "a"))
    assert not any(part.kind == "switch" for part in spof_from_facts.graph(plan(one, two, ("x0",))).parts)


@pytest.mark.parametrize(
    "item, reason",
    [
        (port("x0", None), "no bus address"),
        (replace(port("x0", "virtio0"), driver="virtio_net"), "adapter of a virtual machine"),
        (Interface("x0", 1, "veth"), "it is a veth"),
        (port("x0", None, unknown=(("bus", "ethtool: no permission"),)), "no permission"),
        (Interface("y0", 1, "veth"), "a has no interface x0"),
        (Interface("x0", 1, "bridge", lower=("p0", "p1")), "which of them leads to the peer"),
    ],
)
def test_what_is_not_known_is_said(item: Interface, reason: str) -> None:
    one = host("a", item, port("p0", "0000:05:00.0"), port("p1", "0000:06:00.0"))
    found = spof_from_facts.findings(plan(one, host("b", port("x0", "0000:01:00.0")), ("x0",)))
    unknown = [each for each in found if each.rule == "spof-unknown"]
    assert [each.severity for each in unknown] == [Severity.UNKNOWN] and reason in unknown[0].evidence


def test_no_peer_and_no_sync() -> None:
    one = host("a", port("x0", "0000:01:00.0"))
    alone = Plan((one,), (Link((End(one, "x0"),)),), None)
    said = {(each.rule, each.subject) for each in spof_from_facts.findings(alone)}
    assert {("spof-unknown", "sync links"), ("spof-unknown", "adapter behind x0 of peer")} <= said
    assert spof_from_facts.findings(Plan((one,), ())) == ()


@pytest.mark.req("A9")
def test_without_the_peers_facts_nothing_is_taken_for_shared() -> None:
    one = host("a", port("x0", "0000:01:00.0"), port("x1", "0000:02:00.0"))
    alone = Plan((one,), tuple(Link((End(one, name),)) for name in ("x0", "x1")), (Link((End(one, "x1"),)),))
    assert {each.rule for each in spof_from_facts.findings(alone)} == {"spof-sync", "spof-sets", "spof-unknown"}


names = st.sampled_from(["x0", "x1", "x2", "x3"])
interfaces = st.builds(
    Interface,
    name=names,
    index=st.just(1),
    kind=st.sampled_from(["physical", "bond", "vlan", "bridge", "veth", "team"]),
    altnames=st.lists(names, max_size=1).map(tuple),
    bus=st.none() | st.sampled_from(["0000:01:00.0", "0000:01:00.1", "usb1"]),
    lower=st.lists(names, max_size=3).map(tuple),
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(interfaces, max_size=5), st.lists(interfaces, max_size=5), st.lists(names, max_size=3), st.lists(names, max_size=2)
)
def test_any_report_gives_a_sound_graph(one, two, beats, syncs) -> None:  # type: ignore[no-untyped-def]
    """Circles, interfaces that are not there, two of the same name."""
    made = spof_from_facts.graph(plan(host("a", *one), host("b", *two), tuple(beats), tuple(syncs)))
    spof.check(made)
    spof_from_facts.findings(plan(host("a", *one), host("b", *two), tuple(beats), tuple(syncs)))


@pytest.mark.req("E4")
def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = host("a", port("x0", "0000:01:00.0")), host("b", port("x0", "0000:01:00.0"))
    monkeypatch.setattr(check, "collect", lambda *_: one)
    peer, picture = tmp_path / "b.json", tmp_path / "x.svg"
    peer.write_text(facts_codec.encode(two))
    code = main.main(["spof", "--peer-facts", str(peer), "--heartbeat", "x0", "--sync", "x0", "--svg", str(picture)])
    assert (
        code == 2
        and "all heartbeats and all sync links are lost with\n    any one of card 0000:01:00 of a" in capsys.readouterr().out
    )
    assert ElementTree.fromstring(picture.read_text()).tag.endswith("svg")
    assert main.main(["spof", "--peer-facts", str(peer)]) == 3
    assert "heartgate spof: no link is known" in capsys.readouterr().err
    assert main.main(["spof", "--peer-facts", str(tmp_path / "none"), "--heartbeat", "x0"]) == 3
    assert main.main(["spof", "--peer-facts", str(peer), "--heartbeat", "x0", "--svg", str(tmp_path / "no" / "x.svg")]) == 3
