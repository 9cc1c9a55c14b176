"""Two looks at a link's counters -> its two channels; which links may go."""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, Optional, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heartgate.checks import heartbeats
from heartgate.checks.heartbeats import Channel, Counters, LinkPlace, Sample

UP, DOWN, UNKNOWN = Channel.UP, Channel.DOWN, Channel.UNKNOWN
START = Counters(True, rx_total=1000, rx_pong=300, tx_ping=320, tx_ping_errors=0, latency_ave_us=230, latency_max_us=900,
                 down_count=1, mtu=1397)  # fmt: skip


def sample(connected: Optional[bool], rx: int, pong: int, sent: int, *, window_ms: float = 600.0, errors: int = 0) -> Sample:
    last = replace(START, connected=connected, rx_total=1000 + rx, rx_pong=300 + pong, tx_ping=320 + sent, tx_ping_errors=errors)
    return Sample(START, last, window_ms, 20.0 if rx else None, 100, 320 + sent)


@pytest.mark.req("C5")
@pytest.mark.parametrize(
    "name, given_sample, sends, receives",
    [
        ("both ways", sample(True, 12, 6, 6), UP, UP),
        ("answers come, data too", sample(True, 40, 6, 6), UP, UP),
        ("our sending is lost: its pings come, no answers", sample(False, 6, 0, 6), DOWN, UP),
        ("our receiving is lost: nothing comes", sample(False, 0, 0, 6), UNKNOWN, DOWN),
        ("the kernel refuses to send, and nothing comes", sample(False, 0, 0, 6, errors=6), DOWN, DOWN),
        ("the cable was cut just now", sample(True, 0, 0, 6), UNKNOWN, UNKNOWN),
        ("just cut on the way out", sample(True, 6, 0, 6), UNKNOWN, UP),
        ("looked too shortly", sample(False, 0, 0, 1, window_ms=120), UNKNOWN, UNKNOWN),
        ("we did not ping", sample(False, 6, 0, 0), UNKNOWN, UP),
        ("not known whether connected, silent", sample(None, 0, 0, 6), UNKNOWN, UNKNOWN),
        ("coming up: answers, not yet called connected", sample(False, 12, 6, 6), UP, UP),
    ],
)
def test_channels(name: str, given_sample: Sample, sends: Channel, receives: Channel) -> None:
    assert (heartbeats.sending(given_sample), heartbeats.receiving(given_sample)) == (sends, receives), name


@pytest.mark.req("C5")
def test_an_unknown_channel_has_a_reason_and_counters_that_began_anew_are_unknown() -> None:
    anew = Sample(START, Counters(True, rx_total=3, rx_pong=1, tx_ping=1), 600.0, None, 100)
    for each in (anew, Sample(Counters(), Counters(), 600.0), sample(False, 0, 0, 6), sample(True, 0, 0, 6)):
        line = heartbeats.heartbeat("nodeb", 0, "a", "b", each)
        assert UNKNOWN in (line.sending, line.receiving) and line.reason
    assert heartbeats.sending(anew) is UNKNOWN and heartbeats.receiving(anew) is UNKNOWN
    assert heartbeats.loss(anew) is None
    assert heartbeats.heartbeat("nodeb", 0, "a", "b", sample(True, 12, 6, 6)).reason == ""


@pytest.mark.parametrize(
    "sent, answered, expected",
    [(6, 6, 0.0), (6, 5, 0.0), (6, 3, 0.5), (6, 0, 1.0), (1, 0, None), (0, 0, None), (6, 8, 0.0), (100, 90, 0.1)],
)
def test_loss_is_the_share_without_an_answer_and_forgives_the_one_on_its_way(
    sent: int, answered: int, expected: Optional[float]
) -> None:
    assert heartbeats.loss(sample(True, answered, answered, sent)) == expected


def test_age_is_a_lower_bound_when_nothing_came() -> None:
    heard = heartbeats.heartbeat("nodeb", 0, "a", "b", sample(True, 12, 6, 6))
    assert (heard.age_ms, heard.age_at_least, heard.latency_max_us, heard.mtu) == (20.0, False, 900, 1397)
    silent = heartbeats.heartbeat("nodeb", 0, "a", "b", sample(False, 0, 0, 6))
    assert (silent.age_ms, silent.age_at_least) == (600.0, True)
    assert heartbeats.heartbeat("nodeb", 0, "a", "b", Sample(Counters(), Counters(), 600.0)).age_ms is None


counters = st.builds(
    Counters, st.sampled_from([True, False, None]), *[st.none() | st.integers(0, 50) for _ in range(4)]
)  # fmt: skip


@pytest.mark.apart
@pytest.mark.req("C5")
@given(st.builds(Sample, counters, counters, st.floats(0, 5000), st.none() | st.floats(0, 5000), st.none() | st.integers(0, 500)))
def test_silence_alone_never_makes_a_channel_down_and_traffic_always_makes_it_up(any_sample: Sample) -> None:
    sends, receives = heartbeats.sending(any_sample), heartbeats.receiving(any_sample)
    if DOWN in (sends, receives):
        assert any_sample.last.connected is False and any_sample.window_ms >= 3 * (any_sample.ping_interval_ms or 1e9)
    first, last = any_sample.first.rx_total, any_sample.last.rx_total
    if first is not None and last is not None and last > first:
        assert receives is UP
    assert heartbeats.heartbeat("n", 0, "", "", any_sample).loss in (None, heartbeats.loss(any_sample))


# --- independence


def place(link: int, adapter: Optional[str], **connected: Optional[bool]) -> LinkPlace:
    return LinkPlace(link, adapter, connected)


HB0, HB1, SYNC = place(0, "hb0", b=True), place(1, "hb1", b=True), place(2, "sync0", b=True)


@pytest.mark.req("A9", "C7")
@pytest.mark.parametrize(
    "name, places, removed, sync, says",
    [
        ("two left", (HB0, HB1, SYNC), 2, {"sync0"}, ""),
        ("one heartbeat and one on the sync link left", (HB0, HB1, SYNC), 0, {"sync0"}, ""),
        ("one left", (HB0, HB1), 1, set(), "no two connected links on different adapters would be left (link 0 on hb0)"),
        ("two on one adapter left", (HB0, place(1, "hb0", b=True), SYNC), 2, set(), "link 0, 1 on hb0"),
        ("one of the two left is down", (HB0, place(1, "hb1", b=False), SYNC), 2, set(), "no two connected"),
        ("one of the two left is unknown", (HB0, place(1, "hb1", b=None), SYNC), 2, set(), "no two connected"),
        ("only sync links left", (HB0, SYNC, place(3, "sync1", b=True)), 0, {"sync0", "sync1"}, "sync links (sync0, sync1)"),
        ("connected to one of two nodes", (HB0, place(1, "hb1", b=True, c=False), SYNC), 2, set(), "no two connected"),
        ("adapters not known", (place(0, None, b=True), place(1, None, b=True), SYNC), 2, set(), "an unknown adapter"),
    ],
)
def test_independence(name: str, places: Tuple[LinkPlace, ...], removed: int, sync: set[str], says: str) -> None:
    reasons = heartbeats.loses_independence(places, removed, sync)
    assert bool(reasons) == bool(says) and says in " ".join(reasons), (name, reasons)


@pytest.mark.req("C7", "D5")
@pytest.mark.parametrize(
    "connected, parted",
    [({"b": True}, ()), ({"b": False}, ("b",)), ({"b": None}, ("b",)), ({"b": True, "c": False}, ("c",))],
)
def test_who_would_be_cut_off(connected: Dict[str, Optional[bool]], parted: Tuple[str, ...]) -> None:
    here = LinkPlace(0, "hb0", dict.fromkeys(connected, True))
    assert heartbeats.parts_nodes((here, LinkPlace(1, "hb1", connected)), 0) == parted
