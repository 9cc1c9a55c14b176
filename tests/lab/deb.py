"""A .deb of this checkout as the labs use it (packaging/build-deb), under its own version or, for an upgrade, under another one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Optional

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("lib", "agents", "fence", "packaging", "ocf-metadata", "CHANGELOG.md", "LICENSE")
PAGES = ("docs", "README.md")
# One date for all: saved states are found by the package's content, and a commit changes its default date.
DATE = "1767225600"


def checkout(target: Path, version: Optional[str] = None, *, pages: bool = True) -> Path:
    """A copy of what packages are made from. With a version the programs themselves have that: a package that only called itself
    newer would leave open whether the new files are the ones that run. Without pages, another word in one of them is no other
    package."""
    for name in (*PARTS, *(PAGES if pages else ())):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, target / name)
    if version is not None:
        init = target / "lib" / "heartgate" / "__init__.py"
        init.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{version}"', init.read_text()))
    return target


def build(tree: Path, output: Path, umask: int = 0o022) -> Path:
    """Raises subprocess.CalledProcessError."""
    program = str(tree / "packaging" / "build-deb")
    argv = ["sh", "-c", f'umask {umask:o}; exec "$@"', "sh", "/usr/bin/python3", program, str(output)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": DATE}
    subprocess.run(argv, check=True, env=environment, stdout=subprocess.DEVNULL, timeout=120)
    return output
