"""`heartgate discover`: hosts on the local networks that nobody named."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from heartgate.cli.arguments import seconds_up_to

FOUND, FAILED, NOBODY = 0, 1, 3
SECONDS_MAX = 300.0
EPILOG = """Exit codes:
  0  at least one other host was found
  1  it could not be looked for
  2  wrong arguments
  3  nobody was found (which is no proof: a host may be told not to answer)"""


def add_arguments(commands: Any) -> None:
    """Put `discover` beside the other commands."""
    parser = commands.add_parser(
        "discover", help="find nodes on the local networks without naming them", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    parser.add_argument("--seconds", type=seconds_up_to(SECONDS_MAX), default=3.0, help="look that long (default 3)")
    parser.add_argument("--announce", action="store_true", help="meanwhile tell this node's name by mDNS to those who look too")
    parser.set_defaults(run=main)


def main(options: argparse.Namespace) -> int:
    from heartgate.adapters.base import AdapterError

    try:
        result = look(options)
    except AdapterError as error:
        print(f"heartgate: {error}", file=sys.stderr)
        return FAILED
    print(json.dumps(result, indent=2, sort_keys=True) if options.json else page(result))
    return FOUND if result["hosts"] else NOBODY


def look(options: argparse.Namespace) -> Dict[str, Any]:
    """Raises AdapterError."""
    from heartgate.adapters import discover
    from heartgate.adapters.base import AdapterError

    if os.geteuid() != 0:
        raise AdapterError("only root can look for others (a raw socket)")
    every = discover.interfaces()
    usable = [each for each in every if not each.why_not]
    blind = {each.name: each.why_not for each in every if each.why_not}
    _say(f"looking on {', '.join(each.name for each in usable) or 'no interface'} for {options.seconds:g} s")
    mdns: Optional[discover.Mdns] = None
    mdns_problem: Optional[str] = None
    try:
        own = [address for each in every for address in each.addresses]
        mdns = discover.Mdns(announce=os.uname().nodename if options.announce else None, addresses=own)
    except AdapterError as error:
        mdns_problem = str(error)
    try:
        heard = discover.echoes(usable, options.seconds, lambda passed, hosts: _say(f"{passed:.0f} s: {hosts} answer"))
    finally:
        named = mdns.close() if mdns else []
    mine = {address for each in every for address in each.addresses}
    hosts = _hosts(heard.found, [each for each in named if each[1] not in mine])
    return {
        "hosts": hosts, "looked_on": [each.name for each in usable if each.name not in heard.failed],
        "not_looked_on": {**blind, **heard.failed}, "mdns_problem": mdns_problem, "ignored_packets": dict(heard.ignored),
    }  # fmt: skip


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _hosts(found: Sequence[Any], named: Sequence[Tuple[str, str]]) -> List[Dict[str, Any]]:
    """One entry for each (interface, address), with the name that is known for it."""
    from heartgate.adapters import discover
    from heartgate.adapters.base import AdapterError

    macs: Dict[Tuple[str, str], str] = {}
    with contextlib.suppress(AdapterError):
        macs = discover.neighbours()
    nodes, by_address = _cluster_nodes(macs), {address: name for name, address in named}
    by_mac = {mac: by_address[address] for (_, address), mac in macs.items() if address in by_address}

    def entry(interface: str, address: str, mac: str, rtt_ms: Optional[float], found_by: str) -> Dict[str, Any]:
        name = by_address.get(address) or by_mac.get(mac, "")
        return {"interface": interface, "address": address, "mac": mac, "rtt_ms": rtt_ms, "name": name,
                "cluster_node": nodes.get(mac, ""), "found_by": found_by}  # fmt: skip

    hosts = []
    for each in found:
        mac = macs.get((each.interface, each.address), "")
        hosts.append(entry(each.interface, each.address, mac, round(each.rtt_ms, 2), "echo"))
    answered = {host["mac"] for host in hosts}
    for _, address in named:
        interface, mac = next(((dev, mac) for (dev, its), mac in macs.items() if its == address), ("", ""))
        if mac not in answered or not mac:  # else it is there already, under its IPv6 address
            hosts.append(entry(interface, address, mac, None, "mdns"))
    return hosts


def _cluster_nodes(macs: Mapping[Tuple[str, str], str]) -> Dict[str, str]:
    """Hardware address -> node of this cluster's corosync.conf that has it on one of its links."""
    from heartgate.adapters.addresses import canonical
    from heartgate.adapters.conf_file import ConfFile, ConfFileError
    from heartgate.checks import corosync_edit

    try:
        nodes = corosync_edit.nodes(ConfFile().read())
    except (ConfFileError, corosync_edit.ConfError):
        return {}  # no cluster here yet, or none that can be read: then nobody is known
    owners = {canonical(address): node.name for node in nodes for address in node.addresses.values()}
    return {mac: owners[address] for (_, address), mac in macs.items() if address in owners}


def page(result: Mapping[str, Any]) -> str:
    rows: List[Tuple[str, ...]] = [("INTERFACE", "ADDRESS", "MAC", "ANSWERS IN", "NAME", "NODE OF THIS CLUSTER")]
    for host in result["hosts"]:
        rtt = "-" if host["rtt_ms"] is None else f"{host['rtt_ms']:.2f} ms"
        cells = (host["interface"], host["address"], host["mac"], rtt, host["name"], host["cluster_node"])
        rows.append(tuple(cell or "-" for cell in cells))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    if not result["hosts"]:
        lines = ["nobody answered"]
    lines += [f"could not look on {name}: {why}" for name, why in sorted(result["not_looked_on"].items())]
    if result["mdns_problem"]:
        lines.append(f"mDNS was not looked at: {result['mdns_problem']}")
    ignored = result["ignored_packets"]
    if ignored:
        reasons = "; ".join(f"{count} x {why}" for why, count in ignored.items())
        lines.append(f"{sum(ignored.values())} packets were ignored: {reasons}")
    return "\n".join(lines)
