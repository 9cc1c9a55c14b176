"""Carrier of the interfaces for replication: the connection is dropped when the last of them has none, and never otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, Optional, Tuple

import pytest

from heartgate.adapters.base import AdapterError
from heartgate.daemon import links
from tests.unit.test_daemon_fakes import Bench


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(links, "SETTLE_S", 0.05)
    it = Bench(tmp_path)
    it.daemon.start()
    it.guard(sync_interfaces="eth2 eth3")
    yield it
    it.close()


def dropped(bench: Bench) -> int:
    return bench.world.drivers["r0"].calls.count("drop nodeb")


def tell(bench: Bench, *changes: Tuple[str, Optional[bool]]) -> None:
    for name, carrier in changes:
        bench.world.links.tell(name, carrier)
    bench.turn(0.3)


def test_the_last_one_counts(bench: Bench) -> None:
    tell(bench, ("eth2", True), ("eth3", True), ("eth9", False))
    tell(bench, ("eth2", False))
    assert dropped(bench) == 0
    tell(bench, ("eth3", False))
    bench.until("the drop", lambda: dropped(bench))
    assert dropped(bench) == 1
    assert "eth3, which carries replication, has lost its carrier" in bench.world.journal.text()


def test_a_moment_without_carrier_is_none(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "SETTLE_S", 0.5)
    tell(bench, ("eth2", False), ("eth3", True))
    bench.turn(0.5)  # of the loss of eth2
    bench.world.links.tell("eth3", False)
    bench.until("it to be seen", lambda: bench.daemon.links.carriers["eth3"] is False)
    tell(bench, ("eth3", True))
    bench.turn(0.5)
    assert dropped(bench) == 0


def test_unknown_is_not_down(bench: Bench) -> None:
    tell(bench, ("eth2", False), ("eth3", None))
    assert dropped(bench) == 0


def test_a_watch_that_fails_makes_all_unknown(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    tell(bench, ("eth2", False), ("eth3", True))

    def fail() -> None:
        raise AdapterError("rtnetlink: gone")

    monkeypatch.setattr(bench.world.links, "read", fail)
    tell(bench, ("eth3", False))
    assert dropped(bench) == 0 and bench.daemon.links.carriers == {}
    assert "source-lost" in bench.world.journal.kinds()
