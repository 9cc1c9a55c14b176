"""`heartgate facts`: what this host's interfaces are, as JSON for `heartgate check` on the other node."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Optional, Tuple

if TYPE_CHECKING:
    from heartgate.checks.model import HostFacts

OK, COULD_NOT_LOOK = 0, 3
MAX_LISTEN_S = 3600.0
ASK_S = 5.0
EPILOG = """Exit codes of facts:
  0  printed
  2  wrong arguments
  3  could not look, or could not write; also: there is no interface of a name that was given (the rest is printed)"""


class CouldNotLook(Exception):
    """One message for the person; exit code 3."""


def add_arguments(commands: Any) -> None:
    about = "this node's interfaces and their surroundings, for check on the peer"
    parser = commands.add_parser("facts", help=about, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(run=run)
    parser.description = "Prints what this host's interfaces are and what is around them, as JSON. Changes nothing."
    parser.add_argument(
        "--listen",
        type=seconds,
        default=0.0,
        metavar="SECONDS",
        help="listen for switches and other machines on the heartbeat interfaces (35 or more hears LLDP; default 0: do not)",
    )
    parser.add_argument("--interface", action="append", metavar="IF", help="listen here (default: where Corosync's links run)")
    parser.add_argument("--output", metavar="FILE", help="write there instead of to stdout")
    parser.add_argument("--corosync-conf", type=Path, default=None, metavar="FILE", help="default: /etc/corosync/corosync.conf")


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= MAX_LISTEN_S:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0 to {MAX_LISTEN_S:.0f}")
    return value


def run(options: argparse.Namespace) -> int:
    from heartgate.checks import facts_codec

    try:
        facts = collect(options.listen, options.interface, options.corosync_conf)
        text = facts_codec.encode(facts)
        if options.output:
            write(Path(options.output), text)
        else:
            sys.stdout.write(text)
            sys.stdout.flush()
    except (CouldNotLook, BrokenPipeError) as error:
        print(f"heartgate facts: {error}", file=sys.stderr)
        return COULD_NOT_LOOK
    return _missing(facts, options.interface or [])


def _missing(facts: HostFacts, interfaces: List[str]) -> int:
    """The facts are told all the same: that an interface is missing is one of them."""
    missing = [name for name in interfaces if facts.interface(name) is None]
    for name in missing:
        known = ", ".join(item.name for item in facts.interfaces)
        print(
            f"heartgate facts: {facts.host} has no interface {name!r}, so nobody listened there; it has {known}", file=sys.stderr
        )
    return COULD_NOT_LOOK if missing else OK


def write(place: Path, text: str) -> None:
    """Whole or not at all. Raises CouldNotLook."""
    partial = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(place)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise CouldNotLook(f"{place} cannot be written: {error.strerror}") from error


def collect(listen_s: float, interfaces: Optional[List[str]], corosync_conf: Optional[Path]) -> HostFacts:
    """Facts of this host. Raises CouldNotLook."""
    from heartgate.adapters import host_facts
    from heartgate.adapters.base import AdapterError
    from heartgate.cli.progress import Progress

    progress = Progress()
    place = corosync_conf or host_facts.COROSYNC_CONF
    wanted = None if interfaces is None else tuple(interfaces)
    try:
        facts = host_facts.gather(host_facts.Request(listen_s, wanted, (), place), progress)
    except AdapterError as error:
        raise CouldNotLook(f"this host's interfaces cannot be looked at: {error}") from error
    finally:
        progress.done()
    return with_daemon(facts)


def with_daemon(facts: HostFacts) -> HostFacts:
    """With the interfaces that heartgated was told to carry replication, if it runs."""
    from dataclasses import replace

    named = _of_daemon()
    if not named:
        return facts
    merged = tuple(dict.fromkeys((*named, *(facts.sync or ()))))
    return replace(facts, sync=merged, unknown=tuple(item for item in facts.unknown if item[0] != "sync"))


def _of_daemon() -> Tuple[str, ...]:
    from heartgate.daemon import client

    try:
        answer = json.loads(client.ask(client.request("status"), ASK_S, client.SOCKET))
        devices = answer["devices"] if answer.get("ok") else []
        return tuple(dict.fromkeys(str(name) for device in devices for name in device["sync_interfaces"]))
    except (client.Unreachable, OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()  # DRBD's own configuration is asked too
