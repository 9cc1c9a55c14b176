"""Requirement ids of tests, and the record of each run that `./run reqs` prints; tests in the order quick to slow."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Dict, List

import pytest

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "build" / "reqs.json"
ORDER = ("unit", "ns", "vm")

_results: Dict[str, Dict[str, Any]] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the tests marked slow too")
    parser.addoption("--suite", choices=("bookworm", "trixie"), default="bookworm",
                     help="Debian of the virtual machines: bookworm (12, Pacemaker 2.1) or trixie (13, Pacemaker 3.0)")  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    os.environ["HEARTGATE_SUITE"] = config.getoption("--suite")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: List[pytest.Item]) -> None:
    if not config.getoption("--all"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: ./run test --all"))

    def place(item: pytest.Item) -> int:
        parts = Path(str(item.fspath)).parts
        return next((i for i, name in enumerate(ORDER) if name in parts), len(ORDER))

    items.sort(key=place)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    outcome = yield
    report = outcome.get_result()
    ids = [str(ident) for mark in item.iter_markers("req") for ident in mark.args]
    if not ids:
        return
    known = _results.setdefault(item.nodeid, {"reqs": ids, "outcome": "none"})
    if report.failed or hasattr(report, "wasxfail"):  # a known fault is a fault: the requirement does not count as met
        known["outcome"] = "fail"
    elif report.when == "call" and known["outcome"] != "fail":
        known["outcome"] = "none" if report.skipped else "pass"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Results of this run replace those of the same tests; tests that are gone are forgotten by `./run reqs`."""
    if not _results:
        return
    before: Dict[str, Any] = {}
    if RECORD.exists():
        before = json.loads(RECORD.read_text())
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps({**before, **_results}, indent=1, sort_keys=True))
