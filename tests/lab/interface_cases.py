"""Real kernel interfaces, each in network namespaces of its own, and what facts and rules must say of them.

Needs root, iproute2, heartgate and the standard library, so it also runs in a machine without pytest:

    python3 tests/lab/interface_cases.py [PART/PARTS [NAME]...]    prints a line of JSON for each case: {"case": NAME,
                                                    "result": "ok" or "missing: why" or "wrong: what", "seconds": N}
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from fnmatch import fnmatch
from itertools import groupby
from pathlib import Path
from typing import Any, Callable, Iterator, List, Mapping, NoReturn, Optional, Sequence, Tuple

LIBRARY = Path(__file__).resolve().parents[2] / "lib"
PYTHON = "/usr/bin/python3"
MAIN = "import sys; from heartgate.cli.main import main; sys.exit(main(sys.argv[1:]))"
MISSING = ("Unknown device type", "Operation not supported", "not supported", "RTNETLINK answers: Operation not permitted")
TEAM_MODE = str(Path(__file__).resolve().with_name("team_mode.py"))
PPP_OPTIONS = ("nodetach", "noauth", "local", "noipdefault", "nodefaultroute", "noipv6")


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

    def run(
        self, argv: Sequence[str], *, check: bool = True, timeout_s: float = 60.0, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(LIBRARY), "LC_ALL": "C"}
        done = subprocess.run(
            self.enter(argv), env=environment, capture_output=True, text=True, timeout=timeout_s, check=False, input=stdin
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{self.name}: {' '.join(argv)}: {done.returncode}: {done.stderr.strip()}")
        return done

    def ip(self, *lines: str) -> None:
        """All in one call: programs start slowly in an emulated machine."""
        done = self.run(["ip", "-batch", "-"], check=False, stdin="\n".join(lines) + "\n")
        if done.returncode != 0:
            missing = any(words in done.stderr for words in MISSING)
            said, _, number = done.stderr.strip().rpartition("Command failed -:")
            line = lines[int(number) - 1] if number.isdigit() else "-batch"
            raise (Missing if missing else RuntimeError)(f"ip {line}: {said.strip() or done.stderr.strip()}")

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
    """`setup`: lines for ip, run in nodea; p0 and p1 are cables to nodeb, whose process is {peer}; a line that starts with
    "nodeb " runs there. `after`: programs that run then; `stays`: one that has to stay while the case is looked at. `interface`:
    the heartbeat. `facts`: of it, and of others as "name.fact". `rules`: severities that have to be found for it; every other
    rule in `JUDGED` has to be silent. That the two ends are alone cannot be known of any of them."""

    name: str
    setup: Tuple[str, ...]
    interface: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    rules: Mapping[str, str] = field(default_factory=dict)
    programs: Tuple[str, ...] = ()
    after: Tuple[Tuple[str, ...], ...] = ()
    stays: Tuple[str, ...] = ()


JUDGED = ("vlan", "virtual-switch", "bond-mode", "bond-members", "real-adapter", "interface")


def _bonded(*options: str, members: Sequence[str] = ("p0", "p1")) -> Tuple[str, ...]:
    """bond0 with these members."""
    return (
        " ".join(("link add bond0 type bond", *options)),
        *(f"link set {name} down" for name in members),
        *(f"link set {name} master bond0" for name in members),
        *(f"link set {name} up" for name in members),
        "link set bond0 up",
    )


ACTIVE_BACKUP = "mode active-backup miimon 100"


def _bond(mode: str, severity: Optional[str]) -> Case:
    """Seven of them."""
    setup = _bonded(f"mode {mode} miimon 100")
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
    shown = kind if kind == "vlan" else f"{kind} {options}"
    return (
        Case(f"{shown} under it", setup, "over", {"kind": kind, "lower": ["p0"], "p0.upper": ["over"], **vlan}, {rule: "error"}),
        Case(f"{shown} on it", setup, "p0", {"kind": "veth", "upper": ["over"]}, {rule: "error", "real-adapter": "warning"}),
    )


def _team(mode: str) -> Case:
    """The kernel takes a team's mode only while it has no ports."""
    after = (
        (PYTHON, TEAM_MODE, "team0", mode),
        *(("ip", "link", "set", name, "master", "team0") for name in ("p0", "p1")),
        *(("ip", "link", "set", name, "up") for name in ("team0", "p0", "p1")),
    )
    facts = {"kind": "team", "lower": ["p0", "p1"], "p0.master": "team0", "p0.master_kind": "team", "p0.upper": ["team0"]}
    setup = ("link add team0 type team", "link set p0 down", "link set p1 down")
    return Case(f"team {mode}", setup, "team0", facts, {"virtual-switch": "error"}, after=after)


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
        _bonded("mode active-backup miimon 0", members=("p0",)),
        "bond0",
        {"bond.miimon_ms": 0, "bond.members": ["p0"]},
        {"bond-members": "warning"},
    ),
    Case("bond, its active member", _bonded(ACTIVE_BACKUP, "primary p1"), "bond0", {"bond.active": "p1"}),
    Case(
        "bond, a member's other end is off",
        (*_bonded(ACTIVE_BACKUP), "nodeb link set p1 down"),
        "bond0",
        {"p1.carrier": False, "bond.members": ["p0", "p1"], "carrier": True},
        {"bond-members": "warning"},
    ),
    Case(
        "bond, quick 802.3ad",
        _bonded("mode 802.3ad miimon 100 lacp_rate fast"),
        "bond0",
        {"bond.lacp_rate": "fast"},
        {"bond-mode": "warning"},
    ),
    Case(
        "bond, watched by ARP",
        _bonded("mode active-backup arp_interval 200 arp_ip_target 10.9.0.2"),
        "bond0",
        {"bond.miimon_ms": 0, "bond.arp_interval_ms": 200},
    ),
    *_over("vlan", "id 5", "vlan"),
    Case(
        "vlan on a bond",
        (*_bonded(ACTIVE_BACKUP), "link add link bond0 name over type vlan id 5", "link set over up"),
        "bond0",
        {"upper": ["over"], "over.vlan_id": 5},
        {"vlan": "error"},
    ),
    Case(
        "vlan on a bond's member",
        ("link add link p0 name over type vlan id 5", *_bonded(ACTIVE_BACKUP), "link set over up"),
        "bond0",
        {"p0.upper": ["over", "bond0"]},
        {"vlan": "error"},
    ),
    Case(
        "vlan under it, on a bond",
        (*_bonded(ACTIVE_BACKUP), "link add link bond0 name over type vlan id 5", "link set over up"),
        "over",
        {"lower": ["bond0"], "kind": "vlan"},
        {"vlan": "error"},
    ),
    Case(
        "bond of vlans",
        (
            "link add link p0 name v0 type vlan id 5",
            "link add link p1 name v1 type vlan id 5",
            *_bonded(ACTIVE_BACKUP, members=("v0", "v1")),
        ),
        "bond0",
        {"lower": ["v0", "v1"], "v0.lower": ["p0"], "v0.master": "bond0"},
        {"vlan": "error"},
    ),
    Case(
        "vlan in a vlan",
        (
            "link add link p0 name outer type vlan proto 802.1ad id 7",
            "link add link outer name over type vlan id 5",
            "link set outer up",
            "link set over up",
        ),
        "over",
        {"lower": ["outer"], "outer.vlan_id": 7, "vlan_id": 5},
        {"vlan": "error"},
    ),
    Case(
        "vlan, its adapter is elsewhere",
        ("link add link p0 name over type vlan id 5", "link set over up", "link set p0 netns {peer} name away"),
        "over",
        {"kind": "vlan", "lower": []},
        {"vlan": "error", "virtual-switch": "unknown"},
    ),
    *_over("macvlan", "mode bridge", "virtual-switch"),
    *_over("macvlan", "mode private", "virtual-switch"),
    *_over("macvlan", "mode vepa", "virtual-switch"),
    *_over("macvlan", "mode passthru", "virtual-switch"),
    *_over("macvtap", "mode bridge", "virtual-switch"),
    *_over("macvtap", "mode passthru", "virtual-switch"),
    *_over("ipvlan", "mode l2", "virtual-switch"),
    *_over("ipvlan", "mode l3", "virtual-switch"),
    *_over("ipvtap", "mode l2", "virtual-switch"),
    Case(
        "macvlan on a bond",
        (*_bonded(ACTIVE_BACKUP), "link add link bond0 name over type macvlan mode bridge", "link set over up"),
        "bond0",
        {"upper": ["over"]},
        {"virtual-switch": "error"},
    ),
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
        "bridge over a bond",
        (*_bonded(ACTIVE_BACKUP), "link add br0 type bridge", "link set bond0 master br0", "link set br0 up"),
        "bond0",
        {"master": "br0", "master_kind": "bridge", "upper": ["br0"], "lower": ["p0", "p1"]},
        {"virtual-switch": "error"},
    ),
    Case(
        "vlan on a bridge over a bond",
        (
            *_bonded(ACTIVE_BACKUP),
            "link add br0 type bridge vlan_filtering 1",
            "link set bond0 master br0",
            "link set br0 up",
            "link add link br0 name over type vlan id 5",
            "link set over up",
        ),
        "over",
        {"lower": ["br0"], "br0.lower": ["bond0"]},
        {"vlan": "error", "virtual-switch": "error"},
    ),
    *(_team(mode) for mode in ("broadcast", "roundrobin", "random", "activebackup", "loadbalance")),
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
    Case(
        "Open vSwitch itself",
        (),
        "hgtest",
        {"kind": "openvswitch", "lower": ["p0"]},
        {"virtual-switch": "error"},
        ("ovs-dpctl",),
        (("ovs-dpctl", "add-dp", "hgtest", "p0"), ("ip", "link", "set", "hgtest", "up")),
    ),
    Case(
        "ppp over a program",
        (),
        "ppp0",
        {
            "kind": "ppp",
            "lower": [],
            "mac": None,
            "carrier": True,
            "addresses.0.ip": "10.9.0.1",
            "addresses.0.prefix": 32,
            "addresses.0.dynamic": False,
            "mtu": 1500,
            "driver": "ppp",
            "bus": "pts/*",
        },
        {},
        ("pppd",),
        (),
        ("pppd", *PPP_OPTIONS, "10.9.0.1:10.9.0.2", "pty", f"nsenter -t {{peer}} --net pppd notty {' '.join(PPP_OPTIONS)}"),
    ),
    Case("dummy", ("link add over type dummy", "link set over up"), "over", {"kind": "dummy"}, {"real-adapter": "error"}),
    Case(
        "tunnel",
        ("link add over type vxlan id 7 dev p0 dstport 4789", "link set over up"),
        "over",
        {"kind": "vxlan", "lower": ["p0"]},
        {"real-adapter": "error"},
    ),
    Case("tun", ("tuntap add over mode tun", "link set over up"), "over", {"kind": "tun"}, {"real-adapter": "error"}),
    Case("tap", ("tuntap add over mode tap", "link set over up"), "over", {"kind": "tun"}, {"real-adapter": "error"}),
    Case(
        "gretap",
        ("link add over type gretap remote 10.9.0.2 local 10.9.0.1 dev p0", "link set over up"),
        "over",
        {"kind": "gretap", "lower": ["p0"]},
        {"real-adapter": "error"},
    ),
    Case("wireguard", ("link add over type wireguard", "link set over up"), "over", {}, {"real-adapter": "error"}),
    Case(
        "macsec",
        ("link add link p0 name over type macsec", "link set over up"),
        "over",
        {"kind": "macsec", "lower": ["p0"]},
        {"real-adapter": "error"},
    ),
    Case(
        "hsr",
        ("link add over type hsr slave1 p0 slave2 p1", "link set over up"),
        "over",
        {"kind": "hsr", "lower": ["p0", "p1"]},
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


Heartgate = Callable[[Space, Sequence[str]], "subprocess.CompletedProcess[str]"]


def run_case(case: Case, heartgate: Heartgate = lambda space, words: space.heartgate(*words)) -> None:
    """Raises Missing, or AssertionError with what differs."""
    for program in case.programs:
        if shutil.which(program) is None:
            raise Missing(f"there is no {program} here")
    with spaces("nodea", "nodeb") as (one, two):
        cable(one, "p0", two)
        cable(one, "p1", two)
        one.run(["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"])
        for there, lines in groupby(case.setup, key=lambda line: line.startswith("nodeb ")):
            (two if there else one).ip(*(line.replace("nodeb ", "", 1).format(peer=two.pid) for line in lines))
        for argv in case.after:
            done = one.run(argv, check=False)
            if done.returncode != 0:
                raise Missing(f"{' '.join(argv)}: {done.stderr.strip()}")
        with _staying(case, one, two):
            told = heartgate(one, ["facts"])
            assert told.returncode == 0, told.stderr
            _compare_facts(case, json.loads(told.stdout)["facts"])
            checked = heartgate(one, ["check", "--listen", "0", "--json", "--heartbeat", case.interface])
            assert checked.returncode in (0, 1, 2, 3) and not checked.stderr, checked.stderr
            _compare_rules(case, json.loads(checked.stdout)["findings"])


@contextlib.contextmanager
def _staying(case: Case, one: Space, two: Space) -> Iterator[None]:
    """With the case's program running and its interface there, with an address."""
    if not case.stays:
        yield
        return
    argv = [word.format(peer=two.pid) for word in case.stays]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(one.enter(argv), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + 40
            while " inet " not in one.run(["ip", "-o", "addr", "show", "dev", case.interface], check=False).stdout:
                if process.poll() is not None or time.monotonic() > deadline:
                    output.seek(0)
                    raise Missing(f"{' '.join(argv)}: {process.returncode}: {output.read().strip()}")
                time.sleep(0.1)
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


def _compare_facts(case: Case, facts: Mapping[str, Any]) -> None:
    found = {item["name"]: item for item in facts["interfaces"]}
    found.update({other: item for item in facts["interfaces"] for other in item["altnames"]})
    for name, wanted in case.facts.items():
        head, _, rest = name.partition(".")
        value: Any = found[head] if head in found and rest else found[case.interface]
        for part in (rest if head in found and rest else name).split("."):
            value = value[int(part) if isinstance(value, list) else part]
        same = fnmatch(str(value), wanted) if isinstance(wanted, str) and wanted.endswith("*") else value == wanted
        assert same, f"{name} is {value!r}, expected {wanted!r}"


def _compare_rules(case: Case, findings: Sequence[Mapping[str, Any]]) -> None:
    found = {each["rule"]: each["severity"] for each in findings if each["rule"] in JUDGED}
    assert found == dict(case.rules), f"found {found}, expected {dict(case.rules)}: {findings}"
    direct = [each["severity"] for each in findings if each["rule"] == "direct"]
    assert direct == ["unknown"], f"direct: {direct}: {findings}"


# --- as a program


def forked(space: Space, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """What the command does, in a child that moved into the namespaces: a Python of its own with all imports takes an
    emulated machine seconds, twice a case."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        pid = os.fork()
        if pid == 0:
            _in_child(space, words, output.fileno(), errors.fileno())
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(list(words), status, output.read(), errors.read())


def _in_child(space: Space, words: Sequence[str], output: int, errors: int) -> NoReturn:
    code = 70
    try:
        signal.alarm(60)
        os.dup2(output, 1)
        os.dup2(errors, 2)
        libc = ctypes.CDLL(None, use_errno=True)
        for handle in [os.open(f"/proc/{space.pid}/ns/{kind}", os.O_RDONLY) for kind in ("net", "uts", "mnt")]:
            if libc.setns(handle, 0) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        code = _main()(list(words))
        sys.stdout.flush()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException as error:
        os.write(2, repr(error).encode())
    finally:
        os._exit(code)


def _main() -> Callable[[List[str]], int]:
    if str(LIBRARY) not in sys.path:
        sys.path.insert(0, str(LIBRARY))
    from heartgate.cli.main import main as heartgate_main

    return heartgate_main


def result_of(case: Case) -> str:
    try:
        run_case(case, forked)
    except Missing as error:
        return f"missing: {error}"
    except Exception as error:
        return f"wrong: {error!r}"
    return "ok"


def main(words: Sequence[str]) -> int:
    part, parts = map(int, (words[0] if words else "0/1").split("/"))
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        for command in (["facts"], ["check", "--listen", "0", "--json", "--heartbeat", "lo"]):
            _main()(command)  # so that the children have the imports
    wrong = 0
    wanted = [case for case in CASES if case.name in words[1:] or not words[1:]]
    for case in wanted[part::parts]:
        started = time.monotonic()
        result = result_of(case)
        wrong += result.startswith("wrong")
        line = {"case": case.name, "result": result, "seconds": round(time.monotonic() - started, 2)}
        print(json.dumps(line), flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
