"""`heartgate mark-synchronized`: a person declares the replica on this node the good one.

It shows first what is known of the copies, then asks for the node's name; `--yes-lose-data NODE` is that answer for
scripts. The daemon decides whether it may be done at all.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any, Dict, List

from heartgate.cli.deciding import FAILED, OK, ask, confirmed, failed, not_running
from heartgate.daemon import client

LOOK_S, MARK_S = 20.0, 30.0

HELP = "declare this node's replica the good one, when the other cannot be met (data may be lost)"
EPILOG = """It shows the generations of the data, what is out of sync, when each other node was last heard, and what would be
lost; then it asks for the name of this node. Nothing is done before that. Run it on the node whose copy is to be kept, and
only when the others certainly do not serve: switched off, or blocked or unproven as their own `heartgate status` says.

It is refused when heartgated does not run here or cannot write the record, when this node serves or is deciding, when another
node can be heard that serves or is deciding, when the replica here cannot be used (half resynced, detached), and when the
replication is connected to a node that cannot be heard.

Exit codes:
  0  done: this node may serve
  1  refused, not confirmed, or failed; the reason is printed
  2  wrong arguments
  4  heartgated does not run
  5  no such device"""


def add_arguments(commands: Any) -> None:
    mark = commands.add_parser(
        "mark-synchronized", help=HELP, description=HELP, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    mark.add_argument("device", help="the replicated device, as in `heartgate status`")
    mark.add_argument(
        "--yes-lose-data",
        metavar="NODE",
        help="do not ask; NODE is the name of this node, whose copy is kept (what the others have and it lacks is lost)",
    )
    mark.add_argument("--socket", default=client.SOCKET, help=argparse.SUPPRESS)
    mark.set_defaults(run=main)


def main(options: argparse.Namespace) -> int:
    try:
        shown = ask(options, "mark-show", LOOK_S)
        if not shown.get("ok"):
            return failed(shown)
        print(page(shown))
        if shown["refusal"]:
            print(f"\nheartgate: refused: {shown['refusal']}", file=sys.stderr)
            return FAILED
        if not confirmed("--yes-lose-data", options.yes_lose_data, str(shown["node"]), "keep its copy and give up what it lacks"):
            return FAILED
        answer = ask(options, "mark", MARK_S, node=str(shown["node"]), uid=str(os.getuid()))
    except client.Unreachable as error:
        return not_running(error)
    if not answer.get("ok"):
        return failed(answer)
    print(f"\n{shown['device']}: {answer['standing']}, epoch {answer['epoch']}: this node may serve now.")
    print(
        "Another node blocks as soon as it hears this one, and is brought up to date over the replication link. If it has writes\n"
        "of its own, the replication refuses to connect (split-brain) until they are thrown away on that node; for DRBD:\n"
        f"  drbdadm disconnect {shown['device']}; drbdadm connect --discard-my-data {shown['device']}"
    )
    return OK


def page(shown: Dict[str, Any]) -> str:
    together = " ".join(shown["in_sync"])
    lines = [
        f"{shown['device']} on {shown['node']}: {shown['standing']}, epoch {shown['epoch']}, in sync then: {together}",
        f"  this copy   {shown['role']}, disk {shown['disk']}, generation {shown['generation'] or 'not known'}",
    ]
    if shown["waits"]:
        lines.append(f"  now         {shown['waits']}")
    for node, peer in shown["peers"].items():
        lines += _peer(node, peer, shown)
    if shown.get("out_of_sync_unknown"):
        lines.append(f"  out of sync could not be read: {shown['out_of_sync_unknown']}")
    if not shown["refusal"]:
        lines.append(f"  LOST IF YOU GO ON: {shown['lost']}.")
    return "\n".join(lines)


def _peer(node: str, peer: Dict[str, Any], shown: Dict[str, Any]) -> List[str]:
    heard = "can be heard" if peer["heard"] else "cannot be heard"
    lines = [f"  {node}: {heard}, replication link {peer['link']}"]
    last = peer["last"]
    if last:
        lines.append(
            f"    last heard {_when(last['at'])}: {last['standing']}, epoch {last['epoch']}, disk {last['disk']}, "
            f"generation {last['generation'] or 'not known'} ({_compare(last['generation'], shown)})"
        )
    else:
        lines.append("    last heard: not known (nothing was noted on this node)")
    lacks = "not known" if peer["lacks_bytes"] is None else f"{peer['lacks_bytes']} bytes"
    lines.append(f"    it lacks of this copy: {lacks}; what it has more is not known here")
    return lines


def _compare(theirs: str, shown: Dict[str, Any]) -> str:
    if not theirs or not shown["generation"]:
        return "not to be compared"
    if theirs == shown["generation"]:
        return "the same as here, at that time"
    return "older than this copy's" if theirs in shown["ancestors"] else "NOT part of this copy: it has gone on without it"


def _when(at_ms: int) -> str:
    ago_s = max(0, int(time.time() - at_ms / 1000))
    days, hours, minutes = ago_s // 86400, ago_s % 86400 // 3600, ago_s % 3600 // 60
    ago = f"{days} d {hours} h" if days else f"{hours} h {minutes} min" if hours else f"{minutes} min {ago_s % 60} s"
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(at_ms / 1000))} ({ago} ago)"
