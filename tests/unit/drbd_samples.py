"""What DRBD says, captured from 8.4.11 (VM lab) and drbd-utils 9.22: for the tests of its adapters."""

from pathlib import Path

DATA = Path(__file__).parent / "data"
DUMP84 = (DATA / "drbd84-dump.xml").read_text()
DUMP9 = (DATA / "drbd9-dump.xml").read_text()
GI = "DE75BF1C4EA83E73:57CED1072A380848:0000000000000000:0000000000000000:1:1:1:0:0:1:0"
OUTDATED_GI = "57CED1072A380848:0000000000000000:0000000000000000:0000000000000000:1:0:0:0:0:0:1"
