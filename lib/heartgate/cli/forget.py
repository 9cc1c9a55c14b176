"""`heartgate forget`: a device that shall not be guarded here any more; what was kept of it is removed.

It shows first what there is. Where a copy might be promoted by that which must not, or another node counts on this one, it
asks for the node's name; `--yes-forget NODE` is that answer for scripts. The daemon decides whether it may be done at all.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, Dict, List

from heartgate.cli.deciding import FAILED, OK, ask, confirmed, failed, not_running
from heartgate.daemon import client

LOOK_S, FORGET_S = 20.0, 60.0

HELP = "guard a device no more, and remove what was kept of it on this node"
EPILOG = """It shows the standing of the copy here, what the other nodes say, and what would be removed. When the copy here is
blocked, unproven, deciding or solo, is in use, when another node says that it is in sync with it, when a handler waits, or when
what the record says may be out of date, it asks for the name of this node, and does nothing before that. Run it on every node
that held a replica.

Removed are the record and the configuration, the notes (flush, fencing, contacts), and the node attribute of Pacemaker. What
`heartgate explain` tells stays. A replica-guard that is started afterwards starts as on a new node.

It is refused while replica-guard is registered for the device on this node: stop or delete that resource first; and take the
location rule for the attribute away before, or Pacemaker demotes the device.

Exit codes:
  0  done: nothing guards the device here, and nothing is kept of it
  1  refused, not confirmed, or failed; the reason is printed
  2  wrong arguments
  4  heartgated does not run
  5  no such device"""


def add_arguments(commands: Any) -> None:
    forget = commands.add_parser(
        "forget", help=HELP, description=HELP, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    forget.add_argument("device", help="the replicated device, as in `heartgate status`")
    forget.add_argument(
        "--yes-forget",
        metavar="NODE",
        help="do not ask; NODE is the name of this node (its copy may be promoted afterwards, even if it is blocked now)",
    )
    forget.add_argument("--socket", default=client.SOCKET, help=argparse.SUPPRESS)
    forget.set_defaults(run=main)


def main(options: argparse.Namespace) -> int:
    try:
        shown = ask(options, "forget-show", LOOK_S)
        if not shown.get("ok"):
            return failed(shown)
        print(page(shown))
        if shown["refusal"]:
            print(f"\nheartgate: refused: {shown['refusal']}", file=sys.stderr)
            return FAILED
        word: Dict[str, str] = {}
        if shown["cautions"] or options.yes_forget is not None:
            node = str(shown["node"])
            if not confirmed("--yes-forget", options.yes_forget, node, f"forget {shown['device']} here"):
                return FAILED
            word = {"node": node}
        answer = ask(options, "forget", FORGET_S, seen=str(shown["seen"]), uid=str(os.getuid()), **word)
    except client.Unreachable as error:
        return not_running(error)
    if not answer.get("ok"):
        return failed(answer)
    print("\n" + done(shown, answer))
    return OK


def done(shown: Dict[str, Any], answer: Dict[str, Any]) -> str:
    device = shown["device"]
    lines = [f"{device}: forgotten on {shown['node']}. A replica-guard that is started now starts as on a new node."]
    if not answer.get("withdrawn"):
        lines.append(f"Pacemaker does not answer; the attribute {shown['attribute']} is withdrawn as soon as it does.")
    lines.append(
        "While DRBD's configuration names heartgate's handlers and nothing guards the device, the next loss keeps it frozen:\n"
        "start replica-guard again, or take the handlers out (docs/operations.md, \"Removing a device\")."
    )
    return "\n".join(lines)


def page(shown: Dict[str, Any]) -> str:
    device = shown["device"]
    if shown["standing"]:
        together = " ".join(shown["in_sync"])
        lines = [f"{device} on {shown['node']}: {shown['standing']}, epoch {shown['epoch']}, in sync then: {together}"]
    else:
        lines = [f"{device} on {shown['node']}: no record that can be read"]
    if shown["guarded"]:
        lines.append(f"  this copy   {shown['role']}, disk {shown['disk']}, generation {shown['generation'] or 'not known'}")
    else:
        lines.append("  heartgated does not guard it; only files are left")
    for node, peer in shown["peers"].items():
        says = f"says {peer['says']}" if peer["says"] else "says nothing of it now"
        lines.append(f"  {node}: {says}, replication link {peer['link']}")
    lines += [f"  {text}" for text in _removed(shown)]
    lines += [f"  BEFORE YOU GO ON: {text}." for text in shown["cautions"]]
    return "\n".join(lines)


def _removed(shown: Dict[str, Any]) -> List[str]:
    published = shown["published"]
    attribute = f"the attribute {shown['attribute']}" + (f" ({published} now)" if published else "")
    return [
        f"removed     {' '.join([*shown['files']]) or 'no file'} in /var/lib/heartgate; {attribute}",
        f"kept        {shown['device']}.verdicts, what `heartgate explain` tells",
    ]
