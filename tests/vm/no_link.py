"""tests/lab/orders.py in the VM lab, on heartgate and on the stock stack; each result is a line of docs/no-link-left.jsonl, so that
the long list can be taken up where it was left, on another machine too, and docs/no-link-left.md is written from them.

    ./run orders [--stack heartgate|stock] [--repeat N] [--order NAME] [--active NODE] [--report]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from tests.lab.api import LabError
from tests.lab.orders import NODES, ORDERS, Order, Shot, play
from tests.vm.cluster import HaLab, Variant, package_content, restore
from tests.vm.stock import use_stock_stack

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "no-link-left.jsonl"
REPORT = ROOT / "docs" / "no-link-left.md"
BACK_S = 300.0


class VmStage:
    boot_s = 60.0

    def __init__(self, ha: HaLab, *, stock: bool = False) -> None:
        self.ha = ha
        self.lab = ha.lab
        self.active = ha.active
        self.stock = stock

    def fencing(self, mode: str, delay_s: float = 0.0) -> None:
        if mode == "slow" and not self.stock:  # rank_delay has to be longer than the power agent takes
            for name, value in (("rank_delay", delay_s + 15), ("pcmk_off_timeout", 300), ("pcmk_reboot_timeout", 300)):
                argv = ["crm_resource", "--resource", "gate", "--set-parameter", name, "--parameter-value", f"{value:g}"]
                self.ha.nodes["nodea"].run(argv, timeout_s=60)
        faults = self.lab.fence_faults
        faults.unreachable_from = set(NODES) if mode == "unreachable" else set()
        faults.fail, faults.delay_s = mode == "failing", delay_s if mode == "slow" else 0.0

    def shots(self) -> List[Shot]:
        return [Shot(each.target, each.by, each.asked_at) for each in self.lab.fencings
                if each.ok and each.action in ("off", "reboot")]  # fmt: skip

    def acks(self, since: float) -> List[Tuple[float, str]]:
        return [(report.at, report.node) for report in self.ha.writes.acks(since=since)]

    def signal(self, node: str, program: str, signal: str) -> None:
        there = self.ha.nodes[node]
        if program == "heartgated":
            there.run(["systemctl", "mask", "--runtime", "--now", "heartgated"], timeout_s=60)
        else:
            there.run(["pkill", f"-{signal}", "-x", program])

    def healed(self) -> None:
        self._wait_online(time.monotonic() + 300)
        for node in self.ha.nodes.values():
            if not self.stock:
                node.run(["systemctl", "unmask", "--runtime", "heartgated"], check=False, timeout_s=60)
        if not self.stock:
            self.ha.wait_healed(timeout_s=400)
        self.lab.wait_in_sync(timeout_s=240)

    def _wait_online(self, deadline: float) -> None:
        """A node may be shot, or switched on, in the middle of a question."""
        while True:
            try:
                self.lab.wait_online(timeout_s=max(1.0, deadline - time.monotonic()))
                return
            except LabError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)

    def missing(self) -> Dict[str, int]:
        return {node: len(self.ha.writes.verify(node, "/dev/vdb").missing) for node in NODES}


def play_once(order: Order, active: str, stack: str) -> Dict[str, Any]:
    """One fresh cluster, one order. Raises LabError if the lab itself fails before the harm is done."""
    stock = stack == "stock"
    with restore(Variant(policy="active-first", active=active)) as ha:
        ha.lab.quick_drbd()
        if stock:
            use_stock_stack(ha)
        ha.writes.wait_acks(20, timeout_s=60)
        result = play(VmStage(ha, stock=stock), order, back_s=BACK_S)
        day = time.strftime("%Y-%m-%d")
        data: Dict[str, Any] = {"stack": stack, "played": day, "package": package_content()[:12], **result.data()}
        if result.wrong and not stock:
            data["status"] = {node: ha.status(node) for node in NODES if ha.nodes[node].powered()}
            for node in NODES:
                try:
                    print(f"--- {node}\n{ha.journal(node, 120)}\n{ha.journal(node, 60, boot=-1)}", file=sys.stderr)
                except LabError as error:
                    print(f"--- {node}: no journal: {error}", file=sys.stderr)
        return data


def keep(data: Dict[str, Any]) -> None:
    with RESULTS.open("a") as out:
        out.write(json.dumps(data) + "\n")


def results() -> List[Dict[str, Any]]:
    try:
        return [json.loads(line) for line in RESULTS.read_text().splitlines()]
    except FileNotFoundError:
        return []


def wanted(options: argparse.Namespace) -> Iterator[Tuple[Order, str]]:
    """What has not been played often enough. The whole list once, before anything twice."""
    for repetition in range(options.repeat):
        for order in ORDERS.values():
            for active in NODES:
                if options.order in (None, order.name) and options.active in (None, active):
                    done = sum((each["stack"], each["order"], each["active"]) == (options.stack, order.name, active)
                               for each in results())  # fmt: skip
                    if done <= repetition:
                        yield order, active


def run(options: argparse.Namespace) -> int:
    failed = 0
    for order, active in wanted(options):
        print(f"==> {options.stack}: {order.name}, active on {active}: {order.about}", flush=True)
        started = time.monotonic()
        try:
            data = play_once(order, active, options.stack)
        except LabError as error:
            print(f"    the lab failed: {error}", flush=True)
            failed += 1
            continue
        failed += bool(data["wrong"]) and options.stack == "heartgate"
        keep(data)
        wrong = "; ".join(data["wrong"]) or "held"
        print(f"    pause {data['pause_s']} s, shot {data['shot']}, served by {data['served_by']}: {wrong} "
              f"({time.monotonic() - started:.0f} s)", flush=True)  # fmt: skip
    return 1 if failed else 0


def _cell(found: List[Dict[str, Any]]) -> str:
    if not found:
        return "not played"
    pauses = [each["pause_s"] for each in found]
    span = f"{min(pauses):g}" if min(pauses) == max(pauses) else f"{min(pauses):g}-{max(pauses):g}"
    shots = sorted({len(each["shot"]) for each in found})
    words = [f"{span} s", f"{'/'.join(map(str, shots))} shot", f"{max(each['lost'] for each in found)} lost"]
    wrong = sorted({text.split(":")[0] for each in found for text in each["wrong"]})
    return ", ".join(words) + (f"; **{'; '.join(wrong)}**" if wrong else "")


def report() -> str:
    """docs/no-link-left.md: each order on both stacks, side by side."""
    found = results()
    lines = [
        "# No link left: what came of each order of losses",
        "",
        "Played in the VM lab (DRBD 8.4, emulated machines, so times count only against each other) by",
        "`./run orders`; the judge is outside. Each cell: the writer's longest pause, times a node was shot,",
        "acknowledged writes lost, and in bold what did not hold. The service is a file system with a writer; `active` names the",
        "node that it ran on; priorities are nodea 1, nodeb 2, `policy=active-first`. Stock: crm-fence-peer.9.sh, STONITH.",
        "",
        "| what is lost | active | heartgate | plays | stock stack | plays |",
        "|---|---|---|---|---|---|",
    ]
    for order in ORDERS.values():
        for active in NODES:
            mine, theirs = (
                [each for each in found if (each["stack"], each["order"], each["active"]) == (stack, order.name, active)]
                for stack in ("heartgate", "stock")
            )
            lines.append(f"| {order.about} | {active} | {_cell(mine)} | {len(mine)} | {_cell(theirs)} | {len(theirs)} |")
    return "\n".join(lines) + "\n"


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog="./run orders", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stack", choices=("heartgate", "stock"), default="heartgate")
    parser.add_argument("--repeat", type=int, default=3, help="how often each order is wanted in all (3)")
    parser.add_argument("--order", choices=sorted(ORDERS))
    parser.add_argument("--active", choices=NODES)
    parser.add_argument("--report", action="store_true", help=f"only write {REPORT.name} from what is there")
    options = parser.parse_args(argv)
    code = 0 if options.report else run(options)
    REPORT.write_text(report())
    return code


if __name__ == "__main__":
    sys.exit(main())
