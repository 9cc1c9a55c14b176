"""The policy in golden scripts (tests/unit/scripts/*.txt, see core_script): events in, records and actions out.

HEARTGATE_REWRITE=1 writes what the policy does now into the scripts; the difference is then for a person to judge.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest

from tests.unit.core_script import run_script, script_paths

# What each script proves of requirements.md; a script that is not here proves none by itself.
PROVES: Dict[str, Tuple[str, ...]] = {
    "sync_cut_active_on_a_priority": ("A1", "A3", "A5", "E1"),
    "sync_cut_active_on_b_priority": ("A1", "A3"),
    "sync_cut_active_on_b_active_first": ("A3",),
    "readmission": ("A4",),
    "boot_standings": ("A4", "D8"),
    "survivor_rebooted": ("A6",),
    "fence_after_deadline": ("A11", "D6"),
    "block_fails": ("A11",),
    "fenced_then_loss": ("E1",),
    "fenced_in_an_older_epoch": ("E1", "D8"),
    "deadline_of_unheard": ("D8",),
    "all_links_lost": ("A7", "D8"),
    "heartbeats_lost_first": ("A8", "D8"),
    "blocked_handler": ("D8",),
    "unproven_handler": ("D8",),
    "membership_lost_in_round": ("E1",),
    "bias_isolated": ("A7", "D8"),
    "bias_moves": ("D8",),
    "bias_differs": ("D8",),
    "freeze_isolated": ("D8",),
    "operator_marks": ("E8",),
    "operator_refused": ("E8",),
    "three_one_cut_off": ("A10",),
    "three_chain": ("A10",),
    "three_readmission": ("A10", "A4"),
    "three_then_two_then_one": ("A10", "E1"),
}


def scripts() -> List[Any]:
    return [pytest.param(p, id=p.stem, marks=[pytest.mark.req(*PROVES.get(p.stem, ()))]) for p in script_paths()]


@pytest.mark.parametrize("path", scripts())
def test_script(path: Path) -> None:
    outcome = run_script(path)
    if os.environ.get("HEARTGATE_REWRITE") == "1":
        path.write_text(outcome.text)
    assert outcome.text.splitlines() == path.read_text().splitlines(), f"{path.name}: HEARTGATE_REWRITE=1 rewrites it"
    assert " BROKEN " not in outcome.text


def test_every_proof_is_a_script() -> None:
    assert set(PROVES) <= {path.stem for path in script_paths()}
