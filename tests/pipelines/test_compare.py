"""Runs as tables and as JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from fogtune.pipelines.compare import compare_json, compare_table, read
from fogtune.pipelines.readable import duration, size
from fogtune.pipelines.show import list_json, list_table, show
from fogtune.platform.errors import InputError
from fogtune.platform.run import RunDirectory, list_runs

MakeRun = Callable[..., RunDirectory]


def text(renderable: object) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


def cells(renderable: object, label: str) -> list[str]:
    line = next(line for line in text(renderable).splitlines() if line.strip().startswith(label))
    return line.replace(label, "", 1).split()


def test_runs_stand_beside_each_other(make_run: MakeRun) -> None:
    contenders = read([make_run("one"), make_run("two", rounds=2, status="stopped")])
    table = compare_table(contenders)
    assert cells(table, "status") == ["completed", "stopped"]
    assert cells(table, "topic accuracy") == ["0.750", "0.500"]
    assert cells(table, "vqa accuracy") == ["0.375", "0.250"]
    assert cells(table, "moved") == ["10.5", "MB", "7.00", "MB"]
    assert cells(table, "energy") == ["–", "–"]
    assert [run["status"] for run in compare_json(contenders)["runs"]] == ["completed", "stopped"]


def test_a_task_that_a_run_lacks_is_unknown_in_its_column(make_run: MakeRun) -> None:
    table = compare_table(read([make_run("evaluated"), make_run("not", rounds=1)]))
    assert cells(table, "topic accuracy") == ["0.750", "–"]


def test_a_damaged_run_cannot_be_compared_but_is_listed(make_run: MakeRun, tmp_path: Path) -> None:
    good, bad = make_run("good"), make_run("bad")
    (bad.path / "run.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        read([good, bad])
    runs = list_runs(tmp_path / "runs")
    listed = {entry["id"]: entry for entry in list_json(runs)}
    assert listed[good.id]["summary"]["rounds"] == 3
    assert "damaged" in listed[bad.id]["problem"]
    assert bad.id in text(list_table(runs))


def test_show_says_why_a_run_failed(make_run: MakeRun) -> None:
    shown = text(show(make_run(status="failed", error="round 4: 1 of 4 updates arrived")))
    assert "round 4: 1 of 4 updates arrived" in shown
    assert cells(show(make_run()), "topic") == ["0.750", "0.500", "0.125"]


def test_text_from_outside_is_not_markup(make_run: MakeRun) -> None:
    shown = text(show(make_run(status="failed", error="[red]not markup[/red] [/nonsense]")))
    assert "[red]not markup[/red] [/nonsense]" in shown


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (999_600, "1.00 MB"), (12_340_000, "12.3 MB"), (None, "–")],
)
def test_sizes(count: int | None, expected: str) -> None:
    assert size(count) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.4, "0.40 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"), (125, "2 min 05 s"), (7620, "2 h 07 min")],
)
def test_durations(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_json_of_runs_is_json(make_run: MakeRun) -> None:
    json.dumps(compare_json(read([make_run()])), allow_nan=False)
