"""`fence_heartgate`: FenceAgentAPI in, the answer of `heartgate.core.fencing` out.

Exit codes: 0 passed (or done), 1 refused or failed, with one clear line on stderr. Only what has to look at anything loads
the rest (`heartgate.fencing.shooting`): Pacemaker calls `metadata`, `monitor` and `validate-all` far more often.
"""

import sys

from heartgate.fencing import options as parsing
from heartgate.fencing.table import NAME, metadata, usage

OK, FAILED = 0, 1
LOOKS_S = 7.0  # what two looks may take, each with a daemon that does not answer
DEFAULT_TIMEOUT_S = 60.0  # Pacemaker's stonith-timeout


def say(text: str) -> None:
    sys.stderr.write(f"{NAME}: {text}\n")


def main(arguments: "list[str]", stdin: bytes = b"") -> int:
    try:
        given = parsing.from_arguments(arguments) if arguments else parsing.from_stdin(stdin)
    except parsing.Bad as error:
        say(str(error))
        return FAILED
    try:
        return _act(given)
    except parsing.Bad as error:
        say(str(error))
        return OK if given.is_on else FAILED


def _act(given: parsing.Options) -> int:
    if given.flag("help"):
        sys.stdout.write(usage())
        return OK
    if given.flag("version"):
        from heartgate import __version__

        sys.stdout.write(f"{NAME} {__version__}\n")
        return OK
    action = given.action
    if action in ("metadata", "manpage"):  # fence-agents makes man pages from the XML that `manpage` prints
        sys.stdout.write(metadata())
        return OK
    notes = [*given.notes]
    if not given.is_on:
        notes += _checked(action, given)
    if not given.flag("quiet"):
        for note in notes:
            say(note)
    if action == "validate-all":
        return OK
    from heartgate.fencing import shooting

    return shooting.run(action, given)


def _checked(action: str, given: parsing.Options) -> "list[str]":
    """Every option that this agent knows. The budget can only be spoken of: Pacemaker tells no agent how long it may take."""
    rank_delay_s, delay_s = given.seconds("rank_delay", 1.0), given.seconds("delay", 0.0)
    for name in ("hold_while_synced", "verbose", "quiet"):
        given.flag(name)
    target, _ = given.target, given.devices
    if not target and action in ("off", "reboot", "status"):
        raise parsing.Bad(f"no node is named: action={action} needs plug, e.g. plug=nodeb")
    longest_s = delay_s + 3 * rank_delay_s + LOOKS_S
    if longest_s <= DEFAULT_TIMEOUT_S:
        return []
    return [
        f"an answer may take {longest_s:g} s (delay + 3 x rank_delay + {LOOKS_S:g}), and Pacemaker's default timeout is "
        f"{DEFAULT_TIMEOUT_S:g} s: set pcmk_off_timeout and pcmk_reboot_timeout of this device to {longest_s:g} or more"
    ]
