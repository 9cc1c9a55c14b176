"""Real kernel interfaces, each in network namespaces of its own, and what facts and rules must say of them.

Needs root, iproute2, heartgate and the standard library, so it also runs in a machine without pytest:

    PYTHONPATH=lib python3 tests/lab/interface_cases.py      prints a JSON object: case -> "ok", "skip: why" or "wrong: what"
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

LIBRARY = Path(__file__).resolve().parents[2] / "lib"
PYTHON = "/usr/bin/python3"
MAIN = "import sys; from heartgate.cli.main import main; sys.exit(main(sys.argv[1:]))"
MISSING = ("Unknown device type", "Operation not supported", "not supported", "RTNETLINK answers: Operation not permitted")


class Missing(Exception):
    """The kernel, or this machine, does not have what the case is about."""


class Space:
    """Namespaces for network, host name and mounts, kept by one process that ends with this one."""

    def __init__(self, name: str) -> None:
        self.name = name
        script = f"hostname {name} && ip link set lo up && echo ready && exec sleep 600"
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--uts", "--mount", "sh", "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout and self._process.stderr
        if self._process.stdout.readline() != "ready\n":
            raise Missing(f"no namespaces here: {self._process.stderr.read().strip()}")

    @property
    def pid(self) -> int:
        return self._process.pid

    def enter(self, argv: Sequence[str]) -> List[str]:
        return ["nsenter", "-t", str(self.pid), "--net", "--uts", "--mount", "--", *argv]

    def run(self, argv: Sequence[str], *, check: bool = True, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(LIBRARY), "LC_ALL": "C"}
        done = subprocess.run(self.enter(argv), env=environment, capture_output=True, text=True, timeout=timeout_s, check=False)
        if check and done.returncode != 0:
            raise RuntimeError(f"{self.name}: {' '.join(argv)}: {done.returncode}: {done.stderr.strip()}")
        return done

    def ip(self, *lines: str) -> None:
        for line in lines:
            done = self.run(["ip", *line.split()], check=False)
            if done.returncode != 0:
                missing = any(words in done.stderr for words in MISSING)
                raise (Missing if missing else RuntimeError)(f"ip {line}: {done.stderr.strip()}")

    def heartgate(self, *words: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        return self.run([PYTHON, "-c", MAIN, *words], check=False, timeout_s=timeout_s)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)


@contextlib.contextmanager
def spaces(*names: str) -> Iterator[List[Space]]:
    with contextlib.ExitStack() as stack:
        made = []
        for name in names:
            made.append(Space(name))
            stack.callback(made[-1].close)
        yield made


def cable(one: Space, name: str, other: Space, other_name: str = "") -> None:
    """A veth from one namespace to another, switched on at both ends."""
    other_name = other_name or name
    one.ip(f"link add {name} type veth peer name {other_name} netns {other.pid}", f"link set {name} up")
    other.ip(f"link set {other_name} up")


@dataclass(frozen=True)
class Case:
    """`setup`: lines for ip, run in nodea; p0 and p1 are cables to nodeb. `interface`: the heartbeat. `facts`: of it, and of
    others as "name.fact". `rules`: severities that have to be found for it; every other rule in `JUDGED` has to be silent."""

    name: str
    setup: Tuple[str, ...]
    interface: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    rules: Mapping[str, str] = field(default_factory=dict)
    programs: Tuple[str, ...] = ()
    after: Tuple[Tuple[str, ...], ...] = ()


JUDGED = ("vlan", "virtual-switch", "bond-mode", "bond-members", "real-adapter", "interface")


def _bond(mode: str, severity: Optional[str]) -> Case:
    """Seven of them."""
    setup = (
        f"link add bond0 type bond mode {mode} miimon 100",
        "link set p0 down",
        "link set p1 down",
        "link set p0 master bond0",
        "link set p1 master bond0",
        "link set p0 up",
        "link set p1 up",
        "link set bond0 up",
    )
    facts = {
        "kind": "bond",
        "lower": ["p0", "p1"],
        "bond.mode": mode,
        "bond.members": ["p0", "p1"],
        "bond.miimon_ms": 100,
        "p0.master": "bond0",
        "p0.master_kind": "bond",
        "p0.upper": ["bond0"],
    }
    return Case(f"bond {mode}", setup, "bond0", facts, {"bond-mode": severity} if severity else {})


def _over(kind: str, options: str, rule: str) -> Tuple[Case, Case]:
    """An interface of this kind as the heartbeat, and one on top of the heartbeat."""
    setup = (f"link add link p0 name over type {kind} {options}".strip(), "link set over up")
    vlan = {"vlan_id": 5} if kind == "vlan" else {}
    return (
        Case(f"{kind} under it", setup, "over", {"kind": kind, "lower": ["p0"], "p0.upper": ["over"], **vlan}, {rule: "error"}),
        Case(f"{kind} on it", setup, "p0", {"kind": "veth", "upper": ["over"]}, {rule: "error", "real-adapter": "warning"}),
    )


CASES: Tuple[Case, ...] = (
    _bond("active-backup", None),
    _bond("balance-rr", "warning"),
    _bond("balance-xor", "warning"),
    _bond("broadcast", "warning"),
    _bond("802.3ad", "warning"),
    _bond("balance-tlb", "error"),
    _bond("balance-alb", "error"),
    Case(
        "bond with one member",
        (
            "link add bond0 type bond mode active-backup miimon 0",
            "link set p0 down",
            "link set p0 master bond0",
            "link set p0 up",
            "link set bond0 up",
        ),
        "bond0",
        {"bond.miimon_ms": 0, "bond.members": ["p0"]},
        {"bond-members": "warning"},
    ),
    *_over("vlan", "id 5", "vlan"),
    *_over("macvlan", "mode bridge", "virtual-switch"),
    *_over("macvtap", "mode bridge", "virtual-switch"),
    *_over("ipvlan", "mode l2", "virtual-switch"),
    *_over("ipvtap", "mode l2", "virtual-switch"),
    Case(
        "veth",
        (),
        "p0",
        {
            "kind": "veth",
            "lower": [],
            "driver": "veth",
            "carrier": True,
            "speed_mbit": 10000,
            "duplex": "full",
            "mtu": 1500,
            "bus": None,
            "permanent_mac": None,
        },
        {"real-adapter": "warning"},
    ),
    Case(
        "veth, switched off",
        ("link set p0 down",),
        "p0",
        {"carrier": False, "speed_mbit": None, "operstate": "down"},
        {"real-adapter": "warning"},
    ),
    Case(
        "other names",
        ("link property add dev p0 altname quite-another-and-longer-name",),
        "quite-another-and-longer-name",
        {"altnames": ["quite-another-and-longer-name"]},
        {"real-adapter": "warning"},
    ),
    Case(
        "bridge port",
        ("link add br0 type bridge", "link set p0 master br0", "link set br0 up"),
        "p0",
        {"master": "br0", "master_kind": "bridge", "upper": ["br0"]},
        {"virtual-switch": "error", "real-adapter": "warning"},
    ),
    Case(
        "bridge itself",
        ("link add br0 type bridge", "link set p0 master br0", "link set br0 up"),
        "br0",
        {"kind": "bridge", "lower": ["p0"]},
        {"virtual-switch": "error"},
    ),
    Case(
        "team port",
        ("link add team0 type team", "link set p0 down", "link set p0 master team0"),
        "p0",
        {"master_kind": "team"},
        {"virtual-switch": "error", "real-adapter": "warning"},
    ),
    Case(
        "Open vSwitch port",
        (),
        "p0",
        {"master_kind": "openvswitch"},
        {"virtual-switch": "error", "real-adapter": "warning"},
        ("ovs-dpctl",),
        (("ovs-dpctl", "add-dp", "hgtest", "p0"),),
    ),
    Case("dummy", ("link add over type dummy", "link set over up"), "over", {"kind": "dummy"}, {"real-adapter": "error"}),
    Case(
        "tunnel",
        ("link add over type vxlan id 7 dev p0 dstport 4789", "link set over up"),
        "over",
        {"kind": "vxlan", "lower": ["p0"]},
        {"real-adapter": "error"},
    ),
    Case("loopback", (), "lo", {"kind": "loopback", "mac": None}, {"real-adapter": "error"}),
    Case(
        "static and dynamic addresses",
        ("addr add 10.9.0.1/24 dev p0", "addr add 10.9.0.3/24 dev p0 valid_lft 900 preferred_lft 900"),
        "p0",
        {"addresses.0.dynamic": False, "addresses.0.ip": "10.9.0.1", "addresses.1.dynamic": True, "addresses.0.prefix": 24},
        {"real-adapter": "warning"},
    ),
    Case(
        "a neighbour",
        ("neigh add 10.9.0.2 lladdr 02:00:00:00:00:22 dev p0",),
        "p0",
        {"neighbours.0.ip": "10.9.0.2", "neighbours.0.mac": "02:00:00:00:00:22", "neighbours.0.state": "permanent"},
        {"real-adapter": "warning"},
    ),
)


def run_case(case: Case) -> None:
    """Raises Missing, or AssertionError with what differs."""
    for program in case.programs:
        if shutil.which(program) is None:
            raise Missing(f"there is no {program} here")
    with spaces("nodea", "nodeb") as (one, two):
        cable(one, "p0", two)
        cable(one, "p1", two)
        one.run(["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"])
        one.ip(*case.setup)
        for argv in case.after:
            done = one.run(argv, check=False)
            if done.returncode != 0:
                raise Missing(f"{' '.join(argv)}: {done.stderr.strip()}")
        told = one.heartgate("facts")
        assert told.returncode == 0, told.stderr
        _compare_facts(case, json.loads(told.stdout)["facts"])
        checked = one.heartgate("check", "--listen", "0", "--json", "--heartbeat", case.interface)
        assert checked.returncode in (0, 1, 2, 3) and not checked.stderr, checked.stderr
        _compare_rules(case, json.loads(checked.stdout)["findings"])


def _compare_facts(case: Case, facts: Mapping[str, Any]) -> None:
    found = {item["name"]: item for item in facts["interfaces"]}
    found.update({other: item for item in facts["interfaces"] for other in item["altnames"]})
    for name, wanted in case.facts.items():
        head, _, rest = name.partition(".")
        value: Any = found[head] if head in found and rest else found[case.interface]
        for part in (rest if head in found and rest else name).split("."):
            value = value[int(part) if isinstance(value, list) else part]
        assert value == wanted, f"{name} is {value!r}, expected {wanted!r}"


def _compare_rules(case: Case, findings: Sequence[Mapping[str, Any]]) -> None:
    found = {each["rule"]: each["severity"] for each in findings if each["rule"] in JUDGED}
    assert found == dict(case.rules), f"found {found}, expected {dict(case.rules)}: {findings}"


def main() -> int:
    results: Dict[str, str] = {}
    for case in CASES:
        try:
            run_case(case)
            results[case.name] = "ok"
        except Missing as error:
            results[case.name] = f"skip: {error}"
        except Exception as error:
            results[case.name] = f"wrong: {error!r}"
    print(json.dumps(results, indent=1))
    return 1 if any(each.startswith("wrong") for each in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
