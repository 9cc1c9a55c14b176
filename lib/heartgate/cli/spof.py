"""`heartgate spof`: single points of failure between this node and its peer, as text and as a picture. Changes nothing else."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from heartgate.cli import check
from heartgate.cli.facts import COULD_NOT_LOOK, CouldNotLook

EPILOG = """Exit codes of spof:
  0  no single part carries all heartbeats
  1  one does
  2  one carries all heartbeats and all sync links, or there is no heartbeat
  3  could not look (also: wrong arguments), or something is not known"""


def add_arguments(commands: Any) -> None:
    parser = commands.add_parser("spof", help="the smallest sets of parts whose loss cuts the links between the nodes")
    check.describe(parser)
    parser.set_defaults(run=run)
    parser.description = (
        "Shows the smallest sets of parts (adapters, cards, switches) whose loss cuts all heartbeats, all sync links, or both. "
        "IF is an interface, or IF:PEER_IF where the peer's has another name."
    )
    parser.epilog = EPILOG
    parser.add_argument("--svg", metavar="FILE", help="draw it, too")


def run(options: argparse.Namespace) -> int:
    from heartgate.checks import spof, spof_from_facts, spof_svg
    from heartgate.checks.findings import exit_code
    from heartgate.checks.planning import PlanError
    from heartgate.cli.facts import write

    try:
        plan = check.gather(options)
        graph = spof_from_facts.graph(plan)
        if not graph.channels:
            raise CouldNotLook("no link is known: name them with --heartbeat IF and --sync IF, or give --corosync-conf")
        print(spof.text(graph))
        if options.svg:
            write(Path(options.svg), spof_svg.svg(graph))
    except (CouldNotLook, PlanError) as error:
        print(f"heartgate spof: {error}", file=sys.stderr)
        return COULD_NOT_LOOK
    return exit_code(spof_from_facts.findings(plan))
