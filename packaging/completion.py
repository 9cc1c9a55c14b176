"""`python3 packaging/completion.py`: the completion of `heartgate` for bash, made from its argparse parser."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Iterable, List

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1] / "lib")]

from programs import Command, Option, command_of, parser_of  # noqa: E402

from heartgate.cli.main import main as heartgate  # noqa: E402

STATE_DIR = "/var/lib/heartgate"
DEVICE = "DEVICE"  # arguments of this name are completed with the devices that have a record here
HEAD = """\
# bash completion for heartgate. Generated from the command itself (packaging/completion.py); do not edit.

_heartgate_devices() {
    local record
    for record in %(state_dir)s/*.state; do
        [[ -e $record ]] || continue
        record=${record##*/}
        printf '%%s\\n' "${record%%.state}"
    done
}

_heartgate() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} at=heartgate words="" i
    # COMP_WORDS has "--option=value" in three words.
    if [[ $cur == "=" ]]; then cur=""; elif [[ $prev == "=" ]]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "$at ${COMP_WORDS[i]}" in
"""
TAIL = """\
    esac
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}

complete -F _heartgate heartgate
"""


def alternatives(patterns: Iterable[str]) -> str:
    return "|".join(shlex.quote(pattern) for pattern in patterns)


def script(state_dir: str = STATE_DIR) -> str:
    program = command_of(parser_of(heartgate))
    commands = program.walk()
    lines = [(HEAD % {"state_dir": shlex.quote(state_dir)}).rstrip("\n")]
    below = [command.name for command in commands if command.name != program.name]
    if below:
        lines.append(f"            {alternatives(below)}) at+=\" ${{COMP_WORDS[i]}}\" ;;")
    taking = [f"{command.name} {flag}" for command in commands for option in _valued(command) for flag in option.flags]
    if taking:
        lines.append(f"            {alternatives(taking)}) ((i++)) ;;")
    lines += ["        esac", "    done"]
    lines += _values(commands)
    lines.append('    case "$at" in')
    for command in commands:
        lines += _words(command)
    return "\n".join([*lines, TAIL])


def _valued(command: Command) -> List[Option]:
    return [option for option in command.options if option.value]


def _values(commands: Iterable[Command]) -> List[str]:
    lines = []
    for command in commands:
        for option in _valued(command):
            reply = "return"  # a value of which nothing is known: no guess
            if option.choices:
                reply = f'words={shlex.quote(" ".join(option.choices))}'
            elif option.is_path:
                reply = 'compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")); return'
            elif option.value == DEVICE:
                reply = "words=$(_heartgate_devices)"
            lines.append(f"        {alternatives(f'{command.name} {flag}' for flag in option.flags)}) {reply} ;;")
    if not lines:
        return []
    reply = '    [[ $words ]] && { COMPREPLY=($(compgen -W "$words" -- "$cur")); return; }'
    return ['    case "$at $prev" in', *lines, "    esac", reply]


def _words(command: Command) -> List[str]:
    flags = " ".join(flag for option in command.options for flag in option.flags)
    others = [inner.name.rpartition(" ")[2] for inner in command.commands]
    others += [choice for argument in command.arguments for choice in argument.choices]
    words = shlex.quote(" ".join(others))
    devices = any(DEVICE in argument.value.upper().split() for argument in command.arguments)
    lines = [f"        {shlex.quote(command.name)})"]
    lines.append(f"            if [[ $cur == -* ]]; then words={shlex.quote(flags)}; else words={words}; fi")
    if devices:
        lines.append('            [[ $cur == -* ]] || words+=" $(_heartgate_devices)"')
    if any(argument.is_path for argument in command.arguments):
        lines.append("            [[ $cur == -* ]] || compopt -o default")
    return [*lines, "            ;;"]


if __name__ == "__main__":
    sys.stdout.write(script())
