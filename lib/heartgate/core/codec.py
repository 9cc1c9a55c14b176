"""Bytes on the wire and on the disk. Any bytes either give a valid value or raise `CodecError` with the reason.

Three formats, all JSON in ASCII:

* a *payload* of the carrier: one node's messages about some of its devices (none at all is a sign of life). Short keys,
  since a hundred devices are repeated every second.
* a *sealed* file: `{"format": kind, "version": n, "sum": crc32, "body": ...}`. The checksum covers the body as written;
  a file of
  a later version is told apart from a damaged one.
* a *value* (`value_to_json`): any word of `heartgate.core.model`, tagged with its class, so that a recorded verdict can
  be replayed.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any, Callable, List, Optional, Tuple, Type, TypeVar, cast

from heartgate.core import model
from heartgate.core.model import (
    Answer,
    Ask,
    Disk,
    Link,
    LinkReport,
    Message,
    Proof,
    ProofKind,
    Record,
    Role,
    Standing,
)

WIRE_VERSION = 1
RECORD_VERSION = 1
MAX_PAYLOAD = 256 * 1024  # a CPG message may be 1 MiB; everything of ours is far below this
MAX_FILE = 1024 * 1024
MAX_INT = 2**53 - 1  # what every JSON implementation can carry
MAX_NODES = 64
MAX_ANCESTORS = 16
MAX_MESSAGES = 1024

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_TOKEN = re.compile(r"[A-Za-z0-9._:+/-]{0,80}\Z")  # generations: DRBD's UUIDs, or whatever an exec driver uses

_E = TypeVar("_E", bound=Enum)
_T = TypeVar("_T")


class CodecError(ValueError):
    """These bytes are not what they should be; the text says why."""


class FutureVersion(CodecError):
    """Written by a later version of heartgate."""


# --- checked pieces --------------------------------------------------------------------------------------------------


def is_name(value: object) -> bool:
    """A device, node or run name that is safe in file names, attributes and logs."""
    return type(value) is str and _NAME.match(value) is not None


def _name(value: object, what: str) -> str:
    if type(value) is not str or _NAME.match(value) is None:
        raise CodecError(f"{what} is not a name: {_short(value)}")
    return value


def _optional_name(value: object, what: str) -> str:
    return "" if value == "" and type(value) is str else _name(value, what)


def _token(value: object, what: str) -> str:
    if type(value) is not str or _TOKEN.match(value) is None:
        raise CodecError(f"{what} is not an identifier: {_short(value)}")
    return value


def _int(value: object, what: str) -> int:
    if type(value) is not int or not 0 <= value <= MAX_INT:
        raise CodecError(f"{what} is not a number from 0 to {MAX_INT}: {_short(value)}")
    return value


def _bool(value: object, what: str) -> bool:
    if type(value) is not bool:
        raise CodecError(f"{what} is neither true nor false: {_short(value)}")
    return value


def _enum(kind: Type[_E], value: object, what: str) -> _E:
    if type(value) is not str:
        raise CodecError(f"{what} is not a word: {_short(value)}")
    try:
        return kind(value)
    except ValueError:
        raise CodecError(f"{what} is not one of ours: {_short(value)}") from None


def _list(value: object, what: str, most: int) -> List[Any]:
    if type(value) is not list:
        raise CodecError(f"{what} is not a list: {_short(value)}")
    if len(value) > most:
        raise CodecError(f"{what} has {len(value)} entries, at most {most} are allowed")
    return value


def _row(value: object, what: str, length: int) -> List[Any]:
    row = _list(value, what, length)
    if len(row) != length:
        raise CodecError(f"{what} has {len(row)} fields, expected {length}")
    return row


def _names(value: object, what: str) -> Tuple[str, ...]:
    return tuple(_name(item, what) for item in _list(value, what, MAX_NODES))


def _rows(value: object, what: str, length: int, build: Callable[[List[Any]], _T]) -> Tuple[_T, ...]:
    return tuple(build(_row(item, what, length)) for item in _list(value, what, MAX_NODES))


def _fields(value: object, what: str, required: Iterable[str], optional: Iterable[str] = ()) -> dict[str, Any]:
    if type(value) is not dict:
        raise CodecError(f"{what} is not an object: {_short(value)}")
    have, need = set(value), set(required)
    if need - have:
        raise CodecError(f"{what} lacks {', '.join(sorted(need - have))}")
    if have - need - set(optional):
        raise CodecError(f"{what} has unknown fields: {_short(sorted(have - need - set(optional)))}")
    return value


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _no_constant(text: str) -> object:
    raise CodecError(f"{text} is not a number")


def _parse_int(text: str) -> int:
    if len(text) > 17:
        raise CodecError("a number is too long")
    return int(text)


def _no_float(text: str) -> object:
    raise CodecError(f"a fraction where none belongs: {_short(text)}")


def _unique(pairs: List[Tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise CodecError("a field occurs twice")
    return result


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_parse_int, parse_float=_no_float, parse_constant=_no_constant
)


def parse_json(data: bytes, limit: int) -> Any:
    """Strict JSON: ASCII, no floats, no repeated fields, bounded. Raises CodecError."""
    if len(data) > limit:
        raise CodecError(f"{len(data)} bytes, at most {limit} are allowed")
    try:
        return _DECODER.decode(data.decode("ascii"))
    except CodecError:
        raise
    except UnicodeDecodeError:
        raise CodecError("not ASCII") from None
    except (ValueError, RecursionError) as error:
        raise CodecError(f"not JSON: {_short(str(error))}") from None


def to_json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


# --- messages --------------------------------------------------------------------------------------------------------


def encode_message(message: Message) -> bytes:
    """One message as a fragment of a payload (the sender and the run are in the payload's head)."""
    body: dict[str, object] = {
        "d": message.device,
        "s": message.standing.value,
        "e": message.epoch,
        "i": message.in_sync,
        "k": message.disk.value,
        "o": message.role.value,
    }
    if message.generation:
        body["g"] = message.generation
    if message.ancestors:
        body["a"] = message.ancestors
    if message.links:
        body["l"] = [(k.peer, k.link.value, k.incarnation, k.paired, k.paired_run) for k in message.links]
    if message.ask is not None:
        body["q"] = tuple(message.ask)
    if message.answers:
        body["w"] = [tuple(answer) for answer in message.answers]
    if message.promised_to:
        body["p"] = message.promised_to
    if message.bias:
        body["b"] = message.bias
    if message.wants:
        body["h"] = message.wants
    return to_json(body)


def encode_payload(sender: str, run: str, fragments: Sequence[bytes] = ()) -> bytes:
    """Messages of one sender and run, as given by `encode_message`, in one payload; none: a sign of life."""
    head = f'{{"v":{WIRE_VERSION},"n":"{sender}","r":"{run}","m":['
    return head.encode("ascii") + b",".join(fragments) + b"]}"


def encode_messages(messages: Sequence[Message]) -> bytes:
    """A payload of messages that all have the same sender and run."""
    if len({(message.sender, message.run) for message in messages}) != 1:
        raise ValueError("messages of one payload have one sender and one run")
    return encode_payload(messages[0].sender, messages[0].run, [encode_message(message) for message in messages])


def decode_payload(data: bytes) -> Tuple[str, str, Tuple[Message, ...]]:
    """(sender, run, messages). Raises CodecError."""
    whole = parse_json(data, MAX_PAYLOAD)
    if type(whole) is not dict or "v" not in whole:
        raise CodecError("not a payload of heartgate")
    _check_version(whole["v"], WIRE_VERSION, "payload")
    fields = _fields(whole, "payload", ("v", "n", "r", "m"))
    sender, run = _name(fields["n"], "sender"), _name(fields["r"], "run")
    bodies = _list(fields["m"], "messages", MAX_MESSAGES)
    return sender, run, tuple(_message(body, sender, run) for body in bodies)


def _check_version(version: object, ours: int, what: str) -> None:
    if type(version) is not int or version < 1:
        raise CodecError(f"{what} has no valid version: {_short(version)}")
    if version > ours:
        raise FutureVersion(f"{what} has version {version}, this heartgate knows up to {ours}")


def _message(body: object, sender: str, run: str) -> Message:
    fields = _fields(body, "message", "dseiko", "abghlpqw")
    return Message(
        device=_name(fields["d"], "device"),
        sender=sender,
        run=run,
        standing=_enum(Standing, fields["s"], "standing"),
        epoch=_int(fields["e"], "epoch"),
        in_sync=_names(fields["i"], "in_sync"),
        disk=_enum(Disk, fields["k"], "disk"),
        role=_enum(Role, fields["o"], "role"),
        generation=_token(fields.get("g", ""), "generation"),
        ancestors=tuple(_token(item, "ancestor") for item in _list(fields.get("a", []), "ancestors", MAX_ANCESTORS)),
        links=_rows(fields.get("l", []), "link", 5, _link),
        ask=_ask(fields.get("q")),
        answers=_rows(fields.get("w", []), "answer", 5, _answer),
        promised_to=_optional_name(fields.get("p", ""), "promised_to"),
        bias=_optional_name(fields.get("b", ""), "bias"),
        wants=_optional_name(fields.get("h", ""), "wanted bias"),
    )


def _link(row: List[Any]) -> LinkReport:
    return LinkReport(
        _name(row[0], "link's peer"),
        _enum(Link, row[1], "link"),
        _int(row[2], "incarnation"),
        _int(row[3], "pairing"),
        "" if row[4] == "" else _token(row[4], "paired run"),
    )


def _ask(value: object) -> Optional[Ask]:
    if value is None:
        return None
    row = _row(value, "ask", 3)
    return Ask(_int(row[0], "request"), _int(row[1], "ask's epoch"), _names(row[2], "keep"))


def _answer(row: List[Any]) -> Answer:
    return Answer(
        _name(row[0], "answer's addressee"),
        _name(row[1], "answer's run"),
        _int(row[2], "answer's request"),
        _int(row[3], "answer's epoch"),
        _bool(row[4], "answer"),
    )


# --- files -----------------------------------------------------------------------------------------------------------


def seal(kind: str, version: int, body: object) -> bytes:
    """A file with its kind, version and checksum."""
    text = to_json(body)
    head = f'{{"format":"{kind}","version":{version},"sum":"{binascii.crc32(text):08x}","body":'
    return head.encode("ascii") + text + b"}\n"


_SEAL = re.compile(
    rb'\{"format":"([a-z-]{1,40})","version":(\d{1,6}),"sum":"([0-9a-f]{8})","body":(.*)\}\n\Z', re.DOTALL
)


def unseal(kind: str, version: int, data: bytes) -> Any:
    """The body of a sealed file. Raises CodecError (FutureVersion if it is a later version's)."""
    if len(data) > MAX_FILE:
        raise CodecError(f"file of {len(data)} bytes, at most {MAX_FILE} are allowed")
    match = _SEAL.match(data)
    if match is None:
        raise CodecError("empty file" if not data else "damaged: not a complete file of heartgate")
    if match.group(1) != kind.encode("ascii"):
        raise CodecError(f"is a file of another kind: {_short(match.group(1).decode('ascii'))}")
    _check_version(int(match.group(2)), version, "file")
    if binascii.crc32(match.group(4)) != int(match.group(3), 16):
        raise CodecError("damaged: the checksum does not match")
    return parse_json(match.group(4), MAX_FILE)


def encode_record(record: Record) -> bytes:
    body: dict[str, object] = {
        "standing": record.standing.value,
        "epoch": record.epoch,
        "in_sync": record.in_sync,
        "boot": record.boot,
        "proofs": [(proof.node, proof.kind.value, proof.epoch) for proof in record.proofs],
        "promised_to": record.promised_to,
    }
    if record.bias:
        body["bias"] = record.bias
    return seal("heartgate-record", RECORD_VERSION, body)


def decode_record(data: bytes) -> Record:
    """Raises CodecError (FutureVersion if it is a later version's)."""
    body = unseal("heartgate-record", RECORD_VERSION, data)
    fields = _fields(body, "record", ("standing", "epoch", "in_sync", "boot", "proofs", "promised_to"), ("bias",))
    return Record(
        standing=_enum(Standing, fields["standing"], "standing"),
        epoch=_int(fields["epoch"], "epoch"),
        in_sync=_names(fields["in_sync"], "in_sync"),
        boot=_name(fields["boot"], "boot"),
        proofs=_rows(fields["proofs"], "proof", 3, _proof),
        promised_to=_optional_name(fields["promised_to"], "promised_to"),
        bias=_optional_name(fields.get("bias", ""), "bias"),
    )


def _proof(row: List[Any]) -> Proof:
    return Proof(_name(row[0], "proof's node"), _enum(ProofKind, row[1], "proof's kind"), _int(row[2], "proof's epoch"))


# --- any word of the model -------------------------------------------------------------------------------------------


def value_to_json(value: object) -> object:
    """JSON of any value of the model; classes are named, so that `value_from_json` can rebuild it."""
    if isinstance(value, Enum):
        return {type(value).__name__: value.value}
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, frozenset):
        return {"frozenset": [value_to_json(item) for item in sorted(value)]}
    if isinstance(value, tuple):
        items = [value_to_json(item) for item in value]
        return {type(value).__name__: items} if hasattr(value, "_fields") else items
    raise TypeError(f"not a value of the model: {type(value).__name__}")


def value_from_json(value: object) -> Any:
    """Raises CodecError. Checks the shape, not the meaning: for what this daemon wrote itself."""
    if isinstance(value, list):
        return tuple(value_from_json(item) for item in value)
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise CodecError("a value has one class")
    (name, content), = value.items()
    if name == "frozenset":
        return frozenset(value_from_json(content))
    kind = getattr(model, name, None)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _enum(kind, content, name)
    if isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_make"):
        try:
            return cast(Any, kind)._make(value_from_json(content))
        except TypeError as error:
            raise CodecError(f"{name}: {error}") from None
    raise CodecError(f"unknown class {_short(name)}")
