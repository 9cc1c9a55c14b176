"""What of the VM lab needs no machine: the kernel in Debian's files, the first configuration of each suite, which suite it is."""

from __future__ import annotations

import lzma
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.lab.api import LabError
from tests.lab.vm import form, image
from tests.vm import cib

KERNEL = image.ELF + bytes(range(256)) * 40
SCHEMAS = Path("/usr/share/pacemaker")


def bzimage(tmp_path: Path, *parts: bytes) -> Path:
    path = tmp_path / "vmlinuz-6.12"
    path.write_bytes(b"MZ" + bytes(600) + b"".join(parts) + b"what follows the kernel")
    return path


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-cq"], input=data, capture_output=True, check=True).stdout


with_zstd = pytest.mark.skipif(shutil.which("zstd") is None, reason="needs zstd")


def test_a_kernel_compressed_with_xz(tmp_path: Path) -> None:
    assert image._extract_vmlinux(bzimage(tmp_path, lzma.compress(KERNEL))) == KERNEL


@with_zstd
def test_a_kernel_compressed_with_zstd_after_the_same_bytes_in_the_code(tmp_path: Path) -> None:
    code = b"\x3d" + image.ZSTD + b"\x75\x10" + image.XZ + b"\x00"
    assert image._extract_vmlinux(bzimage(tmp_path, code, zstd(KERNEL))) == KERNEL


@with_zstd
def test_no_kernel_is_said(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"vmlinuz-6\.12"):
        image._extract_vmlinux(bzimage(tmp_path, zstd(b"no kernel"), lzma.compress(b"nor this")))


def test_the_suite_is_the_one_that_the_run_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEARTGATE_SUITE", "trixie")
    assert image.chosen_suite() == "trixie"
    monkeypatch.delenv("HEARTGATE_SUITE")
    assert image.chosen_suite() == "bookworm"
    with pytest.raises(LabError, match="one of bookworm, trixie"):
        image.build("sid")


@pytest.mark.parametrize("suite", image.SUITES)
def test_the_first_cib_and_the_resources_are_valid_in_its_schema(suite: str, tmp_path: Path) -> None:
    """As far as this machine's Pacemaker has the schema."""
    root = ElementTree.fromstring(form.seed_cib(suite))
    rng = SCHEMAS / f"{root.get('validate-with')}.rng"
    if not rng.exists() or shutil.which("xmllint") is None:
        pytest.skip(f"needs xmllint and {rng}")
    configuration = root.find("configuration")
    assert configuration is not None
    guard = {"device": "r0", "priorities": "nodea:1 nodeb:2"}
    for text in (
        cib.resources(guard, promoted_max=1, service=True, directory="/srv", log="/srv/log"),
        cib.constraints(active="nodea", service=True),
        cib.fencing_levels(),
    ):
        part = ElementTree.fromstring(text)
        there = configuration.find(part.tag)
        if there is None:
            configuration.append(part)
        else:
            there.extend(part)
    path = tmp_path / "cib.xml"
    path.write_bytes(ElementTree.tostring(root))
    done = subprocess.run(["xmllint", "--noout", "--relaxng", str(rng), str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
