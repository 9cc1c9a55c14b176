"""The command lines of our programs, as their own argparse parsers tell them: for manual pages and for completion.

Nothing is listed by hand, so that what a program gains is in its page and in its completion at the next build.
"""

from __future__ import annotations

import argparse
from typing import Any, Callable, Dict, List, NamedTuple, Tuple
from unittest import mock


class Option(NamedTuple):
    """An option or a positional argument. flags is empty for the latter; value is empty when none is taken."""

    flags: Tuple[str, ...]
    value: str
    help: str
    choices: Tuple[str, ...]
    is_path: bool
    needed: bool


class Command(NamedTuple):
    """A program or one of its commands. name: all of its words, e.g. "heartgate status"."""

    name: str
    summary: str
    description: str
    epilog: str
    options: Tuple[Option, ...]
    arguments: Tuple[Option, ...]
    commands: Tuple[Command, ...]

    def walk(self) -> List[Command]:
        """This one and everything below it."""
        return [self, *(inner for command in self.commands for inner in command.walk())]


class _Parser(Exception):
    pass


def parser_of(main: Callable[[List[str]], Any]) -> argparse.ArgumentParser:
    """The parser with which `main` would read its arguments: it is stopped when it begins to. Raises RuntimeError when it
    reads none."""
    found: List[argparse.ArgumentParser] = []

    def stop(parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        found.append(parser)
        raise _Parser

    with mock.patch.multiple(argparse.ArgumentParser, parse_args=stop, parse_known_args=stop):
        try:
            main([])
        except _Parser:
            return found[0]
    raise RuntimeError(f"{main.__module__} does not read its arguments with argparse")


def command_of(parser: argparse.ArgumentParser, name: str = "", summary: str = "") -> Command:
    name = name or parser.prog
    options: List[Option] = []
    arguments: List[Option] = []
    commands: List[Command] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            commands += _commands(name, action)
        elif action.help != argparse.SUPPRESS:
            (options if action.option_strings else arguments).append(_option(parser, action))
    texts = (name, summary, parser.description or "", parser.epilog or "")
    return Command(*texts, tuple(options), tuple(arguments), tuple(commands))


def _commands(name: str, action: Any) -> List[Command]:
    summaries: Dict[str, str] = {choice.dest: choice.help or "" for choice in action._choices_actions}
    return [
        command_of(inner, f"{name} {word}", summaries[word])
        for word, inner in action.choices.items()
        if word in summaries and summaries[word] != argparse.SUPPRESS  # not in there: an alias, or hidden
    ]


def _option(parser: argparse.ArgumentParser, action: argparse.Action) -> Option:
    choices = tuple(str(choice) for choice in action.choices or ())
    value = ""
    if not action.option_strings or action.nargs != 0:
        value = _shape(action, choices)
    kind = getattr(action.type, "__name__", "")
    is_path = kind in ("Path", "PosixPath", "FileType") or "FILE" in value or "DIR" in value
    facts = {**vars(action), "prog": parser.prog}
    text = (action.help or "") % facts if action.help else ""
    needed = action.required if action.option_strings else action.nargs not in ("?", "*")
    return Option(tuple(action.option_strings), value, text, choices, is_path, needed)


def _shape(action: argparse.Action, choices: Tuple[str, ...]) -> str:
    """DEVICE, NODE NODE, LINK ..."""
    metavar = action.metavar or ("|".join(choices) if choices else action.dest.upper())
    names = [metavar] if isinstance(metavar, str) else list(metavar)
    if action.nargs in ("*", "+", "...", "A..."):
        return f"{names[0]} ..."
    if isinstance(action.nargs, int) and len(names) == 1:
        names *= action.nargs
    return " ".join(names)
