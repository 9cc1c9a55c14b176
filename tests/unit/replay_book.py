"""Histories for tests: what the nodes of a golden script would have written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import pytest

from heartgate.core import replay
from heartgate.core.model import Action, AnswerHandler, Persist, State
from heartgate.core.replay import Head, Start
from tests.unit import core_script

CORE = "1.0+abc"


class Noted(NamedTuple):
    """A step as it was, without any codec."""

    event: Any
    config: Any
    before: Optional[State]
    after: State
    actions: Tuple[Action, ...]


class Book:
    """One node's history, as the daemon writes it."""

    def __init__(self) -> None:
        self.noted: List[Noted] = []
        self.lines: List[bytes] = []
        self._run, self._n, self._previous = "", 0, ""
        self._config: Any = None

    def note(self, noted: Noted) -> None:
        run = noted.after.run
        if run != self._run:
            self._run, self._n, self._previous = run, 0, ""
        self._n += 1
        self.noted.append(noted)
        at = len(self.noted)
        head = Head(0, CORE, run, self._n, 1_700_000_000_000 + 10 * at, 5_000_000 + 10_000 * at)
        if isinstance(noted.event, Start):
            start = noted.event
            kind, body = "start", replay.start_body(noted.config, start.record, start.boot, noted.after, noted.actions)
        else:
            assert noted.before is not None
            whole = any(isinstance(action, (Persist, AnswerHandler)) for action in noted.actions)
            whole = whole or noted.config != self._config  # other parameters, in the same run
            kind, body = "step", replay.step_body(noted.config, noted.before, noted.event, noted.after, noted.actions, whole)
        line, self._previous = replay.seal_line(head, kind, body, self._previous)
        self.lines.append(line)
        self._config = noted.config

    @property
    def data(self) -> bytes:
        return b"".join(self.lines)


class Writing(core_script.Cluster):
    """A script's cluster in which every node keeps a history."""

    books: Dict[str, Book]

    def __init__(self) -> None:
        super().__init__()
        self.books = {}
        self._event: Any = None
        MADE.append(self)

    def _run(self, me: str, node: Any) -> List[str]:
        self._event = Start(node.disk_record, node.boot)
        return super()._run(me, node)

    def _step(self, me: str, event: Any) -> List[str]:
        self._event = event
        return super()._step(me, event)

    def _carry_out(self, me: str, before: Any, after: Any, actions: Any) -> List[str]:
        if before != after or actions:
            noted = Noted(self._event, self.nodes[me].config, before, after, actions)
            self.books.setdefault(me, Book()).note(noted)
        return super()._carry_out(me, before, after, actions)


MADE: List[Writing] = []


def books_of(path: Path, monkeypatch: pytest.MonkeyPatch) -> Dict[str, Book]:
    MADE.clear()
    monkeypatch.setattr(core_script, "Cluster", Writing)
    core_script.run_script(path)
    return MADE.pop().books


def resealed(lines: List[bytes]) -> List[bytes]:
    """All checks anew: by somebody who knows how they are made."""
    out: List[bytes] = []
    previous, run = "", ""
    for line in lines:
        entry = json.loads(line)
        previous = "" if entry["run"] != run else previous
        run = entry["run"]
        body = {key: value for key, value in entry.items() if key not in ("prev", "sum")}
        text = json.dumps(body, separators=(",", ":")).encode()[:-1] + b',"prev":"' + previous.encode() + b'"'
        previous = replay._check(text)
        out.append(text + b',"sum":"' + previous.encode() + b'"}\n')
    return out
