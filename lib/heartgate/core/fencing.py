"""Who may shoot: facts about the replicas that this node and the target both hold in, one answer with its rule out.

`fence_heartgate` asks this for every `off` and `reboot`, before the agent that cuts the power. Two nodes that lost each
other ask at about the same time, each with what it knows itself, so answers are built to differ:

* A node with blocked or unproven data never shoots, unless the target is heard to be no better (E7), or a third node is heard
  that has the data. Pacemaker chooses whose hand it is, and asks no other one after a refusal.
* The others take turns: the first rank at once, the other one a `rank_delay` later, by when it has been shot.
* The rank depends on roles with `policy=active-first`, and a role may have changed in the very moment of the loss. So a node
  ranks itself by every role that the target may believe it to have. If all of them give the same order, the target cannot
  have come to the same place in it. If not, the node is unsure and takes one of two later turns, by its name.

So of two nodes that hold the same devices, never both have the same turn (tests/unit/test_core_fencing.py). Whoever shoots for
another one takes one of the two later turns, by that one's name: the target never has that turn against it, whatever it
believes and whatever other devices the two share, which the hand need not know. Refusing protects
the service; what protects the data is the policy, where nobody who is blocked can claim by fencing.
"""

from __future__ import annotations

from enum import Enum
from typing import Callable, FrozenSet, NamedTuple, Optional, Tuple

from heartgate.core.model import SERVING, Disk, Link, Rank, Role, Standing

BAD_STANDINGS = frozenset({Standing.BLOCKED, Standing.UNPROVEN})
BAD_DISKS = frozenset({Disk.INCONSISTENT, Disk.DISKLESS})
WHOLE_DISKS = frozenset({Disk.UPTODATE, Disk.CONSISTENT})
ROLES = (Role.PRIMARY, Role.SECONDARY)


class Turn(int, Enum):
    """When to pass, in units of `rank_delay`. The last two are for nodes that cannot know their rank."""

    AT_ONCE = 0
    SECOND = 1
    LATE = 2
    LAST = 3


class Word(NamedTuple):
    """The newest that is known of the target's replica. live: it can be heard now; else it is the last that it said."""

    standing: Standing
    epoch: int
    live: bool


class Other(NamedTuple):
    """What a third node that holds the device tells now, never its last word. link: its replication with the target."""

    node: str
    standing: Standing
    epoch: int
    disk: Disk = Disk.UNKNOWN
    link: Link = Link.UNKNOWN


class DeviceFacts(NamedTuple):
    """One device that both nodes hold. A default means "not known".

    standing, epoch, in_sync: this node's record, as it is worth in this boot. before_target: this node has the higher
    priority. own_roles: every role that the target may believe this replica to have. link: replication with the target.
    solo_on_disk: a fresh disk heartbeat of the target says solo. promised_to: to whom this node confirmed that it is blocked.
    """

    device: str
    standing: Optional[Standing] = None
    epoch: int = 0
    in_sync: Tuple[str, ...] = ()
    disk: Disk = Disk.UNKNOWN
    link: Link = Link.UNKNOWN
    policy: Optional[Rank] = None
    before_target: bool = False
    own_roles: FrozenSet[Role] = frozenset(ROLES)
    target_role: Role = Role.UNKNOWN
    target: Optional[Word] = None
    solo_on_disk: bool = False
    promised_to: str = ""
    others: Tuple[Other, ...] = ()


class Facts(NamedTuple):
    """devices: those that both nodes hold, sorted by name. guards_any: this node knows of any guarded device at all.
    lacking: devices that the administrator named and of which nothing is known here. alone: why a yes could count as a completed
    fencing, "" if something in the fencing levels cuts the power, or if that is not known."""

    action: str
    me: str
    target: str
    devices: Tuple[DeviceFacts, ...] = ()
    guards_any: bool = True
    lacking: Tuple[str, ...] = ()
    hold_while_synced: bool = False
    alone: str = ""


class Answer(NamedTuple):
    """passes: exit 0, the next device of the level cuts the power. turn: from when on the answer holds."""

    rule: str
    passes: bool
    turn: Turn
    reason: str


class Rule(NamedTuple):
    """The first rule that applies answers. apply gives the reason, or None where the rule does not apply."""

    ident: str
    passes: bool
    turn: Turn
    text: str
    apply: Callable[[Facts], Optional[str]]


# --- one device ----------------------------------------------------------------------------------------------------------


def bad_here(device: DeviceFacts) -> bool:
    """The data here may be old. A solo replica that is marked outdated is just having that mark lifted."""
    if device.standing in BAD_STANDINGS or device.disk in BAD_DISKS:
        return True
    return device.disk is Disk.OUTDATED and device.standing is not Standing.SOLO


def heard_bad(device: DeviceFacts) -> bool:
    """The target says now that it may not serve. What it said before it was lost may have changed since: no."""
    word = device.target
    return word is not None and word.live and word.standing in BAD_STANDINGS


def target_out(facts: Facts, device: DeviceFacts) -> bool:
    """The data here is good and the target's is not: it refuses, so nobody has to wait for it.

    Its last word counts only while this node has not readmitted it since (which takes a higher epoch).
    """
    good = device.standing in SERVING or device.standing is Standing.DECIDING
    if not good or bad_here(device):
        return False
    if facts.target not in device.in_sync:
        return True
    word = device.target
    return word is not None and word.standing in BAD_STANDINGS and word.epoch >= device.epoch


def _doubtful(facts: Facts) -> Tuple[DeviceFacts, ...]:
    """Those of which the target may have the better data."""
    return tuple(device for device in facts.devices if bad_here(device) and not heard_bad(device))


def _has_data(facts: Facts, device: DeviceFacts, other: Other) -> bool:
    """That node has the data, as far as it and this node know. Nothing that is not known counts for it.

    Who asks whether it may go on alone is in a lower epoch than those who have confirmed to it.
    """
    word, promised = device.target, device.standing is Standing.BLOCKED and device.promised_to == other.node
    if other.standing not in SERVING and other.standing is not Standing.DECIDING:
        return False
    if word is not None and word.standing not in BAD_STANDINGS and word.epoch > other.epoch:
        return False
    if facts.hold_while_synced and other.link is not Link.DOWN:
        return False  # asked itself, it would perhaps hold
    return other.disk in WHOLE_DISKS and (other.epoch >= device.epoch or promised)


def served(facts: Facts) -> str:
    """For whom this node may shoot although its own data may be the worse: one node that has the data of every device in
    question. "": nobody."""
    doubtful = _doubtful(facts)
    if not doubtful or facts.lacking or any(device.standing is None for device in facts.devices):
        return ""
    able = [{other.node for other in device.others if _has_data(facts, device, other)} for device in doubtful]
    return min(set.intersection(*able) - {facts.me, facts.target}, default="")


def _known(role: Role) -> Tuple[Role, ...]:
    return ROLES if role is Role.UNKNOWN else (role,)


def _is_first(device: DeviceFacts, own: Role, target: Role) -> bool:
    if device.policy is Rank.ACTIVE_FIRST and own is not target:
        return own is Role.PRIMARY
    return device.before_target


def bounds(device: DeviceFacts) -> Tuple[int, int]:
    """(least, most) of: 1 where this node is before the target, -1 where the target is."""
    if device.policy is None:
        return -1, 1
    found = {
        1 if _is_first(device, own, target) else -1
        for believed in device.own_roles or ROLES
        for own in _known(believed)
        for target in _known(device.target_role)
    }
    return min(found), max(found)


def order(facts: Facts) -> int:
    """1: this node is before the target, -1: the target is, 0: that cannot be known here.

    Ranks of several devices may contradict each other: the node that is first on more of them is first; if it is as
    many on both, the device whose name sorts first decides.
    """
    every = [bounds(device) for device in facts.devices]
    least, most = sum(low for low, _ in every), sum(high for _, high in every)
    if least > 0:
        return 1
    if most < 0:
        return -1
    return every[0][0] if every and least == most else 0


# --- rules ---------------------------------------------------------------------------------------------------------------


def _names(devices: Tuple[DeviceFacts, ...]) -> str:
    return ", ".join(device.device for device in devices)


def _on(facts: Facts) -> Optional[str]:
    return f"{facts.action} asks for nothing to be shot" if facts.action not in ("off", "reboot") else None


def _alone(facts: Facts) -> Optional[str]:
    return f"{facts.alone}, and this agent's yes would count as a completed fencing" if facts.alone else None


def _self(facts: Facts) -> Optional[str]:
    return "the target is this node itself" if facts.me == facts.target else None


def _solo_on_disk(facts: Facts) -> Optional[str]:
    solo = tuple(device for device in facts.devices if device.solo_on_disk)
    return f"{facts.target} lives: its disk heartbeat says that it serves {_names(solo)} alone" if solo else None


def _data(facts: Facts) -> Optional[str]:
    if served(facts):
        return None
    for device in _doubtful(facts):
        what = device.standing.value if device.standing in BAD_STANDINGS else f"{device.disk.value} on its disk"
        return f"{device.device} is {what} on this node, and the data of {facts.target} may be the better one"
    return None


def _hold(facts: Facts) -> Optional[str]:
    synced = facts.devices and all(device.link is Link.UP for device in facts.devices)
    if not facts.hold_while_synced or not synced:
        return None
    return f"{_names(facts.devices)} is still connected with {facts.target}, and hold_while_synced is set"


def _for_another(facts: Facts) -> Optional[str]:
    another = served(facts)
    return f"{another} is heard to have the data of {_names(_doubtful(facts))}, which this node has not" if another else None


def _nothing_known(facts: Facts) -> Optional[str]:
    return None if facts.guards_any or facts.lacking else "nothing is known here of any guarded device"


def _not_shared(facts: Facts) -> Optional[str]:
    return None if facts.devices or facts.lacking else f"{facts.target} and this node hold no guarded device together"


def _not_known(facts: Facts) -> Optional[str]:
    blind = facts.lacking + tuple(device.device for device in facts.devices if device.standing is None)
    return f"it is not known what this node may do with {', '.join(blind)}" if blind else None


def _out(facts: Facts) -> Optional[str]:
    out = tuple(device for device in facts.devices if target_out(facts, device))
    return f"{facts.target} is blocked, unproven or left out on {_names(out)}, and this node has the data" if out else None


def _first(facts: Facts) -> Optional[str]:
    return f"this node ranks before {facts.target} on {_names(facts.devices)}" if order(facts) > 0 else None


def _second(facts: Facts) -> Optional[str]:
    if order(facts) >= 0:
        return None
    return f"{facts.target} ranks before this node on {_names(facts.devices)} and had its time to shoot first"


def _unsure(facts: Facts) -> Optional[str]:
    return f"which node {facts.target} believes to be first on {_names(facts.devices)} cannot be known here"


RULES: Tuple[Rule, ...] = (
    Rule("on", True, Turn.AT_ONCE, "The action is not `off` or `reboot` (Pacemaker makes `off` and `on` of a reboot).", _on),
    Rule("alone", False, Turn.AT_ONCE, "A fencing level of the target has `fence_heartgate` and no device that cuts the power, or "
         "none of its levels has it.", _alone),
    Rule("self", True, Turn.AT_ONCE, "The target is this node.", _self),
    Rule("target-solo", False, Turn.AT_ONCE, "A fresh disk heartbeat of the target says that it serves a device alone.",
         _solo_on_disk),
    Rule("data", False, Turn.AT_ONCE, "A device is blocked, unproven, inconsistent, outdated or diskless here, and the "
         "target is not heard to be blocked or unproven too, nor a third node to have the data (`for-another`).", _data),
    Rule("hold", False, Turn.SECOND, "`hold_while_synced`, and the replication of every device with the target is connected; "
         "said only after it has been so for a whole `rank_delay`.", _hold),
    Rule("for-another", True, Turn.LATE, "As `data`, but one third node is heard now that has the data of every such device: it "
         "serves or is deciding, its disk is whole, and its epoch is not below this node's (unless this node has confirmed to it) "
         "nor the target's; with `hold_while_synced`, its replication with the target is down. The name is that node's.",
         _for_another),
    Rule("nothing-known", True, Turn.LATE, "No guarded device is known here: no daemon, and nothing that one has left.",
         _nothing_known),
    Rule("not-shared", True, Turn.AT_ONCE, "No guarded device has replicas on both nodes.", _not_shared),
    Rule("not-known", True, Turn.LATE, "The standing of a device cannot be known here.", _not_known),
    Rule("target-out", True, Turn.AT_ONCE, "This node may serve a device, and the target is left out of it (it is blocked or "
         "unproven, or was fenced).", _out),
    Rule("first", True, Turn.AT_ONCE, "This node ranks first.", _first),
    Rule("second", True, Turn.SECOND, "The target ranks first.", _second),
    Rule("unsure", True, Turn.LATE, "`policy=active-first`, and a role may have changed unseen (or no daemon answers).", _unsure),
)  # fmt: skip


def answer(facts: Facts) -> Answer:
    """The answer to a request to shoot. Total: some rule always applies."""
    for rule in RULES:
        reason = rule.apply(facts)
        if reason is not None:
            # Names are all that two nodes without knowledge have in common.
            last = rule.turn is Turn.LATE and (served(facts) or facts.me) > facts.target
            return Answer(rule.ident, rule.passes, Turn.LAST if last else rule.turn, reason)
    raise AssertionError("the last rule applies to everything")


def longest_s(rank_delay_s: float) -> float:
    """The longest that an answer waits."""
    return Turn.LAST * rank_delay_s


_WAITS = {Turn.AT_ONCE: "at once", Turn.SECOND: "after 1 x `rank_delay`", Turn.LATE: "after 2 x or 3 x `rank_delay`, by name"}


def rules_table() -> str:
    """For the documentation."""
    rows = ["| rule | answer | when | applies if |", "|---|---|---|---|"]
    for rule in RULES:
        verdict = "pass" if rule.passes else "**refuse**"
        rows.append(f"| `{rule.ident}` | {verdict} | {_WAITS[rule.turn]} | {rule.text} |")
    return "\n".join(rows) + "\n"
