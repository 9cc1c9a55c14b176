"""`NsLab`: a real Corosync and Pacemaker cluster in namespaces of this machine, up in about three seconds.

    with NsLab.start() as lab:
        lab.nodes["nodea"].run(["crm_mon", "-1"])
        lab.cut("hb0")

Needs root, and the Debian packages corosync and pacemaker. See supervisor.py for who owns what.
"""

from __future__ import annotations

import atexit
import json
import secrets
import socket
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from tests.lab.api import CommandError, LabError, Result, wait_until
from tests.lab.ns import seed as seeds

LINKS = ("hb0", "hb1", "sync0", "client0")
PYTHON = "/usr/bin/python3"
DEFAULT_INSTALL: Tuple[Callable[[seeds.Seed], None], ...] = (seeds.install_heartgate, seeds.install_replication)


@dataclass(frozen=True)
class Fencing:
    """One power action that a node asked for. Times are of time.monotonic()."""

    node: str
    action: str
    by: str
    at_s: float
    done_s: Optional[float]
    ok: bool


@dataclass(frozen=True)
class Record:
    """An acknowledged write, as reported by the writer on `node`. The time is of time.monotonic()."""

    node: str
    resource: str
    number: int
    value: str
    at_s: float


class Supervisor:
    """The control socket: one request, one answer."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [PYTHON, "-B", "-m", "tests.lab.ns.supervisor", str(theirs.fileno())], cwd=seeds.CHECKOUT,
                stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True)
        self.socket = ours
        self.stream = ours.makefile("r", encoding="utf-8")
        self.lock = threading.Lock()
        self._send(config)
        self._answer("start")

    def request(self, operation: str, **arguments: Any) -> Any:
        with self.lock:
            self._send({"op": operation, **arguments})
            return self._answer(operation)

    def _send(self, value: Mapping[str, Any]) -> None:
        try:
            self.socket.sendall(json.dumps(value).encode() + b"\n")
        except OSError as error:
            raise LabError(f"the lab's supervisor is gone: {error}") from error

    def _answer(self, operation: str) -> Any:
        line = self.stream.readline()
        if not line:
            raise LabError(f"the lab's supervisor ended at {operation!r} (exit {self.process.poll()}); see its stderr")
        answer = json.loads(line)
        if not answer["ok"]:
            raise LabError(answer["error"])
        return answer.get("value")

    def close(self) -> None:
        self.stream.close()
        self.socket.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)


class NsNode:
    def __init__(self, name: str, supervisor: Supervisor) -> None:
        self.name = name
        self.was_frozen = False  # since its disk was new; see `NsLab.reset`
        self._supervisor = supervisor
        self._running: Set[subprocess.Popen[str]] = set()

    def _state(self) -> Tuple[int, bool]:
        state = self._supervisor.request("state", node=self.name)
        return int(state["pid"]), bool(state["frozen"])

    def _pid_when_awake(self, timeout_s: float) -> Optional[int]:
        """Process id of the node's process 1 as the host sees it; None if it stays frozen all the time."""
        deadline = time.monotonic() + timeout_s
        while True:
            pid, frozen = self._state()
            if not pid:
                raise LabError(f"{self.name} is powered off")
            if not frozen:
                return pid
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.02)

    def command(self, pid: int, argv: Sequence[str], timeout_s: float, env: Mapping[str, str]) -> List[str]:
        enter = ["nsenter", "-t", str(pid), "-m", "-u", "-i", "-n", "-p", "--wdns=/root", "--", "env", "-i"]
        return [*enter, *seeds.environment(self.name, env), "timeout", "-k", "1", f"{timeout_s:.3f}", *argv]

    def run(self, argv: Sequence[str], *, timeout_s: float = 30.0, stdin: str = "", check: bool = True,
            env: Optional[Mapping[str, str]] = None) -> Result:
        started = time.monotonic()
        pid = self._pid_when_awake(timeout_s)
        if pid is None:
            result = Result(124, "", "the node is frozen", time.monotonic() - started)
        else:
            result = self._run(self.command(pid, argv, timeout_s, env or {}), timeout_s, stdin, started)
        if result.rc != 0 and result.stderr.startswith("nsenter: "):
            raise LabError(f"{self.name} lost its power: {result.stderr.strip()}")
        if check and result.rc != 0:
            raise CommandError(f"{self.name}: {list(argv)} ended with {result.rc} after {result.elapsed_s:.2f} s\n"
                               f"stdout: {result.stdout}\nstderr: {result.stderr}")
        return result

    def _run(self, command: Sequence[str], timeout_s: float, stdin: str, started: float) -> Result:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True, errors="replace")
        self._running.add(process)
        try:
            stdout, stderr = process.communicate(stdin, timeout=timeout_s + 2.0)
            code = process.returncode
        except subprocess.TimeoutExpired as expired:
            process.kill()
            stdout, stderr, code = _text(expired.stdout), _text(expired.stderr), 124
            for stream in (process.stdout, process.stderr, process.stdin):
                if stream is not None:
                    stream.close()
            process.wait()
        finally:
            self._running.discard(process)
        return Result(code, stdout, stderr, time.monotonic() - started)

    def spawn(self, argv: Sequence[str]) -> None:
        """Start argv on the node in the background, without input and output; it ends with the node's power."""
        self.run(["setsid", "-f", "sh", "-c", 'exec "$@" </dev/null >/dev/null 2>&1', "sh", *argv])

    def put(self, path: str, content: str, mode: int = 0o644) -> None:
        script = 'mkdir -p "$1" && cat >"$2.part" && chmod "$3" "$2.part" && mv "$2.part" "$2"'
        self.run(["sh", "-c", script, "sh", str(PurePosixPath(path).parent), path, f"{mode:o}"], stdin=content)

    def powered(self) -> bool:
        return self._state()[0] != 0

    def frozen(self) -> bool:
        return self._state()[1]

    def power_off(self) -> None:
        self._supervisor.request("power_off", node=self.name)

    def power_on(self) -> None:
        self._supervisor.request("power_on", node=self.name)

    def reset(self) -> None:
        """A power cycle: off, and on again at once. Files stay, /run, /dev/shm and the boot id are new."""
        self.power_off()
        self.power_on()

    def freeze(self) -> None:
        self.was_frozen = True
        self._supervisor.request("freeze", node=self.name)

    def thaw(self) -> None:
        self._supervisor.request("thaw", node=self.name)
        for process in list(self._running):  # nsenter stops itself with the process it waits for
            process.send_signal(18)

    def boot_id(self) -> str:
        return self.run(["cat", "/proc/sys/kernel/random/boot_id"]).stdout.strip()


def _text(output: Any) -> str:
    return output.decode("utf-8", "replace") if isinstance(output, bytes) else output or ""


class NsLab:
    """Build it with `start`."""

    def __init__(self, nodes: Sequence[str], links: Sequence[str], supervisor: Supervisor, base: str) -> None:
        self.links: Sequence[str] = tuple(links)
        self.ns_nodes: Dict[str, NsNode] = {name: NsNode(name, supervisor) for name in nodes}
        self.bring_up_s = 0.0
        self._supervisor = supervisor
        self._base_configuration = base
        self._down = False
        atexit.register(self.down)

    @property
    def nodes(self) -> Mapping[str, NsNode]:
        return self.ns_nodes

    @classmethod
    def start(cls, nodes: Sequence[str] = ("nodea", "nodeb"), *, links: Sequence[str] = LINKS,
              rings: Sequence[str] = ("hb0", "hb1"), stonith: bool = True, timers: str = "fast",
              cable: Optional[bool] = None, boot_delay_s: float = 0.5, cluster: bool = True,
              install: Sequence[Callable[[seeds.Seed], None]] = DEFAULT_INSTALL, wait_s: float = 60.0) -> NsLab:
        """Start a lab and wait until every node sees every node online.

        `rings`: the links that Corosync uses. `timers`: "fast" or "stock". `cable`: links are direct cables, so a node
        without power takes the others' carrier (default with two nodes); otherwise there is a switch between them.
        `boot_delay_s`: from a reset to the boot. `cluster=False`: do not start Corosync and Pacemaker.
        `install`: functions that add files to each node's seed (default: this checkout's heartgate, and the replica).
        """
        started = time.monotonic()
        conf = seeds.corosync_conf(nodes, links, rings, timers)
        cib, authkey = seeds.cib(nodes, stonith), secrets.token_bytes(256)
        entries: Dict[str, Any] = {}
        for number, name in enumerate(nodes, 1):
            seed = seeds.cluster_seed(name, nodes, links, conf, cib, authkey)
            for function in install:
                function(seed)
            own = [entry for entry in seed.entries if cluster or not entry["path"].endswith("boot.d/50-cluster")]
            entries[name] = {"addresses": seeds.addresses(number, links), "visible": [str(seeds.CHECKOUT)], "seed": own}
        supervisor = Supervisor({"nodes": entries, "links": list(links), "boot_delay_s": boot_delay_s,
                                 "cable": len(nodes) == 2 if cable is None else cable})
        lab = cls(nodes, links, supervisor, seeds.configuration(nodes, stonith))
        try:
            for node in lab.ns_nodes.values():
                node.power_on()
            if cluster:
                lab.wait_online(timeout_s=wait_s)
        except BaseException:
            lab.down()
            raise
        lab.bring_up_s = time.monotonic() - started
        return lab

    def __enter__(self) -> NsLab:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    # --- links ---

    def cut(self, link: str, *, node: Optional[str] = None, direction: Optional[str] = None) -> None:
        self._supervisor.request("cut", link=link, node=node, direction=direction)

    def mend(self, link: str) -> None:
        self._supervisor.request("mend", link=link)

    # --- fencing ---

    def fencing(self, mode: str, *, by: Optional[str] = None, delay_s: float = 0.0) -> None:
        """How the power controller answers node `by` (None: all): "ok", "unreachable", "failing", "slow" (delay_s)."""
        if mode not in ("ok", "unreachable", "failing", "slow"):
            raise LabError(f'unknown fencing mode {mode!r}: use "ok", "unreachable", "failing" or "slow"')
        self._supervisor.request("fencing", mode=mode, by=by, delay_s=delay_s)

    @property
    def fencings(self) -> List[Fencing]:
        """Every off, on and reboot that was asked for since start or reset, in order."""
        return [Fencing(entry["node"], entry["action"], entry["by"], entry["at"], entry.get("done"), entry["ok"])
                for entry in self._supervisor.request("fencings")]

    # --- acknowledged writes ---

    @property
    def records(self) -> List[Record]:
        """Every acknowledged write that writers reported since start or reset."""
        return [Record(*entry) for entry in self._supervisor.request("records")]

    # --- the cluster ---

    def online(self, seen_by: str) -> Set[str]:
        """Nodes that are online as this node's Pacemaker sees it; empty without a DC."""
        try:
            answer = self.ns_nodes[seen_by].run(["crm_mon", "-1", "--output-as=xml"], check=False, timeout_s=5)
            tree = ElementTree.fromstring(answer.stdout)
        except (ElementTree.ParseError, LabError):  # Pacemaker, or the node, is not up yet
            return set()
        current = tree.find("summary/current_dc")
        if answer.rc != 0 or current is None or current.get("present") != "true":
            return set()
        return {str(node.get("name")) for node in tree.findall("nodes/node")
                if node.get("online") == "true" and node.get("pending") == "false" and node.get("unclean") == "false"}

    def wait_online(self, names: Optional[Sequence[str]] = None, *, timeout_s: float = 60.0) -> None:
        """Until all of `names` (default: all nodes) are online as seen by each of them."""
        wanted = set(names or self.ns_nodes)
        for name in sorted(wanted):
            wait_until(f"{sorted(wanted)} to be online as seen by {name}",
                       lambda name=name: wanted <= self.online(name),  # type: ignore[misc]
                       timeout_s=timeout_s, interval_s=0.05)

    def wait_idle(self, *, timeout_s: float = 60.0) -> None:
        """Until the DC has nothing to do."""
        node = next(node for node in self.ns_nodes.values() if node.powered() and not node.frozen())

        def idle() -> bool:
            found = node.run(["crmadmin", "-q", "-D"], check=False, timeout_s=5)
            name = found.stdout.strip().split(" ")[-1]
            if name not in self.ns_nodes:
                return False
            return "S_IDLE" in node.run(["crmadmin", "-S", name], check=False, timeout_s=5).stdout
        wait_until("the DC to be idle", idle, timeout_s=timeout_s, interval_s=0.03)

    # --- between tests ---

    def reset(self, *, timeout_s: float = 60.0) -> None:
        """As after start: links whole, no resources of tests, no heartgate state. Fast if it can be, else new disks."""
        for link in self.links:
            self.mend(link)
        self.fencing("ok")
        try:
            self._clean()
        except LabError as error:
            print(f"lab reset: starting the nodes anew, because {str(error).splitlines()[0]}", file=sys.stderr)
            for node in self.ns_nodes.values():
                self._supervisor.request("wipe", node=node.name)
                node.was_frozen = False
            for node in self.ns_nodes.values():
                node.power_on()
            self.wait_online(timeout_s=timeout_s)
        self._supervisor.request("forget")

    def _clean(self) -> None:
        nodes = list(self.ns_nodes.values())
        for node in nodes:
            if not node.powered():
                raise LabError(f"{node.name} is off")
            if node.was_frozen:
                raise LabError(f"{node.name} was frozen: its peers may still be about to fence it")
        self.wait_online(timeout_s=3.0)
        first = nodes[0]
        for node in nodes:
            node.run(["lab-clean"], timeout_s=5)
        first.run(["cibadmin", "--replace", "--scope", "configuration", "--xml-pipe"], stdin=self._base_configuration,
                  timeout_s=5)
        for path in ("transient_attributes", "lrm_rsc_op[@rc-code!='0'][@rc-code!='7']"):
            first.run(["cibadmin", "--delete-all", "--force", "--xpath", f"//node_state//{path}"], check=False,
                      timeout_s=5)
        self.wait_idle(timeout_s=5.0)
        leftover = self._resources(first)
        if leftover:
            raise LabError(f"resources are left: {', '.join(leftover)}")
        refused = [each for each in self.fencings if not each.ok]
        if refused:  # Pacemaker asks again as soon as it works, in the middle of the next test
            raise LabError(f"a fencing of {refused[0].node} was asked for and did not succeed")
        for node in nodes:
            node.run(["lab-clean"], timeout_s=5)
        first.run(["stonith_admin", "--cleanup", "--history", "*"], check=False, timeout_s=5)

    def _resources(self, node: NsNode) -> List[str]:
        tree = ElementTree.fromstring(node.run(["crm_mon", "-1", "--output-as=xml"], timeout_s=5).stdout)
        return [str(entry.get("id")) for entry in tree.iter("resource") if entry.get("id") != "power"]

    def down(self) -> None:
        if self._down:
            return
        self._down = True
        atexit.unregister(self.down)
        self._supervisor.close()
