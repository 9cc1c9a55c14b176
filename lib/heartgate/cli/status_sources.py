"""Where `heartgate status` gets its facts: heartgated once, Pacemaker, Corosync and DRBD's configuration beside it, each bounded.

Nothing here raises for what a source does: what cannot be had is a `Missing` with the reason.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, NamedTuple, Sequence, Tuple, Union

from heartgate.checks import status_decode
from heartgate.checks.heartbeats import Channel, Heartbeat
from heartgate.checks.status_model import Daemon, Device, Missing, StatusFacts
from heartgate.cli.progress import Progress
from heartgate.daemon import client

if TYPE_CHECKING:
    from heartgate.adapters.process import Completed
    from heartgate.checks.crm_mon import Pacemaker
    from heartgate.checks.lint_facts import LintFacts

DAEMON_S = 10.0  # it answers within 2 s even if a driver hangs; a machine that swaps needs more
PROGRAM_S = 4.0
LINKS_MAX_S = 2.5  # to find out which direction of a link is lost
INTERVALS = 3.5  # as many ping intervals are needed for that
NOT_RUNNING = (errno.ENOENT, errno.ECONNREFUSED)
NOT_ALLOWED = (errno.EACCES, errno.EPERM)
QUICK = Missing("not asked (--quick)", asked=False)

Data = Dict[str, Any]


class Asked(NamedTuple):
    """Where to ask. only: a device, "" for all. quick: heartgated alone."""

    only: str
    socket: str
    state_dir: Path
    quick: bool


class Looked(NamedTuple):
    """raw: the daemon's answer as it came, or what lies on the disk in the same form."""

    facts: StatusFacts
    raw: Data


def look(asked: Asked) -> Looked:
    """Everything at once. A line on stderr tells what is waited for, if that takes more than two seconds."""
    jobs: Dict[str, Callable[[], Any]] = {"heartgated": lambda: _ask(asked)}
    if not asked.quick:
        jobs.update({"Pacemaker (crm_mon)": pacemaker, "Corosync": heartbeats, "the configuration": _configuration})
    results = _together(jobs)
    raw, daemon, devices, records = results["heartgated"]
    node = daemon.node if isinstance(daemon, Daemon) else os.uname().nodename
    links, configured = results.get("Corosync", (QUICK, ()))
    config = results.get("the configuration", QUICK)
    if any(each.live is not None and each.live.driver == "drbd" for each in devices) and not asked.quick:
        config = _together({"DRBD": lambda: _with_drbd(config)})["DRBD"]
    facts = StatusFacts(
        node=node,
        at_ms=int(time.time() * 1000),
        daemon=daemon,
        devices=devices,
        pacemaker=results.get("Pacemaker (crm_mon)", QUICK),
        heartbeats=links,
        config=config,
        configured=configured,
        records=records,
        only=asked.only,
    )
    return Looked(facts, raw)


def _together(jobs: Dict[str, Callable[[], Any]]) -> Dict[str, Any]:
    """The results of all. Each job is bounded by itself. Raises what a job raised: a fault of ours."""
    results: Dict[str, Any] = {}
    errors: List[BaseException] = []

    def work(name: str, job: Callable[[], Any]) -> None:
        try:
            results[name] = job()
        except BaseException as error:  # handed to the thread that waits
            errors.append(error)

    threads = {name: threading.Thread(target=work, args=(name, job), daemon=True) for name, job in jobs.items()}
    for thread in threads.values():
        thread.start()
    progress = Progress()
    try:
        while any(thread.is_alive() for thread in threads.values()):
            progress(f"heartgate: waiting for {', '.join(name for name, thread in threads.items() if thread.is_alive())}")
            next(thread for thread in threads.values() if thread.is_alive()).join(0.25)
    except StopIteration:  # the last one ended in between
        pass
    finally:
        progress.done()
    if errors:
        raise errors[0]
    return results


# --- heartgated

Told = Tuple[Data, Union[Daemon, Missing], Tuple[Device, ...], Union[Missing, None]]


def _ask(asked: Asked) -> Told:
    fields = {"device": asked.only} if asked.only else {}
    if not asked.quick:
        fields["look"] = "1"
    try:
        answer = json.loads(client.ask(client.request("status", **fields), DAEMON_S, asked.socket))
        if not isinstance(answer, dict):
            raise ValueError("no object")
        if answer.get("ok") is not True:
            return _refused(str(answer.get("error", "heartgated gave no reason")))
        return answer, status_decode.daemon(answer), status_decode.devices(answer), None
    except client.Unreachable as error:
        return _written(asked, error)
    except (ValueError, RecursionError) as error:
        return _refused(f"heartgated's answer makes no sense: {error}")


def _refused(why: str, refused: bool = False) -> Told:
    return {"ok": False, "error": why, "daemon": "unknown", "devices": []}, Missing(why, refused=refused), (), None


def _written(asked: Asked, error: client.Unreachable) -> Told:
    """What a daemon left on the disk."""
    from heartgate.daemon.status import of_store
    from heartgate.daemon.store import Store

    if error.errno in NOT_ALLOWED:
        return _refused(f"{error} (only root may look)", refused=True)
    down = error.errno in NOT_RUNNING
    missing, records = Missing(str(error), down=down), None
    try:
        raw = of_store(Store(asked.state_dir, create=False), asked.only or None)
    except OSError as failure:
        if failure.errno in NOT_ALLOWED:
            return _refused(f"{failure.filename}: {failure.strerror} (only root may look)", refused=True)
        records = Missing(f"{failure.filename}: {failure.strerror}")
        raw = {"ok": True, "devices": []}
    raw.update(daemon="not running" if down else "unknown", reason=str(error))
    return raw, missing, status_decode.devices(raw), records


# --- Pacemaker


def pacemaker() -> Union[Pacemaker, Missing]:
    from heartgate.adapters import process
    from heartgate.checks import crm_mon
    from heartgate.checks.source import ParseError

    done = process.run(["crm_mon", "-1", "--output-as=xml"], timeout_s=PROGRAM_S)
    if done.rc == process.RC_NOT_FOUND:
        return Missing("Pacemaker is not installed here (no crm_mon)", down=True)
    if done.rc == process.RC_TIMEOUT:
        return Missing(f"Pacemaker did not answer within {PROGRAM_S:g} s (crm_mon)")
    try:
        code, why = crm_mon.failure(done.stdout) if done.stdout.strip() else (done.rc, "")
        if code == crm_mon.NO_PERMISSION:
            return Missing(f"only root and the group haclient may ask Pacemaker ({why})", refused=True)
        if code == crm_mon.NOT_CONNECTED:
            return Missing(f"Pacemaker does not run here ({why})", down=True)
        if done.rc or code:
            return Missing(f"crm_mon: {why or done.brief()}")
        return crm_mon.parse(done.stdout)
    except ParseError as error:
        return Missing(str(error))


# --- Corosync


def heartbeats() -> Tuple[Union[Tuple[Heartbeat, ...], Missing], Tuple[Heartbeat, ...]]:
    """(heartbeats or why not, those that corosync.conf names if not). A link that Corosync calls connected works in both
    directions: an answer to one of its pings came within knet's ping timeout. Only for others one has to look for a while."""
    from heartgate.adapters import knet_stats
    from heartgate.adapters.base import AdapterError
    from heartgate.cli import heartbeat

    try:
        now = knet_stats.bounded(knet_stats.running, PROGRAM_S)
        linked = knet_stats.bounded(knet_stats.connected, PROGRAM_S)
        named = {(each.nodeid, link) for each in now.members if each.nodeid != now.local for link in each.addresses}
        if named <= set(linked) and all(value is True for value in linked.values()):
            return _all_up(now, linked), ()
        longest_s = max(now.ping_interval_ms.values(), default=500) / 1000.0
        by_itself = longest_s * knet_stats.WINDOW_INTERVALS <= LINKS_MAX_S  # it ends as soon as nothing is left to learn
        found: Sequence[Heartbeat] = heartbeat.network(None if by_itself else min(LINKS_MAX_S, INTERVALS * longest_s))
        return tuple(_as_connected(each) for each in found), ()
    except AdapterError as error:
        why = f"Corosync does not run here, or does not answer ({error})"
        return Missing(why, refused=os.geteuid() != 0), tuple(heartbeat.configured()[0])


def _all_up(now: Any, linked: Dict[Tuple[int, int], Any]) -> Tuple[Heartbeat, ...]:
    from heartgate.cli import heartbeat

    members, names = {each.nodeid: each for each in now.members}, heartbeat.interfaces()
    own = members[now.local].addresses if now.local in members else {}
    found = []
    for nodeid, link in sorted(linked):
        local = own.get(link, "")
        shown = f"{local} ({names[local]})" if local in names else local
        node, up = members.get(nodeid), Channel.UP
        name, remote = (node.name, node.addresses.get(link, "")) if node else (f"#{nodeid}", "")
        found.append(Heartbeat("network", name, str(link), up, up, up, shown, remote))
    return tuple(found)


def _as_connected(each: Heartbeat) -> Heartbeat:
    """The same rule for the links that work, when another one does not."""
    if each.state is not Channel.UP:
        return each
    return Heartbeat(each.kind, each.node, each.name, Channel.UP, Channel.UP, Channel.UP, each.local, each.remote)


# --- configuration


def _bounded_run(argv: Sequence[str], *, timeout_s: float, **options: Any) -> Completed:
    from heartgate.adapters import process

    return process.run(argv, timeout_s=min(timeout_s, PROGRAM_S), **options)


def _configuration() -> LintFacts:
    from heartgate.adapters.cluster_config import Collector

    return Collector(runner=_bounded_run).cluster(os.uname().nodename)


def _with_drbd(config: LintFacts) -> LintFacts:
    from dataclasses import replace

    from heartgate.adapters.cluster_config import Collector

    found = Collector(runner=_bounded_run).replication(config.host)
    return replace(config, drbd=found.drbd, drbd_running=found.drbd_running, unreadable=config.unreadable + found.unreadable)
