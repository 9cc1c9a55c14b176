"""`./run demo`: a real cluster of two machines loses its sync cable, and you see what both nodes decide.

Exit code 0: the right node went on, the other was blocked, nothing acknowledged was lost, and everything healed by itself.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from typing import Callable, Dict, List, Optional, Tuple

from tests.lab.api import LabError, wait_until
from tests.lab.vm.machine import NODES
from tests.vm.cluster import HaLab, Variant, restore

WORDS = {
    "synced": "in sync: may serve",
    "deciding": "has lost the sync link: frozen until there is a verdict",
    "solo": "goes on alone, with proof that the other cannot",
    "blocked": "is blocked: reads and writes refused",
    "unproven": "does not know whether its data is current",
}


class Narrator:
    """Prints what happens, with the time since the cable was pulled."""

    def __init__(self, ha: HaLab) -> None:
        self._ha = ha
        self._zero = time.monotonic()
        self._last: Dict[str, str] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._watch, args=(name,), daemon=True) for name in NODES]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=30)

    def reset_clock(self) -> None:
        self._zero = time.monotonic()

    def say(self, text: str, who: str = "you") -> None:
        with self._lock:
            print(f"  {time.monotonic() - self._zero:7.1f} s  {who:6}  {text}", flush=True)

    def _watch(self, name: str) -> None:
        while not self._stop.is_set():
            try:
                record = self._ha.record(name)
            except LabError:
                record = {}
            standing = str(record.get("standing", ""))
            if standing and standing != self._last.get(name):
                self._last[name] = standing
                proofs = ", ".join(f"{node} {kind}" for node, kind, _ in record.get("proofs", []))
                proof = f" (proof: {proofs})" if proofs and standing == "solo" else ""
                self.say(f"{standing}, epoch {record.get('epoch')}: {WORDS.get(standing, '')}{proof}", name)
            self._stop.wait(0.2)


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog="./run demo", description=__doc__)
    parser.add_argument("--policy", choices=["priority", "active-first"], default="priority")
    parser.add_argument("--active", choices=list(NODES), default="nodea", help="where the service runs at the start")
    parser.add_argument("--alone-s", type=float, default=10.0, help="seconds until the cable is put back (default 10)")
    options = parser.parse_args(argv)
    print("Bringing up two virtual machines with Corosync, Pacemaker, DRBD and heartgate.")
    print("(The first time this builds an image and forms the cluster: some minutes. Then it takes seconds.)")
    started = time.monotonic()
    try:
        with restore(Variant(policy=options.policy, active=options.active)) as ha:
            ha.lab.quick_drbd()
            print(f"The cluster runs after {time.monotonic() - started:.1f} s; the service is on {options.active}.\n")
            return _show(ha, options.alone_s)
    except LabError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted; the machines are gone, the image is kept", file=sys.stderr)
        return 130


def _show(ha: HaLab, alone_s: float) -> int:
    narrator = Narrator(ha)
    ha.writes.wait_acks(10, timeout_s=60)
    narrator.say(f"one synchronous write every 30 ms on {ha.active}")
    narrator.start()
    time.sleep(3)
    narrator.reset_clock()
    narrator.say("the sync cable is pulled")
    cut_at = time.monotonic()
    ha.lab.cut("sync0")
    winner = wait_until("a node to go on alone", lambda: _solo(ha), timeout_s=90)
    loser = NODES[1 - NODES.index(winner)]
    ha.wait_standing(loser, "blocked", timeout_s=90)
    ha.wait_served_by(winner, since=cut_at + 0.5, timeout_s=120)
    narrator.say(f"writes go on, {ha.writes.acks(node=winner, since=cut_at)[0].at - cut_at:.2f} s after the cut", winner)
    time.sleep(max(0.0, cut_at + alone_s - time.monotonic()))
    narrator.say("the sync cable is put back")
    ha.lab.mend("sync0")
    mended_at = time.monotonic()
    ha.wait_healed()
    ha.lab.wait_in_sync()
    narrator.say(f"healed: both copies equal again after {time.monotonic() - mended_at:.1f} s")
    time.sleep(1)
    narrator.stop()
    return _table(ha, winner, loser, cut_at, mended_at)


def _solo(ha: HaLab) -> Optional[str]:
    return next((name for name in NODES if ha.standing(name) == "solo"), None)


def _table(ha: HaLab, winner: str, loser: str, cut_at: float, mended_at: float) -> int:
    first = ha.writes.acks()[0].at
    phases: List[Tuple[str, float, float]] = [
        ("before the cut", first, cut_at),
        ("sync link cut", cut_at, mended_at),
        ("after mending", mended_at, time.monotonic()),
    ]
    print(f"\n  {'':16}{'served by':12}{'writes':>8}{'longest pause':>16}")
    for name, start, end in phases:
        acks = [report for report in ha.writes.acks(since=start) if report.at < end]
        nodes = "+".join(sorted({report.node for report in acks})) or "nobody"
        pause = ha.writes.longest_pause(since=start, until=end)
        print(f"  {name:16}{nodes:12}{len(acks):8}{pause:14.2f} s")
    lost = {node: len(ha.writes.verify(node, "/dev/vdb").missing) for node in NODES}
    total = len(ha.writes.acknowledged())
    checks: List[Tuple[str, Callable[[], bool]]] = [
        ("no acknowledged write is lost", lambda: not any(lost.values())),
        ("nobody was fenced", lambda: not ha.lab.fencings),
        (f"{loser} acknowledged nothing after {winner} went on", lambda: _no_overlap(ha, winner, loser, cut_at)),
    ]
    print(f"\n  writes acknowledged: {total}, lost on {NODES[0]}: {lost[NODES[0]]}, lost on {NODES[1]}: {lost[NODES[1]]}")
    held = True
    for text, check in checks:
        fine = check()
        held = held and fine
        print(f"  {'yes' if fine else 'NO ':3}  {text}")
    return 0 if held else 1


def _no_overlap(ha: HaLab, winner: str, loser: str, cut_at: float) -> bool:
    alone = ha.writes.acks(node=winner, since=cut_at)
    last_of_loser = [report.at for report in ha.writes.acks(node=loser)]
    return not last_of_loser or not alone or max(last_of_loser) < alone[0].at or alone[0].at < cut_at + 0.5


if __name__ == "__main__":
    sys.exit(main())
