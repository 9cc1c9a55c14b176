"""The report of `heartgate status` for programs: what heartgated said, as it came, and beside it what follows from everything.

The schema is packaging/status.schema.json (installed as /usr/share/heartgate/status.schema.json); a test compares the two.
Names are added, and none is taken away or changed, as long as `format_version` is the same.
"""

from __future__ import annotations

from typing import Any, Dict, List

from heartgate.checks.heartbeats import Heartbeat
from heartgate.checks.status_model import DeviceRow, Reason, Replica, Report

FORMAT, VERSION = "heartgate-status", 1

Data = Dict[str, Any]


def as_data(report: Report, raw: Data, code: int) -> Data:
    rows = {row.device.name: row for row in report.devices}
    devices: List[Data] = [{**each, **_device(rows[each["device"]])} for each in raw.get("devices", ()) if each["device"] in rows]
    return {
        **raw,
        "format": FORMAT,
        "format_version": VERSION,
        "at_ms": report.at_ms,
        "node": report.node,
        "health": report.health.value,
        "reasons": [_reason(each) for each in report.reasons],
        "serving": [
            {"device": each.device, "state": each.state.value, "nodes": list(each.nodes), "words": each.words}
            for each in report.serving
        ],
        "devices": devices,
        "heartbeats": [_heartbeat(each) for each in report.heartbeats],
        "unknown": [{"source": each.source, "why": each.why, "hides": each.hides} for each in report.unknown],
        "exit_code": code,
    }


def _reason(reason: Reason) -> Data:
    return {
        "id": reason.ident,
        "level": reason.level.value,
        "subject": reason.subject,
        "evidence": reason.evidence,
        "remedy": reason.remedy,
    }


def _device(row: DeviceRow) -> Data:
    return {"since_ms": row.device.since_ms, "replicas": [_replica(each) for each in row.replicas]}


def _replica(each: Replica) -> Data:
    return {
        "node": each.node,
        "source": each.source,
        "standing": each.standing,
        "epoch": each.epoch,
        "since_ms": each.since_ms,
        "priority": each.priority,
        "role": each.role,
        "disk": each.disk,
        "sync_link": each.sync or None,
        "out_of_sync_bytes": each.lacks_bytes,
    }


def _heartbeat(each: Heartbeat) -> Data:
    return {
        "node": each.node,
        "kind": each.kind,
        "name": each.name,
        "state": each.state.value,
        "sending": each.sending.value,
        "receiving": each.receiving.value,
        "local": each.local,
        "remote": each.remote,
        "reason": each.reason,
    }
