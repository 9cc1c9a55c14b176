"""Run a lab by hand: `python3 -m tests.lab.cli up`, then look at it, cut its links, and take it `down`.

`up` leaves the lab in a background supervisor, which listens on a socket in its run directory and ends by itself after
--lifetime. Exit codes: 0 done, 1 the lab failed, 2 wrong usage, 3 no such lab is running; `exec` ends with the
command's own code.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from tests.lab.api import LabError

NOT_RUNNING = 3
SETUP_TIMEOUT_S = 900.0
REPOSITORY = Path(__file__).resolve().parents[2]


def run_dir() -> Path:
    chosen = os.environ.get("HEARTGATE_LAB_RUN")
    path = Path(chosen) if chosen else Path("/run/heartgate-lab" if os.geteuid() == 0 else f"/tmp/heartgate-lab-{os.geteuid()}")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def socket_path(kind: str) -> Path:
    return run_dir() / f"{kind}.sock"


# ---- supervisor


def make_lab(kind: str, given: Dict[str, Any]) -> Any:
    if kind == "ns":
        return importlib.import_module("tests.lab.ns.lab").NsLab.start()
    from tests.lab.vm.lab import VmLab

    debs = [Path(deb) for deb in given["debs"]]
    return VmLab.start(debs, given["suite"], wait_s=0) if given["fresh"] else VmLab.restore(debs, given["suite"], wait_s=0)


def _frozen(node: Any) -> bool:
    state = getattr(node, "frozen", False)
    return bool(state() if callable(state) else state)


class Supervisor:
    """Owns the lab; one thread per client, one JSON request and one answer each."""

    def __init__(self, kind: str, lab: Any, lifetime_s: float) -> None:
        self.kind, self.lab = kind, lab
        self.ends_at = time.monotonic() + lifetime_s
        self.cuts: Dict[str, List[str]] = {}
        self.over = threading.Event()

    def status(self, _request: Dict[str, Any]) -> Dict[str, Any]:
        nodes = {name: {"powered": node.powered(), "frozen": _frozen(node)} for name, node in self.lab.nodes.items()}
        links = {link: self.cuts.get(link, []) for link in self.lab.links}
        return {"lab": self.kind, "nodes": nodes, "links": links, "ends_in_s": round(self.ends_at - time.monotonic())}

    def exec(self, request: Dict[str, Any]) -> Dict[str, Any]:
        node = self._node(request["node"])
        result = node.run(request["argv"], timeout_s=request["timeout_s"], stdin=request["stdin"], check=False)
        return {"rc": result.rc, "stdout": result.stdout, "stderr": result.stderr}

    def cut(self, request: Dict[str, Any]) -> Dict[str, Any]:
        self.lab.cut(request["link"], node=request["node"], direction=request["direction"])
        text = " ".join(filter(None, (request["node"] or "both ends", request["direction"] or "carrier")))
        self.cuts.setdefault(request["link"], []).append(text)
        return {}

    def mend(self, request: Dict[str, Any]) -> Dict[str, Any]:
        self.lab.mend(request["link"])
        self.cuts.pop(request["link"], None)
        return {}

    def power(self, request: Dict[str, Any]) -> Dict[str, Any]:
        node = self._node(request["node"])
        actions: Dict[str, Callable[[], None]] = {
            "off": node.power_off, "on": node.power_on, "freeze": node.freeze, "thaw": node.thaw,
        }  # fmt: skip
        actions[request["action"]]()
        return {}

    def fence_log(self, _request: Dict[str, Any]) -> Dict[str, Any]:
        now = time.monotonic()
        entries = []
        for fencing in getattr(self.lab, "fencings", []):
            entry: Dict[str, Any] = dict(vars(fencing)) if hasattr(fencing, "__dict__") else {"entry": str(fencing)}
            if isinstance(entry.get("asked_at"), float):
                entry["seconds_ago"] = round(now - entry["asked_at"], 1)
            entries.append(entry)
        return {"fencings": entries}

    def down(self, _request: Dict[str, Any]) -> Dict[str, Any]:
        self.over.set()
        return {}

    def _node(self, name: str) -> Any:
        if name not in self.lab.nodes:
            raise LabError(f"no node {name!r}: one of {', '.join(self.lab.nodes)}")
        return self.lab.nodes[name]

    def answer(self, request: Dict[str, Any]) -> Dict[str, Any]:
        handlers = {name: getattr(self, name) for name in ("status", "exec", "cut", "mend", "power", "fence_log", "down")}
        try:
            return {"ok": handlers[request["op"]](request)}
        except Exception as error:  # whatever it was, the client is told
            return {"error": str(error) or repr(error)}

    def client(self, stream: socket.socket) -> None:
        with stream, stream.makefile("rwb") as lines:
            try:
                request = json.loads(lines.readline())
            except ValueError:
                return
            try:
                lines.write(json.dumps(self.answer(request), default=str).encode() + b"\n")
                lines.flush()
            except OSError:  # the client gave up
                pass

    def serve(self, listener: socket.socket) -> None:
        listener.settimeout(0.2)
        while not self.over.is_set() and time.monotonic() < self.ends_at:
            try:
                stream, _ = listener.accept()
            except socket.timeout:
                continue
            threading.Thread(target=self.client, args=(stream,), daemon=True).start()


def supervise(given: argparse.Namespace) -> int:
    """The background process behind `up`. Its last line of output is `ready`, or the reason why not."""
    kind, path = given.kind, socket_path(given.kind)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(SystemExit(0)))
    lab = make_lab(kind, {"debs": given.deb, "suite": given.suite, "fresh": given.fresh})
    try:
        supervisor = Supervisor(kind, lab, given.lifetime)
        supervisor.over = stop
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(path))
            listener.listen()
            (run_dir() / f"{kind}.pid").write_text(str(os.getpid()))
            print("ready", file=sys.stderr, flush=True)
            supervisor.serve(listener)
    finally:
        lab.down()
        path.unlink(missing_ok=True)
        (run_dir() / f"{kind}.pid").unlink(missing_ok=True)
    return 0


# ---- client


class NotRunning(LabError):
    """No supervisor answers."""


def ask(kind: str, patience_s: float = 60.0, **request: Any) -> Dict[str, Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(patience_s)
        try:
            stream.connect(str(socket_path(kind)))
        except OSError as error:
            raise NotRunning(f"no {kind} lab is running here ({error}); start one with `up`") from error
        with stream.makefile("rwb") as lines:
            lines.write(json.dumps(request).encode() + b"\n")
            lines.flush()
            try:
                line = lines.readline()
            except socket.timeout:
                raise LabError(f"the lab did not answer {request['op']} within {patience_s:g} s") from None
    if not line:
        raise LabError("the lab's supervisor ended before it answered")
    answer: Dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise LabError(answer["error"])
    result: Dict[str, Any] = answer["ok"]
    return result


def up(given: argparse.Namespace) -> int:
    try:
        ask(given.kind, op="status")
    except NotRunning:
        pass
    else:
        raise LabError(f"a {given.kind} lab is running already; `status` shows it, `down` ends it")
    argv = [
        sys.executable,
        "-m",
        "tests.lab.cli",
        "supervise",
        "--lifetime",
        str(given.lifetime),
        "--suite",
        given.suite,
    ]
    argv += ["--ns"] if given.kind == "ns" else []
    argv += ["--fresh"] if given.fresh else []
    for deb in given.deb:
        argv += ["--deb", str(Path(deb).resolve())]
    log = run_dir() / f"{given.kind}.log"
    with open(log, "wb") as out:
        process = subprocess.Popen(argv, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    try:
        _follow(process, log)
    except BaseException:
        if process.poll() is None:
            process.terminate()
            process.wait(60)
        raise
    print(f"{given.kind} lab is up; it ends by itself in {given.lifetime:g} s")
    return 0


def _follow(process: subprocess.Popen[bytes], log: Path) -> None:
    """Show the supervisor's progress until it is ready; LabError if it ends before."""
    deadline = time.monotonic() + SETUP_TIMEOUT_S
    with open(log, errors="replace") as lines:
        while True:
            ended = process.poll() is not None
            for line in lines:
                if line == "ready\n":
                    return
                sys.stderr.write(line)
            if ended:
                raise LabError(f"the lab did not come up (its supervisor ended with {process.returncode}); log: {log}")
            if time.monotonic() > deadline:
                raise LabError(f"the lab was not up within {SETUP_TIMEOUT_S:g} s; log: {log}")
            time.sleep(0.1)


def down(given: argparse.Namespace) -> int:
    ask(given.kind, op="down")
    deadline = time.monotonic() + 60
    while socket_path(given.kind).exists():
        if time.monotonic() > deadline:
            raise LabError("the supervisor did not end within 60 s")
        time.sleep(0.05)
    return 0


def status(given: argparse.Namespace) -> int:
    answer = ask(given.kind, op="status")
    if given.json:
        print(json.dumps(answer, indent=2))
        return 0
    print(f"{answer['lab']} lab, ends in {answer['ends_in_s']} s")
    for name, node in answer["nodes"].items():
        print(f"  {name:8} {'off' if not node['powered'] else 'frozen' if node['frozen'] else 'on'}")
    for link, cuts in answer["links"].items():
        print(f"  {link:8} {'cut: ' + ', '.join(cuts) if cuts else 'whole'}")
    return 0


def exec_(given: argparse.Namespace) -> int:
    argv: List[str] = given.command[1:] if given.command[:1] == ["--"] else given.command
    if not argv:
        raise LabError("no command given: exec NODE -- COMMAND")
    stdin = sys.stdin.read() if given.stdin else ""
    answer = ask(given.kind, given.timeout + 30, op="exec", node=given.node, argv=argv, timeout_s=given.timeout, stdin=stdin)
    sys.stdout.write(answer["stdout"])
    sys.stderr.write(answer["stderr"])
    return int(answer["rc"])


def cut(given: argparse.Namespace) -> int:
    ask(given.kind, op="cut", link=given.link, node=given.node, direction=given.direction)
    return 0


def mend(given: argparse.Namespace) -> int:
    ask(given.kind, op="mend", link=given.link)
    return 0


def power(given: argparse.Namespace) -> int:
    ask(given.kind, op="power", action=given.action_, node=given.node)
    return 0


def fence_log(given: argparse.Namespace) -> int:
    for entry in ask(given.kind, op="fence_log")["fencings"]:
        print(json.dumps(entry))
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python3 -m tests.lab.cli", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(dest="name", required=True, metavar="COMMAND")

    def add(name: str, action: Callable[[argparse.Namespace], int], text: Optional[str]) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text) if text else commands.add_parser(name)
        sub.add_argument(
            "--ns",
            dest="kind",
            action="store_const",
            const="ns",
            default="vm",
            help="the namespace lab (default: the VM lab)",
        )
        sub.set_defaults(action=action)
        return sub

    for name, action, text in (("up", up, "start a lab in the background"), ("supervise", supervise, None)):
        sub = add(name, action, text)
        sub.add_argument("--lifetime", type=float, default=3600.0, help="seconds after which it ends by itself (default 3600)")
        sub.add_argument("--deb", action="append", default=[], help="package to install in the machines (VM lab; repeatable)")
        sub.add_argument("--suite", default="bookworm", help="Debian suite of the machines (VM lab)")
        sub.add_argument(
            "--fresh",
            action="store_true",
            help="boot and form the cluster now instead of using the saved state (VM lab)",
        )
    add("status", status, "nodes, power, links and cuts").add_argument("--json", action="store_true")
    sub = add("exec", exec_, "run a command on a node and end with its exit code")
    sub.add_argument("--timeout", type=float, default=60.0)
    sub.add_argument("--stdin", action="store_true", help="hand this command's standard input on")
    sub.add_argument("node")
    sub.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...")
    sub = add("cut", cut, "cut a link")
    sub.add_argument("link")
    sub.add_argument("--node", help="only this node's end")
    sub.add_argument("--direction", choices=("in", "out"), help="keep the carrier, lose this node's frames in one direction")
    add("mend", mend, "undo every cut of a link").add_argument("link")
    sub = add("power", power, "switch a node off or on, freeze or thaw it")
    sub.add_argument("action_", metavar="ACTION", choices=("off", "on", "freeze", "thaw"))
    sub.add_argument("node")
    add("fence-log", fence_log, "the power actions that nodes asked for, one JSON object a line")
    add("down", down, "end the lab and leave nothing behind")
    return top


def main(arguments: Optional[List[str]] = None) -> int:
    given = parser().parse_args(arguments)
    try:
        result: int = given.action(given)
        return result
    except NotRunning as error:
        print(f"lab: {error}", file=sys.stderr)
        return NOT_RUNNING
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lab: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
