"""`heartgate heartbeat` and `heartgate discover` on a real Corosync."""

from __future__ import annotations

import json
import time
from typing import Any, Dict, Iterator, List

import pytest

from heartgate.checks import corosync_edit
from tests.lab.api import Result, wait_until
from tests.lab.ns.lab import DEFAULT_INSTALL, NsLab, NsNode
from tests.ns import heartbeat_lab
from tests.ns.heartbeat_lab import CONF, HeartbeatLab

pytestmark = pytest.mark.ns
BOTH = {0: True, 1: True}
THREE = {0: True, 1: True, 2: True}


@pytest.fixture(scope="module")
def made() -> Iterator[HeartbeatLab]:
    with NsLab.start(install=(*DEFAULT_INSTALL, heartbeat_lab.install)) as lab:
        yield HeartbeatLab(lab)


@pytest.fixture()
def hb(made: HeartbeatLab) -> Iterator[HeartbeatLab]:
    made.restore()
    yield made


def beat(node: NsNode, *words: str, timeout_s: float = 90) -> Result:
    done = node.run(["heartgate", "heartbeat", *words], check=False, timeout_s=timeout_s)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def listed(node: NsNode, *words: str) -> Dict[str, Dict[str, Any]]:
    found: List[Dict[str, Any]] = json.loads(beat(node, "list", "--json", *words).stdout)["heartbeats"]
    return {each["name"]: each for each in found}


# --- list


@pytest.mark.req("C5", "C7", "D1", "D5")
def test_list_shows_every_link_with_both_channels(hb: HeartbeatLab) -> None:
    done = beat(hb.a, "list")
    assert done.rc == 0, done
    lines = done.stdout.splitlines()
    assert [line.split()[:7] for line in lines[1:3]] == [
        ["nodeb", "network", "link", "0", "up", "up", "up"], ["nodeb", "network", "link", "1", "up", "up", "up"]]  # fmt: skip
    assert "10.77.11.1 (hb1) -> 10.77.11.2" in lines[2] and "heard over 2 of 2" in lines[3]
    began = time.monotonic()
    links = listed(hb.a, "--seconds", "1")
    looked_ms = (time.monotonic() - began) * 1000
    for link in links.values():
        assert link["kind"] == "network" and link["loss"] == 0 and link["age_ms"] < looked_ms and not link["age_at_least"]
        assert 0 < link["latency_ave_us"] <= link["latency_max_us"] and link["mtu"] > 1000


@pytest.mark.req("C5")
@pytest.mark.parametrize("direction, here, there", [("out", ("down", "up"), ("unknown", "down")),
                                                    ("in", ("unknown", "down"), ("down", "up"))])  # fmt: skip
def test_one_way_loss_shows_which_channel_is_down(hb: HeartbeatLab, direction: str, here: Any, there: Any) -> None:
    hb.lab.cut("hb1", node="nodea", direction=direction)
    wait_until("Corosync to notice", lambda: not hb.connected(hb.a, 2)[1] and not hb.connected(hb.b, 1)[1], timeout_s=60)
    for node, expected in ((hb.a, here), (hb.b, there)):
        assert beat(node, "list").rc == 3
        links = listed(node)
        assert (links["1"]["sending"], links["1"]["receiving"], links["1"]["state"]) == (*expected, "down")
        assert (links["0"]["sending"], links["0"]["receiving"], links["0"]["state"]) == ("up", "up", "up")
        assert ("only the other node can tell" in links["1"]["reason"]) == ("unknown" in expected)


@pytest.mark.req("C5", "D5")
def test_a_pulled_cable_and_its_age(hb: HeartbeatLab) -> None:
    hb.lab.cut("hb0")
    wait_until("Corosync to notice", lambda: not hb.connected(hb.a, 2)[0], timeout_s=60)
    link = listed(hb.a)["0"]
    assert link["receiving"] == "down" and link["age_at_least"] and link["age_ms"] >= 300 and link["loss"] == 1
    assert "nodeb is heard over 1 of 2" in beat(hb.a, "list").stdout


# --- add and remove, by ssh


@pytest.mark.req("C7", "D9")
def test_add_and_remove_on_a_running_cluster_with_traffic(hb: HeartbeatLab) -> None:
    hb.start_traffic()
    ring, before = hb.ring(hb.a), [hb.traffic(node) for node in (hb.a, hb.b)]
    began = time.monotonic()
    done = beat(hb.a, "add", "nodeb-c0", "nodea-c0")
    assert done.rc == 0 and "ssh" in done.stderr and "link 2 is up on every node; no node left or joined" in done.stdout, done
    assert hb.links() == (THREE, THREE)
    assert listed(hb.b)["2"]["sending"] == "up"
    added = [line.strip() for line in hb.text(hb.b).splitlines() if line not in hb.base.splitlines()]
    assert added == ["linknumber: 2", "ring2_addr: 10.77.30.1", "ring2_addr: 10.77.30.2"]
    assert hb.text(hb.a) == hb.text(hb.b) and not hb.kept(hb.a) and not hb.kept(hb.b)
    done = beat(hb.b, "remove", "nodea-c0", "nodeb-c0")  # from the other node
    assert done.rc == 0 and "link 2 is gone" in done.stdout, done
    assert hb.links() == (BOTH, BOTH) and hb.unchanged()
    half_ms = (time.monotonic() - began) * 1000 / 2
    heard = [state["heard"] for state in before]
    wait_until("traffic to go on", lambda: all(hb.traffic(n)["heard"] > h + 50 for n, h in zip((hb.a, hb.b), heard)), timeout_s=60)
    for node, old in zip((hb.a, hb.b), before):
        now = hb.traffic(node)
        assert now["views"] == old["views"] and now["out_of_order"] == 0, (old, now)
        assert now["gap_max_ms"] < max(1000, half_ms), (old, now)  # where all stands still for some seconds, all takes longer
    assert hb.ring(hb.a) == ring == hb.ring(hb.b)
    hb.stop_traffic()


@pytest.mark.req("C7")
def test_link_0_can_go_when_another_takes_its_place(hb: HeartbeatLab) -> None:
    ring = hb.ring(hb.a)
    assert beat(hb.a, "add", "nodea-c0", "nodeb-c0", "--link", "5").rc == 0
    done = beat(hb.a, "remove", "--link", "0")
    assert done.rc == 0, done
    assert hb.links() == ({1: True, 5: True}, {1: True, 5: True}) and hb.ring(hb.b) == ring
    assert beat(hb.a, "add", "10.77.10.1", "10.77.10.2").rc == 0  # the lowest free number is 0 again
    assert hb.links()[1] == {0: True, 1: True, 5: True}


@pytest.mark.req("B3", "C7")
def test_the_rules_of_check_are_asked_of_both_ends(hb: HeartbeatLab) -> None:
    hb.b.run(["ip", "link", "add", "mv0", "link", "client0", "type", "macvlan"])
    try:
        done = beat(hb.a, "add", "nodea-c0", "nodeb-c0")
    finally:
        hb.b.run(["ip", "link", "del", "mv0"])
    assert done.rc == 3 and "virtual-switch on nodeb" in done.stderr and "--force" in done.stderr, done
    hb.lab.cut("client0")
    done = beat(hb.a, "add", "nodea-c0", "nodeb-c0")
    assert done.rc == 3, done
    assert all(f"client0 of {node} has no carrier" in done.stderr for node in ("nodea", "nodeb")), done
    assert hb.unchanged()


@pytest.mark.req("C7")
@pytest.mark.parametrize("what", ["cable", "one way"])
def test_a_link_that_does_not_come_up_is_undone(hb: HeartbeatLab, what: str) -> None:
    ring = hb.ring(hb.a)
    if what == "cable":
        hb.lab.cut("client0")
    else:
        hb.lab.cut("client0", node="nodeb", direction="in")
    force = ["--force"] if what == "cable" else []  # else the rules would refuse it
    done = beat(hb.a, "add", "nodea-c0", "nodeb-c0", "--wait", "4", *force)
    assert done.rc == 1 and "did not come up within 4 s" in done.stderr and "nothing of it is left" in done.stderr, done
    assert hb.unchanged() and hb.links() == (BOTH, BOTH) and hb.ring(hb.a) == ring == hb.ring(hb.b)
    if what == "one way":
        assert "nodeb does not hear us" in done.stderr or "nothing arrives from nodeb" in done.stderr


@pytest.mark.req("C7")
@pytest.mark.parametrize("signal", ["INT", "TERM"])
def test_an_interrupt_at_any_moment_leaves_all_or_nothing(hb: HeartbeatLab, signal: str) -> None:
    ring, outcomes = hb.ring(hb.a), set()
    for delay_s in (0.1, 0.3, 0.6, 0.9, 1.3, 1.8, 2.4, 3.0, 4.0, 5.0):
        command = (
            f"heartgate heartbeat add nodea-c0 nodeb-c0 & p=$!; sleep {delay_s}; kill -{signal} $p 2>/dev/null; "
            f"sleep 0.05; kill -{signal} $p 2>/dev/null; wait $p"
        )
        done = hb.a.run(["sh", "-c", command], check=False, timeout_s=90)
        wait_until("the processes to end", lambda: hb.a.run(["pgrep", "-f", "[h]eartbeat add"], check=False).rc == 1, timeout_s=60)
        if hb.unchanged():
            assert done.rc != 0, done
            wait_until("two links", lambda: hb.links() == (BOTH, BOTH), timeout_s=60)
            outcomes.add("nothing")
        else:
            assert done.rc == 0 and hb.links() == (THREE, THREE) and not hb.kept(hb.a) and not hb.kept(hb.b), done
            assert beat(hb.a, "remove", "--link", "2").rc == 0
            outcomes.add("all")
    assert "nothing" in outcomes and hb.ring(hb.a) == ring


@pytest.mark.req("C7")
def test_a_change_that_was_killed_is_found_and_undone(hb: HeartbeatLab) -> None:
    hb.lab.cut("client0")
    add = "heartgate heartbeat add nodea-c0 nodeb-c0 --force --wait 200"
    hb.a.spawn(["sh", "-c", f"exec {add}"])
    begun = lambda: all(hb.kept(node) and hb.text(node) != hb.base for node in (hb.a, hb.b))  # noqa: E731
    wait_until("the change to be half done", begun, timeout_s=60)
    time.sleep(2)  # somewhere behind that; it waits for the link all the time
    hb.a.run(["pkill", "-KILL", "-f", "[h]eartbeat add"])
    wait_until("its end", lambda: hb.a.run(["pgrep", "-f", "[h]eartbeat add"], check=False).rc == 1, timeout_s=60)
    assert hb.kept(hb.a) and hb.kept(hb.b)
    hb.lab.mend("client0")
    for node, words in ((hb.a, ["remove", "--link", "2"]), (hb.b, ["add", "10.77.20.1", "10.77.20.2"])):
        done = beat(node, *words)
        assert done.rc == 1 and "heartgate heartbeat undo" in done.stderr and "nothing of it is left" in done.stderr, done
        assert hb.kept(hb.a) and hb.kept(hb.b), "what another change keeps is not thrown away"
    for node in (hb.a, hb.b):
        assert beat(node, "undo").rc == 0
    hb.a.run(["corosync-cfgtool", "-R"])
    assert hb.unchanged()
    wait_until("two links", lambda: hb.links() == (BOTH, BOTH), timeout_s=60)
    assert "nothing to undo" in beat(hb.a, "undo").stdout


@pytest.mark.req("C7", "A9", "D5")
def test_the_last_independent_heartbeat_needs_force_and_the_last_working_one_stays(hb: HeartbeatLab) -> None:
    ring = hb.ring(hb.a)
    done = beat(hb.a, "remove", "--link", "1")
    assert done.rc == 3 and "last independent heartbeat" in done.stderr and "--force" in done.stderr, done
    assert hb.unchanged() and hb.links() == (BOTH, BOTH)
    hb.lab.cut("hb0")
    wait_until("Corosync to notice", lambda: not hb.connected(hb.a, 2)[0], timeout_s=60)
    for node in (hb.a, hb.b):
        done = beat(node, "remove", "--link", "1", "--force")
        assert done.rc == 3 and "would lose each other" in done.stderr, done
    hb.lab.mend("hb0")
    wait_until("both links", lambda: hb.links() == (BOTH, BOTH), timeout_s=60)
    done = beat(hb.a, "remove", "nodea-hb1", "nodeb-hb1", "--force")
    assert done.rc == 0 and hb.links() == ({0: True}, {0: True}) and hb.ring(hb.b) == ring, done
    done = beat(hb.a, "remove", "--link", "0", "--force")
    assert done.rc == 1 and "the only one" in done.stderr, done


@pytest.mark.req("C7")
@pytest.mark.parametrize(
    "words, rc, says",
    [
        (("add", "nope.invalid", "nodeb-c0"), 2, '"nope.invalid" resolves to no address'),
        (("add", "many", "nodeb-c0"), 2, '"many" resolves to several addresses (10.77.20.1, 10.77.30.1)'),
        (("add", "elsewhere", "nodeb-c0"), 2, "an address of an interface of this node, nodea"),
        (("add", "nodea-c0", "elsewhere"), 2, "on no interface of nodeb"),
        (("add", "looped", "nodeb-c0"), 2, "reaches no other node"),
        (("add", "nodea-c0", "nodea-c0"), 2, "the same address"),
        (("add", "nodea-c0", "nodea"), 2, "both ends on nodea"),
        (("add", "nodea-six", "nodeb-c0"), 2, "IPv4 and IPv6"),
        (("add", "nodea-c0"), 2, "the cluster has 2 nodes"),
        (("add", "nodez=nodea-c0", "nodeb-c0"), 2, '"nodez" is no node of this cluster'),
        (("add", "nodea-c0", "10.77.20.2"), 3, "10.77.30.1 is on client0, but packets from it to the other end leave by sync0"),
        (("add", "nodea-hb1", "nodeb-hb1"), 2, "already that of link 1"),
        (("add", "nodea-c0", "nodeb-c0", "--link", "1"), 1, "link 1 exists already"),
        (("add", "nodea-c0", "nodeb-c0", "--link", "8"), 1, "0 to 7"),
        (("add", "nodea-c0", "nodeb-c0", "--wait", "-1"), 2, "more than 0"),
        (("remove", "nodea-c0", "nodeb-c0"), 2, "no link joins"),
        (("remove", "--link", "4"), 1, "there is no link 4; the links are 0, 1"),
        (("remove",), 2, "one of the two"),
        (("list", "--seconds", "soon"), 2, "--seconds"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_message(hb: HeartbeatLab, words: Any, rc: int, says: str) -> None:
    done = beat(hb.a, *words)
    assert done.rc == rc and says in done.stderr, done
    assert hb.unchanged() and set(hb.links()[0]) == {0, 1}


@pytest.mark.req("C7")
def test_a_file_that_is_not_in_force_or_differs_is_refused(hb: HeartbeatLab) -> None:
    hb.a.put(CONF, hb.base.replace("ring1_addr: 10.77.11.2", "ring1_addr: 10.77.20.2"))
    done = beat(hb.a, "add", "nodea-c0", "nodeb-c0")
    assert done.rc == 3 and "not the one that Corosync runs with" in done.stderr, done
    hb.a.put(CONF, hb.base)
    hb.b.put(CONF, hb.base.replace("ring1_addr: 10.77.11.2", "ring1_addr: 10.77.20.2"))
    done = beat(hb.a, "add", "nodea-c0", "nodeb-c0")
    assert done.rc == 1 and "of nodeb has another node list" in done.stderr, done
    hb.b.put(CONF, hb.base.replace("quorum {", "quorum"))
    done = beat(hb.a, "add", "nodea-c0", "nodeb-c0")
    assert done.rc == 1 and "corosync.conf of nodeb: line " in done.stderr, done
    assert hb.text(hb.a) == hb.base and not hb.kept(hb.a)


@pytest.mark.req("C7")
def test_without_a_way_to_the_other_node_the_change_is_printed(hb: HeartbeatLab) -> None:
    hb.b.run(["mv", "/root/.ssh/authorized_keys", "/root/.ssh/off"])
    try:
        done = beat(hb.a, "add", "nodea-c0", "nodeb-c0")
    finally:
        hb.b.run(["mv", "/root/.ssh/off", "/root/.ssh/authorized_keys"])
    assert done.rc == 1 and hb.unchanged(), done
    for words in ("pcs host auth nodea nodeb", "without a password", "+        ring2_addr: 10.77.30.2", "corosync-cfgtool -R"):
        assert words in done.stderr, done.stderr


# --- through pcs


@pytest.mark.req("C7")
def test_through_pcs_where_pcsd_runs(hb: HeartbeatLab) -> None:
    ring = hb.ring(hb.a)
    commented = hb.base.replace("totem {", "# a person wrote this\ntotem {")
    for node in (hb.a, hb.b):
        node.put(CONF, commented)
    hb.start_pcsd()
    try:
        hb.lab.cut("client0")
        done = beat(hb.a, "add", "nodea-c0", "nodeb-c0", "--wait", "3", "--force", timeout_s=200)  # the rules see no carrier
        assert done.rc == 1 and "by pcs" in done.stderr and "nothing of it is left" in done.stderr, done
        assert [hb.text(node) for node in (hb.a, hb.b)] == [commented, commented] and not hb.kept(hb.a)
        assert hb.links() == (BOTH, BOTH)
        hb.lab.mend("client0")
        done = beat(hb.a, "add", "nodea-c0", "nodeb-c0", timeout_s=200)
        assert done.rc == 0 and "by pcs" in done.stderr and hb.links() == (THREE, THREE), done
        assert corosync_edit.link_options(hb.text(hb.b), 2)["knet_ping_interval"] == "100"
        done = beat(hb.b, "remove", "nodea-c0", "nodeb-c0", timeout_s=200)
        assert done.rc == 0 and hb.links() == (BOTH, BOTH) and not hb.kept(hb.b), done
        hb.stop_pcsd(hb.b)  # then pcs would change one node alone: ssh it is
        done = beat(hb.a, "add", "nodea-c0", "nodeb-c0", timeout_s=200)
        assert done.rc == 0 and "by ssh" in done.stderr and hb.ring(hb.b) == ring, done
    finally:
        hb.forget_pcs()


# --- discover


@pytest.mark.req("C8")
def test_discover_finds_the_other_node_on_every_network(hb: HeartbeatLab) -> None:
    hb.lab.cut("sync0")
    done = hb.a.run(["heartgate", "discover", "--json", "--seconds", "3"], check=False, timeout_s=60)
    assert done.rc == 0 and "looking on " in done.stderr, done
    result = json.loads(done.stdout)
    found = {host["interface"]: host for host in result["hosts"] if host["found_by"] == "echo"}
    assert set(found) == {"hb0", "hb1", "client0"} and "no carrier" in result["not_looked_on"]["sync0"]
    assert found["hb0"]["cluster_node"] == "nodeb" and found["hb0"]["mac"].endswith(":00:02"), found["hb0"]
    assert found["client0"]["address"].startswith("fe80::") and 0 < found["client0"]["rtt_ms"] < done.elapsed_s * 1000


@pytest.mark.req("C8")
def test_discover_finds_nobody_and_tells_what_it_could_not_look_at(hb: HeartbeatLab) -> None:
    hb.b.run(["sh", "-c", "for i in hb0 hb1 sync0 client0; do echo 1 > /proc/sys/net/ipv6/conf/$i/disable_ipv6; done"])
    try:
        done = hb.a.run(["heartgate", "discover", "--seconds", "1"], check=False, timeout_s=60)
        assert done.rc == 3 and "nobody answered" in done.stdout, done
        done = hb.b.run(["heartgate", "discover", "--seconds", "1"], check=False, timeout_s=60)
        assert done.rc == 3 and "could not look on hb0: it has no IPv6 link-local address" in done.stdout, done
    finally:
        hb.b.run(["sh", "-c", "for i in hb0 hb1 sync0 client0; do echo 0 > /proc/sys/net/ipv6/conf/$i/disable_ipv6; done"])


@pytest.mark.req("C8")
def test_discover_by_mdns_tells_the_name_and_is_not_needed(hb: HeartbeatLab) -> None:
    hb.b.spawn(["heartgate", "discover", "--announce", "--seconds", "60"])

    def named() -> Any:
        done = hb.a.run(["heartgate", "discover", "--json", "--seconds", "2"], check=False, timeout_s=60)
        result = json.loads(done.stdout)
        assert result["mdns_problem"] is None, result
        return any(host["name"] == "nodeb.local" for host in result["hosts"])

    wait_until("the name", named, timeout_s=55)
    hb.b.run(["pkill", "-f", "[d]iscover --announce"], check=False)
    hidden = "mount -t tmpfs none /usr/lib/python3/dist-packages/zeroconf; exec heartgate discover --seconds 1"
    done = hb.a.run(["unshare", "-m", "sh", "-c", hidden], check=False, timeout_s=60)
    assert done.rc == 0 and "mDNS was not looked at: python3-zeroconf" in done.stdout, done


# --- the last one: Corosync ends


@pytest.mark.req("C7")
def test_without_corosync_the_configured_links_are_unknown(hb: HeartbeatLab) -> None:
    hb.lab.fencing("unreachable")
    hb.b.run(["sh", "-c", "pkill -KILL pacemakerd; pkill -KILL corosync; sleep 0.3"], check=False)
    done = beat(hb.b, "list")
    assert done.rc == 4 and "Corosync does not run" in done.stderr, done
    assert [line.split()[:7] for line in done.stdout.splitlines()[1:]] == [
        ["nodea", "network", "link", str(number), "unknown", "unknown", "unknown"] for number in (0, 1)]  # fmt: skip
    done = beat(hb.b, "add", "nodea-c0", "nodeb-c0")
    assert done.rc == 4 and "Corosync does not run" in done.stderr, done
    hb.b.put(CONF, "totem {\n")
    done = beat(hb.b, "list")
    assert done.rc == 4 and "line 1" in done.stderr and "no heartbeat is known" in done.stdout, done
