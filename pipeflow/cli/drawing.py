"""The graph of an app as one SVG file that stands alone: readable on light and on dark, nothing to install."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from pipeflow.cli.layout import Layout, Spot, laid_out
from pipeflow.cli.nodes import Edge, Graph, Node

MARGIN = 28.0
HEADING = 44.0
LEGEND = 34.0
LETTER = 7.3
"""Width of a letter of names at 13 px, on the wide side: a box that is too wide looks better than text beside it."""
SMALL = 6.1
LONGEST = 38
CORNERS = {"topic": 19.0, "handler": 5.0, "source": 5.0, "sink": 5.0}

STYLE = """
:root { color-scheme: light dark; }
.paper { fill: #ffffff; } .ink { fill: #0f172a; } .faint { fill: #64748b; }
text { font-family: ui-sans-serif, system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
.name { font-size: 13px; font-weight: 600; } .small { font-size: 10.5px; } .title { font-size: 17px; font-weight: 700; }
.label { font-size: 10.5px; }
.halo { fill: #ffffff; stroke: #ffffff; stroke-width: 4px; stroke-linejoin: round; }
.edge { fill: none; stroke: #94a3b8; stroke-width: 1.6; }
.aside { stroke: #dc2626; stroke-dasharray: 5 4; opacity: .75; }
.tip { fill: #94a3b8; } .tip-aside { fill: #dc2626; }
.box { stroke-width: 1.5; }
.topic { fill: #dbeafe; stroke: #2563eb; } .queue { fill: #fef3c7; stroke: #d97706; }
.handler { fill: #dcfce7; stroke: #16a34a; } .stream { fill: #ede9fe; stroke: #7c3aed; }
.dead { fill: #fee2e2; stroke: #dc2626; } .source, .sink { fill: #f1f5f9; stroke: #475569; }
@media (prefers-color-scheme: dark) {
.paper { fill: #0f172a; } .ink { fill: #f1f5f9; } .faint { fill: #94a3b8; } .halo { fill: #0f172a; stroke: #0f172a; }
.topic { fill: #172d52; } .queue { fill: #45300c; } .handler { fill: #12361f; } .stream { fill: #2f2058; }
.dead { fill: #4a1717; } .source, .sink { fill: #1e293b; stroke: #94a3b8; }
}"""


def svg(graph: Graph) -> str:
    """The drawing as the text of an SVG file."""
    sizes = {node.key: _size(node) for node in graph.nodes}
    layout = laid_out(sizes, [(edge.source, edge.target) for edge in graph.edges])
    below = 26.0 * len(layout.back)
    width = max(layout.width, 420.0) + 2 * MARGIN
    height = layout.height + 2 * MARGIN + HEADING + LEGEND + below
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-label="{escape(graph.app)}">',
        f"<style>{STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        'orient="auto-start-reverse"><path class="tip" d="M0 1L10 5L0 9z"/></marker>'
        '<marker id="tip-aside" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        'orient="auto-start-reverse"><path class="tip-aside" d="M0 1L10 5L0 9z"/></marker></defs>',
        f'<rect class="paper" width="{width:.0f}" height="{height:.0f}" rx="8"/>',
        f'<text class="ink title" x="{MARGIN}" y="{MARGIN + 14}">{escape(graph.app)}</text>',
        f'<g transform="translate({MARGIN} {MARGIN + HEADING})">',
        *_edges(graph, layout),
        *(line for node in graph.nodes for line in _box(node, layout.spots[node.key])),
        "</g>",
        *_legend(graph, height - MARGIN),
        "</svg>",
    ]
    return "\n".join(lines)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _size(node: Node) -> tuple[float, float]:
    widest = max(len(_short(node.name)) * LETTER, len(_short(node.detail)) * SMALL)
    return max(96.0, widest + 34), 50.0 if node.detail else 38.0


def _class(node: Node) -> str:
    return node.kind.split()[0]


def _box(node: Node, spot: Spot) -> Iterator[str]:
    left, top = spot.x - spot.width / 2, spot.y - spot.height / 2
    yield f"<g><title>{escape(f'{node.kind} {node.name}')}</title>"
    if node.kind in ("queue", "dead letters"):
        yield from _barrel(_class(node), left, top, spot.width, spot.height)
    else:
        skew = ' stroke-dasharray="1 0"' if node.kind != "sink" else ' stroke-dasharray="4 3"'
        yield (
            f'<rect class="box {_class(node)}" x="{left:.1f}" y="{top:.1f}" width="{spot.width:.1f}" '
            f'height="{spot.height:.1f}" rx="{CORNERS.get(node.kind, 5.0)}"{skew}/>'
        )
    if node.kind == "stream":
        # Three short waves say "stream" without a word.
        for step in range(3):
            y = top + spot.height / 2 - 6 + 6 * step
            yield f'<path class="edge stream" style="fill:none" d="M{left + 7:.1f} {y:.1f}q2.5 -4 5 0t5 0"/>'
    shift = {"stream": 8, "queue": -4, "dead letters": -4}.get(node.kind, 0)
    y = spot.y - 2 if node.detail else spot.y + 4.5
    yield _text("ink name", spot.x + shift, y, _short(node.name))
    if node.detail:
        yield _text("faint small", spot.x + shift, spot.y + 14, _short(node.detail))
    yield "</g>"


def _barrel(kind: str, left: float, top: float, width: float, height: float) -> Iterator[str]:
    """A queue lies on its side: messages go in on the left and come out on the right."""
    bow = 9.0
    right, bottom = left + width, top + height
    yield (
        f'<path class="box {kind}" d="M{left + bow:.1f} {top:.1f}H{right - bow:.1f}'
        f"A{bow} {height / 2:.1f} 0 0 1 {right - bow:.1f} {bottom:.1f}H{left + bow:.1f}"
        f'A{bow} {height / 2:.1f} 0 0 1 {left + bow:.1f} {top:.1f}z"/>'
    )
    yield (
        f'<path class="box {kind}" style="fill:none" d="M{right - bow:.1f} {top:.1f}'
        f'A{bow} {height / 2:.1f} 0 0 0 {right - bow:.1f} {bottom:.1f}"/>'
    )


def _edges(graph: Graph, layout: Layout) -> Iterator[str]:
    labels: list[str] = []
    lane = 0
    for number, edge in enumerate(graph.edges):
        source, target = layout.spots[edge.source], layout.spots[edge.target]
        if number in layout.back:
            lane += 1
            path, at = _around(source, target, layout.height + 26.0 * lane)
        else:
            path, at = _through([source, *(layout.spots[key] for key in layout.passes[number]), target])
        style = ("edge aside", "tip-aside") if edge.aside else ("edge", "tip")
        yield f'<path class="{style[0]}" marker-end="url(#{style[1]})" d="{path}"/>'
        if edge.label:
            labels.append(_label(edge, at))
    yield from labels


def _text(style: str, x: float, y: float, text: str) -> str:
    return f'<text class="{style}" text-anchor="middle" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _label(edge: Edge, at: tuple[float, float]) -> str:
    shown = edge.label if len(edge.label) <= 24 else f"{edge.label[:23]}…"
    # Twice, because not every viewer knows paint-order: first what keeps the line away from the letters, then these.
    texts = _text("label halo", *at, shown) + _text("label faint", *at, shown)
    return f"<g><title>{escape(edge.label)}</title>{texts}</g>"


def _through(stations: list[Spot]) -> tuple[str, tuple[float, float]]:
    """A smooth line from the right of the first to the left of the last; its label lies across its last piece."""
    x, y = stations[0].x + stations[0].width / 2, stations[0].y
    path = f"M{x:.1f} {y:.1f}"
    at = x, y
    for spot in stations[1:]:
        to_x, to_y = spot.x - spot.width / 2 - (2 if spot.width else 0), spot.y
        bend = (to_x - x) / 2
        path += f"C{x + bend:.1f} {y:.1f} {to_x - bend:.1f} {to_y:.1f} {to_x:.1f} {to_y:.1f}"
        at = (x + to_x) / 2, (y + to_y) / 2 + 3.5
        x, y = to_x, to_y
    return path, at


def _around(source: Spot, target: Spot, depth: float) -> tuple[str, tuple[float, float]]:
    """Below everything, back to a box further left."""
    start, end = source.y + source.height / 2, target.y + target.height / 2 + 2
    down = f"M{source.x:.1f} {start:.1f}C{source.x:.1f} {depth:.1f} {source.x:.1f} {depth:.1f}"
    up = f"C{target.x:.1f} {depth:.1f} {target.x:.1f} {depth:.1f} {target.x:.1f} {end:.1f}"
    path = f"{down} {source.x - 40:.1f} {depth:.1f}H{target.x + 40:.1f}{up}"
    return path, ((source.x + target.x) / 2, depth - 4)


def _legend(graph: Graph, y: float) -> Iterator[str]:
    kinds = dict.fromkeys(node.kind for node in graph.nodes)
    x = MARGIN
    for kind in kinds:
        yield f'<rect class="box {kind.split()[0]}" x="{x:.1f}" y="{y - 9:.1f}" width="12" height="12" rx="3"/>'
        yield f'<text class="faint small" x="{x + 18:.1f}" y="{y + 1:.1f}">{kind}</text>'
        x += 34 + len(kind) * SMALL
