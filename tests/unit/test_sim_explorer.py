"""The exploration, complete for each setting: every order of events with up to two faults, and one fault unreduced; with
three faults for the first setting, and with --all for each.

HEARTGATE_FAULTS=4 goes deeper; `python3 -m heartgate.sim` prints scripts.
"""

from __future__ import annotations

import os
from typing import Dict, Tuple

import pytest

from heartgate.core.model import Rank
from heartgate.sim import canonical
from heartgate.sim.__main__ import main, readable
from heartgate.sim.explorer import Explorer, Key, explore
from heartgate.sim.moves import Setting

pytestmark = pytest.mark.apart

LIMIT = 1_000_000
FAULTS = int(os.environ.get("HEARTGATE_FAULTS", "2"))
SETTINGS: Dict[str, Setting] = {
    "priority, Primary on a": Setting(primaries=(0,)),
    "priority, Primary on b": Setting(primaries=(1,)),
    "priority, no Primary": Setting(primaries=()),
    "priority, both Primary": Setting(primaries=(0, 1)),
    "active-first, Primary on b": Setting(rank=Rank.ACTIVE_FIRST, primaries=(1,)),
}
MAIN = "priority, Primary on a"


def run(setting: Setting) -> None:
    report = explore(setting, progress=lambda line: print(f"    {line}", flush=True))
    print(f"    {report.states} states, {report.moves} moves, by faults {report.by_faults}")
    assert report.violation is None, readable(report.violation)
    assert report.complete


@pytest.mark.req("A3", "A7", "A8", "D6", "D8", "E1")
@pytest.mark.parametrize("name", sorted(set(SETTINGS) - {MAIN}))
def test_complete(name: str) -> None:
    run(SETTINGS[name]._replace(faults=FAULTS))


@pytest.mark.apart("first")
@pytest.mark.req("A3", "A7", "A8", "D6", "D8", "E1")
@pytest.mark.parametrize("name", [MAIN, *(pytest.param(n, marks=pytest.mark.slow) for n in sorted(SETTINGS) if n != MAIN)])
def test_complete_with_three_faults(name: str) -> None:
    """Minutes of CPU each (docs/exploration.md has them)."""
    run(SETTINGS[name]._replace(faults=3))


@pytest.mark.req("D8")
@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_messages_take_any_time(name: str) -> None:
    """Unreduced: messages are delivered whenever it hurts most."""
    run(SETTINGS[name]._replace(faults=1, lagging=(0, 1)))


@pytest.mark.slow
@pytest.mark.req("D8")
def test_messages_take_any_time_with_two_faults() -> None:
    run(SETTINGS[MAIN]._replace(faults=2, lagging=(0, 1)))


@pytest.mark.parametrize("kind", ["sync", "record"])
def test_what_is_left_out_of_a_world_makes_no_difference(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worlds that are reached with everything kept are, without what is irrelevant in them, those that are reached."""
    setting = Setting(faults=2, kinds=("sync", kind), primaries=(1,))
    reduced, everything, judge = Explorer(setting), Explorer(setting), Explorer(setting)
    assert reduced.run(LIMIT, None).complete
    with monkeypatch.context() as patched:
        patched.setattr(canonical, "relevant", lambda node: node)
        assert everything.run(LIMIT, None).complete
    assert len(everything.keys) > 1.2 * len(reduced.keys)
    assert {parts(judge, judge.key(everything.world(key, 0))) for key in everything.keys} == {
        parts(reduced, key) for key in reduced.keys
    }


def parts(explorer: Explorer, key: Key) -> Tuple[object, ...]:
    """A world as it is, whatever numbers the explorer gave to its parts."""
    one, other, late_b, late_a, flags = key
    return (*(explorer.numbering.things[part] for part in (one, other, late_b, late_a)), flags)


def test_the_command_finds_and_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--faults", "1", "--without", "proof"]) == 1
    printed = capsys.readouterr().out
    assert "VIOLATED: I3" in printed
    assert "CUT sync" in printed


def test_the_command_finds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--faults", "1"]) == 0
    assert "complete: no violation" in capsys.readouterr().out
