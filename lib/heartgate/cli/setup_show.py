"""The steps of a set-up as a page that a shell can read: what is said is a comment, what is to be done a command."""

from __future__ import annotations

import shlex
import textwrap
from typing import Any, Dict, List, Sequence

from heartgate.checks.findings import Finding, Severity
from heartgate.checks.setup_model import Action, Command, SetupPlan, State, Step, Wish

WIDTH = 110
END = "HEARTGATE"
FORMAT, VERSION = "heartgate-setup-plan", 1


def page(wish: Wish, plan: SetupPlan, findings: Sequence[Finding]) -> str:
    lines = [
        f"# {' and '.join(wish.nodes)}, device {wish.device}, with {wish.tool.value}; commands without ssh are for {wish.local}."
    ]
    lines += comment(warnings(findings, wish))
    for number, step in enumerate(plan.steps, 1):
        lines += ["", *_step(number, step, wish)]
    lines += ["", *comment(closing(wish, plan))]
    return "\n".join(lines)


def comment(text: str, indent: str = "") -> List[str]:
    found: List[str] = []
    for line in text.splitlines():
        if len(line) <= WIDTH or line.startswith("    "):
            found.append(f"# {indent}{line}")  # a line to be written somewhere stays one
        else:
            start = f"# {indent}"
            found += textwrap.wrap(line, WIDTH, initial_indent=start, subsequent_indent=start + "  ", break_on_hyphens=False)
    return found


def warnings(findings: Sequence[Finding], wish: Wish) -> str:
    counted = [(sum(each.counts and each.severity is severity for each in findings), severity.value) for severity in Severity]
    shown = ", ".join(f"{count} {word}{'s' if count != 1 and word != 'unknown' else ''}" for count, word in counted if count)
    if not shown:
        return "The rules of heartbeat links found nothing."
    return f"The rules of heartbeat links: {shown}. They are told by: heartgate check --peer {wish.peer}"


def closing(wish: Wish, plan: SetupPlan) -> str:
    if plan.problems:
        return "Nothing of it may be carried out before what was refused is right."
    if plan.finished:
        return f"Everything is done. From time to time: heartgate check --peer {wish.peer}; heartgate budget"
    if any(step.state is State.BY_HAND for step in plan.steps):
        return "Do by hand what is marked so, in this order, then run heartgate setup again."
    return f"The same with --apply carries it out. Afterwards: heartgate check --peer {wish.peer}; heartgate budget"


def _step(number: int, step: Step, wish: Wish) -> List[str]:
    lines = [f"# {number}. {step.ident}: {step.state.value}"]
    if step.state is State.DONE:
        return [f"{lines[0]} ({step.expects})", *(line for note in step.notes for line in comment(note, "   "))]
    lines += comment(step.reason, "   ")
    for note in (*step.notes, step.by_hand, *step.failures):
        lines += comment(note, "   ")
    for action in step.actions:
        lines += shown(action, wish.local)
    if step.state is State.WAITING:
        lines += comment(f"It is configured; now: {step.seen}", "   ")
    return [*lines, *comment(f"Then: {step.expects}", "   ")]


def shown(action: Action, local: str) -> List[str]:
    """As it is pasted into a shell on this node."""
    remote = action.node != local
    if isinstance(action, Command):
        words = shlex.join(action.argv)
        if remote:
            words = f"ssh root@{action.node} {shlex.quote(words)}"
        return [words] if not action.stdin else [f"{words} <<'{END}'", *action.stdin.splitlines(), END]
    words = f"cat > {shlex.quote(action.path)}"
    words = f"ssh root@{action.node} {shlex.quote(words)}" if remote else words
    return [f"{words} <<'{END}'", *action.text.splitlines(), END]


def as_data(wish: Wish, plan: SetupPlan, findings: Sequence[Finding]) -> Dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "nodes": list(wish.nodes),
        "local": wish.local,
        "device": wish.device,
        "tool": wish.tool.value,
        "finished": plan.finished,
        "problems": [{"what": each.what, "remedy": each.remedy} for each in plan.problems],
        "findings": [
            {"rule": each.rule, "severity": each.severity.value, "subject": each.subject, "evidence": each.evidence,
             "remedy": each.remedy, "waived": each.waived}
            for each in findings
        ],
        "steps": [_data(step) for step in plan.steps],
    }  # fmt: skip


def _data(step: Step) -> Dict[str, Any]:
    return {
        "id": step.ident,
        "reason": step.reason,
        "state": step.state.value,
        "expects": step.expects,
        "seen": step.seen,
        "by_hand": step.by_hand,
        "failures": list(step.failures),
        "notes": list(step.notes),
        "actions": [_action(action) for action in step.actions],
    }


def _action(action: Action) -> Dict[str, Any]:
    if isinstance(action, Command):
        return {"node": action.node, "argv": list(action.argv), "stdin": action.stdin}
    return {"node": action.node, "path": action.path, "text": action.text, "mode": f"{action.mode:04o}"}
