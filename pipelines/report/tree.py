"""The topology, drawn as a tree from left to right, beside a list of who owns which modules.

Devices stand one under the other, coloured by group. Of a large population the devices of one group under one parent
are drawn as one mark, so that the drawing stays readable; the list names every node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape

from fogtune.platform.run.record import NodeEntry

from .figures import colour

MOST_DEVICES = 60
"""A larger population is drawn by groups."""
COLUMN_PX, ROW_PX, MARGIN_PX = 112, 21, 26
CHARACTER_PX = 8


@dataclass
class _Mark:
    """A circle in the drawing: a node, or the devices of one group under one parent."""

    ids: list[str]
    entry: NodeEntry
    kind: int
    children: list[_Mark] = field(default_factory=list)

    @property
    def text(self) -> str:
        return self.ids[0] if len(self.ids) == 1 else f"{self.entry['group']} × {len(self.ids)}"


Kind = tuple[str, str | None, tuple[str, ...], tuple[str, ...], tuple[str, ...]]
"""Tier, group, modalities, tasks, modules: nodes that agree in all of them are listed together."""


def topology(nodes: Mapping[str, NodeEntry]) -> str:
    """Drawing and list, linked: what the pointer is on is marked in both."""
    kinds = _kinds(nodes)
    groups = {
        group: colour(index)
        for index, group in enumerate(dict.fromkeys(e["group"] for e in nodes.values() if e["group"]))
    }
    number = {node_id: index for index, ids in enumerate(kinds.values()) for node_id in ids}
    listed = "".join(_listed(index, kind, ids, groups) for index, (kind, ids) in enumerate(kinds.items()))
    return (
        f'<div class="tree"><div class="card">{_drawing(nodes, number, groups)}</div>'
        f'<div class="card">{listed}</div></div>'
    )


def _kinds(nodes: Mapping[str, NodeEntry]) -> dict[Kind, list[str]]:
    kinds: dict[Kind, list[str]] = {}
    for node_id, entry in nodes.items():
        owned = (tuple(entry["modalities"]), tuple(entry["tasks"]), tuple(entry["modules"]))
        kinds.setdefault((entry["tier"], entry["group"], *owned), []).append(node_id)
    return kinds


def _listed(index: int, kind: Kind, ids: list[str], groups: Mapping[str, str]) -> str:
    tier, group, modalities, tasks, modules = kind
    fill = groups[group] if group else "--soft"
    title = f"{group} ({tier})" if group else tier
    lines = [
        f'<h3><span class="dot" style="background:var({fill})"></span>{escape(title)}'
        f"{f' × {len(ids)}' if len(ids) > 1 else ''}</h3>",
        f'<p class="ids soft small">{escape(", ".join(ids))}</p>',
    ]
    if modalities or tasks:
        lines.append(
            f'<p class="small">collects {escape(", ".join(modalities))}; executes {escape(", ".join(tasks))}</p>'
        )
    if modules:
        lines.append(f'<div class="chips">{"".join(f"<span>{escape(module)}</span>" for module in modules)}</div>')
    return f'<div class="kind" data-kind="{index}">{"".join(lines)}</div>'


def _drawing(nodes: Mapping[str, NodeEntry], number: Mapping[str, int], groups: Mapping[str, str]) -> str:
    roots = _marks(nodes, number)
    shapes: list[str] = []
    widest = 0.0
    row = 0

    def place(mark: _Mark, depth: int) -> float:
        """Draws a mark after all that is below it; returns its y."""
        nonlocal row, widest
        x = MARGIN_PX + depth * COLUMN_PX
        below = [(child, place(child, depth + 1)) for child in mark.children]
        if below:
            y = (below[0][1] + below[-1][1]) / 2
        else:
            y = MARGIN_PX + row * ROW_PX
            row += 1
        for _, child_y in below:
            bend = x + COLUMN_PX / 2
            end = x + COLUMN_PX
            edges.append(f'<path class="edge" d="M{x} {y:g}C{bend:g} {y:g} {bend:g} {child_y:g} {end} {child_y:g}"/>')
        fill = f'style="fill:var({groups[mark.entry["group"]]})"' if mark.entry["group"] else 'class="inner"'
        beside = f'x="{x + 10}" y="{y + 4:g}"' if not below else f'x="{x}" y="{y - 11:g}" text-anchor="middle"'
        widest = max(widest, x + 10 + CHARACTER_PX * len(mark.text))
        shapes.append(
            f'<g data-kind="{mark.kind}"><title>{escape(_hint(mark))}</title>'
            f'<circle cx="{x}" cy="{y:g}" r="{4 + 2 * bool(below)}" {fill}/>'
            f"<text {beside}>{escape(mark.text)}</text></g>"
        )
        return y

    edges: list[str] = []
    for root in roots:
        place(root, 0)
    height = 2 * MARGIN_PX + max(row - 1, 0) * ROW_PX
    size = f'width="{widest:.0f}" height="{height}" viewBox="0 0 {widest:.0f} {height}"'
    return f'<svg {size} role="img" aria-label="topology">{"".join(edges)}{"".join(shapes)}</svg>'


def _marks(nodes: Mapping[str, NodeEntry], number: Mapping[str, int]) -> list[_Mark]:
    together = sum(entry["group"] is not None for entry in nodes.values()) > MOST_DEVICES
    marks: dict[str, _Mark] = {}
    merged: dict[tuple[str | None, int], _Mark] = {}
    roots: list[_Mark] = []
    for node_id, entry in nodes.items():
        key = (entry["parent"], number[node_id])
        if together and entry["group"] and key in merged:
            merged[key].ids.append(node_id)
            continue
        mark = marks[node_id] = merged[key] = _Mark([node_id], entry, number[node_id])
        parent = marks.get(entry["parent"] or "")
        (parent.children if parent else roots).append(mark)
    return roots


def _hint(mark: _Mark) -> str:
    entry = mark.entry
    facts = [", ".join(mark.ids), entry["tier"] + (f", group {entry['group']}" if entry["group"] else "")]
    facts += [f"{name}: {', '.join(entry[name])}" for name in ("modalities", "tasks", "modules") if entry[name]]
    return "\n".join(facts)
