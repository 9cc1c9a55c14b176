"""The history of a device, for `heartgate explain`: every step that changed something, and what its actions came to.

Gathered in the loop, put into words and written by a worker a moment later, in batches: never in a verdict's way. Losing
some of it loses no safety; that some is lost is noted in the next entry that can be written.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable, Deque, Dict, Optional, Tuple, Union

from heartgate import __version__
from heartgate.core import policy, replay
from heartgate.core.model import Action, AnswerHandler, Config, Event, Persist, Record, State
from heartgate.core.replay import Head
from heartgate.daemon.services import Services, why

GATHER_S = 0.25
WRITE_DEADLINE_S = 10.0
WAITING_LIMIT = 512  # entries, while the disk does not answer; the oldest are lost first
HOW_LIMIT = 300
# A change in any other module of the core is another version of the policy.
DECIDES_NOTHING = frozenset({"__init__.py", "codec.py", "invariants.py", "replay.py", "rules_doc.py"})

Describe = Callable[[bool], Dict[str, Any]]


class Waiting:
    """An entry that is not written. describe(checkpoint) puts it into words."""

    __slots__ = ("checkpoint", "config", "describe", "head", "kind")

    def __init__(self, head: Head, kind: str, describe: Describe, config: Optional[Config], checkpoint: bool) -> None:
        self.head, self.kind, self.describe, self.config, self.checkpoint = head, kind, describe, config, checkpoint


@lru_cache(maxsize=1)
def core_version() -> str:
    """The release, and a print of the policy's sources: two policies that are not the same have different ones."""
    total = hashlib.sha256()
    try:
        sources = [path for path in Path(policy.__file__).parent.glob("*.py") if path.name not in DECIDES_NOTHING]
        for path in sorted(sources):
            total.update(path.read_bytes())
    except OSError:
        return f"{__version__}+unknown"
    return f"{__version__}+{total.hexdigest()[:10]}"


class History:
    """Loop thread, but for `_write`, which runs in the device's lane."""

    def __init__(self, services: Services, device: str, run: str) -> None:
        self._services = services
        self._device = device
        self._run = run
        self._numbers = 0
        self._waiting: Deque[Waiting] = deque(maxlen=WAITING_LIMIT)
        self._due = False
        self._writing = False
        self._failures: Dict[str, str] = {}  # the last one of each action that has not succeeded since
        # Of the lane:
        self._written = 0  # number of the last entry that was written
        self._previous = ""
        self._config: Optional[Config] = None  # of the last step that was written; None: the next one is a checkpoint

    def start(self, config: Config, found: Optional[Record], after: State, actions: Tuple[Action, ...]) -> None:
        boot = self._services.world.boot
        self._add("start", lambda _: replay.start_body(config, found, boot, after, actions), config, True)

    def step(self, config: Config, before: State, event: Event, after: State, actions: Tuple[Action, ...]) -> None:
        checkpoint = any(isinstance(action, (Persist, AnswerHandler)) for action in actions)

        def describe(whole: bool) -> Dict[str, Any]:
            return replay.step_body(config, before, event, after, actions, whole)

        self._add("step", describe, config, checkpoint)

    def done(self, what: str, ok: bool, how: str, took_us: Optional[int] = None) -> None:
        """What an action came to. took_us: since it was ordered. The same failure again and again is told once: what is
        tried for hours must not push the verdict out of the file."""
        if not ok and self._failures.get(what) == how:
            return
        self._failures[what] = "" if ok else how
        body: Dict[str, Any] = {"what": what, "ok": ok, "how": how[:HOW_LIMIT]}
        if took_us is not None:
            body["took_us"] = max(0, took_us)
        self._add("done", lambda _: body, None, False)

    def _add(self, kind: str, describe: Describe, config: Optional[Config], checkpoint: bool) -> None:
        self._numbers += 1
        head = Head(0, "", self._run, self._numbers, int(time.time() * 1000), now_us())
        self._waiting.append(Waiting(head, kind, describe, config, checkpoint))
        if not self._due and not self._writing:
            self._due = True
            self._services.loop.after(GATHER_S, self._submit)

    def _submit(self) -> None:
        self._due, self._writing = False, True
        batch, self._waiting = tuple(self._waiting), deque(maxlen=WAITING_LIMIT)
        self._services.workers.submit(
            f"history:{self._device}", lambda: self._write(batch), self._ended, WRITE_DEADLINE_S
        )

    def _ended(self, result: Union[None, Exception]) -> None:
        self._writing = False
        if result is not None:
            text = f"{self._device}: cannot write the history: {why(result)}"
            self._services.journal.send("action-failed", text, device=self._device, action="history", how=why(result))
        if self._waiting and not self._due:
            self._due = True
            self._services.loop.after(GATHER_S, self._submit)

    def _write(self, batch: Tuple[Waiting, ...]) -> None:
        lines = []
        written, previous, config = self._written, self._previous, self._config
        for entry in batch:
            lost = entry.head.n - written - 1
            whole = entry.checkpoint or bool(lost) or entry.config != config
            head = entry.head._replace(core=core_version())
            line, previous = replay.seal_line(head, entry.kind, entry.describe(whole), previous, lost)
            lines.append(line)
            time.sleep(0)  # let go of the interpreter: the loop never waits for more than one entry
            written = entry.head.n
            if entry.config is not None:
                config = entry.config
            elif lost:
                config = None
        try:
            self._services.store.append_history(self._device, b"".join(lines))
        except OSError:
            self._config = None
            raise
        self._written, self._previous, self._config = written, previous, config


def now_us() -> int:
    """Monotonic clock of this boot, in microseconds."""
    return time.monotonic_ns() // 1000
