"""Requirement ids of tests, and the record of each run that `./run reqs` prints; tests in the order quick to slow, and those
that run beside the others (tests/apart.py) last."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any, Dict, List

import hypothesis
import pytest

from tests import apart

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "build" / "reqs.json"
ORDER = ("unit", "ns", "vm")

# How long one example takes says how busy the machine is, and nothing else.
hypothesis.settings.register_profile("heartgate", deadline=None)
hypothesis.settings.load_profile("heartgate")

_results: Dict[str, Dict[str, Any]] = {}
_again: List[pytest.TestReport] = []  # of what was played once more


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the tests marked slow too")
    parser.addoption("--suite", choices=("bookworm", "trixie"), default="bookworm",
                     help="the machines' Debian: bookworm (12, Pacemaker 2.1) or trixie (13, Pacemaker 3.0)")  # fmt: skip
    apart.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    os.environ["HEARTGATE_SUITE"] = config.getoption("--suite")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # begun in the background: what the tests start would ignore it too
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if apart.is_worker(config):
        config.pluginmanager.register(apart.Worker(config))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: List[pytest.Item]) -> None:
    for item in items:
        item.user_properties.extend(("req", str(ident)) for mark in item.iter_markers("req") for ident in mark.args)
        if item.get_closest_marker("slow") and not config.getoption("--all"):
            item.add_marker(pytest.mark.skip(reason="slow: ./run test --all"))

    beside = apart.wanted(config, items)
    if beside:
        config.pluginmanager.register(apart.Beside(config, beside))

    def place(item: pytest.Item) -> int:
        parts = Path(str(item.fspath)).parts
        kind = next((i for i, name in enumerate(ORDER) if name in parts), len(ORDER))
        return len(ORDER) + 1 if item in beside else kind

    items.sort(key=place)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.outcome == "rerun":
        _again.append(report)
    ids = [ident for name, ident in report.user_properties if name == "req"]
    if not ids or report.outcome == "rerun":  # only the last play counts here; the summary names those that were played again
        return
    known = _results.setdefault(report.nodeid, {"reqs": ids, "outcome": "none"})
    if report.failed or hasattr(report, "wasxfail"):  # a known fault is a fault: the requirement does not count as met
        known["outcome"] = "fail"
    elif report.when == "call" and known["outcome"] != "fail":
        known["outcome"] = "none" if report.skipped else "pass"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Results of this run replace those of the same tests; tests that are gone are forgotten by `./run reqs`."""
    if not _results or apart.is_worker(session.config):
        return
    before: Dict[str, Any] = {}
    if RECORD.exists():
        before = json.loads(RECORD.read_text())
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps({**before, **_results}, indent=1, sort_keys=True))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What was played again, and why: a lab whose wait ran out of time is a fault of somebody's, even if it went well then."""
    if _again:
        terminalreporter.section("played again, in full")
    for report in _again:
        terminalreporter.line(f"{report.nodeid}\n{report.longreprtext}")
        for title, content in report.sections:
            terminalreporter.line(f"--- {title}\n{content}")
