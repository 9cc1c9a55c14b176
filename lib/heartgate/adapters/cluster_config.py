"""Reads the configurations that the lint and the timeout budget look at: files and programs, each bounded, nothing is changed.

What is not there is None; what is there and cannot be read, or does not parse, is in `unreadable` with the reason.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple, TypeVar

from heartgate.adapters.process import Completed, find, run
from heartgate.checks import cib_conf, corosync_conf, drbd_conf, storage_conf
from heartgate.checks.lint_facts import LintFacts, Unreadable
from heartgate.checks.source import ParseError

FILE_LIMIT = 4 * 1024 * 1024  # bytes
COMMAND_S = 10.0
DISK_S = 5.0  # for each SBD disk: one that hangs may not hold up the rest
Runner = Callable[..., Completed]
Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class Places:
    """Where things are; of several the first that exists counts."""

    corosync: str = "/etc/corosync/corosync.conf"
    cib: str = "/var/lib/pacemaker/cib/cib.xml"
    drbd: str = "/etc/drbd.conf"
    drbd_module: str = "/sys/module/drbd"
    sbd: Tuple[str, ...] = ("/etc/sysconfig/sbd", "/etc/default/sbd")
    lio: Tuple[str, ...] = ("/etc/target/saveconfig.json", "/etc/rtslib-fb-target/saveconfig.json")


class _Missing(Exception):
    """There is no such thing on this host."""


class _Closed(Exception):
    """It is there and cannot be looked at: says why."""


class Collector:
    """One look at a host. `runner`: how programs are run (tests give their own)."""

    def __init__(self, places: Places = Places(), runner: Runner = run) -> None:  # noqa: B008 - frozen
        self._places = places
        self._run = runner
        self._unreadable: List[Unreadable] = []

    def facts(self, host: str) -> LintFacts:
        """Everything of this host, whose name in the cluster is `host`. Blocks, for seconds at most. Whatever it finds, it
        does not raise."""
        self._unreadable = []
        return LintFacts(
            host=host,
            corosync=self._try("corosync.conf", self._corosync),
            cib=self._try("CIB", self._cib),
            drbd=self._try("DRBD", self._drbd),
            drbd_running=self._try("DRBD in the kernel", self._drbd_running),
            sbd=self._try("SBD", self._sbd),
            lio=self._try("LIO", self._lio),
            networks=self._try("networks", self._networks),
            unreadable=tuple(self._unreadable),
        )

    def cluster(self, host: str) -> LintFacts:
        """Of all that only the CIB: for `heartgate status`, which is in a hurry."""
        self._unreadable = []
        cib = self._try("CIB", self._cib)
        return LintFacts(host=host, cib=cib, unreadable=tuple(self._unreadable))

    def replication(self, host: str) -> LintFacts:
        """Only DRBD."""
        self._unreadable = []
        files, running = self._try("DRBD", self._drbd), self._try("DRBD in the kernel", self._drbd_running)
        return LintFacts(host=host, drbd=files, drbd_running=running, unreadable=tuple(self._unreadable))

    def _try(self, what: str, look: Callable[[], Parsed]) -> Optional[Parsed]:
        try:
            return look()
        except _Missing:
            return None
        except _Closed as error:
            self._unreadable.append(Unreadable(what, str(error)))
        except ParseError as error:
            self._unreadable.append(Unreadable(what, str(error), broken=True))
        return None

    # --- files

    def _corosync(self) -> corosync_conf.CorosyncConf:
        path = self._places.corosync
        return corosync_conf.parse(_read(path), path)

    def _lio(self) -> storage_conf.Lio:
        path = _first(self._places.lio)
        return storage_conf.parse_lio(_read(path), path)

    def _sbd(self) -> storage_conf.Sbd:
        path = _first(self._places.sbd)
        in_use = self._enabled("sbd.service")
        found = storage_conf.parse_sbd(_read(path), path, in_use)
        if in_use is False:
            return found
        headers = []
        for device in found.devices:
            done = self._run(["sbd", "-d", device, "dump"], timeout_s=DISK_S)
            if done.ok:
                headers.append(storage_conf.parse_sbd_header(done.stdout, device))
            else:
                self._unreadable.append(Unreadable("SBD", f"sbd -d {device} dump: {done.brief()}"))
        return found.with_headers(tuple(headers))

    def _enabled(self, unit: str) -> Optional[bool]:
        """Whether systemd starts a unit, or runs it now; None where it cannot be asked."""
        done = self._run(["systemctl", "is-enabled", unit], timeout_s=COMMAND_S)
        word = done.stdout.strip()
        if word in ("enabled", "enabled-runtime", "static", "alias", "indirect", "generated"):
            return True
        return False if word in ("disabled", "masked", "masked-runtime", "not-found") else None

    # --- programs

    def _cib(self) -> cib_conf.Cib:
        """The running cluster's, else the last one that was written on this node."""
        why = "cibadmin is not installed"
        if find("cibadmin"):
            done = self._run(["cibadmin", "--query"], timeout_s=COMMAND_S)
            if done.ok:
                return cib_conf.parse(done.stdout, "CIB")
            why = f"cibadmin --query: {done.brief()}"
        try:
            return cib_conf.parse(_read(self._places.cib), self._places.cib)
        except _Missing:
            if find("cibadmin") is None:
                raise
            raise _Closed(f"{why}; and there is no {self._places.cib}") from None

    def _drbd(self) -> Tuple[drbd_conf.Resource, ...]:
        if not find("drbdadm") or not Path(self._places.drbd).exists():
            raise _Missing
        done = self._run(["drbdadm", "--config-file", self._places.drbd, "dump"], timeout_s=COMMAND_S)
        if not done.ok:
            raise _drbd_error(self._places.drbd, done)
        return drbd_conf.parse_dump(done.stdout, "drbdadm dump")

    def _drbd_running(self) -> Tuple[drbd_conf.Resource, ...]:
        if not find("drbdsetup") or not Path(self._places.drbd_module).exists():
            raise _Missing
        done = self._run(["drbdsetup", "show"], timeout_s=COMMAND_S)
        if not done.ok:
            raise _Closed(f"drbdsetup show: {done.brief()}")
        return drbd_conf.parse_show(done.stdout, "drbdsetup show")

    def _networks(self) -> Tuple[str, ...]:
        done = self._run(["ip", "-json", "address"], timeout_s=COMMAND_S)
        if not done.ok:
            raise _Closed(f"ip -json address: {done.brief()}")
        return networks(done.stdout)


def networks(text: str) -> Tuple[str, ...]:
    """The networks of the interfaces that are told by `ip -json address`, but for the loopback's. Raises ParseError."""
    found: Dict[str, None] = {}
    try:
        for interface in json.loads(text):
            for item in interface.get("addr_info", []):
                address = ip_interface(f"{item['local']}/{int(item['prefixlen'])}")
                if not address.is_loopback and not address.is_link_local:
                    found[str(address.network)] = None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ParseError("ip -json address", 1, f"expected the interfaces as JSON: {error}") from error
    return tuple(found)


def _drbd_error(path: str, done: Completed) -> Exception:
    """drbdadm tells FILE:LINE: message; that is a broken configuration, everything else is none that could be looked at."""
    for line in done.stderr.splitlines():
        place, _, rest = line.partition(": ")
        file, _, number = place.rpartition(":")
        if file.startswith("/") and number.isdecimal() and len(number) < 9:
            return ParseError(file, int(number), rest.strip()[:300])
    return _Closed(f"drbdadm dump ({path}): {done.brief()}")


def _first(paths: Sequence[str]) -> str:
    for path in paths:
        if Path(path).exists():
            return path
    raise _Missing


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_LIMIT + 1)
    except FileNotFoundError:
        raise _Missing from None
    except OSError as error:
        raise _Closed(f"{path}: {error.strerror}") from error
    if len(data) > FILE_LIMIT:
        raise _Closed(f"{path}: more than {FILE_LIMIT} bytes")
    return data.decode("utf-8", "replace")
