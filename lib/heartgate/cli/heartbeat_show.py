"""Heartbeats for a person: a line each, then what is not known and why."""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

from heartgate.checks.heartbeats import Channel, Heartbeat

HEAD = ("NODE", "KIND", "NAME", "STATE", "SENDING", "RECEIVING", "LATENCY ave/max", "LOSS", "LAST HEARD", "MTU", "FROM -> TO")


def table(heartbeats: Sequence[Heartbeat]) -> str:
    rows = [HEAD, *(_row(each) for each in heartbeats)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    lines += [f"{each.node} {_name(each)}: {each.reason}" for each in heartbeats if each.reason]
    return "\n".join(lines)


def _row(each: Heartbeat) -> Tuple[str, ...]:
    return (
        each.node, each.kind, _name(each), _word(each.state), _word(each.sending), _word(each.receiving),
        f"{_ms(each.latency_ave_us)}/{_ms(each.latency_max_us)}", _percent(each.loss), _age(each),
        str(each.mtu or "-"), f"{each.local or '?'} -> {each.remote or '?'}",
    )  # fmt: skip


def _name(each: Heartbeat) -> str:
    return f"link {each.name}" if each.kind == "network" else each.name


def _word(channel: Channel) -> str:
    return "DOWN" if channel is Channel.DOWN else channel.value


def _ms(value_us: Optional[int]) -> str:
    return "-" if value_us is None else f"{value_us / 1000:.2f} ms"


def _percent(value: Optional[float]) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def _age(each: Heartbeat) -> str:
    if each.age_ms is None:
        return "-"
    return f"{'> ' if each.age_at_least else ''}{each.age_ms / 1000:.2f} s"


def summary(heartbeats: Sequence[Heartbeat]) -> str:
    """One sentence for each node: over how many paths it is heard (D5: one is enough to count as active)."""
    sentences: List[str] = []
    for node in dict.fromkeys(each.node for each in heartbeats):
        own = [each for each in heartbeats if each.node == node]
        heard = sum(each.receiving is Channel.UP for each in own)
        sentences.append(f"{node} is heard over {heard} of {len(own)}")
    return "; ".join(sentences)
