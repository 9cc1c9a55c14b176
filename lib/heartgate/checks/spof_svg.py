"""The graph of `spof.py` as a picture: one panel for each two nodes, a row for each channel, what is shared drawn once.

A small writer of our own: well-formed, self-contained, labels escaped, readable on a light and on a dark page.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, List, Mapping, Sequence, Tuple
from xml.sax.saxutils import escape

from heartgate.checks.spof import SYNC, Channel, Graph, Part, needed, weaknesses

ROW, BOX_WIDTH, BOX_HEIGHT, GAP, MARGIN = 64, 150, 36, 40, 24
LABEL_LENGTH = 22
_STYLE = """\
svg { background: #ffffff; font: 12px sans-serif; }
text { fill: #1a1a1a; } .small { font-size: 10px; fill: #555555; } .title { font-size: 15px; font-weight: bold; }
rect.part { fill: #f2f4f7; stroke: #6b7280; }
rect.one { stroke: #c81e1e; stroke-width: 3; } rect.two { stroke: #b45309; stroke-width: 2; stroke-dasharray: 5 3; }
rect.channel { fill: #e6effb; stroke: #3b6fb6; }
rect.sync { fill: #e8f5e9; stroke: #2e7d32; } rect.both { fill: #f3e8fd; stroke: #7b3fb5; }
line { stroke: #6b7280; stroke-width: 1.5; }
@media (prefers-color-scheme: dark) {
svg { background: #14171c; } text { fill: #e8eaed; } .small { fill: #a9b0ba; } line { stroke: #9aa3af; }
rect.part { fill: #242a33; stroke: #9aa3af; } rect.one { stroke: #ff6b6b; } rect.two { stroke: #f5a742; }
rect.channel { fill: #1c2f4a; stroke: #7aa7e0; }
rect.sync { fill: #1d3521; stroke: #74c47a; } rect.both { fill: #35244a; stroke: #c39bee; }
}"""


@dataclass
class _Panel:
    """One pair of nodes. x and y are of the middle of a box."""

    pair: Tuple[str, str]
    channels: Sequence[Channel]
    x: Dict[str, float] = field(default_factory=dict)
    y: Dict[str, float] = field(default_factory=dict)
    width: float = 0
    height: float = 0


def svg(graph: Graph) -> str:
    """Raises GraphError."""
    parts = {part.ident: part for part in graph.parts}
    marks = _marks(graph)
    panels = [_layout(pair, graph.between(pair), parts) for pair in graph.pairs]
    width = max([panel.width for panel in panels], default=200.0)
    body: List[str] = []
    top = 0.0
    for panel in panels:
        body += [f'<g transform="translate({(width - panel.width) / 2:g},{top:g})">', *_draw(panel, parts, marks), "</g>"]
        top += panel.height
    body.append(_legend(top))
    height = top + 40
    label = "Single points of failure"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" '
        f'aria-label="{label}">\n<title>{label}</title>\n<style>{_STYLE}</style>\n' + "\n".join(body) + "\n</svg>\n"
    )


def _marks(graph: Graph) -> Mapping[str, str]:
    """Class of the parts that are in a set of one (for any goal), or in a smallest set of two for everything."""
    found: Dict[str, str] = {}
    for weak in weaknesses(graph):
        for each in weak.of_size(2):
            for ident in each:
                found.setdefault(ident, "two")
    for weak in weaknesses(graph):
        for (ident,) in weak.of_size(1):
            found[ident] = "one"
    return found


# --- where everything goes


def _layout(pair: Tuple[str, str], channels: Sequence[Channel], parts: Mapping[str, Part]) -> _Panel:
    """Channels in the middle column, each end's parts to its side, further out the deeper they lie; in between: switches."""
    panel = _Panel(pair, channels)
    depth: Dict[str, int] = {}
    rows: Dict[str, List[int]] = {}
    for row, channel in enumerate(channels):
        for ident, level in _levels(channel, parts).items():
            depth[ident] = max(depth.get(ident, 0), level)
            rows.setdefault(ident, []).append(row)
    deepest = max(depth.values(), default=1)
    middle = MARGIN + deepest * (BOX_WIDTH + GAP) + BOX_WIDTH / 2
    for row, channel in enumerate(channels):
        panel.x[channel.ident], panel.y[channel.ident] = middle, 70 + row * ROW
    columns: Dict[float, List[str]] = {}
    for ident, level in depth.items():
        side = {pair[0]: -1, pair[1]: 1}.get(parts[ident].host, 0)
        panel.x[ident] = middle + side * level * (BOX_WIDTH + GAP)
        panel.y[ident] = 70 + ROW * (sum(rows[ident]) / len(rows[ident]) if side else len(channels) + 0.25)
        columns.setdefault(panel.x[ident], []).append(ident)
    for column in columns.values():
        _spread(panel, sorted(column, key=lambda ident: (panel.y[ident], ident)))
    panel.width = 2 * middle
    panel.height = max([70.0, *panel.y.values()]) + BOX_HEIGHT / 2 + MARGIN
    return panel


def _levels(channel: Channel, parts: Mapping[str, Part]) -> Dict[str, int]:
    """How far each part lies from the channel; the longest way counts. The graph has no circle (`spof.check`)."""
    found: Dict[str, int] = {}
    waiting = [(ident, 1) for ident in needed(channel.needs)]
    while waiting:
        ident, level = waiting.pop()
        if level > found.get(ident, 0):
            found[ident] = level
            waiting += [(inner, level + 1) for inner in needed(parts[ident].needs)]
    return found


def _spread(panel: _Panel, column: Sequence[str]) -> None:
    """Boxes of one column do not lie over each other."""
    last = -1e9
    for ident in column:
        panel.y[ident] = max(panel.y[ident], last + BOX_HEIGHT + 10)
        last = panel.y[ident]


# --- drawing


def _draw(panel: _Panel, parts: Mapping[str, Part], marks: Mapping[str, str]) -> List[str]:
    lines = [_text(panel.x[channel.ident], 28, f"{panel.pair[0]} - {panel.pair[1]}", "title") for channel in panel.channels[:1]]
    drawn = [ident for ident in panel.x if ident in parts]
    for channel in panel.channels:
        lines += [_line(panel, channel.ident, ident) for ident in needed(channel.needs)]
    for ident in drawn:
        lines += [_line(panel, ident, inner) for inner in needed(parts[ident].needs)]
    for channel in panel.channels:
        kind = "both" if len(set(channel.carries)) > 1 else "sync" if SYNC in channel.carries else "channel"
        lines.append(_box(panel, channel.ident, channel.label, " + ".join(channel.carries), kind))
    for ident in drawn:
        part = parts[ident]
        small = part.kind + (f", {part.host}" if part.host else "") + (", not known below" if part.unknown else "")
        lines.append(_box(panel, ident, part.label, small, f"part {marks.get(ident, '')}".strip()))
    return lines


def _line(panel: _Panel, one: str, two: str) -> str:
    return f'<line x1="{panel.x[one]:g}" y1="{panel.y[one]:g}" x2="{panel.x[two]:g}" y2="{panel.y[two]:g}"/>'


def _box(panel: _Panel, ident: str, label: str, small: str, kind: str) -> str:
    x, y = panel.x[ident], panel.y[ident]
    return (
        f'<g><title>{_plain(label)} ({_plain(small)})</title><rect class="{kind}" x="{x - BOX_WIDTH / 2:g}" '
        f'y="{y - BOX_HEIGHT / 2:g}" '
        f'width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="5"/>{_text(x, y - 2, label)}{_text(x, y + 12, small, "small")}</g>'
    )


def _text(x: float, y: float, content: str, kind: str = "") -> str:
    shown = content if len(content) <= LABEL_LENGTH or kind == "title" else content[: LABEL_LENGTH - 1] + "\u2026"
    name = f' class="{kind}"' if kind else ""
    return f'<text{name} x="{x:g}" y="{y:g}" text-anchor="middle">{_plain(shown)}</text>'


def _plain(content: str) -> str:
    """Escaped, and without characters that XML cannot hold."""
    allowed = (
        each if each >= " " and not "\ud800" <= each <= "\udfff" and each not in "\ufffe\uffff" else "?" for each in content
    )
    return escape("".join(allowed))


def _legend(top: float) -> str:
    return (
        f'<g transform="translate({MARGIN},{top:g})"><rect class="part one" x="0" y="4" width="22" height="14" rx="3"/>'
        '<text x="28" y="15">alone cuts all heartbeats or all sync links</text>'
        '<rect class="part two" x="300" y="4" width="22" height="14" rx="3"/><text x="328" y="15">with one other part</text></g>'
    )
