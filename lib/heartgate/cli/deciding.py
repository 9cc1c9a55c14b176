"""What commands have in common by which a person decides: asking the daemon, and the node's name as the person's word."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, Dict

from heartgate.daemon import client

OK, FAILED, USAGE, NOT_RUNNING, NO_DEVICE = 0, 1, 2, 4, 5


def ask(options: argparse.Namespace, op: str, timeout_s: float, **fields: str) -> Dict[str, Any]:
    """About options.device. Raises client.Unreachable."""
    line = client.ask(client.request(op, device=options.device, **fields), timeout_s, options.socket)
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    return answer if isinstance(answer, dict) else {"ok": False, "error": "heartgated's answer makes no sense"}


def failed(answer: Dict[str, Any]) -> int:
    print(f"heartgate: {answer.get('error', 'heartgated gave no reason')}", file=sys.stderr)
    return NO_DEVICE if answer.get("unknown") else FAILED


def not_running(error: client.Unreachable) -> int:
    print(
        f"heartgate: heartgated does not run on this node ({error}); start it first: systemctl start heartgated",
        file=sys.stderr,
    )
    return NOT_RUNNING


def confirmed(option: str, given: Any, node: str, consequence: str) -> bool:
    """given: the option's value, or None if it was not given; consequence: what typing the name does."""
    if given is not None:
        if given != node:
            print(f"heartgate: not done: {option} names {given!r}, and this node is {node}", file=sys.stderr)
        return bool(given == node)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        print(f"heartgate: not done: no terminal to ask on; a script gives {option} {node}", file=sys.stderr)
        return False
    print(f"\nType the name of this node ({node}) to {consequence}; anything else changes nothing.")
    try:
        typed = input("node: ").strip()
    except (EOFError, KeyboardInterrupt):
        typed = ""
    if typed != node:
        print("heartgate: not done: that is not the name of this node", file=sys.stderr)
    return typed == node
