"""Which nodes a device's record was written for: that set does not change under it.

A record says of every node that `priorities` named why it may not serve without this one. About a node that came later it
proves nothing, and every step would break I3. So other nodes are refused before anything is saved, and the device goes on
being guarded for those that it has.
"""

from __future__ import annotations

from typing import FrozenSet, List, NamedTuple, Optional, Tuple

from heartgate.adapters.base import Problem
from heartgate.core.codec import CodecError
from heartgate.core.model import SERVING, Config, Record
from heartgate.daemon import params as parameters
from heartgate.daemon.store import Saved, Store

Priorities = Tuple[Tuple[str, int], ...]


class Known(NamedTuple):
    """What a device was registered with before. priorities: () when only its record tells; me: "" then."""

    me: str
    nodes: FrozenSet[str]
    priorities: Priorities = ()
    whole: bool = True  # nodes are all that there were; a record alone does not always name each


def known(store: Store, device: str, guarded: Optional[Config]) -> Optional[Known]:
    """Blocks: worker thread. guarded: of the guard that runs. None: nothing is known. Raises OSError."""
    if guarded is not None:
        return Known(guarded.me, frozenset(guarded.nodes), guarded.priorities)
    return _saved(_read_config(store, device)) or recorded(read_record(store, device))


def recorded(record: Optional[Record]) -> Optional[Known]:
    """By the record alone: its configuration is gone, or cannot be read."""
    if record is None:
        return None
    named = {*record.in_sync, *(proof.node for proof in record.proofs), record.promised_to} - {""}
    return Known("", frozenset(named), whole=record.standing in SERVING)  # I3: who may serve has named everybody


def read_record(store: Store, device: str) -> Optional[Record]:
    """None also for one that cannot be understood: whoever loads it puts it aside, and says so."""
    try:
        return store.read_record(device)
    except CodecError:
        return None


def _read_config(store: Store, device: str) -> Optional[Saved]:
    try:
        return store.read_config(device)
    except CodecError:
        return None


def _saved(saved: Optional[Saved]) -> Optional[Known]:
    if saved is None:
        return None
    params, _ = parameters.parse(saved.params)
    if params is None:
        return None
    return Known(saved.me, frozenset(node for node, _ in params.priorities), params.priorities)


def problems(config: Config, before: Optional[Known]) -> List[Problem]:
    """Why this configuration cannot be taken over; [] if it can."""
    if before is None:
        return []
    now = frozenset(config.nodes)
    if now == before.nodes if before.whole else before.nodes <= now:
        return [] if before.me in ("", config.me) else [_renamed(config, before.me)]
    device, there = config.device, before.priorities
    old, new = _words(there) or " ".join(sorted(before.nodes)), _words(config.priorities)
    back = f'put them back (priorities="{old}"' if there else f"name these nodes again ({old}"
    return [
        Problem(
            "priorities-nodes-changed",
            f'priorities: the record of {device} on this node is for the nodes {" ".join(_in_order(before))}, and it proves '
            f'nothing about others; priorities="{new}" names {" ".join(config.nodes)}',
            f"{back}; then `pcs resource cleanup` or `crm resource cleanup`): {device} is guarded for them all the time. For other "
            f"nodes, in this order: 1. when all say `synced`, delete the location rule on heartgate-{device}, then this resource; "
            f"2. `heartgate forget {device}` on every node; 3. create the resource with the new priorities, then the rule "
            f'(docs/operations.md, "Another set of nodes")',
        )
    ]


def _renamed(config: Config, before: str) -> Problem:
    device = config.device
    return Problem(
        "priorities-me-changed",
        f"priorities: the record of {device} on this node was written by {before}, and this node is {config.me} now",
        f"give the node its name back, or delete this resource, run `heartgate forget {device}` on every node, and create it anew",
    )


def _in_order(before: Known) -> List[str]:
    return [node for node, _ in before.priorities] or sorted(before.nodes)


def _words(priorities: Priorities) -> str:
    return " ".join(f"{node}:{number}" for node, number in priorities)
