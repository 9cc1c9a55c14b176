"""The namespace lab keeps its promises: bring-up, links, power, fencing, and the replication that stands for DRBD."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator, List

import pytest

from tests.lab.api import CommandError, LabError, wait_until
from tests.lab.ns.lab import NsLab, NsNode
from tests.lab.replication import host

pytestmark = [pytest.mark.ns, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def shared() -> Iterator[NsLab]:
    with NsLab.start() as lab:
        yield lab


@pytest.fixture
def lab(shared: NsLab) -> Iterator[NsLab]:
    yield shared
    shared.reset()


def knet_links(node: NsNode) -> List[bool]:
    """Whether this node's Corosync holds each link to the others for connected, in link order."""
    lines = node.run(["corosync-cfgtool", "-n"]).stdout.splitlines()
    return ["disconnected" not in line and "connected" in line for line in lines if "LINK:" in line]


def reaches(node: NsNode, address: str) -> bool:
    return node.run(["ping", "-c", "1", "-W", "1", address], check=False).rc == 0


def carrier(node: NsNode, link: str) -> bool:
    return node.run(["cat", f"/sys/class/net/{link}/carrier"]).stdout.strip() == "1"


def frozen(node: NsNode) -> bool:
    return bool(host.status(node).get("frozen"))


def booted_since(node: NsNode, before: str) -> bool:
    try:
        return node.boot_id() != before
    except LabError:
        return False


def gone(pids: List[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def processes_of(pid: int) -> List[int]:
    """Every process below pid, as the host sees them."""
    lists = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    children = [int(child) for words in lists for child in words]
    return [*children, *(below for child in children for below in processes_of(child))]


# --- nodes ---


def test_both_nodes_come_up_online(lab: NsLab) -> None:
    print(f"bring-up: {lab.bring_up_s:.2f} s")
    for name in lab.nodes:
        assert lab.online(name) == {"nodea", "nodeb"}


def test_run_gives_code_output_and_timeout(lab: NsLab) -> None:
    node = lab.nodes["nodea"]
    assert node.run(["cat"], stdin="words").stdout == "words"
    assert node.run(["hostname"]).stdout.strip() == "nodea"
    with pytest.raises(CommandError, match="ended with 3"):
        node.run(["sh", "-c", "echo why >&2; exit 3"])
    started = time.monotonic()
    assert node.run(["sleep", "300"], timeout_s=0.3, check=False).rc == 124
    assert time.monotonic() - started < 150


def test_the_host_is_out_of_reach(lab: NsLab) -> None:
    node = lab.nodes["nodea"]
    assert node.run(["sh", "-c", "echo 1 > /proc/sys/kernel/panic"], check=False).rc != 0
    trigger = Path("/proc/sysrq-trigger")
    if trigger.exists():
        inside = node.run(["stat", "-c", "%F", str(trigger)]).stdout.strip()
        assert inside == "fifo"
    node.run(["touch", "/etc/heartgate-lab-was-here"])
    assert not Path("/etc/heartgate-lab-was-here").exists()


def test_power_cycle_keeps_files_and_changes_the_boot_id(lab: NsLab) -> None:
    node = lab.nodes["nodea"]
    node.put("/var/lib/kept/file", "content\n", 0o600)
    node.put("/run/lost", "")
    before = node.boot_id()
    node.power_off()
    assert not node.powered()
    with pytest.raises(LabError, match="powered off"):
        node.run(["true"])
    node.power_on()
    assert node.boot_id() != before
    assert node.run(["stat", "-c", "%a", "/var/lib/kept/file"]).stdout.strip() == "600"
    assert node.run(["test", "-e", "/run/lost"], check=False).rc == 1
    lab.wait_online()


def test_reboot_from_inside_comes_back(lab: NsLab) -> None:
    node = lab.nodes["nodeb"]
    before = node.boot_id()
    script = "import ctypes; ctypes.CDLL(None).reboot(0x01234567)"
    node.run(["/usr/bin/python3", "-c", script], check=False)
    wait_until("nodeb to be back", lambda: booted_since(node, before), timeout_s=60)
    lab.wait_online()


def test_a_frozen_node_answers_nothing_and_thaws(lab: NsLab) -> None:
    lab.fencing("failing")
    node = lab.nodes["nodea"]
    node.freeze()
    assert node.run(["true"], timeout_s=0.3, check=False).rc == 124
    node.thaw()
    assert node.run(["true"]).rc == 0


# --- links ---


def test_corosync_sees_a_cut_and_the_mending(lab: NsLab) -> None:
    node = lab.nodes["nodea"]
    lab.cut("hb0")
    for each in lab.ns_nodes.values():
        wait_until(f"{each.name} to lose carrier", lambda each=each: not carrier(each, "hb0"), timeout_s=60)  # type: ignore[misc]
    wait_until("knet to lose link 0 only", lambda: knet_links(node) == [False, True], timeout_s=60)
    lab.mend("hb0")
    wait_until("knet to have both links", lambda: knet_links(node) == [True, True], timeout_s=60)
    assert not lab.fencings


def test_one_end_loses_carrier(lab: NsLab) -> None:
    lab.cut("sync0", node="nodea")
    wait_until("nodea to lose carrier", lambda: not carrier(lab.nodes["nodea"], "sync0"), timeout_s=60)
    assert carrier(lab.nodes["nodeb"], "sync0")


@pytest.mark.parametrize("direction", ["out", "in"])
def test_one_way_loss_keeps_carrier(lab: NsLab, direction: str) -> None:
    nodea, nodeb = lab.nodes["nodea"], lab.nodes["nodeb"]
    assert reaches(nodea, "10.77.20.2")
    rx = "/sys/class/net/sync0/statistics/rx_packets"
    lab.cut("sync0", node="nodea", direction=direction)
    heard = {node.name: int(node.run(["cat", rx]).stdout) for node in (nodea, nodeb)}
    for node, address in ((nodea, "10.77.20.2"), (nodeb, "10.77.20.1")):
        assert not reaches(node, address)
    assert carrier(nodea, "sync0") and carrier(nodeb, "sync0")
    deaf, hearing = (nodeb, nodea) if direction == "out" else (nodea, nodeb)
    assert int(deaf.run(["cat", rx]).stdout) == heard[deaf.name]
    assert int(hearing.run(["cat", rx]).stdout) > heard[hearing.name]
    lab.mend("sync0")
    assert reaches(nodea, "10.77.20.2")


# --- fencing ---


def test_stonith_admin_reboots_a_node(lab: NsLab) -> None:
    before = lab.nodes["nodea"].boot_id()
    lab.nodes["nodeb"].run(["stonith_admin", "--reboot", "nodea"], timeout_s=60)
    (entry,) = lab.fencings
    assert (entry.node, entry.action, entry.by, entry.ok) == ("nodea", "reboot", "nodeb", True)
    lab.wait_online()
    assert lab.nodes["nodea"].boot_id() != before


def test_a_frozen_node_is_fenced(lab: NsLab) -> None:
    started = time.monotonic()
    lab.nodes["nodea"].freeze()
    wait_until("nodea to be fenced", lambda: [entry for entry in lab.fencings if entry.ok], timeout_s=60)
    print(f"fenced after {lab.fencings[0].at_s - started:.2f} s")
    assert {entry.node for entry in lab.fencings} == {"nodea"}
    lab.wait_online()


@pytest.mark.parametrize("mode", ["failing", "unreachable"])
def test_fencing_can_be_made_to_fail(lab: NsLab, mode: str) -> None:
    lab.fencing(mode)
    before = lab.nodes["nodea"].boot_id()
    options = "action=reboot\nport=nodea\npower_timeout=1\n"
    answer = lab.nodes["nodeb"].run(["fence_lab"], stdin=options, check=False)
    assert answer.rc == 1 and "fence_lab" in answer.stderr
    assert lab.nodes["nodea"].boot_id() == before


def test_fencing_can_be_made_slow(lab: NsLab) -> None:
    lab.fencing("slow", delay_s=1.0)
    lab.nodes["nodeb"].run(["fence_lab"], stdin="action=off\nport=nodea\n")
    (entry,) = lab.fencings
    assert entry.done_s is not None and entry.done_s - entry.at_s >= 1.0
    assert not lab.nodes["nodea"].powered()


# --- the lab's end ---


def test_nothing_is_left_after_the_test_process_is_killed() -> None:
    script = ("import time; from tests.lab.ns.lab import NsLab; lab = NsLab.start(cluster=False); "
              "print(lab._supervisor.process.pid, flush=True); time.sleep(600)")
    command = [sys.executable, "-B", "-c", script]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        supervisor = int(process.stdout.readline())
        everybody = [supervisor, *processes_of(supervisor)]
        assert len(everybody) >= 5
        process.send_signal(signal.SIGKILL)
    wait_until("all of the lab to be gone", lambda: gone(everybody), timeout_s=60)


def test_nothing_is_left_after_the_supervisor_is_killed() -> None:
    lab = NsLab.start(cluster=False)
    supervisor = lab._supervisor.process.pid
    everybody = processes_of(supervisor)
    os.kill(supervisor, signal.SIGKILL)
    lab.down()
    wait_until("all of the lab to be gone", lambda: gone(everybody), timeout_s=60)
    mounts = Path("/proc/self/mounts").read_text()
    assert "/media/node" not in mounts


def test_three_nodes() -> None:
    with NsLab.start(("nodea", "nodeb", "nodec")) as lab:
        print(f"bring-up of three: {lab.bring_up_s:.2f} s")
        nodea = lab.nodes["nodea"]
        lab.cut("hb1", node="nodec")
        wait_until("knet to lose one link to nodec", lambda: knet_links(nodea).count(False) == 1, timeout_s=60)


# --- replication ---


@pytest.fixture
def replica(lab: NsLab) -> NsLab:
    """A pair started by hand; nobody answers for fence-peer, so a primary that loses its peer stays frozen."""
    host.configure(lab, fence_peer=None)
    host.start(lab)
    return lab


def write(node: NsNode, number: int, value: str, *, timeout_s: float = 30.0) -> int:
    return node.run(["replicactl", "r0", "write", str(number), value], timeout_s=timeout_s, check=False).rc


def control(node: NsNode, *words: str) -> int:
    return node.run(["replicactl", "r0", *words], check=False).rc


def test_a_write_is_on_both_copies(replica: NsLab) -> None:
    nodea, nodeb = replica.nodes["nodea"], replica.nodes["nodeb"]
    assert write(nodea, 1, "x") == 1, "a secondary must refuse"
    assert control(nodea, "primary") == 0
    assert write(nodea, 1, "x") == 0
    assert host.dump(nodea) == host.dump(nodeb) == {1: "x"}
    assert control(nodeb, "primary") == 1, "only one primary"


def test_a_frozen_primary_acknowledges_nothing_until_the_peer_is_back(replica: NsLab) -> None:
    nodea, nodeb = replica.nodes["nodea"], replica.nodes["nodeb"]
    control(nodea, "primary")
    replica.cut("sync0")
    wait_until("the primary to freeze", lambda: frozen(nodea), timeout_s=60, interval_s=0.02)
    nodea.spawn(["sh", "-c", "replicactl r0 write 7 seven && touch /run/acknowledged"])
    time.sleep(1.0)
    assert nodea.run(["test", "-e", "/run/acknowledged"], check=False).rc == 1
    assert 7 not in host.dump(nodeb)
    replica.mend("sync0")
    wait_until("the acknowledgement", lambda: nodea.run(["ls", "/run/acknowledged"], check=False).rc == 0, timeout_s=60)
    assert host.dump(nodeb) == {7: "seven"} == host.dump(nodea)


def test_going_on_alone_is_resynced_from_the_newer_copy(replica: NsLab) -> None:
    nodea, nodeb = replica.nodes["nodea"], replica.nodes["nodeb"]
    control(nodea, "primary")
    generation = host.status(nodea)["generation"]
    replica.cut("sync0")
    wait_until("the primary to freeze", lambda: frozen(nodea), timeout_s=60)
    assert nodeb.run(["replica-driver", "block", "r0"]).stdout.strip() == '{"how": "outdated"}'
    nodea.run(["replica-driver", "thaw", "r0"])
    assert write(nodea, 1, "alone") == 0
    assert host.status(nodea)["generation"] != generation
    assert control(nodeb, "primary") == 1, "blocked"
    script = "#!/bin/sh\nsetsid -f replicad r0 </dev/null >/dev/null 2>&1\n"
    nodeb.put("/etc/lab/boot.d/60-replicad-test", script, 0o755)
    nodeb.reset()
    replica.wait_online()  # Pacemaker may have fenced it meanwhile: one boot more
    wait_until("replicad", lambda: host.status(nodeb), timeout_s=60)
    assert host.status(nodeb)["blocked"] and host.status(nodeb)["disk"] == "outdated"
    replica.mend("sync0")
    host.wait_connected(replica)
    assert host.dump(nodeb) == {1: "alone"}
    assert host.status(nodea)["generation"] == host.status(nodeb)["generation"] != generation


def test_misuse_is_detected_as_split_brain(replica: NsLab) -> None:
    nodea, nodeb = replica.nodes["nodea"], replica.nodes["nodeb"]
    nodeb.put("/run/says-7", "#!/bin/sh\nexit 7\n", 0o755)
    control(nodea, "primary")
    replica.cut("sync0")
    wait_until("the primary to freeze", lambda: frozen(nodea), timeout_s=60)
    control(nodea, "thaw")
    write(nodea, 1, "a")
    assert control(nodeb, "primary") == 1, "without permission nobody is promoted alone"
    configuration = nodeb.run(["cat", "/etc/replicad/r0.json"]).stdout
    nodeb.put("/etc/replicad/r0.json", configuration.replace("null", '"/run/says-7"'))
    nodeb.run(["sh", "-c", "kill -KILL $(pgrep -f 'replicad r0$')"])
    nodeb.spawn(["replicad", "r0"])
    wait_until("replicad", lambda: host.status(nodeb), timeout_s=60)
    assert control(nodeb, "primary") == 0
    write(nodeb, 1, "b")
    replica.mend("sync0")
    errors = wait_until("the split-brain to be seen", lambda: [
        node.name for node in (nodea, nodeb) if host.status(node)["error"] == "split-brain"], timeout_s=5)
    print(f"seen by {errors}")
    assert host.dump(nodea) != host.dump(nodeb)
    control(nodeb, "secondary")
    control(nodeb, "connect", "--discard-my-data")
    control(nodea, "connect")
    host.wait_connected(replica)
    assert host.dump(nodeb) == {1: "a"}


def test_release_ends_the_users_before_it_fails_their_writes(replica: NsLab) -> None:
    nodea = replica.nodes["nodea"]
    control(nodea, "primary")
    nodea.spawn(["lab-writer", "r0", "0.01"])
    wait_until("records", lambda: len(replica.records) > 5, timeout_s=60)
    replica.cut("sync0")
    wait_until("the primary to freeze", lambda: frozen(nodea), timeout_s=60)
    assert nodea.run(["replica-driver", "block", "r0"]).stdout.strip() == '{"how": "frozen"}'
    nodea.run(["replica-driver", "release", "r0"])
    assert nodea.run(["pgrep", "-f", "[l]ab-writer"], check=False).rc == 1
    after = host.status(nodea)
    assert (after["role"], after["disk"], after["frozen"]) == ("secondary", "outdated", False)
    assert not host.missing(replica, "nodeb")


def test_pacemaker_runs_replica_and_writer(lab: NsLab) -> None:
    host.configure(lab)
    for command in host.pacemaker_resources():
        lab.nodes["nodea"].run(command)
    wait_until("acknowledged records", lambda: len(lab.records) > 20, timeout_s=60)
    written = len(lab.records)
    wait_until("the writer to go on", lambda: len(lab.records) > written + 20, timeout_s=60)
    assert not host.missing(lab, "nodea") and not host.missing(lab, "nodeb")
    print(f"longest pause: {host.longest_pause_s(lab):.2f} s")
