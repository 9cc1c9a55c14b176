"""The set-up's part in DRBD's configuration: what is missing, a file of heartgate's own where there can be one, else the lines
for a person to write. Nobody's file is ever changed. Pure.

drbdadm refuses a second `common` section and a second section of a resource (seen with drbd-utils 9.22), so a file beside the
others can only have a `common` section, and only where there is none; and since that is everybody's, only where there is no other
resource. Whether it fits is not guessed: drbdadm reads the whole with the file beside it, and nothing else may be different then.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import List, Mapping, Optional, Tuple

from heartgate.checks import lint_storage
from heartgate.checks.drbd_conf import FENCE_HANDLER, FENCING_WANTED, UNFENCE_HANDLER, Resource
from heartgate.checks.findings import Finding, Severity
from heartgate.checks.lint_facts import LintFacts
from heartgate.checks.setup_model import DrbdFacts
from heartgate.checks.source import Setting

OWN_FILE = "/etc/drbd.d/heartgate.res"
MAIN_FILE = "/etc/drbd.conf"
OURS = ("drbd-fencing", "drbd-handler")  # rules of lint_storage that the lines below satisfy
NOT_IN_FORCE = "drbd-not-in-force"
INCLUDES = re.compile(r'^\s*include\s+"?(?:/etc/)?drbd\.d/\*\.res"?\s*;', re.MULTILINE)
# What `drbdadm adjust` may run here: it sets options. Anything else attaches, connects or makes something.
OPTIONS_ONLY = re.compile(r"(?:\S*/)?drbdsetup(?:-\d+)?\s+(?:disk|net|resource|peer-device)-options\s")


def lines(drbd9: bool) -> Tuple[str, ...]:
    """The sections, as they stand in a resource or in `common`."""
    unfence = "unfence-peer" if drbd9 else "after-resync-target"
    return (
        f"{'net' if drbd9 else 'disk'} {{ fencing {FENCING_WANTED}; }}",
        f'handlers {{ fence-peer "{FENCE_HANDLER}"; {unfence} "{UNFENCE_HANDLER}"; }}',
    )


def own_file(drbd9: bool) -> str:
    body = "".join(f"    {line}\n" for line in lines(drbd9))
    return f"# Made by heartgate setup: what replica-guard needs of DRBD.\ncommon {{\n{body}}}\n"


def wrong(drbd: DrbdFacts, resource: Resource, node: str) -> Tuple[Finding, ...]:
    """What defeats the policy, in the files and in the kernel."""
    running = drbd.in_kernel(resource.name)
    facts = LintFacts(node, drbd=(resource,), drbd_running=(running,) if running else None)
    return tuple(each for each in lint_storage.findings(facts) if each.severity is Severity.ERROR or each.rule == NOT_IN_FORCE)


def no_own_file(drbd: DrbdFacts, resource: Resource) -> Optional[str]:
    """Why a file of ours cannot be put beside the others; None if it can."""
    if [item.name for item in drbd.resources] != [resource.name]:
        others = ", ".join(item.name for item in drbd.resources if item.name != resource.name)
        return f"a common section would be that of {others} too"
    if drbd.trial is None:
        return drbd.trial_why or "whether drbdadm takes it is not known"
    if len(drbd.trial) != 1 or _rest(drbd.trial[0]) != _rest(resource):
        return "with it drbdadm reads more differently than what it says"
    left = [each for each in wrong(replace(drbd, running=()), drbd.trial[0], "") if each.rule in OURS]
    return f"with it there is still {left[0].evidence}" if left else None


def _rest(resource: Resource) -> Tuple[object, ...]:
    """All but what our lines say, and but for the places where things are written."""

    def values(options: Mapping[str, Setting]) -> Mapping[str, str]:
        ours = ("fencing", "fence-peer", "unfence-peer", "after-resync-target")
        return {name: setting.value for name, setting in options.items() if name not in ours}

    parts = (resource.net, resource.disk, resource.handlers, resource.options)
    connections = tuple((each.nodes, each.paths, tuple(sorted(values(each.net).items()))) for each in resource.connections)
    return (resource.name, resource.nodes, connections, *(tuple(sorted(values(part).items())) for part in parts))


def to_write(resource: Resource, found: Tuple[Finding, ...], drbd9: bool, why: str) -> str:
    """For a person: the lines that are missing, and where."""
    text: List[str] = []
    if any(each.rule in OURS for each in found):
        place = resource.where if resource.where.startswith("/") else "its file"
        text.append(f"heartgate puts no file of its own there ({why}). In resource {resource.name} ({place}) write:")
        text += [f"    {line}" for line in lines(drbd9)]
        old = [each.evidence for each in found if each.rule in OURS and not _missing(each)]
        text += [f"  in place of: {evidence}" for evidence in old]
    text += [f"{each.evidence}: {each.remedy}" for each in found if each.rule not in (*OURS, NOT_IN_FORCE)]
    text.append(f"then, when that is done on both nodes, on both: drbdadm adjust {resource.name}")
    return "\n".join(text)


def _missing(finding: Finding) -> bool:
    return "not written" in finding.evidence or finding.evidence.startswith("no handler")


def adjust_does_more(drbd: DrbdFacts) -> Optional[str]:
    """What `drbdadm adjust` would do beyond setting options, or that it is not known; None if it only sets options."""
    if drbd.adjust is None:
        return "what drbdadm adjust would do could not be asked"
    more = [line for line in drbd.adjust if not OPTIONS_ONLY.match(line.strip() + " ")]
    return f"drbdadm adjust would do more than set options: {more[0][:120]}" if more else None
