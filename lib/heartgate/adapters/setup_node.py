"""One node's part of `heartgate setup`: what there is on it, and putting a new file. Here, and on the other node over ssh
(`heartgate setup-here`: a JSON request in, the answer out). Nothing but `put` changes anything, and it never replaces a file."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from heartgate.adapters import heartbeat_change, host_facts, process
from heartgate.adapters.base import AdapterError
from heartgate.checks import facts_codec, setup_cib, setup_cluster, setup_codec, setup_drbd
from heartgate.checks.setup_model import ClusterFacts, NodeFacts
from heartgate.checks.source import ParseError

PROGRAMS = ("pcs", "crm", "drbdadm", "drbdsetup")
LOOK_S, SSH_S, REQUEST_MAX = 15.0, 60.0, 4 * 1024 * 1024
TEXT_MAX = 1024 * 1024
SECRET = re.compile(r"(shared-secret\s+)(\"[^\"\n]*\"|[^;\s]+)")
MAY_PUT = (setup_drbd.OWN_FILE, setup_cluster.CONF)


class SetupError(Exception):
    """For a person: what could not be had or done, where, and what to do."""


# --- what there is


def facts(device: str) -> Dict[str, Any]:
    """Everything of this node as plain data. Raises SetupError."""
    try:
        host = host_facts.gather(host_facts.Request(interfaces=()))
    except AdapterError as error:
        raise SetupError(f"the interfaces cannot be looked at: {error}") from error
    drbd, drbd_why = _drbd(device)
    return {
        "format": setup_codec.FORMAT,
        "version": setup_codec.VERSION,
        "host": facts_codec.encode(host),
        "programs": [name for name in PROGRAMS if process.find(name)],
        "corosync": _read(Path(setup_cluster.CONF)),
        "authkey": Path(setup_cluster.KEY).exists(),
        "pcs_hosts": _pcs_hosts(),
        "drbd": drbd,
        "drbd_why": drbd_why,
    }


def _read(path: Path) -> Optional[str]:
    """None: there is no such file. Raises SetupError."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:TEXT_MAX]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SetupError(f"{path}: {error.strerror}") from error


def _pcs_hosts() -> List[str]:
    with contextlib.suppress(OSError, ValueError):
        return sorted(heartbeat_change.known_hosts(heartbeat_change.KNOWN_HOSTS.read_text(encoding="utf-8")))
    return []


def _drbd(device: str) -> Tuple[Optional[Dict[str, Any]], str]:
    main = Path(setup_drbd.MAIN_FILE)
    text = _read(main)
    if process.find("drbdadm") is None or text is None:
        return None, ""
    dump, why = _dump(main)
    if dump is None:
        return None, why
    loaded = Path("/sys/module/drbd").exists()
    show = process.run(["drbdsetup", "show"], timeout_s=LOOK_S) if loaded else None
    if show is not None and not show.ok:
        return None, f"drbdsetup show: {show.brief()}"
    drbd9 = _drbd9()
    trial, trial_why, adjust = _try(device, drbd9, text, loaded)
    found = {
        "dump": dump,
        "show": show.stdout if show else "",
        "drbd9": drbd9,
        "trial": trial,
        "trial_why": trial_why,
        "adjust": adjust,
    }
    return {name: SECRET.sub(r'\1"(set)"', value) if isinstance(value, str) else value for name, value in found.items()}, ""


def _dump(place: Path) -> Tuple[Optional[str], str]:
    done = process.run(["drbdadm", "--config-file", str(place), "dump"], timeout_s=LOOK_S)
    if done.ok:
        return done.stdout, ""
    if "no resources defined" in done.stdout + done.stderr:
        return "", ""
    said = [line for line in done.stderr.splitlines() if line.strip() and "modinfo" not in line]
    return None, f"drbdadm dump: {' '.join(said[:2])[:300] or done.brief()}"


def _drbd9() -> bool:
    """The kernel's version, else that of the module that would be loaded, else that of the programs."""
    with contextlib.suppress(OSError):
        return not Path("/sys/module/drbd/version").read_text(encoding="ascii", errors="replace").startswith("8.")
    done = process.run(["modinfo", "-F", "version", "drbd"], timeout_s=LOOK_S)
    return not (done.ok and done.stdout.startswith("8."))


def _try(device: str, drbd9: bool, main: str, loaded: bool) -> Tuple[Optional[str], str, Optional[str]]:
    """(all resources as they would be with our file beside the others, why not, what `drbdadm adjust` would run)."""
    with tempfile.TemporaryDirectory(prefix="heartgate-setup-") as directory:
        place = Path(directory) / "drbd.conf"
        place.write_text(f'include "{setup_drbd.MAIN_FILE}";\n{setup_drbd.own_file(drbd9)}', encoding="utf-8")
        trial, why = _dump(place)
        why = why.replace(f"{place}:", "its line ")  # its directory is gone when somebody reads this
        if not setup_drbd.INCLUDES.search(main):
            trial, why = None, f'{setup_drbd.MAIN_FILE} does not include "drbd.d/*.res"'
        elif Path(setup_drbd.OWN_FILE).exists():
            trial, why = None, f"{setup_drbd.OWN_FILE} is there already"
        adjust = None
        if loaded:
            config = place if trial is not None else Path(setup_drbd.MAIN_FILE)
            done = process.run(["drbdadm", "--dry-run", "--config-file", str(config), "adjust", device], timeout_s=LOOK_S)
            adjust = done.stdout if done.ok else None
    return trial, why, adjust


def cluster() -> Tuple[Optional[ClusterFacts], str]:
    """(the running cluster, why not)."""
    done = process.run(["cibadmin", "--query"], timeout_s=LOOK_S)
    if not done.ok:
        return None, f"cibadmin --query: {done.brief()}"
    try:
        return setup_cib.parse(done.stdout), ""
    except ParseError as error:
        return None, str(error)


# --- a new file


def put(path: str, text: str, mode: int) -> None:
    """Whole or not at all, and only where there is no such file. Raises SetupError."""
    if path not in MAY_PUT:
        raise SetupError(f"{path} is no file that the set-up makes")
    target = Path(path)
    if _read(target) == text:
        return
    try:
        descriptor, name = tempfile.mkstemp(prefix=".heartgate-", dir=target.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fchmod(file.fileno(), mode & 0o777)
                os.fsync(file.fileno())
            os.link(name, target)  # fails where somebody has made one meanwhile
        finally:
            Path(name).unlink()
        directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except FileExistsError:
        raise SetupError(f"{path} is there already, with another content: it is left as it is") from None
    except OSError as error:
        raise SetupError(f"{path}: {error.strerror}") from error


# --- the other node


def serve(text: str) -> Dict[str, Any]:
    """One request of the other node. Never raises for bad input."""
    try:
        request = json.loads(text)
        operation = request["op"]
        if operation == "facts":
            return {"ok": True, "facts": facts(str(request["device"]))}
        if operation == "put":
            put(str(request["path"]), str(request["text"]), int(request["mode"]))
            return {"ok": True}
    except SetupError as error:
        return {"ok": False, "error": str(error)}
    except (ValueError, KeyError, TypeError) as error:
        return {"ok": False, "error": f"no request that this version of heartgate knows ({error})"}
    return {"ok": False, "error": f"no request that this version of heartgate knows ({operation!r:.40})"}


class Nodes:
    """This node and the other one, which is reached by ssh as root."""

    def __init__(self, local: str) -> None:
        self._local = local

    def facts(self, node: str, device: str) -> NodeFacts:
        """Raises SetupError."""
        raw = facts(device) if node == self._local else self._ask(node, op="facts", device=device).get("facts")
        try:
            return setup_codec.decode(node, raw if isinstance(raw, dict) else {})
        except ParseError as error:
            raise SetupError(str(error)) from error

    def put(self, node: str, path: str, text: str, mode: int) -> None:
        """Raises SetupError."""
        if node == self._local:
            put(path, text, mode)
        else:
            self._ask(node, op="put", path=path, text=text, mode=mode)

    def run(self, node: str, argv: Sequence[str], stdin: str, timeout_s: float) -> process.Completed:
        if node == self._local:
            return process.run(argv, timeout_s=timeout_s, stdin=stdin)
        # ssh hands its words to a shell on the other side.
        return process.run([*_ssh(node), shlex.join(argv)], timeout_s=timeout_s, stdin=stdin)

    def _ask(self, node: str, **request: Any) -> Mapping[str, Any]:
        words = [*_ssh(node), heartbeat_change.COMMAND, "setup-here"]
        done = process.run(words, timeout_s=SSH_S, stdin=json.dumps(request))
        if done.rc == 255 or done.rc == process.RC_NOT_FOUND and not done.stdout:
            raise SetupError(f"{node} cannot be reached by ssh as root without a password, or has no heartgate: {done.brief()}")
        try:
            answer = json.loads(done.stdout)
        except ValueError:
            raise SetupError(
                f"{node} was reached by ssh, but its heartgate does not answer as this one does: {done.brief()}"
            ) from None
        if not isinstance(answer, dict) or answer.get("ok") is not True:
            told = answer.get("error") if isinstance(answer, dict) else "no answer"
            raise SetupError(f"{node}: {told}")
        return answer


def _ssh(node: str) -> List[str]:
    if not heartbeat_change.NODE_NAME.match(node):
        raise SetupError(f'the node name "{node}" cannot be used in a command')
    return [*heartbeat_change.SSH, "--", f"root@{node}"]
