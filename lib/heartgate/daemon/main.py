"""The process around the daemon: arguments, lock, signals, memory, priority, systemd."""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import signal
import sys
from pathlib import Path
from typing import List, Optional

from heartgate import __version__
from heartgate.daemon.heartgated import Daemon
from heartgate.daemon.respawn import respawn
from heartgate.daemon.services import World
from heartgate.daemon.store import AlreadyRunning, RuntimeLock, Store, StoreError, prepare_directory

STATE_DIR = Path("/var/lib/heartgate")
RUNTIME_DIR = Path("/run/heartgate")
EXIT_FAILED = 1
EXIT_ALREADY_RUNNING = 3  # the unit does not restart on it
DESCRIPTORS = 4096


def arguments(argv: Optional[List[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="heartgated",
        description="Guards replicated devices against two writers; configured by the cluster's resources.",
        epilog="Exit codes: 0 ended by a signal, 1 could not start, 2 wrong arguments, 3 another one is running.",
    )
    parser.add_argument("--version", action="version", version=f"heartgated {__version__}")
    parser.add_argument("--foreground", action="store_true", help="it always stays there; accepted for clarity")
    parser.add_argument("--state-dir", type=Path, default=STATE_DIR, help=f"persistent state (default {STATE_DIR})")
    parser.add_argument("--runtime-dir", type=Path, default=RUNTIME_DIR, help="for lock and socket")
    parser.add_argument("--no-realtime", action="store_true", help="neither real-time priority nor locked memory")
    parser.add_argument("--respawn", action="store_true", help="start it again when it dies (where no systemd does)")
    return parser.parse_args(argv)


def run(world: World, options: argparse.Namespace) -> int:
    try:
        prepare_directory(options.runtime_dir)
        lock = RuntimeLock(options.runtime_dir)
        alerts = options.runtime_dir.with_name(f"{options.runtime_dir.name}-alert")
        daemon = Daemon(world, Store(options.state_dir), options.runtime_dir / "control.sock", alerts=alerts)
    except (StoreError, OSError) as error:
        sys.stderr.write(f"heartgated: {error}\n")
        world.journal.send("setup", f"heartgated cannot start: {error}")
        return EXIT_ALREADY_RUNNING if isinstance(error, AlreadyRunning) else EXIT_FAILED
    with contextlib.closing(lock):
        _signals(daemon)
        daemon.start()
        _feed_watchdog(daemon, world)
        text = f"heartgated {__version__} guards {len(daemon.guards)} device(s)"
        world.journal.send("daemon", text, run=daemon.services.run)
        world.notify("READY=1")
        daemon.loop.run()
        world.notify("STOPPING=1")
        world.journal.send("daemon", "heartgated ends; nothing is thawed by that", run=daemon.services.run)
        daemon.close()
    return 0


def _signals(daemon: Daemon) -> None:
    """A signal writes a byte into the mailbox's pipe, which wakes the loop. The handler may run in the middle of an event: what
    it means comes after that."""
    signal.set_wakeup_fd(daemon.loop.mailbox.writer(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: daemon.loop.soon(daemon.wind_down))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)


def _feed_watchdog(daemon: Daemon, world: World) -> None:
    interval = world.watchdog_s()
    if interval <= 0:
        return
    world.notify("WATCHDOG=1")
    daemon.loop.after(interval, lambda: _feed_watchdog(daemon, world))


def _more_descriptors() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main(argv: Optional[List[str]] = None) -> int:
    options = arguments(argv)
    os.umask(0o077)
    if options.respawn:
        command = [sys.executable, "-I", *[item for item in sys.argv if item != "--respawn"]]
        return respawn(command, (0, EXIT_ALREADY_RUNNING))  # as the unit: 1 may be any traceback
    _more_descriptors()
    from heartgate.adapters import system
    from heartgate.daemon.assembly import RealWorld

    world = RealWorld(real_time=not options.no_realtime)
    if not options.no_realtime:
        for what, wrong in (("memory lock", system.lock_memory()), ("real-time priority", system.real_time())):
            if wrong:
                world.journal.send("daemon", f"no {what}: {wrong}")
    return run(world, options)
