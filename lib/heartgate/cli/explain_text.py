"""A verdict as a chain, for a tired person: what was seen, which rule, which proof, which action, how long each took."""

from __future__ import annotations

import json
import textwrap
import time
from typing import Any, Dict, List, Optional, Tuple

from heartgate.cli import explain_words as words
from heartgate.cli.explain_pick import Chain, gap_s, is_verdict, steps_of
from heartgate.cli.show import MEANING
from heartgate.core.codec import value_to_json
from heartgate.core.model import Send, Standing
from heartgate.core.replay import Done, Item, Lost, Refused, Start, Step, Trouble

WIDTH = 118
Data = Dict[str, Any]


def page(chain: Chain, latest: Step, running: bool, at_ms: Optional[int]) -> str:
    """latest: the newest step that could be replayed. running: a daemon answers."""
    first = steps_of(chain.items)[0]
    lines = [*_heading(chain, at_ms), "", *_before(first), ""]
    lines += _chain(chain, first)
    lines += ["", *_facts(settled(chain)), ""]
    lines += _now(chain, latest, running)
    return "\n".join(lines)


def settled(chain: Chain) -> Step:
    """The step with which the decision ended (or stands still)."""
    verdicts = [step for step in steps_of(chain.items) if is_verdict(step)]
    return verdicts[-1] if verdicts else chain.verdict


# --- parts -----------------------------------------------------------------------------------------------------------


def _heading(chain: Chain, at_ms: Optional[int]) -> List[str]:
    last, config = settled(chain), chain.verdict.config
    record = last.after.record
    since = f"since {when(last.head.at_ms)}" + ("" if is_verdict(last) else " or longer (its beginning is not kept)")
    lines = [f"{config.device} on {config.me}: {record.standing.value.upper()} {since}, epoch {record.epoch}"]
    lines.append(f"  {MEANING.get(record.standing.value, '')}")
    if at_ms is not None:
        lines.insert(0, f"In force at {when(at_ms)}:")
        if last is not chain.verdict:
            then = chain.verdict.after.record.standing.value
            lines[0] = f"At {when(at_ms)} it was {then}; the verdict came at {when(last.head.at_ms)}:"
    frozen = _undecided_s(chain)
    if frozen is not None:
        lines.append(f"  decided in {span(frozen)}")
    if chain.following is not None:
        after, at = chain.following.after.record.standing.value, when(chain.following.head.at_ms)
        lines.append(f"  the next verdict: {after}, at {at} (--at '{_second_after(chain.following)}')")
    return lines


def _undecided_s(chain: Chain) -> Optional[float]:
    begun = next((s for s in steps_of(chain.items) if is_verdict(s) and s.after.record.standing is Standing.DECIDING), None)
    last = settled(chain)
    if begun is None or last.after.record.standing is Standing.DECIDING:
        return None
    return gap_s(begun, last)


def _second_after(step: Step) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(step.head.at_ms // 1000 + 1))


def _before(first: Step) -> List[str]:
    if first.before is None:
        return ["before this: heartgated did not guard it"]
    state, config = first.before, first.config
    lines = [f"before this: {words.standing(state.record)}"]
    lines.append(f"  {config.me:<12} {words.here(state.replica)}")
    others = [node for node in config.nodes if node != config.me]
    return lines + [f"  {node:<12} {words.there(state.message_of(node), config.me)}" for node in others]


def _chain(chain: Chain, first: Step) -> List[str]:
    lines: List[str] = []
    hidden = 0
    for item in chain.items:
        block = _item(item, first)
        hidden += not block and isinstance(item, Step)
        lines += block
    if hidden:
        lines.append(f"({hidden} step{'s' if hidden > 1 else ''} that changed nothing of this: --json has them)")
    return lines


def _item(item: Item, first: Step) -> List[str]:
    if isinstance(item, Step):
        return _step(item, since(item, first))
    if isinstance(item, Done):
        took = f" ({milliseconds(item.took_us)})" if item.took_us is not None else ""
        return _row(since(item, first), "done", words.outcome(item) + took)
    if isinstance(item, Lost):
        return _row("", "LOST", f"{item.entries} entries could not be written (see the journal)")
    return []


def _step(step: Step, stamp: str) -> List[str]:
    seen, orders = words.seen(step), words.ordered(step)
    rules = words.fired(step)
    if not (seen or rules or orders):
        return []
    lines = _row(stamp, "seen", "; ".join(seen) or words.detail(step))
    for ident, text in rules:
        lines += _row("", "rule", f"{ident}: {text}")
    for proof in _new_proofs(step):
        lines += _row("", "proof", proof)
    for order in orders:
        lines += _row("", "do", order)
    return lines


def _new_proofs(step: Step) -> List[str]:
    before = step.before.record.proofs if step.before is not None else ()
    known = {(proof.node, proof.kind) for proof in before}
    new = [proof for proof in step.after.record.proofs if (proof.node, proof.kind) not in known]
    return [f"{proof.node} cannot serve: {words.proof(proof.kind)} ({proof.kind.value})" for proof in new]


def _row(stamp: str, what: str, text: str) -> List[str]:
    head = f"{stamp:>12}  {what:<6}"
    return textwrap.wrap(text, WIDTH, initial_indent=head, subsequent_indent=" " * len(head)) or [head.rstrip()]


def _facts(step: Step) -> List[str]:
    state, config = step.after, step.config
    lines = ["what each node said when it was decided:"]
    lines.append(f"  {config.me:<12} {words.standing(state.record)}; {words.here(state.replica)}")
    for node in config.nodes:
        if node != config.me:
            lines.append(f"  {node:<12} {words.there(state.message_of(node), config.me)}")
    proofs = [f"  {p.node:<12} {p.kind.value}, epoch {p.epoch}: {words.proof(p.kind)}" for p in state.record.proofs]
    return [*lines, "proof:", *(proofs or [f"  {_no_proof(step)}"])]


def _no_proof(step: Step) -> str:
    record = step.after.record
    if record.standing is Standing.BLOCKED:
        given = f"; its block was promised to {record.promised_to}" if record.promised_to else ""
        return f"none: this node does not go on{given}"
    if record.standing is Standing.SYNCED and set(record.in_sync) == set(step.config.nodes):
        return "none, and none needed: nobody is left out"
    return "none yet: so it does not serve" if record.standing is not Standing.SOLO else "none"


def _now(chain: Chain, latest: Step, running: bool) -> List[str]:
    state, config = latest.after, latest.config
    known = "now" if running else f"heartgated does not run; when it last wrote, at {when(latest.head.at_ms)}"
    begin = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(steps_of(chain.items)[0].head.at_ms // 1000))
    journal = f"journalctl -t heartgated HEARTGATE_DEVICE={config.device} --since '{begin}'"
    lines = [f"{known}: {words.standing(state.record)}"]
    for name, text in (
        ("serves:", words.serving(config, state)),
        ("ends by:", words.ends(config, state)),
        ("more:", f"heartgate explain on the other nodes; {journal}"),
    ):
        lines += textwrap.wrap(text, WIDTH, initial_indent=f"  {name:<9}", subsequent_indent=" " * 11)
    return lines


# --- refusals --------------------------------------------------------------------------------------------------------


def refusal(device: str, item: Refused, core: str) -> str:
    """One clear line about an entry that is not believed."""
    time_of = f" of {when(item.at_ms)}" if item.at_ms else ""
    place = f"{device}: line {item.line} of its history{time_of}" if item.line else f"{device}: the end of its history"
    writer = f" (heartgate {item.core} wrote it, this is {core})" if item.core and item.core != core else ""
    text = {
        Trouble.ALTERED: f"this record does not replay: {item.reason}; it was altered, or written by another version",
        Trouble.VERSION: f"this record does not replay: {item.reason}; it was altered, or written by another version",
        Trouble.MISSING: item.reason,
        Trouble.UNREADABLE: f"this record cannot be read: {item.reason}",
        Trouble.NO_CHECK: f"this record cannot be checked: {item.reason}",
        Trouble.LATER: f"this record cannot be read: {item.reason}",
    }[item.trouble]
    return f"{place}: {text}{writer}"


def entry_text(item: Refused) -> str:
    return json.dumps(item.entry, indent=1) if item.entry is not None else ""


# --- times -----------------------------------------------------------------------------------------------------------


def when(at_ms: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms / 1000)) + f".{at_ms % 1000:03d}"
    except (OverflowError, ValueError, OSError):
        return "an impossible time"


def since(item: Any, first: Step) -> str:
    if item.head.run == first.head.run or (isinstance(item, Step) and item.after.record.boot == first.after.record.boot):
        return span((item.head.us - first.head.us) / 1e6, signed=True)
    return span((item.head.at_ms - first.head.at_ms) / 1000, signed=True)


def span(seconds: float, signed: bool = False) -> str:
    sign = "+" if signed and seconds >= 0 else ""
    if abs(seconds) < 10:
        return f"{sign}{seconds * 1000:.0f} ms"
    return f"{sign}{seconds:.1f} s"


def milliseconds(microseconds: int) -> str:
    return f"{microseconds / 1000:.1f} ms"


# --- for programs ----------------------------------------------------------------------------------------------------


def data(chain: Chain, latest: Step, running: bool, at_ms: Optional[int]) -> Data:
    first, last = steps_of(chain.items)[0], settled(chain)
    return {
        "device": last.config.device,
        "node": last.config.me,
        "asked_at_ms": at_ms,
        "in_force": _brief(chain.verdict),
        "verdict": {**_brief(last), "undecided_ms": _in_ms(_undecided_s(chain))},
        "next": None if chain.following is None else _brief(chain.following),
        "before": value_to_json(first.before),
        "config": value_to_json(last.config),
        "chain": [entry for entry in (_entry(item, first) for item in chain.items) if entry],
        "said": {node: value_to_json(message) for node, message in last.after.heard},
        "replica": value_to_json(last.after.replica),
        "now": {
            **_brief(latest),
            "daemon": "running" if running else "not running",
            "serves": words.serving(latest.config, latest.after),
            "ends_by": words.ends(latest.config, latest.after),
        },
    }


def _in_ms(seconds: Optional[float]) -> Optional[int]:
    return None if seconds is None else int(seconds * 1000)


def _brief(step: Step) -> Data:
    record = step.after.record
    return {
        "at_ms": step.head.at_ms,
        "line": step.head.line,
        "standing": record.standing.value,
        "epoch": record.epoch,
        "in_sync": list(record.in_sync),
        "promised_to": record.promised_to,
        "proofs": [{"node": p.node, "kind": p.kind.value, "epoch": p.epoch} for p in record.proofs],
    }


def _entry(item: Item, first: Step) -> Data:
    if isinstance(item, Refused):
        return {}
    head = item.head
    entry: Data = {"line": head.line, "run": head.run, "core": head.core, "at_ms": head.at_ms, "after": since(item, first)}
    entry["since_first_us"] = head.us - first.head.us
    if isinstance(item, Lost):
        return {**entry, "kind": "lost", "count": item.entries}
    if isinstance(item, Done):
        return {**entry, "kind": "done", "what": item.what, "ok": item.ok, "how": item.how, "took_us": item.took_us}
    return {**entry, **_step_data(item)}


def _step_data(step: Step) -> Data:
    event = value_to_json(step.event) if not isinstance(step.event, Start) else {"Start": value_to_json(tuple(step.event))}
    return {
        "kind": "step",
        "event": event,
        "seen": words.seen(step),
        "rules": [{"rule": ident, "text": text} for ident, text in words.fired(step)],
        "ordered": words.ordered(step),
        "told": any(isinstance(action, Send) for action in step.actions),
        "actions": value_to_json(step.actions),
        "record": value_to_json(step.after.record),
    }


def refusal_data(item: Refused) -> Data:
    return {"line": item.line, "trouble": item.trouble.value, "reason": item.reason, "core": item.core, "at_ms": item.at_ms}


__all__: Tuple[str, ...] = ("data", "entry_text", "page", "refusal", "refusal_data", "settled", "when")
