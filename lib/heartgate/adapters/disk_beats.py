"""Disk heartbeats, as far as they matter to who may shoot: which standings the other nodes have lately written to a shared disk.

The interface between whoever reads the slots on the disk (it calls `write` whenever a slot of another node has changed; the
first read after a start does not count) and `fence_heartgate`, which must be able to look with the daemon dead. A file in /run:
it is gone after a reboot, and writing it waits for no disk. No file, an old one or an unreadable one means: not known.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Dict, NamedTuple, Optional, Tuple

from heartgate.core import codec
from heartgate.core.codec import CodecError
from heartgate.core.model import Standing

PATH = Path("/run/heartgate/disk-heartbeats")
FRESH_MS = 3000  # six beats
KIND, VERSION = "heartgate-disk-heartbeats", 1


class DiskBeat(NamedTuple):
    """seen_ms: when its slot last changed, in ms of this boot's CLOCK_MONOTONIC. devices: (standing, epoch) by device."""

    seen_ms: int
    devices: Mapping[str, Tuple[Standing, int]]


def monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def write(beats: Mapping[str, DiskBeat], path: Path = PATH) -> None:
    """Replace what was known, for all nodes at once. Raises OSError."""
    body = {
        node: {"seen_ms": beat.seen_ms, "devices": {name: [word.value, epoch] for name, (word, epoch) in beat.devices.items()}}
        for node, beat in beats.items()
    }
    temporary = path.with_name(f".{path.name}.new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(fd, "wb") as out:
        out.write(codec.seal(KIND, VERSION, body))
    temporary.rename(path)


def read_fresh(node: str, now_ms: int, path: Path = PATH) -> Tuple[Optional[DiskBeat], str]:
    """That node's beat if it is fresh, else None; and what is wrong with the file, "" for nothing."""
    try:
        with open(path, "rb") as source:
            found = _decode(source.read(codec.MAX_FILE + 1)).get(node)
    except FileNotFoundError:
        return None, ""
    except (OSError, CodecError) as error:
        return None, f"{path}: {getattr(error, 'strerror', None) or error}"
    fresh = found is not None and 0 <= now_ms - found.seen_ms <= FRESH_MS
    return (found if fresh else None), ""


def _decode(data: bytes) -> Dict[str, DiskBeat]:
    body: Any = codec.unseal(KIND, VERSION, data)
    try:
        return {
            str(node): DiskBeat(int(beat["seen_ms"]), {str(d): (Standing(w), int(e)) for d, (w, e) in beat["devices"].items()})
            for node, beat in body.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CodecError(f"not disk heartbeats: {error}") from None
