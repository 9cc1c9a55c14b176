# Nothing here that costs an import: it is started under emulation.
# ruff: noqa: PTH103, PTH104, PTH120, PTH208, UP031, SIM105
"""Virtio-serial ports by name, without waiting for udev."""

import os

PORTS = "/sys/class/virtio-ports"


def find_port(name):
    for entry in sorted(os.listdir(PORTS)):
        with open("%s/%s/name" % (PORTS, entry)) as handle:
            if handle.read().strip() == name:
                return "/dev/" + entry
    raise SystemExit("this machine has no virtio-serial port %r" % name)
