"""What is told of one heartbeat interface of this node: what the rules find, and what its Corosync links do. Pure.

A separate process looks (it needs pyroute2, and may wait for a name server); the daemon keeps the outcome.
"""

from __future__ import annotations

import json
from typing import Any, Dict, FrozenSet, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from heartgate.checks import heartbeats
from heartgate.checks.findings import Finding, Severity
from heartgate.checks.heartbeats import Channel, Counters, Sample


class Question(NamedTuple):
    """What to look at. Empty texts: not given."""

    interface: str
    client_interface: str = ""
    sync_interfaces: Tuple[str, ...] = ()
    addressing: str = "any"
    waivers: str = ""


class Report(NamedTuple):
    """interface: the kernel's name, None if there is no such one. links: numbers of the Corosync links that run on it. carrier:
    when it was looked at; without it much cannot be told."""

    interface: Optional[str]
    carrier: Optional[bool]
    speed_mbit: Optional[int]
    links: Tuple[int, ...]
    findings: Tuple[Finding, ...]

    @property
    def errors(self) -> Tuple[Finding, ...]:
        return tuple(each for each in self.findings if each.waived is None and each.severity is Severity.ERROR)

    @property
    def warnings(self) -> Tuple[Finding, ...]:
        """Errors too: after the start nothing is refused any more."""
        bad = (Severity.ERROR, Severity.WARNING)
        return tuple(each for each in self.findings if each.waived is None and each.severity in bad)

    def known(self) -> Optional[FrozenSet[str]]:
        """What is no news later; None if it cannot be told yet. An error is always news: at a start it would have refused."""
        if self.carrier is not True:
            return None
        return frozenset(identity(each) for each in self.warnings if each.severity is Severity.WARNING)


def identity(finding: Finding) -> str:
    """The same finding at two moments, though its evidence has other numbers."""
    return f"{finding.rule}@{finding.subject}:{finding.severity.value}"


# --- as JSON ---------------------------------------------------------------------------------------------------------


def encode(report: Report) -> str:
    return json.dumps({**report._asdict(), "findings": [_plain(each) for each in report.findings]})


def _plain(each: Finding) -> Dict[str, object]:
    return {
        "rule": each.rule,
        "severity": each.severity.value,
        "subject": each.subject,
        "evidence": each.evidence,
        "remedy": each.remedy,
        "waived": each.waived,
    }


def decode(text: str) -> Report:
    """Raises ValueError for anything that `encode` does not make."""
    try:
        body = json.loads(text)
        interface, speed, links, carrier = (body[name] for name in ("interface", "speed_mbit", "links", "carrier"))
        findings = tuple(_finding(each) for each in body["findings"])
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"no report of a heartbeat interface: {error!r:.100}") from None
    if not isinstance(interface, (str, type(None))) or not isinstance(speed, (int, type(None))):
        raise ValueError("no report of a heartbeat interface: interface or speed_mbit")
    if carrier not in (True, False, None):
        raise ValueError("no report of a heartbeat interface: carrier")
    if not isinstance(links, list) or not all(type(number) is int for number in links):
        raise ValueError("no report of a heartbeat interface: links")
    return Report(interface, carrier, speed, tuple(links), findings)


def _finding(body: Mapping[str, Any]) -> Finding:
    texts = [body[name] for name in ("rule", "subject", "evidence", "remedy")]
    waived = body["waived"]
    if not all(isinstance(text, str) for text in texts) or not isinstance(waived, (str, type(None))):
        raise ValueError("no report of a heartbeat interface: a finding")
    return Finding(texts[0], Severity(body["severity"]), texts[1], texts[2], texts[3], (), waived)


# --- directions ------------------------------------------------------------------------------------------------------


class KnetLook(NamedTuple):
    """One look at Corosync's links. at_ms: monotonic. links: (node, number) -> counters. ping_interval_ms: by number."""

    at_ms: float
    links: Mapping[Tuple[str, int], Counters]
    ping_interval_ms: Mapping[int, int]


class Direction(NamedTuple):
    """A Corosync link to one node. elsewhere: that node is heard over another link, so a loss here is this link's."""

    node: str
    link: int
    state: Channel
    sending: Channel
    receiving: Channel
    elsewhere: bool

    @property
    def lost(self) -> bool:
        """A node that nobody hears says nothing of this link."""
        return self.elsewhere and Channel.DOWN in (self.state, self.sending, self.receiving)

    def words(self) -> str:
        return (
            f"link {self.link} to {self.node}: {self.state.value}, sending {self.sending.value}, "
            f"receiving {self.receiving.value}"
        )


def directions(before: Optional[KnetLook], now: Optional[KnetLook], numbers: Sequence[int]) -> Tuple[Direction, ...]:
    """Of the links with these numbers. Two looks are compared; with one alone both directions are unknown."""
    if now is None:
        return ()
    found: List[Direction] = []
    for (node, number), last in sorted(now.links.items()):
        if number not in numbers:
            continue
        first = before.links.get((node, number)) if before is not None else None
        elsewhere = any(other[0] == node and other[1] != number and look.connected for other, look in now.links.items())
        sample = Sample(
            first or last,
            last,
            now.at_ms - before.at_ms if before is not None else 0.0,
            ping_interval_ms=now.ping_interval_ms.get(number),
        )
        sending, receiving = _channels(sample)
        found.append(Direction(node, number, heartbeats.state(last.connected), sending, receiving, elsewhere))
    return tuple(found)


def _channels(sample: Sample) -> Tuple[Channel, Channel]:
    """(sending, receiving)."""
    if sample.last.connected is False and sample.first.connected is not False:
        return Channel.UNKNOWN, Channel.UNKNOWN  # it was lost between the looks: what arrived had come before
    return heartbeats.sending(sample), heartbeats.receiving(sample)
