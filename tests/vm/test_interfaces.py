"""Facts and rules against the kernel objects that most hosts' kernels have as modules: bonds, VLANs, teams, Open vSwitch, PPP ...

The cases of tests/lab/interface_cases.py, half of them in each of two machines at once; then what two machines only can show.
Two fresh machines, no cluster: what a case needs is in it. What a machine lacks fails, with its words; Debian's kernel has no HSR.
"""

from __future__ import annotations

import io
import json
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, Iterator, List, Mapping, Sequence, Tuple

import pytest

from tests.lab.api import wait_until
from tests.lab.interface_cases import CASES
from tests.lab.vm.form import corosync_conf, on_each
from tests.lab.vm.lab import VmLab
from tests.lab.vm.machine import NODES, Machine, address
from tests.vm.cluster import ROOT

pytestmark = pytest.mark.vm

PLACE = "/root/interfaces"
PYTHON = "/usr/bin/python3"
MAIN = "import sys; from heartgate.cli.main import main; sys.exit(main(sys.argv[1:]))"
CASES_TIMEOUT_S = 900
NOT_IN_DEBIAN = {"hsr": "Unknown device type"}


def archive() -> bytes:
    """The library and the cases of this checkout."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for path in (*sorted((ROOT / "lib").rglob("*.py")), *sorted((ROOT / "tests" / "lab").glob("*.py"))):
            tar.add(path, str(path.relative_to(ROOT)))
    return stream.getvalue()


@pytest.fixture(scope="module")
def lab() -> Iterator[VmLab]:
    with VmLab.start(formed=False, serial=True) as made:

        def prepare(node: Machine) -> None:
            node.wait_boot(timeout_s=180)
            node.put_bytes(f"{PLACE}.tar.gz", archive())
            node.run(["mkdir", "-p", PLACE])
            node.run(["tar", "-xzf", f"{PLACE}.tar.gz", "-C", PLACE])

        on_each(made.nodes, prepare)
        yield made


@pytest.fixture(scope="module")
def results(lab: VmLab, request: pytest.FixtureRequest) -> Dict[str, str]:
    """What became of each case that was asked for."""
    tests = [item for item in request.session.items if getattr(item, "originalname", "") == "test_real_interface"]
    names = [item.callspec.params["name"] for item in tests if item.path == request.path]  # type: ignore[attr-defined]
    program = f"{PLACE}/tests/lab/interface_cases.py"

    def play(number: int) -> Tuple[str, str]:
        argv = [PYTHON, program, f"{number}/{len(NODES)}", *names]
        done = lab.nodes[NODES[number]].run(argv, timeout_s=CASES_TIMEOUT_S, check=False)
        return done.stdout, f"{NODES[number]}: ended with {done.rc}: {done.stderr[-2000:]}"

    with ThreadPoolExecutor(len(NODES)) as pool:
        told = list(pool.map(play, range(len(NODES))))
    print("\n".join(output for output, _ in told))
    lines = [json.loads(line) for output, _ in told for line in output.splitlines()]
    found = {line["case"]: line["result"] for line in lines}
    for number, name in enumerate(names):  # a case that was not reached has failed, with the program's last words
        found.setdefault(name, f"not reached; {told[number % len(NODES)][1]}")
    return found


@pytest.mark.req("B3", "B7")
@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_real_interface(results: Mapping[str, str], name: str) -> None:
    if name in NOT_IN_DEBIAN and NOT_IN_DEBIAN[name] in results[name]:
        pytest.skip(results[name])
    assert results[name] == "ok"


# --- two machines


def heartgate(node: Machine, *words: str) -> Any:
    done = node.run(["env", f"PYTHONPATH={PLACE}/lib", PYTHON, "-c", MAIN, *words], timeout_s=120, check=False)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def check(lab: VmLab, *words: str) -> List[Dict[str, Any]]:
    """Findings on nodea, with nodeb's facts."""
    first, second = lab.nodes["nodea"], lab.nodes["nodeb"]
    first.put("/root/peer.json", json.dumps(heartgate(second, "facts")))
    report = heartgate(first, "check", "--listen", "0", "--json", "--peer-facts", "/root/peer.json", *words)
    return list(report["findings"])


def told(findings: Sequence[Mapping[str, Any]], rule: str) -> List[Tuple[str, str]]:
    return [(each["severity"], each["evidence"]) for each in findings if each["rule"] == rule]


def ip(node: Machine, *lines: str) -> None:
    for line in lines:
        node.run(["ip", *line.split()])


@pytest.mark.req("B2", "B4", "B5", "B6")
def test_speed_and_mtu_of_two_machines_differ(lab: VmLab) -> None:
    first, second = lab.nodes["nodea"], lab.nodes["nodeb"]
    both = ("--heartbeat", "hb0", "--client", "client0", "--sync", "sync0", "--compare", "bus")
    before = check(lab, *both)
    assert [told(before, rule) for rule in ("mtu", "speed-clients", "same-adapter", "network", "addressing")] == [[]] * 5, before
    second.run(["ethtool", "-s", "hb0", "speed", "100", "duplex", "half"])
    ip(second, "link set hb0 mtu 1400")
    try:
        after = check(lab, *both)
    finally:
        second.run(["ethtool", "-s", "hb0", "speed", "1000", "duplex", "full"])
        ip(second, "link set hb0 mtu 1500")
    assert told(after, "mtu") == [
        ("warning", "the MTU of hb0 of nodea is 1500, that of hb0 of nodeb 1400: larger packets are lost in one direction")
    ]
    assert told(after, "speed-clients") == [
        ("error", "hb0 of nodeb runs at 100 Mbit/s, client0 of nodeb, which clients use, at 1000")
    ]
    assert told(after, "duplex") == [("error", "hb0 of nodeb runs half duplex")]
    assert ("warning", "hb0 of nodeb runs at 100 Mbit/s") in told(after, "speed")
    assert first.run(["cat", "/sys/class/net/hb0/mtu"]).stdout == "1500\n"


@pytest.mark.req("B2", "B7")
def test_a_bond_of_two_adapters_and_a_pulled_cable(lab: VmLab) -> None:
    """The cables of hb1 and sync0 become one bond, which is then the same adapter on both nodes by what is below it."""

    def bond(node: Machine) -> None:
        ip(node, "link add bond9 type bond mode active-backup miimon 100")
        for name in ("hb1", "sync0"):
            ip(node, f"addr flush dev {name}", f"link set {name} down", f"link set {name} master bond9", f"link set {name} up")
        ip(node, "link set bond9 up", f"addr add 10.77.99.{NODES.index(node.name) + 1}/24 dev bond9")

    on_each(lab.nodes, bond)
    try:
        lab.nodes["nodea"].run(["ping", "-c", "1", "-W", "5", "10.77.99.2"])
        words = ("--heartbeat", "bond9", "--sync", "client0", "--compare", "bus")
        before = check(lab, *words)
        for rule in ("interface", "carrier", "same-adapter", "bond-mode", "bond-members", "network", "vlan", "virtual-switch"):
            assert told(before, rule) == [], before
        lab.cut("hb1", node="nodeb")
        after = check(lab, *words)
    finally:
        lab.mend("hb1")
        on_each(lab.nodes, lambda node: ip(node, "link del bond9"))
    assert told(after, "bond-members") == [("warning", "bond bond9 of nodeb has members hb1 sync0, with carrier: sync0")]


# --- the serial line

SERIAL = {"nodea": "10.77.40.1", "nodeb": "10.77.40.2"}
PPP_UNIT = "heartgate-ppp@ttyS1"


def ppp_up(node: Machine) -> bool:
    return f" {SERIAL[node.name]} peer" in node.run(["ip", "-o", "addr", "show", "dev", "ppp0"], check=False).stdout


def lines_up(lab: VmLab) -> None:
    """The unit and the example of the package, as docs/serial-line.md says, for ttyS1."""
    example = (ROOT / "packaging" / "options.ttyS0").read_text()

    def start(node: Machine) -> None:
        unit = (ROOT / "packaging" / "heartgate-ppp@.service").read_text()
        node.put("/usr/lib/systemd/system/heartgate-ppp@.service", unit)
        there = next(name for name in NODES if name != node.name)
        node.put("/etc/ppp/options.ttyS1", example.replace(":".join(SERIAL.values()), f"{SERIAL[node.name]}:{SERIAL[there]}"))
        node.run(["systemctl", "start", PPP_UNIT], timeout_s=60)

    on_each(lab.nodes, start)
    for node in lab.nodes.values():
        wait_until(f"ppp0 of {node.name}", lambda node=node: ppp_up(node), timeout_s=60)  # type: ignore[misc]


def link_states(node: Machine) -> Dict[int, bool]:
    """Link number -> whether Corosync reaches the other node over it."""
    text = node.run(["corosync-cfgtool", "-s"], check=False).stdout
    return {int(part.split()[0]): "\tconnected" in part for part in text.split("LINK ID ")[1:]}


def wait_links(lab: VmLab, wanted: Mapping[int, bool]) -> None:
    for node in lab.nodes.values():
        wait_until(f"{node.name}'s links to be {wanted}", lambda node=node: link_states(node) == wanted, timeout_s=60)  # type: ignore[misc]


def ring(node: Machine) -> List[str]:
    """Who is in the cluster, and the number of the membership."""
    text = node.run(["corosync-quorumtool", "-s"], check=False).stdout
    return [line for line in text.splitlines() if line.startswith(("Nodes:", "Ring ID:", "Quorate:"))]


@pytest.mark.req("B1", "D7")
def test_a_serial_line_is_direct_and_carries_a_link_of_corosync(lab: VmLab) -> None:
    first, second = lab.nodes["nodea"], lab.nodes["nodeb"]
    lines_up(lab)
    first.run(["ping", "-c", "3", "-i", "0.3", "-W", "5", SERIAL["nodeb"]])
    start_corosync(lab)
    findings = check(lab, "--heartbeat", "ppp0", "--heartbeat", "hb0", "--sync", "sync0", "--compare", "bus")
    of_the_line = [each for each in findings if each["subject"] == "ppp0"]
    assert of_the_line == [], of_the_line
    assert [each["subject"] for each in findings if each["rule"] == "direct"], "hb0 has to be judged"
    item = next(each for each in heartgate(first, "facts")["facts"]["interfaces"] if each["name"] == "ppp0")
    assert (item["bus"], item["carrier"], item["kind"]) == ("ttyS1", True, "ppp"), item
    before = ring(first)
    lab.cut("hb0")
    wait_links(lab, {0: False, 1: True})
    time.sleep(5)  # four tokens and a consensus would have passed without the line
    assert ring(first) == ring(second) == before
    lab.mend("hb0")
    wait_links(lab, {0: True, 1: True})
    second.run(["systemctl", "stop", PPP_UNIT], timeout_s=60)
    wait_links(lab, {0: True, 1: False})
    second.run(["systemctl", "start", PPP_UNIT], timeout_s=60)
    wait_links(lab, {0: True, 1: True})
    assert ring(first) == before


def start_corosync(lab: VmLab) -> None:
    """Link 0 on hb0, link 1 on the serial line, which takes the cluster's messages only when hb0 is gone."""
    content = corosync_conf()
    for name, line in SERIAL.items():
        content = content.replace(address(name, "hb1"), line)
    for number in (0, 1):
        content = content.replace(f"linknumber: {number}\n", f"linknumber: {number}\n    knet_link_priority: {1 - number}\n")

    def start(node: Machine) -> None:
        node.put("/etc/corosync/corosync.conf", content)
        node.run(["systemctl", "start", "corosync"], timeout_s=90)

    on_each(lab.nodes, start)
    wait_links(lab, {0: True, 1: True})
    for node in lab.nodes.values():
        wait_until(f"{node.name} to see both", lambda node=node: "Nodes:            2" in ring(node), timeout_s=60)  # type: ignore[misc]
