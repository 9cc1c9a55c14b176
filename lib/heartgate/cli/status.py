"""`heartgate status`: who serves each device, what is at risk and why, what to do. Once, or again and again (--watch)."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, Dict, Tuple

from heartgate.cli.arguments import seconds_up_to
from heartgate.daemon import client

STATE_DIR = Path("/var/lib/heartgate")
OK, FAILED, ATTENTION, NOT_RUNNING, NO_DEVICE = 0, 1, 3, 4, 5
WATCH_S, WATCH_MAX_S = 2.0, 3600.0

DESCRIPTION = (
    "Tells, in this order: who serves each device; in one word whether a failover would work now (protected, degraded, "
    "at-risk, unknown), and every reason why not; what to do about each. Then each replica, and both channels of each heartbeat. "
    "What cannot be known is said, and never taken for good. docs/status.md explains the words and the reasons."
)
EPILOG = """Exit codes of status (they are about this node's devices; the health is in the text and in the JSON):
  0  every device is synced or solo on this node; or --watch was ended
  1  heartgated refused, made no sense, or may not be asked by this user
  2  wrong arguments
  3  a device is deciding, blocked, resyncing or unproven on this node, or its record cannot be written
  4  heartgated does not run or does not answer (what is persisted is shown)
  5  no such device"""


def add_arguments(commands: Any) -> None:
    parser = commands.add_parser(
        "status",
        help="who serves each device, what is at risk and why, what to do",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("device", nargs="?", help="only this device")
    parser.add_argument("--json", action="store_true", help="everything, for programs (/usr/share/heartgate/status.schema.json)")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=seconds_up_to(WATCH_MAX_S),
        const=WATCH_S,
        metavar="SECONDS",
        help=f"look again so many seconds after each look (default {WATCH_S:g}), until Ctrl-C; with --json one document a line",
    )
    parser.add_argument(
        "--quick", action="store_true", help="ask heartgated alone, not Pacemaker and Corosync: for scripts that ask often"
    )
    parser.add_argument("--socket", default=client.SOCKET, help=argparse.SUPPRESS)
    parser.add_argument("--state-dir", type=Path, default=STATE_DIR, help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    if options.watch is not None:
        from heartgate.cli import watch

        return watch.run(lambda: _shown(options)[0], options.watch, flowing=options.json)
    text, code = _shown(options)
    try:
        print(text, flush=True)
    except BrokenPipeError:  # piped into `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python would complain at its end
    return code


def _shown(options: argparse.Namespace) -> Tuple[str, int]:
    """One look, as text or as JSON (with --watch on one line)."""
    from heartgate.checks.status_report import report
    from heartgate.cli import status_sources

    asked = status_sources.Asked(options.device or "", options.socket, options.state_dir, options.quick)
    looked = status_sources.look(asked)
    made, code = report(looked.facts), verdict(looked.raw, options.device)
    if options.json:
        from heartgate.cli.status_data import as_data

        indent = None if options.watch is not None else 2
        return json.dumps(as_data(made, looked.raw, code), indent=indent, sort_keys=True), code
    from heartgate.cli import show

    return show.page(made, colour=coloured()), code


def coloured() -> bool:
    """Only on a terminal, and not where the person has said no (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def verdict(data: Dict[str, Any], device: Any) -> int:
    """The exit code. data: heartgated's answer, or what it left on the disk in the same form."""
    if not data.get("ok"):
        return FAILED
    if device and not data["devices"]:
        return NO_DEVICE
    if data["daemon"] != "running":
        return NOT_RUNNING
    good = all(item["shown"] in ("synced", "solo") and not item.get("persist_failure") for item in data["devices"])
    return OK if good else ATTENTION
