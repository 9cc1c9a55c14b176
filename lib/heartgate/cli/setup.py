"""`heartgate setup`: from two host names to the commands for a guarded device, each with its reason; --apply carries them out."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence, Tuple

from heartgate.cli.check import LISTEN_S
from heartgate.cli.facts import CouldNotLook, seconds

if TYPE_CHECKING:
    from heartgate.checks.findings import Finding, Waiver
    from heartgate.checks.links import Plan
    from heartgate.checks.setup_model import Facts, SetupPlan, Wish

OK, STOPPED, WRONG, REFUSED = 0, 1, 2, 3
INSTALLED = ("pcs", "crmsh")
RANK_DELAY_MAX_S = 600  # as fence_heartgate takes it; a test compares
FREE = (
    "confirm_timeout",
    "on_blocked_promoted",
    "flush_timeout",
)  # of replica-guard, for --guard; the others have an option each

EPILOG = """Without --apply nothing is changed: the steps are printed, those that are done already and those that are missing,
with a reason for each and with commands that can be pasted. The same command again goes on where it stopped.

Exit codes of setup:
  0  the steps are printed; --apply: everything is done
  1  could not look; --apply: stopped at the first surprise, and told what is done and what is not
  2  wrong arguments
  3  refused: the rules of heartbeat links found errors, or the two nodes do not fit; nothing was done"""


class WrongArguments(Exception):
    """One message for the person; exit code 2."""


def add_arguments(commands: Any) -> None:
    parser = commands.add_parser("setup", help="from two host names to the commands that set a guarded device up", epilog=EPILOG,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.set_defaults(run=run, peer=None, peer_facts=None, corosync_conf=None, ssh="ssh")
    parser.description = "Looks at both nodes, and says what is missing for a guarded device. Run it on one of the two."
    parser.add_argument(
        "nodes", nargs=2, metavar="NODE", help="the two nodes, by their names in the cluster; the first has priority 1"
    )
    parser.add_argument("--device", default="r0", help="the DRBD resource (default r0)")
    parser.add_argument(
        "--with", dest="tool", choices=INSTALLED, help="the commands of which tool (default: what is installed, pcs first)"
    )
    parser.add_argument("--apply", action="store_true", help="carry the steps out; stop at the first surprise")
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    _of_links(parser.add_argument_group("links (IF: an interface, or IF:PEER_IF)"))
    _of_guard(parser.add_argument_group("what replica-guard is told"))
    fencing = parser.add_argument_group("fencing")
    fencing.add_argument("--fence", nargs="+", default=[], metavar="NODE:DEVICE",
                         help="the fencing device that cuts a node's power; several in their order: NODE:DEVICE,DEVICE (default: "
                         "what the levels or pcmk_host_list say)")  # fmt: skip
    fencing.add_argument(
        "--rank-delay", type=int, metavar="SECONDS", help="of fence_heartgate: longer than a power device takes"
    )
    fencing.add_argument("--hold-while-synced", action="store_true", help="of fence_heartgate: no shot while replication lives")


def _of_links(group: Any) -> None:
    group.add_argument(
        "--heartbeat", action="append", default=[], metavar="IF", help="a heartbeat interface (default: Corosync's links)"
    )
    group.add_argument(
        "--sync", action="append", default=[], metavar="IF", help="carries replication (default: what DRBD and heartgated say)"
    )
    group.add_argument("--client", metavar="IF", help="the interface that clients use (default: the one of the default route)")
    group.add_argument("--no-sync-heartbeat", action="store_true", help="do not make the sync network the last Corosync link")
    group.add_argument("--compare", choices=("name", "bus", "port"), default="name", help="as in heartgate check")
    group.add_argument("--addressing", choices=("static", "dhcp", "any"), default="any", help="as in heartgate check")
    group.add_argument("--waive", action="append", default=[], metavar="RULE[@SUBJECT]=REASON", help="as in heartgate check")
    group.add_argument("--listen", type=seconds, default=LISTEN_S, metavar="SECONDS",
                       help=f"listen for switches and other machines (default {LISTEN_S:.0f}; 0: do not)")  # fmt: skip
    group.add_argument("--cluster-name", default="cluster", metavar="NAME", help="of a cluster that is not there yet")


def _of_guard(group: Any) -> None:
    group.add_argument(
        "--priority", nargs="+", default=[], metavar="NODE:NUMBER", help="1 is the highest (default: as the nodes are named)"
    )
    group.add_argument("--policy", choices=("priority", "active-first"), help="who goes on (default priority)")
    group.add_argument(
        "--on-isolation", choices=("fence", "bias", "freeze"), help="when no other node can be heard (default fence)"
    )
    group.add_argument("--bias", metavar="NODE", help="who goes on alone, with --on-isolation bias")
    group.add_argument("--flush", metavar="TARGETS", help='what to flush when a node goes on alone, e.g. "filesystem:/srv"')
    group.add_argument("--guard", nargs="+", default=[], metavar="NAME=VALUE", help=f"another parameter: {', '.join(FREE)}")
    group.add_argument("--driver", choices=("drbd", "exec"), default="drbd", help="kind of replication (default drbd)")
    group.add_argument("--exec-program", metavar="FILE", help="with --driver exec")
    group.add_argument(
        "--clone", metavar="ID", help="the promotable clone of the device (default: the one of the DRBD resource)"
    )


def run(options: argparse.Namespace) -> int:
    from heartgate.adapters.setup_node import SetupError
    from heartgate.checks.findings import WaiverError
    from heartgate.checks.planning import PlanError
    from heartgate.cli import setup_apply, setup_show

    try:
        if options.apply and os.geteuid() != 0:
            raise CouldNotLook("only root can set a cluster up")
        prepared = Prepared(options)
        facts = prepared.look()
        plan = prepared.plan(facts)
        if options.apply and not plan.problems:
            return setup_apply.Run(prepared, plan, options.json).carry_out()
        if options.json:
            print(json.dumps(setup_show.as_data(prepared.wish, plan, prepared.findings), indent=2, sort_keys=True))
        else:
            print(setup_show.page(prepared.wish, plan, prepared.findings))
        for problem in plan.problems:
            print(f"heartgate setup: refused: {problem.what}. {problem.remedy}", file=sys.stderr)
        return REFUSED if plan.problems else OK
    except (WrongArguments, WaiverError, PlanError) as error:
        print(f"heartgate setup: {error}", file=sys.stderr)
        return WRONG
    except (CouldNotLook, SetupError) as error:
        print(f"heartgate setup: {error}", file=sys.stderr)
        return STOPPED


class Prepared:
    """The wish, what the rules say, and the way to look again. Raises WrongArguments, WaiverError, PlanError, CouldNotLook."""

    def __init__(self, options: argparse.Namespace) -> None:
        from heartgate.adapters import setup_node
        from heartgate.checks import heartbeat_rules, spof_from_facts
        from heartgate.checks.findings import apply_waivers, parse_waivers, worst_first
        from heartgate.cli import check

        local = local_name(options.nodes, os.uname().nodename)
        guard, assumed = guard_parameters(options)
        power = fence_devices(options.fence, options.nodes)
        waivers = parse_waivers(";".join(options.waive), {**heartbeat_rules.RULES, **spof_from_facts.RULES})
        if options.driver == "exec" and not options.clone:
            raise WrongArguments("with --driver exec, --clone has to name the promotable clone of the device")
        _sensible(options)
        options.peer = next(node for node in options.nodes if node != local)
        try:
            links = check.gather(options)
        except CouldNotLook as error:
            raise CouldNotLook(str(error).replace(", or use --peer-facts", "")) from error
        self.findings: Tuple[Finding, ...] = worst_first(
            apply_waivers([*heartbeat_rules.judge(links), *spof_from_facts.findings(links)], waivers)
        )
        self.nodes = setup_node.Nodes(local)
        self.wish = _wish(options, local, links, guard, assumed, power, waivers)

    def look(self) -> Facts:
        """Both nodes and the cluster as they are now. Raises SetupError."""
        from heartgate.adapters import setup_node
        from heartgate.checks.setup_model import Facts

        local, peer = (self.nodes.facts(node, self.wish.device) for node in (self.wish.local, self.wish.peer))
        cluster, why = setup_node.cluster()
        return Facts((local, peer), cluster, why)

    def plan(self, facts: Facts) -> SetupPlan:
        from heartgate.checks.setup_plan import make_plan

        return make_plan(self.wish, facts, self.findings)


def local_name(nodes: Sequence[str], host: str) -> str:
    """Which of the two this host is."""
    from heartgate.core.codec import is_name

    for node in nodes:
        if not is_name(node):
            raise WrongArguments(f"{node!r:.80} is no node name (letters, digits, '.', '_', '-')")
    if nodes[0] == nodes[1]:
        raise WrongArguments(f"both nodes are {nodes[0]}: name the two that hold a replica")
    mine = [node for node in nodes if host == node] or [
        node for node in nodes if host.partition(".")[0] == node.partition(".")[0]
    ]
    if len(mine) != 1:
        raise WrongArguments(f"this host is {host}: run it on one of the two nodes, and name them as the cluster does")
    return mine[0]


def guard_parameters(options: argparse.Namespace) -> Tuple[Dict[str, str], frozenset[str]]:
    """(what replica-guard is told, what of it nobody gave), by the agent's own rules. Raises WrongArguments."""
    from heartgate.daemon import params

    priorities = " ".join(options.priority) or " ".join(f"{node}:{rank}" for rank, node in enumerate(options.nodes, 1))
    given = {"priorities": priorities}
    for name in ("policy", "on_isolation", "bias", "flush", "exec_program"):
        value: Optional[str] = getattr(options, name)
        if value:
            given[name] = value
    if options.driver != "drbd":
        given["driver"] = options.driver
    for word in options.guard:
        name, separator, value = word.partition("=")
        if name not in FREE or not separator:
            raise WrongArguments(f"--guard {word!r:.80}: write NAME=VALUE, NAME one of {', '.join(FREE)}")
        given[name] = value
    parsed, problems = params.parse({"device": options.device, **given})
    if problems:
        raise WrongArguments("; ".join(f"{each.message}: {each.remedy}" for each in problems))
    if options.device.startswith("/"):
        raise WrongArguments(f"--device {options.device}: give the name of the resource, as in DRBD's configuration")
    named = {node for node, _ in parsed.priorities} if parsed else set()
    if named != set(options.nodes):
        raise WrongArguments(f"--priority names {', '.join(sorted(named))}, and the nodes are {' and '.join(options.nodes)}")
    for name, value in given.items():
        if not value.isprintable() or '"' in value:
            raise WrongArguments(f"{name}={value!r:.80}: quotation marks and control characters have no place there")
    return given, frozenset(() if options.priority else ("priorities",))


def fence_devices(words: Sequence[str], nodes: Sequence[str]) -> Dict[str, Tuple[str, ...]]:
    from heartgate.core.codec import is_name

    found: Dict[str, Tuple[str, ...]] = {}
    for word in words:
        node, _, listed = word.partition(":")
        devices = tuple(listed.split(","))
        if not all(is_name(device) for device in devices):
            raise WrongArguments(f"--fence {word!r:.80}: write NODE:DEVICE, e.g. {nodes[0]}:ipmi-a")
        if node not in nodes:
            raise WrongArguments(f"--fence {word!r:.80}: {node} is none of the two nodes {' and '.join(nodes)}")
        if node in found:
            raise WrongArguments(f"--fence names {node} twice: write {node}:DEVICE,DEVICE for several in one level")
        found[node] = devices
    return found


def _sensible(options: argparse.Namespace) -> None:
    """Before half a minute is spent with listening."""
    delay, name = options.rank_delay, options.cluster_name
    if delay is not None and not 1 <= delay <= RANK_DELAY_MAX_S:
        raise WrongArguments(f"--rank-delay {delay}: from 1 to {RANK_DELAY_MAX_S} seconds")
    if not re.match(r"[A-Za-z0-9_-]{1,15}\Z", name):
        raise WrongArguments(f"--cluster-name {name!r:.80}: at most 15 letters, digits, '-' and '_'")
    _tool(options.tool)


def _wish(
    options: argparse.Namespace, local: str, links: Plan, guard: Dict[str, str], assumed: frozenset[str],
    power: Mapping[str, Tuple[str, ...]], waivers: Tuple[Waiver, ...],
) -> Wish:  # fmt: skip
    from heartgate.checks.setup_model import Wish

    delay, hold = options.rank_delay, options.hold_while_synced
    syncs = _interfaces(links)
    if syncs:
        guard, assumed = {**guard, "sync_interfaces": syncs}, assumed if options.sync else assumed | {"sync_interfaces"}
    return Wish(
        nodes=(options.nodes[0], options.nodes[1]),
        local=local,
        tool=_tool(options.tool),
        device=options.device,
        guard=guard,
        heartbeats=tuple(link for link in links.heartbeats if len(link.ends) == 2),
        syncs=links.syncs,
        named=bool(options.heartbeat),
        assumed=assumed,
        sync_heartbeat=not options.no_sync_heartbeat,
        power=power,
        gate={**({} if delay is None else {"rank_delay": str(delay)}), **({"hold_while_synced": "1"} if hold else {})},
        addressing=options.addressing,
        waivers=waivers,
        clone=options.clone or "",
        cluster_name=options.cluster_name,
    )


def _interfaces(links: Plan) -> str:
    """For sync_interfaces, which knows one list of names for both nodes."""
    pairs: List[Tuple[str, ...]] = [tuple(end.name for end in link.ends) for link in links.syncs or ()]
    return " ".join(pair[0] for pair in pairs) if all(len(set(pair)) == 1 for pair in pairs) else ""


def _tool(name: Optional[str]) -> Any:
    from heartgate.adapters import process
    from heartgate.checks.setup_model import Tool

    if name:
        return Tool(name)
    for tool, program in ((Tool.PCS, "pcs"), (Tool.CRMSH, "crm")):
        if process.find(program):
            return tool
    raise WrongArguments("neither pcs nor crmsh is installed: install one of them, or say whose commands you want (--with)")
