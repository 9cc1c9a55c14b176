"""STUB, real code follows."""

from __future__ import annotations


class Journal:
    """Never raises, never blocks."""

    dropped: int = 0

    def __init__(self, identifier: str = "heartgated") -> None:
        raise NotImplementedError

    def send(self, kind: str, message: str, *, device: str = "", rule: str = "", epoch: int = -1, **fields: object) -> None:
        """kind: a name of the table KINDS; fields become HEARTGATE_<NAME>."""
        raise NotImplementedError


def catalog_text() -> str:
    """Contents of packaging/heartgate.catalog."""
    raise NotImplementedError
