"""The policy's tables as a document: `python3 -m heartgate.core.rules_doc > docs/rules.md`. A test compares the two."""

from __future__ import annotations

from typing import Iterable, List, Tuple

from heartgate.core.rules import GUARDS, PEER_FENCED, PEER_OUTDATED, STAY, TABLE

_HEAD = """\
# The rules of the policy

<!-- Generated: PYTHONPATH=lib python3 -m heartgate.core.rules_doc > docs/rules.md -->

What they work on is in [concepts.md](concepts.md), why they are as they are in [policy.md](policy.md). Journal entries
name these ids.

## Rules

After every event the table is run from the top; whenever a rule applies it starts again from the top, until none does.
So what takes a right away comes before what gives one.

"""

_GUARDS = """
## Guards

Conditions inside the rules above. They have no effect of their own, but leaving one out breaks an invariant: the
explorer leaves out each rule and each guard in turn.

"""

_CODES = """
## Exit codes of the fence-peer handler

"""

EXITS: Tuple[Tuple[str, str], ...] = (
    (str(PEER_OUTDATED), "This node goes on: the peer has confirmed its block."),
    (str(PEER_FENCED), "This node goes on: the peer was fenced."),
    (str(STAY), "This node stays frozen, or the promotion is refused."),
)


def _table(head: Tuple[str, ...], rows: Iterable[Tuple[str, ...]]) -> str:
    lines: List[Tuple[str, ...]] = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def render() -> str:
    """The whole document."""
    rules = [(str(place), f"`{rule.ident}`", rule.text) for place, rule in enumerate(TABLE, 1)]
    guards = [(f"`{ident}`", text) for ident, text in GUARDS]
    return (
        _HEAD
        + _table(("order", "rule", "what it does"), rules)
        + _GUARDS
        + _table(("guard", "what it demands"), guards)
        + _CODES
        + _table(("code", "meaning"), EXITS)
    )


if __name__ == "__main__":
    import sys

    sys.stdout.write(render())
