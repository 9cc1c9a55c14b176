"""Leaving a rule out must break an invariant or liveness, with a script that shows it; so must each flaw of the world.

Rules whose absence the exploration does not (yet) notice are listed with the reason in docs/exploration.md; `NOT_SHOWN` here
keeps that list complete.
"""

from __future__ import annotations

from typing import Dict, Tuple

import pytest

from heartgate.core.rules import GUARDS, TABLE
from heartgate.sim.__main__ import readable
from heartgate.sim.explorer import explore
from heartgate.sim.moves import Setting
from heartgate.sim.world import Flaws

# rule -> (setting, how the violation begins)
BROKEN: Dict[str, Tuple[Setting, str]] = {
    "loss": (Setting(faults=1), "liveness"),
    "ask-block": (Setting(faults=1), "liveness"),
    "block-again": (Setting(faults=1, primaries=(1,)), "liveness"),
    "join": (Setting(faults=1), "liveness"),
    "self-return": (Setting(faults=1), "liveness"),
    "accept": (Setting(faults=1), "liveness"),
    "propose": (Setting(faults=1), "liveness"),
    "commit": (Setting(faults=1), "liveness"),
    "handlers": (Setting(faults=1), "liveness"),
    "persist-first": (Setting(faults=2), "I"),
    "proof": (Setting(faults=1), "I3"),
    "promise": (Setting(faults=1), "liveness"),
    "boot-unproven": (Setting(faults=3, kinds=("power", "pause")), "I5"),
    "meeting": (Setting(faults=2), "liveness"),
}
FLAWS: Dict[str, Tuple[Setting, str]] = {
    "thaw_without_generation": (Setting(faults=2, flaws=Flaws(thaw_without_generation=True)), "I2"),
    "release_without_kill": (Setting(faults=1, primaries=(1,), flaws=Flaws(release_without_kill=True)), "I2"),
}
NOT_SHOWN = {
    "excluded", "drop", "deadline", "ask-fence", "epoch-raise", "answer-matches", "pairing", "connection-voids", "fence-epoch",
}  # fmt: skip


def check(setting: Setting, kind: str) -> None:
    report = explore(setting)
    assert report.violation is not None, f"{report.states} states and nothing is broken"
    print(readable(report.violation))
    assert report.violation.what.startswith(kind)
    assert len(report.violation.script) >= 2


@pytest.mark.parametrize("rule", sorted(BROKEN))
def test_rule_is_necessary(rule: str) -> None:
    setting, kind = BROKEN[rule]
    check(setting._replace(omitted=(rule,)), kind)


@pytest.mark.parametrize("flaw", sorted(FLAWS))
def test_flaw_is_seen(flaw: str) -> None:
    check(*FLAWS[flaw])


def test_every_rule_is_accounted_for() -> None:
    known = {rule.ident for rule in TABLE} | {ident for ident, _ in GUARDS}
    assert known == set(BROKEN) | NOT_SHOWN
    assert not set(BROKEN) & NOT_SHOWN
