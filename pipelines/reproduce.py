"""A paper's published figures beside FogTune's: `fogtune reproduce`.

Of HF-FM (arXiv 2509.03695): latency and energy of its seven methods from its own model of the network, from that model
corrected, and, with accuracy beside them, from real runs of the methods over the corrected network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from fogtune.platform.config.check import check
from fogtune.platform.config.load import load_config
from fogtune.platform.errors import InputError
from fogtune.platform.network.hf_fm import CORRECTED, PAPER, Cost, method_costs
from fogtune.platform.run.directory import RunDirectory
from fogtune.platform.run.record import RoundRecord, headline

from . import readable
from .hf_fm import METHODS
from .repeated import completed_run
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


def measure(
    overrides: Sequence[str], on_event: Callable[[RoundRecord], None], on_stage: Callable[[str], None]
) -> dict[str, RunDirectory]:
    """Method -> its run; those that are there already are not repeated.

    Args:
        overrides: `a.b=c`, for all methods alike.
        on_event: called after every round.
        on_stage: called with a short text when something begins that takes a while.

    Raises:
        InputError: an override is refused.
        RunFailed: a run did not complete.
    """
    configs = {m: load_config(make().model_dump(mode="json"), overrides) for m, make in METHODS.items()}
    for config in configs.values():
        check(config)
        if config.network is None:
            raise InputError("network", "null given; allowed with reproduce: a network")
    runs = {}
    for method, config in configs.items():
        stage = partial(_stage, on_stage, method)
        runs[method] = completed_run(config, on_event=on_event, on_stage=stage)
    return runs


def _stage(on_stage: Callable[[str], None], method: str, text: str) -> None:
    on_stage(f"{method}: {text}")


def rows_json(runs: Mapping[str, RunDirectory]) -> dict[str, Any]:
    """`{"rows": [...]}`, a row a method in the paper's order.

    A row has `method`; `published`, `paper` and `corrected`, each `{latency_s, energy}` with the energy in J; and
    `measured`: null without the method's run, else `run`, `rounds`, `accuracy` by task and their mean, and of the whole
    run `latency_s`, `energy` in J and `bytes`; per-round figures like the others' are these over `rounds`.

    Args:
        runs: method -> its run; empty for the costs alone.
    """
    costs = {"published": _PUBLISHED, "paper": method_costs(PAPER), "corrected": method_costs(CORRECTED)}
    return {
        "rows": [
            {"method": method}
            | {kind: _figures(costs[kind][method]) for kind in _KINDS}
            | {"measured": _measured(runs[method]) if method in runs else None}
            for method in _PUBLISHED
        ]
    }


def _measured(run: RunDirectory) -> dict[str, Any]:
    summary = run.info.summary
    accuracy = {task: found[1] for task, metrics in summary.tasks.items() if (found := headline(metrics))}
    return {
        "run": str(run.path),
        "rounds": summary.rounds,
        "accuracy": accuracy,
        "mean_accuracy": sum(accuracy.values()) / len(accuracy),
        "latency_s": summary.virtual_time_s,
        "energy": summary.energy_j,
        "bytes": sum(summary.bytes.values()),
    }


def measured_table(runs: Mapping[str, RunDirectory]) -> RenderableType:
    """What the runs came to: a row a method."""
    measured = {method: _measured(run) for method, run in runs.items()}
    tasks = list(next(iter(measured.values()))["accuracy"])
    columns = [*tasks, "mean", "s/round", "J/round", "virtual time", "energy", "moved"]
    table = plain_table("method", *columns, right=columns)
    for method, found in measured.items():
        table.add_row(
            method,
            *(readable.value(found["accuracy"][task]) for task in tasks),
            readable.value(found["mean_accuracy"]),
            f"{found['latency_s'] / found['rounds']:.2f}",
            f"{found['energy'] / found['rounds']:.1f}",
            readable.duration(found["latency_s"]),
            readable.energy(found["energy"]),
            readable.size(found["bytes"]),
        )
    return Group(table, Text(_MEASURED_NOTE))


def costs_table() -> RenderableType:
    """The same for people: a row a method, and below it what the columns mean.

    All figures are cut to two decimals, not rounded, because the published ones are.
    """
    columns = [f"{kind}\n{unit}" for unit in ("latency s", "energy J") for kind in _KINDS]
    table = plain_table("method", *columns, right=columns)
    for row in rows_json({})["rows"]:
        figures = (_cut(row[kind][quantity]) for quantity in ("latency_s", "energy") for kind in _KINDS)
        table.add_row(row["method"], *figures)
    return Group(table, *map(Text, _NOTES))


_MEASURED_NOTE = (
    "measured: real runs of the default federation over the corrected network, computation, downlink and shared bands "
    "included; D2D with cluster heads. Accuracy on held-out data; edge-only's is the mean over regions."
)


def _figures(cost: Cost) -> dict[str, float]:
    return {"latency_s": cost.latency_s, "energy": cost.energy_j}


def _cut(figure: float) -> str:
    return f"{figure:.6f}"[:-4]
