"""The figures' data: plotly traces and layouts as plain values; `script` adds the theme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from fogtune.pipelines.spending import KINDS
from fogtune.platform.run.record import LINKS, RoundRecord, headline

Figure = dict[str, Any]

NUM_COLOURS = 8
DASHES = {"": "solid", "5 3": "dash", "2 2": "dot"}
"""SVG dash pattern, for legends -> plotly's name of it."""
MOST_MODULES = 40


def colour(index: int) -> str:
    """The CSS variable of a series' colour."""
    return f"--c{index % NUM_COLOURS}"


def kind_colour(kind: str) -> str:
    """The CSS variable of the colour of a kind of ledger row, the same in all figures."""
    return colour(KINDS.index(kind) if kind in KINDS else len(KINDS))


class Axes:
    """The x axes along which a run's curves can be drawn: rounds, bytes, seconds, joules; unknown ones are left out.

    Of several runs, those that every one of them knows, in the units that suit the largest.
    """

    def __init__(self, runs: Sequence[Sequence[RoundRecord]]) -> None:
        self._runs = runs
        self.byte_unit, self._bytes = byte_scale([sum(map(_moved, records)) for records in runs])
        records = [record for run in runs for record in run]
        self.titles = {"round": "round", "bytes": f"moved so far ({self.byte_unit})", "wall": "wall time so far (s)"}
        if all(record.virtual_time_s is not None for record in records):
            self.titles["virtual"] = "virtual time so far (s)"
        if all(record.energy_j is not None for record in records):
            self.titles["energy"] = "energy so far (J)"

    def values(self, run: int) -> list[dict[str, float]]:
        """A mapping axis -> position for each round of the run at this index."""
        records = self._runs[run]
        columns: dict[str, list[float]] = {
            "round": [record.round for record in records],
            "bytes": [total / self._bytes for total in accumulate(map(_moved, records))],
            "wall": list(accumulate(record.wall_s for record in records)),
            "virtual": list(accumulate(record.virtual_time_s or 0.0 for record in records)),
            "energy": list(accumulate(record.energy_j or 0.0 for record in records)),
        }
        return [{axis: columns[axis][row] for axis in self.titles} for row in range(len(records))]

    def layout(self) -> dict[str, dict[str, Any]]:
        """Axis -> plotly's settings for it. Rounds have whole ticks."""
        last = max((record.round for run in self._runs for record in run), default=0)
        return {
            axis: {"title": title, "rangemode": "tozero", **({"dtick": 1} if axis == "round" and last <= 12 else {})}
            for axis, title in self.titles.items()
        }


def curve(name: str, colour_name: str, dash: str, points: Sequence[tuple[Mapping[str, float], float]]) -> Figure:
    """A trace through (position on each axis, value)."""
    axes = points[0][0] if points else {}
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(points) <= 60 else "lines",
        "name": name,
        "along": {axis: [position[axis] for position, _ in points] for axis in axes},
        "y": [value for _, value in points],
        "line": {"color": colour_name, "width": 2.5, "dash": DASHES[dash]},
        "marker": {"color": colour_name, "size": 6},
    }


def curves(figure_id: str, traces: Sequence[Figure], axes: Axes, y_title: str) -> Figure:
    """Lines whose x axis can be chosen."""
    yaxis: dict[str, Any] = {"title": y_title, "rangemode": "tozero"}
    if y_title == "accuracy":
        yaxis |= {"range": [0, 1.03], "tickformat": ".1f", "hoverformat": ".3f"}
    return {
        "id": figure_id,
        "height": 280,
        "hover": "x unified",
        "traces": list(traces),
        "axes": axes.layout(),
        "layout": {"yaxis": yaxis},
    }


def metric_curve(
    records: Sequence[RoundRecord], positions: Sequence[Mapping[str, float]], task: str, metric: str
) -> list[tuple[Mapping[str, float], float]]:
    """Points of a metric over the rounds that have it."""
    return [
        (position, record.tasks[task][metric])
        for record, position in zip(records, positions, strict=True)
        if metric in record.tasks.get(task, {})
    ]


def link_bytes(figure_id: str, records: Sequence[RoundRecord]) -> tuple[Figure, list[str]]:
    """Stacked bars, a bar a round, and the kinds of link that were used."""
    kinds = [kind for kind in dict.fromkeys([*LINKS, *(k for r in records for k in r.bytes)]) if _used(records, kind)]
    unit, scale = byte_scale([_moved(record) for record in records])
    columns = {kind: [record.bytes.get(kind, 0) / scale for record in records] for kind in kinds}
    return stacked(figure_id, [record.round for record in records], columns, "moved in the round", unit), kinds


def stacked(
    figure_id: str, rounds: Sequence[int], columns: Mapping[str, Sequence[float]], title: str, unit: str
) -> Figure:
    """Stacked bars, a bar a round; `columns` are kind -> value in each round."""
    traces = [
        {
            "type": "bar",
            "name": kind,
            "x": list(rounds),
            "y": list(values),
            "marker": {"color": kind_colour(kind)},
            "hovertemplate": f"%{{y:.3~g}} {unit}",
        }
        for kind, values in columns.items()
    ]
    xaxis: dict[str, Any] = {"title": "round"} | ({"dtick": 1} if len(rounds) <= 12 else {})
    layout = {"barmode": "stack", "bargap": 0.25, "xaxis": xaxis, "yaxis": {"title": f"{title} ({unit})"}}
    return {"id": figure_id, "height": 280, "hover": "x unified", "traces": traces, "layout": layout}


def module_bytes(figure_id: str, records: Sequence[RoundRecord]) -> Figure:
    """Bars, a bar a module, the largest on top; what is beyond the largest 40 is one bar."""
    totals: dict[str, int] = {}
    for record in records:
        for module, count in record.modules_moved.items():
            totals[module] = totals.get(module, 0) + count
    largest = sorted(totals.items(), key=lambda item: -item[1])
    shown = largest[:MOST_MODULES]
    if rest := largest[MOST_MODULES:]:
        shown.append((f"{len(rest)} others", sum(count for _, count in rest)))
    unit, scale = byte_scale([count for _, count in shown])
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": [count / scale for _, count in shown],
        "y": [module for module, _ in shown],
        "marker": {"color": colour(0)},
        "hovertemplate": f"%{{y}}: %{{x:.3~g}} {unit}<extra></extra>",
    }
    yaxis = {"autorange": "reversed", "ticksuffix": " ", "showgrid": False}
    layout = {"bargap": 0.3, "xaxis": {"title": f"moved over the run ({unit})"}, "yaxis": yaxis}
    return {"id": figure_id, "height": max(280, 70 + 22 * len(shown)), "traces": [trace], "layout": layout}


def task_metric(records: Sequence[RoundRecord], task: str) -> str | None:
    """The name of the metric that stands for a task; none if it was never evaluated."""
    names = (headline(record.tasks.get(task, {})) for record in records)
    return next((found[0] for found in names if found), None)


def byte_scale(counts: Sequence[int]) -> tuple[str, int]:
    """(unit, bytes in it) that suit the largest of these counts."""
    largest = max(counts, default=0)
    return next(
        ((unit, scale) for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)) if largest >= scale), ("B", 1)
    )


def _moved(record: RoundRecord) -> int:
    return sum(record.bytes.values())


def _used(records: Sequence[RoundRecord], kind: str) -> bool:
    return any(record.bytes.get(kind) for record in records)
