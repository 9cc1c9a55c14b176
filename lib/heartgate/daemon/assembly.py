"""The real world: the only module of the daemon that knows which adapters there are. They are imported when they are
needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from heartgate.adapters import system
from heartgate.adapters.base import Cluster, Driver
from heartgate.adapters.journal import Journal
from heartgate.daemon.services import DeviceSource, FlushTarget, LinkWatch, NamedCarrier

if TYPE_CHECKING:
    from heartgate.checks.link_report import KnetLook, Question, Report


class RealWorld:
    def __init__(self, real_time: bool = True) -> None:
        self._real_time = real_time
        self.journal = Journal()
        self.boot = system.boot_id()

    def carrier(self) -> NamedCarrier:
        from heartgate.adapters.cpg import CpgCarrier

        return CpgCarrier()

    def local_name(self) -> str:
        from heartgate.adapters import corosync

        return corosync.local_name()

    def node_names(self) -> Sequence[str]:
        from heartgate.adapters import corosync

        return tuple(corosync.node_names().values())

    def cluster(self, me: str) -> Cluster:
        from heartgate.adapters.pacemaker import PacemakerCluster

        return PacemakerCluster(me)

    def source(self, kind: str, me: str) -> DeviceSource:
        return exec_facts(me) if kind == "exec" else drbd_facts(me)

    def driver(self, kind: str, resource: str, program: str, me: str) -> Driver:
        if kind == "exec":
            from heartgate.adapters.exec import ExecDriver

            return ExecDriver(resource, program, me)
        from heartgate.adapters.drbd import make_driver

        return make_driver(resource, me)

    def flush_target(self, spec: str) -> FlushTarget:
        from heartgate.adapters import flush

        return flush.parse(spec)

    def link_watch(self) -> LinkWatch:
        from heartgate.adapters.netlink import CarrierWatch

        return CarrierWatch()

    def link_report(self, question: Question) -> Report:
        from heartgate.adapters import link_report

        return link_report.ask(question)

    def knet_look(self, numbers: Sequence[int]) -> KnetLook:
        from heartgate.adapters import knet_stats

        return knet_stats.look(numbers)

    def prepare_thread(self) -> None:
        """fsync and commands are on the path of a verdict too, and a thread of ordinary priority that holds the interpreter's
        lock would keep the loop waiting."""
        if self._real_time:
            system.real_time()

    def notify(self, state: str) -> None:
        system.sd_notify(state)

    def watchdog_s(self) -> float:
        return system.watchdog_interval_s()

    def self_reset(self) -> None:
        system.self_reset(really=True)


def exec_facts(me: str) -> DeviceSource:
    from heartgate.adapters.exec import ExecSource

    class Facts(ExecSource):
        def watch(self, resource: str, program: str) -> None:
            self.add(resource, program)

    return Facts(me, system.run_base())


def drbd_facts(me: str) -> DeviceSource:
    from heartgate.adapters.drbd import DrbdSource

    class Facts(DrbdSource):
        def watch(self, resource: str, program: str) -> None:
            self.add(resource)

    return Facts(me, system.run_base())


