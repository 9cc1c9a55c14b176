"""`python3 -m heartgate.fencing.doc docs/fence_heartgate.md`: put the tables of the code into the page, between its marks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Dict

from heartgate.core.fencing import rules_table
from heartgate.fencing.table import parameters_table


def tables() -> Dict[str, str]:
    return {"rules": rules_table(), "parameters": parameters_table()}


def renewed(page: str) -> str:
    """The page with its tables as the code has them. Raises ValueError when a mark is missing."""
    for name, table in tables().items():
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
        head, tail = page.index(start) + len(start), page.index(end)
        page = page[:head] + table + page[tail:]
    return page


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(renewed(path.read_text(encoding="utf-8")), encoding="utf-8")
