"""corosync.conf of this node: replaced whole, with the old text kept beside it until the change is confirmed.

The kept text is also the lock: while it is there no second change begins, from whichever node.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any, Dict, Optional

CONF = Path("/etc/corosync/corosync.conf")
KEPT_SUFFIX = ".heartgate-before"
SIZE_MAX = 1024 * 1024  # bytes; a corosync.conf has a few thousand


class ConfFileError(Exception):
    """For a person: what could not be done with the file, and what to do."""


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


class ConfFile:
    """Everything raises ConfFileError."""

    def __init__(self, path: Path = CONF) -> None:
        self.path = path
        self.kept = path.with_name(path.name + KEPT_SUFFIX)

    def read(self) -> str:
        try:
            with self.path.open("rb") as file:
                data = file.read(SIZE_MAX + 1)
        except OSError as error:
            raise ConfFileError(f"{self.path}: {error.strerror}") from error
        if len(data) > SIZE_MAX:
            raise ConfFileError(f"{self.path}: larger than {SIZE_MAX} bytes, that is no corosync.conf")
        return data.decode("utf-8", "surrogateescape")

    def keep(self, owner: str, wrote: Optional[str] = None) -> str:
        """Keep the present text, and return it. `owner`: names this change, so that no other undoes it. `wrote`: digest of
        what will replace the text, None if somebody else writes it."""
        text = self.read()
        content = json.dumps({"text": text, "wrote": wrote, "owner": owner, "at_s": int(time.time())})
        try:
            descriptor = os.open(self.kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise ConfFileError(self._unfinished()) from None
        except OSError as error:
            raise ConfFileError(f"{self.kept}: {error.strerror}") from error
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            _sync_directory(self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                self.kept.unlink()
            raise ConfFileError(f"{self.kept}: {error.strerror}") from error
        return text

    def _unfinished(self) -> str:
        return (
            f"{self.kept} exists: another change of the heartbeats runs now, or was interrupted by a crash. If none runs, "
            "look at it and undo it with: heartgate heartbeat undo"
        )

    def write(self, expect: str, text: str, owner: str) -> None:
        """Replace the text whose digest is `expect`, and keep the old one."""
        if digest(self.read()) != expect:
            raise ConfFileError(f"{self.path} was changed by somebody else meanwhile: try again")
        self.keep(owner, digest(text))
        self._replace(text)

    def restore(self, owner: Optional[str] = None, *, force: bool = False) -> bool:
        """Put the kept text back. False if none is kept, or if it is another change's than the owner's (None: anybody's).
        Without `force` a file that somebody changed since is left."""
        kept = self._read_kept()
        if kept is None or owner not in (None, kept.get("owner")):
            return False
        now = digest(self.read())
        if now != digest(kept["text"]):
            if not force and kept.get("wrote") not in (None, now):
                raise ConfFileError(
                    f"{self.path} was changed by somebody else after the interrupted change: compare it with {self.kept}, then "
                    "remove the latter, or put it back with --force"
                )
            self._replace(kept["text"])
        self.commit()
        return True

    def _read_kept(self) -> Optional[Dict[str, Any]]:
        try:
            kept = json.loads(self.kept.read_text(encoding="utf-8"))
            assert isinstance(kept["text"], str)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfFileError(f"{self.kept}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            raise ConfFileError(f"{self.kept} cannot be read ({error}): look at {self.path} yourself, then remove it") from error
        return dict(kept)

    def commit(self, owner: Optional[str] = None) -> None:
        """The change stands: forget the old text."""
        kept = self._read_kept()
        if kept is None or owner not in (None, kept.get("owner")):
            return
        try:
            with contextlib.suppress(FileNotFoundError):
                self.kept.unlink()
            _sync_directory(self.path)
        except OSError as error:
            raise ConfFileError(f"{self.kept}: {error.strerror}") from error

    def _replace(self, text: str) -> None:
        real = self.path.resolve()
        new = real.with_name(f".{real.name}.heartgate-new")
        try:
            meta = real.stat()
            with new.open("wb") as file:
                os.fchmod(file.fileno(), meta.st_mode & 0o7777)
                os.fchown(file.fileno(), meta.st_uid, meta.st_gid)
                file.write(text.encode("utf-8", "surrogateescape"))
                file.flush()
                os.fsync(file.fileno())
            new.replace(real)
            _sync_directory(real)
        except OSError as error:
            with contextlib.suppress(OSError):
                new.unlink()
            raise ConfFileError(f"{real}: {error.strerror}") from error


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
