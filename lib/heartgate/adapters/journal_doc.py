"""The journal's messages as a page: `python3 -m heartgate.adapters.journal_doc > docs/troubleshooting.md`. A test compares them."""

from __future__ import annotations

import re
from typing import Tuple

from heartgate.adapters.journal import ERROR, INFO, KINDS, NOTICE, WARNING, Kind

_HEAD = """\
# Troubleshooting, by message

<!-- Generated: PYTHONPATH=lib python3 -m heartgate.adapters.journal_doc > docs/troubleshooting.md -->

Where to begin:

| what you see | ask |
| --- | --- |
| a service that stands still, or was moved | `heartgate status` on each node: the standing of each replica, and what it waits for |
| a verdict that you do not understand | `heartgate explain DEVICE` on each node ([explain.md](explain.md)) |
| heartgated does not run, says `heartgate status` | `systemctl status heartgated`; frozen devices stay frozen meanwhile |
| an agent of heartgate that does not start | `crm_mon -1`, Pacemaker's log: one line for each problem, with what to do |
| no fencing | `stonith_admin --history '*' --verbose`, `journalctl -t fence_heartgate`, `fence_heartgate -o status -n NODE` |
| a heartbeat that comes and goes | `heartgate heartbeat list --seconds 10`, `heartgate check --peer NODE` |
| fencings or failovers under load | `heartgate budget --all` |
| doubts about the configuration | `heartgate check --peer NODE` |

Every message of heartgated and of fence_heartgate has a kind and a message id. `journalctl -x` shows what stands below beside the
message; these show all of one kind, and all of one device:

    journalctl HEARTGATE_KIND=blocked
    journalctl MESSAGE_ID=71b3f5d8c04e4e1ab2967c5d0fa83e04
    journalctl -t heartgated HEARTGATE_DEVICE=r0 -o verbose

The fields that are named below are those of the journal's entry (`-o verbose`). DEVICE and NODE stand for HEARTGATE_DEVICE and
HEARTGATE_NODE. What never helps: [operations.md](operations.md#what-never-to-do).

"""
LEVELS: Tuple[Tuple[int, str, str], ...] = (
    (ERROR, "error", "something did not work, and a person should look"),
    (WARNING, "warning", "less redundancy than there should be, or something waits"),
    (NOTICE, "notice", "something changed"),
    (INFO, "information", "for the record"),
)


def _plain(text: str) -> str:
    """The catalog's @FIELD@, which journalctl fills in."""
    return re.sub(r"@HEARTGATE_([A-Z_]+)@", r"\1", text)


def _entry(name: str, kind: Kind) -> str:
    level = next(word for priority, word, _ in LEVELS if priority == kind.priority)
    return (
        f"### {name}\n\n*{_plain(kind.subject)}.* ({level}, `{kind.uuid}`)\n\n{_plain(kind.means)}\n\n"
        f"- **Look at:** {_plain(kind.look)}\n- **To do:** {_plain(kind.todo)}\n\n"
    )


def render() -> str:
    """The whole page: worst first, each group in the order of the table."""
    text = _HEAD
    for priority, word, meaning in LEVELS:
        text += f"## {word.capitalize()}: {meaning}\n\n"
        text += "".join(_entry(name, kind) for name, kind in KINDS.items() if kind.priority == priority)
    return text.rstrip("\n") + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(render())
