"""Status for a person: one screen."""

from __future__ import annotations

import time
from typing import Any, Dict, List

Data = Dict[str, Any]

MEANING = {
    "synced": "may serve: up to date with every other replica in sync",
    "deciding": "frozen: sync lost, no verdict yet",
    "solo": "may serve: goes on alone, with proof about everybody else",
    "blocked": "refuses reads and writes until it is up to date again",
    "resyncing": "blocked; connected, being brought up to date",
    "unproven": "does not serve: its data may be old, it has met nobody since",
}


_KINDS = {"operator": "given up by a person (mark-synchronized)", "fenced-manually": "fenced manually, by a person's word"}


def page(data: Data) -> str:
    if not data.get("ok"):
        return f"heartgate: {data.get('error', 'no status')}"
    lines = [_head(data)]
    if not data["devices"]:
        lines.append("no device is guarded here")
    for device in data["devices"]:
        lines += ["", *_device(device, data["daemon"] == "running")]
    for link in data.get("heartbeat_links", ()):
        lines += ["", f"heartbeat {link['resource']}: {link['message']}"]
        lines.append(f"  {link['attribute']} is {_attribute(link['published'])}")
    return "\n".join(lines)


def _attribute(value: Any) -> str:
    return "not defined" if value is None else str(value)


def _head(data: Data) -> str:
    if data["daemon"] != "running":
        reason = f" ({data['reason']})" if data.get("reason") else ""
        return (
            f"heartgated does not run{reason}.\n"
            "Shown is what it last wrote down; roles, links and what other nodes say are not known. "
            "Frozen devices stay frozen."
        )
    carrier = "" if data["carrier"] == "connected" else "; CANNOT HEAR ANYBODY (Corosync is gone)"
    heard = f"hears: {_list(data['reachable'])}; online: {_list(data['online'])}{carrier}"
    trouble = f"\nWRONG NAME: {data['name_trouble']}" if data.get("name_trouble") else ""
    return f"heartgated {data['version']} on {data['node']}; {heard}{trouble}"


def _device(item: Data, running: bool) -> List[str]:
    lines = [f"{item['device']}: {item['shown'].upper()}  ({MEANING.get(item['shown'], '')})"]

    def row(name: str, value: str) -> None:
        lines.append(f"  {name:<10}{value}")

    if item.get("error"):
        row("record", f"cannot be used: {item['error']}")
        return lines
    row("epoch", f"{item['epoch']}, in sync: {_list(item['in_sync'])}")
    row("proofs", _proofs(item))
    if running:
        if item.get("waits"):
            row("now", item["waits"])
        if item.get("ends_wait"):
            row("ends it", f"(by a person, see its --help) {item['ends_wait']}")
        _volatile(item, row)
    row("flush", _flush(item.get("flush")))
    row("verdict", _verdict(item.get("verdict")))
    return lines


def _volatile(item: Data, row: Any) -> None:
    priorities = " ".join(f"{node}:{value}" for node, value in item["priorities"].items())
    row("priority", f"{item['priority']} of {priorities}, policy {item['policy']}")
    row("isolated", _isolation(item))
    frozen = {True: ", frozen", False: "", None: ", frozen or not: unknown"}[item["frozen"]]
    row("replica", f"{item['role']}, disk {item['disk']}{frozen}")
    for node, link in item["links"].items():
        peer = item["peers"].get(node)
        said = "not heard"
        if peer:
            said = f"says {peer['standing']}, epoch {peer['epoch']}, disk {peer['disk']}, {peer['role']}"
        row(node, f"sync link {link['link']}; {said}")
    for name, carrier in item["sync_interfaces"].items():
        row(name, {True: "has carrier", False: "NO CARRIER", None: "carrier unknown, or no such interface"}[carrier])
    if item["handlers"]:
        row("handlers", f"{len(item['handlers'])} waiting")
    if item["persist_failure"]:
        row("DISK", f"the record cannot be written: {item['persist_failure']}; everything waits for it")
    if item["broken"]:
        row("STOPPED", f"a step would break: {'; '.join(item['broken'])}")
    if not item["active"]:
        row("resource", "stopped; still guarded, since the replica exists")


def _isolation(item: Data) -> str:
    """What happens here when nobody can be heard any more."""
    kind, wanted, agreed = item["on_isolation"], item["bias_wanted"], item["bias_agreed"]
    if kind == "freeze" and not agreed:
        return "freeze: nobody goes on alone"
    if agreed and agreed == wanted:
        return f"bias: {agreed} goes on alone (agreed)"
    if agreed:
        return f"bias: {agreed} goes on alone (agreed); the parameters say {wanted or kind}, and that is not agreed yet"
    if kind == "bias":
        return f"bias: {wanted} is to go on alone; NOT AGREED (yet): until then nobody does without a fencing"
    return "fence: goes on when the other is fenced"


def _proofs(item: Data) -> str:
    shown = [f"{proof['node']} {_KINDS.get(proof['kind'], proof['kind'])} (epoch {proof['epoch']})" for proof in item["proofs"]]
    if item.get("promised_to") and item["standing"] == "blocked":
        shown.append(f"block promised to {item['promised_to']}")
    return ", ".join(shown) or "none"


def _flush(flush: Any) -> str:
    if not flush:
        return "none yet"
    results = [f"{one['target']} {one['how']} ({one['elapsed_ms']} ms)" for one in flush["results"]]
    return f"{_when(flush['at'])}: {'; '.join(results) or 'nothing to flush'}"


def _verdict(verdict: Any) -> str:
    if not verdict:
        return "none recorded"
    before = f"{verdict['from']} -> " if verdict["from"] else ""
    rules = ", ".join(verdict["rules"]) or "start"
    what = f"{before}{verdict['to']}, epoch {verdict['epoch']}, on {verdict['event']}"
    return f"{_when(verdict['at'])}: {what}; rules: {rules}"


def _when(at_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms / 1000)) + f".{at_ms % 1000:03d}"


def _list(names: List[str]) -> str:
    return " ".join(names) or "nobody"
