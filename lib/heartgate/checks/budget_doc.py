"""The laws as a document: `python3 -m heartgate.checks.budget_doc > docs/timeouts.md`. A test compares the two."""

from __future__ import annotations

from typing import List

from heartgate.checks.budget_laws import LAWS, Scope

_HEAD = """\
# The timeout budget

<!-- Generated: PYTHONPATH=lib python3 -m heartgate.checks.budget_doc > docs/timeouts.md -->

Corosync, DRBD, SBD, Pacemaker and heartgate each have time limits of their own, and some only work if others are longer. These
are the inequalities that `heartgate budget` and `heartgate check` look at, with the values in force (defaults included, and
what Corosync derives from the token). A violation is shown with the settings, where each comes from, and the fewest settings to
change so that it holds and nothing else breaks. If a value cannot be had, the inequality is unknown, which is never the same as
satisfied.

The smallest conflict is the smallest set of settings whose values cannot stand together, whatever all the others are set to.

"""


def render() -> str:
    """The whole document."""
    lines: List[str] = [_HEAD]
    for scope in Scope:
        laws = [law for law in LAWS if law.scope is scope]
        lines.append(f"## For {scope.value}\n\n| rule | severity | inequality | why |\n| --- | --- | --- | --- |\n")
        lines += [f"| `{law.name}` | {law.severity.value} | {law.formula} | {law.reason} |\n" for law in laws]
        lines.append("\n")
    return "".join(lines).rstrip("\n") + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(render())
