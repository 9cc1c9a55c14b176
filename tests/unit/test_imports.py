"""Which part may import which (docs/architecture.md), and the one place that starts programs."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Dict, Iterator, List, Set

import pytest

LIBRARY = Path(__file__).resolve().parents[2] / "lib" / "heartgate"
AGENTS = LIBRARY.parents[1] / "agents"
ENTRY_POINTS = {"ocf", "fencing", "cli", "handlers"}
ALLOWED: Dict[str, Set[str]] = {
    "core": {"core"},
    "checks": {"checks"},
    "adapters": {"adapters", "core", "checks"},
    "daemon": {"daemon", "core", "checks"},
    "sim": {"sim", "core"},
    **{name: {name, "daemon", "core", "checks", "adapters", "sim"} for name in ENTRY_POINTS},
}
# The daemon knows the contract of the adapters; the real ones are given to it by these.
ASSEMBLY = {"daemon/assembly.py", "daemon/main.py"}
STARTS_PROGRAMS = {"adapters/process.py"}


def modules() -> List[Path]:
    return sorted(LIBRARY.rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(path: Path) -> Set[str]:
    return {name for name in imported(path) if name.startswith("heartgate.")}


def identify(path: Path) -> str:
    return path.relative_to(LIBRARY).as_posix()


@pytest.mark.parametrize("path", modules(), ids=identify)
def test_direction(path: Path) -> None:
    name = identify(path)
    part = name.split("/")[0]
    if "/" not in name:
        assert not ours(path), f"{name} imports parts of ours"
        return
    assert part in ALLOWED, f"{part} has no place in docs/architecture.md"
    for target in ours(path):
        if target.split(".")[1] in ("__version__",):
            continue
        wanted = target.split(".")[1]
        if part == "daemon" and wanted == "adapters":
            contract = target.startswith("heartgate.adapters.base")
            assert contract or name in ASSEMBLY, (
                f"{name} imports {target}: only {sorted(ASSEMBLY)} know the real adapters"
            )
            continue
        assert wanted in ALLOWED[part], f"{name} imports {target}"


@pytest.mark.parametrize("path", modules(), ids=identify)
def test_programs_are_started_in_one_place(path: Path) -> None:
    starters = {name for name in imported(path) if name.split(".")[0] in ("subprocess", "multiprocessing", "pty")}
    assert not starters or identify(path) in STARTS_PROGRAMS, f"{identify(path)} imports {starters}"


@pytest.mark.parametrize("name", ["core", "checks"])
def test_the_core_touches_nothing(name: str) -> None:
    outside = {"os", "socket", "time", "threading", "logging", "random", "pathlib", "select", "selectors", "datetime"}
    for path in sorted((LIBRARY / name).rglob("*.py")):
        touched = {item.split(".")[0] for item in imported(path)} & outside
        assert not touched, f"{identify(path)} imports {touched}"


def test_modules_stay_small() -> None:
    long = {identify(path): len(path.read_text(encoding="utf-8").splitlines()) for path in modules()}
    assert not {name: lines for name, lines in long.items() if lines >= 600}
