"""STUB, real code follows."""

from __future__ import annotations

from typing import List, Optional, Tuple


class CarrierWatch:
    """Carrier of every interface. First read(): all of them."""

    def __init__(self) -> None:
        raise NotImplementedError

    def fileno(self) -> int:
        raise NotImplementedError

    def read(self) -> List[Tuple[str, Optional[bool]]]:
        """(interface, carrier: True/False/None unknown or gone) for each change. Never blocks; raises AdapterError."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError
