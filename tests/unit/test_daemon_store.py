"""The state directory: interrupted anywhere, damaged, of the future, full, and locked."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Any, Callable, List

import pytest

from heartgate.core import codec
from heartgate.core.model import Proof, ProofKind, Record, Standing
from heartgate.daemon import store as module
from heartgate.daemon.store import AlreadyRunning, RuntimeLock, Saved, Store, StoreError

OLD = Record(Standing.SYNCED, 1, ("nodea", "nodeb"), "boot")
NEW = Record(Standing.BLOCKED, 2, ("nodea", "nodeb"), "boot", (Proof("nodeb", ProofKind.FENCED, 2),), "nodeb")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state")


class Interrupted(Exception):
    """As if the power were cut here."""


def test_nothing_there(store: Store) -> None:
    assert store.load_record("r0") == (None, None)
    assert store.load_config("r0") == (None, None)
    assert store.history("r0") == []
    assert store.devices() == []


def test_a_record_comes_back(store: Store) -> None:
    store.save_record("r0", OLD)
    store.save_record("r0", NEW)
    assert store.load_record("r0") == (NEW, None)
    assert stat.S_IMODE((store.directory / "r0.state").stat().st_mode) == 0o600
    assert stat.S_IMODE(store.directory.stat().st_mode) == 0o700
    assert [entry.name for entry in store.directory.iterdir()] == ["r0.state"]


@pytest.mark.req("A4", "E1")
@pytest.mark.parametrize("name", ["open", "write", "fsync", "close", "rename"])
def test_interrupted_at_each_step(store: Store, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Before each call, and after it: what is read then is the old record or the new one."""
    store.save_record("r0", OLD)
    for after in (False, True):
        for nth in range(3):
            _interrupt(monkeypatch, name, nth, after)
            with contextlib.suppress(Interrupted):
                store.save_record("r0", NEW)
            monkeypatch.undo()
            assert store.load_record("r0")[0] in (OLD, NEW)
            store.save_record("r0", OLD)
            assert store.load_record("r0") == (OLD, None)


def _interrupt(monkeypatch: pytest.MonkeyPatch, name: str, nth: int, after: bool) -> None:
    real: Callable[..., Any] = getattr(os, name)
    calls: List[int] = []

    def cut(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) - 1 != nth:
            return real(*arguments, **named)
        if after:
            real(*arguments, **named)
        raise Interrupted

    monkeypatch.setattr(os, name, cut)


def test_order_of_the_calls(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Durable means: file fsynced before the rename, directory after it."""
    order: List[str] = []
    for name in ("write", "fsync", "rename"):
        real = getattr(os, name)

        def call(*arguments: Any, name: str = name, real: Any = real) -> Any:
            order.append(name)
            return real(*arguments)

        monkeypatch.setattr(os, name, call)
    store.save_record("r0", NEW)
    assert order == ["write", "fsync", "rename", "fsync"]


def test_a_failed_write_leaves_the_old_record(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save_record("r0", OLD)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.save_record("r0", NEW)
    monkeypatch.undo()
    assert store.load_record("r0") == (OLD, None)


@pytest.mark.parametrize("data", [b"", b"garbage", b"\0" * 4096, codec.encode_record(NEW)[:-10]])
def test_a_damaged_record_is_kept_aside(store: Store, data: bytes) -> None:
    path = store.directory / "r0.state"
    for number in (1, 2):
        path.write_bytes(data)
        record, aside = store.load_record("r0")
        assert record is None and aside is not None and aside.reason
        assert aside.kept_as == str(path) + f".bad-{number}"
        assert Path(aside.kept_as).read_bytes() == data
        assert not path.exists()
    assert store.load_record("r0") == (None, None)


def test_a_future_record_is_kept_aside(store: Store) -> None:
    (store.directory / "r0.state").write_bytes(codec.encode_record(NEW).replace(b'"version":1', b'"version":9'))
    record, aside = store.load_record("r0")
    assert record is None and aside is not None and "version 9" in aside.reason


def test_a_directory_in_place_of_a_record(store: Store) -> None:
    (store.directory / "r0.state").mkdir()
    record, aside = store.load_record("r0")
    assert record is None and aside is not None


@pytest.mark.req("A4")
@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ENOMEM])
def test_what_could_not_be_read_stays_where_it_is(store: Store, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """It may be valid: kept aside, the next boot would find no record where a block or a proof was written."""
    store.save_record("r0", NEW)
    saved = Saved("r0", "nodea", {"device": "r0"}, True)
    store.save_config(saved)

    def unreadable(name: str, limit: int = 0) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(store, "_read", unreadable)
    for load in (store.load_record, store.load_config):
        with pytest.raises(OSError, match=os.strerror(number)):
            load("r0")
    monkeypatch.undo()
    assert store.load_record("r0") == (NEW, None) and store.load_config("r0") == (saved, None)


def test_looking_moves_nothing(store: Store) -> None:
    path = store.directory / "r0.state"
    path.write_bytes(b"garbage")
    with pytest.raises(codec.CodecError):
        store.read_record("r0")
    assert path.exists()


def test_configurations(store: Store) -> None:
    saved = Saved("r0", "nodea", {"device": "r0", "flush": "filesystem:/srv/\u00e4"}, True)
    store.save_config(saved)
    assert store.load_config("r0") == (saved, None)
    assert store.devices() == ["r0"]


def whole(store: Store) -> None:
    store.save_record("r0", NEW)
    store.save_config(Saved("r0", "nodea", {"device": "r0"}, True))
    for note in module.NOTES:
        store.save_note("r0", note, {})
    store.append_history("r0", b"{}\n")


def test_a_device_is_forgotten_but_for_its_history(store: Store) -> None:
    whole(store)
    store.save_record("r1", OLD)
    store.save_note("r0", "heartbeat-link", {})  # of a resource of that name
    assert store.kept("r0") == ["r0.state", "r0.config", "r0.flush", "r0.fencing", "r0.contacts"]
    for _ in range(2):
        store.forget("r0")
        assert sorted(path.name for path in store.directory.iterdir()) == ["r0.heartbeat-link", "r0.verdicts", "r1.state"]
    assert store.kept("r0") == [] and store.load_record("r0") == (None, None)


@pytest.mark.req("A4")
@pytest.mark.parametrize("name", ["unlink", "fsync"])
def test_forgetting_interrupted_at_each_step(store: Store, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The record is there unless everything else is durably gone: what it forbids it forbids still."""
    for after in (False, True):
        for nth in range(len(module.NOTES) + 3):
            whole(store)
            _interrupt(monkeypatch, name, nth, after)
            with contextlib.suppress(Interrupted):
                store.forget("r0")
            monkeypatch.undo()
            assert store.load_record("r0") == (NEW, None) or store.kept("r0") == []
            assert store.load_record("r0") == (NEW, None) or name == "fsync" or nth >= len(module.NOTES) + 1


def test_the_record_is_removed_when_the_rest_is_on_the_disk(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    whole(store)
    order: List[str] = []
    real_unlink, real_fsync = Path.unlink, os.fsync

    def unlink(path: Path, missing_ok: bool = False) -> None:
        order.append(path.name)
        real_unlink(path, missing_ok)

    def fsync(fd: int) -> None:
        order.append("fsync")
        real_fsync(fd)

    monkeypatch.setattr(Path, "unlink", unlink)
    monkeypatch.setattr(os, "fsync", fsync)
    store.forget("r0")
    assert order == ["r0.config", *(f"r0.{note}" for note in module.NOTES), "fsync", "r0.state", "fsync"]


@pytest.mark.parametrize(
    "body", [[], {}, {"me": "a b", "params": {}, "active": True}, {"me": "a", "params": {"x": 1}, "active": True}]
)
def test_a_wrong_configuration_is_kept_aside(store: Store, body: object) -> None:
    (store.directory / "r0.config").write_bytes(codec.seal("heartgate-config", 1, body))
    saved, aside = store.load_config("r0")
    assert saved is None and aside is not None


def test_strange_files_are_no_devices(store: Store) -> None:
    for name in ("a b.config", ".x.config.new", "x.config.bad-1", ".config"):
        (store.directory / name).write_bytes(b"")
    assert store.devices() == []


def test_history_is_bounded_and_readable(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HISTORY_LIMIT", 2000)
    for number in range(200):
        text = f'{{"at":{number},"before":null,"text":"{"x" * 30}"}}\n' if number % 3 == 0 else f'{{"at":{number}}}\n'
        store.append_history("r0", text.encode())
    assert (store.directory / "r0.verdicts").stat().st_size <= 2100
    assert store.read_history("r0").startswith(b'{"at":') and b'"before":' in store.read_history("r0").splitlines()[0]
    entries = store.history("r0")
    assert [entry["at"] for entry in entries] == list(range(entries[0]["at"], 199, 3)), "only those that tell what was before"
    assert [entry["at"] for entry in store.history("r0", 2)] == [195, 198]


def test_a_line_that_was_cut_off_does_not_spoil_the_next(store: Store) -> None:
    with (store.directory / "r0.verdicts").open("ab") as out:
        out.write(b'{"at":200,"te')  # power cut in the middle of a line
    store.append_history("r0", b'{"at":201,"before":null}\n')
    assert [entry["at"] for entry in store.history("r0")] == [201]


def test_a_history_that_cannot_be_written_whole_is_left_as_it_was(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.append_history("r0", b'{"at":1}\n')
    written = []

    def half(fd: int, data: bytes) -> int:
        if written:
            raise OSError(28, "No space left on device")
        written.append(real(fd, data[:4]))
        return 4

    real = os.write
    monkeypatch.setattr(module.os, "write", half)
    with pytest.raises(OSError):
        store.append_history("r0", b'{"at":2}\n')
    monkeypatch.undo()
    assert store.read_history("r0") == b'{"at":1}\n'


def test_one_line_that_is_more_than_half_of_the_limit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HISTORY_LIMIT", 2000)
    for number in range(3):
        store.append_history("r0", f'{{"at":{number},"before":null,"text":"{"x" * 1500}"}}\n'.encode())
    assert [entry["at"] for entry in store.history("r0")] == [2]


def test_notes(store: Store) -> None:
    assert store.load_note("r0", "flush") is None
    store.save_note("r0", "flush", {"results": []})
    assert store.load_note("r0", "flush") == {"results": []}
    (store.directory / "r0.flush").write_bytes(b"x")
    assert store.load_note("r0", "flush") is None


def test_only_one_daemon(tmp_path: Path) -> None:
    lock = RuntimeLock(tmp_path)
    with pytest.raises(AlreadyRunning, match=f"pid {os.getpid()}"):
        RuntimeLock(tmp_path)
    lock.close()
    RuntimeLock(tmp_path).close()


def test_an_unusable_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        Store(tmp_path / "file" / "state")
