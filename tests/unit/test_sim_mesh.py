"""Three nodes: random walks, each from its seed (docs/exploration.md). What a seed has found stays here as a test."""

from __future__ import annotations

import os
from typing import Dict, Tuple

import pytest

from heartgate.core.model import Rank
from heartgate.sim.mesh import Mesh, Walk, walk_many
from heartgate.sim.world import Broken

pytestmark = pytest.mark.apart

WALKS = int(os.environ.get("HEARTGATE_WALKS", "150"))  # for each of the settings below
SETTINGS: Dict[str, Walk] = {
    f"{rank.value}, Primary on {primary}": Walk(rank=rank, primary=primary) for rank in Rank for primary in ("a", "b", "c")
}
# Seeds of `Walk(rank, primary)` as by `setting_of`, each of which has broken an earlier version of the rules.
FOUND: Tuple[int, ...] = (2, 3, 20, 101, 113, 231, 323, 350, 413, 919, 1380, 10013)


def setting_of(seed: int, omitted: Tuple[str, ...] = ()) -> Walk:
    return Walk(rank=tuple(Rank)[seed % 2], primary="abc"[seed % 3], omitted=omitted)


@pytest.mark.req("A10", "D8", "E1")
@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_three_nodes_walk(name: str) -> None:
    done, found = walk_many(SETTINGS[name], iter(range(WALKS)))
    if found is not None:
        print("\n".join(found.script))
    assert found is None, f"seed {found.seed}: {found.what}"
    assert done == WALKS


@pytest.mark.req("A10")
@pytest.mark.parametrize("seed", FOUND)
def test_what_was_found_once(seed: int) -> None:
    mesh = Mesh(setting_of(seed), seed)
    mesh.run()
    assert len(mesh.script) > 30


def chain(omitted: Tuple[str, ...], primary: str, pair: Tuple[str, str], seed: int) -> None:
    """Two lose each other, all still reach the third. Raises Broken."""
    mesh = Mesh(Walk(primary=primary, omitted=omitted), seed)
    mesh.begin()
    mesh.cut.add(pair)
    mesh.rest("after the cut")
    mesh.judge_rest(whole=False)
    mesh.mend(mesh.repairs)
    mesh.rest("mended")
    mesh.judge_rest(whole=True)


@pytest.mark.req("A10")
@pytest.mark.parametrize("primary", ["a", "b", "c"])
@pytest.mark.parametrize("pair", [("a", "b"), ("a", "c"), ("b", "c")])
def test_a_chain_comes_to_a_verdict(primary: str, pair: Tuple[str, str]) -> None:
    for seed in range(30):
        chain((), primary, pair, seed)


@pytest.mark.parametrize("pair", [("a", "b"), ("b", "c")])
def test_split_is_necessary(pair: Tuple[str, str]) -> None:
    with pytest.raises(Broken, match="liveness"):
        chain(("split",), pair[0], pair, 0)


def test_all_agree_is_necessary() -> None:
    with pytest.raises(Broken, match="I3"):
        for seed in range(400):
            Mesh(setting_of(seed, ("all-agree",)), seed).run()


def test_the_same_seed_gives_the_same_walk() -> None:
    first, second = Mesh(Walk(), 7), Mesh(Walk(), 7)
    first.run()
    second.run()
    assert first.script == second.script
