"""The package on a running cluster: upgraded on one node after the other, refused to go while Pacemaker needs it, removed and
purged in order, and installed again. The service on nodea writes all the time, and the judge is outside.

What is expected of it is what docs/packages.md ("What happens to a node") and docs/operations.md ("Upgrade", "Removing heartgate")
tell people.
"""

from __future__ import annotations

import json
import tempfile
import time
from functools import cache, partial
from pathlib import Path
from typing import Any, Callable, Dict, Set

import pytest

from tests.lab.api import Result, wait_until
from tests.lab.deb import ROOT, build, checkout
from tests.lab.vm import form
from tests.lab.vm.machine import NODES
from tests.vm import cib
from tests.vm.cluster import LOG, MOUNT, HaLab, other
from tests.vm.stock import stock_resource
from tests.vm.test_scenarios import lose_sync, mend_and_judge

pytestmark = pytest.mark.vm
Make = Callable[..., HaLab]

INSTALLED, LATER_DEB, LATER = "/root/heartgate.deb", "/root/later.deb", "99.0"
DPKG_S = 400.0  # emulated, with byte code made for every module
PCS_S = 300.0
# An upgrade may cost the writer what any installation of that size costs it (the control), a few times over: emulated, with one
# processor, a daemon that starts takes all of it for seconds. A freeze that waits for somebody lasts for ever, or for minutes.
PAUSE_S, PAUSE_TIMES = 15.0, 3.0
PARTS = (
    "/usr/sbin/heartgate",
    "/usr/sbin/heartgated",
    "/usr/sbin/fence_heartgate",
    "/usr/lib/heartgate",
    "/usr/lib/ocf/resource.d/heartgate",
    "/usr/lib/python3/dist-packages/heartgate",
    "/usr/lib/systemd/system/heartgated.service",
    "/run/heartgate",
    "/run/heartgate-alert",
)
STATE_DIR = "/var/lib/heartgate"


@cache
def later_package() -> Path:
    """The same checkout under a higher version, which its programs say too."""
    target = ROOT / "build" / "heartgate-later.deb"
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        return build(checkout(Path(scratch) / "tree", LATER), target)


# --- asking


def told(ha: HaLab, node: str) -> Dict[str, Any]:
    """What `heartgate status --json` says there; {} if it cannot be asked."""
    shown = ha.run(node, ["heartgate", "status", "--json", "--quick"], check=False, timeout_s=30).stdout
    try:
        return dict(json.loads(shown))
    except ValueError:
        return {}


def daemon_pid(ha: HaLab, node: str) -> str:
    return str(ha.run(node, ["systemctl", "show", "-P", "MainPID", "heartgated"]).stdout).strip()


def wait_daemon(ha: HaLab, node: str, version: str, *, guards: bool = True) -> None:
    """Until a daemon of that version answers there, and (guards) the resource is registered with it."""

    def there() -> bool:
        answer = told(ha, node)
        running = answer.get("daemon") == "running" and answer.get("version") == version
        return running and (not guards or any(each["device"] == "r0" and each.get("active") for each in answer["devices"]))

    wait_until(f"heartgated {version} on {node}", there, timeout_s=180, interval_s=1)


def wait_standing_told(ha: HaLab, node: str, standing: str) -> None:
    """By the daemon and not from the disk: the record is there whether anybody reads it or not."""
    wait_until(f"{node} to say {standing}", lambda: ha.status(node).get("standing") == standing, timeout_s=120, interval_s=1)


def package_version(ha: HaLab, node: str) -> str:
    """"" if it is not installed."""
    shown = ha.run(node, ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", "heartgate"], check=False).stdout
    status, _, version = shown.partition(" ")
    return str(version) if status == "installed" else ""


def runs_of_the_writer(ha: HaLab) -> Set[str]:
    """More than one means that the service was stopped and started."""
    return {report.run for report in ha.writes.acks()}


def goes_on(ha: HaLab) -> None:
    ha.wait_served_by("nodea", since=time.monotonic(), timeout_s=120)


def never_disturbed(ha: HaLab) -> None:
    """Up to here: one writer, on nodea, all the time, and nobody was shot."""
    assert ha.lab.fencings == []
    assert len(runs_of_the_writer(ha)) == 1 and not ha.writes.acks(node="nodeb")
    assert ha.writes.errors() == []


def as_ever(ha: HaLab) -> None:
    """The sync cable is cut: the verdict, the proof, nobody shot, and it heals."""
    ha.writes.wait_acks(5, since=time.monotonic(), timeout_s=60)
    since = lose_sync(ha)
    ha.wait_standing("nodea", "solo")
    ha.wait_standing("nodeb", "blocked")
    ha.wait_served_by("nodea", since=since + 1)
    assert [(each["node"], each["kind"]) for each in ha.status("nodea")["proofs"]] == [("nodeb", "confirmed")]
    never_disturbed(ha)
    mend_and_judge(ha)
    ha.one_writer_at_a_time()


# --- doing


def dpkg(ha: HaLab, node: str, *words: str, check: bool = True) -> Result:
    done: Result = ha.run(node, ["dpkg", *words], check=check, timeout_s=DPKG_S)
    return done


def upgrade(ha: HaLab, node: str) -> None:
    dpkg(ha, node, "-i", LATER_DEB)


def cost_of_an_installation(ha: HaLab, node: str) -> None:
    """The control: the same files unpacked and flushed, the same byte code made; nothing is restarted."""
    script = f"dpkg-deb -x {LATER_DEB} /root/control && sync && python3 -m compileall -q /root/control && rm -rf /root/control"
    ha.run(node, ["sh", "-c", script], timeout_s=DPKG_S)


def longest_pause_of(ha: HaLab, job: Callable[[], None]) -> float:
    """How long the writer, at worst, waited for an acknowledgement while that was done, and until it is under way again."""
    ha.writes.wait_acks(5, since=time.monotonic(), timeout_s=60)
    since = time.monotonic()
    job()
    ha.writes.wait_acks(5, since=time.monotonic(), timeout_s=180)
    return ha.writes.longest_pause(since=since, until=time.monotonic())


def gone(ha: HaLab, node: str) -> None:
    left = ha.run(node, ["sh", "-c", f"ls -d {' '.join(PARTS)} 2>/dev/null"], check=False).stdout.split()
    assert left == [], left
    assert ha.run(node, ["systemctl", "is-active", "heartgated"], check=False).rc != 0
    assert ha.run(node, ["pgrep", "-f", "/usr/sbin/heartgated"], check=False).rc != 0
    assert package_version(ha, node) == ""


# --- upgraded


@pytest.mark.req("A4", "E1")
def test_upgraded_on_one_node_after_the_other(cluster: Make) -> None:
    """The service writes on, what is known is kept, and afterwards a loss is decided as ever."""
    ha = cluster()
    first = package_version(ha, "nodea")
    epochs = {node: ha.record(node)["epoch"] for node in NODES}
    for node in ("nodeb", "nodea"):
        ha.nodes[node].put_bytes(LATER_DEB, later_package().read_bytes())
        before = daemon_pid(ha, node)
        control = longest_pause_of(ha, partial(cost_of_an_installation, ha, node))
        assert daemon_pid(ha, node) == before, "the control restarted the daemon"
        pause = longest_pause_of(ha, partial(upgrade, ha, node))
        wait_daemon(ha, node, LATER)
        print(f"{node}: the writer paused for {pause:.1f} s, with an installation alone for {control:.1f} s")
        assert package_version(ha, node) == LATER and daemon_pid(ha, node) not in ("0", before)
        assert pause <= PAUSE_S + PAUSE_TIMES * control, f"{pause:.1f} s; an installation alone: {control:.1f} s"
        for each in NODES:  # also when one is new and the other one old
            wait_standing_told(ha, each, "synced")
            assert ha.record(each)["epoch"] == epochs[each]
        if node == "nodeb":
            wait_daemon(ha, "nodea", first)
        never_disturbed(ha)
    as_ever(ha)


@pytest.mark.req("A4", "A6", "E1")
def test_upgraded_while_one_is_solo_and_the_other_blocked(cluster: Make) -> None:
    """A restart of the daemon thaws nothing, and lets nobody in who was out."""
    ha = cluster()
    lose_sync(ha)
    ha.wait_standing("nodea", "solo")
    ha.wait_standing("nodeb", "blocked")
    goes_on(ha)
    records = {node: ha.record(node) for node in NODES}
    for node in ("nodeb", "nodea"):
        ha.nodes[node].put_bytes(LATER_DEB, later_package().read_bytes())
        upgrade(ha, node)
        wait_daemon(ha, node, LATER)
        assert {each: ha.record(each) for each in NODES} == records
        refused = ha.run("nodeb", ["drbdadm", "primary", "r0"], check=False, timeout_s=60)
        assert refused.rc != 0, "a blocked node was promoted"
        goes_on(ha)
    never_disturbed(ha)
    ha.lab.mend("sync0")
    ha.wait_healed(timeout_s=400)
    ha.lab.wait_in_sync()
    ha.judge()
    never_disturbed(ha)


# --- removed


@pytest.mark.req("A4")
@pytest.mark.parametrize("node", ["nodeb", "nodea"])
def test_it_is_not_removed_while_pacemaker_has_its_resources(cluster: Make, node: str) -> None:
    """Removed under Pacemaker, its agents could not stop their resources, and the node would be fenced."""
    ha = cluster()
    before, version = daemon_pid(ha, node), package_version(ha, node)
    refused = dpkg(ha, node, "-r", "heartgate", check=False)
    assert refused.rc != 0 and "not removed. Pacemaker runs here" in refused.stderr, refused
    assert package_version(ha, node) == version != "" and daemon_pid(ha, node) == before
    for each in NODES:
        wait_standing_told(ha, each, "synced")
    goes_on(ha)
    never_disturbed(ha)
    as_ever(ha)


@pytest.mark.req("A4", "A6", "E1")
def test_a_blocked_node_is_blocked_still_when_the_package_was_away(cluster: Make) -> None:
    """Pacemaker is stopped there first, as it has to be; the record outlives the package."""
    ha = cluster()
    lose_sync(ha)
    ha.wait_standing("nodea", "solo")
    ha.wait_standing("nodeb", "blocked")
    ha.run("nodeb", ["systemctl", "stop", "pacemaker"], timeout_s=240)
    record = ha.record("nodeb")
    removed = dpkg(ha, "nodeb", "-r", "heartgate").stderr
    assert "r0 was guarded here and is blocked. Its record stays" in removed and "That copy may be old" in removed
    assert "/etc/drbd.d/r0.res names handlers of heartgate" in removed
    gone(ha, "nodeb")
    assert ha.record("nodeb") == record and ha.standing("nodea") == "solo"
    goes_on(ha)
    dpkg(ha, "nodeb", "-i", INSTALLED)
    wait_daemon(ha, "nodeb", package_version(ha, "nodeb"), guards=False)
    assert ha.record("nodeb") == record
    ha.run("nodeb", ["systemctl", "start", "pacemaker"], timeout_s=240)
    goes_on(ha)
    assert ha.standing("nodeb") == "blocked"
    ha.lab.mend("sync0")
    ha.wait_healed(timeout_s=400)
    ha.lab.wait_in_sync()
    never_disturbed(ha)
    ha.judge()


@pytest.mark.req("A4", "E1")
def test_removed_in_order_purged_and_set_up_again(cluster: Make) -> None:
    """As docs/operations.md tells it, with the service writing on; then the guard once more, as on a new cluster."""
    ha = cluster()
    delete_resources(ha)
    form.on_each(ha.nodes, partial(form.use_resource_file, content=stock_resource()))
    for node in ("nodeb", "nodea"):
        forget(ha, node)
    for node in ("nodeb", "nodea"):
        removed = dpkg(ha, node, "-r", "heartgate").stderr
        assert "was guarded here" not in removed and "names handlers" not in removed, removed
        gone(ha, node)
        assert ha.run(node, ["ls", STATE_DIR]).stdout.split() == ["r0.verdicts"]
        goes_on(ha)
    dpkg(ha, "nodeb", "-P", "heartgate")
    assert ha.run("nodeb", ["test", "-e", STATE_DIR], check=False).rc != 0
    assert ha.run("nodeb", ["test", "-L", "/etc/systemd/system/multi-user.target.wants/heartgated.service"], check=False).rc != 0
    never_disturbed(ha)

    for node in NODES:  # one that was purged, and one that was only removed
        dpkg(ha, node, "-i", INSTALLED)
        wait_daemon(ha, node, package_version(ha, node), guards=False)
        assert ha.run(node, ["systemctl", "is-enabled", "heartgated"], check=False).stdout.strip() == "enabled"
    ha.lab.quick_drbd(handlers=True)
    set_up_again(ha)
    never_disturbed(ha)
    as_ever(ha)


def pcs(ha: HaLab, *words: str) -> None:
    ha.run("nodea", ["pcs", *words], timeout_s=PCS_S)


def delete_resources(ha: HaLab) -> None:
    """The rule first: it forbids the Promoted role where the attribute is not defined."""
    pcs(ha, "constraint", "delete", "heartgate-r0")
    pcs(ha, "resource", "delete", "guard")
    for node in NODES:
        pcs(ha, "stonith", "level", "remove", "1", "target", node, "stonith", "gate", "fence-lab")
    pcs(ha, "stonith", "delete", "gate")
    for node in NODES:
        wait_until(f"the guard's stop on {node}", partial(stopped, ha, node), timeout_s=120, interval_s=1)
    shown = ha.run("nodea", ["cibadmin", "-Q", "-o", "configuration"], timeout_s=60).stdout
    assert "heartgate" not in shown, shown


def stopped(ha: HaLab, node: str) -> bool:
    return ha.status(node).get("active") is False


def forget(ha: HaLab, node: str) -> None:
    """It refuses an order that was given on other news than what it had shown a moment before; so it is asked again."""
    tried = ["heartgate", "forget", "r0", "--yes-forget", node]

    def forgotten() -> bool:
        return bool(ha.run(node, tried, check=False, timeout_s=120).rc == 0)

    wait_until(f"r0 to be forgotten on {node}", forgotten, timeout_s=120, interval_s=4)
    assert ha.run(node, ["sh", "-c", f"ls {STATE_DIR} | grep -v verdicts"], check=False).stdout == ""


def set_up_again(ha: HaLab) -> None:
    """Gate and guard, and when both are synced the rule."""
    parts = {
        "resources": cib.resources(ha.guard_parameters(), promoted_max=1, service=True, directory=MOUNT, log=LOG),
        "fencing-topology": cib.fencing_levels(),
        "constraints": cib.constraints(active=ha.active, service=True),
    }
    for scope, content in parts.items():
        if scope == "constraints":
            for node in NODES:
                ha.wait_standing(node, "synced", timeout_s=400)
                wait_standing_told(ha, node, "synced")
                wait_until(f"the attribute of {node}", partial(published, ha, node), timeout_s=60, interval_s=1)
        argv = ["cibadmin", "--modify", "--allow-create", "--scope", scope, "--xml-pipe"]
        ha.run("nodea", argv, stdin=content, timeout_s=60)
    ha.lab.wait_idle(timeout_s=180)


def published(ha: HaLab, node: str) -> bool:
    """As Pacemaker has it, on the other node too: the rule is about both."""
    query = ["attrd_updater", "-n", "heartgate-r0", "-Q", "-N", node]
    answers = [ha.run(asked, query, check=False, timeout_s=30).stdout for asked in (node, other(node))]
    return all('value="synced"' in answer for answer in answers)
