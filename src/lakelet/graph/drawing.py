"""The graph of a pipeline as a picture: SVG, from left to right, light and dark; grandalf lays it out in layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from grandalf.graphs import Edge as GrandalfEdge
from grandalf.graphs import Graph, Vertex
from grandalf.layouts import SugiyamaLayout

from lakelet.graph.dataflow_graph import DataflowGraph
from lakelet.graph.formats import edges, external_inputs

HEIGHT = 44
GAP = 16
LAYER_GAP = 40
MARGIN = 16
CHARACTER = 7.2
"""Width of a character of the 12 px monospace type in which names are set."""

STYLE = """
text { font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; fill: #1f2933; }
text.kind { font-size: 10px; fill: #5b6875; }
rect { fill: #ffffff; stroke: #8896a5; stroke-width: 1.2; }
rect.streaming_table { stroke: #1c6dd0; fill: #eef5fd; }
rect.materialized_view { stroke: #0f8a5f; fill: #ecf8f3; }
rect.temporary_view { stroke-dasharray: 4 3; }
rect.external { fill: #f4f5f7; stroke: #b3bcc6; }
rect.sink { stroke: #b3541e; fill: #fdf3ec; }
path { fill: none; stroke: #8896a5; stroke-width: 1.2; }
path.batch { stroke-dasharray: 4 3; }
marker path { fill: #8896a5; stroke: none; }
@media (prefers-color-scheme: dark) {
text { fill: #e3e8ee; } text.kind { fill: #9aa7b4; }
rect { fill: #1b222b; stroke: #6d7b8a; } rect.streaming_table { stroke: #5aa2f5; fill: #15263c; }
rect.materialized_view { stroke: #3ec48f; fill: #12291f; } rect.external { fill: #151a20; stroke: #4b5763; }
rect.sink { stroke: #e0874f; fill: #2e1d12; }
}
""".strip()


@dataclass(slots=True, kw_only=True)
class _Box:
    """What grandalf asks of a node: width and height, and where it puts its centre. Its layers run downwards, ours to
    the right, so the two are exchanged."""

    w: float
    h: float
    xy: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Node:
    """A box: its name, what stands below it, and the whole name, which shows when one points at it."""

    label: str
    below: str
    title: str
    shape: str

    @property
    def width(self) -> float:
        return 20 + max(len(self.label) * CHARACTER, len(self.below) * CHARACTER * 10 / 12)


def as_svg(graph: DataflowGraph) -> str:
    """Return the picture: streaming reads are full lines, batch reads dashed; outlines tell the kinds of datasets."""
    nodes = {label: _outside(label) for label in external_inputs(graph)}
    for name in graph.order():
        dataset = graph.dataset(name)
        label = graph.display(name)
        schema, _, last = label.rpartition(".")
        below = " · ".join(filter(None, (schema, dataset.kind.label)))
        nodes[label] = _Node(label=last, below=below, title=label, shape=dataset.kind.name.lower())
    arrows: dict[tuple[str, str], bool] = {}
    for edge in edges(graph):
        ends = (edge.source, edge.target)
        arrows[ends] = arrows.get(ends, False) or edge.streaming
    places, routes = _laid_out(nodes, arrows)
    width = max((x + w for x, _, w in places.values()), default=0) + MARGIN
    height = max((y for _, y, _ in places.values()), default=0) + HEIGHT + MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img">',
        f"<title>{len(graph.datasets)} datasets and what each reads</title>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z"/></marker></defs>',
    ]
    for ends, streaming in arrows.items():
        kind = "stream" if streaming else "batch"
        lines.append(f'<path class="{kind}" d="{_curve(routes[ends])}" marker-end="url(#head)"/>')
    for label, node in nodes.items():
        x, y, w = places[label]
        lines += [
            f"<g><title>{escape(node.title)}</title>"
            f'<rect class="{escape(node.shape)}" x="{x:.0f}" y="{y:.0f}" width="{w:.0f}" height="{HEIGHT}" rx="6"/>',
            f'<text x="{x + 10:.0f}" y="{y + 19:.0f}">{escape(node.label)}</text>',
            f'<text class="kind" x="{x + 10:.0f}" y="{y + 35:.0f}">{escape(node.below)}</text></g>',
        ]
    return "\n".join([*lines, "</svg>"])


def _outside(label: str) -> _Node:
    """Return the box of a source: of a path, the last part says what it is."""
    kind, _, rest = label.partition(":")
    parts = [part for part in rest.split("/") if part]
    if len(parts) > 1:
        return _Node(label=parts[-1], below=f"{kind} · …/{parts[-2]}", title=label, shape="external")
    return _Node(label=label, below="external", title=label, shape="external")


Point = tuple[float, float]
Places = dict[str, tuple[float, float, float]]
Routes = dict[tuple[str, str], list[Point]]


def _laid_out(nodes: dict[str, _Node], arrows: dict[tuple[str, str], bool]) -> tuple[Places, Routes]:
    """Return left, top and width of each node, and the points through which each arrow goes."""
    vertices = {label: Vertex(label) for label in nodes}
    for label, vertex in vertices.items():
        vertex.view = _Box(w=HEIGHT, h=nodes[label].width)
    links = {ends: GrandalfEdge(vertices[ends[0]], vertices[ends[1]]) for ends in arrows}
    places: Places = {}
    routes: Routes = {}
    top = float(MARGIN)
    for component in Graph(list(vertices.values()), list(links.values())).C:
        layout = SugiyamaLayout(component)
        layout.xspace, layout.yspace = GAP, LAYER_GAP
        layout.init_all()
        layout.draw(12)
        members = list(component.sV)
        low = min(vertex.view.xy[0] - HEIGHT / 2 for vertex in members)
        first = min(vertex.view.xy[1] - vertex.view.h / 2 for vertex in members)
        for vertex in members:
            box = vertex.view
            places[vertex.data] = (box.xy[1] - box.h / 2 - first + MARGIN, box.xy[0] - HEIGHT / 2 - low + top, box.h)
        for ends, link in links.items():
            if link.v[0] in members:
                routes[ends] = [(y - first + MARGIN, x - low + top) for x, y in _bends(layout, link)]
        top = max(places[vertex.data][1] for vertex in members) + HEIGHT + GAP
    for ends, bends in routes.items():
        (x, y, w), (to_x, to_y, _) = places[ends[0]], places[ends[1]]
        routes[ends] = [(x + w, y + HEIGHT / 2), *bends, (to_x, to_y + HEIGHT / 2)]
    return places, routes


def _bends(layout: SugiyamaLayout, link: GrandalfEdge) -> Iterator[Point]:
    """Yield where an edge that spans several layers passes the layers in between."""
    dummies = layout.ctrls.get(link, {})
    start, end = layout.grx[link.v[0]].rank, layout.grx[link.v[1]].rank
    for rank in range(start + 1, end):
        yield dummies[rank].view.xy


def _curve(points: list[Point]) -> str:
    """Return a path that leaves and enters each point horizontally."""
    x, y = points[0]
    parts = [f"M{x:.0f} {y:.0f}"]
    for to_x, to_y in points[1:]:
        middle = (x + to_x) / 2
        parts.append(f"C{middle:.0f} {y:.0f} {middle:.0f} {to_y:.0f} {to_x:.0f} {to_y:.0f}")
        x, y = to_x, to_y
    return " ".join(parts)
