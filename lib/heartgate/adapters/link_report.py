"""What the rules find of one heartbeat interface of this node, looked at by a process of its own: it needs pyroute2, and may have
to wait for a name server. Blocks."""

from __future__ import annotations

from heartgate.adapters import process
from heartgate.adapters.base import AdapterError
from heartgate.checks import link_report
from heartgate.checks.link_report import Question, Report

PROGRAM = "/usr/sbin/heartgate"
DEADLINE_S = 30.0


def ask(question: Question, deadline_s: float = DEADLINE_S) -> Report:
    """Raises AdapterError."""
    options = {
        "--client": question.client_interface,
        "--addressing": question.addressing,
        "--waivers": question.waivers,
    }
    argv = [PROGRAM, "link-report", f"--interface={question.interface}"]
    argv += [f"{option}={value}" for option, value in options.items() if value]
    argv += [f"--sync={name}" for name in question.sync_interfaces]
    done = process.run(argv, timeout_s=deadline_s)
    if not done.ok:
        raise AdapterError(f"{question.interface} cannot be looked at: {done.brief()}")
    try:
        return link_report.decode(done.stdout)
    except ValueError as error:
        raise AdapterError(f"{question.interface}: heartgate link-report printed what cannot be read: {error}") from error
