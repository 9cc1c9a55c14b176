"""The VM lab: two machines with kernel DRBD, four links, a power controller, and saved states to start from."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Dict, List, Mapping, Optional, Sequence, Set, TextIO, Tuple, Type

from tests.lab.api import LabError
from tests.lab.vm import form, image
from tests.lab.vm.accel import accel_args, cpu_model, qemu_version
from tests.lab.vm.fencing import FenceFaults, Fencing, PowerController
from tests.lab.vm.machine import LINKS, NODES, Machine, machine_args, make_overlay, udp_port
from tests.lab.vm.paths import built_aside, cache_root, digest, exclusive, in_use, newest_only, progress, turn
from tests.lab.vm.spawn import NetNamespace
from tests.lab.vm.writer import WriteLog

RUN_PREFIX = "heartgate-vm-"
DATA_SIZE = "192M"
TOOLS = (
    "qemu-system-x86_64",
    "qemu-img",
    "mmdebstrap",
    "mke2fs",
    "cpio",
    "zstd",
    "busybox",
    "unshare",
    "nsenter",
    "setpriv",
    "tc",
)


class VmLab:
    """Two virtual machines. Made with `restore` (a second) or `start` (a minute), ended with `down` or `with`."""

    def __init__(self, built: image.Image, debs: Sequence[Path], wall_clock_base: float, *, serial: bool = False) -> None:
        self.links: Sequence[str] = LINKS
        self.debs = list(debs)
        self._marks: List[TextIO] = []
        self._cuts: Dict[str, Set[Tuple[str, str]]] = {}
        self._filters: Dict[str, List[str]] = {}
        self._run_dir = new_run_dir()
        self._started = time.monotonic()
        self._namespace = NetNamespace()
        accel = accel_args(built)
        self.nodes: Mapping[str, Machine] = {
            name: Machine(
                name,
                self._run_dir,
                built,
                accel,
                self._namespace,
                lambda: wall_clock_base + time.monotonic() - self._started,
                serial,
            )
            for name in NODES
        }
        self.carrier_follows_power = True
        self._carrier_lock = threading.Lock()
        for node in self.nodes.values():
            node.on_power = self._apply_carrier
        self.power = PowerController(self.nodes)
        self.writes = WriteLog(self.nodes)
        self._namespace.run(["tc", "qdisc", "add", "dev", "lo", "clsact"])

    # ---- making one

    @classmethod
    def start(
        cls, debs: Sequence[Path] = (), suite: str = "", *, formed: bool = True, serial: bool = False, wait_s: float = 300
    ) -> VmLab:
        """Boot two fresh machines; with `formed`, make a cluster of them (about a minute). With `serial`, a null-modem cable
        joins their ttyS1; saved states have none. suite: "" for the one that the run of tests was asked for."""
        suite = suite or image.chosen_suite()
        check_tools()
        mark = turn(wait_s)
        built = image.build(suite)
        lab = cls(built, debs, time.time(), serial=serial)
        lab._marks.append(mark)
        try:
            for node in lab.nodes.values():
                make_overlay(node.os_disk, built.root)
                subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(node.data_disk), DATA_SIZE], check=True)
            form.on_each(lab.nodes, Machine.power_on)
            if formed:
                form.form(lab.nodes, lab.debs, suite)
        except BaseException:
            lab.down()
            raise
        return lab

    @classmethod
    def restore(cls, debs: Sequence[Path] = (), suite: str = "", *, wait_s: float = 300) -> VmLab:
        """A quorate cluster with an UpToDate pair, from its saved state (made now if there is none)."""
        suite = suite or image.chosen_suite()
        check_tools()
        my_turn = turn(wait_s)
        built = image.build(suite)
        saved = ensure_snapshot(built, [Path(deb) for deb in debs], suite)
        mark = in_use(saved)
        lab = cls.restore_from(saved, built, debs)
        lab._marks += [mark, my_turn]
        return lab

    @classmethod
    def restore_from(cls, saved: Path, built: image.Image, debs: Sequence[Path] = ()) -> VmLab:
        """Two running machines from a directory that `save_into` filled."""
        facts = json.loads((saved / "facts.json").read_text())
        lab = cls(built, debs, facts["wall_clock"])
        try:
            for node in lab.nodes.values():
                make_overlay(node.os_disk, saved / node.os_disk.name)
                make_overlay(node.data_disk, saved / node.data_disk.name)
            form.on_each(lab.nodes, lambda node: node.start(saved / f"{node.name}.state"))
            form.on_each(lab.nodes, Machine.resume)
            for node in lab.nodes.values():
                node.ask_hello()
                node.wait_boot(timeout_s=120)
        except BaseException:
            lab.down()
            raise
        return lab

    def save_into(self, directory: Path) -> None:
        """Keep both machines as they are now; they are switched off by that."""
        for node in self.nodes.values():
            node.freeze()
        wall_clock = time.time()
        for node in self.nodes.values():
            node.save(directory / f"{node.name}.state")
        for node in self.nodes.values():
            node.power_off()
            shutil.copyfile(node.os_disk, directory / node.os_disk.name)
            shutil.copyfile(node.data_disk, directory / node.data_disk.name)
        (directory / "facts.json").write_text(json.dumps({"wall_clock": wall_clock}))

    def __enter__(self) -> VmLab:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        self.down()

    def down(self) -> None:
        self.carrier_follows_power = False
        for node in self.nodes.values():
            node.power_off()
        self._namespace.close()
        shutil.rmtree(self._run_dir, ignore_errors=True)
        for mark in self._marks:
            mark.close()

    # ---- links

    def cut(self, link: str, *, node: Optional[str] = None, direction: Optional[str] = None) -> None:
        self._check_link(link, node, direction)
        if direction is None:
            for name in [node] if node else NODES:
                self._cuts.setdefault(link, set()).add((name, "carrier"))
            self._apply_carrier()
            return
        assert node is not None
        peer = NODES[1 - NODES.index(node)]
        self._cuts.setdefault(link, set()).add((node, direction))
        self._drop_frames_to(peer if direction == "out" else node, link)

    def mend(self, link: str) -> None:
        self._check_link(link, None, None)
        self._cuts.pop(link, None)
        for preference in self._filters.pop(link, []):
            self._namespace.run(["tc", "filter", "del", "dev", "lo", "ingress", "prio", preference])
        self._apply_carrier()

    def cuts(self) -> Dict[str, List[str]]:
        """What is cut now: link -> ["nodea carrier", "nodeb in" ...]."""
        return {link: sorted(" ".join(cut) for cut in cuts) for link, cuts in self._cuts.items() if cuts}

    def _check_link(self, link: str, node: Optional[str], direction: Optional[str]) -> None:
        if link not in LINKS:
            raise LabError(f"unknown link {link!r}: one of {', '.join(LINKS)}")
        if node is not None and node not in NODES:
            raise LabError(f"unknown node {node!r}: one of {', '.join(NODES)}")
        if direction not in (None, "in", "out"):
            raise LabError(f"unknown direction {direction!r}: in or out")
        if direction is not None and node is None:
            raise LabError("a direction needs a node")

    def _apply_carrier(self) -> None:
        """A cable is dark when it is cut, and, being end to end, when the machine at its other end has no power."""
        with self._carrier_lock:
            for name, node in self.nodes.items():
                peer = self.nodes[NODES[1 - NODES.index(name)]]
                for link in LINKS:
                    dark = (name, "carrier") in self._cuts.get(link, set()) or (self.carrier_follows_power and not peer.powered())
                    if dark != (link in node.dark_links):
                        node.set_carrier(link, not dark)

    def _drop_frames_to(self, receiver: str, link: str) -> None:
        """Lose the frames on the host's side of the wire: it outlives a reboot, and the guest cannot see or undo it."""
        port = udp_port(receiver, link)
        preference = str(port - 20000)
        if preference in self._filters.setdefault(link, []):
            return
        # Loopback frame: 14 ethernet + 20 IPv4 + 2 = UDP destination port. Direct action: 2 = drop, -1 = next filter.
        program = f"4,40 0 0 36,21 0 1 {port},6 0 0 2,6 0 0 4294967295"
        self._namespace.run(["tc", "filter", "add", "dev", "lo", "ingress", "protocol", "all", "prio", preference,
                             "bpf", "da", "bytecode", program])  # fmt: skip
        self._filters[link].append(preference)

    # ---- power controller

    @property
    def fencings(self) -> List[Fencing]:
        """Every power action a node asked for, in order."""
        return self.power.fencings

    @property
    def fence_faults(self) -> FenceFaults:
        return self.power.faults

    # ---- waits and DRBD

    def wait_online(self, timeout_s: float = 120.0) -> None:
        form.wait_online(self.nodes, timeout_s)

    def wait_in_sync(self, timeout_s: float = 120.0) -> None:
        form.wait_in_sync(self.nodes, timeout_s)

    def wait_idle(self, node: str = NODES[0], timeout_s: float = 120.0) -> None:
        form.wait_idle(self.nodes[node], timeout_s)

    def quick_drbd(self, *, two_primaries: bool = False, handlers: Optional[bool] = None) -> None:
        """DRBD's quick time limits (a loss is noticed within about a second); the saved state has slow ones."""
        with_handlers = bool(self.debs) if handlers is None else handlers
        form.adjust_drbd(self.nodes, handlers=with_handlers, net=form.QUICK_NET, two_primaries=two_primaries)


def new_run_dir() -> Path:
    """Where a lab keeps its overlays and sockets; what labs of processes that are no more have left behind is removed."""
    for path in Path(tempfile.gettempdir()).glob(f"{RUN_PREFIX}*-*"):
        owner = path.name[len(RUN_PREFIX) :].split("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            shutil.rmtree(path, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{RUN_PREFIX}{os.getpid()}-"))


def check_tools() -> None:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise LabError(f"the VM lab needs {', '.join(missing)} (see docs/labs.md for the packages)")


def ensure_snapshot(built: image.Image, debs: Sequence[Path], suite: str) -> Path:
    """The saved cluster for this image, these packages, this QEMU and this processor; formed now if missing."""
    machine = (built.key, qemu_version(), cpu_model(), accel_args(built), machine_args(), DATA_SIZE)
    resource = form.drbd_resource(handlers=bool(debs), net=form.SAVED_NET)
    cluster = (form.debs_key(debs), form.corosync_conf(), form.seed_cib(suite), resource)
    saved = cache_root() / f"cluster-{suite}-{digest(*machine, *cluster)}"
    with exclusive("cluster"):
        if not saved.is_dir():
            progress("forming a cluster to save (once; about a minute and a half)")
            with built_aside(saved) as aside:
                _form_into(aside, debs, suite)
            newest_only(cache_root(), f"cluster-{suite}-", keep=saved, count=3)
    return saved


def _form_into(aside: Path, debs: Sequence[Path], suite: str) -> None:
    with VmLab.start(debs, suite, wait_s=0) as lab:
        lab.save_into(aside)
    progress("cluster saved")
