"""Rows of the benchmark table, and where the last result is kept."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional

RESULT = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Row:
    """One measurement. peer: what it is compared with ("" for plain figures); ratio: ours / theirs."""

    what: str
    ours: float
    unit: str
    peer: str = ""
    theirs: Optional[float] = None
    aim: str = ""

    @property
    def ratio(self) -> str:
        return f"{self.ours / self.theirs:.2f}" if self.theirs else ""


def median(values: List[float]) -> float:
    return statistics.median(values)


def show(rows: List[Row], notes: List[str]) -> str:
    """As Markdown: what people read on the screen is what docs/ keeps."""
    lines = ["| what | heartgate | peer | peer's figure | ratio | aim |", "|---|---|---|---|---|---|"]
    for row in rows:
        theirs = f"{row.theirs:.4g} {row.unit}" if row.theirs is not None else ""
        lines.append(f"| {row.what} | {row.ours:.4g} {row.unit} | {row.peer} | {theirs} | {row.ratio} | {row.aim} |")
    return "\n".join([*lines, "", *notes, ""])
