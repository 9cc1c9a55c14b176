"""Whether KVM really works here, found out by booting with it: /dev/kvm may be there and lead nowhere."""

from __future__ import annotations

import json
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import List, Tuple

from tests.lab.vm.image import Image
from tests.lab.vm.paths import cache_root, digest, progress

QEMU = "qemu-system-x86_64"
MACHINE = "q35,usb=off,smbus=off,sata=off"
TCG = ("-accel", "tcg,thread=multi,tb-size=256", "-cpu", "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt")
KVM = ("-accel", "kvm", "-cpu", "host")
# mov al,0x31; out 0xf4,al; hlt: with isa-debug-exit QEMU ends with (0x31 << 1) | 1.
BOOT_SECTOR = b"\xb0\x31\xe6\xf4\xf4\xeb\xfd".ljust(510, b"\0") + b"\x55\xaa"
BOOT_SECTOR_RC = 99
SECTOR_TIMEOUT_S = 8
KERNEL_TIMEOUT_S = 30


@cache
def qemu_version() -> str:
    return subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


@cache
def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def accel_args(image: Image) -> Tuple[str, ...]:
    """KVM where a machine was seen to boot with it, else software emulation. Remembered until the next boot."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text()
    remembered = cache_root() / f"kvm-{digest(boot_id, qemu_version(), image.kernel)}.json"
    try:
        works, why = json.loads(remembered.read_text())
    except (OSError, ValueError):
        for old in cache_root().glob("kvm-*.json"):
            old.unlink()
        works, why = probe_kvm(image)
        progress(f"KVM {'works' if works else 'does not work'}: {why}")
        remembered.write_text(json.dumps([works, why]))
    return KVM if works else TCG


def probe_kvm(image: Image) -> Tuple[bool, str]:
    """(does it boot, how that was found out)."""
    if not Path("/dev/kvm").exists():
        return False, "no /dev/kvm"
    with tempfile.NamedTemporaryFile(suffix=".img") as floppy:
        floppy.write(BOOT_SECTOR.ljust(1474560, b"\0"))
        floppy.flush()
        argv = [QEMU, "-nodefaults", "-display", "none", "-machine", "pc", *KVM, "-m", "16", "-boot", "a"]
        argv += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-drive", f"if=floppy,format=raw,file={floppy.name}"]
        rc, text = _bounded(argv, SECTOR_TIMEOUT_S)
    if rc != BOOT_SECTOR_RC:
        return False, f"a boot sector that should end at once did not run (rc {rc}) {text}"
    argv = [QEMU, "-nodefaults", "-display", "none", "-machine", MACHINE, *KVM, "-m", "256", "-no-reboot"]
    argv += ["-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", "lab.probe quiet panic=-1"]
    rc, text = _bounded(argv, KERNEL_TIMEOUT_S)
    return rc == 0, f"a kernel was booted (rc {rc}) {text}"


def _bounded(argv: List[str], timeout_s: float) -> Tuple[int, str]:
    try:
        outcome = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return 124, f"nothing within {timeout_s:g} s"
    return outcome.returncode, outcome.stderr.strip()[-200:]
