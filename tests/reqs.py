"""`./run reqs`: one line a requirement: its id, pass, fail or none, and the tests that prove it in the last run."""

from __future__ import annotations

import json
import sys
from typing import Dict, List, Tuple

from tests.conftest import RECORD, ROOT


def identifiers() -> List[str]:
    """The ids in docs/requirements.md, in its order."""
    lines = (ROOT / "docs" / "requirements.md").read_text().splitlines()
    return [line.split()[1] for line in lines if line.startswith("- ")]


def main() -> int:
    record: Dict[str, Dict[str, object]] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    tests: Dict[str, List[Tuple[str, str]]] = {ident: [] for ident in identifiers()}
    for name, result in sorted(record.items()):
        reqs = result["reqs"]
        for ident in reqs if isinstance(reqs, list) else []:
            tests.setdefault(str(ident), []).append((name, str(result["outcome"])))
    for ident, found in tests.items():
        outcomes = {outcome for _, outcome in found} - {"none"}
        verdict = "fail" if "fail" in outcomes else "pass" if outcomes else "none"
        print(f"{ident:4} {verdict:4} {' '.join(name for name, _ in found)}".rstrip())
    return 0


if __name__ == "__main__":
    sys.exit(main())
