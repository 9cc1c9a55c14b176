"""Where a setting stands, and the one error that every parser of this package raises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xml.etree.ElementTree as ElementTree


class ParseError(ValueError):
    """A text that cannot be understood. `source`: the file or the program that it came from. `line`: from 1. The text of the
    error names both, and says what was expected."""

    def __init__(self, source: str, line: int, message: str) -> None:
        super().__init__(f"{source}:{line}: {message}")
        self.source = source
        self.line = line
        self.message = message


@dataclass(frozen=True)
class Setting:
    """A value as written, and where: "corosync.conf:12", "drbdadm dump r0", "default"."""

    value: str
    where: str


def xml_root(text: str, source: str, expected: str) -> ElementTree.Element:
    """expected: what it should have been, for the error. Raises ParseError."""
    import xml.etree.ElementTree as ElementTree  # costs as much as the rest, and few of the parsers need it

    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        line = min(max(error.position[0], 1), text.count("\n") + 1)
        raise ParseError(source, line, f"expected {expected}: {error}") from error
    except ValueError as error:
        raise ParseError(source, 1, f"expected {expected}: {error}") from error


def brief(text: str, length: int = 60) -> str:
    """A piece of foreign text for a message: printable, quoted, not longer than `length` characters."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text[: length + 1])
    return '"' + (shown if len(shown) <= length else shown[: length - 3] + "...") + '"'
