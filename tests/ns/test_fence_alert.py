"""Pacemaker's alerts on a real cluster: a fencing that somebody else ordered is known at once, and without an alert later."""

from __future__ import annotations

import json
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

# Counts the processes that read the history in two seconds.
QUIET = ("/usr/bin/python3", "-IS", "-c", """
import os, time
end, seen = time.monotonic() + 2, set()
while time.monotonic() < end:
    for pid in os.listdir("/proc"):
        try:
            words = open("/proc/%s/cmdline" % pid).read() if pid.isdigit() else ""
        except OSError:
            continue
        if "stonith_admin" in words and "import os" not in words:
            seen.add(pid)
    time.sleep(0.002)
print(len(seen))
""")  # fmt: skip


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
    """What is old in the history has been read under this epoch, and it is read slowly from now on: not once in two seconds."""
    node = cluster.nodes["nodea"]

    def baseline() -> bool:
        note = node.run(["cat", "/var/lib/heartgate/r0.fencing"], check=False).stdout or "{}"
        return bool(json.loads(note).get("body", {}).get("epoch") == cluster.status("nodea").get("epoch"))

    wait_until("a baseline", baseline, timeout_s=SLOW_S)
    cluster.lab.wait_idle()
    wait_until("nobody to read the history", lambda: node.run([*QUIET], timeout_s=30).stdout.strip() == "0", timeout_s=90)


def fence(cluster: NsCluster) -> float:
    """Somebody does, and heartgate was not asked. Returns when it is complete, on the monotonic clock."""
    cluster.nodes["nodea"].run(["stonith_admin", "--fence", "nodeb", "--timeout", "40"], timeout_s=60)
    return time.monotonic()


def proof(cluster: NsCluster) -> List[str]:
    return [each["kind"] for each in cluster.status("nodea").get("proofs", []) if each["node"] == "nodeb"]


def shut_out(cluster: NsCluster) -> float:
    """nodeb is fenced, and stays a member of Corosync: its Pacemaker hangs, and so does not end because of it. Returns when."""
    cluster.nodes["nodeb"].run(["pkill", "-STOP", "-x", "pacemakerd"])
    return fence(cluster)


def members(cluster: NsCluster) -> str:
    told = cluster.nodes["nodea"].run(["corosync-quorumtool", "-s"], check=False).stdout.splitlines()
    return "".join(line.split()[1] for line in told if line.startswith("Nodes:"))


@pytest.mark.req("E1", "D6")
def test_nobody_is_in_a_hurry_and_the_fencing_is_known_at_once(cluster: NsCluster) -> None:
    """The fenced node stays a member, so nothing but the alert has the daemon look: it would do so within a minute."""
    cluster.set_up()
    fabric(cluster)
    configure_alert(cluster)
    wait_unhurried(cluster)
    done = shut_out(cluster)
    wait_until("the proof", lambda: proof(cluster), timeout_s=2 * SLOW_S, interval_s=0.01)
    took = time.monotonic() - done
    found = [line for line in log(cluster) if FENCED in line]
    assert found and "(alerted)" in found[0], found
    assert members(cluster) == "2", "nothing else had the daemon look"
    print(f"fencing complete to proof recorded: {took:.2f} s")


@pytest.mark.req("E1", "D6", "A5")
def test_without_the_alert_it_is_found_later_and_nothing_is_lost(cluster: NsCluster) -> None:
    """The same, with no push or a lost one: what comes next (the node is gone) has the daemon read, and it counts all the same."""
    cluster.set_up()
    fabric(cluster)
    wait_unhurried(cluster)
    shut_out(cluster)
    time.sleep(5)
    assert not proof(cluster) and members(cluster) == "2", "the case above would show nothing"
    since = time.monotonic()
    cluster.nodes["nodeb"].power_off()
    cluster.wait_standing("nodea", "solo")
    assert proof(cluster) == ["fenced"]
    cluster.wait_served_by("nodea", since=since)
    assert not [line for line in log(cluster) if "(alerted)" in line]


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
    done = node.run(as_hacluster, check=False)  # bounded: it never waits
    assert done.rc == 0 and "heartgated is not told" in done.stderr
