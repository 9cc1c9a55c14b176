"""A line on stderr for whoever waits more than two seconds."""

from __future__ import annotations

import sys
import time
from typing import Optional, TextIO

PATIENCE_S = 2.0
REPEAT_S = 10.0


class Progress:
    """On a terminal one line that changes; elsewhere a line every ten seconds."""

    def __init__(self, stream: Optional[TextIO] = None) -> None:
        self._stream = stream or sys.stderr
        self._started = time.monotonic()
        self._last = -REPEAT_S
        self._open = False

    def __call__(self, text: str) -> None:
        elapsed = time.monotonic() - self._started
        if elapsed < PATIENCE_S:
            return
        if self._stream.isatty():
            self._stream.write(f"\r\033[K{text}")
            self._open = True
        elif elapsed - self._last >= REPEAT_S:
            self._last = elapsed
            self._stream.write(f"{text}\n")
        self._stream.flush()

    def done(self) -> None:
        if self._open:
            self._stream.write("\r\033[K")
            self._stream.flush()
            self._open = False
