"""Facts, rules and `heartgate check` against real kernel interfaces, in network namespaces of their own.

Kinds of interfaces that this kernel does not have are skipped, with the kernel's own words. The same cases run in a virtual
machine's kernel by `python3 tests/lab/interface_cases.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

import pytest

from heartgate.checks.heartbeat_rules import RULES
from tests.lab.api import wait_until
from tests.lab.interface_cases import CASES, LIBRARY, MAIN, PYTHON, Case, Missing, Space, cable, run_case, spaces

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.mark.req("B3", "B7")
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_real_interface(case: Case) -> None:
    try:
        run_case(case)
    except Missing as error:
        pytest.skip(str(error))


# --- two nodes


def configure(one: Space, two: Space) -> None:
    """hb0, sync0 and client0 between two nodes, with addresses."""
    for number, name in enumerate(("hb0", "sync0", "client0"), 1):
        cable(one, name, two)
        one.ip(f"addr add 10.77.{number}.1/24 dev {name}")
        two.ip(f"addr add 10.77.{number}.2/24 dev {name}")


def conf(tmp_path: Path, first: str = "10.77.1.1", second: str = "10.77.1.2") -> str:
    lines = ["totem {", "version: 2", "cluster_name: t", "crypto_cipher: aes256", "crypto_hash: sha256", "}", "nodelist {"]
    for number, address in enumerate((first, second), 1):
        lines += ["node {", f"name: node{'ab'[number - 1]}", f"nodeid: {number}", f"ring0_addr: {address}", "}"]
    lines += ["}", "quorum {", "provider: corosync_votequorum", "two_node: 1"]
    place = tmp_path / "corosync.conf"
    place.write_text("\n".join([*lines, "}", ""]))
    return str(place)


def ssh_to(tmp_path: Path, two: Space, extra: str = "") -> str:
    """Stands where ssh stands: its last word is a command for a shell on the other node, which it runs there."""
    place = tmp_path / "ssh"
    inner = " ".join(two.enter(["env", f"PYTHONPATH={LIBRARY}", "sh", "-c"]))
    heartgate = f"heartgate() {{ {PYTHON} -c '{MAIN}' \"$@\" {extra}; }}"
    place.write_text(f'#!/bin/bash\nfor last; do :; done\nexec {inner} "$(cat <<"END"\n{heartgate}\nEND\n)\n$last"\n')
    place.chmod(0o755)
    return str(place)


@pytest.fixture()
def pair() -> Iterator[Tuple[Space, Space]]:
    try:
        with spaces("nodea", "nodeb") as (one, two):
            configure(one, two)
            yield one, two
    except Missing as error:
        pytest.skip(str(error))


def check(one: Space, *words: str) -> Tuple[int, List[Dict[str, Any]], str]:
    done = one.heartgate("check", "--json", *words, timeout_s=90)
    return done.returncode, json.loads(done.stdout)["findings"] if done.stdout else [], done.stderr


def rules(findings: List[Dict[str, Any]], severity: str) -> Set[str]:
    return {each["rule"] for each in findings if each["severity"] == severity}


@pytest.mark.req("B1", "B2", "B4", "C7")
def test_a_pair_over_a_stand_in_for_ssh(pair: Tuple[Space, Space], tmp_path: Path) -> None:
    """Two nodes, a cable, the peer's facts through the command that ssh would run. All is well but that a cable is a veth."""
    one, two = pair
    place = conf(tmp_path)
    ssh = ssh_to(tmp_path, two, f"--corosync-conf {place}")
    code, findings, errors = check(
        one, "--peer", "nodeb", "--ssh", ssh, "--corosync-conf", place, "--sync", "sync0", "--listen", "3"
    )
    assert not errors or "listening on hb0" in errors
    findings = [each for each in findings if each["rule"] in RULES]  # what is said of the configuration is another matter
    assert rules(findings, "error") == set(), findings
    assert rules(findings, "warning") == {"real-adapter"}, findings
    assert {(each["rule"], each["nodes"][0]) for each in findings if each["severity"] == "unknown"} == {
        ("direct", "nodea"),
        ("direct", "nodeb"),
    }
    assert "for 3" in next(each for each in findings if each["rule"] == "direct")["evidence"]
    assert code == 3  # it listened too short a time to say more


@pytest.mark.req("B1")
def test_a_third_machine_is_heard(tmp_path: Path) -> None:
    """The link leads through a bridge, which a third node is connected to as well: everybody's answers show that."""
    with spaces("nodea", "nodeb", "switch", "third") as (one, two, switch, third):
        switch.ip("link add br0 type bridge", "link set br0 up")
        for number, node in enumerate((one, two, third), 1):
            cable(node, "hb0", switch, f"port{number}")
            switch.ip(f"link set port{number} master br0")
            node.ip(f"addr add 10.77.1.{number}/24 dev hb0")
        ssh = ssh_to(tmp_path, two)
        code, findings, _ = check(one, "--peer", "nodeb", "--ssh", ssh, "--heartbeat", "hb0", "--sync", "hb0", "--listen", "4")
    direct = [each for each in findings if each["rule"] == "direct"]
    assert code == 2 and {each["severity"] for each in direct} == {"error"}, findings
    assert "frames from" in direct[0]["evidence"] and "which the peer does not have" in direct[0]["evidence"]


@pytest.mark.req("B1")
def test_spanning_tree_of_a_switch_is_heard(tmp_path: Path) -> None:
    """Nobody but the peer answers, but the bridge in between sends its BPDUs."""
    with spaces("nodea", "nodeb", "switch") as (one, two, switch):
        switch.run(["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"])
        switch.ip("link add br0 type bridge stp_state 1 forward_delay 200 hello_time 100", "link set br0 up")
        for number, node in enumerate((one, two), 1):
            cable(node, "hb0", switch, f"port{number}")
            switch.ip(f"link set port{number} master br0")
        told = two.heartgate("facts", "--listen", "3", "--interface", "hb0", "--output", str(tmp_path / "b.json"))
        assert told.returncode == 0, told.stderr
        code, findings, _ = check(one, "--peer-facts", str(tmp_path / "b.json"), "--heartbeat", "hb0", "--listen", "4")
    direct = [each for each in findings if each["rule"] == "direct" and each["nodes"] == ["nodea"]]
    assert code == 2 and direct and direct[0]["severity"] == "error", findings
    assert "spanning tree frames from" in direct[0]["evidence"] and "bridge " in direct[0]["evidence"]


@pytest.mark.req("B1")
def test_lldp_of_a_switch_is_heard(pair: Tuple[Space, Space], tmp_path: Path) -> None:
    one, two = pair
    switch = "02:00:5e:00:00:99"
    frame = (
        "0180c200000e"
        + switch.replace(":", "")
        + "88cc"
        + "0207040"
        + "2005e000099"
        + "0405"
        + "0573777031"
        + "0a03737731"
        + "0000"
    )
    sender = (
        "import socket,time\ns=socket.socket(socket.AF_PACKET,socket.SOCK_RAW)\ns.bind(('hb0',0))\n"
        f"for _ in range(600): s.send(bytes.fromhex('{frame}').ljust(60,b'\\0')); time.sleep(0.2)"
    )
    facts = two.heartgate("facts", "--output", str(tmp_path / "b.json"))
    assert facts.returncode == 0
    sending = subprocess.Popen(two.enter([PYTHON, "-c", sender]))
    try:
        code, findings, _ = check(one, "--peer-facts", str(tmp_path / "b.json"), "--heartbeat", "hb0", "--listen", "3")
    finally:
        sending.kill()
        sending.wait(10)
    direct = [each for each in findings if each["rule"] == "direct" and each["nodes"] == ["nodea"]]
    assert code == 2 and f"LLDP frames from {switch} (sw1, port swp1)" in direct[0]["evidence"], findings


@pytest.mark.req("B4", "C7")
def test_what_differs_is_found(pair: Tuple[Space, Space], tmp_path: Path) -> None:
    """MTU, addressing and the way that packets take, on real interfaces."""
    one, two = pair
    one.ip("link set hb0 mtu 1400")
    two.ip("addr flush dev hb0", "addr add 10.77.1.2/24 dev hb0 valid_lft 900 preferred_lft 900")
    one.ip("route add 10.77.1.2/32 dev client0")
    place = conf(tmp_path)
    ssh = ssh_to(tmp_path, two, f"--corosync-conf {place}")
    code, findings, _ = check(one, "--peer", "nodeb", "--ssh", ssh, "--corosync-conf", place, "--sync", "sync0", "--listen", "0")
    assert code == 2 and {"addressing", "corosync-link"} <= rules(findings, "error"), findings
    assert "mtu" in rules(findings, "warning")
    told = next(each["evidence"] for each in findings if each["rule"] == "corosync-link" and each["severity"] == "error")
    assert "link 0 (10.77.1.1 to 10.77.1.2) has its address on hb0 of nodea, but the kernel sends it by client0" in told


@pytest.mark.parametrize("port, said", [(5405, None), (5999, "does not listen on {} for link 0")])
@pytest.mark.parametrize("ours, theirs", [("10.77.1.1", "10.77.1.2"), ("fd77::1", "fd77::2")])
def test_whether_corosync_listens_there(
    pair: Tuple[Space, Space], tmp_path: Path, ours: str, theirs: str, port: int, said: Optional[str]
) -> None:
    """A process called corosync with a socket on the link's address: on Corosync's port, or on another."""
    one, two = pair
    one.ip("address add fd77::1/64 dev hb0 nodad")
    two.ip("address add fd77::2/64 dev hb0 nodad")
    shutil.copy(Path(PYTHON).resolve(), tmp_path / "corosync")
    family = "AF_INET6" if ":" in ours else "AF_INET"
    program = f"import socket, time; s=socket.socket(socket.{family}, socket.SOCK_DGRAM); s.bind(('{ours}', {port})); "
    program += "print('bound', flush=True); time.sleep(600)"
    command = one.enter([str(tmp_path / "corosync"), "-c", program])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listening:
        try:
            assert listening.stdout and listening.stdout.readline() == "bound\n"
            words = ("--heartbeat", "hb0", "--listen", "0", "--corosync-conf", conf(tmp_path, ours, theirs))
            _, findings, _ = check(one, *words)
        finally:
            listening.kill()
    told = [each["evidence"] for each in findings if each["rule"] == "corosync-link"]
    assert told == [] if said is None else said.format(ours) in told[0], told


@pytest.mark.req("C7")
def test_names_that_resolve_to_nothing_or_to_loopback(pair: Tuple[Space, Space], tmp_path: Path) -> None:
    one, two = pair
    place = conf(tmp_path, "localhost", "nosuch.invalid")
    (tmp_path / "nsswitch.conf").write_text("hosts: files\n")
    for node in pair:  # here no name server answers, which would rightly be "unknown"
        node.run(["mount", "--bind", str(tmp_path / "nsswitch.conf"), "/etc/nsswitch.conf"])
    told = two.heartgate("facts", "--corosync-conf", place, "--output", str(tmp_path / "b.json"))
    assert told.returncode == 0, told.stderr
    code, findings, _ = check(
        one, "--peer-facts", str(tmp_path / "b.json"), "--corosync-conf", place, "--heartbeat", "hb0", "--listen", "0"
    )
    said = " | ".join(each["evidence"] for each in findings if each["rule"] == "names")
    assert code == 2 and "nosuch.invalid (link 0 of nodeb) resolves to nothing on nodea" in said, findings
    assert "resolves to 127.0.0.1 on nodea: that is the loopback interface" in said


def test_groups_of_switches_are_joined_while_listening_only(pair: Tuple[Space, Space]) -> None:
    """Without them an adapter drops LLDP and spanning tree. A link that goes away meanwhile is unknown, not silent."""
    one, _ = pair

    def groups() -> Set[str]:
        return {line.split()[-1] for line in one.run(["cat", "/proc/net/dev_mcast"]).stdout.splitlines() if " hb0 " in line}

    wanted = {"0180c2000000", "0180c2000003", "0180c200000e", "01000ccccccc", "01000ccccccd"}
    assert not groups() & wanted
    looking = subprocess.Popen(
        one.enter(["env", f"PYTHONPATH={LIBRARY}", PYTHON, "-c", MAIN, "facts", "--listen", "8", "--interface", "hb0"]),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        wait_until("the groups are joined", lambda: wanted <= groups(), timeout_s=60)
        one.ip("link set hb0 down")
        output, _ = looking.communicate(timeout=40)
    finally:
        looking.kill()
    item = next(each for each in json.loads(output)["facts"]["interfaces"] if each["name"] == "hb0")
    assert item["heard"] is None and "could not be listened to until the end" in dict(item["unknown"])["heard"], item
    one.ip("link set hb0 up")
    assert not groups() & wanted


def test_looking_changes_nothing(pair: Tuple[Space, Space], tmp_path: Path) -> None:
    """Addresses, links, routes, groups and sockets are afterwards what they were."""
    one, _ = pair
    looks = (["ip", "-o", "address"], ["ip", "-o", "-d", "link"], ["ip", "route", "show", "table", "all"], ["ip", "maddress"])

    def state() -> List[str]:
        return [one.run(argv).stdout for argv in looks]

    wait_until("duplicate address detection", lambda: "tentative" not in one.run(looks[0]).stdout, timeout_s=60)
    before = state()
    done = one.heartgate("check", "--heartbeat", "hb0", "--listen", "3", "--corosync-conf", conf(tmp_path))
    assert done.returncode in (2, 3) and "Looked at nodea" in done.stdout
    assert state() == before
