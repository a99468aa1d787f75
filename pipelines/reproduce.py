"""A paper's published figures beside those that FogTune computes: `fogtune reproduce`.

Of HF-FM (arXiv 2509.03695) so far the costs: latency and energy of its seven methods, from its own model of the
network and from that model corrected. Nothing is trained for them.
"""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from fogtune.platform.network.hf_fm import CORRECTED, PAPER, Cost, method_costs

from .show import plain_table

_PUBLISHED = {
    "star": Cost(12.10, 387.20),
    "edge-only": Cost(3.59, 59.25),
    "edge-only-d2d": Cost(2.00, 14.75),
    "hierarchical-e2": Cost(9.58, 107.65),
    "hierarchical-e8": Cost(5.04, 71.35),
    "hierarchical-e2-d2d": Cost(8.86, 67.57),
    "hierarchical-e8-d2d": Cost(3.66, 27.92),
}
"""The table in the README of the paper's code. It says kJ; that its code computes J is one of its defects."""

_KINDS = ("published", "paper", "corrected")

_NOTES = (
    "paper: its own formulas, defects included; its energies are labelled kJ but are J. D2D rows are one draw of many.",
    "corrected: noise of the whole bandwidth (Hz, not kHz), fading of mean 1, transmitted powers billed, 37.8 MB an "
    "update instead of 6 MB, star over the radio too.",
)


def costs_json() -> dict[str, Any]:
    """`{"rows": [...]}`, a row a method in the paper's order.

    A row has `method`; `published`, `paper` and `corrected`, each `{latency_s, energy}` with the energy in J; and
    `measured`, which is null until the network is part of the round.
    """
    costs = {"published": _PUBLISHED, "paper": method_costs(PAPER), "corrected": method_costs(CORRECTED)}
    return {
        "rows": [
            {"method": method} | {kind: _figures(costs[kind][method]) for kind in _KINDS} | {"measured": None}
            for method in _PUBLISHED
        ]
    }


def costs_table() -> RenderableType:
    """The same for people: a row a method, and below it what the columns mean.

    All figures are cut to two decimals, not rounded, because the published ones are.
    """
    columns = [f"{kind}\n{unit}" for unit in ("latency s", "energy J") for kind in _KINDS]
    table = plain_table("method", *columns, right=columns)
    for row in costs_json()["rows"]:
        figures = (_cut(row[kind][quantity]) for quantity in ("latency_s", "energy") for kind in _KINDS)
        table.add_row(row["method"], *figures)
    return Group(table, *map(Text, _NOTES))


def _figures(cost: Cost) -> dict[str, float]:
    return {"latency_s": cost.latency_s, "energy": cost.energy_j}


def _cut(figure: float) -> str:
    return f"{figure:.6f}"[:-4]
