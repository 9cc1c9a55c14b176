"""The VM lab itself: every fault it offers is seen by the real thing inside the machines."""

from __future__ import annotations

import time
from functools import partial
from typing import Iterator

import pytest

from tests.lab.api import LabError, wait_until
from tests.lab.vm.form import RESOURCE, SAVED_NET, drbd_resource
from tests.lab.vm.lab import VmLab
from tests.lab.vm.machine import Machine

RESOURCES = """
<resources>
 <clone id="drbd-clone">
  <meta_attributes id="drbd-meta">
   <nvpair id="drbd-promotable" name="promotable" value="true"/><nvpair id="drbd-notify" name="notify" value="true"/>
  </meta_attributes>
  <primitive id="drbd" class="ocf" provider="linbit" type="drbd">
   <instance_attributes id="drbd-attributes"><nvpair id="drbd-r" name="drbd_resource" value="r0"/></instance_attributes>
   <operations>
    <op id="drbd-promoted" name="monitor" role="Promoted" interval="20s"/>
    <op id="drbd-unpromoted" name="monitor" role="Unpromoted" interval="30s"/>
   </operations>
  </primitive>
 </clone>
 <group id="service">
  <primitive id="fs" class="ocf" provider="heartbeat" type="Filesystem">
   <instance_attributes id="fs-attributes">
    <nvpair id="fs-device" name="device" value="/dev/drbd0"/>
    <nvpair id="fs-directory" name="directory" value="/srv"/><nvpair id="fs-type" name="fstype" value="ext4"/>
   </instance_attributes>
  </primitive>
  <primitive id="writer" class="ocf" provider="lab" type="writer">
   <instance_attributes id="w-attributes"><nvpair id="w-path" name="path" value="/srv/log"/></instance_attributes>
  </primitive>
 </group>
</resources>
"""
CONSTRAINTS = """
<constraints>
 <rsc_colocation id="together" rsc="service" with-rsc="drbd-clone" with-rsc-role="Promoted" score="INFINITY"/>
 <rsc_order id="after" first="drbd-clone" first-action="promote" then="service" then-action="start"/>
</constraints>
"""

pytestmark = pytest.mark.vm


@pytest.fixture()
def pair() -> Iterator[VmLab]:
    with VmLab.restore() as lab:
        yield lab


def connection(node: Machine) -> str:
    return node.run(["drbdadm", "cstate", RESOURCE], check=False).stdout.strip()


def ping(node: Machine, address: str) -> bool:
    return node.run(["ping", "-c", "1", "-W", "1", address], check=False).rc == 0


def carrier(node: Machine, link: str) -> str:
    return node.run(["cat", f"/sys/class/net/{link}/carrier"], check=False).stdout.strip()


def lost(node: Machine) -> bool:
    return connection(node) not in ("Connected", "")


def wait_lost(lab: VmLab) -> None:
    for node in lab.nodes.values():
        wait_until(
            f"{node.name} to notice the loss",
            partial(lost, node),
            timeout_s=60,
        )


def test_restored_pair_is_quorate_and_up_to_date(pair: VmLab) -> None:
    pair.wait_in_sync(timeout_s=60)
    pair.wait_online(timeout_s=60)
    for node in pair.nodes.values():
        assert "Quorate:          Yes" in node.run(["corosync-quorumtool", "-s"], check=False).stdout


def test_commands(pair: VmLab) -> None:
    node = pair.nodes["nodea"]
    assert node.run(["cat"], stdin="words").stdout == "words"
    assert node.run(["sh", "-c", "echo no >&2; exit 3"], check=False).rc == 3
    assert node.run(["sleep", "30"], timeout_s=1, check=False).rc == 124
    with pytest.raises(LabError, match="ended with 1"):
        node.run(["false"])
    node.put("/root/deep/file", "content\n", 0o600)
    assert node.run(["stat", "-c", "%a %s", "/root/deep/file"]).stdout == "600 8\n"


def test_sync_link_cut_at_both_ends_is_noticed_and_mended(pair: VmLab) -> None:
    pair.quick_drbd()
    pair.cut("sync0")
    assert all(carrier(node, "sync0") == "0" for node in pair.nodes.values())
    assert pair.cuts() == {"sync0": ["nodea carrier", "nodeb carrier"]}
    wait_lost(pair)
    pair.mend("sync0")
    pair.wait_in_sync()
    assert pair.cuts() == {}


def test_one_end_and_one_direction(pair: VmLab) -> None:
    a, b = pair.nodes["nodea"], pair.nodes["nodeb"]
    pair.cut("client0", node="nodea")
    assert (carrier(a, "client0"), carrier(b, "client0")) == ("0", "1")
    pair.mend("client0")
    assert ping(a, "10.77.30.2")

    def received() -> int:
        return int(b.run(["cat", "/sys/class/net/client0/statistics/rx_packets"]).stdout)

    for direction, arrives in (("in", True), ("out", False)):
        pair.cut("client0", node="nodea", direction=direction)
        before = received()
        assert not ping(a, "10.77.30.2")
        assert carrier(a, "client0") == carrier(b, "client0") == "1"
        assert (received() > before) is arrives
        pair.mend("client0")
        assert ping(a, "10.77.30.2")


def test_power_cut_keeps_what_was_flushed_and_the_node_comes_back(pair: VmLab) -> None:
    node = pair.nodes["nodeb"]
    old = node.wait_boot().boot_id
    node.run(["sh", "-c", "echo kept > /root/kept; sync /root/kept"])
    node.power_off()
    assert not node.powered()
    with pytest.raises(LabError, match="switched off"):
        node.run(["true"])
    node.power_on()
    node.wait_boot(after=old)
    assert node.run(["cat", "/root/kept"]).stdout == "kept\n"
    pair.wait_online(timeout_s=120)


def test_freeze_and_thaw(pair: VmLab) -> None:
    node = pair.nodes["nodea"]
    pair.fence_faults.unreachable_from.update(pair.nodes)
    node.freeze()
    assert not ping(pair.nodes["nodeb"], "10.77.30.1")
    node.thaw()
    assert node.run(["true"]).rc == 0


def test_fencing_by_the_cluster_is_recorded(pair: VmLab) -> None:
    target = pair.nodes["nodeb"]
    old = target.wait_boot().boot_id
    pair.nodes["nodea"].run(["stonith_admin", "--reboot", "nodeb", "--timeout", "40"], timeout_s=60)
    assert [(f.by, f.action, f.target, f.ok) for f in pair.fencings] == [("nodea", "reboot", "nodeb", True)]
    target.wait_boot(after=old)
    pair.wait_online(timeout_s=120)


def test_fencing_that_cannot_be_reached(pair: VmLab) -> None:
    pair.fence_faults.unreachable_from.add("nodea")
    outcome = pair.nodes["nodea"].run(
        ["sh", "-c", "printf 'action=off\\nplug=nodeb\\nanswer_timeout=2\\n' | fence_lab"], check=False
    )
    assert outcome.rc == 1 and "does not answer" in outcome.stderr
    assert pair.nodes["nodeb"].powered() and pair.fencings[-1].detail == "unreachable"


def test_acknowledged_writes_are_counted_and_found_on_both_copies(pair: VmLab) -> None:
    first = pair.nodes["nodea"]
    first.run(["drbdadm", "primary", RESOURCE])
    first.run(["mkfs.ext4", "-q", "/dev/drbd0"], timeout_s=60)
    first.run(["mount", "/dev/drbd0", "/mnt"])
    began = time.monotonic()
    pair.writes.start("nodea", "/mnt/log", interval_ms=10)
    pair.writes.wait_acks(30)
    first.power_off()

    def all_told() -> bool:
        before = len(pair.writes.acknowledged())
        time.sleep(0.5)
        return len(pair.writes.acknowledged()) == before

    wait_until("the last reports", all_told, timeout_s=60)
    acknowledged = len(pair.writes.acknowledged())
    assert acknowledged >= 30
    copy = pair.writes.verify("nodeb", "/dev/vdb")
    assert copy.missing == set() and acknowledged <= copy.found <= acknowledged + 1
    assert 0 < pair.writes.longest_pause() < time.monotonic() - began


def test_writer_on_a_range_of_a_device_and_a_loss_is_found(pair: VmLab) -> None:
    pair.nodes["nodea"].run(["drbdadm", "primary", RESOURCE])
    pair.writes.start("nodea", "/dev/drbd0", writer="raw", start=1 << 20, length=1 << 20, count=20)
    pair.writes.wait_acks(20, writer="raw")
    assert pair.writes.verify("nodeb", "/dev/vdb", writer="raw").missing == set()
    pair.nodes["nodea"].run(
        ["dd", "if=/dev/zero", "of=/dev/drbd0", "bs=512", "seek=2050", "count=3", "oflag=direct", "conv=notrunc"]
    )
    assert {seq for _, seq in pair.writes.verify("nodeb", "/dev/vdb", writer="raw").missing} == {3, 4, 5}


def test_writer_follows_the_service_and_nothing_acknowledged_is_lost(pair: VmLab) -> None:
    """Agents of others alone: the active node's power is cut, the cluster fences it, the other goes on with every record."""
    first, other = pair.nodes["nodea"], pair.nodes["nodeb"]
    for node in pair.nodes.values():  # Pacemaker's fencing alone gives the order here: DRBD asks nobody
        content = drbd_resource(handlers=False, net=SAVED_NET).replace("resource-and-stonith", "dont-care")
        node.put(f"/etc/drbd.d/{RESOURCE}.res", content)
        node.run(["drbdadm", "adjust", RESOURCE])
    first.run(["drbdadm", "primary", RESOURCE])
    first.run(["mkfs.ext4", "-q", "/dev/drbd0"], timeout_s=60)
    first.run(["drbdadm", "secondary", RESOURCE])
    for section, content in (("resources", RESOURCES), ("constraints", CONSTRAINTS)):
        # allow-create: add to what is there (the lab's fencing device) instead of replacing it
        argv = ["cibadmin", "--modify", "--allow-create", "--scope", section, "--xml-pipe"]
        other.run(argv, stdin=content, timeout_s=60)
    pair.writes.wait_acks(20, timeout_s=240)
    active = pair.writes.acks()[-1].node
    standby = "nodeb" if active == "nodea" else "nodea"
    cut_at = time.monotonic()
    pair.nodes[active].power_off()
    pair.writes.wait_acks(20, node=standby, since=cut_at, timeout_s=240)
    copy = pair.writes.verify(standby, "/srv/log")
    assert copy.missing == set() and copy.damaged == 0
    assert pair.writes.longest_pause(since=cut_at) > 1
    assert {fencing.target for fencing in pair.fencings} == {active}
