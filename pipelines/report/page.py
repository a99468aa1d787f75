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

__all__ = ["card", "cards", "details", "escape", "legend", "page", "table", "tile"]


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


def card(figure: dict[str, Any], title: str, entries: Iterable[tuple[str, str, str]] = ()) -> str:
    """A figure with its title and, above it, its legend; `entries` are as for `legend`."""
    return (
        f'<div class="card"><h3>{escape(title)}</h3>{legend(entries)}'
        f'<div id="{escape(figure["id"])}" style="height:{figure["height"]}px"></div></div>'
    )


def cards(parts: Iterable[str]) -> str:
    """Cards in as many columns as fit."""
    return f'<div class="cards">{"".join(parts)}</div>'


def legend(entries: Iterable[tuple[str, str, str]]) -> str:
    """`entries`: (text, CSS variable of the colour, SVG dash pattern, or `box` for an area)."""
    items = []
    for text, colour, dash in entries:
        if dash == "box":
            shape = f'<rect width="12" height="12" rx="2" style="fill:var({colour})"/>'
        else:
            shape = f'<path d="M0 6H22" style="stroke:var({colour});stroke-width:2.5" stroke-dasharray="{dash}"/>'
        width = 12 if dash == "box" else 22
        items.append(f'<li><svg width="{width}" height="12" aria-hidden="true">{shape}</svg>{escape(text)}</li>')
    return f'<ul class="legend">{"".join(items)}</ul>' if items else ""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls sideways where it is too wide."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def details(title: str, content: str) -> str:
    """Something that is folded away at first."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"
