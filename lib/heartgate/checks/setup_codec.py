"""One node's facts for the set-up, as the node tells them: `adapters/setup_node.py` makes them, this reads them. Pure."""

from __future__ import annotations

from typing import Any, List, Mapping, Optional, Tuple

from heartgate.checks import drbd_conf, facts_codec
from heartgate.checks.setup_model import DrbdFacts, NodeFacts
from heartgate.checks.source import ParseError

FORMAT, VERSION = "heartgate-setup", 1


def decode(node: str, raw: Mapping[str, Any]) -> NodeFacts:
    """Raises ParseError."""
    if raw.get("format") != FORMAT or raw.get("version") != VERSION:
        raise ParseError(
            node, 1, "these are no facts of this version of heartgate setup: install the same version on both nodes"
        )
    try:
        host = facts_codec.decode(_text(raw, "host", node).encode("utf-8", "surrogateescape"))
    except facts_codec.FactsError as error:
        raise ParseError(node, 1, str(error)) from error
    drbd = raw.get("drbd")
    if drbd is not None and not isinstance(drbd, dict):
        raise _wrong(node, "drbd")
    return NodeFacts(
        node=node,
        host=host,
        programs=frozenset(_texts(raw, "programs", node)),
        corosync=None if raw.get("corosync") is None else _text(raw, "corosync", node),
        authkey=raw.get("authkey") is True,
        pcs_hosts=_texts(raw, "pcs_hosts", node),
        drbd=_drbd(drbd, node) if drbd else None,
        drbd_why=_text(raw, "drbd_why", node),
    )


def _drbd(raw: Mapping[str, Any], node: str) -> DrbdFacts:
    trial = raw.get("trial")
    adjust = raw.get("adjust")
    return DrbdFacts(
        resources=drbd_conf.parse_dump(_text(raw, "dump", node), f"drbdadm dump on {node}"),
        running=drbd_conf.parse_show(_text(raw, "show", node), f"drbdsetup show on {node}"),
        drbd9=raw.get("drbd9") is not False,
        trial=None if trial is None else drbd_conf.parse_dump(_text(raw, "trial", node), f"drbdadm dump on {node}"),
        trial_why=_text(raw, "trial_why", node),
        adjust=None if adjust is None else tuple(line for line in _text(raw, "adjust", node).splitlines() if line.strip()),
    )


def _text(raw: Mapping[str, Any], name: str, node: str) -> str:
    value = raw.get(name, "")
    if not isinstance(value, str):
        raise _wrong(node, name)
    return value


def _texts(raw: Mapping[str, Any], name: str, node: str) -> Tuple[str, ...]:
    value: Optional[List[Any]] = raw.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _wrong(node, name)
    return tuple(value)


def _wrong(node: str, name: str) -> ParseError:
    return ParseError(node, 1, f"{name} has another form than expected: install the same version of heartgate on both nodes")
