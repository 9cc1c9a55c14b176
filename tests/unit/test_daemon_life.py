"""The daemon's start and end: a disk that cannot be read, a Corosync that does not answer, a planned shutdown."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any, Iterator

import pytest

from heartgate.core.model import Record, Standing
from heartgate.daemon import heartgated
from heartgate.daemon.store import Saved, Store
from tests.unit.test_daemon_fakes import PARAMS, Bench

BLOCKED = Record(Standing.BLOCKED, 7, ("nodeb",), "boot-0")
FENCE_PEER = b'{"op":"fence-peer","device":"r0","peer":"nodeb","handler":"1-1"}\n'


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    it = Bench(tmp_path)
    yield it
    it.close()


# --- a disk that cannot be read


class Disk:
    """While `trouble` is set, files that are named so cannot be read."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trouble, self.reads = "", 0
        self._real = store._read
        monkeypatch.setattr(store, "_read", self._read)

    def _read(self, name: str, *limit: int) -> Any:
        if self.trouble and name.endswith(self.trouble):
            self.reads += 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), name)
        return self._real(name, *limit)


@pytest.fixture
def disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Disk:
    monkeypatch.setattr(heartgated, "UNREAD_S", 0.05)
    store = bench.daemon.services.store
    store.save_config(Saved("r0", "nodea", PARAMS, True))
    store.save_record("r0", BLOCKED)
    return Disk(store, monkeypatch)


@pytest.mark.req("A4")
@pytest.mark.parametrize("suffix", [".state", ".config"])
def test_a_device_is_not_guarded_by_guess(bench: Bench, disk: Disk, suffix: str) -> None:
    disk.trouble = suffix
    bench.daemon.start()
    assert not bench.daemon.guards
    assert b'"exit"' not in bench.ask(FENCE_PEER), "only a number ends a handler's waiting"
    bench.until("another try", lambda: disk.reads >= 3)
    assert bench.world.journal.text().count("Too many open files") == 1, "told once"
    disk.trouble = ""
    bench.until("it to be guarded", lambda: bench.daemon.guards)
    record = bench.daemon.guards["r0"].state.record
    assert (record.standing, record.epoch) == (Standing.BLOCKED, 7)
    assert not list((bench.directory / "state").glob("*.bad-*"))
    assert bench.world.journal.text().count("guarded after all") == 1


@pytest.mark.req("A4")
def test_a_registration_that_cannot_read_its_record_fails(bench: Bench, disk: Disk) -> None:
    bench.daemon.start()
    guard = bench.daemon.guards["r0"]
    line = json.dumps({"op": "register", "params": PARAMS}).encode() + b"\n"
    disk.trouble = ".state"
    answer = bench.ask(line)
    assert b'"ok":false' in answer and b"record of r0 cannot be read: Too many open files" in answer
    assert bench.daemon.guards["r0"] is guard and guard.state.record.standing is Standing.BLOCKED
    disk.trouble = ""
    assert b'"ok":true' in bench.ask(line)
    assert not list((bench.directory / "state").glob("*.bad-*"))


def test_forgotten_before_it_could_be_read(bench: Bench, disk: Disk) -> None:
    disk.trouble = ".state"
    bench.daemon.start()
    bench.daemon.services.store.forget("r0")
    disk.trouble = ""
    bench.until("the next try", lambda: not bench.daemon.unread)
    assert not bench.daemon.guards
