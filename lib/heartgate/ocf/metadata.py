"""`python3 -m heartgate.ocf.metadata DIRECTORY`: write the metadata of every agent, generated from what it declares."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Dict

from heartgate.ocf.declare import metadata
from heartgate.ocf.heartbeat_link_table import AGENT as HEARTBEAT_LINK
from heartgate.ocf.replica_guard_table import AGENT as REPLICA_GUARD

AGENTS = (REPLICA_GUARD, HEARTBEAT_LINK)


def generated() -> Dict[str, str]:
    """File name -> contents."""
    return {f"{agent.name}.xml": metadata(agent) for agent in AGENTS}


def main() -> int:
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "ocf-metadata")
    for name, text in generated().items():
        (target / name).write_text(text, encoding="ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main())
