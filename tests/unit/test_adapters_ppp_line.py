"""Which line a pppd has open, from files as Linux has them."""

from __future__ import annotations

from pathlib import Path
from typing import Dict

import pytest

from heartgate.adapters.ppp_line import line_of

USUAL = {"0": "/dev/null", "1": "/dev/null", "2": "socket:[7]", "4": "/dev/ttyS0", "5": "/dev/ppp"}


def root(tmp_path: Path, opened: Dict[str, str], place: str = "run/ppp0.pid", content: str = "4711\n", comm: str = "pppd") -> Path:
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_text(content)
    process = tmp_path / "proc" / "4711"
    (process / "fd").mkdir(parents=True)
    (process / "comm").write_text(comm + "\n")
    for number, target in opened.items():
        (process / "fd" / number).symlink_to(target)
    return tmp_path


@pytest.mark.req("D7")
@pytest.mark.parametrize("place", ["run/ppp0.pid", "run/pppd/ppp0.pid"])
def test_the_line_that_it_has_open(tmp_path: Path, place: str) -> None:
    assert line_of("ppp0", root(tmp_path, USUAL, place)) == ("ttyS0", "")


@pytest.mark.req("D7")
@pytest.mark.parametrize(
    "opened, line, reason",
    [
        ({**USUAL, "0": "/dev/pts/9", "2": "/dev/pts/9"}, "ttyS0", ""),  # the terminal it was started on
        ({"0": "/dev/ttyUSB0", "1": "/dev/ttyUSB0", "3": "/dev/ppp"}, "ttyUSB0", ""),  # started by a login on that line
        ({"0": "/dev/null", "4": "/dev/ptmx", "5": "/dev/pts/3", "6": "/dev/ppp"}, "pts/3", ""),
        ({"0": "/dev/null", "4": "socket:[99]", "5": "/dev/ppp"}, "", "it runs over no line"),  # over Ethernet
        ({**USUAL, "7": "/dev/ttyS1"}, "", "/dev/ttyS0 and /dev/ttyS1"),
    ],
)
def test_other_descriptors(tmp_path: Path, opened: Dict[str, str], line: str, reason: str) -> None:
    found = line_of("ppp0", root(tmp_path, opened))
    assert found[0] == line and reason in found[1] and bool(found[1]) is not bool(line)


@pytest.mark.req("D7")
def test_what_cannot_be_known_has_a_reason(tmp_path: Path) -> None:
    assert line_of("ppp0", tmp_path) == ("", "no pppd says that it is its own")
    place = root(tmp_path, USUAL, content="../../etc\n")
    assert line_of("ppp0", place)[1] == "no pppd says that it is its own"
    (place / "run/ppp0.pid").write_bytes(b"\xff\xfe")
    assert line_of("ppp0", place)[1] == "no pppd says that it is its own"
    (place / "run/ppp0.pid").write_text("4711\n")
    (place / "proc/4711/comm").write_text("python3\n")
    assert "another program" in line_of("ppp0", place)[1]
    (place / "run/ppp0.pid").write_text("4712\n")
    assert line_of("ppp0", place) == ("", "its pppd (process 4712) cannot be looked at: No such file or directory")
