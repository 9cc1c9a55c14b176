"""What `heartgate heartbeat` and `discover` do with files, requests and packets, without a cluster."""

from __future__ import annotations

import json
import os
import select
import socket
import stat
import struct
import time
from pathlib import Path
from typing import Any, Dict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartgate.adapters import addresses, discover, heartbeat_change, knet_stats, process
from heartgate.adapters.base import CarrierLost
from heartgate.adapters.conf_file import ConfFile, ConfFileError, digest
from heartgate.adapters.heartbeat_change import Plan, known_hosts, pcs_command, serve
from heartgate.checks import echo
from heartgate.checks.endpoints import Endpoint, EndpointError, assign, find_link

OLD = "totem {\n}\n# \udcff an odd byte\nnodelist {\n}\n"
NEW = OLD + "# more\n"


@pytest.fixture()
def file(tmp_path: Path) -> ConfFile:
    made = ConfFile(tmp_path / "corosync.conf")
    made.path.write_bytes(OLD.encode("utf-8", "surrogateescape"))
    made.path.chmod(0o640)
    return made


# --- the file


@pytest.mark.req("C7")
def test_a_text_is_replaced_whole_and_the_old_one_is_kept_until_the_commit(file: ConfFile) -> None:
    file.write(digest(OLD), NEW, "me")
    assert file.read() == NEW and stat.S_IMODE(file.path.stat().st_mode) == 0o640
    assert stat.S_IMODE(file.kept.stat().st_mode) == 0o600
    file.commit("somebody else")
    assert file.kept.exists()
    file.commit("me")
    assert sorted(path.name for path in file.path.parent.iterdir()) == ["corosync.conf"]
    assert not file.restore()


@pytest.mark.req("C7")
def test_restore_gives_the_same_bytes_and_only_to_the_owner(file: ConfFile) -> None:
    file.write(digest(OLD), NEW, "me")
    assert not file.restore("somebody else") and file.read() == NEW
    assert file.restore("me")
    assert file.path.read_bytes() == OLD.encode("utf-8", "surrogateescape") and not file.kept.exists()


@pytest.mark.req("C7")
def test_a_second_change_and_a_file_changed_meanwhile_are_refused(file: ConfFile) -> None:
    with pytest.raises(ConfFileError, match="changed by somebody else meanwhile"):
        file.write(digest("another text"), NEW, "me")
    file.write(digest(OLD), NEW, "me")
    with pytest.raises(ConfFileError, match="heartgate heartbeat undo"):
        file.write(digest(NEW), OLD, "second")
    file.path.write_text("somebody's own\n")
    with pytest.raises(ConfFileError, match="after the interrupted change"):
        file.restore()
    assert file.restore(force=True) and file.read() == OLD


def test_what_cannot_be_read_has_a_message(tmp_path: Path, file: ConfFile) -> None:
    with pytest.raises(ConfFileError, match="No such file"):
        ConfFile(tmp_path / "nothing").read()
    file.kept.write_text("garbage")
    with pytest.raises(ConfFileError, match="cannot be read"):
        file.restore()
    file.path.write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(ConfFileError, match="larger than"):
        file.read()


@pytest.mark.req("C7")
def test_a_link_to_the_file_stays_a_link(tmp_path: Path, file: ConfFile) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "corosync.conf").symlink_to(file.path)
    by_link = ConfFile(tmp_path / "etc" / "corosync.conf")
    by_link.write(digest(OLD), NEW, "me")
    assert by_link.path.is_symlink() and file.read() == NEW


# --- requests of another node


@pytest.mark.parametrize(
    "text", ["", "garbage", "[]", "{}", '{"op": 7}', '{"op": "rm"}', '{"op": "write"}', '{"op": "restore"}', "null", '{"op": []}']
)
def test_a_bad_request_is_answered_and_changes_nothing(file: ConfFile, text: str) -> None:
    answer = serve(text, file)
    assert answer["ok"] is False and answer["error"]
    assert file.read() == OLD and not file.kept.exists()


@pytest.mark.req("C7")
def test_the_requests_of_a_change(file: ConfFile) -> None:
    def ask(**request: Any) -> Dict[str, Any]:
        return serve(json.dumps(request), file)

    text = ask(op="read")["text"]
    assert text == OLD
    assert ask(op="write", expect=digest("x"), text=NEW, owner="a")["ok"] is False
    assert ask(op="write", expect=digest(text), text=NEW, owner="a")["ok"] and file.read() == NEW
    assert ask(op="restore", owner="b") == {"ok": True, "restored": False} and file.read() == NEW
    assert ask(op="restore", owner="a") == {"ok": True, "restored": True} and file.read() == OLD


def test_pcs_command_and_known_hosts() -> None:
    plan = Plan(2, ("a", "b"), ("10.0.0.1", "10.0.0.2"), {"knet_ping_interval": "100"})
    added = ["a=10.0.0.1", "b=10.0.0.2", "options", "linknumber=2", "ping_interval=100"]
    assert pcs_command(plan) == ["pcs", "cluster", "link", "add", *added]
    assert pcs_command(Plan(2, ("a", "b"))) == ["pcs", "cluster", "link", "remove", "2"]
    assert known_hosts('{"known_hosts": {"a": {"token": "t"}, "b": {"token": ""}, "c": 1}}') == {"a"}
    for bad in ("", "[]", "{}", '{"known_hosts": []}'):
        with pytest.raises(ValueError):
            known_hosts(bad)


def test_an_odd_node_name_reaches_no_command() -> None:
    with pytest.raises(heartbeat_change.ChangeError, match="cannot be used in a command"):
        heartbeat_change.choose("a", ["a", "-oProxyCommand=touch /tmp/x"])


@pytest.mark.parametrize(
    "done, says",
    [
        (process.Completed(255, "", "Permission denied (publickey)."), "without a password: rc 255: Permission denied"),
        (process.Completed(124, "", "ended: deadline passed"), "cannot be reached by ssh"),
        (process.Completed(127, "", "sh: 1: /usr/sbin/heartgate: not found"), "/usr/sbin/heartgate not there"),
        (process.Completed(2, "", "heartgate: error: invalid choice: 'heartbeat'"), "heartgate there does not answer: rc 2"),
        (process.Completed(0, "Welcome!\n", ""), "does not answer"),
    ],
)
def test_an_answer_over_ssh_that_is_none_has_a_message(done: process.Completed, says: str) -> None:
    with pytest.raises(heartbeat_change.ChangeError, match="nodeb") as caught:
        heartbeat_change._answer("nodeb", done)
    assert says in str(caught.value)
    assert heartbeat_change._answer("nodeb", process.Completed(1, '{"ok": false}', "")) == {"ok": False}
    assert heartbeat_change._answer("nodeb", process.Completed(0, "[1]", "")) == {}


# --- addresses


def test_interfaces_of_ip() -> None:
    text = '[{"ifname": "hb0", "addr_info": [{"local": "10.0.0.1"}, {"local": "FE80::0:1"}, {}]}, {"ifname": "lo"}]'
    assert addresses.interfaces_of(text) == {"10.0.0.1": "hb0", "fe80::1": "hb0"}
    assert addresses.local_addresses()["127.0.0.1"] == "lo"
    assert addresses.resolve("127.0.0.1") == ("127.0.0.1",) and addresses.resolve("no such name") == ()
    assert addresses.resolve("x" * 300) == () and addresses.resolve("a\0b") == ()


HERE, THERE = {"10.1.0.1", "10.2.0.1", "127.0.0.1"}, {"b": {"10.1.0.2", "10.2.0.2", "127.0.0.1"}}
A, B = Endpoint("A", ("10.1.0.1",)), Endpoint("B", ("10.1.0.2",))


@pytest.mark.req("C7")
def test_names_to_nodes_in_any_order() -> None:
    assert assign([A, B], ["a", "b"], "a", HERE, {}) == ("10.1.0.1", "10.1.0.2")
    assert assign([B, A], ["a", "b"], "a", HERE, THERE) == ("10.1.0.1", "10.1.0.2")
    assert assign([A, B], ["b", "a"], "a", HERE, THERE) == ("10.1.0.2", "10.1.0.1")
    c = Endpoint("C", ("10.1.0.3",))
    assert assign([c, B, A], ["a", "b", "c"], "a", HERE, THERE) == ("10.1.0.1", "10.1.0.2", "10.1.0.3")
    assert assign([A, Endpoint("B", ("10.1.0.2",), "c"), c], ["a", "b", "c"], "a", HERE, {}) == ("10.1.0.1", "10.1.0.3", "10.1.0.2")
    with pytest.raises(EndpointError, match=r"write b\|c=B"):
        assign([A, B, c], ["a", "b", "c"], "a", HERE, {})


@pytest.mark.req("C7")
def test_names_to_links() -> None:
    links = {0: [("10.1.0.1",), ("10.1.0.2",)], 3: [("10.2.0.1", "fd00::1"), ("10.2.0.2",)]}
    assert find_link([B, A], links) == 0
    assert find_link([Endpoint("x", ("fd00::1", "10.9.9.9")), Endpoint("y", ("10.2.0.2",))], links) == 3
    for names, says in (([A, A], "no link joins"), ([A, Endpoint("n", ())], "no address"), ([A], "no link joins")):
        with pytest.raises(EndpointError, match=says):
            find_link(names, links)
    every = Endpoint("z", ("10.1.0.1", "10.1.0.2", "10.2.0.1", "10.2.0.2"))
    with pytest.raises(EndpointError, match="several links"):
        find_link([every, every], links)


# --- Corosync that does not answer


def test_a_call_to_corosync_is_bounded() -> None:
    began = time.monotonic()
    with pytest.raises(CarrierLost, match="did not answer"):
        knet_stats.bounded(lambda: time.sleep(120), 0.2)
    assert time.monotonic() - began < 60
    with pytest.raises(KeyError):
        knet_stats.bounded(lambda: {}["x"], 60)
    assert knet_stats.bounded(lambda: 7, 60) == 7


# --- discover


@pytest.mark.req("C8")
def test_an_echo_and_its_answer() -> None:
    token = b"12345678"
    packet = echo.request(70000, 3, token)
    answer = bytes([129]) + packet[1:]
    assert echo.parse(answer, 70000, token) == echo.Reply(3)
    bad = [b"", b"\x81", packet, answer[:-1], answer + b"x", bytes([129, 1]) + packet[2:]]
    assert all(isinstance(echo.parse(each, 70000, token), echo.Ignored) for each in bad)
    assert isinstance(echo.parse(answer, 70001, token), echo.Ignored) and isinstance(echo.parse(answer, 70000, b"x"), echo.Ignored)


@pytest.mark.req("C8")
@given(st.binary(max_size=64))
def test_any_packet_is_read(packet: bytes) -> None:
    assert isinstance(echo.parse(packet, 1, b"12345678"), echo.Ignored)


def entry(flags: str, *given_addresses: str) -> Dict[str, Any]:
    return {"ifname": "x", "ifindex": 4, "flags": flags.split(), "addr_info": [{"local": each} for each in given_addresses]}


@pytest.mark.req("C8")
@pytest.mark.parametrize(
    "given_entry, why",
    [
        (entry("UP LOWER_UP MULTICAST", "10.0.0.1", "fe80::1"), ""),
        (entry("MULTICAST", "fe80::1"), "switched off"),
        (entry("UP NO-CARRIER", "fe80::1"), "no carrier"),
        (entry("UP LOWER_UP", "10.0.0.1"), "no IPv6 link-local address"),
    ],
)
def test_where_can_be_looked(given_entry: Dict[str, Any], why: str) -> None:
    (found,) = discover.interfaces_of([given_entry, entry("LOOPBACK UP")])
    assert why in found.why_not and bool(why) == bool(found.why_not)


@pytest.mark.req("C8")
@pytest.mark.skipif(os.geteuid() != 0, reason="a raw socket needs root")
def test_foreign_and_bad_packets_are_ignored_and_counted() -> None:
    """Over loopback (where a sender has no scope: number 0): the prober's own socket, fed by another raw socket."""
    prober = discover._Prober([discover.Interface("lo", 0, (), "")])
    sender = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    try:
        prober._sent[5] = time.monotonic()
        ours = bytes([129]) + echo.request(prober._identifier, 5, prober._token)[1:]
        unsent = bytes([129]) + echo.request(prober._identifier, 6, prober._token)[1:]
        for packet in (ours[:-1], bytes([129, 0]) + os.urandom(30), unsent, b"\x81\x00\x00\x00", ours):
            sender.sendto(packet, ("::1", 0))
        end = time.monotonic() + 60
        while len(prober.best_ms) + sum(prober.ignored.values()) < 5 and time.monotonic() < end:
            select.select([prober.socket], [], [], 0.1)
            prober.receive()
    finally:
        sender.close()
        prober.socket.close()
    assert list(prober.best_ms) == [("lo", "::1")] and sum(prober.ignored.values()) == 4, prober.ignored
    assert struct.unpack("=8I", discover._only(129))[4] == 0xFFFFFFFD
