"""heartgated's answer to `status`, and what it left on the disk, as facts. What another version leaves out is not known."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Tuple

from heartgate.checks.status_model import Daemon, Device, Flush, Interface, Live, PeerWord, Proof, SyncLink

Data = Mapping[str, Any]


class DecodeError(ValueError):
    """An answer that makes no sense; the text says where."""


def daemon(data: Data) -> Daemon:
    """Raises DecodeError."""
    if data.get("daemon") != "running" or not data.get("node"):
        raise DecodeError("it names no node, or not that it runs")
    return Daemon(
        node=_text(data, "node"),
        version=_text(data, "version"),
        carrier=_text(data, "carrier") == "connected",
        reachable=_names(data, "reachable"),
        online=_names(data, "online"),
        quorate=_maybe(data, "quorate"),
        beats_ms={node: _int(value, "beats_ms_ago") for node, value in _object(data, "beats_ms_ago").items()},
        hung=_int(data.get("hung_operations", 0), "hung_operations"),
        interfaces=tuple(
            Interface(_text(each, "resource"), _text(each, "interface"), _text(each, "state"), _text(each, "message"))
            for each in _objects(data, "heartbeat_links")
        ),
        name_trouble=_trouble(data),
    )


def _trouble(data: Data) -> Tuple[str, str]:
    if data.get("name_trouble") is None:
        return "", ""
    told = _object(data, "name_trouble")
    return _text(told, "message"), _text(told, "remedy")


def devices(data: Data) -> Tuple[Device, ...]:
    """Of a running daemon's answer or of what lies on the disk. Raises DecodeError."""
    return tuple(_device(each) for each in _objects(data, "devices"))


def _device(item: Data) -> Device:
    verdict = item.get("verdict")
    standing = _text(item, "standing")
    return Device(
        name=_text(item, "device"),
        standing=standing,
        shown=_text(item, "shown") or standing,
        epoch=_int(item.get("epoch", 0), "epoch"),
        in_sync=_names(item, "in_sync"),
        proofs=tuple(
            Proof(_text(each, "node"), _text(each, "kind"), _int(each.get("epoch", 0), "proofs"))
            for each in _objects(item, "proofs")
        ),
        promised_to=_text(item, "promised_to"),
        since_ms=_int(verdict.get("at", 0), "verdict.at") or None if isinstance(verdict, dict) else None,
        flush=_flush(item.get("flush")),
        error=_text(item, "error"),
        priorities={node: _int(value, "priorities") for node, value in _object(item, "priorities").items()},
        live=_live(item) if "role" in item else None,
    )


def _live(item: Data) -> Live:
    return Live(
        active=item.get("active") is not False,
        driver=_text(item, "driver"),
        policy=_text(item, "policy"),
        on_isolation=_text(item, "on_isolation"),
        bias_wanted=_text(item, "bias_wanted"),
        bias_agreed=_text(item, "bias_agreed"),
        role=_text(item, "role"),
        disk=_text(item, "disk"),
        frozen=_maybe(item, "frozen"),
        links={
            node: SyncLink(_text(link, "link"), _text(link, "peer_disk")) for node, link in _children(item, "links").items()
        },
        peers={
            node: PeerWord(_text(word, "standing"), _int(word.get("epoch", 0), "peers"), _text(word, "disk"), _text(word, "role"))
            for node, word in _children(item, "peers").items()
        },
        waits=_text(item, "waits"),
        ends_wait=_text(item, "ends_wait"),
        persist_failure=_text(item, "persist_failure"),
        broken=_names(item, "broken"),
        handlers=len(_objects(item, "handlers")),
        lacks={
            node: None if value is None else _int(value, "lacks_bytes") for node, value in _object(item, "lacks_bytes").items()
        },
        lacks_unknown=_text(item, "lacks_unknown"),
        interfaces={name: _known(value) for name, value in _object(item, "sync_interfaces").items()},
    )


def _flush(item: Any) -> Optional[Flush]:
    if not isinstance(item, dict):
        return None
    results = tuple((_text(each, "target"), each.get("ok") is True, _text(each, "how")) for each in _objects(item, "results"))
    return Flush(_int(item.get("at", 0), "flush.at"), results)


# --- pieces


def _text(item: Data, name: str) -> str:
    value = item.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DecodeError(f"{name} is no text: {value!r:.60}")
    return value


def _int(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise DecodeError(f"{name} is no number: {value!r:.60}")
    return value


def _known(value: Any) -> Optional[bool]:
    return value if isinstance(value, bool) else None


def _maybe(item: Data, name: str) -> Optional[bool]:
    return _known(item.get(name))


def _names(item: Data, name: str) -> Tuple[str, ...]:
    value = item.get(name, [])
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) for each in value):
        raise DecodeError(f"{name} is no list of names: {value!r:.60}")
    return tuple(value)


def _object(item: Data, name: str) -> Dict[str, Any]:
    value = item.get(name, {})
    if not isinstance(value, dict):
        raise DecodeError(f"{name} is no object: {value!r:.60}")
    return value


def _children(item: Data, name: str) -> Dict[str, Data]:
    found = _object(item, name)
    if not all(isinstance(each, dict) for each in found.values()):
        raise DecodeError(f"{name} is no object of objects")
    return found


def _objects(item: Data, name: str) -> List[Data]:
    value = item.get(name) or []
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, dict) for each in value):
        raise DecodeError(f"{name} is no list of objects: {value!r:.60}")
    return list(value)
