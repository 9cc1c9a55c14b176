"""Talking to replicad on the same node: replicactl, the `exec` driver's program, and the writer."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from typing import Any, Dict, List, Optional

from .store import ROOT, Store, load_configuration

ACTIONS = ("block", "unblock", "disconnect", "thaw", "release")
LAB_SOCKET = "/run/lab/lab.sock"


class Refused(Exception):
    """replicad said no."""


class Connection:
    def __init__(self, resource: str, timeout_s: Optional[float] = None) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout_s)
        self.socket.connect(f"/run/replicad/{resource}.sock")
        self.stream = self.socket.makefile("r", encoding="utf-8")

    def send(self, operation: str, **arguments: Any) -> None:
        self.socket.sendall(json.dumps({"op": operation, **arguments}).encode() + b"\n")

    def ask(self, operation: str, **arguments: Any) -> Any:
        self.send(operation, **arguments)
        line = self.stream.readline()
        if not line:
            raise ConnectionError("replicad ended")
        answer = json.loads(line)
        if not answer["ok"]:
            raise Refused(answer["error"])
        return answer["value"]


def control(arguments: List[str]) -> int:
    """replicactl RESOURCE status|primary|secondary|outdate|connect [--discard-my-data]|read NUMBER|write NUMBER TEXT"""
    if len(arguments) < 2:
        print(f"usage: {control.__doc__}", file=sys.stderr)
        return 2
    resource, operation, *rest = arguments
    extra: Dict[str, Any] = {}
    if operation == "write":
        extra = {"number": int(rest[0]), "value": rest[1]}
    elif operation == "read":
        extra = {"number": int(rest[0])}
    elif operation == "connect":
        extra = {"discard_my_data": "--discard-my-data" in rest}
    return _answer(resource, operation, extra)


def _answer(resource: str, operation: str, extra: Dict[str, Any]) -> int:
    try:
        value = Connection(resource).ask(operation, **extra)
    except Refused as refused:
        print(f"{resource}: {operation}: {refused}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{resource}: {operation}: replicad does not answer: {error}", file=sys.stderr)
        return 7
    if value is not None:
        print(json.dumps(value))
    return 0


def driver(arguments: List[str]) -> int:
    """replica-driver describe|watch|block|unblock|thaw|release RESOURCE, or disconnect RESOURCE [PEER]"""
    if arguments[:1] == ["disconnect"]:
        arguments = arguments[:2]  # there is one peer
    if len(arguments) != 2 or arguments[0] not in ("describe", "watch", *ACTIONS):
        print(f"usage: {driver.__doc__}", file=sys.stderr)
        return 2
    operation, resource = arguments
    node = os.environ.get("HEARTGATE_NODE") or socket.gethostname()
    if operation == "describe":
        peers = [name for name in load_configuration(resource)["nodes"] if name != node]
        print(json.dumps({"protocol": 1, "resource": resource, "peers": peers, "device": str(ROOT / resource / "data"),
                          "can_freeze": True}))
        return 0
    if operation == "watch":
        return _watch(resource, node)
    try:
        value = Connection(resource, 8.0).ask(operation)
    except Refused as refused:
        print(f"{resource}: {operation}: {refused}", file=sys.stderr)
        return 1
    except OSError:
        return _without_daemon(resource, operation)
    if value is not None:
        print(json.dumps(value), flush=True)
    return 0


def _without_daemon(resource: str, operation: str) -> int:
    """Nothing runs, so nothing serves: what has to last is written to the state that the daemon will find."""
    if operation in ("disconnect", "thaw"):
        print(f"{resource}: {operation}: replicad does not run", file=sys.stderr)
        return 0 if operation == "disconnect" else 1
    if not (ROOT / resource / "state.json").exists():
        print(json.dumps({"how": "absent"}) if operation == "block" else "", flush=True)
        return 0
    store = Store(resource)
    if not store.locked:
        print(f"{resource}: {operation}: replicad runs but does not answer", file=sys.stderr)
        return 1
    state = store.state
    if operation == "unblock":
        if state["outdated_by_block"] and state["disk"] == "outdated":
            state["disk"] = "uptodate"
        state.update(blocked=False, outdated_by_block=False)
    else:
        state["blocked"] = True
        if state["disk"] == "uptodate":
            state.update(disk="outdated", outdated_by_block=True)
    store.save()
    if operation == "block":
        print(json.dumps({"how": "outdated"}), flush=True)
    return 0


def _watch(resource: str, node: str) -> int:
    peers = [name for name in load_configuration(resource)["nodes"] if name != node]
    absent = {"disk": "absent", "role": "unknown", "frozen": None, "generation": None,
              "peers": {name: {"link": "unknown", "connection": 0, "disk": "unknown", "out_of_sync_bytes": None}
                        for name in peers}}
    said = False
    while True:
        try:
            connection = Connection(resource)
            connection.send("watch")
            break
        except OSError:
            if not said:
                print(json.dumps(absent), flush=True)
                said = True
            time.sleep(0.05)
    for line in connection.stream:
        sys.stdout.write(line)
        sys.stdout.flush()
    return 1


def writer(arguments: List[str]) -> int:
    """lab-writer RESOURCE [INTERVAL_S]: numbered records for ever; each acknowledged one is reported to the lab."""
    resource, interval_s = arguments[0], float(arguments[1]) if len(arguments) > 1 else 0.03
    lab = socket.socket(socket.AF_UNIX)
    lab.connect(LAB_SOCKET)
    try:
        connection = Connection(resource)
        number = int(connection.ask("open"))
        name = f"{socket.gethostname()}:{os.getpid()}:{time.monotonic_ns()}"
        while True:
            number += 1
            value = f"{name}:{number}"
            connection.ask("write", number=number, value=value)
            report = {"op": "record", "resource": resource, "number": number, "value": value}
            lab.sendall(json.dumps(report).encode() + b"\n")
            time.sleep(interval_s)
    except (Refused, OSError) as error:
        print(f"lab-writer: {error}", file=sys.stderr)
        return 1
