"""Three replicas (A10) on three real nodes in namespaces; meshd stands for a replication of three."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest

from tests.lab.api import LabError, wait_until
from tests.lab.ns import seed as seeds
from tests.lab.ns.lab import NsLab

pytestmark = [pytest.mark.ns, pytest.mark.req("A10")]
NODES = ("nodea", "nodeb", "nodec")
MESHD = Path(__file__).resolve().parents[1] / "lab" / "replication" / "meshd"
Pair = Tuple[str, str]
PROGRAM = "/usr/lib/lab-replication/meshd"


class Three:
    """A formed cluster of three with replica-guard on each; nodea is primary unless a test says otherwise."""

    def __init__(self, lab: NsLab) -> None:
        self.lab = lab
        self.acknowledged: List[int] = []
        self.addresses = {
            name: seeds.addresses(number, lab.links)["sync0"].split("/")[0] for number, name in enumerate(NODES, 1)
        }
        clean = "pkill -KILL -f '[m]eshd serve'; rm -f /var/lib/meshd.json; ip route flush type blackhole"
        for name in NODES:  # all of them first: one that is left from the test before would hand its data on
            lab.nodes[name].run(["sh", "-c", clean], check=False)
        for name in NODES:
            node = lab.nodes[name]
            node.put(PROGRAM, MESHD.read_text(), 0o755)
            node.put("/etc/meshd.json", json.dumps({"nodes": self.addresses}))
            node.run(["attrd_updater", "-n", "heartgate-r0", "-D"], check=False)
            node.spawn([PROGRAM, "serve", "r0"])
        self.wait_connected()
        priorities = "priorities=nodea:1 nodeb:2 nodec:3"
        lab.nodes["nodea"].run(
            ["pcs", "resource", "create", "guard", "ocf:heartgate:replica-guard", "device=r0", "driver=exec",
             f"exec_program={PROGRAM}", priorities, "clone"], timeout_s=60)  # fmt: skip
        self.wait(dict.fromkeys(NODES, "synced"))

    def meshd(self, node: str, *words: str, timeout_s: float = 10.0) -> Any:
        """Its answer; {} for one that says nothing, None where it refuses or does not run."""
        done = self.lab.nodes[node].run([PROGRAM, words[0], "r0", *words[1:]], check=False, timeout_s=timeout_s)
        return (json.loads(done.stdout) or {}) if done.rc == 0 else None

    def wait_connected(self) -> None:
        def whole() -> bool:
            told = [self.meshd(node, "status") for node in NODES]
            return all(t and all(p["link"] == "up" and p["disk"] == "uptodate" for p in t["peers"].values()) for t in told)

        wait_until("three to be connected", whole, timeout_s=60)

    def status(self, node: str) -> Dict[str, Any]:
        done = self.lab.nodes[node].run(["heartgate", "status", "r0", "--json", "--quick"], check=False, timeout_s=10)
        try:
            return dict(json.loads(done.stdout)["devices"][0])
        except (ValueError, KeyError, IndexError):
            return {}

    def standings(self) -> Dict[str, str]:
        return {node: str(self.status(node).get("standing", "")) for node in NODES}

    def wait(self, expected: Dict[str, str], timeout_s: float = 60.0) -> None:
        def all_told() -> bool:
            seen.update(self.standings())
            return seen == expected

        seen: Dict[str, str] = {}
        try:
            wait_until(f"standings {expected}", all_told, timeout_s=timeout_s)
        except LabError as error:
            raise LabError(f"{error}: they are {seen}\n{self.told()}") from None

    def told(self) -> str:
        """What each node says of itself, for the report of a test that failed."""
        asked = (["heartgate", "status"], ["crm_mon", "-1", "-n"], ["tail", "-n", "40", "/run/heartgate/heartgated.log"])
        lines = []
        for name in NODES:
            for words in asked:
                done = self.lab.nodes[name].run(words, check=False, timeout_s=10)
                lines.append(f"{name}# {' '.join(words)}\n{done.stdout}{done.stderr}")
        return "\n".join(lines)

    def write(self, node: str) -> bool:
        number = len(self.acknowledged) + 1
        done = self.lab.nodes[node].run([PROGRAM, "write", "r0", str(number), f"v{number}"], check=False, timeout_s=20)
        if done.rc == 0:
            self.acknowledged.append(number)
        return done.rc == 0

    def cut_pair(self, one: str, other: str, cut: bool = True) -> None:
        """Only what these two send to each other on the sync network is lost; both still reach the third."""
        for here, there in ((one, other), (other, one)):
            verb = "add" if cut else "del"
            self.lab.nodes[here].run(["ip", "route", verb, "blackhole", f"{self.addresses[there]}/32"])

    def judge(self) -> None:
        """Healed: everybody is synced, and every copy holds every acknowledged write."""
        self.wait(dict.fromkeys(NODES, "synced"), timeout_s=60)
        self.wait_connected()
        for node in NODES:
            held = self.meshd(node, "dump")
            lacking = [n for n in self.acknowledged if held.get(str(n)) != f"v{n}"]
            assert not lacking, f"{node} lacks acknowledged writes {lacking}"


@pytest.fixture(scope="module")
def lab() -> Iterator[NsLab]:
    with NsLab.start(NODES) as made:
        yield made


@pytest.fixture
def three(lab: NsLab, request: pytest.FixtureRequest) -> Iterator[Three]:
    lab.reset()
    made = Three(lab)
    yield made
    for node in NODES:
        if lab.nodes[node].powered():
            print(node, made.status(node).get("standing"), lab.nodes[node].run(["heartgate", "status"], check=False).stdout)


@pytest.mark.req("A10", "A3")
def test_one_is_cut_off_and_the_other_two_go_on(three: Three) -> None:
    assert three.meshd("nodea", "primary") is not None
    assert three.write("nodea")
    three.lab.cut("sync0", node="nodec")
    three.wait({"nodea": "solo", "nodeb": "solo", "nodec": "blocked"})
    for node in ("nodea", "nodeb"):
        status = three.status(node)
        assert status["in_sync"] == ["nodea", "nodeb"]
        assert [(p["node"], p["kind"]) for p in status["proofs"]] == [("nodec", "confirmed")]
    assert wait_until("a write of the two", lambda: three.write("nodea"), timeout_s=60)
    three.lab.mend("sync0")
    three.judge()
    assert not three.lab.fencings


@pytest.mark.parametrize("pair, winners", [(("nodea", "nodeb"), ("nodea", "nodec")), (("nodeb", "nodec"), ("nodea", "nodeb"))])
@pytest.mark.parametrize("primary", ["nodea", *(pytest.param(node, marks=pytest.mark.slow) for node in NODES[1:])])
@pytest.mark.req("A10", "D8")
def test_a_chain_keeps_a_clique(three: Three, pair: Pair, winners: Pair, primary: str) -> None:
    """Two lose each other, both still have the third: the keep set is a clique, and the third is part of the verdict."""
    assert three.meshd(primary, "primary") is not None
    assert three.write(primary)
    three.cut_pair(*pair)
    blocked = next(n for n in NODES if n not in winners)
    three.wait({n: "blocked" if n == blocked else "solo" for n in NODES})
    for node in winners:
        assert three.status(node)["in_sync"] == sorted(winners)
    server = primary if primary in winners else winners[0]
    if server != primary:
        wait_until("the blocked one to be released", lambda: three.meshd(primary, "status")["role"] == "secondary", timeout_s=60)
    since = time.monotonic()
    wait_until(f"{server} to write", lambda: three.meshd(server, "primary") is not None and three.write(server), timeout_s=60)
    assert not three.write(blocked), "who is left out must not serve"
    print(f"written after {time.monotonic() - since:.1f} s")
    three.cut_pair(*pair, cut=False)
    three.judge()
    assert not three.lab.fencings
