"""What an administrator's tools make of the agent: describe, create and validate, with pcs and with crmsh, on a real cluster."""

from __future__ import annotations

from typing import Dict, List
from xml.etree import ElementTree

import pytest

from heartgate.ocf.metadata import generated
from tests.lab.api import Result
from tests.lab.replication import host
from tests.ns.cluster import DRIVER, NsCluster

pytestmark = pytest.mark.ns
NAME = "ocf:heartgate:replica-guard"
AGENT = "/usr/lib/ocf/resource.d/heartgate/replica-guard"
GOOD = {"device": "r0", "driver": "exec", "exec_program": DRIVER, "priorities": "nodea:1 nodeb:2"}
ROOT = ElementTree.fromstring(generated()["replica-guard.xml"])
NAMES = [parameter.get("name", "") for parameter in ROOT.iter("parameter")]


def words(parameters: Dict[str, str]) -> List[str]:
    return [f"{name}={value}" for name, value in parameters.items()]


def tried(cluster: NsCluster, *argv: str) -> Result:
    return cluster.nodes["nodea"].run(list(argv), check=False, timeout_s=120)


def exists(cluster: NsCluster) -> bool:
    return "<primitive" in tried(cluster, "cibadmin", "--query", "--xpath", "//primitive[@id='guard']").stdout


@pytest.mark.parametrize("argv", [["pcs", "resource", "describe", NAME], ["crm", "ra", "info", NAME]], ids=["pcs", "crm"])
def test_described(cluster: NsCluster, argv: List[str]) -> None:
    result = tried(cluster, *argv)
    assert result.rc == 0, result
    text = " ".join(result.stdout.split())
    for name in NAMES:
        assert name in text
    assert "the other goes on only with proof" in text
    assert "not an" not in result.stderr.lower() and "error" not in result.stderr.lower(), result.stderr


@pytest.mark.parametrize(
    "change, says",
    [({"nonsense": "1"}, "nonsense"), ({"device": None}, "device"), ({"priorities": None}, "priorities")],
    ids=["unknown", "no-device", "no-priorities"],
)
def test_pcs_refuses_what_the_metadata_excludes(cluster: NsCluster, change: Dict[str, str], says: str) -> None:
    parameters = {name: value for name, value in {**GOOD, **change}.items() if value is not None}
    result = tried(cluster, "pcs", "resource", "create", "guard", NAME, *words(parameters), "--disabled")
    assert result.rc != 0 and says in result.stderr, result
    assert not exists(cluster)


@pytest.mark.parametrize(
    "change, says",
    [({"nonsense": "1"}, "nonsense"), ({"priorities": None}, "priorities")],
    ids=["unknown", "no-priorities"],
)
def test_crmsh_refuses_what_the_metadata_excludes(cluster: NsCluster, change: Dict[str, str], says: str) -> None:
    parameters = {name: value for name, value in {**GOOD, **change}.items() if value is not None}
    argv = ["crm", "configure", "primitive", "guard", NAME, "params", *words(parameters), "meta", "target-role=Stopped"]
    result = tried(cluster, *argv)
    assert says in result.stderr and "ERROR" in result.stderr, result
    assert result.rc != 0 and not exists(cluster), result


@pytest.mark.parametrize("tool", ["pcs", "crm"])
def test_a_good_one_is_created_without_a_word(cluster: NsCluster, tool: str) -> None:
    argv = {
        "pcs": ["pcs", "resource", "create", "guard", NAME, *words(GOOD), "--disabled"],
        "crm": ["crm", "configure", "primitive", "guard", NAME, "params", *words(GOOD), "meta", "target-role=Stopped"],
    }
    result = tried(cluster, *argv[tool])
    assert result.rc == 0 and "WARNING" not in result.stderr and "ERROR" not in result.stderr, result
    assert exists(cluster)


def test_pcs_shows_what_the_agent_says_of_a_bad_value(cluster: NsCluster) -> None:
    bad = {**GOOD, "priorities": "nodea:1 nodeb:1"}
    create = ["pcs", "resource", "create", "guard", NAME, *words(bad), "--agent-validation", "--disabled"]
    result = tried(cluster, *create)
    assert result.rc != 0 and "both have priority 1" in result.stderr, result
    assert not exists(cluster)


def complaints(result: Result) -> List[str]:
    return [line.partition(": ")[2] for line in result.stdout.splitlines() if line.startswith("* rc=")]


def test_ocf_tester_has_the_one_complaint_that_it_has_of_pacemakers_own(cluster: NsCluster) -> None:
    """It checks metadata by the DTD of OCF 1.0, which knows nothing of 1.1. The daemon runs, as it does where the package is
    installed: without it a monitor that is no probe is an error on purpose."""
    host.configure(cluster.lab)
    host.start(cluster.lab)
    for action in ("start", "stop"):
        assert tried(cluster, "env", *(f"OCF_RESKEY_{word}" for word in words(GOOD)), AGENT, action).rc == 0
    options = [word for pair in words(GOOD) for word in ("-o", pair)]
    ours = tried(cluster, "ocf-tester", "-n", "guard", *options, AGENT)
    theirs = tried(cluster, "ocf-tester", "-n", "ping", "-o", "host_list=127.0.0.1", "/usr/lib/ocf/resource.d/pacemaker/ping")
    assert complaints(ours) == ["Your agent produces meta-data which does not conform to ra-api-1.dtd"], ours
    assert "failed 1 tests" in ours.stderr, ours
    assert complaints(ours)[0] in complaints(theirs), theirs


def test_metadata_costs_less_than_that_of_ping(cluster: NsCluster) -> None:
    """Only a file is printed, by `cat`. In turns, so that a busy moment hits both; the least of each counts."""
    script = (
        'i=0; while [ $i -lt 21 ]; do for agent in "$@"; do s=$(date +%s%N); "$agent" meta-data >/dev/null; e=$(date +%s%N); '
        'echo "$agent $((e - s))"; done; i=$((i + 1)); done'
    )
    other = "/usr/lib/ocf/resource.d/pacemaker/ping"
    told = tried(cluster, "env", "OCF_ROOT=/usr/lib/ocf", "sh", "-c", script, "sh", AGENT, other).stdout
    times = {agent: sorted(int(line.split()[1]) for line in told.splitlines() if line.startswith(agent + " "))
             for agent in (AGENT, other)}  # fmt: skip
    ratio = times[AGENT][0] / times[other][0]
    print(f"meta-data: {times[AGENT][0] / 1e6:.1f} ms, ocf:pacemaker:ping {times[other][0] / 1e6:.1f} ms, ratio {ratio:.2f}")
    assert ratio < 0.5
