"""`heartgate explain`: a verdict as a chain, replayed from what was recorded; it must come out the same."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Tuple

from heartgate.cli import explain_text as text
from heartgate.cli.explain_pick import FOREIGN, BadTime, Chain, parse_time, pick, steps_of
from heartgate.core.codec import CodecError, is_name
from heartgate.core.replay import Item, Refused, Step, Trouble, replay
from heartgate.daemon import client
from heartgate.daemon.history import core_version
from heartgate.daemon.store import Store

STATE_DIR = Path("/var/lib/heartgate")
OK, FAILED, BAD_USAGE, NOTHING, NO_DEVICE, REFUSED = 0, 1, 2, 3, 5, 6
SHOWN = 3  # entries that cannot be believed: more of them tell a person nothing new
PING_S = 2.0
SETTLE_S = 0.5  # a running daemon writes its history a moment after the record

EPILOG = """TIME is HH:MM or HH:MM:SS (the last time that the clock showed it), 'YYYY-MM-DD HH:MM:SS',
or a time ago: -30s, -10min, -2h, -1d. Local time.

Exit codes of explain:
  0  explained; it was replayed and came out as it was recorded
  1  the history cannot be read
  2  wrong arguments
  3  nothing is recorded for this device, or for this time
  5  no such device
  6  an entry of the history does not replay, is damaged or is missing (which one is said)"""


class Known(NamedTuple):
    """What the files of one device tell."""

    items: Tuple[Item, ...]
    running: bool  # a daemon answers


def add_arguments(commands: Any) -> None:
    parser = commands.add_parser(
        "explain",
        help="why a device is in its standing: what was seen, which rule, which proof, which action",
        description="Replays a verdict from the recorded facts. Works without a daemon too; needs root.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("device", help="the replicated device, as status shows it")
    parser.add_argument("--at", metavar="TIME", help="the verdict that was in force then (default: now)")
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    parser.add_argument("--socket", default=client.SOCKET, help=argparse.SUPPRESS)
    parser.add_argument("--state-dir", type=Path, default=STATE_DIR, help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    store, device = Store(options.state_dir, create=False), options.device
    try:
        at_ms = None if options.at is None else parse_time(options.at, time.time())
    except (BadTime, OverflowError, ValueError) as error:
        return _fail(options, BAD_USAGE, f"--at: {error}")
    try:
        if not is_name(device) or device not in _devices(store):
            return _fail(options, NO_DEVICE, _no_device(store, device))
        known = _read(store, device, options.socket)
    except OSError as error:
        hint = " (only root may look)" if isinstance(error, PermissionError) else ""
        return _fail(options, FAILED, f"{error.filename or options.state_dir}: {error.strerror}{hint}")
    return _explain(options, known, at_ms)


def _explain(options: argparse.Namespace, known: Known, at_ms: Optional[int]) -> int:
    refused = [item for item in known.items if isinstance(item, Refused)]
    chain = pick(known.items, at_ms)
    if chain is None:
        return _nothing(options, known, refused, at_ms)
    if chain.refused:
        return _refuse(options, list(chain.refused))
    latest = steps_of(known.items)[-1]
    elsewhere = [item for item in refused if item.trouble not in FOREIGN]
    code = REFUSED if elsewhere else OK
    if options.json:
        _print_json({**text.data(chain, latest, known.running, at_ms), "ok": not elsewhere,
                     "refused": [text.refusal_data(item) for item in refused]})  # fmt: skip
        return code
    print(text.page(chain, latest, known.running, at_ms))
    _mention(options, refused, chain)
    return code


def _mention(options: argparse.Namespace, refused: List[Refused], chain: Chain) -> None:
    """Entries that this verdict does not depend on, but which are not as they should be."""
    foreign = [item for item in refused if item.trouble in FOREIGN]
    if foreign:
        print(f"\n{len(foreign)} entries of the history are of another version of heartgate; here they cannot be replayed.")
    _complain(options, [item for item in refused if item.trouble not in FOREIGN], "elsewhere: ")


def _complain(options: argparse.Namespace, refused: List[Refused], where: str) -> None:
    for item in refused[:SHOWN]:
        print(f"heartgate: {where}{text.refusal(options.device, item, core_version())}", file=sys.stderr)
    if len(refused) > SHOWN:
        print(f"heartgate: {where}and {len(refused) - SHOWN} more", file=sys.stderr)


def _nothing(options: argparse.Namespace, known: Known, refused: List[Refused], at_ms: Optional[int]) -> int:
    """No step could be replayed that is not later than that time."""
    before = [item for item in refused if at_ms is None or item.at_ms <= at_ms]
    if before and before[-1].trouble is not Trouble.NO_CHECK:
        return _refuse(options, before[-1:])
    if before:
        return _fail(options, NOTHING, text.refusal(options.device, before[-1], core_version()))
    if at_ms is not None and known.items:
        first = known.items[0]
        since = f"; the history begins at {text.when(first.at_ms if isinstance(first, Refused) else first.head.at_ms)}"
        return _fail(options, NOTHING, f"{options.device}: nothing is recorded for {text.when(at_ms)}{since}")
    if known.items:
        return _fail(options, NOTHING, f"{options.device}: the history holds no verdict that can be replayed")
    return _fail(options, NOTHING, f"{options.device}: no verdict is recorded yet (heartgated has not guarded it on this node)")


def _refuse(options: argparse.Namespace, refused: List[Refused]) -> int:
    if options.json:
        lines = [text.refusal(options.device, item, core_version()) for item in refused[:SHOWN]]
        _print_json({"ok": False, "error": "; ".join(lines),
                     "refused": [{**text.refusal_data(item), "entry": item.entry} for item in refused]})  # fmt: skip
        return REFUSED
    _complain(options, refused, "")
    for item in refused[:SHOWN]:
        if text.entry_text(item):
            print(text.entry_text(item))
    return REFUSED


def _fail(options: argparse.Namespace, code: int, reason: str) -> int:
    if options.json:
        _print_json({"ok": False, "error": reason})
    else:
        print(f"heartgate: {reason}", file=sys.stderr)
    return code


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, sort_keys=True))


# --- files -----------------------------------------------------------------------------------------------------------


def _devices(store: Store) -> List[str]:
    if not store.directory.exists():
        return []
    next(store.directory.iterdir(), None)  # may it be read at all?
    return sorted({*store.devices(), *store.recorded_devices(), *store.histories()})


def _no_device(store: Store, device: str) -> str:
    known = ", ".join(_devices(store))
    return f"no device {device!r} here" + (f"; there is: {known}" if known else "; none was ever guarded on this node")


def _read(store: Store, device: str, socket: str) -> Known:
    running = _answers(socket)
    items = replay(store.read_history(device), core_version())
    missing = _missing_end(store, device, items)
    if missing and running:
        time.sleep(SETTLE_S)
        items = replay(store.read_history(device), core_version())
        missing = _missing_end(store, device, items)
    return Known(items + missing, running)


def _answers(socket: str) -> bool:
    try:
        client.ask(client.request("ping"), PING_S, socket)
    except client.Unreachable:
        return False
    return True


def _missing_end(store: Store, device: str, items: Tuple[Item, ...]) -> Tuple[Item, ...]:
    """The record on the disk is what the last step wrote; otherwise steps are missing, of which nothing else tells."""
    last = next((item for item in reversed(items) if isinstance(item, (Step, Refused))), None)
    if not isinstance(last, Step):
        return ()
    try:
        record = store.read_record(device)
    except CodecError as error:
        return (Refused(0, Trouble.UNREADABLE, f"the record itself ({device}.state): {error}", "", 0, None),)
    if record is None or record in [step.after.record for step in steps_of(items)]:  # perhaps the newest is being written
        return ()
    reason = (f"its end is missing: the record on the disk says {record.standing.value}, epoch {record.epoch}; "
              f"the last entry {last.after.record.standing.value}, epoch {last.after.record.epoch}")  # fmt: skip
    return (Refused(0, Trouble.MISSING, reason, "", 0, None),)
