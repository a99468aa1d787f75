"""The frame of a page and its small parts. Everything that is not markup goes through `escape`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from fogtune.platform.run.record import dump_json

from .script import JS
from .style import CSS

# Nothing is loaded from anywhere, whatever a configuration or a library tries.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"

_SHAPES = {
    "box": '<rect width="12" height="12" rx="2" fill="currentColor"/>',
    "ring": '<circle cx="6" cy="6" r="4.8" fill="none" stroke="currentColor" stroke-width="2"/>',
    "frame": '<rect x="1.2" y="1.2" width="9.6" height="9.6" fill="none" stroke="currentColor" stroke-width="2"/>',
}
"""Shapes in a legend that are no line."""

__all__ = ["card", "cards", "details", "escape", "legend", "page", "panel", "table", "tile"]


def page(title: str, body: str, figures: Sequence[dict[str, Any]]) -> str:
    """The whole document: style, content, figures' data, plotly.js and the script, each once."""
    from plotly.offline import get_plotlyjs

    # In JSON '<' only stands inside strings; escaped, no string can end the script element.
    data = dump_json(figures).replace("<", "\\u003c")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(title)}</title>
<style>{CSS}</style>
</head>
<body>
<main>
{body}
</main>
<script type="application/json" id="figures">{data}</script>
<script>{get_plotlyjs()}</script>
<script>{JS}</script>
</body>
</html>
"""


def tile(name: str, number: str, detail: str = "") -> str:
    """One headline number."""
    below = f'<div class="detail">{escape(detail)}</div>' if detail else ""
    above = f'<div class="name">{escape(name)}</div><div class="number">{escape(number)}</div>'
    return f'<div class="tile">{above}{below}</div>'


def card(figure: dict[str, Any], title: str, entries: Iterable[tuple[str, str, str]] = (), note: str = "") -> str:
    """A figure with its title and, above it, its legend and a note; `entries` are as for `legend`."""
    place = f'<div id="{escape(figure["id"])}" style="height:{figure["height"]}px"></div>'
    return panel(title, legend(entries) + (f'<p class="soft small">{escape(note)}</p>' if note else "") + place)


def panel(title: str, content: str) -> str:
    """A card with something else than a figure."""
    return f'<div class="card"><h3>{escape(title)}</h3>{content}</div>'


def cards(parts: Iterable[str]) -> str:
    """Cards in as many columns as fit."""
    return f'<div class="cards">{"".join(parts)}</div>'


def legend(entries: Iterable[tuple[str, str, str]]) -> str:
    """`entries`: (text, CSS variable of the colour, one of `_SHAPES` or the SVG dash pattern of a line)."""
    items = []
    for text, colour, shape in entries:
        line = f'<path d="M0 6H22" stroke="currentColor" stroke-width="2.5" stroke-dasharray="{shape}"/>'
        size = f'width="{12 if shape in _SHAPES else 22}" height="12"'
        drawn = f'<svg {size} style="color:var({colour})" aria-hidden="true">{_SHAPES.get(shape, line)}</svg>'
        items.append(f"<li>{drawn}{escape(text)}</li>")
    return f'<ul class="legend">{"".join(items)}</ul>' if items else ""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls sideways where it is too wide."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def details(title: str, content: str) -> str:
    """Something that is folded away at first."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"
