#!/usr/bin/python3 -IS
# Nothing here that costs an import: it is started under emulation.
# ruff: noqa: PTH103, PTH104, PTH120, PTH208, UP031, SIM105
"""Writes numbered records that are safe on disk one by one, and reports each to the host as soon as it is acknowledged.

A record says by itself what it is (magic, writer, run, sequence, node, checksum), so that it can be found again in a
file or anywhere on a device. The host has a report before the next write starts: a machine that dies loses nothing it
reported.
"""

import argparse
import mmap
import os
import signal
import sys
import time
import zlib

sys.path.insert(0, "/usr/lib/lab")
from ports import find_port  # noqa: E402

RECORD = 64
SECTOR = 512
MAGIC = b"LW1 "


def record(writer, run, seq, node):
    body = MAGIC + ("%s %s %010d %s" % (writer, run, seq, node)).encode()
    body += b" %08x" % zlib.crc32(body)
    if len(body) >= RECORD:
        raise SystemExit("writer and node names are too long for a record: %r" % body)
    return body.ljust(RECORD - 1) + b"\n"


def open_report():
    for name in ("lab.writer0", "lab.writer1"):
        try:
            return os.open(find_port(name), os.O_RDWR)
        except OSError:
            continue
    raise SystemExit("both reporting ports are in use")


class File:
    """Appends to a file, O_DSYNC."""

    def __init__(self, path):
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_DSYNC, 0o644)
        torn = os.fstat(self.fd).st_size % RECORD
        if torn:  # a power cut in the middle of a record: keep what follows aligned
            os.write(self.fd, b"\n" * (RECORD - torn))

    def write(self, data):
        if os.write(self.fd, data) != len(data):
            raise OSError(5, "short write")


class Device:
    """One record a sector from `start` on, O_DIRECT and O_DSYNC, round and round in `length` bytes."""

    def __init__(self, path, start, length):
        self.fd = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_DSYNC)
        self.buffer = mmap.mmap(-1, SECTOR)
        self.start, self.slots = start, length // SECTOR
        self.slot = self.first_free()

    def first_free(self):
        buffer = mmap.mmap(-1, 1 << 16)
        for at in range(0, self.slots * SECTOR, 1 << 16):
            os.preadv(self.fd, [buffer], self.start + at)
            for sector in range(0, 1 << 16, SECTOR):
                if buffer[sector : sector + len(MAGIC)] != MAGIC:
                    return (at + sector) // SECTOR
        return 0

    def write(self, data):
        self.buffer[:RECORD] = data
        os.pwritev(self.fd, [self.buffer], self.start + (self.slot % self.slots) * SECTOR)
        self.slot += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--writer", default="w0", help="name of this writer, up to 12 characters")
    parser.add_argument("--path", required=True, help="file, or block device with --length")
    parser.add_argument("--start", type=int, default=0, help="first byte on a block device")
    parser.add_argument("--length", type=int, default=0, help="bytes to use on a block device; 0: PATH is a file")
    parser.add_argument("--interval-ms", type=float, default=30.0)
    parser.add_argument("--count", type=int, default=0, help="stop after so many; 0: until told")
    parser.add_argument("--pidfile")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    report = open_report()
    node, run = os.uname().nodename, "%08x" % int.from_bytes(os.urandom(4), "big")

    def tell(kind, seq, detail):
        os.write(report, ("%s %s %s %d %s %s\n" % (kind, given.writer, run, seq, node, detail)).encode())

    target = Device(given.path, given.start, given.length) if given.length else File(given.path)
    if given.pidfile:
        with open(given.pidfile, "w") as handle:
            handle.write("%d\n" % os.getpid())
    tell("begin", 0, given.path)
    seq = 0
    while not given.count or seq < given.count:
        seq += 1
        started = time.monotonic()
        try:
            target.write(record(given.writer, run, seq, node))
        except OSError as error:
            tell("error", seq, error.errno)
            return 1
        tell("ack", seq, "%.6f" % (time.monotonic() - started))
        if given.interval_ms:
            time.sleep(given.interval_ms / 1000)
    tell("end", seq, "-")
    return 0


if __name__ == "__main__":
    sys.exit(main())
