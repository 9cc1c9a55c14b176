"""Changing the links of a running cluster: the same step on every node, one reload, and a way back.

Two ways to reach the other nodes, taken in this order:
- pcs: `pcs cluster link add|remove`, where all nodes are known to pcs (`pcs host auth`) and pcsd answers on all of them.
- ssh: what crmsh does (its `crm corosync link` of version 5, its `push` and `reload` before): the file changed on each
  node, over ssh as root, then `corosync-cfgtool -R` once, which makes every Corosync of the cluster read its own file.
  The text is changed line by line, so that comments stay. It needs root's ssh between the nodes without a password, as
  crmsh does, and heartgate on both.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Protocol, Sequence, Tuple

from heartgate.adapters import conf_file, knet_stats, process
from heartgate.adapters.addresses import local_addresses, way_to
from heartgate.adapters.base import AdapterError, CarrierLost
from heartgate.adapters.conf_file import ConfFile, ConfFileError
from heartgate.checks import corosync_edit, facts_codec

KNOWN_HOSTS = Path("/var/lib/pcsd/known-hosts")
COMMAND = "/usr/sbin/heartgate"  # a login shell of its own may have another search path
NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
PCS_STATUS_S, PCS_CHANGE_S = 30.0, 150.0
SSH_S, RELOAD_S, CMAP_S = 30.0, 20.0, 5.0
SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=8", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")
# In pcs the knet options have no prefix.
PCS_OPTION = {"knet_ping_interval": "ping_interval", "knet_ping_timeout": "ping_timeout",
              "knet_ping_precision": "ping_precision", "knet_pong_count": "pong_count"}  # fmt: skip


class ChangeError(Exception):
    """For a person: what could not be done, where, and what to do."""


@dataclass(frozen=True)
class Plan:
    """A link that comes or goes. `nodes`: names in the node list's order. `addresses`: in the same order, empty when the
    link goes. `options`: of its `interface` section."""

    link: int
    nodes: Tuple[str, ...]
    addresses: Tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def adds(self) -> bool:
        return bool(self.addresses)

    def applied(self, text: str) -> str:
        """Raises corosync_edit.ConfError."""
        if self.adds:
            return corosync_edit.add_link(text, self.link, self.addresses, dict(self.options))
        return corosync_edit.remove_link(text, self.link)


class Way(Protocol):
    """`apply` and `undo` are bounded. `apply` raises ChangeError, and `undo` is called after it whatever happened."""

    name: str

    def apply(self, plan: Plan) -> None: ...
    def commit(self) -> None: ...
    def undo(self) -> List[str]:
        """Everything as before; returns what could not be put back, in sentences."""

    def connected(self, node: str) -> Optional[Dict[Tuple[str, int], Optional[bool]]]:
        """What another node says of its links, by (node, link); None if it cannot be asked this way."""

    def addresses(self, node: str) -> Optional[Dict[str, str]]:
        """Address -> interface of another node; None if it cannot be asked this way."""

    def way_to(self, node: str, address: str, source: str) -> Tuple[Optional[str], Optional[str]]:
        """As `addresses.way_to`, on another node."""

    def facts(self, node: str) -> Optional[str]:
        """What `heartgate facts` prints there; None if it cannot be asked this way. Raises ChangeError."""


def reload_corosync() -> None:
    """Every running Corosync of the cluster reads its corosync.conf again. Raises ChangeError."""
    done = process.run(["corosync-cfgtool", "-R"], timeout_s=RELOAD_S)
    if not done.ok:
        raise ChangeError(f"corosync-cfgtool -R: {done.brief()}")


# --- one node's part, here or over ssh
# ----------------------------------------------------------------------------------------------------------------


def serve(text: str, file: Optional[ConfFile] = None) -> Dict[str, Any]:
    """One request of another node (`heartgate heartbeat apply`): JSON in, the answer out. Never raises for bad input."""
    try:
        request = json.loads(text)
        operation = request["op"]
        handler = _OPERATIONS[operation]
    except (ValueError, KeyError, TypeError) as error:
        return {"ok": False, "error": f"no request that this version of heartgate knows ({error})"}
    try:
        return {"ok": True, **handler(file or ConfFile(), request)}
    except (ConfFileError, CarrierLost, AdapterError) as error:
        return {"ok": False, "error": str(error)}
    except (KeyError, TypeError, ValueError) as error:
        return {"ok": False, "error": f"the request {operation} lacks something: {error}"}


def _read(file: ConfFile, _request: Mapping[str, Any]) -> Dict[str, Any]:
    return {"text": file.read()}


def _write(file: ConfFile, request: Mapping[str, Any]) -> Dict[str, Any]:
    file.write(str(request["expect"]), str(request["text"]), str(request["owner"]))
    return {}


def _restore(file: ConfFile, request: Mapping[str, Any]) -> Dict[str, Any]:
    return {"restored": file.restore(str(request["owner"]))}


def _commit(file: ConfFile, request: Mapping[str, Any]) -> Dict[str, Any]:
    file.commit(str(request["owner"]))
    return {}


def _links(_file: ConfFile, _request: Mapping[str, Any]) -> Dict[str, Any]:
    now = knet_stats.bounded(knet_stats.running, CMAP_S)
    names = {member.nodeid: member.name for member in now.members}
    links = knet_stats.bounded(knet_stats.connected, CMAP_S)
    return {"links": [[names.get(node, f"#{node}"), link, value] for (node, link), value in links.items()]}


def _addresses(_file: ConfFile, _request: Mapping[str, Any]) -> Dict[str, Any]:
    return {"addresses": local_addresses()}


def _way(_file: ConfFile, request: Mapping[str, Any]) -> Dict[str, Any]:
    return {"way": way_to(str(request["to"]), str(request["source"]))}


def _facts(_file: ConfFile, _request: Mapping[str, Any]) -> Dict[str, Any]:
    from heartgate.adapters import host_facts

    return {"facts": facts_codec.encode(host_facts.gather(host_facts.Request(interfaces=())))}


_OPERATIONS: Dict[str, Callable[[ConfFile, Mapping[str, Any]], Dict[str, Any]]] = {
    "read": _read, "write": _write, "restore": _restore, "commit": _commit, "links": _links, "addresses": _addresses, "way": _way,
    "facts": _facts,
}  # fmt: skip


# --- over ssh
# ----------------------------------------------------------------------------------------------------------------


class SshWay:
    name = "ssh, as crmsh does (each node's corosync.conf, then corosync-cfgtool -R)"

    def __init__(self, local: str, peers: Sequence[str]) -> None:
        self._local, self._peers = local, tuple(peers)
        self._owner = secrets.token_hex(8)
        self._touched: List[str] = []

    def ask(self, node: str, operation: str, **fields: Any) -> Dict[str, Any]:
        """Raises ChangeError: not reached, or refused there."""
        request = json.dumps({"op": operation, **fields})
        if node == self._local:
            answer = serve(request)
        else:
            done = process.run([*SSH, "--", f"root@{node}", COMMAND, "heartbeat", "apply"], timeout_s=SSH_S, stdin=request)
            answer = _answer(node, done)
        if answer.get("ok") is not True:
            raise ChangeError(f"{node}: {answer.get('error', 'refused without a reason')}")
        return answer

    def usable(self) -> Optional[str]:
        """Why this way cannot be taken; None if it can."""
        for node in self._peers:
            try:
                self.ask(node, "read")
            except ChangeError as error:
                return str(error)
        return None

    def apply(self, plan: Plan) -> None:
        # The other nodes first: nothing comes into force anywhere before the reload.
        order = (*self._peers, self._local)
        texts = {node: str(self.ask(node, "read")["text"]) for node in order}
        news = {node: self._edited(node, plan, text, texts[self._local]) for node, text in texts.items()}
        for node in order:
            self._touched.append(node)
            self.ask(node, "write", expect=conf_file.digest(texts[node]), text=news[node], owner=self._owner)
        reload_corosync()

    def _edited(self, node: str, plan: Plan, text: str, own: str) -> str:
        try:
            if corosync_edit.nodes(text) != corosync_edit.nodes(own):
                raise ChangeError(
                    f"corosync.conf of {node} has another node list than that of {self._local}: make them the same first"
                )
            return plan.applied(text)
        except corosync_edit.ConfError as error:
            raise ChangeError(f"corosync.conf of {node}: {error}") from error

    def commit(self) -> None:
        for node in self._touched:
            self.ask(node, "commit", owner=self._owner)

    def undo(self) -> List[str]:
        problems = []
        for node in self._touched:
            try:
                self.ask(node, "restore", owner=self._owner)
            except ChangeError as error:
                problems.append(f"{error}; when it can be reached, run there: heartgate heartbeat undo")
        try:
            if self._touched:
                reload_corosync()
        except ChangeError as error:
            problems.append(str(error))
        return problems

    def connected(self, node: str) -> Optional[Dict[Tuple[str, int], Optional[bool]]]:
        try:
            return {(str(name), int(link)): value for name, link, value in self.ask(node, "links")["links"]}
        except (KeyError, TypeError, ValueError) as error:
            raise ChangeError(f"{node}: its answer makes no sense ({error})") from error

    def addresses(self, node: str) -> Optional[Dict[str, str]]:
        found = self.ask(node, "addresses").get("addresses")
        return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else None

    def way_to(self, node: str, address: str, source: str) -> Tuple[Optional[str], Optional[str]]:
        found = self.ask(node, "way", to=address, source=source).get("way")
        interface, gateway = found if isinstance(found, list) and len(found) == 2 else (None, None)
        return interface, gateway

    def facts(self, node: str) -> Optional[str]:
        text = self.ask(node, "facts").get("facts")
        return text if isinstance(text, str) else None


def _answer(node: str, done: process.Completed) -> Dict[str, Any]:
    if done.rc in (process.RC_NOT_EXECUTABLE, process.RC_NOT_FOUND):
        raise ChangeError(f"{node}: ssh is not installed here, or {COMMAND} not there: {done.brief()}")
    if done.rc == 255 or done.rc >= process.RC_TIMEOUT:
        raise ChangeError(f"{node} cannot be reached by ssh as root without a password: {done.brief()}")
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise ChangeError(f"{node} was reached by ssh, but heartgate there does not answer: {done.brief()}") from None
    return answer if isinstance(answer, dict) else {}


# --- through pcs
# ----------------------------------------------------------------------------------------------------------------


class PcsWay:
    name = "pcs (pcs cluster link)"

    def __init__(self, nodes: Sequence[str], file: Optional[ConfFile] = None) -> None:
        self._nodes = tuple(nodes)
        self._file = file or ConfFile()
        self._owner = secrets.token_hex(8)
        self._kept = False

    def usable(self) -> Optional[str]:
        if process.find("pcs") is None:
            return "pcs is not installed"
        try:
            unknown = set(self._nodes) - known_hosts(KNOWN_HOSTS.read_text(encoding="utf-8"))
        except FileNotFoundError:
            unknown = set(self._nodes)
        except (OSError, ValueError) as error:
            return f"{KNOWN_HOSTS} cannot be read ({error}): pcs host auth {' '.join(self._nodes)}"
        if unknown:
            return f"pcs is not told of {', '.join(sorted(unknown))}: pcs host auth {' '.join(self._nodes)}"
        done = process.run(["pcs", "status", "pcsd"], timeout_s=PCS_STATUS_S)
        return None if done.ok else f"pcsd does not answer on every node ({'; '.join(map(str.strip, _words(done)))})"

    def apply(self, plan: Plan) -> None:
        try:
            self._file.keep(self._owner)
        except ConfFileError as error:
            raise ChangeError(str(error)) from error
        self._kept = True
        done = process.run(pcs_command(plan), timeout_s=PCS_CHANGE_S)
        if not done.ok:
            raise ChangeError(f"{' '.join(pcs_command(plan))}: rc {done.rc}: {'; '.join(_words(done))}")

    def commit(self) -> None:
        try:
            self._file.commit(self._owner)
        except ConfFileError as error:
            raise ChangeError(str(error)) from error

    def undo(self) -> List[str]:
        """The old text to every node, comments and all, whatever pcs left on which of them."""
        if not self._kept:
            return []
        try:
            self._file.restore(self._owner, force=True)
        except ConfFileError as error:
            return [str(error)]
        problems = []
        done = process.run(["pcs", "cluster", "sync", "corosync"], timeout_s=PCS_CHANGE_S)
        if not done.ok:
            problems.append(f"pcs cluster sync corosync: {'; '.join(_words(done))}; run it again when all nodes can be reached")
        try:
            reload_corosync()
        except ChangeError as error:
            problems.append(str(error))
        return problems

    def connected(self, node: str) -> Optional[Dict[Tuple[str, int], Optional[bool]]]:
        return None

    def addresses(self, node: str) -> Optional[Dict[str, str]]:
        return None

    def way_to(self, node: str, address: str, source: str) -> Tuple[Optional[str], Optional[str]]:
        return None, None

    def facts(self, node: str) -> Optional[str]:
        return None


def known_hosts(text: str) -> set[str]:
    """Names of the hosts for which pcs has a token, and nothing else of that file. Raises ValueError."""
    found = json.loads(text)
    hosts = found.get("known_hosts") if isinstance(found, dict) else None
    if not isinstance(hosts, dict):
        raise ValueError(f"{KNOWN_HOSTS} lists no hosts")
    return {str(name) for name, entry in hosts.items() if isinstance(entry, dict) and entry.get("token")}


def pcs_command(plan: Plan) -> List[str]:
    if not plan.adds:
        return ["pcs", "cluster", "link", "remove", str(plan.link)]
    options = [f"linknumber={plan.link}", *(f"{PCS_OPTION[key]}={value}" for key, value in dict(plan.options).items())]
    addresses = [f"{node}={address}" for node, address in zip(plan.nodes, plan.addresses)]
    return ["pcs", "cluster", "link", "add", *addresses, "options", *options]


def _words(done: process.Completed) -> List[str]:
    lines = (done.stdout + done.stderr).splitlines()
    return [line.strip()[:200] for line in lines if line.strip()][-6:] or [f"rc {done.rc}"]


def choose(local: str, nodes: Sequence[str]) -> Way:
    """The way that works here. Raises ChangeError with the reason for each that does not."""
    odd = [node for node in nodes if not NODE_NAME.match(node)]
    if odd:
        raise ChangeError(f'the node name "{odd[0]}" in corosync.conf cannot be used in a command')
    by_pcs = PcsWay(nodes)
    why_not_pcs = by_pcs.usable()
    if why_not_pcs is None:
        return by_pcs
    by_ssh = SshWay(local, [node for node in nodes if node != local])
    why_not_ssh = by_ssh.usable()
    if why_not_ssh is None:
        return by_ssh
    raise ChangeError(
        f"the other nodes' corosync.conf cannot be changed from here.\n  pcs: {why_not_pcs}\n  ssh: {why_not_ssh}"
    )
