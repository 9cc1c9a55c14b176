"""`heartgate status`, `heartgate version`; `heartgate mark-synchronized` is in mark.py."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

from heartgate import __version__
from heartgate.cli import mark
from heartgate.cli.show import page
from heartgate.daemon import client
from heartgate.daemon.status import of_store
from heartgate.daemon.store import Store

STATE_DIR = Path("/var/lib/heartgate")
OK, FAILED, ATTENTION, NOT_RUNNING = 0, 1, 3, 4
ASK_S = 10.0

EPILOG = """Exit codes of status:
  0  every device is synced or solo on this node
  1  the request failed
  2  wrong arguments
  3  a device is deciding, blocked, resyncing or unproven on this node, or its record cannot be written
  4  heartgated does not run (what is persisted is shown)
  5  no such device"""
NO_DEVICE = 5


def arguments(argv: Optional[List[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="heartgate",
        description="Shows what heartgate has decided on this node, and why; lets a person decide.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"heartgate {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    status = commands.add_parser(
        "status",
        help="standing, proofs and last verdict of each guarded device",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    status.add_argument("device", nargs="?", help="only this device")
    status.add_argument("--json", action="store_true", help="everything, for programs")
    status.add_argument("--socket", default=client.SOCKET, help=argparse.SUPPRESS)
    status.add_argument("--state-dir", type=Path, default=STATE_DIR, help=argparse.SUPPRESS)
    mark.add_parser(commands)
    commands.add_parser("version", help="the version")
    return parser.parse_args(argv)


def status(options: argparse.Namespace) -> int:
    data = gather(options)
    if options.json:
        print(json.dumps(data, indent=2, sort_keys=True))
    else:
        print(page(data))
    return verdict(data, options.device)


def gather(options: argparse.Namespace) -> Dict[str, Any]:
    fields = {"device": options.device} if options.device else {}
    try:
        answer = json.loads(client.ask(client.request("status", **fields), ASK_S, options.socket))
    except client.Unreachable as error:
        data = of_store(Store(options.state_dir, create=False), options.device)
        return {**data, "reason": str(error)}
    except ValueError as error:
        return {"ok": False, "error": f"heartgated's answer makes no sense: {error}"}
    return answer if isinstance(answer, dict) else {"ok": False, "error": "heartgated's answer makes no sense"}


def verdict(data: Dict[str, Any], device: Optional[str]) -> int:
    if not data.get("ok"):
        return FAILED
    if device and not data["devices"]:
        return NO_DEVICE
    if data["daemon"] != "running":
        return NOT_RUNNING
    good = all(item["shown"] in ("synced", "solo") and not item.get("persist_failure") for item in data["devices"])
    return OK if good else ATTENTION


def main(argv: Optional[List[str]] = None) -> int:
    options = arguments(argv)
    if options.command == "version":
        print(f"heartgate {__version__}")
        return OK
    if options.command == "mark-synchronized":
        return mark.main(options)
    try:
        return status(options)
    except PermissionError as error:
        print(f"heartgate: {error.filename}: {error.strerror} (only root may look)", file=sys.stderr)
        return FAILED
