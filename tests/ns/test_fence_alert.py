"""Pacemaker's alerts on a real cluster: a fencing that somebody else ordered is known at once, where it would otherwise be found later."""

from __future__ import annotations

import time
from typing import List

import pytest

from tests.lab.api import wait_until
from tests.ns.cluster import NsCluster

pytestmark = pytest.mark.ns
ALERT = "/usr/lib/heartgate/pacemaker-alert"
LOG = "/run/heartgate/heartgated.log"
FENCED = "Pacemaker reports nodeb fenced"
SLOW_S = 60.0  # heartgate.daemon.fences

# Cuts no power: as with a switch or a disk that shuts a node out, Corosync's membership stays as it is.
FABRIC = """#!/bin/sh
[ "$1" = -o ] && action=$2 || while IFS== read -r name value; do [ "$name" = action ] && action=$value; done
[ "$action" = metadata ] && cat <<'END'
<?xml version="1.0" ?>
<resource-agent name="fence_fabric" shortdesc="Shuts a node out of nothing"><longdesc>For one test.</longdesc>
<parameters><parameter name="action"><getopt mixed="-o"/><content type="string" default="off"/></parameter>
<parameter name="port"><getopt mixed="-n"/><content type="string"/></parameter></parameters>
<actions><action name="on" automatic="0"/><action name="off"/><action name="reboot"/><action name="status"/>
<action name="monitor"/><action name="metadata"/></actions></resource-agent>
END
exit 0
"""


def log(cluster: NsCluster, node: str = "nodea") -> List[str]:
    return cluster.nodes[node].run(["cat", LOG]).stdout.splitlines()


def configure_alert(cluster: NsCluster) -> None:
    """As the manual page says."""
    cluster.nodes["nodea"].run(["pcs", "alert", "create", f"path={ALERT}", "id=heartgate"], timeout_s=60)


def fabric(cluster: NsCluster) -> None:
    """nodeb is fenced without losing its power."""
    for node in cluster.nodes.values():
        node.put("/usr/sbin/fence_fabric", FABRIC, 0o755)
    first = cluster.nodes["nodea"]
    first.run(["pcs", "stonith", "create", "fabric", "fence_fabric", "pcmk_host_list=nodeb"], timeout_s=60)
    first.run(["pcs", "stonith", "level", "add", "1", "nodeb", "fabric"], timeout_s=60)
    cluster.lab.wait_idle()


def wait_unhurried(cluster: NsCluster) -> None:
    """The guard has read what is old in the history, and reads it slowly from now on: no process of its reading in two seconds."""
    node = cluster.nodes["nodea"]
    wait_until("a baseline", lambda: node.run(["test", "-s", "/var/lib/heartgate/r0.fencing"], check=False).rc == 0, timeout_s=20)
    cluster.lab.wait_idle()
    count = "import time\nend, last, seen = time.monotonic() + 2, None, set()\nimport os\n" \
            "while time.monotonic() < end:\n" \
            "  for pid in os.listdir('/proc'):\n" \
            "    try: words = open('/proc/%s/cmdline' % pid).read().split(chr(0)) if pid.isdigit() else ()\n" \
            "    except OSError: continue\n" \
            "    if words and words[0].endswith('stonith_admin'): seen.add(pid)\n" \
            "  time.sleep(0.001)\nprint(len(seen))"  # fmt: skip

    def quiet() -> bool:
        return node.run(["/usr/bin/python3", "-IS", "-c", count], timeout_s=10).stdout.strip() == "0"

    wait_until("the history not to be read", quiet, timeout_s=30)


def fence(cluster: NsCluster) -> float:
    """Somebody does, and heartgate was not asked. Returns when it is complete, on the monotonic clock."""
    cluster.nodes["nodea"].run(["stonith_admin", "--fence", "nodeb", "--timeout", "20"], timeout_s=30)
    return time.monotonic()


def proof(cluster: NsCluster) -> List[str]:
    return [each["kind"] for each in cluster.status("nodea").get("proofs", []) if each["node"] == "nodeb"]


@pytest.mark.req("E1", "D6")
def test_nobody_is_in_a_hurry_and_the_fencing_is_known_at_once(cluster: NsCluster) -> None:
    """The fenced node stays a member, so nothing but the alert has the daemon look: it would do so in a minute."""
    cluster.set_up()
    fabric(cluster)
    configure_alert(cluster)
    wait_unhurried(cluster)
    done = fence(cluster)
    wait_until("the proof", lambda: proof(cluster), timeout_s=SLOW_S / 4)
    took = time.monotonic() - done
    lines = log(cluster)
    found = [place for place, line in enumerate(lines) if FENCED in line]
    assert len(found) == 1 and "(alerted)" in lines[found[0]], lines[-10:]
    assert took < SLOW_S / 12, f"{took:.2f} s"
    print(f"fencing complete to proof recorded: {took:.2f} s")


@pytest.mark.req("E1", "A5", "D6")
def test_the_power_is_cut_by_somebody_else(cluster: NsCluster) -> None:
    """The proof is there before Corosync has noticed that the node is gone, and the loss of replication finds it waiting."""
    cluster.set_up()
    configure_alert(cluster)
    wait_unhurried(cluster)
    done = fence(cluster)
    wait_until("the proof", lambda: proof(cluster), timeout_s=20, interval_s=0.01)
    took = time.monotonic() - done
    members = cluster.nodes["nodea"].run(["corosync-quorumtool", "-s"], check=False).stdout
    line = next(line for line in log(cluster) if FENCED in line)
    assert "(alerted)" in line, line
    assert any(each.split() == ["Nodes:", "2"] for each in members.splitlines()), members
    cluster.wait_standing("nodea", "solo", timeout_s=20)
    print(f"fencing complete to proof recorded: {took:.2f} s, to solo: {time.monotonic() - done:.2f} s")
    cluster.wait_served_by("nodea", since=done)
    assert proof(cluster) == ["fenced"]


@pytest.mark.req("D11", "E1")
def test_whoever_is_told_of_alerts_is_hacluster(cluster: NsCluster) -> None:
    """The socket as the real daemon makes it; and without a daemon the alert ends well, and Pacemaker does not complain."""
    cluster.set_up(service=False)
    node = cluster.nodes["nodea"]
    for path, wanted in (("/run/heartgate-alert", "710 root haclient"), ("/run/heartgate-alert/socket", "620 root haclient")):
        assert node.run(["stat", "-c", "%a %U %G", path]).stdout.strip() == wanted
    as_hacluster = ["setpriv", "--reuid=hacluster", "--regid=haclient", "--clear-groups", "env", "CRM_alert_kind=fencing", ALERT]
    done = node.run(as_hacluster, check=False)
    assert (done.rc, done.stderr) == (0, "")
    node.run(["rm", "/run/heartgate-alert/socket"])
    done = node.run(as_hacluster, check=False)
    assert done.rc == 0 and "heartgated is not told" in done.stderr and done.elapsed_s < 5
