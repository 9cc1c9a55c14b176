"""`heartgate status`: what a running daemon says, or what it has left on the disk."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Dict, Optional

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


def add_arguments(commands: Any) -> None:
    parser = commands.add_parser(
        "status",
        help="standing, proofs and last verdict of each guarded device",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("device", nargs="?", help="only this device")
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    parser.add_argument("--socket", default=client.SOCKET, help=argparse.SUPPRESS)
    parser.add_argument("--state-dir", type=Path, default=STATE_DIR, help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
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
