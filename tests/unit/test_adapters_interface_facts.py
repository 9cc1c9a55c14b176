"""Kernel messages to facts. The bytes are put together here by linux/if_link.h, and read by whichever pyroute2 is installed: so
bonds, VLANs, teams and Open vSwitch are read also where the kernel has none (tests/ns/test_interfaces.py has the real ones)."""

from __future__ import annotations

import errno
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any, Dict, List, Sequence

import pytest

from heartgate.adapters import host_facts, interface_facts
from heartgate.adapters.ethtool import Ethtool
from heartgate.adapters.interface_facts import Dump, build
from heartgate.checks.model import Bond, Interface

pyroute2 = pytest.importorskip("pyroute2")

ADDRESS, IFNAME, MTU, LINK, MASTER, OPERSTATE, LINKINFO, CARRIER, NETNSID = 1, 3, 4, 5, 10, 16, 18, 33, 37
KIND, DATA = 1, 2
UP = 0x1 | 0x2 | 0x10000


def attribute(number: int, value: Any) -> bytes:
    data = value if isinstance(value, bytes) else struct.pack("=I", value) if isinstance(value, int) else value.encode() + b"\0"
    size = 4 + len(data)
    return struct.pack("=HH", size, number) + data + b"\0" * (-size % 4)


def link(index: int, name: str, kind: str = "", data: bytes = b"", flags: int = UP, **more: int) -> Any:
    """An RTM_NEWLINK as the kernel sends it, parsed by pyroute2."""
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    parts = [
        attribute(IFNAME, name),
        attribute(ADDRESS, bytes([2, 0, 0, 0, 0, index])),
        attribute(MTU, 1500),
        attribute(OPERSTATE, b"\x06"),
        attribute(CARRIER, b"\x01"),
    ]
    numbers = {"link": LINK, "master": MASTER, "netns": NETNSID}
    parts += [attribute(numbers[word], value) for word, value in more.items()]
    if kind:
        parts.append(attribute(LINKINFO, attribute(KIND, kind) + (attribute(DATA, data) if data else b"")))
    body = struct.pack("=BxHiII", 0, 1, index, flags, 0) + b"".join(parts)
    message = ifinfmsg(struct.pack("=IHHII", 16 + len(body), 16, 0, 0, 0) + body)
    message.decode()
    return message


def read(*links: Any) -> Dict[str, Interface]:
    return {item.name: item for item in build(Dump(links, (), ()), set())}


def bond_data(mode: int, active: int = 0, miimon: int = 100, rate: int = 0, arp: int = 0) -> bytes:
    words = [attribute(1, bytes([mode])), attribute(3, miimon), attribute(21, bytes([rate])), attribute(7, arp)]
    return b"".join(words + ([attribute(2, active)] if active else []))


@pytest.mark.req("B7")
@pytest.mark.parametrize(
    "number, mode",
    enumerate(("balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb")),
)
def test_bonds(number: int, mode: str) -> None:
    found = read(
        link(4, "bond0", "bond", bond_data(number, active=3, rate=1, arp=200)), link(2, "hb0", master=4), link(3, "hb1", master=4)
    )
    rate = "fast" if mode == "802.3ad" else None
    assert found["bond0"].bond == Bond(mode, ("hb0", "hb1"), "hb1", rate, 100, 200)
    assert found["bond0"].lower == ("hb0", "hb1") and found["hb0"].upper == ("bond0",)
    assert (found["hb0"].master, found["hb0"].master_kind, found["hb0"].kind) == ("bond0", "bond", "physical")


def test_a_bond_mode_of_the_future() -> None:
    bond = read(link(4, "bond0", "bond", bond_data(7)))["bond0"].bond
    assert bond and bond.mode == "unknown"


@pytest.mark.req("B3")
def test_vlan() -> None:
    found = read(link(2, "hb0"), link(5, "hb0.7", "vlan", attribute(1, struct.pack("=H", 7)), link=2))
    assert (found["hb0.7"].vlan_id, found["hb0.7"].lower, found["hb0"].upper) == (7, ("hb0",), ("hb0.7",))


@pytest.mark.req("B3")
@pytest.mark.parametrize("kind", ["bridge", "team", "openvswitch"])
def test_ports(kind: str) -> None:
    found = read(link(2, "hb0", master=6), link(6, "sw0", kind))
    assert (found["hb0"].master_kind, found["hb0"].upper, found["sw0"].lower) == (kind, ("sw0",), ("hb0",))


@pytest.mark.parametrize("kind", ["macvlan", "ipvlan", "macvtap"])
def test_what_runs_over_another(kind: str) -> None:
    assert read(link(2, "hb0"), link(5, "over", kind, link=2))["over"].lower == ("hb0",)


def test_another_namespace_is_unknown_and_a_veth_is_not() -> None:
    over = read(link(2, "hb0"), link(5, "over", "macvlan", link=2, netns=0))["over"]
    assert over.lower == () and over.why("lower") == "it runs over an interface in another network namespace"
    assert read(link(5, "over", "macvlan", link=77))["over"].why("lower")
    # Numbers of interfaces are each namespace's own.
    assert read(link(5, "over", "vlan", link=5, netns=0))["over"].why("lower")
    assert read(link(5, "over", "gretap", link=0, netns=0))["over"].why("lower")
    veth = read(link(5, "hb0", "veth", link=2, netns=0))["hb0"]
    assert veth.lower == () and veth.why("lower") is None
    assert read(link(2, "hb0", master=9))["hb0"].why("master")


def test_other_names_that_an_old_pyroute2_cannot_read() -> None:
    """As 0.5.14 hands out what it does not know."""
    message = {"index": 2, "flags": UP, "attrs": [("IFLA_IFNAME", "hb0"), ("UNKNOWN", {"header": {"length": 36, "type": 0x8034}})]}
    assert "too old" in str(read(message)["hb0"].why("altnames"))
    assert read(link(2, "hb0"))["hb0"].why("altnames") is None


def test_flags_and_carrier() -> None:
    found = read(link(1, "lo", flags=0x9), link(2, "off", flags=0x2), link(3, "on"))
    assert found["lo"].kind == "loopback" and found["off"].carrier is False and found["on"].carrier is True
    assert found["on"].flags == ("up", "broadcast", "lower_up") and found["on"].operstate == "up"
    assert (found["on"].mtu, found["on"].mac) == (1500, "02:00:00:00:00:03")


@pytest.mark.parametrize(
    "garbage",
    [
        [],
        [None],
        [{}],
        [{"attrs": None, "index": None}],
        [{"attrs": [("IFLA_IFNAME", 7)], "index": "x"}],
        [{"attrs": [("IFLA_IFNAME", "x"), ("IFLA_LINKINFO", "y")], "index": 3, "flags": None}],
    ],
)
def test_messages_that_make_no_sense(garbage: Sequence[Any]) -> None:
    assert all(isinstance(item, Interface) for item in build(Dump(garbage, garbage, garbage), set()))


# --- this machine


def test_this_machine() -> None:
    found = {item.name: item for item in interface_facts.collect()}
    assert found["lo"].kind == "loopback" and found["lo"].mtu
    for item in found.values():
        for fact in ("speed_mbit", "duplex"):
            assert getattr(item, fact) is not None or item.why(fact), f"{item.name}: {fact} is silently missing"


def test_ethtool_of_nothing() -> None:
    with Ethtool() as ethtool:
        for name in ("nosuch0", "", "a-name-that-is-too-long"):
            with pytest.raises(OSError) as caught:
                ethtool.settings(name)
            assert caught.value.errno == errno.ENODEV


def test_dhcp_clients_are_seen_by_their_command_line(tmp_path: Path) -> None:
    """A process table as the kernel shows it, with a DHCP client in this network namespace and one in another."""
    for pid, words, namespace in (
        (1, "udhcpc\0-i\0hb0\0", "net:[1]"),
        (2, "/sbin/dhclient\0hb9\0", "net:[2]"),
        (3, "cat\0hb8\0", "net:[1]"),
    ):
        place = tmp_path / str(pid) / "ns"
        place.mkdir(parents=True)
        (place.parent / "cmdline").write_bytes(words.encode())
        (place / "net").symlink_to(namespace)
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/net").symlink_to("net:[1]")
    assert interface_facts.dhcp_interfaces(tmp_path) == {"-i", "hb0"}


def test_addresses_given_by_a_dhcp_client_without_lifetimes() -> None:
    message = {
        "index": 2,
        "family": socket.AF_INET,
        "prefixlen": 24,
        "scope": 0,
        "flags": 0x80,
        "attrs": [("IFA_LOCAL", "10.0.0.1"), ("IFA_FLAGS", 0x80)],
    }
    for dhcp, wanted in ((set(), False), ({"hb0"}, True)):
        (item,) = build(Dump([link(2, "hb0")], [message], ()), dhcp)
        assert [address.dynamic for address in item.addresses] == [wanted]


# --- names


def test_every_name_gets_its_answer() -> None:
    found = {item.name: item for item in host_facts.resolve(("localhost", "127.0.0.1", "bad name", "x" * 300, ""))}
    assert found["localhost"].addresses and found["127.0.0.1"].addresses == ("127.0.0.1",)
    assert all(item.addresses is not None or item.error for item in found.values())


def test_a_resolver_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = threading.Event()
    told: List[str] = []
    monkeypatch.setattr(host_facts, "RESOLVE_S", 60.0)
    monkeypatch.setattr(host_facts, "PATIENCE_S", 0.1)

    def answer(name: str, *_: object, **__: object) -> Any:
        if name == "late":
            time.sleep(0.2)
        return [] if name == "slow" and waiting.wait(60) else [(2, 2, 17, "", ("10.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    assert host_facts.resolve(("quick", "late"), told.append)[1].addresses == ("10.0.0.1",)
    told.clear()
    monkeypatch.setattr(host_facts, "RESOLVE_S", 3.0)  # in which the quick one has to answer
    slow, quick = host_facts.resolve(("slow", "quick"), told.append)
    waiting.set()
    assert slow.addresses is None and "no answer within" in slow.error
    assert quick.addresses == ("10.0.0.1",) and told == ["waiting for the resolver ..."]
