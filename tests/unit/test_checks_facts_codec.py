"""Facts as JSON: what goes in comes out; whatever else comes in gets one error that names the place."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from heartgate.checks import heartbeat_rules
from heartgate.checks.facts_codec import FORMAT, MAX_TEXT, VERSION, FactsError, decode, encode
from heartgate.checks.model import Bond, Corosync, HostFacts, Interface, Setting
from heartgate.checks.planning import make_plan

# Few words, so that interfaces point at each other, round in circles too.
TEXTS = st.sampled_from(
    ("hb0", "x", "y", "bond", "vlan", "bridge", "physical", "virtio_net", "10.0.0.1", "fe80::1", "", "ß%s{}", "none")
)


@cache
def values(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a type of the model."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Union:
        return st.none() | values(arguments[0])
    if origin is tuple and arguments[1:] == (Ellipsis,):
        return st.lists(values(arguments[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*(values(item) for item in arguments))
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return st.builds(kind, **{item.name: values(hints[item.name]) for item in fields(kind)})
    return {str: TEXTS, int: st.integers(0, 2**53 - 1), bool: st.booleans(), float: st.floats(0, 1e9)}[kind]


def distinct(facts: HostFacts) -> bool:
    return len({item.name for item in facts.interfaces}) == len(facts.interfaces)


ANY_FACTS: st.SearchStrategy[HostFacts] = values(HostFacts).filter(distinct)


@settings(max_examples=100, deadline=None)
@given(ANY_FACTS)
def test_round_trip(facts: HostFacts) -> None:
    assert decode(encode(facts).encode("ascii")) == facts


@settings(max_examples=100, deadline=None)
@given(ANY_FACTS, ANY_FACTS)
def test_the_rules_bear_any_facts(one: HostFacts, two: HostFacts) -> None:
    """A peer's facts may be nonsense; the check may say so, but not break."""
    names = [(item.name, None) for item in one.interfaces if item.name] or [("hb0", None)]
    for finding in heartbeat_rules.judge(make_plan(one, two, names, names, names[0])):
        assert finding.evidence and finding.rule in heartbeat_rules.RULES
    heartbeat_rules.judge(make_plan(one, two))
    heartbeat_rules.judge(make_plan(one, replace(two, interfaces=one.interfaces[::-1]), names))
    heartbeat_rules.judge(make_plan(one, None))


def whole() -> bytes:
    return encode(
        HostFacts("node1", "1", (Interface("hb0", 2, "physical", mtu=1500),), unknown=(("sync", "no drbdadm"),))
    ).encode()


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(whole()) - 2))
def test_truncated(length: int) -> None:
    with pytest.raises(FactsError) as caught:
        decode(whole()[:length])
    assert "empty" in str(caught.value) if not whole()[:length].strip() else "line " in str(caught.value)


@settings(max_examples=500, deadline=None)
@given(st.integers(0, len(whole()) - 1), st.integers(0, 255))
def test_a_byte_changed(place: int, byte: int) -> None:
    data = bytearray(whole())
    data[place] = byte
    try:
        decode(bytes(data))
    except FactsError as error:
        assert str(error).isprintable() and len(str(error)) < 400


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
@example(b"[" * 100_000)
@example(b'{"format":"heartgate-facts","version":1,"facts":' + b"9" * 5000 + b"}")
@example(b'{"format":"heartgate-facts","version":1,"facts":NaN}')
@example(b"\xff\xfe")
@example(b"null")
def test_any_bytes(data: bytes) -> None:
    with pytest.raises(FactsError) as caught:
        decode(data)
    assert str(caught.value).isprintable()


def place_of(change: Any) -> str:
    body = json.loads(whole())
    change(body)
    with pytest.raises(FactsError) as caught:
        decode(json.dumps(body).encode())
    return str(caught.value)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda body: body.update(version=VERSION + 1), "made by a later heartgate: format version 4, this one knows 3"),
        (lambda body: body.update(version=True), "version: not a number"),
        (lambda body: body.update(format="x"), f'there is no "format": "{FORMAT}"'),
        (lambda body: body.pop("facts"), "facts: missing"),
        (lambda body: body["facts"].pop("host"), "facts.host: missing"),
        (lambda body: body["facts"].update(speed=1), "facts: unknown field 'speed'"),
        (lambda body: body["facts"].update(interfaces={}), "facts.interfaces: not a list: {}"),
        (lambda body: body["facts"]["interfaces"].append(7), "facts.interfaces[1]: not an object: 7"),
        (
            lambda body: body["facts"]["interfaces"][0].update(mtu="1500"),
            "facts.interfaces[0].mtu: not a number from 0 on: '1500'",
        ),
        (lambda body: body["facts"]["interfaces"][0].update(mtu=-1), "facts.interfaces[0].mtu: not a number from 0 on: -1"),
        (lambda body: body["facts"]["interfaces"][0].update(mtu=True), "facts.interfaces[0].mtu: not a number"),
        (lambda body: body["facts"]["interfaces"][0].update(carrier=1), "facts.interfaces[0].carrier: neither true nor false"),
        (lambda body: body["facts"]["interfaces"][0].update(kind=None), "facts.interfaces[0].kind: not a text: None"),
        (lambda body: body["facts"]["interfaces"][0].update(flags="up"), "facts.interfaces[0].flags: not a list"),
        (lambda body: body["facts"].update(unknown=[["a"]]), "facts.unknown[0]: 1 items, expected 2"),
        (lambda body: body["facts"].update(host="a\x1b[2J"), "facts.host: has characters that cannot be printed"),
        (lambda body: body["facts"].update(host="a" * (MAX_TEXT + 1)), f"facts.host: {MAX_TEXT + 1} characters"),
        (
            lambda body: body["facts"]["interfaces"].append(body["facts"]["interfaces"][0]),
            "facts.interfaces[1].name: hb0 is also",
        ),
    ],
)
def test_the_place_is_named(change: Any, said: str) -> None:
    assert said in place_of(change)


@pytest.mark.req("B7")
def test_facts_of_version_2_are_read() -> None:
    """Whether a bond watches by ARP was not told then."""
    bond = Bond("active-backup", ("m0", "m1"), "m0", None, 0, 200)
    body = json.loads(encode(HostFacts("node1", "1", (Interface("bond0", 4, "bond", bond=bond), Interface("hb0", 5, "veth")))))
    assert decode(json.dumps(body).encode()).interfaces[0].bond == bond
    del body["facts"]["interfaces"][0]["bond"]["arp_interval_ms"]
    with pytest.raises(FactsError, match="bond.arp_interval_ms: missing"):
        decode(json.dumps(body).encode())
    body["version"] = 2
    assert decode(json.dumps(body).encode()).interfaces[0].bond == replace(bond, arp_interval_ms=None)
    for interfaces in (None, 3, [3], [{"bond": 3}]):
        body["facts"]["interfaces"] = interfaces
        with pytest.raises(FactsError):
            decode(json.dumps(body).encode())


@pytest.mark.req("C3")
def test_facts_of_the_version_before_are_read() -> None:
    """What they did not tell is not known."""
    corosync = Corosync("/etc/corosync/corosync.conf", "knet", "aes256", "sha256", "node1", (), (), True, (Setting("a.b", ("c",)),))
    body = json.loads(encode(HostFacts("node1", "1", (), corosync)))
    assert body["version"] == VERSION == 3
    assert decode(json.dumps(body).encode()).corosync == corosync
    del body["facts"]["corosync"]["settings"]
    with pytest.raises(FactsError, match="facts.corosync.settings: missing"):
        decode(json.dumps(body).encode())
    body["version"] = 1
    assert decode(json.dumps(body).encode()).corosync == replace(corosync, settings=None)
    body["facts"]["corosync"] = None
    assert decode(json.dumps(body).encode()).corosync is None
    for facts in (None, [], {"corosync": 3}):
        with pytest.raises(FactsError):
            decode(json.dumps({**body, "facts": facts}).encode())
