"""What a replica keeps on its disk: the records and its state. Both survive a power cut once the call has returned."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Dict, Optional, Set

ROOT = Path("/var/lib/replicad")
CONFIGURATION = Path("/etc/replicad")
RECORD_BYTES = 4096
"""What one record counts for in `out_of_sync_bytes`."""


def load_configuration(resource: str) -> Dict[str, Any]:
    with (CONFIGURATION / f"{resource}.json").open(encoding="utf-8") as stream:
        value: Dict[str, Any] = json.load(stream)
    return value


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class Store:
    """Only one process at a time has it: `locked` says whether that is this one."""

    def __init__(self, resource: str) -> None:
        self.directory = ROOT / resource
        self.directory.mkdir(parents=True, exist_ok=True)
        self.lock = (self.directory / "lock").open("w")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.locked = True
        except BlockingIOError:
            self.locked = False
        self.path = self.directory / "data"
        self.records: Dict[int, str] = {}
        self._data: Optional[int] = None
        self.state: Dict[str, Any] = {
            # the same on both nodes, so that a new pair needs no first resync
            "current": hashlib.sha256(resource.encode()).hexdigest()[:16], "base": None, "history": [],
            "disk": "uptodate", "blocked": False, "outdated_by_block": False, "peer_outdated": False,
            "loose": False, "primary": False, "connections": 0, "dirty": []}
        if (self.directory / "state.json").exists():
            self.state.update(json.loads((self.directory / "state.json").read_text()))
        self.dirty: Set[int] = set(self.state["dirty"])

    def load_records(self) -> None:
        if self.path.exists():
            for line in self.path.read_text().split("\n")[:-1]:
                number, _, value = line.partition(" ")
                self.records[int(number)] = value
        self._rewrite()

    def save(self) -> None:
        self.state["dirty"] = sorted(self.dirty)
        _replace(self.directory / "state.json", json.dumps(self.state).encode())

    def put(self, number: int, value: str) -> None:
        assert self._data is not None
        os.write(self._data, f"{number} {value}\n".encode())
        os.fsync(self._data)
        self.records[number] = value

    def replace_all(self, records: Dict[int, str]) -> None:
        self.records = dict(records)
        self._rewrite()

    def _rewrite(self) -> None:
        if self._data is not None:
            os.close(self._data)
        _replace(self.path, "".join(f"{number} {value}\n" for number, value in self.records.items()).encode())
        self._data = os.open(self.path, os.O_WRONLY | os.O_APPEND)
