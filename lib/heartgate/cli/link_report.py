"""`heartgate link-report`: what the daemon is told of a heartbeat interface. For heartgated, so no help lists it."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from heartgate.cli.facts import COULD_NOT_LOOK, OK, CouldNotLook, collect


def add_arguments(commands: Any) -> None:
    parser = commands.add_parser("link-report")
    parser.set_defaults(run=run)
    parser.add_argument("--interface", required=True)
    parser.add_argument("--client", default="")
    parser.add_argument("--sync", action="append", default=[])
    parser.add_argument("--addressing", default="any")
    parser.add_argument("--waivers", default="")


def run(options: argparse.Namespace) -> int:
    from heartgate.checks import link_judge, link_report
    from heartgate.checks.findings import WaiverError
    from heartgate.checks.planning import PlanError

    question = link_report.Question(
        options.interface, options.client, tuple(options.sync), options.addressing, options.waivers
    )
    try:
        report = link_judge.judge(collect(0.0, [], None), question)
    except (CouldNotLook, WaiverError, PlanError) as error:
        print(f"heartgate link-report: {error}", file=sys.stderr)
        return COULD_NOT_LOOK
    print(link_report.encode(report))
    return OK
