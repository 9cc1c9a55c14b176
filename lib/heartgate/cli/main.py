"""`heartgate`: finds the command's module and hands over. Each has `add_arguments(commands)`, which sets its `run`."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from typing import List, Optional

from heartgate import __version__

FAILED, INTERRUPTED = 1, 130
COMMANDS = {
    "status": "status",
    "explain": "explain",
    "mark-synchronized": "mark",
    "forget": "forget",
    "check": "check",
    "facts": "facts",
    "link-report": "link_report",
    "budget": "budget",
    "spof": "spof",
    "heartbeat": "heartbeat",
    "discover": "discover",
    "setup": "setup",
    "setup-here": "setup_here",
}


def parser(words: List[str]) -> argparse.ArgumentParser:
    """Only the command that is asked for is loaded: scripts call `heartgate status` all day. Without one: all of them."""
    about = "Shows what heartgate has decided on this node, and why; checks what a cluster stands on; lets a person decide."
    pages = "The pages that are named docs/NAME.md are in /usr/share/doc/heartgate/docs where a package has installed heartgate."
    made = argparse.ArgumentParser(prog="heartgate", description=about, epilog=pages)
    made.add_argument("--version", action="version", version=f"heartgate {__version__}")
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in [words[0]] if words and words[0] in COMMANDS else list(COMMANDS):
        import_module(f"heartgate.cli.{COMMANDS[name]}").add_arguments(commands)
    commands.add_parser("version", help="the version")
    return made


def joined(words: List[str]) -> List[str]:
    """`--at -10min` would be two options for argparse."""
    out: List[str] = []
    for word in words:
        if out and out[-1] == "--at" and word[:1] == "-" and word[1:2].isdigit():
            out[-1] = f"--at={word}"
        else:
            out.append(word)
    return out


def main(argv: Optional[List[str]] = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    options = parser(words).parse_args(joined(words))
    if options.command == "version":
        print(f"heartgate {__version__}")
        return 0
    try:
        return int(options.run(options))
    except PermissionError as error:
        print(f"heartgate: {error.filename}: {error.strerror} (only root may look)", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        import_module("heartgate.adapters.process").end_running()
        print(f"\nheartgate {options.command}: interrupted", file=sys.stderr)
        return INTERRUPTED
