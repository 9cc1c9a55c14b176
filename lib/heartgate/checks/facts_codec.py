"""Facts of a host as JSON: what `heartgate facts` prints and `heartgate check` reads from a peer.

Whatever the bytes are, `decode` either gives facts of the right shape or raises FactsError, which names the place. Texts hold
printable characters only, since they end up on somebody's terminal.
"""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from typing import Any, Dict, List, Mapping, Tuple, Type, Union, get_args, get_origin, get_type_hints

from heartgate.checks.model import HostFacts

FORMAT = "heartgate-facts"
VERSION = 3  # 2: what is written in corosync.conf; 3: whether a bond watches its members by ARP
MAX_BYTES = 16 * 1024 * 1024
MAX_TEXT = 1024
MAX_ITEMS = 65536
MAX_INT = 2**53 - 1


class FactsError(ValueError):
    """These are no facts that can be used; the text names the place and says what was expected."""


def encode(facts: HostFacts) -> str:
    body = {"format": FORMAT, "version": VERSION, "facts": _plain(facts)}
    return json.dumps(body, indent=1, ensure_ascii=True) + "\n"


def decode(data: bytes) -> HostFacts:
    """Raises FactsError."""
    if not data.strip():
        raise FactsError("empty: `heartgate facts` printed nothing")
    if len(data) > MAX_BYTES:
        raise FactsError(f"{len(data)} bytes, at most {MAX_BYTES} are taken")
    body = _parse(data)
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise FactsError(f'not made by `heartgate facts`: there is no "format": "{FORMAT}" at the top')
    version = _checked_version(body.get("version"))
    if "facts" not in body:
        raise FactsError("facts: missing")
    if version < 2:
        _as_version_2(body["facts"])
    if version < 3:
        _as_version_3(body["facts"])
    facts: HostFacts = _value(HostFacts, body["facts"], "facts")
    _check_names(facts)
    return facts


def _parse(data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise FactsError(f"byte {error.start}: not UTF-8") from None
    except json.JSONDecodeError as error:
        cut = " (cut short?)" if error.pos >= len(data.rstrip()) - 1 else ""
        raise FactsError(f"line {error.lineno} column {error.colno}: not JSON: {error.msg}{cut}") from None
    except RecursionError:
        raise FactsError("not JSON of ours: nested too deep") from None
    except ValueError as error:
        raise FactsError(f"not JSON of ours: {str(error)[:200]}") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _as_version_2(facts: Any) -> None:
    """What version 1 did not tell is not known."""
    corosync = facts.get("corosync") if isinstance(facts, dict) else None
    if isinstance(corosync, dict) and "settings" not in corosync:
        corosync["settings"] = None


def _as_version_3(facts: Any) -> None:
    items = facts.get("interfaces") if isinstance(facts, dict) else None
    for item in items if isinstance(items, list) else ():
        bond = item.get("bond") if isinstance(item, dict) else None
        if isinstance(bond, dict):
            bond.setdefault("arp_interval_ms", None)


def _checked_version(version: object) -> int:
    if type(version) is not int or version < 1:
        raise FactsError(f"version: not a number from 1 on: {_short(version)}")
    if version > VERSION:
        raise FactsError(
            f"made by a later heartgate: format version {version}, this one knows {VERSION}. "
            "Have the same heartgate on both nodes"
        )
    return version


def _check_names(facts: HostFacts) -> None:
    seen: Dict[str, int] = {}
    for place, item in enumerate(facts.interfaces):
        if item.name in seen:
            raise FactsError(f"facts.interfaces[{place}].name: {item.name} is also interfaces[{seen[item.name]}]")
        seen[item.name] = place


# --- any dataclass of the model --------------------------------------------------------------------------------------

_HINTS: Dict[type, Mapping[str, Any]] = {}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _value(kind: Any, value: Any, place: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Union:  # Optional is the only one that the model has
        return None if value is None else _value(arguments[0], value, place)
    if origin is tuple:
        return _items(arguments, value, place)
    if is_dataclass(kind):
        return _object(kind, value, place)  # type: ignore[arg-type]
    return _scalar(kind, value, place)


def _items(arguments: Tuple[Any, ...], value: Any, place: str) -> Tuple[Any, ...]:
    if type(value) is not list:
        raise FactsError(f"{place}: not a list: {_short(value)}")
    if len(value) > MAX_ITEMS:
        raise FactsError(f"{place}: {len(value)} items, at most {MAX_ITEMS} are taken")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_value(arguments[0], item, f"{place}[{number}]") for number, item in enumerate(value))
    if len(value) != len(arguments):
        raise FactsError(f"{place}: {len(value)} items, expected {len(arguments)}")
    return tuple(_value(kind, item, f"{place}[{number}]") for number, (kind, item) in enumerate(zip(arguments, value)))


def _object(kind: Type[Any], value: Any, place: str) -> Any:
    if type(value) is not dict:
        raise FactsError(f"{place}: not an object: {_short(value)}")
    hints = _HINTS.setdefault(kind, get_type_hints(kind))
    names = [item.name for item in fields(kind)]
    odd: List[str] = [name for name in value if name not in names]
    if odd:
        raise FactsError(f"{place}: unknown field {_short(odd[0])}")
    for name in names:
        if name not in value:
            raise FactsError(f"{place}.{name}: missing")
    return kind(**{name: _value(hints[name], value[name], f"{place}.{name}") for name in names})


def _scalar(kind: Any, value: Any, place: str) -> Any:
    if kind is str:
        return _text(value, place)
    if kind is bool:
        if type(value) is not bool:
            raise FactsError(f"{place}: neither true nor false: {_short(value)}")
        return value
    if kind is float and type(value) in (int, float) and 0 <= value <= MAX_INT:
        return float(value)
    if kind is int and type(value) is int and 0 <= value <= MAX_INT:
        return value
    raise FactsError(f"{place}: not a number from 0 on: {_short(value)}")


def _text(value: Any, place: str) -> str:
    if type(value) is not str:
        raise FactsError(f"{place}: not a text: {_short(value)}")
    if len(value) > MAX_TEXT:
        raise FactsError(f"{place}: {len(value)} characters, at most {MAX_TEXT} are taken")
    if not value.isprintable():
        raise FactsError(f"{place}: has characters that cannot be printed: {_short(value)}")
    return value


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
