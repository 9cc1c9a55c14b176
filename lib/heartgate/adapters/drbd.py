"""STUB, real code follows."""

from __future__ import annotations

from typing import Mapping

from heartgate.adapters.base import Driver
from heartgate.core.model import Replica


class DrbdSource:
    """Source for all DRBD resources (one `drbdsetup events2`). Create and read() it in the loop thread."""

    def __init__(self, me: str) -> None:
        """me: this node's name, as in the configuration's `on` sections."""
        raise NotImplementedError

    def add(self, resource: str) -> None:
        """A device that the daemon guards: told about even if DRBD has never heard of it (Disk.ABSENT)."""
        raise NotImplementedError

    def discard(self, resource: str) -> None:
        raise NotImplementedError

    def fileno(self) -> int:
        raise NotImplementedError

    def read(self) -> Mapping[str, Replica]:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


def make_driver(resource: str, me: str) -> Driver:
    """Driver for the DRBD kernel module that is loaded (8.4 or 9). Runs `drbdadm --version`: worker thread."""
    raise NotImplementedError
