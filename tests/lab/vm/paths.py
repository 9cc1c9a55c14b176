"""Where the VM lab keeps what it builds, and the two things everything in it shares: progress lines and locks."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Iterator, TextIO

from tests.lab.api import LabError

GUEST_DIR = Path(__file__).resolve().parent / "guest"
BUILD_LIMIT_S = 1200.0
_STARTED = time.monotonic()


def cache_root() -> Path:
    """$HEARTGATE_CACHE/vm, or ~/.cache/heartgate/vm."""
    chosen = os.environ.get("HEARTGATE_CACHE")
    root = Path(chosen) / "vm" if chosen else Path.home() / ".cache" / "heartgate" / "vm"
    root.mkdir(parents=True, exist_ok=True)
    return root


def progress(text: str) -> None:
    print(f"[vm lab {time.monotonic() - _STARTED:7.1f} s] {text}", file=sys.stderr, flush=True)


def digest(*parts: object) -> str:
    """Twelve hex digits that change when any part does."""
    hasher = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else repr(part).encode()
        hasher.update(len(data).to_bytes(8, "big") + data)
    return hasher.hexdigest()[:12]


@contextlib.contextmanager
def exclusive(name: str) -> Iterator[None]:
    """One builder at a time; a second one waits and then finds the work done."""
    deadline = time.monotonic() + BUILD_LIMIT_S
    with open(cache_root() / f"{name}.lock", "w") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise LabError(f"another process has been building the {name} for {BUILD_LIMIT_S:g} s") from None
                time.sleep(0.2)
        yield


@contextlib.contextmanager
def built_aside(final: Path) -> Iterator[Path]:
    """A temporary directory beside `final` that becomes it by rename, or vanishes when the body fails.

    Call it under `exclusive`: leftovers of a builder that was killed are swept here.
    """
    for leftover in final.parent.glob(f".building-{final.name}-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    aside = Path(tempfile.mkdtemp(prefix=f".building-{final.name}-", dir=final.parent))
    try:
        yield aside
        aside.chmod(0o755)
        aside.rename(final)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def turn(wait_s: float) -> TextIO:
    """One lab at a time, while the returned file is open: two on a small machine make each other's time limits fail.

    Whoever waited `wait_s` in vain goes on all the same: late and slow beats never.
    """
    handle = open(cache_root() / "running.lock", "w")  # noqa: SIM115
    deadline = time.monotonic() + wait_s
    told = False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except OSError:
            if time.monotonic() >= deadline:
                return handle
            if not told:
                progress(f"another VM lab is running; waiting up to {wait_s:g} s for it to end")
                told = True
            time.sleep(0.2)


def in_use(directory: Path) -> TextIO:
    """Mark a cached directory as needed until the returned file is closed (or this process ends)."""
    handle = open(directory / "in-use", "a")  # noqa: SIM115
    fcntl.flock(handle, fcntl.LOCK_SH)
    (directory / "in-use").touch()
    return handle


def newest_only(parent: Path, prefix: str, keep: Path, count: int) -> None:
    """Delete all but `keep` and the `count - 1` most recently used directories of one kind (never one in use)."""
    others = [path for path in parent.glob(f"{prefix}*") if path.is_dir() and path != keep]
    others.sort(key=_last_used)
    for stale in others[: max(0, len(others) - (count - 1))]:
        with open(stale / "in-use", "a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            progress(f"removing stale {stale.name}")
            shutil.rmtree(stale, ignore_errors=True)


def _last_used(directory: Path) -> float:
    mark = directory / "in-use"
    return (mark if mark.exists() else directory).stat().st_mtime
