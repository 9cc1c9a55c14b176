"""`heartgate heartbeat list|add|remove|undo`: the parser and `list`. Adding and removing are in heartbeat_pair."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from enum import Enum
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from heartgate.cli.arguments import seconds_up_to

OK, FAILED, ATTENTION, NOT_RUNNING, HALF_DONE = 0, 1, 3, 4, 5
ANSWER_S = 15.0  # longer than the longest look of its own accord
SECONDS_MAX = 600.0

EPILOG = """Exit codes:
  0  list: every heartbeat works in both directions; add, remove, undo: done
  1  failed; nothing was changed, or it was put back
  2  wrong arguments, or a name that does not fit
  3  list: something is down or unknown; add, remove: refused (--force, where it helps, is named); or done, and a node came or went
  4  Corosync does not run on this node
  5  not everything could be put back, or tidied up: what is left to do is printed"""


def add_arguments(commands: Any) -> None:
    """Put `heartbeat` beside the other commands."""
    parser = commands.add_parser(
        "heartbeat", help="list, add and remove heartbeats (Corosync's links)", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, run: Callable[[argparse.Namespace], int], text: str) -> Any:
        sub = actions.add_parser(name, help=text, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
        sub.set_defaults(run=run)
        return sub

    listing = action("list", show, "every heartbeat with its two channels, state, latency, loss and age")
    listing.add_argument("--json", action="store_true", help="everything, for programs")
    duration = seconds_up_to(SECONDS_MAX)
    listing.add_argument("--seconds", type=duration, help="look that long (default: until nothing new can be learned)")
    adding = action("add", _add, "add a pair on the running cluster")
    adding.add_argument("hosts", nargs="+", metavar="HOST", help="host names of the ends, [NODE=]HOST, one for each node")
    adding.add_argument("--link", type=int, help="link number (default: the lowest that is free)")
    _changing(adding)
    removing = action("remove", _remove, "remove a pair from the running cluster")
    removing.add_argument("hosts", nargs="*", metavar="HOST", help="host names of the ends")
    removing.add_argument("--link", type=int, help="link number, in place of the names")
    _changing(removing)
    undoing = action("undo", _undo, "on this node, put back what an interrupted change left")
    undoing.add_argument("--force", action="store_true", help="also over a corosync.conf that was changed since")
    actions.add_parser("apply").set_defaults(run=_apply)  # this node's part of a change that another node makes


def _changing(parser: Any) -> None:
    parser.add_argument("--force", action="store_true", help="although a rule or the independence of the rest speaks against it")
    wait = {"type": seconds_up_to(SECONDS_MAX), "default": 20.0, "metavar": "SECONDS"}
    parser.add_argument("--wait", **wait, help="for the link to come up (default 20)")


def _add(options: argparse.Namespace) -> int:
    from heartgate.cli import heartbeat_pair

    return heartbeat_pair.add(options)


def _remove(options: argparse.Namespace) -> int:
    from heartgate.cli import heartbeat_pair

    return heartbeat_pair.remove(options)


def _undo(options: argparse.Namespace) -> int:
    from heartgate.cli import heartbeat_pair

    return heartbeat_pair.undo(options)


def _apply(_options: argparse.Namespace) -> int:
    from heartgate.adapters import conf_file, heartbeat_change

    answer = heartbeat_change.serve(sys.stdin.read(8 * conf_file.SIZE_MAX))
    print(json.dumps(answer))
    return OK if answer["ok"] else FAILED


# --- list
# ----------------------------------------------------------------------------------------------------------------


def show(options: argparse.Namespace) -> int:
    from heartgate.adapters.base import CarrierLost
    from heartgate.checks.heartbeats import Channel
    from heartgate.cli import heartbeat_show

    code, problem, unread = OK, "", ""
    try:
        # One function for each kind of heartbeat. Disk heartbeats join here, with kind="disk".
        found = [each for source in (network,) for each in source(options.seconds)]
    except CarrierLost as error:
        code, problem = NOT_RUNNING, f"Corosync does not run on this node, or does not answer: {error}"
        found, unread = configured()
        problem += f"\n{unread}" if unread else ""
    if code == OK and any(channel is not Channel.UP for each in found for channel in (each.state, each.sending, each.receiving)):
        code = ATTENTION
    if options.json:
        _print_json(found, problem)
    else:
        nothing = "no heartbeat is known" if unread else "no other node is configured: there is nobody to hear"
        print(heartbeat_show.table(found) if found else nothing)
        if found and not problem:
            print(heartbeat_show.summary(found))
    if problem:
        print(f"heartgate: {problem}", file=sys.stderr)
    return code


def network(seconds: Optional[float]) -> Sequence[Any]:
    """The knet links. Raises CarrierLost."""
    from heartgate.adapters import knet_stats
    from heartgate.checks import heartbeats

    now = knet_stats.bounded(knet_stats.running, ANSWER_S)
    observed = knet_stats.bounded(lambda: knet_stats.observe(now, seconds), ANSWER_S + (seconds or 0.0))
    own = next((member.addresses for member in now.members if member.nodeid == now.local), {})
    names = interfaces()
    lines = []
    for node, link, sample in observed:
        local = own.get(link, "")
        interface = names.get(local)
        shown = f"{local} ({interface})" if interface else local
        lines.append(heartbeats.heartbeat(node.name, link, shown, node.addresses.get(link, ""), sample))
    seen = {(each.node.nodeid, each.link) for each in observed}
    why = "it is in Corosync's node list, but Corosync tells nothing about it (it does so with the transport knet only)"
    lines += [
        heartbeats.Heartbeat("network", node.name, str(link), local=own.get(link, ""), remote=address, reason=why)
        for node in now.members if node.nodeid != now.local
        for link, address in sorted(node.addresses.items()) if (node.nodeid, link) not in seen
    ]  # fmt: skip
    return lines


def interfaces() -> Dict[str, str]:
    from heartgate.adapters.addresses import local_addresses
    from heartgate.adapters.base import AdapterError

    try:
        return local_addresses()
    except AdapterError:
        return {}  # only a decoration here


def configured() -> Tuple[List[Any], str]:
    """What corosync.conf names, with everything unknown; and why it could not be read."""
    from heartgate.adapters.conf_file import ConfFile, ConfFileError
    from heartgate.checks import corosync_edit
    from heartgate.checks.heartbeats import Heartbeat

    try:
        text = ConfFile().read()
        nodes = corosync_edit.nodes(text)
    except (ConfFileError, corosync_edit.ConfError) as error:
        where = "" if isinstance(error, ConfFileError) else "/etc/corosync/corosync.conf: "
        return [], f"the configured links are not known either: {where}{error}"
    names = interfaces()
    host = os.uname().nodename
    local = next((n for n in nodes if n.name == host or any(a in names for a in n.addresses.values())), None)
    if local is None:
        return [], f"corosync.conf names no node that is this one ({host}): its nodes are {', '.join(n.name for n in nodes)}"
    return [
        Heartbeat("network", node.name, str(link), local=local.addresses.get(link, ""), remote=address)
        for node in nodes if node is not local for link, address in sorted(node.addresses.items())
    ], ""  # fmt: skip


def _print_json(found: Sequence[Any], problem: str) -> None:
    def plain(value: Any) -> Any:
        return value.value if isinstance(value, Enum) else value

    lines = [{key: plain(value) for key, value in asdict(each).items()} for each in found]
    print(json.dumps({"problem": problem or None, "heartbeats": lines}, indent=2, sort_keys=True))
