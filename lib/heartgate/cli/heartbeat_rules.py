"""The one place where the rules are asked before a heartbeat pair is added (issue 4: the rules of B1-B8 and A9 over the
facts of both ends belong here; `checks` holds them, this module only calls them)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Mapping, Optional, Tuple

from heartgate.checks.findings import Finding, Severity


@dataclass(frozen=True)
class End:
    """One end of a pair. `interface`: None where it could not be asked for."""

    node: str
    address: str
    interface: Optional[str]


@dataclass(frozen=True)
class Pair:
    """A network heartbeat that shall be added. `present`: interface of this node -> numbers of the links on it.
    `sync_interfaces`: of the guarded devices on this node, as far as heartgated tells them."""

    link: int
    ends: Tuple[End, ...]
    present: Mapping[str, Tuple[int, ...]]
    sync_interfaces: Tuple[str, ...] = ()


def check_pair(pair: Pair) -> Tuple[Finding, ...]:
    """What speaks against this pair. An error refuses it (unless --force), a warning is shown."""
    return tuple(_shared_interface(pair))


def _shared_interface(pair: Pair) -> List[Finding]:
    findings = []
    for end in pair.ends:
        others = pair.present.get(end.interface or "", ())
        if others:
            numbers = ", ".join(map(str, others))
            findings.append(Finding(
                "pair-interface-shared", Severity.WARNING, f"link {pair.link}",
                f"{end.address} is on {end.interface}, which carries link {numbers} already: they fail together",
                "use an adapter of its own for each heartbeat", (end.node,),
            ))  # fmt: skip
        if end.interface in pair.sync_interfaces:
            findings.append(Finding(
                "pair-on-sync", Severity.NOTE, f"link {pair.link}",
                f"{end.interface} carries replication too: this heartbeat ends together with it",
                "keep at least one heartbeat on an adapter without replication", (end.node,),
            ))  # fmt: skip
    return findings
