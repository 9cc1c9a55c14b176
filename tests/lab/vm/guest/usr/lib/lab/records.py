#!/usr/bin/python3 -IS
# Nothing here that costs an import: it is started under emulation.
# ruff: noqa: PTH103, PTH104, PTH120, PTH208, UP031, SIM105
"""Finds the writer's records in a file, or anywhere on a block device (past the page cache), and prints them as ranges.

One line for each unbroken range: writer run first last. Damaged records are counted on a last line: damaged N.
"""

import mmap
import os
import stat
import sys
import zlib

MAGIC = b"LW1 "
RECORD = 64
CHUNK = 1 << 20


def chunks(path):
    fd = os.open(path, os.O_RDONLY)
    if stat.S_ISBLK(os.fstat(fd).st_mode):
        os.close(fd)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, CHUNK)
    at = 0
    while True:
        got = os.preadv(fd, [buffer], at)
        if got <= 0:
            return
        yield buffer, got
        at += got


def main():
    found, damaged = {}, 0
    for data, size in chunks(sys.argv[1]):
        at = data.find(MAGIC, 0, size)
        while at >= 0:
            if at % RECORD == 0:
                text = data[at : at + RECORD].rstrip()
                body, _, checksum = text.rpartition(b" ")
                if len(checksum) == 8 and checksum == b"%08x" % zlib.crc32(body):
                    _, writer, run, seq, _ = body.split(b" ")
                    found.setdefault((writer, run), set()).add(int(seq))
                    at += RECORD - 1
                else:
                    damaged += 1
            at = data.find(MAGIC, at + 1, size)
    for (writer, run), sequences in sorted(found.items()):
        first = last = None
        for seq in sorted(sequences):
            if first is None:
                first = last = seq
            elif seq == last + 1:
                last = seq
            else:
                print(writer.decode(), run.decode(), first, last)
                first = last = seq
        print(writer.decode(), run.decode(), first, last)
    print("damaged", damaged)


if __name__ == "__main__":
    main()
