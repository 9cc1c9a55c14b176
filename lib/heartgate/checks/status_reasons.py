"""Every reason that `heartgate status` can give, in the order in which they are shown: the table of docs/status.md."""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from heartgate.checks.status_model import Health, Reason

AT_RISK, UNKNOWN, DEGRADED = Health.AT_RISK, Health.UNKNOWN, Health.DEGRADED


class ReasonInfo(NamedTuple):
    """level: what it makes of the health, unless about says when it is another."""

    ident: str
    level: Health
    about: str


SPARE = "degraded if another replica could take over"

REASONS: Tuple[ReasonInfo, ...] = (
    ReasonInfo("two-serve", AT_RISK, "Two nodes have the device Promoted, and each may serve for all it says."),
    ReasonInfo("nobody-serves", AT_RISK, "No replica of the device may serve, and each is known."),
    ReasonInfo("device-frozen", AT_RISK, "The device is Promoted, and its I/O stands still until there is a verdict."),
    ReasonInfo("person-needed", AT_RISK, "A replica waits for what may never come; a person can decide by a command."),
    ReasonInfo("record-not-written", AT_RISK, "The record of the standing cannot be written, and everything waits for that."),
    ReasonInfo("record-unreadable", AT_RISK, "The record of the standing cannot be used."),
    ReasonInfo("invariant-stopped", AT_RISK, "A step of the policy would break an invariant and was not taken."),
    ReasonInfo("daemon-down", AT_RISK, "heartgated does not run on this node, which has a guarded device."),
    ReasonInfo("daemon-name", AT_RISK, "Corosync has another name for this node than the one under which devices are guarded."),
    ReasonInfo("carrier-lost", AT_RISK, "heartgated hears nobody: Corosync is gone."),
    ReasonInfo("node-offline", AT_RISK, f"A node with a replica is no member, or Pacemaker does not know it ({SPARE})."),
    ReasonInfo("daemon-silent", AT_RISK, f"A node is a member, and its heartgated says nothing ({SPARE})."),
    ReasonInfo("replica-unheard", AT_RISK, f"heartgated on a node is heard and says nothing of the device ({SPARE})."),
    ReasonInfo("replica-blocked", AT_RISK, f"A replica is blocked ({SPARE})."),
    ReasonInfo("replica-resyncing", AT_RISK, f"A replica is being brought up to date ({SPARE})."),
    ReasonInfo("replica-unproven", AT_RISK, f"A replica has met nobody since its node started ({SPARE})."),
    ReasonInfo("replica-deciding", AT_RISK, f"A replica has lost another one and has no verdict ({SPARE})."),
    ReasonInfo("replica-not-uptodate", AT_RISK, f"The data of a replica is not up to date, or it has no disk ({SPARE})."),
    ReasonInfo("sync-link-down", AT_RISK, f"The replication to a replica is not connected ({SPARE})."),
    ReasonInfo("pacemaker-down", AT_RISK, "Pacemaker does not run on this node (unknown if no device is known here)."),
    ReasonInfo("no-dc", AT_RISK, "Pacemaker has no DC: nobody decides where resources run."),
    ReasonInfo("no-quorum", AT_RISK, "This partition has no quorum: Pacemaker starts and promotes nothing."),
    ReasonInfo("maintenance-mode", AT_RISK, "maintenance-mode is true: Pacemaker does nothing."),
    ReasonInfo("stop-all", AT_RISK, "stop-all-resources is true."),
    ReasonInfo("node-unclean", AT_RISK, f"Pacemaker waits for the fencing of a node ({SPARE})."),
    ReasonInfo("node-standby", AT_RISK, f"A node with a replica is in standby ({SPARE})."),
    ReasonInfo("node-maintenance", AT_RISK, f"A node with a replica is in maintenance ({SPARE})."),
    ReasonInfo("node-pending", AT_RISK, f"Pacemaker on a node is starting, or has ended ({SPARE})."),
    ReasonInfo("fence-disabled", AT_RISK, "stonith-enabled is false (degraded if a bias is agreed for every device)."),
    ReasonInfo("fence-none", AT_RISK, "There is no device that cuts power (degraded if a bias is agreed for every device)."),
    ReasonInfo("fence-failed", AT_RISK, "The last fencing of a node with a replica failed."),
    ReasonInfo("fence-device-down", AT_RISK, "A fencing device does not run (degraded if another one or another level is left)."),
    ReasonInfo("fence-level-device", AT_RISK, "A fencing level names a device that does not exist."),
    ReasonInfo("fence-gate-alone", AT_RISK, "fence_heartgate stands alone: Pacemaker would take its yes for a cut power."),
    ReasonInfo("fence-fabric", AT_RISK, "A fencing device cuts a node off from a storage or a switch, and not its power."),
    ReasonInfo("location-rule-missing", AT_RISK, "No rule keeps Pacemaker from promoting a replica that may not serve."),
    ReasonInfo("resource-banned", AT_RISK, "A constraint keeps the device's resource from a node (a leftover of a move or ban)."),
    ReasonInfo("resource-disabled", AT_RISK, "The device's resource is told to be stopped."),
    ReasonInfo("resource-unmanaged", AT_RISK, "Pacemaker is told to leave a resource alone."),
    ReasonInfo("resource-blocked", AT_RISK, "Pacemaker can do nothing about a resource that failed."),
    ReasonInfo("replica-stopped", AT_RISK, f"The device's resource does not run where a replica is, or there is none ({SPARE})."),
    ReasonInfo("attribute-wrong", AT_RISK, f"Pacemaker does not know that a replica may serve ({SPARE})."),
    ReasonInfo("drbd-fencing", AT_RISK, "DRBD would not freeze at a loss (fencing is not resource-and-stonith)."),
    ReasonInfo("drbd-handler", AT_RISK, "DRBD does not call heartgate's handlers."),
    ReasonInfo("drbd-protocol", AT_RISK, "DRBD acknowledges writes before the peer has them (protocol A or B)."),
    ReasonInfo("drbd-two-primaries", AT_RISK, "DRBD is allowed two Primaries."),
    ReasonInfo("no-heartbeat", AT_RISK, f"No heartbeat to a node works, or none is configured ({SPARE}, or it has no replica)."),
    ReasonInfo("no-spare", AT_RISK, "No replica is known that could take over, and none of the other reasons says why."),
    ReasonInfo("nothing-guarded", UNKNOWN, "No device is guarded on this node, as far as can be seen."),
    ReasonInfo("daemon-unknown", UNKNOWN, "heartgated was not asked, or gave no answer that can be used."),
    ReasonInfo("replica-unknown", UNKNOWN, "The replication tells nothing about a replica."),
    ReasonInfo("sync-link-unknown", UNKNOWN, "Whether the replication to a replica is connected is not known."),
    ReasonInfo("pacemaker-unknown", UNKNOWN, "Pacemaker was not asked, or gave no answer that can be used."),
    ReasonInfo("fencing-unknown", UNKNOWN, "The history of fencings could not be read."),
    ReasonInfo("config-unknown", UNKNOWN, "The CIB or DRBD's configuration could not be read, or does not name the device."),
    ReasonInfo("cib-conditional", UNKNOWN, "A property of the cluster depends on a rule."),
    ReasonInfo("heartbeats-unknown", UNKNOWN, "Corosync was not asked, or gave no answer that can be used."),
    ReasonInfo("heartbeat-unknown", UNKNOWN, "Whether a heartbeat works is not known."),
    ReasonInfo("one-heartbeat", DEGRADED, "One heartbeat to a node is left (or there never was another one)."),
    ReasonInfo("heartbeat-down", DEGRADED, "A heartbeat does not work."),
    ReasonInfo("heartbeat-interface", DEGRADED, "An interface that heartbeat-link watches has no carrier, or is gone."),
    ReasonInfo("isolation-policy", DEGRADED, "on_isolation is freeze, or bias: with no link left a person may have to decide."),
    ReasonInfo("bias-not-agreed", DEGRADED, "A bias is wanted and not agreed (at-risk if there is no fencing)."),
    ReasonInfo("flush-failed", DEGRADED, "The last flush of caches of a replica that serves alone failed."),
    ReasonInfo("fence-pending", DEGRADED, "A fencing is under way."),
    ReasonInfo("fence-gate", DEGRADED, "fence_heartgate is not asked: a node with old data could shoot the good one."),
    ReasonInfo("fence-gate-first", DEGRADED, "fence_heartgate stands behind the device that cuts the power."),
    ReasonInfo("fence-gate-bypass", DEGRADED, "A fencing level has no fence_heartgate."),
    ReasonInfo("fence-race", DEGRADED, "Two nodes may shoot each other at once."),
    ReasonInfo("fence-startup", DEGRADED, "startup-fencing is false."),
    ReasonInfo("quorum-policy", DEGRADED, "no-quorum-policy is ignore."),
    ReasonInfo("drbd-not-in-force", DEGRADED, "The kernel runs with other settings than the files say."),
    ReasonInfo("guard-stopped", DEGRADED, "Pacemaker does not run replica-guard on a node; heartgated guards all the same."),
    ReasonInfo("resource-failed", DEGRADED, "Pacemaker counts a resource as failed."),
    ReasonInfo("hung-operations", DEGRADED, "Operations of heartgated do not come back."),
)
BY_IDENT: Dict[str, ReasonInfo] = {each.ident: each for each in REASONS}
_PLACE = {each.ident: place for place, each in enumerate(REASONS)}
_LEVEL = {level: place for place, level in enumerate(Health)}


def say(ident: str, subject: str, evidence: str, remedy: str, level: Optional[Health] = None) -> Reason:
    """level: another than the table's."""
    return Reason(ident, level or BY_IDENT[ident].level, subject, evidence, remedy)


def worst_first(reasons: Sequence[Reason]) -> Tuple[Reason, ...]:
    """Without repetition."""
    def place(reason: Reason) -> Tuple[int, int, str]:
        return _LEVEL[reason.level], _PLACE[reason.ident], reason.subject

    return tuple(sorted(dict.fromkeys(reasons), key=place))


def table() -> str:
    """For the documentation."""
    lines: List[str] = ["| reason | makes the health | when |", "|---|---|---|"]
    lines += [f"| `{each.ident}` | `{each.level.value}` | {each.about} |" for each in REASONS]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(table())
