"""A cluster with heartgate and a running service in the VM lab, ready in about two seconds; and what the scenarios ask of it.

The service is what people have: a file system on DRBD and a writer on it, in a group that follows the Promoted role. Each
variant (policy, active node) is made once and kept as a saved state.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import shutil
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Sequence, Tuple

from tests.lab.api import wait_until
from tests.lab.deb import build, checkout
from tests.lab.vm import form, image
from tests.lab.vm.lab import VmLab, ensure_snapshot
from tests.lab.vm.machine import NODES, Machine
from tests.lab.vm.paths import built_aside, digest, exclusive, progress
from tests.vm import cib

ROOT = Path(__file__).resolve().parents[2]
PRIORITIES = "nodea:1 nodeb:2"
MOUNT = "/srv"
LOG = "/srv/log"


@dataclass(frozen=True)
class Variant:
    """How the cluster was set up."""

    policy: str = "priority"
    active: str = "nodea"
    dual: bool = False

    @property
    def name(self) -> str:
        return f"{self.policy}-{self.active}{'-dual' if self.dual else ''}"


@cache
def package() -> Path:
    """heartgate as a .deb, built from this checkout."""
    target = ROOT / "build" / "heartgate.deb"
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:  # without pages: they would cost new machines whenever one is changed
        return build(checkout(Path(scratch) / "tree", pages=False), target)


def package_content() -> str:
    """Which heartgate it is: the same for every build of the same files."""
    return hashlib.sha256(package().read_bytes()).hexdigest()


def restore(variant: Variant = Variant()) -> HaLab:
    """A running cluster of this variant, from its saved state. Three states stand on each other, so that a new package costs
    no new cluster and a new variant no new installation: the bare cluster, heartgate installed, resources made."""
    built, installed = _installed()
    recipe = digest(inspect.getsource(cib), inspect.getsource(HaLab.set_up))
    ready = _derived(built, installed, f"{variant.name}-{recipe}", lambda lab: HaLab(lab, variant).set_up())
    return HaLab(VmLab.restore_from(ready, built, [package()]), variant)


def restore_installed() -> HaLab:
    """heartgate is installed and its daemons run; no resource is made."""
    built, installed = _installed()
    return HaLab(VmLab.restore_from(installed, built, [package()]), Variant())


def _installed() -> Tuple[image.Image, Path]:
    suite = image.chosen_suite()
    built = image.build(suite)
    base = ensure_snapshot(built, [], suite)
    recipe = digest(package_content(), inspect.getsource(_install))
    return built, _derived(built, base, f"heartgate-{recipe}", _install)


def _derived(built: image.Image, parent: Path, name: str, job: Callable[[VmLab], None]) -> Path:
    """The state that `job` makes out of `parent`, saved inside it (so that it goes when its parent goes)."""
    saved = parent / name
    with exclusive("derived"):
        if not saved.is_dir():
            progress(f"preparing {name} (once)")
            with built_aside(saved) as aside, VmLab.restore_from(parent, built, [package()]) as lab:
                job(lab)
                lab.save_into(aside)
            for old in parent.glob("heartgate-*") if name.startswith("heartgate-") else ():
                if old != saved:
                    shutil.rmtree(old, ignore_errors=True)
            progress(f"{name} is saved")
    return saved


def _install(lab: VmLab) -> None:
    """The package, and a DRBD configuration with its handlers."""
    deb = package()

    def install(node: Machine) -> None:
        node.put("/etc/systemd/system/heartgated.service.d/emulated.conf", "[Service]\nWatchdogSec=20s\n")
        node.put_bytes("/root/heartgate.deb", deb.read_bytes())
        node.run(["dpkg", "-i", "/root/heartgate.deb"], timeout_s=400)
        active = ["systemctl", "is-active", "heartgated"]
        wait_until(f"heartgated on {node.name}", lambda: node.run(active, check=False).rc == 0, timeout_s=120)

    form.on_each(lab.nodes, install)
    form.adjust_drbd(lab.nodes, handlers=True, net=form.SAVED_NET)


class HaLab:
    """The lab with heartgate in it. Everything that waits is bounded and says what it waited for."""

    def __init__(self, lab: VmLab, variant: Variant) -> None:
        self.lab = lab
        self.variant = variant
        self.nodes = lab.nodes
        self.writes = lab.writes

    def __enter__(self) -> HaLab:
        return self

    def __exit__(self, *_: object) -> None:
        self.lab.down()

    @property
    def active(self) -> str:
        return self.variant.active

    @property
    def standby(self) -> str:
        return other(self.variant.active)

    # --- making it

    def set_up(self) -> None:
        first = self.nodes["nodea"]
        if self.variant.dual:
            form.adjust_drbd(self.nodes, handlers=True, net=form.SAVED_NET, two_primaries=True)
        else:
            first.run(["drbdadm", "primary", "r0"])
            first.run(["mkfs.ext4", "-q", "-E", "nodiscard", "/dev/drbd0"], timeout_s=120)
            first.run(["drbdadm", "secondary", "r0"])
        self.load(first)
        self.wait_standing("nodea", "synced", timeout_s=400)
        self.wait_standing("nodeb", "synced", timeout_s=60)
        if not self.variant.dual:
            self.writes.wait_acks(10, node=self.active, timeout_s=400)
        self.lab.wait_idle(timeout_s=120)

    def guard_parameters(self) -> Dict[str, str]:
        flush = {} if self.variant.dual else {"flush": f"filesystem:{MOUNT}"}
        # Everything takes some twenty times longer in an emulated machine, a boot storm more: the default would have a busy
        # node fenced for being slow.
        slow = {"confirm_timeout": "60"}
        return {"device": "r0", "priorities": PRIORITIES, "policy": self.variant.policy, "sync_interfaces": "sync0", **slow,
                **flush}  # fmt: skip

    def load(self, node: Machine) -> None:
        """Resources and constraints into the CIB, beside what is there."""
        service = not self.variant.dual
        resources = cib.resources(
            self.guard_parameters(), promoted_max=1 if service else 2, service=service, directory=MOUNT, log=LOG
        )
        constraints = cib.constraints(active=self.active, service=service)
        parts = (("resources", resources), ("fencing-topology", cib.fencing_levels()), ("constraints", constraints))
        for scope, content in parts:
            argv = ["cibadmin", "--modify", "--allow-create", "--scope", scope, "--xml-pipe"]
            node.run(argv, stdin=content, timeout_s=60)

    # --- asking

    def status(self, node: str) -> Dict[str, Any]:
        """What `heartgate status --json` says of r0 there; {} if it cannot be asked."""
        result = self.nodes[node].run(["heartgate", "status", "--json", "--quick"], check=False, timeout_s=20)
        try:
            devices = json.loads(result.stdout)["devices"]
        except (ValueError, KeyError):
            return {}
        found = devices.get("r0") if isinstance(devices, dict) else next((d for d in devices if d["device"] == "r0"), None)
        return found or {}

    def record(self, node: str) -> Dict[str, Any]:
        """What it has persisted: reading that costs an emulated machine next to nothing, asking `heartgate status` a second."""
        text = self.nodes[node].run(["cat", "/var/lib/heartgate/r0.state"], check=False, timeout_s=20).stdout
        try:
            return dict(json.loads(text)["body"])
        except (ValueError, KeyError, TypeError):
            return {}

    def standing(self, node: str) -> str:
        return str(self.record(node).get("standing", ""))

    def standings(self) -> Dict[str, str]:
        return {name: self.standing(name) for name in NODES}

    def wait_standing(self, node: str, *standings: str, timeout_s: float = 90.0) -> str:
        def reached() -> Optional[str]:
            now = self.standing(node)
            return now if now in standings else None

        return wait_until(f"{node} to be {' or '.join(standings)}", reached, timeout_s=timeout_s, interval_s=0.3)

    def wait_healed(self, timeout_s: float = 180.0) -> None:
        """Both synced again, without a person."""
        deadline = time.monotonic() + timeout_s
        for node in NODES:
            self.wait_standing(node, "synced", timeout_s=max(1.0, deadline - time.monotonic()))

    def wait_served_by(self, node: str, *, since: float, timeout_s: float = 60.0, count: int = 10) -> None:
        self.writes.wait_acks(count, node=node, since=since, timeout_s=timeout_s)

    def drbd(self, node: str) -> str:
        return self.nodes[node].run(["drbdsetup", "status", "r0", "--verbose"], check=False).stdout

    def run(self, node: str, argv: Sequence[str], **options: Any) -> Any:
        return self.nodes[node].run(argv, **options)

    def journal(self, node: str, lines: int = 300, boot: int = 0) -> str:
        """What heartgate and the kernel wrote there: for a failed test. boot: 0 for this one, -1 for the one before."""
        show = ["journalctl", "-o", "short-monotonic", "--no-pager", "-b", str(boot), "-n", str(lines)]
        chosen = ["_SYSTEMD_UNIT=heartgated.service", "+", "_TRANSPORT=kernel"]
        return str(self.nodes[node].run([*show, *chosen], check=False, timeout_s=30).stdout)

    # --- judging

    def judge(self, *, copies: Sequence[str] = NODES, writer: str = "w0") -> None:
        """No acknowledged write is missing on any of these copies (read below DRBD), and both copies are equal."""
        for node in copies:
            copy = self.writes.verify(node, "/dev/vdb", writer=writer)
            assert copy.missing == set(), f"{node} lacks {len(copy.missing)} of {copy.acknowledged} acknowledged writes"

    def one_writer_at_a_time(self, writer: str = "w0") -> None:
        """Acknowledgements of the two nodes never interleave: a node that another took over from gives no more."""
        nodes = [report.node for report in self.writes.acks(writer)]
        turns = [n for i, n in enumerate(nodes) if i == 0 or nodes[i - 1] != n]
        assert len(turns) <= self.turns_allowed, f"the writers took turns: {turns}"

    turns_allowed = 2


def other(node: str) -> str:
    return NODES[1 - NODES.index(node)]
