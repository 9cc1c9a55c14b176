"""Which line a PPP interface runs over. The kernel does not tell; pppd has the line open, and a file says which process it is."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Tuple

PID_PLACES = ("run/{}.pid", "run/pppd/{}.pid")  # pppd to 2.4, from 2.5 on
DEVICES = "/dev/"
TTYS = ("/dev/tty", "/dev/pts/")
STANDARD = ("0", "1", "2")  # may be the terminal of the person who started it


def line_of(interface: str, root: Path = Path("/")) -> Tuple[str, str]:
    """(line, why it is not known): one of them is empty. A line is a name below /dev: ttyS0, ttyUSB0, pts/3."""
    pid, reason = _pid(interface, root)
    if reason:
        return "", reason
    process = root / "proc" / pid
    try:
        if (process / "comm").read_text().strip() != "pppd":
            return "", f"process {pid}, which should be its pppd, is another program"
        opened = {place.name: str(place.readlink()) for place in (process / "fd").iterdir()}
    except OSError as error:
        return "", f"its pppd (process {pid}) cannot be looked at: {error.strerror}"
    return _line(opened)


def _pid(interface: str, root: Path) -> Tuple[str, str]:
    for place in PID_PLACES:
        try:
            lines = (root / place.format(interface)).read_text().split()
        except (OSError, UnicodeDecodeError):
            continue
        if lines and lines[0].isdigit():
            return lines[0], ""
    return "", "no pppd says that it is its own"


def _line(opened: Dict[str, str]) -> Tuple[str, str]:
    ttys = {number: place for number, place in opened.items() if place.startswith(TTYS)}
    found = {place for number, place in ttys.items() if number not in STANDARD}
    if not found and STANDARD[0] in ttys:  # started without a line, it talks over what it was started on
        found = {ttys[STANDARD[0]]}
    if len(found) == 1:
        return found.pop()[len(DEVICES) :], ""
    shown = " and ".join(sorted(found))
    return "", f"its pppd has several terminals open: {shown}" if shown else "its pppd has no terminal open: it runs over no line"
