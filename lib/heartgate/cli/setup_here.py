"""`heartgate setup-here`: this node's part of a set-up that runs on the other node. For heartgate itself; in no manual page."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any


def add_arguments(commands: Any) -> None:
    commands.add_parser("setup-here").set_defaults(run=run)


def run(_options: argparse.Namespace) -> int:
    from heartgate.adapters import setup_node

    answer = setup_node.serve(sys.stdin.read(setup_node.REQUEST_MAX))
    print(json.dumps(answer))
    return 0 if answer["ok"] else 1
