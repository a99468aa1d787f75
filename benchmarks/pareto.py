"""The tables of `docs/pareto.md`: the preset `pareto` beside HF-FM's methods, and without each of its ingredients.

    python benchmarks/pareto.py --out docs/pareto.md

`pareto` and the method that it is measured against run with all seeds, the other rows with the first. A run that is
already in `--runs` (same configuration, completed) is read, not repeated. Every run takes minutes on two cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import mean

from tables import percent, spread, write_between_marks

from fogtune.pipelines.hf_fm import METHODS, pareto
from fogtune.pipelines.repeated import completed_run
from fogtune.platform.config import Config
from fogtune.platform.config.load import load_config
from fogtune.platform.run.directory import RunDirectory
from fogtune.platform.run.record import RoundRecord, Summary

AGAINST = "hierarchical-e2-d2d"
WITHIN = 0.5
"""Points that may be missing."""
INGREDIENTS: dict[str, tuple[str, ...]] = {
    "as many passes for every task": ("tasks.topic.epochs=null", "tasks.side.epochs=null"),
    "updates and versions in fp32": ("federation.compress_down=false", "federation.compression=[]"),
    "no cluster heads": ("network.d2d.heads=false",),
    "nothing handed on": ("network.d2d.share=false",),
}
"""What is otherwise -> overrides of `pareto`."""
ROWS: dict[str, tuple[Callable[[], Config], tuple[str, ...]]] = {
    AGAINST: (METHODS[AGAINST], ()),
    "pareto": (pareto, ()),
    **{name: (pareto, overrides) for name, overrides in INGREDIENTS.items()},
    **{method: (make, ()) for method, make in METHODS.items()},
}
"""Row -> its preset and overrides, those that matter most first."""

UNITS = ("s", "J")

Runs = dict[str, dict[int, RunDirectory]]
"""Row -> seed -> run."""


def main() -> None:
    """Run what is missing, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/pareto"), help="where the runs are kept")
    parser.add_argument("--out", type=Path, help="Markdown file to write; by default the tables are only printed")
    options = parser.parse_args()
    runs: Runs = {}
    for row in ROWS:
        for seed in options.seeds if row in (AGAINST, "pareto") else options.seeds[:1]:
            runs.setdefault(row, {})[seed] = completed(row, seed, options.runs)
    for title, table in (("methods", methods(runs)), ("ingredients", ingredients(runs))):
        print(table, flush=True)
        if options.out:
            write_between_marks(options.out, f"benchmarks/pareto.py, {title}", table)


def completed(row: str, seed: int, runs: Path) -> RunDirectory:
    """The run of a row and a seed: found, or made now."""
    make, overrides = ROWS[row]
    config = load_config(make().model_dump(mode="json"), [f"seed={seed}", f"output.directory={runs}", *overrides])
    return completed_run(config, on_stage=lambda text: print(f"{row} {seed}: {text}", flush=True))


def methods(runs: Runs) -> str:
    """A line a method: its accuracy and costs, and when it and `pareto` (same seeds) first have about as much."""
    less = f"{WITHIN} less"
    lines = [
        f"| method | seeds | accuracy | time | energy | it, to {less} | `pareto`, to {less} | `pareto`, to as much |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method in ("pareto", *METHODS):
        found = runs[method].values()
        cells = [method, str(len(found)), spread([final(run) for run in found])]
        cells += [shown(mean(cost(run.info.summary)[i] for run in found), unit) for i, unit in enumerate(UNITS)]
        cells.append(reached(runs, method, method, WITHIN))
        cells += ["" if method == "pareto" else reached(runs, "pareto", method, points) for points in (WITHIN, 0.0)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def ingredients(runs: Runs) -> str:
    """A line an ingredient: what `pareto` without it comes to, with the first seed."""
    seed = next(iter(runs["pareto"]))
    target = final(runs[AGAINST][seed]) - WITHIN
    lines = [f"| `pareto` | mean accuracy | time | energy | to {target:.1f} |", "|---|---|---|---|---|"]
    for row in ("pareto", *INGREDIENTS):
        run = runs[row][seed]
        time_s, energy_j = cost(run.info.summary)
        spent = until(run, target)
        there = f"{shown(spent[0], 's')}, {shown(spent[1], 'J')}" if spent else "never"
        name = "as it is" if row == "pareto" else row
        lines.append(f"| {name} | {final(run):.1f} | {shown(time_s, 's')} | {shown(energy_j, 'J')} | {there} |")
    return "\n".join(lines) + "\n"


def reached(runs: Runs, row: str, method: str, points: float) -> str:
    """Mean time and energy by when the runs of a row have a method's final accuracy, less some points."""
    there = [until(runs[row][seed], final(run) - points) for seed, run in runs[method].items()]
    found = [spent for spent in there if spent is not None]
    if len(found) < len(there):
        return f"{len(found)} of {len(there)}"
    return ", ".join(shown(mean(spent[i] for spent in found), unit) for i, unit in enumerate(UNITS))


def until(run: RunDirectory, accuracy: float) -> tuple[float, float] | None:
    """Virtual seconds and joules until a run first has a mean accuracy; null if it never does."""
    time_s = energy_j = 0.0
    for record in run.records():
        round_s, round_j = cost(record)
        time_s, energy_j = time_s + round_s, energy_j + round_j
        if mean_accuracy(record) >= accuracy:
            return time_s, energy_j
    return None


def final(run: RunDirectory) -> float:
    """Mean accuracy over the tasks after the last round, in percent."""
    return mean_accuracy(run.records()[-1])


def cost(whole: RoundRecord | Summary) -> tuple[float, float]:
    """Virtual seconds and joules of a round, or of a run."""
    return whole.virtual_time_s or 0.0, whole.energy_j or 0.0


def mean_accuracy(record: RoundRecord) -> float:
    """Mean over the tasks, in percent; 0 where nothing was evaluated."""
    return mean(map(percent, record.tasks.values())) if record.tasks else 0.0


def shown(value: float, unit: str) -> str:
    """`1,061 s`."""
    return f"{value:,.0f} {unit}"


if __name__ == "__main__":
    main()
