"""What the benchmarks' Markdown tables have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev

from fogtune.platform.run.record import headline


def percent(metrics: Mapping[str, float]) -> float:
    """What a task is judged by, times 100."""
    found = headline(metrics)
    return 100 * found[1] if found else float("nan")


def spread(values: list[float]) -> str:
    """`77.1 ± 0.8`."""
    return f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def write_between_marks(path: Path, script: str, table: str) -> None:
    """Replace what stands between a script's marks in a page; the prose around it is written by hand."""
    begin, end = f"<!-- table: {script} -->\n", "<!-- end of table -->\n"
    before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    path.write_text(before + begin + table + end + after, encoding="utf-8")
