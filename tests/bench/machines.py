"""In the VM lab: a plain sync cut with heartgate and with the stock stack (crm-fence-peer.9.sh), one after the other."""

from __future__ import annotations

import re
import time
from typing import List, Tuple

from tests.bench.table import Row
from tests.lab.api import wait_until
from tests.vm.cluster import HaLab, Variant, restore
from tests.vm.stock import use_stock_stack

SEEN_S = 12.0


def measure() -> List[Row]:
    our_handler, our_pause = _cut(stock=False)
    their_handler, their_pause = _cut(stock=True)
    return [
        Row("fence-peer handler, call to exit", our_handler, "s", "crm-fence-peer.9.sh", their_handler, "0.1"),
        Row("longest pause of the writer in a sync cut", our_pause, "s", "stock stack", their_pause, "0.25"),
    ]


def _cut(stock: bool) -> Tuple[float, float]:
    """(seconds of the handler, longest pause of the writer) for one cut on the active node."""
    with restore(Variant()) as ha:
        ha.lab.quick_drbd()
        if stock:
            use_stock_stack(ha)
        ha.writes.wait_acks(20)
        ha.run("nodea", ["sh", "-c", "drbdsetup events2 --timestamps r0 > /run/events2 2>&1 &"])
        time.sleep(12)  # an armed ping-int of 10 s stays for one round after the adjustment
        since = time.monotonic()
        ha.lab.cut("sync0")
        ha.writes.wait_acks(20, node="nodea", since=since + 2, timeout_s=90)
        time.sleep(SEEN_S)
        pause = ha.writes.longest_pause(since=since, until=time.monotonic() - SEEN_S / 2)
        events = wait_until("the handler's end", lambda: _handler_events(ha), timeout_s=60)
        return _between(events), pause


def _handler_events(ha: HaLab) -> str:
    text = ha.run("nodea", ["cat", "/run/events2"]).stdout
    return text if "response helper" in text else ""


def _between(events: str) -> float:
    def at(kind: str) -> float:
        line = next(line for line in events.splitlines() if f"{kind} helper" in line and "fence-peer" in line)
        found = re.match(r"\S*T(\d+):(\d+):(\d+\.\d+)", line)
        if found is None:
            raise AssertionError(f"no time in {line!r}")
        hours, minutes, seconds = found.groups()
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)

    return at("response") - at("call")
