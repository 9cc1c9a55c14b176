"""What outlives the daemon: one record per device, its configuration, the history of its verdicts.

A record is written to a temporary file, fsynced, renamed over the old one, and the directory fsynced: interrupted
anywhere, the old record or the new one is there, never a mixture. A file that cannot be understood is kept aside and
reported; the device starts without a record then, which the policy takes as unproven. One that cannot be read (no descriptor, an
error of the disk) is another thing: it may be valid, and is tried again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable, List, NamedTuple, Optional, Tuple

from heartgate.core import codec
from heartgate.core.codec import CodecError
from heartgate.core.model import Record

CONFIG_VERSION = 1
HISTORY_LIMIT = 512 * 1024  # bytes; when it is reached the older half is dropped
MAX_KEPT_ASIDE = 100
NOTES = ("flush", "fencing", "contacts")  # of a device; whose loss changes nothing


class StoreError(Exception):
    """The state directory cannot be used; says what was tried and what came back."""


class AlreadyRunning(StoreError):
    """Another daemon holds the lock."""


class KeptAside(NamedTuple):
    """A file that could not be understood."""

    path: str
    kept_as: str
    reason: str


class Saved(NamedTuple):
    """A device's configuration as it was registered. me: this node's name. active: the resource runs (not only
    remembered)."""

    device: str
    me: str
    params: Mapping[str, str]
    active: bool


class RuntimeLock:
    """Held for the life of the daemon; the kernel gives it back however the process ends."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "lock"
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise AlreadyRunning(f"another heartgated is running (pid {owner}); lock {self._path}") from None
            raise StoreError(f"cannot lock {self._path}: {error.strerror}") from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode("ascii"), 0)

    def close(self) -> None:
        os.close(self._fd)


def prepare_directory(path: Path) -> None:
    """A directory of root's own. Raises StoreError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise StoreError(f"cannot use directory {path}: {error.strerror}") from None


class Store:
    """The state directory. Methods may be called from any thread; each device is written by one thread at a time."""

    def __init__(self, directory: Path, create: bool = True) -> None:
        self.directory = directory
        if create:
            prepare_directory(directory)

    # --- records

    def load_record(self, device: str) -> Tuple[Optional[Record], Optional[KeptAside]]:
        """The record, or None and, if there was one that could not be understood, where it was put. Raises OSError."""
        return self._load(f"{device}.state", codec.decode_record)

    def read_record(self, device: str) -> Optional[Record]:
        """The record, for looking only: leaves everything where it is. Raises CodecError."""
        data = self._read(f"{device}.state")
        return None if data is None else codec.decode_record(data)

    def save_record(self, device: str, record: Record) -> None:
        """Returns when the record is on the disk. Raises OSError."""
        self._write(f"{device}.state", codec.encode_record(record))

    # --- configurations

    def load_config(self, device: str) -> Tuple[Optional[Saved], Optional[KeptAside]]:
        """As load_record."""
        return self._load(f"{device}.config", lambda data: _saved(device, data))

    def read_config(self, device: str) -> Optional[Saved]:
        """The configuration, for looking only: leaves everything where it is. Raises CodecError and OSError."""
        data = self._read(f"{device}.config")
        return None if data is None else _saved(device, data)

    def save_config(self, saved: Saved) -> None:
        body = {"me": saved.me, "params": dict(saved.params), "active": saved.active}
        self._write(f"{saved.device}.config", codec.seal("heartgate-config", CONFIG_VERSION, body))

    def forget(self, device: str) -> None:
        """Remove everything that was kept of a device but its history. The record goes last, when the rest is durably gone:
        interrupted anywhere, what it forbids it forbids still. Raises OSError."""
        for suffixes in (("config", *NOTES), ("state",)):
            for suffix in suffixes:
                with contextlib.suppress(FileNotFoundError):
                    self._path(f"{device}.{suffix}").unlink()
            self._sync_directory()

    def kept(self, device: str) -> List[str]:
        """Names of the files that `forget` would remove."""
        return [f"{device}.{suffix}" for suffix in ("state", "config", *NOTES) if self._path(f"{device}.{suffix}").exists()]

    def devices(self) -> List[str]:
        """Devices with a remembered configuration."""
        return self._with_suffix(".config")

    def recorded_devices(self) -> List[str]:
        """Devices with a record."""
        return self._with_suffix(".state")

    def histories(self) -> List[str]:
        """Devices with a history."""
        return self._with_suffix(".verdicts")

    # --- things worth keeping, whose loss changes nothing

    def save_note(self, device: str, suffix: str, body: object) -> None:
        """A small sealed file (`flush`, `fencing`); raises OSError."""
        self._write(f"{device}.{suffix}", codec.seal(f"heartgate-{suffix}", 1, body))

    def load_note(self, device: str, suffix: str) -> Optional[Any]:
        try:
            data = self._read(f"{device}.{suffix}")
            return None if data is None else codec.unseal(f"heartgate-{suffix}", 1, data)
        except (OSError, CodecError):
            return None

    def noted(self, suffix: str) -> List[str]:
        """Names for which there is such a note."""
        return self._with_suffix(f".{suffix}")

    def forget_note(self, name: str, suffix: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._path(f"{name}.{suffix}").unlink()

    def append_history(self, device: str, lines: bytes) -> None:
        """Whole lines at the end of the history (`heartgate.core.replay`); the older half goes when it has grown too
        long. Raises OSError, and has written nothing then if that can be helped."""
        path = self._path(f"{device}.verdicts")
        with open(path, "a+b", buffering=0, opener=_private) as out:
            size = out.seek(0, os.SEEK_END)
            if size:
                out.seek(size - 1)
                if out.read(1) != b"\n":  # power was lost in the middle of a line: it must not spoil this one
                    lines = b"\n" + lines
            try:
                _write_all(out.fileno(), lines)
            except OSError:
                out.truncate(size)
                raise
        if size + len(lines) > HISTORY_LIMIT:
            self._shorten(path)

    def history(self, device: str, last: int = 100) -> List[Any]:
        """The last entries that tell what was known before them (the verdicts), oldest first; lines that cannot be read
        are left out."""
        lines = [line for line in self.read_history(device).splitlines() if b'"before":' in line]
        entries: List[Any] = []
        for line in lines[-last:]:
            try:
                entries.append(codec.parse_json(line, HISTORY_LIMIT))
            except CodecError:
                continue
        return entries

    def read_history(self, device: str) -> bytes:
        """The whole history as it is in the file, b"" if there is none. Raises OSError."""
        return self._read(f"{device}.verdicts", 4 * HISTORY_LIMIT) or b""

    # --- files

    def _path(self, name: str) -> Path:
        return self.directory / name

    def _with_suffix(self, suffix: str) -> List[str]:
        try:
            names = sorted(entry.name for entry in self.directory.iterdir())
        except FileNotFoundError:
            return []
        devices = [name[: -len(suffix)] for name in names if name.endswith(suffix)]
        return [device for device in devices if codec.is_name(device)]

    def _read(self, name: str, limit: int = codec.MAX_FILE) -> Optional[bytes]:
        try:
            with open(self._path(name), "rb") as source:
                return source.read(limit + 1)
        except FileNotFoundError:
            return None

    def _load(self, name: str, decode: Callable[[bytes], Any]) -> Tuple[Optional[Any], Optional[KeptAside]]:
        """Raises OSError: what was not read may be valid, and stays where it is."""
        try:
            data = self._read(name)
            return (None, None) if data is None else (decode(data), None)
        except (CodecError, IsADirectoryError) as error:
            return None, self._keep_aside(name, str(error))

    def _keep_aside(self, name: str, reason: str) -> KeptAside:
        """Out of the way, never destroyed: a person may want to look at it."""
        path = self._path(name)
        for number in range(1, MAX_KEPT_ASIDE + 1):
            target = self._path(f"{name}.bad-{number}")
            if not target.exists():
                try:
                    path.rename(target)
                    self._sync_directory()
                except OSError as error:
                    return KeptAside(str(path), "", f"{reason}; and it could not be renamed: {error.strerror}")
                return KeptAside(str(path), str(target), reason)
        return KeptAside(str(path), "", f"{reason}; left there, since {MAX_KEPT_ASIDE} such files are kept already")

    def _write(self, name: str, data: bytes) -> None:
        temporary = self._path(f".{name}.new")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, self._path(name))  # noqa: PTH104 - atomic, and the pair of os calls that tests interrupt
        self._sync_directory()

    def _sync_directory(self) -> None:
        fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _shorten(self, path: Path) -> None:
        """What is left begins with an entry that tells what was known before it: without that there is no replay."""
        data = path.read_bytes()
        half = len(data) // 2
        start = data.find(b"\n", half) + 1 or len(data)
        keep, place = data[start:], start
        while place < len(data):
            end = data.find(b"\n", place) + 1 or len(data)
            if b'"before":' in data[place:end]:
                keep = data[place:]
                break
            place = end
        temporary = path.with_name(f".{path.name}.new")
        with open(temporary, "wb", opener=_private) as out:
            out.write(keep)
        temporary.rename(path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _saved(device: str, data: bytes) -> Saved:
    body = codec.unseal("heartgate-config", CONFIG_VERSION, data)
    if not isinstance(body, dict) or set(body) != {"me", "params", "active"}:
        raise CodecError("no configuration in it")
    me, params, active = body["me"], body["params"], body["active"]
    if not codec.is_name(me) or not isinstance(params, dict) or not isinstance(active, bool):
        raise CodecError("not a configuration")
    if not all(isinstance(value, str) for value in params.values()):
        raise CodecError("a parameter is not a text")
    return Saved(device, me, params, active)
