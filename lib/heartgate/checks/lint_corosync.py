"""Rules over one corosync.conf: how many links, which networks, and what a lone node may do. Who may join, and whether the
nodes have the same file, is asked with the facts of both nodes (`corosync_rules`)."""

from __future__ import annotations

import ipaddress
from itertools import combinations
from typing import Dict, Iterator, List, Mapping, Optional, Tuple, Union

from heartgate.checks.corosync_conf import CorosyncConf
from heartgate.checks.findings import Finding, RuleInfo, Severity
from heartgate.checks.lint_facts import LintFacts, Reporter, table

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE
Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

RULES: Mapping[str, RuleInfo] = table(
    RuleInfo(
        "corosync-one-link", WARNING, "A2", "There are two knet links or more: with one, a single cable ends the heartbeat."
    ),
    RuleInfo(
        "corosync-subnet",
        ERROR,
        "A9",
        "Each link has a network of its own: in one network the kernel sends everything through "
        "one interface, and the links fail together.",
    ),
    RuleInfo("corosync-address", ERROR, "A9", "Each address is used once, and every node has an address on every link."),
    RuleInfo(
        "corosync-node", ERROR, "C6", "Every node has a name and a nodeid of its own: knet needs the id, Pacemaker the name."
    ),
    RuleInfo("corosync-quorum", ERROR, "D8", "votequorum decides whether a partition may act."),
    RuleInfo(
        "corosync-two-node",
        WARNING,
        "D8",
        "two_node: 1 with exactly two nodes: without it the loss of one node stops the other; "
        "with more than two Corosync switches it off.",
    ),
    RuleInfo(
        "corosync-wait-for-all",
        ERROR,
        "D8",
        "With two_node a node that boots alone waits for the other; else it fences the other "
        "and starts with data that may be old.",
    ),
    RuleInfo(
        "corosync-sync-last",
        NOTE,
        "A7",
        "The sync network is also a knet link, the last one: then the loss of all heartbeats alone leaves the nodes in contact.",
    ),
)


def findings(facts: LintFacts) -> Tuple[Finding, ...]:
    if facts.corosync is None:
        return ()
    report, conf = Reporter(RULES, facts.host), facts.corosync
    found: List[Finding] = [*_links(conf, report), *_nodes(conf, report), *_quorum(conf, report)]
    found += _subnets(conf, facts.networks, report)
    found += _sync_last(facts, conf, report)
    return tuple(found)


def _links(conf: CorosyncConf, report: Reporter) -> Iterator[Finding]:
    if conf.nodes and len(conf.links) < 2:
        evidence = f"{len(conf.links)} link (ring{conf.links[0] if conf.links else 0}_addr) in the node list of {conf.source}"
        remedy = "give every node a ring1_addr in another network, on another adapter; better two more, the sync network last"
        yield report.found("corosync-one-link", "corosync.conf", evidence, remedy)


def _nodes(conf: CorosyncConf, report: Reporter) -> Iterator[Finding]:
    if not conf.nodes:
        yield report.found("corosync-node", "corosync.conf", f"{conf.source} has no nodelist {{ node {{ }} }}", "list every node")
    names: Dict[str, int] = {}
    used: Dict[str, Tuple[str, int, int]] = {}
    for node in conf.nodes:
        label = node.name or f"the node of line {node.line}"
        if not node.name or (node.nodeid in (None, 0) and conf.transport == "knet"):
            what = "name" if not node.name else "nodeid above 0"
            remedy = f"add {what.split()[0]}: ... to the node"
            yield report.found("corosync-node", "corosync.conf", f"no {what} in node {{ }} at {conf.where(node.line)}", remedy)
        for key in ([f"name {node.name}"] if node.name else []) + ([f"nodeid {node.nodeid}"] if node.nodeid else []):
            if key in names:
                evidence = f"{key} stands at {conf.where(names[key])} and at {conf.where(node.line)}"
                yield report.found("corosync-node", "corosync.conf", evidence, "give every node a name and an id of its own")
            names.setdefault(key, node.line)
        for link in conf.links:
            if link not in node.addresses:
                evidence = f"{label} has no ring{link}_addr, other nodes have one ({conf.where(node.line)})"
                yield report.found("corosync-address", f"link {link}", evidence, f"add ring{link}_addr to {label}")
        for link, (address, line) in node.addresses.items():
            other = used.setdefault(_canonical(address), (label, link, line))
            if other[:2] != (label, link):
                first, second = conf.where(other[2]), conf.where(line)
                evidence = f"{address} is link {other[1]} of {other[0]} ({first}) and link {link} of {label} ({second})"
                yield report.found(
                    "corosync-address", f"link {link}", evidence, "give each link of each node an address of its own"
                )


def _canonical(address: str) -> str:
    parsed = _address(address)
    return str(parsed) if parsed else address.lower()


def _address(text: str) -> Optional[Union[ipaddress.IPv4Address, ipaddress.IPv6Address]]:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None  # a host name


def _quorum(conf: CorosyncConf, report: Reporter) -> Iterator[Finding]:
    count = len(conf.nodes)
    if conf.word("quorum", "provider", "") != "corosync_votequorum":
        yield report.found(
            "corosync-quorum",
            "corosync.conf",
            f"no quorum provider in {conf.source}",
            "write quorum { provider: corosync_votequorum }, and two_node: 1 for two nodes",
        )
        return
    written = conf.setting("quorum", "two_node")
    if count == 2 and not conf.two_node and not conf.all("quorum.device"):
        place = f"two_node: {written.value} ({written.where})" if written else f"two_node is not written in {conf.source}"
        yield report.found("corosync-two-node", "corosync.conf", f"two nodes, and {place}", "write two_node: 1 in quorum { }")
    if count > 2 and conf.two_node and written:
        yield report.found(
            "corosync-two-node", "corosync.conf", f"two_node: 1 ({written.where}) with {count} nodes", "remove two_node"
        )
    if conf.two_node and not conf.wait_for_all:
        off = conf.setting("quorum", "wait_for_all")
        evidence = f"wait_for_all: 0 ({off.where if off else conf.source}) with two_node: 1"
        yield report.found("corosync-wait-for-all", "corosync.conf", evidence, "remove wait_for_all; two_node switches it on")


def _subnets(conf: CorosyncConf, networks: Optional[Tuple[str, ...]], report: Reporter) -> Iterator[Finding]:
    known = None if networks is None else [ipaddress.ip_network(item, strict=False) for item in networks]
    for node in conf.nodes:
        if report.host and node.name not in ("", report.host):
            continue
        places = [(link, _address(text), line) for link, (text, line) in sorted(node.addresses.items())]
        for (link, one, line), (other, two, second) in combinations(places, 2):
            if one is None or two is None or one == two:
                continue
            alike, shared = _shared(one, two, known)
            where = f"{one} (link {link}, {conf.where(line)}) and {two} (link {other}, {conf.where(second)})"
            remedy = "put each link into a network of its own, on an adapter of its own"
            if alike:
                yield report.found("corosync-subnet", f"link {other}", f"{where} are both in {shared}", remedy)
            elif alike is None:
                yield report.found(
                    "corosync-subnet",
                    f"link {other}",
                    f"{where} look alike, and which networks this host is in is not known",
                    "look at `ip address` on the node: each link needs a network of its own",
                    severity=Severity.UNKNOWN,
                )


def _shared(
    one: Union[ipaddress.IPv4Address, ipaddress.IPv6Address],
    two: Union[ipaddress.IPv4Address, ipaddress.IPv6Address],
    known: Optional[List[Network]],
) -> Tuple[Optional[bool], str]:
    """(whether both are in one network, which). None: it cannot be told."""
    if one.version != two.version:
        return False, ""
    for network in sorted(known or (), key=lambda item: -item.prefixlen):
        if one in network:
            return two in network, str(network)
    near = ipaddress.ip_network(f"{one}/{24 if one.version == 4 else 64}", strict=False)
    return (None if two in near else False), ""


def _sync_last(facts: LintFacts, conf: CorosyncConf, report: Reporter) -> Iterator[Finding]:
    sync = {
        _host_part(address)
        for resource in facts.drbd or ()
        for connection in resource.connections
        for path in connection.paths
        for node, address in path.ends
        if node == facts.host
    }
    sync.discard("")
    mine = [node for node in conf.nodes if node.name == facts.host]
    if not sync or not mine or not conf.links:
        return
    links = {link: _canonical(text) for link, (text, _) in mine[0].addresses.items()}
    carried = [link for link, address in links.items() if address in sync]
    remedy = (
        f"add the sync addresses as the last ring (ring{max(conf.links) + 1}_addr) of every node; with link_mode: passive it "
        "carries heartbeats only "
        "when no other link does"
    )
    if not carried:
        evidence = f"DRBD's address {', '.join(sorted(sync))} is no address of a knet link"
        yield report.found("corosync-sync-last", "corosync.conf", evidence, remedy)
    elif len(links) > 1 and max(carried) != max(links) and not conf.interface(min(carried), "knet_link_priority"):
        evidence = f"the sync network is link {min(carried)}, and not the last one (link {max(links)})"
        yield report.found(
            "corosync-sync-last", "corosync.conf", evidence, "make it the last link, or give it the lowest knet_link_priority"
        )


def _host_part(address: str) -> str:
    """`10.0.0.1:7788` or `[fd00::1]:7788` without the port."""
    text = address.rpartition(":")[0].strip("[]")
    return _canonical(text) if _address(text) else ""
