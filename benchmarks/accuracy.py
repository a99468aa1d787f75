"""The table of `docs/results.md`: the default federation beside its baselines, on the same held-out data, over seeds.

    python benchmarks/accuracy.py --seeds 0 1 2 --out docs/results.md

A run that is already in `--runs` (same configuration, completed) is read, not repeated, so an interrupted table goes
on where it was. Every run takes a few minutes on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean

from tables import percent, spread, write_between_marks

import fogtune
from fogtune.pipelines.repeated import completed_run
from fogtune.platform.run.directory import RunInfo

ROWS = ("default", "centralized", "local-only", "edge-only", "hierarchical-e2", "hierarchical-e8", "star")


def main() -> None:
    """Run what is missing, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=list(ROWS), help="rows of the table")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds a row")
    parser.add_argument("--runs", type=Path, default=Path("runs/accuracy"), help="where the runs are kept")
    parser.add_argument("--out", type=Path, help="Markdown file to write; by default the table is only printed")
    options = parser.parse_args()
    rows: dict[str, list[RunInfo]] = {}
    for seed in options.seeds:
        for preset in options.presets:
            rows.setdefault(preset, []).append(completed(preset, seed, options.runs))
            table = markdown(rows)
            print(table, flush=True)
            if options.out:
                write_between_marks(options.out, "benchmarks/accuracy.py", table)


def completed(preset: str, seed: int, runs: Path) -> RunInfo:
    """The run of a preset and a seed: found, or made now."""
    config = fogtune.preset(preset, f"seed={seed}", f"output.directory={runs}")
    return completed_run(config, on_stage=lambda text: print(f"{preset} {seed}: {text}", flush=True)).info


def markdown(rows: dict[str, list[RunInfo]]) -> str:
    """A line a preset: mean and standard deviation over its seeds, in percent; bytes of a run."""
    tasks = list(next(iter(rows.values()))[0].summary.tasks)
    lines = [
        f"| preset | seeds | {' | '.join(tasks)} | personal, mean / worst decile | MB moved |",
        "|---" * (len(tasks) + 4) + "|",
    ]
    for preset, infos in rows.items():
        cells = [spread([percent(info.summary.tasks[task]) for info in infos]) for task in tasks]
        personal = " / ".join(
            f"{mean(own):.1f}"
            for name in ("personal_mean", "personal_worst_decile")
            if (own := [100 * m[name] for info in infos for m in info.summary.tasks.values() if name in m])
        )
        moved = mean(sum(info.summary.bytes.values()) for info in infos) / 1e6
        lines.append(f"| {preset} | {len(infos)} | {' | '.join(cells)} | {personal or '-'} | {moved:,.0f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
