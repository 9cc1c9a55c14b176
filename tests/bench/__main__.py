"""`./run bench`: measures, prints the table, keeps it in docs/benchmarks.md."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import List

from tests.bench import heartbeat_links, machines, nodes
from tests.bench.table import RESULT, Row, show


def main() -> int:
    parser = argparse.ArgumentParser(prog="./run bench", description=__doc__)
    parser.add_argument("--only", choices=["ns", "vm"], help="one lab alone (docs/benchmarks.md is left as it is)")
    parser.add_argument("--idle-s", type=float, default=60.0, help="seconds over which the idle CPU is counted")
    options = parser.parse_args()
    rows: List[Row] = []
    if options.only in (None, "ns"):
        print("namespace lab: monitors and the daemon with 1 and 100 devices ...", file=sys.stderr)
        rows += nodes.measure(options.idle_s)
        print("namespace lab: heartbeat links, with agents of others beside ours ...", file=sys.stderr)
        rows += heartbeat_links.measure()
    if options.only in (None, "vm"):
        print("VM lab: a sync cut with heartgate and with the stock stack ...", file=sys.stderr)
        rows += machines.measure()
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), "unknown")  # fmt: skip
    notes = [
        f"Measured {time.strftime('%Y-%m-%d')} on {os.cpu_count()} CPUs ({model}), load {os.getloadavg()[0]:.1f} at the end; the "
        "virtual machines are emulated where KVM does not work.",
        "Ratio: heartgate's figure divided by the peer's, from the same run; below 1 is better for heartgate.",
    ]
    table = show(rows, notes)
    print(table)
    if options.only is None:
        RESULT.write_text("# Benchmarks: the last result of `./run bench`\n\n" + table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
