"""The network on a map: where nodes stand, over which links they sent how much how fast, and who served others."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from fogtune.pipelines import readable
from fogtune.pipelines.spending import Spent, spent_on_links
from fogtune.platform.run.directory import Point, RunDirectory
from fogtune.platform.run.record import NodeEntry
from fogtune.platform.topology import CLOUD, DEVICE

from .figures import Figure, kind_colour
from .page import card
from .roles import HEAD, RELAY, roles

MOST_DEVICES, MOST_LINKS = 1000, 3000
"""Of a larger network the first devices, and the directions of links with the most bytes: the page stays light."""
MOST_NAMES = 25
"""Of more aggregating nodes and access points the names would cover each other."""

Links = dict[str, dict[tuple[str, str], list[str]]]
"""Kind, a downlink's being that of its uplink -> both ends -> a line for each direction."""

_STROKES = {"backhaul": ("backhaul", 2.5), "uplink": ("uplink and downlink", 1.2), "d2d": ("D2D", 2.0)}
"""Kind of link, from the lowest layer of the drawing up -> its name in the legend, its width."""
_RINGS = {HEAD: ("circle-open", "--c4", "ring"), RELAY: ("square-open", "--c5", "frame")}
"""Role -> plotly's symbol, colour, the legend's shape."""


def network_map(run: RunDirectory, figures: list[Figure]) -> str:
    """The map's card; its figure is added to `figures`. Empty if no position is known."""
    nodes, known = run.topology(), run.positions()
    devices = [node for node, entry in nodes.items() if entry["tier"] == DEVICE and node in known]
    left_out = set(devices[MOST_DEVICES:])
    points = {node: point for node, point in known.items() if node not in left_out}
    if not points:
        return ""
    links = _links(spent_on_links(run, points, MOST_LINKS))
    served = roles(run, devices) if "d2d" in links else {}
    traces = [trace for kind in _STROKES if kind in links for trace in _link_traces(kind, links[kind], points)]
    traces += _node_traces(nodes, points, served)
    axis: dict[str, Any] = {"fixedrange": False, "zeroline": False}
    layout = {"xaxis": {**axis, "title": "x (m)"}, "yaxis": {**axis, "title": "y (m)", "scaleanchor": "x"}}
    figure = {"id": "map", "height": 560, "traces": traces, "layout": layout}
    figures.append(figure)
    entries = [(name, kind_colour(kind), "") for kind, (name, _) in _STROKES.items() if kind in links]
    entries += [
        (f"was a {role}", colour, shape)
        for role, (_, colour, shape) in _RINGS.items()
        if any(role in rounds for rounds in served.values())
    ]
    hint = "Point at a node, or at the middle of a link. Drag to enlarge a part; a double click shows all again."
    if len(devices) > MOST_DEVICES:
        hint += f" Of {len(devices)} devices the first {MOST_DEVICES} are drawn."
    return card(figure, "Map", entries, hint)


def _links(sums: Mapping[tuple[str, str, str], Spent]) -> Links:
    links: Links = {}
    for (kind, source, target), total in sums.items():
        ends = (source, target) if source < target else (target, source)
        lines = links.setdefault("uplink" if kind == "downlink" else kind, {}).setdefault(ends, [])
        facts = [readable.size(total.bytes)]
        if total.seconds:
            facts.append(f"at {readable.rate(8 * total.bytes / total.seconds)}")
        facts.append(f"for {readable.energy(total.joules)}" if total.joules is not None else "")
        facts.append(f"({readable.size(total.lost_bytes)} lost)" if total.lost_bytes else "")
        lines.append(f"{escape(source)} → {escape(target)}: {' '.join(filter(None, facts))}")
    return links


def _link_traces(kind: str, links: Mapping[tuple[str, str], list[str]], points: Mapping[str, Point]) -> list[Figure]:
    """One for the lines, one for the points in their middle, which plotly can tell something about."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    for one, other in links:
        xs += [round(points[one][0], 1), round(points[other][0], 1), None]
        ys += [round(points[one][1], 1), round(points[other][1], 1), None]
    middles = [((points[a][0] + points[b][0]) / 2, (points[a][1] + points[b][1]) / 2) for a, b in links]
    line = {"color": kind_colour(kind), "width": _STROKES[kind][1]}
    texts = ["<br>".join(lines) for lines in links.values()]
    return [
        {"type": "scatter", "mode": "lines", "x": xs, "y": ys, "line": line, "hoverinfo": "skip", "opacity": 0.75},
        _markers(middles, texts, "circle", 4, kind_colour(kind)),
    ]


def _node_traces(
    nodes: Mapping[str, NodeEntry], points: Mapping[str, Point], served: Mapping[str, Mapping[str, int]]
) -> list[Figure]:
    traces = [
        _markers([points[node] for node in some], [""] * len(some), symbol, 14, tint)
        for role, (symbol, tint, _) in _RINGS.items()
        if (some := [node for node in points if role in served.get(node, ())])
    ]
    num_inner = sum(node not in nodes or nodes[node]["tier"] != DEVICE for node in points)
    device_px = 7 if len(points) - num_inner <= 200 else 4
    looks: dict[tuple[str, int, str], list[str]] = {}
    for node in points:
        tier = nodes[node]["tier"] if node in nodes else "access point"
        look = {CLOUD: ("square", 13, "--text"), DEVICE: ("circle", device_px, "--soft")}.get(tier)
        looks.setdefault(look or ("diamond", 12, "--text"), []).append(node)
    for look, some in looks.items():
        texts = [_about(node, nodes.get(node), points[node], served.get(node, {})) for node in some]
        trace = _markers([points[node] for node in some], texts, *look)
        if look[0] != "circle" and num_inner <= MOST_NAMES:  # devices stand too close for their names
            trace |= {"mode": "markers+text", "text": list(map(escape, some)), "textposition": "top center"}
        traces.append(trace)
    return traces


def _markers(places: list[Point], texts: list[str], symbol: str, size: int, colour: str) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [round(x_m, 1) for x_m, _ in places],
        "y": [round(y_m, 1) for _, y_m in places],
        "hovertext": texts,
        "hoverinfo": "text" if any(texts) else "skip",
        "marker": {"color": colour, "size": size, "symbol": symbol, "opacity": 1},
    }


def _about(node: str, entry: NodeEntry | None, point: Point, served: Mapping[str, int]) -> str:
    tier = entry["tier"] if entry else "access point"
    lines = [f"<b>{escape(node)}</b>", escape(f"{tier}, group {entry['group']}" if entry and entry["group"] else tier)]
    lines += [f"rounds as {role}: {count}" for role, count in served.items()]
    return "<br>".join([*lines, f"at {point[0]:.0f} m, {point[1]:.0f} m"])
