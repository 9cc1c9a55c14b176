"""The set-up's part in Corosync: a cluster if there is none, a link for every heartbeat, the replication's as the last. Pure."""

from __future__ import annotations

import ipaddress
from typing import Dict, FrozenSet, List, Optional, Sequence, Tuple

from heartgate.checks import corosync_edit, setup_tools
from heartgate.checks.links import End, Link
from heartgate.checks.setup_model import Action, Command, Facts, Problem, PutFile, State, Step, Tool, Wish

CONF, KEY = "/etc/corosync/corosync.conf", "/etc/corosync/authkey"
START_S = 90.0
ONLINE = "both nodes are online (crm_mon -1)"
Addresses = Dict[str, str]  # node -> address


def wanted(wish: Wish) -> Tuple[Link, ...]:
    """Links that Corosync should have, in their order."""
    links = list(wish.heartbeats)
    if wish.sync_heartbeat:
        links += [sync for sync in wish.syncs or () if not any(same(sync, each) for each in links)]
    return tuple(links)


def same(one: Link, other: Link) -> bool:
    return [(end.host.host, _name(end)) for end in one.ends] == [(end.host.host, _name(end)) for end in other.ends]


def _name(end: End) -> str:
    return end.interface.name if end.interface else end.name


def carries_replication(link: Link, wish: Wish) -> bool:
    return any(same(link, sync) for sync in wish.syncs or ())


def present(link: Link, wish: Wish, facts: Facts) -> Optional[int]:
    """The number of the Corosync link that runs between these two interfaces."""
    corosync = facts.of(wish.local).host.corosync
    mine, theirs = (_ips(end) for end in link.ends)
    for path in corosync.paths if corosync else ():
        if path.local in mine and path.remote in theirs:
            return path.link
    return None


def _ips(end: End) -> Tuple[str, ...]:
    item = end.interface
    return tuple(address.ip for address in item.addresses) if item else ()


def addresses(link: Link, wish: Wish) -> Optional[Addresses]:
    """One for each node, of one network. None: there are none."""
    mine, theirs = (end.interface.addresses if end.interface else () for end in link.ends)
    for here in sorted(mine, key=lambda each: ":" in each.ip):
        for there in theirs:
            one = ipaddress.ip_interface(f"{here.ip}/{here.prefix}")
            other = ipaddress.ip_address(there.ip)
            usable = here.scope == "global" and there.scope == "global" and there.ip != here.ip
            if usable and other.version == one.version and other in one.network:
                return {wish.local: here.ip, wish.peer: there.ip}
    return None


def steps(wish: Wish, facts: Facts, forced: FrozenSet[str] = frozenset()) -> Tuple[List[Step], List[Problem]]:
    """forced: links about which an error of the rules was waived."""
    texts = [facts.of(node).corosync for node in wish.nodes]
    if not wish.heartbeats:
        return [], [Problem("which interfaces carry heartbeats is not known", "name them: --heartbeat IF, once for each")]
    if None in texts:
        lacking = [node for node, text in zip(wish.nodes, texts) if text is None]
        if len(lacking) == 1:
            one = lacking[0]
            what = f"{one} has no {CONF}, the other node has one: is {one} to join that cluster, or is the file an old one?"
            remedy = f"copy it to {one} and start the cluster there, or take it away on the other node; then run this again"
            return [], [Problem(what, remedy)]
        return _new(wish, facts)
    samples = with_sample(wish, facts)
    if samples:
        return [_take_samples_away(wish, samples)], []
    problems = _other_cluster(wish, facts)
    if problems:
        return [], problems
    links, problems = _links(wish, facts, forced)
    return [_running(wish, facts), *links], problems


# --- a cluster that is there


def with_sample(wish: Wish, facts: Facts) -> Tuple[str, ...]:
    """Nodes that have a corosync.conf which is not that of a cluster."""
    texts = {node: facts.of(node).corosync for node in wish.nodes}
    return tuple(node for node, text in texts.items() if text is not None and _is_sample(text))


def _is_sample(text: str) -> bool:
    """Debian's package brings a corosync.conf of one node at 127.0.0.1, and starts it."""
    try:
        rings = [address for entry in corosync_edit.nodes(text) for address in entry.addresses.values()]
    except corosync_edit.ConfError:
        return False
    return all(ring.startswith("127.") or ring == "::1" for ring in rings)


def _take_samples_away(wish: Wish, nodes: Sequence[str]) -> Step:
    away = "pcs cluster destroy"
    if wish.tool is Tool.CRMSH:
        away = f"systemctl stop pacemaker corosync && rm {CONF} && rm -f /var/lib/pacemaker/cib/*"
    by_hand = (
        f"{CONF} of {' and '.join(nodes)} is a sample that can reach no other node. If nothing runs in that cluster of one, take "
        f"it away, on {'each of them' if len(nodes) > 1 else 'that node'}: {away}\nThen run this again."
    )
    reason = "There is no cluster of the two yet, and a new one is made only where there is none."
    return Step("cluster", reason, ONLINE, State.BY_HAND, by_hand=by_hand)


def _other_cluster(wish: Wish, facts: Facts) -> List[Problem]:
    lists = {}
    for node in wish.nodes:
        try:
            lists[node] = corosync_edit.nodes(facts.of(node).corosync or "")
        except corosync_edit.ConfError as error:
            return [Problem(f"{CONF} of {node}: {error}", "correct that line first")]
    here, there = (lists[node] for node in wish.nodes)
    if here != there:
        return [Problem(f"{CONF} has another node list on {wish.nodes[0]} than on {wish.nodes[1]}", "make them the same first")]
    names = sorted(entry.name for entry in here)
    if names != sorted(wish.nodes):
        what = f"the cluster's nodes are {', '.join(names) or 'none'}, and you named {' and '.join(wish.nodes)}"
        return [
            Problem(what, "give the two names as they stand in corosync.conf; a cluster of more than two is set up by hand")
        ]
    return []


def _running(wish: Wish, facts: Facts) -> Step:
    reason = "The nodes have to be one cluster: Corosync carries the heartbeats, Pacemaker starts, promotes and fences."
    if facts.cluster is None:
        told = f"Corosync is configured on both nodes, and Pacemaker does not answer on {wish.local} ({facts.cluster_why}).\n"
        by_hand = told + f"Start the cluster: {setup_tools.start_cluster(wish.tool)}"
        return Step("cluster", reason, ONLINE, State.BY_HAND, by_hand=by_hand)
    missing = [node for node in wish.nodes if node not in facts.cluster.online]
    state = State.WAITING if missing else State.DONE
    return Step("cluster", reason, ONLINE, state, seen=f"not online: {', '.join(missing)}" if missing else "", wait_s=START_S)


def _links(wish: Wish, facts: Facts, forced: FrozenSet[str]) -> Tuple[List[Step], List[Problem]]:
    found: List[Step] = []
    problems: List[Problem] = []
    for link in wanted(wish):
        ident, expects = (
            f"link-{link.subject.replace('/', '-')}",
            f"a Corosync link runs on {link.subject} and is up on both nodes",
        )
        if present(link, wish, facts) is not None:
            found.append(Step(ident, _why(link, wish), expects, State.DONE))
            continue
        ends = addresses(link, wish)
        if ends is None:
            problems.append(_no_addresses(link))
            continue
        words = ["heartgate", "heartbeat", "add", *(f"{node}={ends[node]}" for node in wish.nodes)]
        # The rules have been asked already, with the waivers; the command knows none.
        words += ["--force"] if link.subject in forced else []
        found.append(Step(ident, _why(link, wish), expects, State.TODO, (Command(wish.local, tuple(words)),)))
    return found, problems


def _why(link: Link, wish: Wish) -> str:
    if carries_replication(link, wish):
        return (
            "The sync network as a further Corosync link: the nodes still hear each other when the heartbeats are gone, so "
            "that nobody has to be shot. It is the last one, since it ends together with the replication."
        )
    return "A heartbeat: a Corosync link on an interface of its own, over which the nodes still talk when replication is lost."


def _no_addresses(link: Link) -> Problem:
    ends = " and ".join(f"{end.shown} ({', '.join(_ips(end)) or 'no address'})" for end in link.ends)
    return Problem(f"{ends} have no two addresses of one network", "give both one, of a network that no other interface has")


# --- a cluster that is not there yet


def _new(wish: Wish, facts: Facts) -> Tuple[List[Step], List[Problem]]:
    chosen: List[Addresses] = []
    problems: List[Problem] = []
    for link in wanted(wish):
        ends = addresses(link, wish)
        if ends is None:
            problems.append(_no_addresses(link))
        else:
            chosen.append(ends)
    if problems:
        return [], problems
    shown = ", ".join(f"link {number} on {link.subject}" for number, link in enumerate(wanted(wish)))
    reason = f"There is no cluster yet. It gets {shown}, authenticated and encrypted; the replication's network comes last."
    if wish.tool is Tool.CRMSH:
        return [Step("cluster", reason, ONLINE, State.TODO, _by_files(wish, facts, chosen), wait_s=START_S)], []
    return [_by_pcs(wish, facts, chosen, reason)], []


def _by_pcs(wish: Wish, facts: Facts, chosen: Sequence[Addresses], reason: str) -> Step:
    unknown = [node for node in wish.nodes if node not in facts.of(wish.local).pcs_hosts]
    if unknown:
        by_hand = (
            "pcs has no token for " + ", ".join(unknown) + ". On both nodes: passwd hacluster; systemctl enable --now pcsd.\n"
            f"Then here (it asks for that password): pcs host auth {' '.join(wish.nodes)} -u hacluster"
        )
        return Step("cluster", reason, ONLINE, State.BY_HAND, by_hand=by_hand)
    words = [word for node in wish.nodes for word in (node, *(f"addr={ends[node]}" for ends in chosen))]
    commands = (("setup", wish.cluster_name, *words), ("enable", "--all"), ("start", "--all"))
    actions = tuple(Command(wish.local, ("pcs", "cluster", *each)) for each in commands)
    return Step("cluster", reason, ONLINE, State.TODO, actions, wait_s=START_S)


def _by_files(wish: Wish, facts: Facts, chosen: Sequence[Addresses]) -> Tuple[Action, ...]:
    text = conf(wish.cluster_name, wish.nodes, chosen)
    actions: List[Action] = []
    if not facts.of(wish.local).authkey:
        actions.append(Command(wish.local, ("corosync-keygen", "-l", "-k", KEY)))
    if not facts.of(wish.peer).authkey:
        actions.append(Command(wish.local, ("scp", "-p", KEY, f"root@{wish.peer}:{KEY}")))
    actions += [PutFile(node, CONF, text) for node in wish.nodes]
    actions += [Command(node, ("systemctl", "enable", "--now", "corosync", "pacemaker")) for node in wish.nodes]
    return tuple(actions)


def conf(name: str, nodes: Sequence[str], links: Sequence[Addresses]) -> str:
    """A corosync.conf for two nodes. crypto: the same as pcs takes."""
    members = "".join(
        f"    node {{\n        name: {node}\n        nodeid: {number}\n"
        + "".join(f"        ring{link}_addr: {ends[node]}\n" for link, ends in enumerate(links))
        + "    }\n"
        for number, node in enumerate(nodes, 1)
    )
    return (
        f"totem {{\n    version: 2\n    cluster_name: {name}\n    transport: knet\n    crypto_cipher: aes256\n"
        f"    crypto_hash: sha256\n}}\nnodelist {{\n{members}}}\n"
        "quorum {\n    provider: corosync_votequorum\n    two_node: 1\n}\nlogging {\n    to_syslog: yes\n}\n"
    )
