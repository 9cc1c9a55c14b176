"""What arguments of several commands mean."""

from __future__ import annotations

import argparse
from typing import Callable


def seconds_up_to(most_s: float) -> Callable[[str], float]:
    """For argparse: more than 0 seconds, and at most so many."""

    def seconds(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value <= most_s:  # not a number, too
            raise argparse.ArgumentTypeError(f"{text}: more than 0 and at most {most_s:g} seconds")
        return value

    return seconds
