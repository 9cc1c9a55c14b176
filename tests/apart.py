"""Tests that are nothing but minutes of arithmetic run in processes of their own, beside the labs, which mostly wait.

Marked `apart`, or `apart("first")`: those that take longest begin first. As many processes as there are CPUs, started with the
first test; their results are taken at the end of the run, as if the tests had run there. They have idle priority in sessions of
their own: the labs' Corosync and emulated machines get the CPU whenever they want it.

- A process that dies fails the test that it was at, with the end of what it said; the other ones go on with the rest.
- Ctrl-C, --maxfail, an error: what still runs is ended, by its process id. The kernel ends it if pytest itself is killed.
- In line with --apart=0, with -s and --pdb (somebody wants to look), and when there is only one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import pytest

NUMBER_BYTES = 8  # of a test's place in the list, in the queue
SILENCE_S = 3600.0  # no result of any of them for so long while one is waited for: they hang
END_OF_LOG = 4000  # characters


def add_options(parser: pytest.Parser) -> None:
    parser.addoption("--apart", type=int, metavar="N", help="processes for tests marked apart (0: in line; else the CPUs)")
    parser.addoption("--apart-worker", metavar="QUEUE:RESULTS", help="for tests/apart.py alone: be one of them")


def is_worker(config: pytest.Config) -> bool:
    return bool(config.option.apart_worker)


def wanted(config: pytest.Config, items: List[pytest.Item]) -> List[pytest.Item]:
    """Those that are to run apart, in the order in which they are to begin."""
    option = config.option
    if option.capture == "no" or option.usepdb or option.collectonly or option.apart == 0 or is_worker(config):
        return []
    found = [item for item in items if item.get_closest_marker("apart") and not item.get_closest_marker("skip")]
    return sorted(found, key=lambda item: "first" not in _mark(item)) if len(found) > 1 else []


def _mark(item: pytest.Item) -> Any:
    mark = item.get_closest_marker("apart")
    return mark.args if mark else ()


class Process:
    """A worker from outside. begun: the test that it is at."""

    def __init__(self, process: subprocess.Popen[bytes], results: Path, log: Path) -> None:
        self.process, self.results, self.log = process, results, log
        self.begun: Optional[str] = None
        self._read = 0

    def news(self) -> List[Dict[str, Any]]:
        """What it has told since the last time; only whole lines."""
        with self.results.open("rb") as stream:
            stream.seek(self._read)
            told, _, _ = stream.read().rpartition(b"\n")
        self._read += len(told) + 1 if told else 0
        return [json.loads(line) for line in told.splitlines()]

    def death(self) -> str:
        said = self.log.read_text(errors="replace")[-END_OF_LOG:]
        return f"a process of tests/apart.py ended with code {self.process.returncode} and said:\n{said}"


class Beside:
    """A plugin of the pytest that was called: starts the processes, and takes their results for its own."""

    def __init__(self, config: pytest.Config, items: List[pytest.Item]) -> None:
        self._config = config
        self._items = {item.nodeid: item for item in items}
        self._reports: Dict[str, List[pytest.TestReport]] = {name: [] for name in self._items}
        self._done: Dict[str, Optional[str]] = {}  # test -> None, or why it has no result
        self._place: Any = None  # a directory, once they run
        self._processes: List[Process] = []

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtestloop(self) -> Iterator[None]:
        try:
            self._start()
            yield
        finally:
            self._stop()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: Optional[pytest.Item]) -> Any:
        if item.nodeid in self._items:
            item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
            for report in self._wait(item):
                item.ihook.pytest_runtest_logreport(report=report)
            item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
            return True
        if nextitem is not None and nextitem.nodeid in self._items:
            # The last one here: its fixtures end now. No lab is kept running while the others are waited for.
            return item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        return None

    def _start(self) -> None:
        self._place = Path(tempfile.mkdtemp(prefix="heartgate-apart-"))
        (self._place / "tests").write_text(json.dumps(list(self._items)))
        queue, end = os.pipe()
        try:
            os.write(end, b"".join(b"%*d" % (NUMBER_BYTES, place) for place in range(len(self._items))))
            os.close(end)  # so that who finds it empty is done
            for number in range(min(self._config.option.apart or os.cpu_count() or 1, len(self._items))):
                self._processes.append(self._begin(number, queue))
        finally:
            os.close(queue)

    def _begin(self, number: int, queue: int) -> Process:
        results, log = self._place / f"results-{number}", self._place / f"log-{number}"
        results.touch()
        command = [
            *("setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("-c", str(self._config.inipath), f"--rootdir={self._config.rootpath}", f"--apart-worker={queue}:{results}"),
            *(["--all"] if self._config.option.all else []),
            *sorted({str(item.fspath) for item in self._items.values()}),
        ]
        with log.open("wb") as said:
            process = subprocess.Popen(
                command, cwd=self._config.rootpath, stdin=subprocess.DEVNULL, stdout=said, stderr=said, pass_fds=(queue,),
                start_new_session=True,
            )  # fmt: skip
        return Process(process, results, log)

    def _wait(self, item: pytest.Item) -> List[pytest.TestReport]:
        name, heard = item.nodeid, time.monotonic()
        while name not in self._done:
            ended = [p for p in self._processes if p.process.poll() is not None]
            if any(self._take(process) for process in self._processes):
                heard = time.monotonic()
                continue
            for process in ended:  # and there is nothing left of it to be read
                if process.begun is not None:
                    self._done[process.begun], process.begun = process.death(), None
            if len(ended) == len(self._processes):
                self._done.setdefault(name, f"never begun: {ended[0].death()}")
            elif time.monotonic() - heard > SILENCE_S:
                self._done[name] = f"none of the processes of tests/apart.py has told anything for {SILENCE_S:.0f} s"
            time.sleep(0.05)
        why = self._done[name]
        if why is None:
            return self._reports[name]
        properties = [(key, value) for key, value in item.user_properties]
        return [pytest.TestReport(name, item.location, {}, "failed", why, "call", user_properties=properties)]

    def _take(self, process: Process) -> bool:
        news = process.news()
        for line in news:
            name = line["test"]
            if line["what"] == "begun":
                process.begun = name
            elif line["what"] == "done":
                self._done[name] = process.begun = None
            else:
                report = self._config.hook.pytest_report_from_serializable(config=self._config, data=line["report"])
                if isinstance(report.longrepr, list):  # the place and reason of a skip; JSON has no tuples
                    report.longrepr = tuple(report.longrepr)
                self._reports[name].append(report)
        return bool(news)

    def _stop(self) -> None:
        for process in self._processes:
            if process.process.poll() is None:
                process.process.kill()
            process.process.wait()
        if self._place is not None:
            shutil.rmtree(self._place, ignore_errors=True)


class Worker:
    """A plugin of the processes: takes tests from the queue until it is empty, and writes each result at once."""

    def __init__(self, config: pytest.Config) -> None:
        queue, _, results = config.option.apart_worker.partition(":")
        self._config, self._queue, self._results = config, int(queue), Path(results)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        become_idle()
        names = json.loads((self._results.parent / "tests").read_text())
        items = {item.nodeid: item for item in session.items}
        for number in iter(lambda: os.read(self._queue, NUMBER_BYTES), b""):
            item = items[names[int(number)]]
            self._tell(item.nodeid, "begun")
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
            self._tell(item.nodeid, "done")
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._tell(report.nodeid, "report", report=data)

    def _tell(self, name: str, what: str, **more: Any) -> None:
        with self._results.open("a") as stream:
            stream.write(json.dumps({"test": name, "what": what, **more}) + "\n")


def become_idle() -> None:
    """Idle in its session, and the session (the kernel shares the CPU out by session first) the least one."""
    os.nice(19)
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(OSError):  # a kernel that does not share it out by session
        Path("/proc/self/autogroup").write_text("19")
