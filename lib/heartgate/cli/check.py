"""`heartgate check`: the rules over the facts of this host and of its peer, before there is a cluster and on a running one.

Another family of rules is one more line in `sources()`: its table, and a function from what was gathered to findings.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from heartgate.cli.facts import COULD_NOT_LOOK, CouldNotLook, collect, seconds

if TYPE_CHECKING:
    from heartgate.checks.findings import Finding, RuleInfo
    from heartgate.checks.links import Plan
    from heartgate.checks.model import HostFacts

LISTEN_S = 35.0
SSH_GRACE_S = 30.0
SSH_FAILED, NOT_FOUND, WRONG_USAGE, TIMED_OUT = 255, 127, 2, 124
_HOST = re.compile(r"([A-Za-z0-9._-]+@)?[A-Za-z0-9_\[:.][A-Za-z0-9._:%\]-]*\Z")

EPILOG = """Exit codes of check:
  0  nothing found, or notes only
  1  warnings
  2  errors
  3  could not look (also: wrong arguments), or could not look at everything and found no error"""


class Looked(NamedTuple):
    """What was gathered, for the rule families."""

    options: argparse.Namespace
    plan: Plan


class Source(NamedTuple):
    """A family of rules."""

    rules: Mapping[str, RuleInfo]
    look: Callable[[Looked], Iterable[Finding]]


def sources() -> Tuple[Source, ...]:
    from heartgate.checks import heartbeat_rules, spof_from_facts
    from heartgate.cli import configuration

    return (
        Source(heartbeat_rules.RULES, lambda looked: heartbeat_rules.judge(looked.plan)),
        Source(spof_from_facts.RULES, lambda looked: spof_from_facts.findings(looked.plan)),
        Source(configuration.rules(), lambda looked: configuration.findings(looked.options.corosync_conf)),
    )


def add_arguments(commands: Any) -> None:
    parser = commands.add_parser("check", help="the heartbeat links of both nodes, and the configuration here, against the rules")
    describe(parser)
    parser.set_defaults(run=run)


def describe(parser: argparse.ArgumentParser) -> None:
    """Which links, and where the peer's facts come from: for every command that looks at both nodes."""
    parser.description = (
        "Checks the heartbeat links of this node and its peer, the parts that they share, and this node's configuration (Corosync, "
        "Pacemaker's fencing, DRBD, SBD, LIO, time limits) against the rules (docs/heartbeat-rules.md, docs/timeouts.md). Changes "
        "nothing. IF is an interface, or IF:PEER_IF where the peer's has another name."
    )
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    peer = parser.add_mutually_exclusive_group()
    peer.add_argument("--peer", metavar="HOST", help="ask the other node: ssh HOST heartgate facts")
    peer.add_argument(
        "--peer-facts", metavar="FILE", help="the other node's facts, made there by `heartgate facts --output FILE`"
    )
    parser.add_argument(
        "--heartbeat", action="append", default=[], metavar="IF", help="a heartbeat interface (default: Corosync's links)"
    )
    parser.add_argument(
        "--sync", action="append", default=[], metavar="IF", help="carries replication (default: what DRBD and heartgated say)"
    )
    parser.add_argument("--client", metavar="IF", help="the interface that clients use (default: the one of the default route)")
    parser.add_argument(
        "--compare",
        choices=("name", "bus", "port"),
        default="name",
        help="what the same adapter on both nodes means (default: name)",
    )
    parser.add_argument(
        "--addressing",
        choices=("static", "dhcp", "any"),
        default="any",
        help="how heartbeat interfaces have to get their addresses (default any: alike on both ends)",
    )
    parser.add_argument(
        "--waive",
        action="append",
        default=[],
        metavar="RULE[@SUBJECT]=REASON",
        help="does not count, for this reason; it stays in the report",
    )
    parser.add_argument(
        "--listen",
        type=seconds,
        default=LISTEN_S,
        metavar="SECONDS",
        help=f"listen for switches and other machines (default {LISTEN_S:.0f}; LLDP comes every 30 s; 0: do not)",
    )
    parser.add_argument("--corosync-conf", type=Path, default=None, metavar="FILE", help="default: /etc/corosync/corosync.conf")
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    parser.add_argument("--ssh", default="ssh", help=argparse.SUPPRESS)

    def error(message: str) -> None:  # argparse's own code 2 would say "errors found"
        parser.print_usage(sys.stderr)
        parser.exit(COULD_NOT_LOOK, f"{parser.prog}: error: {message}\n")

    parser.error = error  # type: ignore[method-assign, assignment]


def run(options: argparse.Namespace) -> int:
    from heartgate.checks.findings import WaiverError, apply_waivers, exit_code, parse_waivers, worst_first
    from heartgate.checks.planning import PlanError
    from heartgate.cli import report

    families = sources()
    rules: Dict[str, RuleInfo] = {name: rule for family in families for name, rule in family.rules.items()}
    try:
        waivers = parse_waivers(";".join(options.waive), rules)
        looked = Looked(options, gather(options))
    except (CouldNotLook, WaiverError, PlanError) as error:
        print(f"heartgate check: {error}", file=sys.stderr)
        return COULD_NOT_LOOK
    findings = apply_waivers([finding for family in families for finding in family.look(looked)], waivers)
    code = exit_code(findings)
    ordered = worst_first(findings)
    if options.json:
        print(json.dumps(report.as_data(looked.plan, ordered, waivers, rules, code), indent=2, sort_keys=True))
    else:
        print(report.page(looked.plan, ordered, waivers, rules))
    return code


def gather(options: argparse.Namespace) -> Plan:
    """Both hosts' facts, got at the same time, since both listen. Raises CouldNotLook, PlanError."""
    from heartgate.checks.links import Addressing, Compare
    from heartgate.checks.planning import make_plan, parse_names

    heartbeats = [parse_names(text) for text in options.heartbeat]
    syncs = [parse_names(text) for text in options.sync]
    client = parse_names(options.client) if options.client else None
    read = read_facts(Path(options.peer_facts)) if options.peer_facts else None
    asking = Asking(options, [theirs or mine for mine, theirs in heartbeats]) if options.peer else None
    names = [mine for mine, _ in heartbeats] or None
    local = collect(options.listen, names, options.corosync_conf)
    peer = asking.answer() if asking else read
    if peer is not None:
        _must_be_another(local, peer)
    return make_plan(local, peer, heartbeats, syncs, client, Compare(options.compare), Addressing(options.addressing))


def read_facts(place: Path) -> HostFacts:
    """Raises CouldNotLook."""
    from heartgate.checks.facts_codec import FactsError, decode

    try:
        return decode(place.read_bytes())
    except OSError as error:
        raise CouldNotLook(f"{place}: {error.strerror}") from error
    except FactsError as error:
        raise CouldNotLook(f"{place}: {error}. Make it anew on the peer: heartgate facts --listen 35 --output FILE") from error


def _must_be_another(local: HostFacts, peer: HostFacts) -> None:
    mine, theirs = ({item.permanent_mac for item in host.interfaces if item.permanent_mac} for host in (local, peer))
    if mine and mine == theirs:
        raise CouldNotLook("the peer's facts are those of this very host: it has the same adapters. Give the other node's")
    if local.host == peer.host:
        raise CouldNotLook(f"the peer's facts have this host's name {local.host}: give the other node's and each a name")


class Asking:
    """`ssh HOST heartgate facts`, running beside what is done here."""

    def __init__(self, options: argparse.Namespace, interfaces: Sequence[str]) -> None:
        if not _HOST.match(options.peer):
            raise CouldNotLook(f"--peer {options.peer!r}: that is no host name, address or USER@HOST")
        self._host: str = options.peer
        self._timeout_s = options.listen + SSH_GRACE_S
        command = ["heartgate", "facts", "--listen", f"{options.listen:g}"]
        command += [word for name in interfaces for word in ("--interface", name)]
        # ssh hands its words to a shell on the other side.
        quoted = " ".join(shlex.quote(word) for word in command)
        self._argv = [options.ssh, "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-T", options.peer, quoted]
        self._result: List[Optional[Tuple[int, str, str]]] = [None]
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        from heartgate.adapters import process

        environment = {name: os.environ[name] for name in ("SSH_AUTH_SOCK", "HOME") if name in os.environ}
        done = process.run(self._argv, timeout_s=self._timeout_s, env=environment)
        self._result[0] = (done.rc, done.stdout, done.stderr)

    def answer(self) -> HostFacts:
        """Raises CouldNotLook."""
        from heartgate.checks.facts_codec import FactsError, decode

        self._wait()
        result = self._result[0]
        if result is None:
            raise CouldNotLook(f"{self._host}: ssh does not end")
        code, output, errors = result
        if code not in (0, COULD_NOT_LOOK) or not output.strip():
            raise CouldNotLook(f"{self._host}: {self._why(code, errors)}")
        try:
            return decode(output.encode("utf-8", "surrogateescape"))
        except FactsError as error:
            raise CouldNotLook(f"{self._host}: what `heartgate facts` printed there cannot be used: {error}") from error

    def _wait(self) -> None:
        from heartgate.cli.progress import Progress

        progress = Progress()
        deadline = time.monotonic() + self._timeout_s + 5
        while self._thread.is_alive() and time.monotonic() < deadline:
            progress(f"waiting for {self._host}")
            self._thread.join(0.5)
        progress.done()

    def _why(self, code: int, errors: str) -> str:
        from heartgate.checks.model import printable

        lines = [printable(line) for line in errors.strip().splitlines() if line.strip()]
        said = f" ({lines[-1]})" if lines else ""
        if code == SSH_FAILED:
            return (
                f"cannot be reached by ssh{said}. See that `ssh {self._host} true` works without a password, or use --peer-facts"
            )
        if code == NOT_FOUND:
            return f"there is no heartgate, or no ssh here{said}. Install the same version on both nodes"
        if code == WRONG_USAGE:
            return f"its heartgate does not know `facts` as this one does{said}. Install the same version on both nodes"
        if code == TIMED_OUT:
            return f"did not answer within {self._timeout_s:.0f} s"
        return f"`heartgate facts` failed there with code {code}{said}"
