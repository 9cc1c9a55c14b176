"""README's set-up as steps: what a person reads there, so that tests can do the very same.

A step is an HTML comment, which nobody sees, and for the first two kinds the indented block below it:
    run ID on NODE...                  commands, one a line, done on each of these nodes
    file ID on NODE...: PATH           the block is the whole of this file (a name without / is in root's home)
    wait on NODE...: COMMAND: TEXT     until the command's output there has this text
    cut LINK, mend LINK                a person pulls the cable, and puts it back
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import List, Tuple

README = Path(__file__).resolve().parents[1] / "README.md"
_MARK = re.compile(r"<!-- (run|file|wait|cut|mend) (.*?) -->\Z")
_STEP = re.compile(r"(?:(?P<ident>[\w-]+) )?on (?P<nodes>[\w ]+?)(?:: (?P<first>[^:]+?)(?:: (?P<text>.+))?)?\Z")
NODES = {"nodea", "nodeb"}


@dataclass(frozen=True)
class Step:
    """what: run, file, wait, cut, mend. subject: the path, the command that is waited with, or the link."""

    what: str
    ident: str
    nodes: Tuple[str, ...]
    subject: str
    text: str
    lines: Tuple[str, ...]

    @property
    def content(self) -> str:
        return "".join(f"{line}\n" for line in self.lines)


def steps(page: Path = README) -> List[Step]:
    """In the order of the page. Raises ValueError for a mark that is none."""
    lines = page.read_text(encoding="utf-8").splitlines()
    return [_step(lines, number) for number, line in enumerate(lines) if line.startswith("<!--")]


def step(ident: str, page: Path = README) -> Step:
    return next(each for each in steps(page) if each.ident == ident)


def _step(lines: List[str], number: int) -> Step:
    mark = _MARK.match(lines[number])
    if mark is None:
        raise ValueError(f"line {number + 1}: no step: {lines[number]}")
    what, rest = mark.groups()
    if what in ("cut", "mend"):
        return Step(what, "", (), rest, "", ())
    found = _STEP.match(rest)
    if found is None or not set(found["nodes"].split()) <= NODES:
        raise ValueError(f"line {number + 1}: no step: {lines[number]}")
    block: List[str] = []
    for line in lines[number + 1 :]:
        if not line.startswith("    "):
            break
        block.append(line[4:])
    has = {"run": (True, False, False), "file": (True, True, False), "wait": (False, True, True)}[what]
    if has != (bool(found["ident"]), bool(found["first"]), bool(found["text"])) or (what == "wait") == bool(block):
        raise ValueError(f"line {number + 1}: a step of this kind has another form: {lines[number]}")
    return Step(what, found["ident"] or "", tuple(found["nodes"].split()), found["first"] or "", found["text"] or "", tuple(block))
