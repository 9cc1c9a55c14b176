"""The laws of the timeout budget: the table that docs/timeouts.md is generated from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import Tuple

from heartgate.checks.findings import Severity

ERROR, WARNING = Severity.ERROR, Severity.WARNING
Side = Tuple[Tuple[Fraction, str], ...]


class Scope(Enum):
    """What a law is applied to, once for each."""

    TWO_NODES = "a cluster of two nodes"
    MANY_NODES = "a cluster of three nodes or more"
    LINK = "each knet link, if there are several"
    DRBD = "each DRBD resource"
    GUARD = "each replica-guard"
    HOOKS = "each replica-guard with a hook among its flush targets"
    PROMOTE = "each ocf:linbit:drbd of a guarded resource"
    FENCING = "Pacemaker's fencing"
    GATE = "each fence_heartgate"
    SHOT = "each device behind fence_heartgate in a level that has a wait written down"
    DEVICE = "each fencing device with a delay of its own"
    SBD_DISK = "SBD with a disk"
    SBD_DELAY = "SBD with a start delay in seconds"
    SBD_WATCHDOG = "SBD without a disk"


# role -> how it is called in formulas
ROLES = {
    "token": "token",
    "consensus": "consensus",
    "join": "join",
    "ping_interval": "knet_ping_interval",
    "ping_timeout": "knet_ping_timeout",
    "drbd_timeout": "DRBD timeout",
    "drbd_ping_int": "DRBD ping-int",
    "drbd_ping_timeout": "DRBD ping-timeout",
    "drbd_connect_int": "DRBD connect-int",
    "confirm": "confirm_timeout",
    "block": "time for a block (built in)",
    "back": "time for a hung daemon to be back (built in)",
    "start": "start of replica-guard (built in)",
    "stop": "stop of replica-guard (built in)",
    "monitor": "monitor of replica-guard (built in)",
    "start_op": "timeout of start",
    "stop_op": "timeout of stop",
    "monitor_op": "timeout of monitor",
    "hook": "time for one hook (built in)",
    "flush": "flush_timeout",
    "stonith": "stonith-timeout",
    "fence_wait": "how long heartgated waits for a fencing (built in)",
    "promote_op": "timeout of promote",
    "gate_delay": "delay of fence_heartgate",
    "rank_delay": "rank_delay",
    "gate_looks": "looks of fence_heartgate (built in)",
    "gate_op": "timeout of fence_heartgate (pcmk_off_timeout, pcmk_reboot_timeout, else stonith-timeout)",
    "shot_delay": "delay of the device behind it",
    "shot_pcmk_delay": "its pcmk_delay_base or pcmk_delay_max",
    "shot_wait": "its power_wait",
    "device_delay": "delay of the device",
    "device_op": "timeout of the device (pcmk_off_timeout, pcmk_reboot_timeout, else stonith-timeout)",
    "watchdog": "SBD watchdog timeout",
    "msgwait": "SBD msgwait",
    "sbd_delay": "SBD_DELAY_START",
    "delay_max": "longest pcmk_delay_max",
    "stonith_watchdog": "stonith-watchdog-timeout",
}


@dataclass(frozen=True)
class Law:
    """left <= right, or < where `strict`. reason: why, in a sentence or two."""

    name: str
    severity: Severity
    requirement: str
    scope: Scope
    left: Side
    right: Side
    reason: str
    strict: bool = False

    @property
    def formula(self) -> str:
        return f"{_side(self.left)} {'<' if self.strict else '<='} {_side(self.right)}"


def _side(side: Side) -> str:
    return " + ".join(("" if factor == 1 else f"{float(factor):g} x ") + ROLES[role] for factor, role in side)


def _sum(*roles: str, **factors: float) -> Side:
    plain = tuple((Fraction(1), role) for role in roles)
    return (*((Fraction(str(factor)), role) for role, factor in factors.items()), *plain)


LAWS: Tuple[Law, ...] = (
    Law(
        "consensus-token",
        ERROR,
        "D2",
        Scope.MANY_NODES,
        _sum(token=1.2),
        _sum("consensus"),
        "With less, nodes give up on a consensus while others still wait for the token: odd membership changes (corosync.conf(5)).",
    ),
    Law(
        "consensus-join",
        ERROR,
        "D2",
        Scope.TWO_NODES,
        _sum("join"),
        _sum("consensus"),
        "Two nodes may have a consensus below the token, and never below join (corosync.conf(5)).",
        strict=True,
    ),
    Law(
        "knet-before-token",
        WARNING,
        "A2",
        Scope.LINK,
        _sum("ping_interval", "ping_timeout"),
        _sum("token"),
        "A link has to be given up before the token is lost: else the loss of one link costs the membership while another lives.",
        strict=True,
    ),
    Law(
        "knet-one-ping",
        WARNING,
        "D2",
        Scope.LINK,
        _sum(ping_interval=2),
        _sum("ping_timeout"),
        "One lost ping must not take a link down: some missed in a row do.",
    ),
    Law(
        "drbd-timeout-ping",
        ERROR,
        "E5",
        Scope.DRBD,
        _sum("drbd_timeout"),
        _sum("drbd_ping_int"),
        "drbd.conf(5) demands it: an answer that is late is noticed before the next keep-alive.",
        strict=True,
    ),
    Law(
        "drbd-timeout-connect",
        ERROR,
        "E5",
        Scope.DRBD,
        _sum("drbd_timeout"),
        _sum("drbd_connect_int"),
        "drbd.conf(5) demands it: an attempt to connect ends before the next one.",
        strict=True,
    ),
    Law(
        "drbd-ping-answer",
        WARNING,
        "E5",
        Scope.DRBD,
        _sum("drbd_ping_timeout"),
        _sum("drbd_ping_int"),
        "The answer to one keep-alive is due before the next one is sent.",
        strict=True,
    ),
    Law(
        "confirm-membership",
        WARNING,
        "A11",
        Scope.GUARD,
        _sum("token", "consensus"),
        _sum("confirm"),
        "A node that died is found out by Corosync first. Otherwise one that is silent for a moment is fenced by request.",
    ),
    Law(
        "confirm-block",
        WARNING,
        "A11",
        Scope.GUARD,
        _sum("block"),
        _sum("confirm"),
        "A peer that needs all the time it has for its block is not fenced while it is still at it.",
    ),
    Law(
        "confirm-daemon",
        WARNING,
        "A11",
        Scope.GUARD,
        _sum("back"),
        _sum("confirm"),
        "A daemon that hangs is restarted by its watchdog and answers before its node is fenced.",
        strict=True,
    ),
    Law(
        "guard-start",
        WARNING,
        "E5",
        Scope.GUARD,
        _sum("start"),
        _sum("start_op"),
        "A start ends with its own message before Pacemaker kills it.",
    ),
    Law(
        "guard-stop",
        WARNING,
        "D6",
        Scope.GUARD,
        _sum("stop"),
        _sum("stop_op"),
        "A stop that runs into Pacemaker's timeout has the node fenced.",
    ),
    Law(
        "guard-monitor",
        WARNING,
        "E5",
        Scope.GUARD,
        _sum("monitor"),
        _sum("monitor_op"),
        "A monitor waits for a daemon that is restarting; a timeout would count as a failure of the resource.",
    ),
    Law(
        "flush-hook",
        WARNING,
        "A5",
        Scope.HOOKS,
        _sum("hook"),
        _sum("flush"),
        "One hook may take its whole time within the deadline of its target.",
        strict=False,
    ),
    Law(
        "promote-waits",
        WARNING,
        "A11",
        Scope.PROMOTE,
        _sum("token", "consensus", "stonith"),
        _sum("promote_op"),
        "The promotion of a replica without its peer waits for the verdict: in the worst case for the loss of the peer to be seen "
        "and for its fencing. A promotion that is killed in between counts as failed.",
    ),
    Law(
        "promote-confirm",
        WARNING,
        "A11",
        Scope.PROMOTE,
        _sum("confirm", "stonith"),
        _sum("promote_op"),
        "The same for a peer that is still a member and does not confirm its block: it is fenced after confirm_timeout.",
    ),
    Law(
        "fence-wait",
        WARNING,
        "A11",
        Scope.FENCING,
        _sum("stonith"),
        _sum("fence_wait"),
        "heartgated waits for the fencing that it asked for until Pacemaker itself gives up.",
    ),
    Law(
        "gate-timeout",
        ERROR,
        "E7",
        Scope.GATE,
        _sum("gate_delay", "gate_looks", rank_delay=3),
        _sum("gate_op"),
        "For Pacemaker a timeout is a failure: the second rank could never fence.",
    ),
    Law(
        "gate-rank",
        WARNING,
        "E7",
        Scope.GATE,
        _sum("token", "consensus"),
        _sum("rank_delay"),
        "The nodes may notice each other's loss this far apart; the first rank still has to be the first to shoot.",
    ),
    Law(
        "gate-shot",
        WARNING,
        "E7",
        Scope.SHOT,
        _sum("token", "consensus", "shot_delay", "shot_pcmk_delay", "shot_wait"),
        _sum("rank_delay"),
        "The second rank shoots rank_delay after the first; by then the first shot has to have fallen, though it was noticed later "
        "and waited as it is told to. What the device takes beside that is written nowhere, and Pacemaker keeps no durations of "
        "fencings: measure one, and add it to rank_delay.",
        strict=True,
    ),
    Law(
        "device-delay",
        ERROR,
        "D6",
        Scope.DEVICE,
        _sum("device_delay"),
        _sum("device_op"),
        "The agent's own delay counts against its timeout (pcmk_delay_base and pcmk_delay_max do not).",
        strict=True,
    ),
    Law(
        "sbd-msgwait",
        ERROR,
        "D6",
        Scope.SBD_DISK,
        _sum(watchdog=2),
        _sum("msgwait"),
        "A message counts as delivered when the other node has read it or its watchdog has reset it (sbd(8)).",
    ),
    Law(
        "sbd-stonith",
        ERROR,
        "D6",
        Scope.SBD_DISK,
        _sum(msgwait=1.2),
        _sum("stonith"),
        "A fencing through the disk takes msgwait; with less it never completes and is tried for ever. sbd(8) advises twice.",
    ),
    Law(
        "sbd-watchdog-time",
        ERROR,
        "D6",
        Scope.SBD_WATCHDOG,
        _sum(watchdog=2),
        _sum("stonith_watchdog"),
        "Pacemaker takes a silent node for reset after stonith-watchdog-timeout; its watchdog has to be through with it.",
    ),
    Law(
        "sbd-start-delay",
        WARNING,
        "D6",
        Scope.SBD_DELAY,
        _sum("token", "consensus", "delay_max", "msgwait"),
        _sum("sbd_delay"),
        "A node that boots fast waits until the others are done with its fencing (sbd's own settings file).",
    ),
)
