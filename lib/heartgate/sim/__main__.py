"""`python3 -m heartgate.sim`: explore two nodes and print what was found."""

from __future__ import annotations

import argparse
import sys
import time
from typing import List, Optional

from heartgate.core.model import OnIsolation, Rank
from heartgate.core.rules import GUARDS, TABLE
from heartgate.sim.explorer import Report, Violation, explore
from heartgate.sim.moves import KINDS, RARE_KINDS, Setting
from heartgate.sim.world import Flaws

RULES = (*(rule.ident for rule in TABLE), *(ident for ident, _ in GUARDS))
PRIMARIES = {"a": (0,), "b": (1,), "none": (), "both": (0, 1)}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python3 -m heartgate.sim",
        description="Walks through every order of what can happen to two nodes with a bounded number of faults, with the "
        "real policy, and checks the invariants and liveness. Exit code 0: nothing found, 1: a violation (its script is "
        "printed), 2: wrong usage, 3: stopped at --limit.",
    )
    made.add_argument("--faults", type=int, default=2, metavar="N", help="how many faults at most (default 2)")
    made.add_argument("--rank", choices=[r.value for r in Rank], default="priority", help="how replicas are ranked")
    made.add_argument("--primary", choices=sorted(PRIMARIES), default="a", help="who is Primary at first (default a)")
    made.add_argument("--without", action="append", default=[], choices=RULES, metavar="RULE",
                      help=f"leave a rule out; may be repeated; one of {', '.join(RULES)}")  # fmt: skip
    made.add_argument("--flaw", action="append", default=[], choices=Flaws._fields, help="a world that does something wrong")
    made.add_argument("--kind", action="append", choices=KINDS + RARE_KINDS,
                      help=f"only such faults; may be repeated (default: {', '.join(KINDS)})")
    made.add_argument("--unreduced", action="store_true", help="messages may take any time, without a fault")
    made.add_argument("--lagging", action="append", default=[], choices=("a", "b"), help="messages to this one may take any time")
    made.add_argument("--on-isolation", choices=[o.value for o in OnIsolation], default="fence", help="default fence")
    made.add_argument("--bias", choices=("a", "b"), default="", help="with --on-isolation bias: who goes on alone")
    made.add_argument("--no-fencing", action="store_true", help="Pacemaker fences nobody")
    made.add_argument("--limit", type=int, default=50_000_000, metavar="N", help="stop after so many states")
    return made


def main(arguments: Optional[List[str]] = None) -> int:
    options = parser().parse_args(arguments)
    setting = Setting(
        rank=Rank(options.rank),
        omitted=tuple(options.without),
        flaws=Flaws(**dict.fromkeys(options.flaw, True)),
        primaries=PRIMARIES[options.primary],
        faults=options.faults,
        kinds=tuple(options.kind) if options.kind else KINDS,
        on_isolation=OnIsolation(options.on_isolation),
        bias=options.bias,
        fencing=not options.no_fencing,
        lagging=(0, 1) if options.unreduced else tuple("ab".index(n) for n in options.lagging),
    )
    began = time.process_time()
    report = explore(setting, options.limit, lambda line: say(f"... {line}, {time.process_time() - began:.0f} s of CPU"))
    say(f"{report.states} states, {report.moves} moves, {time.process_time() - began:.1f} s of CPU")
    if report.violation is not None:
        say(readable(report.violation))
    elif report.complete:
        say(f"complete: no violation with up to {options.faults} fault(s)")
    else:
        say("stopped at the limit: nothing found so far")
    return outcome(report)


def outcome(report: Report) -> int:
    if report.violation is not None:
        return 1
    return 0 if report.complete else 3


def readable(violation: Violation) -> str:
    """The script, one step a line, each followed by how the nodes stand then."""
    lines = [f"VIOLATED: {violation.what}"]
    for number, label in enumerate(violation.script):
        lines.append(f"{number + 1:3}. {label}")
        if number < len(violation.standings):
            lines.append(f"       -> {violation.standings[number]}")
    return "\n".join(lines)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
