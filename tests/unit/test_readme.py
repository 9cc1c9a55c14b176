"""README's set-up: its marks, and what real pcs and real crmsh make of it on a file. All of it: tests/vm/test_readme.py."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Dict, Iterator, Set, Tuple
from xml.etree import ElementTree

import pytest

from heartgate.checks import budget, budget_quantities, cib_conf, config_lint, corosync_conf, drbd_conf
from heartgate.checks.findings import Severity
from heartgate.checks.lint_facts import LintFacts
from heartgate.daemon.params import parse as parameters
from heartgate.ocf.replica_guard_table import ACTIONS
from tests import page
from tests.lab.vm import machine
from tests.lab.vm.image import PACKAGES
from tests.unit.package_root import Root, needs

ROOT = Path(__file__).resolve().parents[2]
DATE = "1767225600"
WITHOUT = needs("corosync", "pcs", "crm", "drbdadm", "crm_verify", "unshare", "dpkg-deb", "fence_ipmilan")
EMPTY = (
    '<cib crm_feature_set="3.13.0" validate-with="pacemaker-3.8" epoch="1" num_updates="0" admin_epoch="0"><configuration>'
    '<crm_config><cluster_property_set id="cib-bootstrap-options"><nvpair id="w" name="have-watchdog" value="false"/>'
    '</cluster_property_set></crm_config><nodes><node id="1" uname="nodea"/><node id="2" uname="nodeb"/></nodes><resources/>'
    "<constraints/></configuration><status/></cib>\n"
)
CIB = "/root/ha.xml"


# --- the page


def test_steps_are_what_they_say() -> None:
    found = page.steps()
    names = [each.ident for each in found if each.ident]
    assert len(set(names)) == len(names) and {"programs", "corosync", "drbd", "pcs", "crm"} <= set(names)
    assert [each.subject for each in found if each.what in ("cut", "mend")] == ["sync0", "sync0"]
    waits = [(each.subject.split()[0], each.text) for each in found if each.what == "wait"]
    assert waits[:2] == [("crm_mon", "Online: [ nodea nodeb ]"), ("drbdadm", "Connected")]
    assert [text for _, text in waits[2:]] == [f'value="{standing}"' for standing in ("synced", "solo", "blocked", "synced")]
    for each in found:
        for line in each.lines if each.what == "run" else ():
            assert shlex.split(line) and not line.endswith("\\"), line


def test_a_mark_that_is_none_is_refused(tmp_path: Path) -> None:
    for text in ("<!-- run on nodea -->", "<!-- run a on nodec -->\n    x", "<!-- file a on nodea -->\n    x",
                 "<!-- run a on nodea -->\nno block", "<!-- wait on nodea: true -->", "<!-- what -->"):  # fmt: skip
        (tmp_path / "page.md").write_text(text + "\n")
        with pytest.raises(ValueError, match="line 1: "):
            page.steps(tmp_path / "page.md")


def test_programs_are_those_of_the_lab() -> None:
    """The VM lab's machines have them from Debian 12 by these names."""
    install = shlex.split(page.step("programs").lines[0])
    assert install[:3] == ["apt-get", "install", "-y"] and set(install[3:]) <= set(PACKAGES)


def test_addresses_are_those_of_the_lab() -> None:
    """Its machines have them before anything is set up, on interfaces of these names."""
    hosts, corosync, drbd = page.step("programs"), page.step("corosync"), page.step("drbd")
    for node in machine.NODES:
        assert f'echo "{machine.address(node, "hb0")} {node}" >> /etc/hosts' in hosts.lines
        rings = f"    ring0_addr: {machine.address(node, 'hb0')}\n    ring1_addr: {machine.address(node, 'hb1')}\n"
        assert re.search(rf"    name: {node}\n    nodeid: \d\n{rings}", corosync.content)
        assert f"  on {node} {{ address {machine.address(node, 'sync0')}:7789; }}\n" in drbd.content


# --- the configuration


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Root]:
    if WITHOUT:
        pytest.skip(WITHOUT)
    where = tmp_path_factory.mktemp("readme")
    deb = where / "heartgate.deb"
    command = [sys.executable, str(ROOT / "packaging" / "build-deb"), str(deb)]
    subprocess.run(command, check=True, capture_output=True, timeout=120, env={**os.environ, "SOURCE_DATE_EPOCH": DATE})
    (where / "root").mkdir()
    with Root(where / "root", "/usr/lib/python3/dist-packages") as made:
        made.copy(deb, "/root/heartgate.deb")
        made.run("dpkg", "-x", "/root/heartgate.deb", "/")  # what the agents say of themselves is what pcs and crmsh go by
        yield made


@pytest.fixture(scope="module")
def by_pcs(root: Root) -> str:
    lines = page.step("pcs").lines
    assert (lines[0], lines[-1]) == ("pcs cluster cib ha.xml", "pcs cluster cib-push ha.xml --config")  # need a cluster
    root.write(CIB, EMPTY)
    for line in lines[1:-1]:
        words = shlex.split(line)
        assert words[:3] == ["pcs", "-f", "ha.xml"], line
        done = root.run("env", "-C", "/root", "HOME=/root", *words)
        assert "Warning" not in done.stderr and "Error" not in done.stderr, done
    root.run("crm_verify", "--xml-file", CIB, check=False)
    return root.run("cat", CIB).stdout


@pytest.fixture(scope="module")
def by_crmsh(root: Root) -> str:
    file, command = page.step("crm-file"), page.step("crm")
    root.write("/root/crm.xml", EMPTY)
    root.write(f"/root/{file.subject}", file.content)
    for line in command.lines:
        done = root.run("env", "-C", "/root", "HOME=/root", "CIB_file=/root/crm.xml", *shlex.split(line))
        assert "ERROR" not in done.stdout + done.stderr, done
    return root.run("cat", "/root/crm.xml").stdout


def made(text: str) -> Dict[str, object]:
    """What a CIB says, without the ids that a tool gives by itself."""
    cib = cib_conf.parse(text)
    root = ElementTree.fromstring(text)
    constraints: Set[Tuple[object, ...]] = set()
    for each in root.iter("rsc_location"):
        rule = each.find("rule")
        assert rule is not None
        tests = tuple(sorted((e.get("attribute"), e.get("operation"), e.get("value")) for e in rule.iter("expression")))
        constraints.add((each.get("rsc"), rule.get("role"), rule.get("score"), rule.get("boolean-op"), tests))
    for each in root.iter("rsc_colocation"):
        constraints.add(tuple(each.get(name) for name in ("rsc", "with-rsc", "with-rsc-role", "score")))
    for each in root.iter("rsc_order"):
        constraints.add(tuple(each.get(name) for name in ("first", "first-action", "then", "then-action")))
    wanted = ("start", "stop", "promote", "demote", "monitor", "notify", "reload-agent")
    return {
        "primitives": {p.ident: (p.kind, dict(p.params)) for p in cib.primitives},
        "times": {(p.ident, o.name, cib_conf.parse_time(o.interval) if o.name == "monitor" else 0, o.timeout_ms)
                  for p in cib.primitives if p.kind.startswith("ocf:") for o in p.operations if o.name in wanted},
        "clones": {each.get("id"): {n.get("name"): n.get("value") for n in each.findall("meta_attributes/nvpair")}
                   for each in root.iter("clone")},
        "groups": {each.get("id"): [p.get("id") for p in each.iter("primitive")] for each in root.iter("group")},
        "levels": {(level.target, level.index, level.devices) for level in cib.levels},
        "constraints": constraints,
    }  # fmt: skip


def test_corosync_takes_its_file(root: Root) -> None:
    file, key = page.step("corosync"), page.step("key").lines[0]
    root.write(file.subject, file.content)
    root.run(*shlex.split(key))
    for address in ("10.77.10.1", "10.77.11.1"):  # it looks for its own; the namespace is the test's
        root.run("ip", "address", "replace", f"{address}/32", "dev", "lo")
    root.run("ip", "link", "set", "lo", "up")
    done = root.run("corosync", "-t", "-c", file.subject, check=False)
    assert done.returncode == 0, done
    root.write("/root/wrong.conf", file.content.replace("sha256", "sha999"))
    assert root.run("corosync", "-t", "-c", "/root/wrong.conf", check=False).returncode != 0


def test_pcs_and_crmsh_make_the_same(by_pcs: str, by_crmsh: str) -> None:
    ours, theirs = made(by_pcs), made(by_crmsh)
    for what, found in ours.items():
        assert found == theirs[what], what


def facts(root: Root, cib: str) -> LintFacts:
    """As `heartgate check` would have them on nodea."""
    corosync, drbd = page.step("corosync"), page.step("drbd")
    root.write("/root/r0.res", drbd.content)
    kernel = ["env", "DRBD_DRIVER_VERSION_OVERRIDE=8.4.11", "drbdadm", "--config-file", "/root/r0.res", "dump"]
    return LintFacts(
        host="nodea",
        corosync=corosync_conf.parse(corosync.content),
        cib=cib_conf.parse(cib),
        drbd=drbd_conf.parse_dump(root.run(*kernel).stdout),
        networks=("10.77.10.0/24", "10.77.11.0/24", "10.77.20.0/24"),
    )


@pytest.mark.req("D6", "E5", "E7")
@pytest.mark.parametrize("tool", ["pcs", "crmsh"])
def test_nothing_is_wrong_with_what_they_make(root: Root, tool: str, request: pytest.FixtureRequest) -> None:
    found = facts(root, request.getfixturevalue(f"by_{tool}"))
    wrong = [each for each in config_lint.findings(found) if each.severity is not Severity.NOTE]
    assert not wrong
    assert not budget.findings(budget_quantities.build(found))
    guard = found.cib.of_kind("ocf:heartgate:replica-guard") if found.cib else ()
    params, problems = parameters(dict(guard[0].params))
    assert params is not None and not problems
    advertised = {action.name: cib_conf.parse_time(action.timeout) for action in ACTIONS}
    for operation in guard[0].operations:
        assert operation.timeout_ms == advertised[operation.name]


def test_the_location_rule_is_the_one_of_the_tests(by_pcs: str) -> None:
    """The VM lab's (tests/vm/cib.py), which is seen working."""
    from tests.vm import cib

    ours = {(e.get("attribute"), e.get("operation"), e.get("value")) for e in ElementTree.fromstring(by_pcs).iter("expression")}
    lab = re.findall(r'attribute="([^"]+)" operation="([^"]+)"(?: value="([^"]+)")?', cib.RULES)
    assert ours == {(name, operation, value or None) for name, operation, value in lab}
