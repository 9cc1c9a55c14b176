"""heartbeat-link in the daemon: registered, its carrier published, degraded by what is new; nothing is guessed."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import pytest

from heartgate.adapters.base import AdapterError
from heartgate.checks import status_decode
from heartgate.checks.findings import Finding, Severity
from heartgate.checks.heartbeats import Counters
from heartgate.checks.link_report import KnetLook, Question, Report
from heartgate.daemon import heartbeats
from tests.unit.test_daemon_fakes import Bench

NAME = "heartgate-link-hb0"


def finding(rule: str, severity: Severity, evidence: str = "it is so", waived: Optional[str] = None) -> Finding:
    return Finding(rule, severity, "hb0", evidence, "change it", (), waived)


SLOW = finding("speed", Severity.WARNING, "hb0 runs at 1000 Mbit/s")
BRIDGE = finding("virtual-switch", Severity.ERROR, "hb0 is a port of br0")
GOOD = Report("hb0", True, 10000, (0,), ())


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(heartbeats, "SETTLE_S", 0.02)
    monkeypatch.setattr(heartbeats, "REST_S", 0.02)
    it = Bench(tmp_path)
    it.daemon.start()
    it.world.reports["hb0"] = GOOD
    it.world.links.tell("hb0", True)
    it.turn(0.05)
    yield it
    it.close()


def ask(bench: Bench, op: str, **more: Any) -> Dict[str, Any]:
    line = json.dumps({"op": op, "resource": "beat", **more}).encode() + b"\n"
    answer: Dict[str, Any] = json.loads(bench.ask(line))
    return answer


def register(bench: Bench, **params: str) -> Dict[str, Any]:
    return ask(bench, "link-register", params={"interface": "hb0", **params})


def told(bench: Bench) -> List[Optional[str]]:
    bench.turn(0.1)
    bench.until("it to be told", lambda: not bench.daemon.heartbeats.publisher._busy)
    return [value for name, value, _ in bench.world.pacemaker.told if name == NAME]


def tell(bench: Bench, carrier: Optional[bool], name: str = "hb0") -> None:
    """And until the rules have been asked about it."""
    bench.world.links.tell(name, carrier)
    bench.turn(0.15)
    bench.until("the look", lambda: not bench.daemon.heartbeats._looking)


def test_carrier_is_published_at_once_with_the_dampening(bench: Bench) -> None:
    assert register(bench, dampen="3s")["ok"] is True
    assert told(bench) == ["1"] and bench.world.pacemaker.told[-1][2] == 3000
    tell(bench, False)
    assert told(bench) == ["1", "0"] and "hb0 has no carrier" in bench.world.journal.text()
    answer = ask(bench, "link-monitor")
    assert answer["rc"] == 190 and "hb0 has no carrier" in answer["message"]
    tell(bench, True)
    assert told(bench) == ["1", "0", "1"] and ask(bench, "link-monitor")["rc"] == 0


def test_status_shows_it(bench: Bench) -> None:
    register(bench)
    bench.turn(0.1)
    (link,) = ask(bench, "status")["heartbeat_links"]
    assert (link["resource"], link["state"], link["published"]) == ("beat", "up", "1")
    (told,) = status_decode.daemon(ask(bench, "status")).interfaces
    assert told.state == "up" and "hb0 has carrier, 10000 Mbit/s" in told.message


def test_another_interface_is_not_ours(bench: Bench) -> None:
    register(bench)
    tell(bench, False, "hb1")
    assert told(bench) == ["1"] and ask(bench, "link-monitor")["rc"] == 0


def test_one_that_is_gone_is_lost(bench: Bench) -> None:
    register(bench)
    tell(bench, None)
    assert told(bench) == ["1", "0"]
    answer = ask(bench, "link-monitor")
    assert answer["rc"] == 190 and "does not exist any more" in answer["message"]


def test_a_dead_source_is_unknown_and_not_a_loss(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    register(bench)

    def fail() -> None:
        raise AdapterError("rtnetlink: gone")

    monkeypatch.setattr(bench.world.links, "read", fail)
    tell(bench, False)
    assert told(bench) == ["1", None]  # not defined
    answer = ask(bench, "link-monitor")
    assert answer["rc"] == 0 and "is not known to have carrier" in answer["message"]


def test_on_loss_fail(bench: Bench) -> None:
    register(bench, on_loss="fail")
    assert ask(bench, "link-monitor")["rc"] == 0
    tell(bench, False)
    assert ask(bench, "link-monitor")["rc"] == 1


@pytest.mark.req("B3")
def test_an_error_refuses_with_its_remedy_and_nothing_is_watched(bench: Bench) -> None:
    bench.world.reports["hb0"] = GOOD._replace(findings=(BRIDGE, SLOW))
    answer = register(bench)
    (problem,) = answer["problems"]
    assert answer["ok"] is False and "port of br0 (rule virtual-switch)" in problem["message"]
    assert problem["remedy"] == "change it" and not bench.daemon.heartbeats.all and told(bench) == []
    assert ask(bench, "link-monitor")["rc"] == 7


def test_what_is_waived_does_not_refuse(bench: Bench) -> None:
    bench.world.reports["hb0"] = GOOD._replace(findings=(finding("vlan", Severity.ERROR, waived="we know"),))
    answer = register(bench, waivers="vlan=we know")
    assert answer["ok"] is True and "we know" in answer["notes"][0]


def test_warnings_of_the_start_are_no_news(bench: Bench) -> None:
    bench.world.reports["hb0"] = GOOD._replace(findings=(SLOW,))
    assert "1000 Mbit/s" in register(bench)["notes"][0]
    assert ask(bench, "link-monitor")["rc"] == 0
    bench.world.reports["hb0"] = GOOD._replace(findings=(finding("speed", Severity.WARNING, "hb0 runs at 100 Mbit/s"), BRIDGE))
    tell(bench, True, "br0")  # whatever changed, the rules are asked
    answer = ask(bench, "link-monitor")
    assert answer["rc"] == 190 and "br0" in answer["message"] and "Mbit/s" not in answer["message"]
    bench.world.reports["hb0"] = GOOD
    tell(bench, None, "br0")
    assert ask(bench, "link-monitor")["rc"] == 0


def test_a_change_while_the_rules_are_asked_is_not_missed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    register(bench)
    asked: List[str] = []
    go_on = threading.Event()

    def slow(question: Question) -> Report:
        asked.append(question.interface)
        if len(asked) == 1:
            go_on.wait(60)
            return GOOD  # as it was when it began to look
        return GOOD._replace(findings=(BRIDGE,))

    monkeypatch.setattr(bench.world, "link_report", slow)
    bench.world.links.tell("x", True)
    bench.until("the first look", lambda: asked)
    bench.world.links.tell("br0", True)
    bench.turn(0.15)
    assert asked == ["hb0"]
    go_on.set()
    bench.until("the second look", lambda: ask(bench, "link-monitor")["rc"] == 190)


def test_unknown_findings_and_a_failing_look_degrade_nothing(bench: Bench) -> None:
    register(bench)
    bench.world.reports["hb0"] = GOOD._replace(findings=(finding("direct", Severity.UNKNOWN),))
    tell(bench, True, "x")
    assert ask(bench, "link-monitor")["rc"] == 0
    bench.world.reports["hb0"] = AdapterError("heartgate: not found")
    tell(bench, False, "x")
    answer = ask(bench, "link-monitor")
    assert answer["rc"] == 0 and "could not be asked: heartgate: not found" in answer["message"]


def test_a_daemon_that_was_killed_goes_on(bench: Bench, tmp_path: Path) -> None:
    bench.world.reports["hb0"] = GOOD._replace(findings=(SLOW,))
    register(bench, name="beat0")
    bench.turn(0.1)
    bench.close()
    second = Bench(tmp_path)
    second.world.reports["hb0"] = GOOD._replace(findings=(SLOW,))
    second.world.links.tell("hb0", True)
    second.daemon.start()
    second.until("the attribute", lambda: second.world.pacemaker.told)
    second.turn(0.2)
    assert set(second.world.pacemaker.told) == {("beat0", "1", 1000)}  # neither withdrawn nor lost meanwhile
    second.world.links.tell("hb0", False)
    second.until("the loss", lambda: second.world.pacemaker.told[-1] == ("beat0", "0", 1000))
    assert "1000 Mbit/s" not in ask(second, "link-monitor")["message"]  # it was there at the start
    second.close()
    third = Bench(tmp_path)
    third.world.boot = "boot-2"
    third.daemon.start()
    assert ask(third, "link-monitor")["rc"] == 7  # the node has restarted: Pacemaker starts it
    third.close()


def test_another_name_is_remembered_with_the_kernels(bench: Bench, tmp_path: Path) -> None:
    bench.world.reports["beats"] = GOOD  # an altname of hb0
    assert ask(bench, "link-register", params={"interface": "beats"})["ok"] is True
    bench.turn(0.1)
    bench.close()
    second = Bench(tmp_path)
    second.world.links.tell("hb0", True)
    second.daemon.start()
    second.until("the attribute", lambda: second.world.pacemaker.told)
    second.turn(0.2)
    assert second.world.pacemaker.told == [("heartgate-link-beats", "1", 1000)]
    second.close()


def test_a_start_without_carrier_learns_its_warnings_later(bench: Bench) -> None:
    """A node that boots alone: what is there when the cable comes to life was there before; an error is news."""
    tell(bench, False)
    bench.world.reports["hb0"] = GOOD._replace(carrier=False)
    assert register(bench)["ok"] is True and told(bench) == ["0"]
    bench.world.reports["hb0"] = GOOD._replace(findings=(SLOW, BRIDGE))
    tell(bench, True)
    answer = ask(bench, "link-monitor")
    assert answer["rc"] == 190 and "br0" in answer["message"] and "Mbit/s" not in answer["message"]


def test_stop_forgets_and_takes_the_attribute_away(bench: Bench, tmp_path: Path) -> None:
    register(bench)
    assert ask(bench, "link-unregister")["ok"] is True
    assert told(bench) == ["1", None] and ask(bench, "link-monitor")["rc"] == 7
    assert ask(bench, "link-unregister")["ok"] is True  # again
    assert not list((tmp_path / "state").glob("*.heartbeat-link"))


def test_a_probe_publishes_again(bench: Bench) -> None:
    """Pacemaker has restarted and forgotten."""
    register(bench)
    assert told(bench) == ["1"]
    ask(bench, "link-monitor")
    assert told(bench) == ["1"]
    ask(bench, "link-monitor", probe="1")
    assert told(bench) == ["1", "1"]


def look(at_ms: float, packets: int, connected: bool, other: bool = True) -> KnetLook:
    lost = Counters(connected, packets, packets, packets, 0)
    return KnetLook(at_ms, {("nodeb", 0): lost, ("nodeb", 1): Counters(other, 1, 1, 1, 0)}, {0: 500, 1: 500})


@pytest.mark.req("C5")
def test_both_directions_are_told(bench: Bench) -> None:
    bench.world.looks = [look(0, 10, True), look(10_000, 30, True), look(20_000, 30, False), look(30_000, 30, False)]
    register(bench)
    assert "link 0 to nodeb: up, sending up, receiving up" in ask(bench, "link-monitor")["message"]
    first = ask(bench, "link-monitor")
    assert first["rc"] == 190 and "nodeb is heard over another link" in first["message"]
    assert "receiving down" in ask(bench, "link-monitor")["message"]
    assert ask(bench, "link-monitor")["rc"] == 0  # Corosync does not answer: unknown


def test_a_node_that_nobody_hears_is_not_this_links_fault(bench: Bench) -> None:
    bench.world.looks = [look(0, 10, False, False), look(10_000, 10, False, False)]
    register(bench)
    answer = ask(bench, "link-monitor")
    assert answer["rc"] == 0 and "link 0 to nodeb: down" in answer["message"]


@pytest.mark.parametrize(
    "request_, says",
    [
        ({"params": {"interface": ""}}, "interface is not given"),
        ({"params": {"interface": "nodeb:hb0"}}, "nodea is not named"),
        ({"params": {"interface": "hb0", "waivers": "x=y"}}, 'there is no rule "x"'),
        ({"params": {"interface": "hb5"}}, "nobody can be asked"),
        ({"params": 7}, "params is not an object"),
        ({"params": {}, "resource": "../x"}, "cannot be the name"),
    ],
)
def test_bad_requests(bench: Bench, request_: Dict[str, Any], says: str) -> None:
    answer = ask(bench, "link-register", **request_)
    assert answer["ok"] is False and says in json.dumps(answer).replace('\\"', '"')


def test_a_saved_registration_that_is_broken_is_said(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.daemon.services.store.save_note("beat", "heartbeat-link", {"boot": "boot-1", "me": "nodea"})
    bench.daemon.start()
    assert "what was saved of it cannot be used" in bench.world.journal.text()
    bench.close()
