"""The host's record of acknowledged writes: what the service promised, kept outside the machines that may die.

In the machine, `/usr/lib/lab/writer.py` (or the agent `ocf:lab:writer`, which follows the service) reports every write
over a virtio-serial port as soon as it was acknowledged. Here the reports are counted, timed and compared with a copy.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Dict, List, Mapping, Optional, Set, Tuple

from tests.lab.api import LabError
from tests.lab.vm.machine import Machine

PROGRAM = "/usr/lib/lab/writer.py"
READER = "/usr/lib/lab/records.py"


@dataclass(frozen=True)
class Report:
    """One line of a writer. `kind`: begin, ack, error (detail: errno) or end. `at`: arrival, host CLOCK_MONOTONIC."""

    at: float
    kind: str
    writer: str
    run: str
    seq: int
    node: str
    detail: str


@dataclass(frozen=True)
class Verification:
    """What a copy holds of the acknowledged records. `missing`: acknowledged (run, seq) that are not there."""

    acknowledged: int
    found: int
    damaged: int
    missing: Set[Tuple[str, int]] = field(default_factory=set)


class WriteLog:
    """Reports of all writers of one lab. Several writers are told apart by name; each start of one is a `run`."""

    def __init__(self, nodes: Mapping[str, Machine]) -> None:
        self._nodes = nodes
        self._reports: List[Report] = []
        self._changed = threading.Condition()
        for node in nodes.values():
            node.on_writer_line = self._line

    def _line(self, _node: str, line: bytes) -> None:
        words = line.decode(errors="replace").split(" ", 5)
        if len(words) != 6 or not words[3].isdigit():  # torn by a reset
            return
        kind, writer, run, seq, node, detail = words
        with self._changed:
            self._reports.append(Report(time.monotonic(), kind, writer, run, int(seq), node, detail))
            self._changed.notify_all()

    def start(
        self,
        node: str,
        path: str,
        *,
        writer: str = "w0",
        start: int = 0,
        length: int = 0,
        interval_ms: float = 30.0,
        count: int = 0,
    ) -> None:
        """Start a writer on a node (in the background): a file, or with `length` a range of a block device."""
        argv = [
            "systemd-run",
            "--quiet",
            "--collect",
            f"--unit=lab-writer-{writer}",
            "--property=KillMode=process",
            PROGRAM,
        ]
        argv += ["--writer", writer, "--path", path, "--start", str(start), "--length", str(length)]
        argv += ["--interval-ms", str(interval_ms), "--count", str(count)]
        seen = len(self.reports(writer))
        self._nodes[node].run(argv)
        self.wait(writer, seen + 1, timeout_s=60)

    def stop(self, node: str, *, writer: str = "w0", timeout_s: float = 60.0) -> None:
        self._nodes[node].run(["systemctl", "stop", f"lab-writer-{writer}"], timeout_s=timeout_s)

    # ---- reading

    def reports(self, writer: Optional[str] = None) -> List[Report]:
        with self._changed:
            return [report for report in self._reports if writer is None or report.writer == writer]

    def acks(self, writer: str = "w0", *, node: Optional[str] = None, since: float = 0.0) -> List[Report]:
        """Acknowledgements in order of arrival."""
        return [r for r in self.reports(writer) if r.kind == "ack" and r.at >= since and node in (None, r.node)]

    def acknowledged(self, writer: str = "w0") -> Set[Tuple[str, int]]:
        return {(r.run, r.seq) for r in self.acks(writer)}

    def errors(self, writer: str = "w0") -> List[Report]:
        return [r for r in self.reports(writer) if r.kind == "error"]

    def longest_pause(self, writer: str = "w0", *, since: float = 0.0, until: Optional[float] = None) -> float:
        """Seconds between two neighbouring acknowledgements; `until` (a host time) closes the last gap."""
        times = [r.at for r in self.acks(writer, since=since) if until is None or r.at <= until]
        if since:
            times.insert(0, since)
        if until is not None:
            times.append(until)
        return max((later - earlier for earlier, later in zip(times, times[1:])), default=0.0)

    def wait(self, writer: str, reports: int, *, timeout_s: float) -> None:
        """Until there are so many reports of a writer."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while sum(report.writer == writer for report in self._reports) < reports:
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    raise LabError(f"writer {writer} gave fewer than {reports} reports within {timeout_s:g} s")

    def wait_acks(
        self, count: int, *, writer: str = "w0", node: Optional[str] = None, since: float = 0.0, timeout_s: float = 60.0
    ) -> None:
        """Until so many acknowledgements (of that node, after that time) have arrived."""
        deadline = time.monotonic() + timeout_s
        while True:
            got = len(self.acks(writer, node=node, since=since))
            if got >= count:
                return
            if time.monotonic() > deadline:
                raise LabError(f"writer {writer}: {got} of {count} acknowledgements within {timeout_s:g} s")
            time.sleep(0.02)

    def verify(self, node: str, path: str, *, writer: str = "w0", timeout_s: float = 120.0) -> Verification:
        """Compare with a copy: a file, or a whole block device (`/dev/vdb`, below DRBD, can be read at any time).

        What counts is what was acknowledged before the reading began: the writer may go on meanwhile.
        """
        acknowledged = self.acknowledged(writer)
        found: Dict[Tuple[str, str], Set[int]] = defaultdict(set)
        damaged = 0
        for line in self._nodes[node].run([READER, path], timeout_s=timeout_s).stdout.splitlines():
            words = line.split()
            if words[0] == "damaged":
                damaged = int(words[1])
            else:
                found[words[0], words[1]].update(range(int(words[2]), int(words[3]) + 1))
        missing = {(run, seq) for run, seq in acknowledged if seq not in found.get((writer, run), ())}
        present = sum(len(sequences) for (name, _), sequences in found.items() if name == writer)
        return Verification(len(acknowledged), present, damaged, missing)
