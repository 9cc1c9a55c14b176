"""The report of `heartgate status` for a person: one screen of 80 columns. Who serves; what is at risk and why; what to do."""

from __future__ import annotations

import textwrap
import time
from typing import Callable, Iterator, List, Optional, Sequence, Tuple

from heartgate.checks.heartbeats import Channel, Heartbeat
from heartgate.checks.status_devices import size
from heartgate.checks.status_model import Daemon, Device, DeviceRow, Health, Live, Reason, Replica, Report, Served
from heartgate.checks.status_report import name as heartbeat_name

WIDTH = 80
MEANING = {
    "synced": "may serve: up to date with every other replica in sync",
    "deciding": "frozen: sync lost, no verdict yet",
    "solo": "may serve: goes on alone, with proof about everybody else",
    "blocked": "refuses reads and writes until it is up to date again",
    "resyncing": "blocked; connected, being brought up to date",
    "unproven": "does not serve: its data may be old, it has met nobody since",
}
HEALTH = {
    Health.AT_RISK: "a failover would not work now",
    Health.UNKNOWN: "whether a failover would work now could not be found out",
    Health.DEGRADED: "a failover would work now, with less in reserve",
    Health.PROTECTED: "a failover would work now",
}
LEVELS = {
    Health.AT_RISK: "what stands against it",
    Health.UNKNOWN: "what is not known",
    Health.DEGRADED: "what is lost or not as it should be",
}
KINDS = {"operator": "given up by a person (mark-synchronized)", "fenced-manually": "fenced manually, by a person's word"}

RED, GREEN, YELLOW, BOLD = "31;1", "32", "33;1", "1"
COLOURS = {Health.AT_RISK: RED, Health.UNKNOWN: YELLOW, Health.DEGRADED: YELLOW, Health.PROTECTED: GREEN}
SERVED_COLOURS = {Served.SERVED: GREEN, Served.READY: GREEN, Served.UNKNOWN: YELLOW, Served.FROZEN: RED, Served.NOBODY: RED}
BAD = frozenset({"blocked", "unproven", "DOWN", "diskless", "absent", "inconsistent", "outdated", "down"})
DOUBTFUL = frozenset({"unknown", "resyncing", "deciding", "?"})

Paint = Callable[[str, str], str]


def page(report: Report, *, colour: bool = False) -> str:
    paint: Paint = _coloured if colour else _plain
    lines = [paint(BOLD, _head(report)), "", *_serving(report, paint), "", *_health(report, paint)]
    for row in report.devices:
        lines += ["", *_device(report, row, paint)]
    if report.heartbeats:
        lines += ["", *_heartbeats(report.heartbeats, paint)]
    lines += [f"  {each}" for each in _interfaces(report)]
    if report.unknown:
        lines += ["", paint(BOLD, "NOT KNOWN")]
        for each in report.unknown:
            told = any(each.why in reason.evidence for reason in report.reasons)
            lines += _wrapped(f"  {each.source}: {each.hides}{'' if told else f' ({each.why})'}", "    ")
    return "\n".join(lines)


def _head(report: Report) -> str:
    daemon = report.facts.daemon
    version = f", heartgate {printable(daemon.version)}" if isinstance(daemon, Daemon) else ""
    return f"{printable(report.node)}{version}, {_when(report.at_ms)}"


# --- who serves


def _serving(report: Report, paint: Paint) -> Iterator[str]:
    if not report.serving:
        only = report.facts.only
        yield f"{printable(only)}: no such device is guarded on this node" if only else "no guarded device is known on this node"
    width = max((len(each.device) for each in report.serving), default=0)
    for each in report.serving:
        first, *rest = _wrapped(f"{each.device:<{width}}  {each.words}", " " * (width + 2))
        head, words = first[: width + 2], first[width + 2 :]
        yield paint(BOLD, head) + paint(SERVED_COLOURS[each.state], words)
        yield from rest


# --- why, and what to do


def _health(report: Report, paint: Paint) -> Iterator[str]:
    word, colour = report.health.value.upper(), COLOURS[report.health]
    yield f"{paint(colour, word)}: {HEALTH[report.health]}{'.' if not report.reasons else ''}"
    for level in (Health.AT_RISK, Health.UNKNOWN, Health.DEGRADED):
        found = [each for each in report.reasons if each.level is level]
        if found and level is not report.health:
            yield f"and {LEVELS[level]}:"
        for each in found:
            yield from _reason(each, paint)
    if not report.reasons:
        yield "Nothing to do."


def _reason(reason: Reason, paint: Paint) -> List[str]:
    mark = {Health.AT_RISK: "!", Health.UNKNOWN: "?", Health.DEGRADED: "-"}[reason.level]
    lines = _wrapped(f"  {mark} {reason.evidence} [{reason.ident}]", "    ")
    lines[0] = lines[0].replace(mark, paint(COLOURS[reason.level], mark), 1)
    return [*lines, *_wrapped(f"    -> {reason.remedy}", "       ")]


# --- a device


def _device(report: Report, row: DeviceRow, paint: Paint) -> Iterator[str]:
    device, live = row.device, row.device.live
    if device.error:
        yield paint(BOLD, f"{device.name}: its record cannot be used")
        return
    since = f", since {_when(device.since_ms)} ({_ago(report.at_ms - device.since_ms)})" if device.since_ms else ""
    written = "" if live is not None else ", as last written"
    for line in _wrapped(f"{device.name} here: {device.shown}, epoch {device.epoch}{since}{written}", "  "):
        yield paint(BOLD, line)
    yield from _table(_replica_cells(row.replicas), paint)

    for title, text in _details(device, live):
        yield from _wrapped(f"  {title:<9} {text}", " " * 12)


def _replica_cells(replicas: Sequence[Replica]) -> List[Tuple[str, ...]]:
    cells: List[Tuple[str, ...]] = [("NODE", "STANDING", "EPOCH", "PRIO", "ROLE", "DISK", "SYNC", "OUT OF SYNC")]
    for each in replicas:
        here = each.source in ("here", "written")
        lacks = "-" if here else "?" if each.lacks_bytes is None else size(each.lacks_bytes)
        sync = "-" if here else each.sync or "unknown"
        standing = "not heard" if each.source == "not heard" else each.standing
        epoch, priority = ("?" if each.epoch is None else str(each.epoch)), ("?" if each.priority is None else str(each.priority))
        cells.append((each.node, standing, epoch, priority, each.role, each.disk, sync, lacks))
    return cells


def _details(device: Device, live: Optional[Live]) -> Iterator[Tuple[str, str]]:
    yield "proof", _proofs(device)
    yield "flush", _flush(device)
    if live is None:
        return
    yield "alone", f"{_isolation(live)}; policy {live.policy}"
    if live.waits:
        yield "now", live.waits
    words = {False: "has NO CARRIER", None: "is not known to have carrier"}
    dead = [f"{name} {words[value]}" for name, value in live.interfaces.items() if value in words]
    if dead:
        yield "cable", ", ".join(dead)
    if live.handlers:
        yield "handlers", f"{live.handlers} of the replication wait for a verdict"


def _isolation(live: Live) -> str:
    """What happens here when nobody can be heard any more."""
    kind, wanted, agreed = live.on_isolation, live.bias_wanted, live.bias_agreed
    if kind == "freeze" and not agreed:
        return "freeze: nobody goes on"
    if agreed and agreed == wanted:
        return f"bias: {agreed} goes on (agreed)"
    if agreed:
        return f"bias: {agreed} goes on (agreed); the parameters say {wanted or kind}, which is not agreed yet"
    if kind == "bias":
        return f"bias: {wanted} is to go on; NOT AGREED (yet): until then nobody does without a fencing"
    return "fence: goes on when the other is fenced"


def _proofs(device: Device) -> str:
    shown = [f"{proof.node} {KINDS.get(proof.kind, proof.kind)} (epoch {proof.epoch})" for proof in device.proofs]
    if device.promised_to and device.standing == "blocked":
        shown.append(f"block promised to {device.promised_to}")
    return ", ".join(shown) or ("none needed" if device.shown == "synced" else "none")


def _flush(device: Device) -> str:
    if device.flush is None:
        return "none yet"
    results = [f"{target} {how}" if ok else f"{target} FAILED: {how}" for target, ok, how in device.flush.results]
    return f"{_when(device.flush.at_ms)}: {'; '.join(results) or 'nothing to flush'}"


# --- heartbeats


def _heartbeats(found: Sequence[Heartbeat], paint: Paint) -> List[str]:
    """The way of each has a line of its own where the addresses are long."""
    cells: List[Tuple[str, ...]] = [("HEARTBEAT TO", "NAME", "STATE", "SENDING", "RECEIVING")]
    cells += [(each.node, heartbeat_name(each), *map(_word, (each.state, each.sending, each.receiving))) for each in found]
    ways = ["FROM -> TO", *(f"{each.local or '?'} -> {each.remote or '?'}" for each in found)]
    whole = [(*row, way) for row, way in zip(cells, ways)]
    if max(map(len, _table(whole, _plain, ""))) <= WIDTH:
        return _table(whole, paint, "")
    rows = _table(cells, paint, "")
    return [rows[0], *(line for row, way in zip(rows[1:], ways[1:]) for line in (row, f"  {printable(way)}"))]


def _word(channel: Channel) -> str:
    return "DOWN" if channel is Channel.DOWN else channel.value


def _interfaces(report: Report) -> List[str]:
    daemon = report.facts.daemon
    found = daemon.interfaces if isinstance(daemon, Daemon) else ()
    return [printable(f"{each.resource}: {each.message}") for each in found]


# --- pieces


def _coloured(code: str, text: str) -> str:
    return f"\033[{code}m{text}\033[0m" if text else ""


def _plain(_code: str, text: str) -> str:
    return text


def printable(text: str, length: int = 2000) -> str:
    """Foreign text made fit for a terminal: nothing in it can move somebody's cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:length])


def _table(cells: Sequence[Tuple[str, ...]], paint: Paint, indent: str = "  ") -> List[str]:
    clean = [tuple(printable(cell, 40) for cell in row) for row in cells]
    widths = [max(len(row[column]) for row in clean) for column in range(len(clean[0]))]
    return [
        indent + "  ".join(_cell(cell, width, paint) for cell, width in zip(row, widths)).rstrip()
        for row in clean
    ]


def _cell(cell: str, width: int, paint: Paint) -> str:
    padding = " " * (width - len(cell))
    if cell in BAD:
        return paint(RED, cell) + padding
    return (paint(YELLOW, cell) if cell in DOUBTFUL or cell == "not heard" else cell) + padding


def _wrapped(text: str, indent: str) -> List[str]:
    return textwrap.wrap(printable(text), WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False) or [""]


def _when(at_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms / 1000))


def _ago(elapsed_ms: int) -> str:
    seconds = max(0, elapsed_ms // 1000)
    days, hours, minutes = seconds // 86400, seconds % 86400 // 3600, seconds % 3600 // 60
    if days or hours:
        return f"{days} d {hours} h" if days else f"{hours} h {minutes} min"
    return f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"

