"""The table of `docs/howto/stragglers.md`: how soon nodes learn that wait for all, for the first, or for nobody.

    python benchmarks/stragglers.py --out docs/howto/stragglers.md

Twenty devices with news under four fog nodes, each with its own mix of topics; a fifth of them computes ten times
slower. The target is what waiting for all reaches in its last round. A run that is already in `--runs` (same
configuration, completed) is read, not repeated. Takes about twenty minutes on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean

from tables import percent, spread, write_between_marks

from fogtune.pipelines.presets import preset
from fogtune.pipelines.repeated import completed_run
from fogtune.platform.run.directory import RunDirectory

_CLASS = "{processor: {kind: power, flops_per_s: %s, power_w: 5}}"
FEDERATION = (
    "execution.runner=local",
    "evaluation.personal=false",
    "topology.tiers.0.count=4",
    "devices=[{name: reader, count: 16, modalities: [text], tasks: [topic]}, "
    "{name: slow, count: 4, modalities: [text], tasks: [topic], device_class: slow}]",
    "sources={news: {kind: embedded, asset: bbc-news, held_out: {fraction: 0.2, limit: 200}, samples_per_device: 40, "
    "partition: {kind: dirichlet, alpha: 0.5, label: topic}}}",
    "tasks={topic: {source: news, inputs: [text], label: topic}}",
    "model.encoders={}",
    "model.backbone.max_text_tokens=24",
    "local.learning_rate=1e-3",
    "network={radio: {fading: none}, channel: {kind: log-distance, shadowing_db: 0}}",
    f"network.classes={{phone: {_CLASS % '4e9'}, slow: {_CLASS % '4e8'}}}",
)
_ASYNCHRONOUS = "{kind: asynchronous, share: 0.5}"
ROWS = {
    "all": (16, "{}"),
    "the first 80 %": (24, "{fog: {kind: semi-synchronous, share: 0.8}}"),
    "half, asynchronous fog nodes": (32, f"{{fog: {_ASYNCHRONOUS}}}"),
    "half, asynchronous fog nodes and cloud": (72, f"{{fog: {_ASYNCHRONOUS}, cloud: {_ASYNCHRONOUS}}}"),
}
"""Whom nodes wait for -> rounds, and `federation.synchrony`."""


def main() -> None:
    """Run what is missing, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/stragglers"), help="where the runs are kept")
    parser.add_argument("--out", type=Path, help="Markdown file to write; by default the table is only printed")
    options = parser.parse_args()
    runs = {name: [completed(name, seed, options.runs) for seed in options.seeds] for name in ROWS}
    text = table(runs)
    print(text)
    if options.out:
        write_between_marks(options.out, "benchmarks/stragglers.py", text)


def completed(name: str, seed: int, runs: Path) -> RunDirectory:
    """The run of a row and a seed: found, or made now."""
    rounds, synchrony = ROWS[name]
    changes = (f"rounds={rounds}", f"seed={seed}", f"federation.synchrony={synchrony}", f"output.directory={runs}")
    config = preset("smoke", *FEDERATION, *changes)
    return completed_run(config, on_stage=lambda text: print(f"{name}, seed {seed}: {text}", flush=True))


def table(runs: dict[str, list[RunDirectory]]) -> str:
    """A line a row: accuracy at the end, and what it takes to have that of waiting for all (same seeds)."""
    lines = ["| waits for | rounds | accuracy | virtual time | to the target | that is | energy to it |"]
    lines.append("|---|---|---|---|---|---|---|")
    targets = [accuracies(run)[-1] for run in runs["all"]]
    base_s = mean(until(run, target)[0] for run, target in zip(runs["all"], targets, strict=True))
    for name, found in runs.items():
        reached = [until(run, target) for run, target in zip(found, targets, strict=True)]
        there_s, there_j = (mean(one[i] for one in reached) for i in (0, 1))
        whole_s = mean(run.info.summary.virtual_time_s or 0.0 for run in found)
        final = spread([accuracies(run)[-1] for run in found])
        cells = [name, str(ROWS[name][0]), final, f"{whole_s:,.0f} s", f"{there_s:,.0f} s"]
        lines.append(f"| {' | '.join([*cells, f'{100 * there_s / base_s:.0f} %', f'{there_j:,.0f} J'])} |")
    return "\n".join(lines) + "\n"


def accuracies(run: RunDirectory) -> list[float]:
    """Held-out accuracy after each round, in percent."""
    return [percent(record.tasks["topic"]) for record in run.records()]


def until(run: RunDirectory, accuracy: float) -> tuple[float, float]:
    """Virtual seconds and joules until a run first has an accuracy; infinite if it never does."""
    time_s = energy_j = 0.0
    for record, found in zip(run.records(), accuracies(run), strict=True):
        time_s, energy_j = time_s + (record.virtual_time_s or 0.0), energy_j + (record.energy_j or 0.0)
        if found >= accuracy:
            return time_s, energy_j
    return float("inf"), float("inf")


if __name__ == "__main__":
    main()
