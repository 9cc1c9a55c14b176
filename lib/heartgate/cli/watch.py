"""Showing something again and again until Ctrl-C: a screen drawn over the last one, or one text after the other."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sys
import time
from typing import Any, Callable, Iterator, List

OK = 0
HOME, TO_END_OF_LINE, TO_END_OF_SCREEN, CLEAR = "\033[H", "\033[K", "\033[J", "\033[2J"
HIDE, SHOW = "\033[?25l", "\033[?25h"
_COLOUR = re.compile(r"\033\[[0-9;]*m")


def run(look: Callable[[], str], pause_s: float, *, flowing: bool) -> int:
    """flowing: the texts one after the other, also on a terminal. Ends with Ctrl-C, SIGTERM, or when nobody reads any more."""
    try:
        with _ended_politely(), _hidden_cursor(not flowing and sys.stdout.isatty()) as screen:
            first = True
            while True:
                text = look()
                if screen:
                    _draw(text, first)
                else:
                    print(text if flowing or first else f"\n{text}", flush=True)
                first = False
                time.sleep(pause_s)
    except KeyboardInterrupt:
        from heartgate.adapters.process import end_running

        end_running()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python would complain at its end
    return OK


def _draw(text: str, first: bool) -> None:
    """In one write, and nothing is cleared before it is drawn over: no flicker."""
    size = shutil.get_terminal_size()
    lines = "".join(f"{line}{TO_END_OF_LINE}\n" for line in fitted(text, size.lines, size.columns))
    sys.stdout.write((CLEAR if first else "") + HOME + lines + TO_END_OF_SCREEN)
    sys.stdout.flush()


def fitted(text: str, rows: int, columns: int) -> List[str]:
    """The lines that fit on a screen, colours not counted; the last one says how many do not."""
    lines, shown, used = text.split("\n"), [], 0
    needs = [max(1, -(-len(_COLOUR.sub("", line)) // max(1, columns))) for line in lines]
    if sum(needs) <= rows - 1:
        return lines
    for line, need in zip(lines, needs):
        if used + need > rows - 2:
            break
        used += need
        shown.append(line)
    return [*shown, f"... {len(lines) - len(shown)} more lines: make the window larger"]


@contextlib.contextmanager
def _hidden_cursor(screen: bool) -> Iterator[bool]:
    if screen:
        sys.stdout.write(HIDE)
    try:
        yield screen
    finally:
        if screen:
            sys.stdout.write(SHOW)
            sys.stdout.flush()


@contextlib.contextmanager
def _ended_politely() -> Iterator[None]:
    """SIGTERM ends it as Ctrl-C does: the cursor comes back."""

    def interrupt(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
