"""Any bytes give a valid value or a CodecError, and what was encoded comes back."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heartgate.core import codec
from heartgate.core.codec import CodecError, FutureVersion
from heartgate.core.model import (
    Answer,
    Ask,
    Config,
    Disk,
    Heard,
    Link,
    LinkReport,
    Message,
    Persist,
    Proof,
    ProofKind,
    Record,
    Role,
    Standing,
    State,
)

names = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=64)
tokens = st.text(string.ascii_letters + string.digits + "._:+/-", max_size=80)
numbers = st.integers(0, codec.MAX_INT)
node_lists = st.lists(names, max_size=5).map(tuple)
links = st.builds(LinkReport, names, st.sampled_from(Link), numbers, numbers, st.just("") | names)
asks = st.builds(Ask, numbers, numbers, node_lists)
answers = st.builds(Answer, names, names, numbers, numbers, st.booleans())
records = st.builds(
    Record,
    st.sampled_from(Standing),
    numbers,
    node_lists,
    names,
    st.lists(st.builds(Proof, names, st.sampled_from(ProofKind), numbers), max_size=5).map(tuple),
    st.one_of(st.just(""), names),
    st.one_of(st.just(""), names),
)


def messages(sender: str = "nodea", run: str = "run1") -> st.SearchStrategy[Message]:
    return st.builds(
        Message,
        device=names,
        sender=st.just(sender),
        run=st.just(run),
        standing=st.sampled_from(Standing),
        epoch=numbers,
        in_sync=node_lists,
        disk=st.sampled_from(Disk),
        role=st.sampled_from(Role),
        generation=tokens,
        ancestors=st.lists(tokens, max_size=4).map(tuple),
        links=st.lists(links, max_size=4).map(tuple),
        ask=st.one_of(st.none(), asks),
        answers=st.lists(answers, max_size=4).map(tuple),
        promised_to=st.one_of(st.just(""), names),
        bias=st.one_of(st.just(""), names),
        wants=st.one_of(st.just(""), names),
    )


MESSAGE = Message(
    "r0", "nodea", "run1", Standing.SYNCED, 3, ("nodea", "nodeb"), Disk.UPTODATE, Role.PRIMARY, "ABCD", (),
    (LinkReport("nodeb", Link.UP, 1, 1),), Ask(1, 4, ("nodea",)), (Answer("nodeb", "run2", 7, 3, True),))  # fmt: skip
RECORD = Record(Standing.SOLO, 4, ("nodea",), "boot", (Proof("nodeb", ProofKind.CONFIRMED, 4),))


@given(st.lists(messages(), min_size=1, max_size=5))
def test_messages_come_back(batch: list[Message]) -> None:
    assert codec.decode_payload(codec.encode_messages(batch)) == ("nodea", "run1", tuple(batch))


def test_a_sign_of_life_is_small() -> None:
    payload = codec.encode_payload("nodea", "0123456789abcdef")
    assert codec.decode_payload(payload) == ("nodea", "0123456789abcdef", ())
    assert len(payload) < 60
    assert len(codec.encode_messages([MESSAGE._replace(ask=None, answers=())])) < 200


@given(st.binary(max_size=300))
def test_any_bytes_are_a_payload_or_an_error(data: bytes) -> None:
    try:
        sender, run, batch = codec.decode_payload(data)
    except CodecError as error:
        assert str(error)
    else:
        assert codec.is_name(sender) and codec.is_name(run) and all(codec.is_name(item.device) for item in batch)


@pytest.mark.apart
@settings(max_examples=300)
@given(messages(), st.data())
def test_a_damaged_payload_is_valid_or_an_error(message: Message, data: st.DataObject) -> None:
    good = bytearray(codec.encode_messages([message]))
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        codec.decode_payload(bytes(good))
    except CodecError as error:
        assert str(error)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("vnrmdseikogalqw"), inner)),
)


@pytest.mark.apart
@given(json_values)
def test_any_json_is_a_payload_or_an_error(value: Any) -> None:
    with pytest.raises(CodecError):
        codec.decode_payload(json.dumps(value).encode())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"v": 2}, "version 2"),
        ({"v": True}, "no valid version"),
        ({"n": "a b"}, "sender is not a name"),
        ({"n": "x" * 65}, "sender is not a name"),
        ({"m": [{}]}, "message lacks"),
        ({"m": {}}, "messages is not a list"),
        ({"z": 1}, "unknown fields"),
    ],
)
def test_the_reason_is_told(change: dict[str, Any], reason: str) -> None:
    whole = {**json.loads(codec.encode_messages([MESSAGE])), **change}
    with pytest.raises(CodecError, match=reason):
        codec.decode_payload(json.dumps(whole).encode())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"d": "../etc"}, "device is not a name"),
        ({"e": -1}, "epoch is not a number"),
        ({"e": 2**60}, "epoch is not a number|too long"),
        ({"e": True}, "epoch is not a number"),
        ({"e": 1.5}, "fraction"),
        ({"s": "king"}, "standing is not one of ours"),
        ({"l": [["nodeb", "up", 1]]}, "link has 3 fields"),
        ({"q": [1, 2]}, "ask has 2 fields"),
        ({"w": [["nodeb", "run", 1, 1, 1]]}, "answer is neither true nor false"),
        ({"i": ["n"] * 65}, "at most 64"),
        ({"g": "a b"}, "generation is not an identifier"),
        ({"x": 1}, "unknown fields"),
    ],
)
def test_the_reason_is_told_about_a_message(change: dict[str, Any], reason: str) -> None:
    whole = json.loads(codec.encode_messages([MESSAGE]))
    whole["m"][0].update(change)
    with pytest.raises(CodecError, match=reason):
        codec.decode_payload(json.dumps(whole).encode())


@pytest.mark.parametrize(
    "data", [b"", b"[" * 100_000, b'{"v":1,"v":1}', b'{"v":' + b"9" * 10_000 + b"}", b"\xff\xfe"]
)
def test_hostile_bytes(data: bytes) -> None:
    with pytest.raises(CodecError):
        codec.decode_payload(data)


def test_oversize() -> None:
    with pytest.raises(CodecError, match="at most"):
        codec.decode_payload(b" " * (codec.MAX_PAYLOAD + 1))


# --- records


@given(records)
def test_records_come_back(record: Record) -> None:
    assert codec.decode_record(codec.encode_record(record)) == record


@given(records, st.data())
def test_every_single_damage_of_a_record_is_noticed(record: Record, data: st.DataObject) -> None:
    good = codec.encode_record(record)
    place = data.draw(st.integers(0, len(good) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != good[place]))
    with pytest.raises(CodecError):
        codec.decode_record(good[:place] + bytes([byte]) + good[place + 1 :])


@given(records, st.data())
def test_every_truncation_of_a_record_is_noticed(record: Record, data: st.DataObject) -> None:
    good = codec.encode_record(record)
    with pytest.raises(CodecError):
        codec.decode_record(good[: data.draw(st.integers(0, len(good) - 1))])


@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_an_error(data: bytes) -> None:
    with pytest.raises(CodecError):
        codec.decode_record(data)


def test_a_future_record_is_told_apart() -> None:
    with pytest.raises(FutureVersion, match="version 2"):
        codec.decode_record(codec.encode_record(RECORD).replace(b'"version":1', b'"version":2'))


def test_a_file_of_another_kind() -> None:
    with pytest.raises(CodecError, match="another kind"):
        codec.decode_record(codec.seal("heartgate-config", 1, {}))


# --- values


@pytest.mark.parametrize(
    "value",
    [
        Heard(MESSAGE),
        Persist(RECORD),
        State(RECORD, "run1", heard=(("nodea", MESSAGE),)),
        Config("r0", "nodea", (("nodea", 1), ("nodeb", 2))),
        None,
        "start",
    ],
)
def test_values_come_back(value: Any) -> None:
    text = json.dumps(codec.value_to_json(value))
    assert codec.value_from_json(codec.parse_json(text.encode(), 10_000)) == value


@pytest.mark.parametrize(
    "value", [{"Nonsense": []}, {"Record": [1]}, {"Standing": "king"}, {"a": 1, "b": 2}, {"Optional": []}]
)
def test_wrong_values(value: Any) -> None:
    with pytest.raises(CodecError):
        codec.value_from_json(value)
