"""One virtual machine: its QEMU process, its channels, and what a test can do to it."""

from __future__ import annotations

import base64
import datetime
import itertools
import json
import os
import shlex
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

from tests.lab.api import CommandError, LabError, Result
from tests.lab.vm.accel import MACHINE, QEMU
from tests.lab.vm.channel import LineChannel, Qmp
from tests.lab.vm.image import Image
from tests.lab.vm.spawn import NetNamespace, end, spawn

LINKS: Tuple[str, ...] = ("hb0", "hb1", "sync0", "client0")
SUBNETS = {"hb0": 10, "hb1": 11, "sync0": 20, "client0": 30}
NODES = ("nodea", "nodeb")
MEMORY_MB = 640
ANSWER_GRACE_S = 15.0
PORTS = ("agent", "fence", "writer0", "writer1")
COMMAND_LINE = (
    "root=/dev/vda mitigations=off no_timer_check tsc=reliable random.trust_cpu=on net.ifnames=0 quiet console=ttyS0 "
    "panic=-1 systemd.show_status=0 systemd.machine_id={machine_id} systemd.hostname={name} lab.node={name}"
)


def address(node: str, link: str) -> str:
    return f"10.77.{SUBNETS[link]}.{NODES.index(node) + 1}"


def udp_port(node: str, link: str) -> int:
    """The port on the namespace's loopback where that machine's interface receives."""
    return 20000 + SUBNETS[link] * 10 + NODES.index(node)


def machine_args() -> Tuple[object, ...]:
    """Everything about the emulated machine that a saved state depends on."""
    return (MACHINE, MEMORY_MB, PORTS, LINKS, COMMAND_LINE, _devices("nodea", Path("/run"), Path("/a"), Path("/b")))


def _devices(name: str, run_dir: Path, os_disk: Path, data_disk: Path) -> List[str]:
    argv: List[str] = []
    for drive, path in (("os", os_disk), ("data", data_disk)):
        argv += ["-drive", f"if=none,id={drive},file={path},format=qcow2,cache=unsafe,discard=unmap"]
        argv += ["-device", f"virtio-blk-pci,drive={drive},id=disk-{drive}"]
    peer = NODES[1 - NODES.index(name)]
    for link in LINKS:
        local, remote = udp_port(name, link), udp_port(peer, link)
        mac = f"52:54:00:77:{SUBNETS[link]}:0{NODES.index(name) + 1}"
        argv += ["-netdev", f"dgram,id={link},local.type=inet,local.host=127.0.0.1,local.port={local},"
                            f"remote.type=inet,remote.host=127.0.0.1,remote.port={remote}"]  # fmt: skip
        argv += ["-device", f"virtio-net-pci,id=nic-{link},netdev={link},mac={mac},romfile=,speed=1000,duplex=full"]
    argv += [
        "-device",
        "virtio-serial-pci,id=serial",
        "-device",
        "virtio-rng-pci",
        "-device",
        "i6300esb",
        "-action",
        "watchdog=reset",
    ]
    for port in PORTS:
        argv += ["-chardev", f"socket,id={port},path={run_dir}/{name}.{port},server=on,wait=off"]
        argv += ["-device", f"virtserialport,chardev={port},name=lab.{port}"]
    for monitor in ("qmp", "qmpf"):
        argv += ["-chardev", f"socket,id={monitor},path={run_dir}/{name}.{monitor},server=on,wait=off"]
        argv += ["-mon", f"chardev={monitor},mode=control"]
    return argv


def _serial_line(name: str, run_dir: Path) -> List[str]:
    """ttyS1, a null-modem cable to the other machine's. The console is ttyS0."""
    first = name == NODES[0]
    end_of = "server=on,wait=off" if first else "server=off,reconnect=1"
    return ["-chardev", f"socket,id=line,path={run_dir}/{NODES[0]}.line,{end_of}", "-device", "isa-serial,chardev=line,index=1"]


@dataclass
class Boot:
    """One start of the guest's kernel, as its agent announced it."""

    boot_id: str
    at: float


@dataclass
class _Pending:
    done: threading.Event = field(default_factory=threading.Event)
    answer: Dict[str, Any] = field(default_factory=dict)


class Machine:
    """A node of the VM lab. Times are host CLOCK_MONOTONIC seconds."""

    def __init__(
        self,
        name: str,
        run_dir: Path,
        image: Image,
        accel: Sequence[str],
        namespace: NetNamespace,
        wall_clock: Callable[[], float],
        serial: bool = False,
    ) -> None:
        self.name = name
        self.serial = serial
        self.os_disk = run_dir / f"{name}.os.qcow2"
        self.data_disk = run_dir / f"{name}.data.qcow2"
        self.boots: List[Boot] = []
        self.resets = 0
        self.frozen = False
        self.on_fence_request: Callable[[str, bytes], None] = lambda name, line: None
        self.on_writer_line: Callable[[str, bytes], None] = lambda name, line: None
        self.on_power: Callable[[], None] = lambda: None
        self.dark_links: Set[str] = set()
        self._run_dir, self._image, self._accel, self._namespace = run_dir, image, accel, namespace
        self._wall_clock = wall_clock
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._qmp: Optional[Qmp] = None
        self._fence_qmp: Optional[Qmp] = None
        self._channels: Dict[str, LineChannel] = {}
        self._ids = itertools.count(1)
        self._pending: Dict[int, _Pending] = {}
        self._agent_up = threading.Event()
        self._lock = threading.RLock()

    # ---- power

    def powered(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def power_on(self) -> None:
        with self._lock:
            if not self.powered():
                self.start()
                self.resume()
        self.on_power()

    def power_off(self) -> None:
        with self._lock:
            if self._process is not None:
                end(self._process)
            self._close()
            self.frozen = False
        self.on_power()

    def reset(self, *, fencing: bool = False) -> None:
        """A power cut of a moment: the machine starts anew at once. A frozen one starts too."""
        monitor = self._monitor(fencing)
        self._lose_guest("the machine was reset")
        monitor.execute("system_reset")
        if self.frozen:
            self.frozen = False
            monitor.execute("cont")

    def freeze(self) -> None:
        self._monitor().execute("stop")
        self.frozen = True

    def thaw(self) -> None:
        self._monitor().execute("cont")
        self.frozen = False

    def start(self, incoming: Optional[Path] = None) -> None:
        """Start QEMU, stopped: from the given saved state, or at power-on."""
        number = NODES.index(self.name) + 1
        wall = datetime.datetime.fromtimestamp(self._wall_clock(), datetime.timezone.utc)
        argv = [
            *self._namespace.prefix(),
            QEMU,
            "-name",
            self.name,
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-S",
        ]
        argv += ["-machine", MACHINE, *self._accel, "-smp", "1", "-m", str(MEMORY_MB)]
        argv += ["-rtc", f"base={wall:%Y-%m-%dT%H:%M:%S},clock=vm"]
        argv += ["-kernel", str(self._image.kernel), "-initrd", str(self._image.initrd)]
        argv += ["-append", COMMAND_LINE.format(name=self.name, machine_id=f"{number:032x}")]
        argv += ["-serial", f"file:{self._run_dir}/{self.name}.console"]
        argv += _devices(self.name, self._run_dir, self.os_disk, self.data_disk)
        argv += _serial_line(self.name, self._run_dir) if self.serial else []
        if incoming is not None:
            argv += ["-incoming", "defer"]
        for stale in self._run_dir.glob(f"{self.name}.*"):
            if stale.is_socket():
                stale.unlink()
        self._agent_up.clear()
        with open(self._run_dir / f"{self.name}.qemu.log", "ab") as log:
            self._process = spawn(argv, stdout=log, stderr=log)
        try:
            self._open_channels()
        except LabError as error:
            text = (self._run_dir / f"{self.name}.qemu.log").read_text(errors="replace")
            self.power_off()
            raise LabError(f"{self.name}: QEMU did not start: {error}\n{text[-2000:]}") from error
        for link in self.dark_links:
            self.set_carrier(link, False)
        if incoming is not None:
            self._monitor().execute("migrate-incoming", uri=f"exec:cat {shlex.quote(str(incoming))}")

    def resume(self, timeout_s: float = 60.0) -> None:
        """Let a machine from `start` run, once its state has been loaded."""
        deadline = time.monotonic() + timeout_s
        while self._monitor().execute("query-status")["status"] == "inmigrate":
            if time.monotonic() > deadline:
                raise LabError(f"{self.name}: the saved state was not loaded within {timeout_s:g} s")
            time.sleep(0.01)
        self._monitor().execute("cont")

    def ask_hello(self) -> None:
        """After a restore: the agent is there already and says hello only when asked."""
        self._send({"op": "hello", "id": 0})

    def save(self, state: Path, timeout_s: float = 120.0) -> None:
        """Write the whole state of a stopped machine; QEMU is good for nothing afterwards."""
        monitor = self._monitor()
        monitor.execute("migrate-set-parameters", **{"max-bandwidth": 8 << 30})
        monitor.execute("migrate", uri=f"exec:cat > {shlex.quote(str(state))}")
        deadline = time.monotonic() + timeout_s
        while True:
            status = monitor.execute("query-migrate").get("status")
            if status == "completed":
                return
            if status in ("failed", "cancelled") or time.monotonic() > deadline:
                raise LabError(f"{self.name}: saving the state ended as {status!r}")
            time.sleep(0.05)

    # ---- links

    def set_carrier(self, link: str, up: bool) -> None:
        if up:
            self.dark_links.discard(link)
        else:
            self.dark_links.add(link)
        if self.powered() and self._qmp is not None:  # else `start` does it
            self._qmp.execute("set_link", name=f"nic-{link}", up=up)

    # ---- commands

    def run(self, argv: Sequence[str], *, timeout_s: float = 30.0, stdin: str = "", check: bool = True) -> Result:
        started = time.monotonic()
        answer = self._ask({"op": "run", "argv": list(argv), "stdin": stdin, "timeout": timeout_s}, timeout_s, shlex.join(argv))
        result = Result(answer["rc"], answer["out"], answer["err"], time.monotonic() - started)
        if check and result.rc != 0:
            raise CommandError(f"{self.name}: {shlex.join(argv)} ended with {result.rc}\n{result.stdout}{result.stderr}")
        return result

    def put(self, path: str, content: str, mode: int = 0o644) -> None:
        self.put_bytes(path, content.encode(), mode)

    def put_bytes(self, path: str, content: bytes, mode: int = 0o644) -> None:
        data = base64.b64encode(content).decode()
        answer = self._ask({"op": "put", "path": path, "data": data, "mode": mode}, 30.0, f"put {path}")
        if answer["rc"] != 0:
            raise LabError(f"{self.name}: cannot write {path}: {answer['err']}")

    def wait_boot(self, *, after: Optional[str] = None, timeout_s: float = 120.0) -> Boot:
        """Wait for the agent's hello; with `after`, for one with another boot id than that."""
        deadline = time.monotonic() + timeout_s
        while True:
            if self._agent_up.is_set() and self.boots and self.boots[-1].boot_id != after:
                return self.boots[-1]
            if time.monotonic() > deadline:
                raise LabError(f"{self.name}: no hello from a new boot within {timeout_s:g} s; console: {self.console()[-500:]}")
            time.sleep(0.02)

    def console(self) -> str:
        """The serial console since the machine was last switched on."""
        try:
            return (self._run_dir / f"{self.name}.console").read_text(errors="replace")
        except OSError:
            return ""

    # ---- inside

    def _monitor(self, fencing: bool = False) -> Qmp:
        monitor = self._fence_qmp if fencing else self._qmp
        if monitor is None or not self.powered():
            raise LabError(f"{self.name} is switched off")
        return monitor

    def _open_channels(self) -> None:
        base = f"{self._run_dir}/{self.name}"
        self._qmp = Qmp(f"{base}.qmp", self.name, self._event)
        self._fence_qmp = Qmp(f"{base}.qmpf", f"{self.name} (fencing)")
        handlers: Dict[str, Callable[[bytes], None]] = {
            "agent": self._agent_line,
            "fence": lambda line: self.on_fence_request(self.name, line),
            "writer0": lambda line: self.on_writer_line(self.name, line),
            "writer1": lambda line: self.on_writer_line(self.name, line),
        }
        for port in PORTS:
            self._channels[port] = LineChannel(f"{base}.{port}", handlers[port], f"{self.name}-{port}")

    def answer_fence(self, line: bytes) -> None:
        channel = self._channels.get("fence")
        if channel is not None:
            channel.send(line)

    def _close(self) -> None:
        self._lose_guest("the machine was switched off")
        for channel in self._channels.values():
            channel.close()
        self._channels = {}
        for monitor in (self._qmp, self._fence_qmp):
            if monitor is not None:
                monitor.close()
        self._qmp = self._fence_qmp = None

    def _lose_guest(self, why: str) -> None:
        self._agent_up.clear()
        for pending in list(self._pending.values()):
            pending.answer = {"lost": why}
            pending.done.set()

    def _event(self, event: str, data: Dict[str, Any]) -> None:
        if event == "RESET":
            self.resets += 1
            self._lose_guest("the machine was reset")

    def _send(self, request: Dict[str, Any]) -> None:
        channel = self._channels.get("agent")
        if channel is None:
            raise LabError(f"{self.name} is switched off")
        channel.send(json.dumps(request).encode())

    def _ask(self, request: Dict[str, Any], timeout_s: float, what: str) -> Dict[str, Any]:
        if not self.powered():
            raise LabError(f"{self.name}: {what}: the machine is switched off")
        deadline = time.monotonic() + timeout_s + ANSWER_GRACE_S
        if not self._agent_up.wait(deadline - time.monotonic()):
            raise LabError(f"{self.name}: {what}: the machine's agent is not up after {timeout_s + ANSWER_GRACE_S:g} s")
        request["id"] = next(self._ids)
        pending = self._pending[request["id"]] = _Pending()
        try:
            self._send(request)
            if not pending.done.wait(max(0.1, deadline - time.monotonic())):
                frozen = " (frozen)" if self.frozen else ""
                raise LabError(f"{self.name}: {what}: no answer after {timeout_s + ANSWER_GRACE_S:g} s{frozen}")
        finally:
            del self._pending[request["id"]]
        if "lost" in pending.answer:
            raise LabError(f"{self.name}: {what}: {pending.answer['lost']}")
        return pending.answer

    def _agent_line(self, line: bytes) -> None:
        try:
            answer = json.loads(line)
        except ValueError:  # a line torn by a reset
            return
        if answer.get("op") == "hello":
            if not self.boots or self.boots[-1].boot_id != answer["boot_id"]:
                self.boots.append(Boot(answer["boot_id"], time.monotonic()))
            self._agent_up.set()
            return
        pending = self._pending.get(answer.get("id"))
        if pending is not None:
            pending.answer = answer
            pending.done.set()


def make_overlay(path: Path, backing: Path) -> None:
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", os.fspath(backing), os.fspath(path)]
    subprocess.run(argv, check=True, capture_output=True)
