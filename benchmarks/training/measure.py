"""The tables of docs/benchmarks.md about training: FogTune beside what a user would run instead, on the same work.

    python benchmarks/training/measure.py --out docs/benchmarks.md
    python benchmarks/training/measure.py --tables W1 --sides fogtune plain-1 pfl-1 --repeats 5

Sides take turns, several times; figures are medians, and what counts are ratios, for the machine's speed is its own.
The first turn of each is only watched for its memory, as looking takes time. Environments are made where they are
missing (environments.py); what was measured is kept beside them, in .cache/bench/results. All tables take about an hour
on two cores, which should have nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from environments import CACHE
from report import preset_table, scale_table, work_table
from sides import ENVIRONMENT, SIDES, Command
from tables import write_between_marks
from watching import Watched, watch
from works import WORKS

SCALE = tuple(name for name in WORKS if name.startswith("scale"))
TABLES = (*(name for name in WORKS if name not in SCALE), "scale", "default")
LOOK_S, SELDOM_S = 0.1, 2.0
"""Between looks at memory: in the first turn, and in the others, only against its bound."""
FEW_ROUNDS = 4
"""Of the first turn, as what comes and goes in Ray's store has found its places by then; and of who is slow."""
Entry = tuple[str, str]
"""Work and side."""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=TABLES, help="what to measure")
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), help="by default, all of a table")
    parser.add_argument("--repeats", type=int, default=3, help="turns that are timed")
    parser.add_argument("--rounds", type=int, help="of a turn, if fewer than the work's own")
    parser.add_argument("--risky", action="store_true", help="also what may take all memory of the machine")
    parser.add_argument("--limit-s", type=float, default=900, help="a turn is ended after so long")
    parser.add_argument("--limit-gb", type=float, default=18, help="a turn is ended with more memory")
    parser.add_argument("--out", type=Path, help="Markdown file to write; by default tables are only printed")
    options = parser.parse_args()
    if options.rounds is not None and options.rounds < 3:
        parser.error("--rounds: at least 3, for the first is by itself, and FogTune's last also evaluates")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what runs is ended
    for table in options.tables:
        text = measured(table, options)
        print(text, flush=True)
        if options.out:
            write_between_marks(options.out, f"benchmarks/training/measure.py, {table}", text)


def measured(table: str, options: argparse.Namespace) -> str:
    """One table."""
    if table == "default":
        return preset_table(preset(options))
    works = SCALE if table == "scale" else (table,)
    entries = [(work, side) for work in works for side in sides_of(work, options)]
    found = turns(entries, options)
    kept = CACHE / "results" / f"{table}.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps([[*entry, [asdict(turn) for turn in some]] for entry, some in found.items()]))
    if table == "scale":
        return scale_table({work: some for (work, _), some in found.items()})
    return work_table(folder_of(table), {side: some for (_, side), some in found.items()})


def sides_of(work: str, options: argparse.Namespace) -> Sequence[str]:
    """Who does a work."""
    able = WORKS[work].sides + (WORKS[work].risky if options.risky else ())
    return [side for side in able if options.sides is None or side in options.sides]


def turns(entries: Sequence[Entry], options: argparse.Namespace) -> dict[Entry, list[Watched]]:
    """Of each entry, the turn that was watched for memory and then those that were timed. Who fails, ends there."""
    found: dict[Entry, list[Watched]] = {entry: [] for entry in entries}
    for work in dict.fromkeys(work for work, _ in entries):
        command = [sys.executable, Path(__file__).with_name("prepare.py"), work, folder_of(work)]
        subprocess.run(command, env=os.environ | ENVIRONMENT, check=True)
    for turn in range(1 + options.repeats):
        for (work, side), some in found.items():
            if some and some[-1].said is None:
                continue
            most = min(WORKS[work].config["rounds"], options.rounds or math.inf)
            rounds = int(min(most, FEW_ROUNDS) if turn == 0 or side in WORKS[work].slow else most)
            command = SIDES[side][1](work, folder_of(work), rounds)
            some.append(run(command, turn, options))
            print(f"turn {turn}: {work}, {side}: {some[-1].problem or some[-1].said}", flush=True)
    return found


def preset(options: argparse.Namespace) -> list[Watched]:
    """Turns of the default preset."""
    found = []
    for turn in range(1 + options.repeats):
        with tempfile.TemporaryDirectory() as runs:
            found.append(run([sys.executable, Path(__file__).with_name("preset_side.py"), runs], turn, options))
        print(f"turn {turn}: default: {found[-1].problem or found[-1].said}", flush=True)
    return found


def run(command: Command, turn: int, options: argparse.Namespace) -> Watched:
    """A side's turn."""
    return watch(command, ENVIRONMENT, SELDOM_S if turn else LOOK_S, options.limit_s, 1e3 * options.limit_gb)


def folder_of(work: str) -> Path:
    """Where a work's files are."""
    return CACHE / "works" / work


if __name__ == "__main__":
    main()
