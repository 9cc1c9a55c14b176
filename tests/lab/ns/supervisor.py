"""The process that owns a namespace lab: power controller, wires and switch of its nodes.

It lives in mount and net namespaces of its own, so everything it makes is gone with it: its net namespace is the switch
(a bridge for each link), its mount namespace holds the tmpfs with the nodes' files. Nodes get SIGKILL when it dies, and
it ends when the test process closes its side of the control socket, however that came to be.

One thread, one loop: requests of the test process, requests of the nodes (fencing, records), the nodes' sysrq writes,
the ends of nodes, and timers.
"""

from __future__ import annotations

import contextlib
import ctypes
import heapq
import itertools
import json
import os
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
import uuid
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from tests.lab.ns.network import Network

AREA = "/media"
"""Any directory that every Linux machine has: a private tmpfs covers it here, nothing is written to it."""
INIT = str(Path(__file__).with_name("init.py"))
PYTHON = "/usr/bin/python3"
BOOT_TIMEOUT_S = 60.0
Json = Dict[str, Any]


class Machine:
    """A node: its files on the tmpfs, and its processes while it is powered."""

    def __init__(self, name: str, config: Json) -> None:
        self.name = name
        self.addresses: Dict[str, str] = config["addresses"]
        self.visible: List[str] = config["visible"]
        self.seed: List[Json] = config["seed"]
        self.area = Path(AREA) / name
        self.process: Optional[subprocess.Popen[bytes]] = None
        self.pid = 0
        self.frozen = False
        self.prepare()

    def prepare(self) -> None:
        """Empty the node's disk; the seed is planted at the next boot."""
        shutil.rmtree(self.area, ignore_errors=True)
        for directory in ("upper", "work", "root", "run"):
            (self.area / directory).mkdir(parents=True)
        (self.area / "upper").chmod(0o755)
        os.mkfifo(self.area / "run" / "sysrq")
        (self.area / "run" / "seed.json").write_text(json.dumps(self.seed))

    def spawn(self) -> socket.socket:
        """Start process 1, which then waits for its interfaces."""
        (self.area / "run" / "boot_id").write_text(f"{uuid.uuid4()}\n")
        ours, theirs = socket.socketpair()
        ours.settimeout(BOOT_TIMEOUT_S)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        with theirs, (self.area / "init.log").open("ab") as errors:
            config = {"name": self.name, "area": str(self.area), "addresses": self.addresses,
                      "visible": self.visible, "fd": theirs.fileno()}
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork",
                 "--kill-child", PYTHON, "-IS", INIT, json.dumps(config)],
                stdin=subprocess.DEVNULL, stderr=errors, pass_fds=[theirs.fileno()], start_new_session=True)
        _, ancillary, _, _ = ours.recvmsg(16, socket.CMSG_SPACE(12))
        self.pid = struct.unpack("3i", ancillary[0][2])[0]
        return ours

    def kill(self) -> None:
        if self.process is None:
            return
        for pid in (self.pid, self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.process, self.pid, self.frozen = None, 0, False

    def signal_all(self, name: str) -> None:
        subprocess.run(["nsenter", "-t", str(self.pid), "-m", "-p", "sh", "-c", f"kill -{name} -1"],
                       stdin=subprocess.DEVNULL, check=True, timeout=10)


class Supervisor:
    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.selector = selectors.DefaultSelector()
        self.timers: List[Tuple[float, int, Callable[[], None]]] = []
        self.counter = itertools.count()
        self.fencings: List[Json] = []
        self.records: List[Tuple[str, str, int, str, float]] = []
        self.fencing_modes: Dict[str, Json] = {}
        config = self.receive()
        self.boot_delay_s = float(config["boot_delay_s"])
        self.machines = {name: Machine(name, entry) for name, entry in config["nodes"].items()}
        self.network = Network(list(config["links"]), list(self.machines), cable=bool(config["cable"]))
        for machine in self.machines.values():
            self.listen(machine)
            self.watch_sysrq(machine)
        self.selector.register(control, selectors.EVENT_READ, self.serve_control)

    def receive(self) -> Json:
        line = self.control_file.readline()
        if not line:
            raise EOFError
        value: Json = json.loads(line)
        return value

    @property
    def control_file(self) -> Any:
        if not hasattr(self, "_control_file"):
            self._control_file = self.control.makefile("r", encoding="utf-8")
        return self._control_file

    # --- power ---

    def power_on(self, machine: Machine) -> None:
        if machine.process is not None:
            return
        with machine.spawn() as sock:
            self.network.attach(machine.name, machine.pid)
            sock.sendall(b"go")
            answer = sock.recv(4096).decode()
        if answer != "ready":
            self.power_off(machine)
            raise RuntimeError(f"{machine.name} does not boot: {answer or (machine.area / 'init.log').read_text()}")
        assert machine.process is not None
        pidfd = os.pidfd_open(machine.process.pid)
        self.selector.register(pidfd, selectors.EVENT_READ, lambda: self.ended(machine, pidfd))

    def power_off(self, machine: Machine) -> None:
        if machine.process is None:
            return
        self.network.detach(machine.name)
        machine.kill()
        self.network.remove(machine.name)

    def ended(self, machine: Machine, pidfd: int) -> None:
        """Process 1 is gone: we killed it, or the node called reboot(2) (SIGHUP: restart, SIGINT: power off)."""
        self.selector.unregister(pidfd)
        os.close(pidfd)
        process = machine.process
        if process is None or process.poll() is None:
            return
        restart = process.returncode in (-signal.SIGHUP, 128 + signal.SIGHUP)
        self.power_off(machine)
        if restart:
            self.after(self.boot_delay_s, lambda: self.power_on(machine))

    def reset(self, machine: Machine) -> None:
        self.power_off(machine)
        self.after(self.boot_delay_s, lambda: self.power_on(machine))

    def watch_sysrq(self, machine: Machine) -> None:
        """The node's /proc/sysrq-trigger is this pipe: `b` resets the node, `o` powers it off, all else is ignored."""
        pipe = os.open(machine.area / "run" / "sysrq", os.O_RDWR | os.O_NONBLOCK)

        def read() -> None:
            letters = os.read(pipe, 64)
            if b"b" in letters:
                self.reset(machine)
            elif b"o" in letters:
                self.power_off(machine)

        self.selector.register(pipe, selectors.EVENT_READ, read)

    # --- requests from the nodes: fencing and records ---

    def listen(self, machine: Machine) -> None:
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(machine.area / "run" / "lab.sock"))
        server.listen(64)
        self.selector.register(server, selectors.EVENT_READ, lambda: self.accept(machine, server))

    def accept(self, machine: Machine, server: socket.socket) -> None:
        connection, _ = server.accept()
        buffer = bytearray()

        def read() -> None:
            try:
                data = connection.recv(65536)
            except OSError:
                data = b""
            if not data:
                self.selector.unregister(connection)
                connection.close()
                return
            buffer.extend(data)
            while b"\n" in buffer:
                line, _, rest = bytes(buffer).partition(b"\n")
                buffer[:] = rest
                self.serve_node(machine, connection, json.loads(line))

        self.selector.register(connection, selectors.EVENT_READ, read)

    def serve_node(self, machine: Machine, connection: socket.socket, request: Json) -> None:
        if request["op"] == "record":
            self.records.append((machine.name, str(request["resource"]), int(request["number"]), str(request["value"]),
                                 time.monotonic()))
        elif request["op"] == "power":
            self.fence(machine, connection, request)

    def fence(self, by: Machine, connection: socket.socket, request: Json) -> None:
        mode = self.fencing_modes.get(by.name, {"mode": "ok", "delay_s": 0.0})
        if mode["mode"] == "unreachable":
            return  # never answered: the agent runs into its own timeout
        action, target = str(request["action"]), str(request.get("node", ""))
        entry: Json = {"node": target, "action": action, "by": by.name, "at": time.monotonic(), "ok": False}
        if action in ("off", "on", "reboot"):
            self.fencings.append(entry)
        if mode["mode"] == "failing":
            self.answer(connection, {"ok": False, "message": "the power controller is told to fail"})
            return

        def act() -> None:
            try:
                state = self.switch(action, target)
            except (LookupError, RuntimeError, OSError) as error:
                self.answer(connection, {"ok": False, "message": str(error)})
                return
            entry.update(ok=True, done=time.monotonic())
            self.answer(connection, {"ok": True, "state": state, "nodes": list(self.machines)})

        self.after(float(mode["delay_s"]) if mode["mode"] == "slow" else 0.0, act)

    def switch(self, action: str, target: str) -> str:
        if action in ("monitor", "list"):
            return "on"
        if target not in self.machines:
            raise LookupError(f"no node {target!r} here, known: {', '.join(self.machines)}")
        machine = self.machines[target]
        if action == "off":
            self.power_off(machine)
        elif action == "on":
            self.power_on(machine)
        elif action == "reboot":
            self.reset(machine)
        return "on" if machine.process is not None else "off"

    def answer(self, connection: socket.socket, value: Json) -> None:
        with contextlib.suppress(OSError):  # the asking agent may be gone, with its node too
            connection.sendall(json.dumps(value).encode() + b"\n")

    # --- requests from the test process ---

    def serve_control(self) -> None:
        request = self.receive()
        try:
            answer: Json = {"ok": True, "value": self.handle(str(request["op"]), request)}
        except (LookupError, RuntimeError, OSError, ValueError, subprocess.SubprocessError) as error:
            answer = {"ok": False, "error": f"{request.get('op')}: {type(error).__name__}: {error}"}
        self.control.sendall(json.dumps(answer).encode() + b"\n")

    def handle(self, operation: str, request: Json) -> Any:
        if operation == "down":
            raise EOFError
        if operation in ("cut", "mend"):
            links = self.network
            if operation == "cut":
                links.cut(request["link"], request.get("node"), request.get("direction"))
            else:
                links.mend(request["link"])
            return None
        if operation == "fencings":
            return self.fencings
        if operation == "records":
            return self.records
        if operation == "forget":
            self.fencings, self.records = [], []
            return None
        if operation == "fencing":
            for name in [request["by"]] if request.get("by") else list(self.machines):
                self.fencing_modes[name] = {"mode": request["mode"], "delay_s": request["delay_s"]}
            return None
        return self.handle_machine(operation, self.machines[request["node"]])

    def handle_machine(self, operation: str, machine: Machine) -> Any:
        if operation == "power_off":
            self.power_off(machine)
        elif operation == "power_on":
            self.power_on(machine)
        elif operation == "wipe":
            self.power_off(machine)
            self.wipe(machine)
        elif operation in ("freeze", "thaw"):
            if machine.process is None:
                raise RuntimeError(f"{machine.name} is off")
            machine.signal_all("STOP" if operation == "freeze" else "CONT")
            machine.frozen = operation == "freeze"
        elif operation != "state":
            raise LookupError(f"unknown operation {operation!r}")
        return {"pid": machine.pid, "frozen": machine.frozen}

    def wipe(self, machine: Machine) -> None:
        """A new disk. The node's socket and sysrq pipe stay: they are in its `run` directory."""
        for directory in ("upper", "work"):
            shutil.rmtree(machine.area / directory, ignore_errors=True)
            (machine.area / directory).mkdir(exist_ok=True)
        (machine.area / "upper").chmod(0o755)

    # --- the loop ---

    def after(self, delay_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self.timers, (time.monotonic() + delay_s, next(self.counter), act))

    def loop(self) -> None:
        while True:
            timeout = max(0.0, self.timers[0][0] - time.monotonic()) if self.timers else None
            for key, _ in self.selector.select(timeout):
                self.guarded(key.data)
            while self.timers and self.timers[0][0] <= time.monotonic():
                self.guarded(heapq.heappop(self.timers)[2])

    def guarded(self, act: Callable[[], None]) -> None:
        """One node's trouble must not end the lab; its test will see that something did not happen."""
        try:
            act()
        except (LookupError, RuntimeError, ValueError, subprocess.SubprocessError, BlockingIOError):
            traceback.print_exc()

    def down(self) -> None:
        for machine in self.machines.values():
            machine.kill()


def isolate() -> None:
    """Private mount and net namespaces, and a tmpfs for the nodes' files: gone with the last process in them."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_mount, new_net = 0x00020000, 0x40000000
    if libc.unshare(new_mount | new_net) != 0:
        raise OSError(ctypes.get_errno(), "unshare: are you root?")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=700", "lab", AREA], check=True)


def main(arguments: Sequence[str]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    with socket.socket(fileno=int(arguments[0])) as control:
        isolate()
        supervisor = Supervisor(control)
        try:
            control.sendall(b'{"ok": true}\n')
            supervisor.loop()
        except (EOFError, ConnectionError):
            pass
        finally:
            supervisor.down()


if __name__ == "__main__":
    main(sys.argv[1:])
