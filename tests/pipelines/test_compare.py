"""Runs as tables and as JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from fogtune.pipelines.compare import compare_json, compare_table, read
from fogtune.pipelines.readable import duration, size
from fogtune.pipelines.show import list_json, list_table, show
from fogtune.platform.errors import InputError
from fogtune.platform.run import Ledger, LedgerRow, RoundRecord, RunDirectory, list_runs

MakeRun = Callable[..., RunDirectory]
Record = Callable[..., RoundRecord]


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


@pytest.fixture
def networked(make_run: MakeRun, record: Record) -> RunDirectory:
    """Two rounds with a network."""
    made = make_run("networked", rounds=0)
    for number, what in ((1, ["is relayed"]), (2, ["is headed", "sits out", "is headed"])):
        decisions = [{"about": "reader-0", "what": each, "why": "so"} for each in what]
        made.append(replace(record(number), energy_j=2.0, decisions=decisions))
    made.finish("completed")
    ledger = Ledger(made.path)
    ledger.book([LedgerRow(1, "uplink", "reader-0", "fog-0", "head/topic", 10, 1, 0.0, 1.5, 0.25)])
    ledger.book([LedgerRow(1, "compute", "reader-0", "reader-0", "*", 0, 1, 0.0, 70.0, 3.75)])
    ledger.seal()
    ledger.merge()
    return made


def test_show_says_where_energy_and_time_went_and_what_was_decided_last(networked: RunDirectory) -> None:
    shown = show(networked)
    assert " ".join(cells(shown, "energy for")) == "uplink 0.25 J, compute 3.75 J"
    assert " ".join(cells(shown, "busy with")) == "uplink 1.50 s, compute 1 min 10 s (side by side)"
    assert " ".join(cells(shown, "decisions")) == "2 is headed, 1 sits out"


def test_show_says_nothing_of_a_network_that_there_is_not(make_run: MakeRun) -> None:
    shown = text(show(make_run()))
    assert not any(label in shown for label in ("energy", "busy with", "decisions"))


def test_runs_are_compared_by_what_their_energy_went_for(networked: RunDirectory, make_run: MakeRun) -> None:
    table = compare_table(read([networked, make_run("without")]))
    assert cells(table, "energy for uplink") == ["0.25", "J", "–"]
    assert cells(table, "energy for compute") == ["3.75", "J", "–"]
    assert "energy for d2d" not in text(table)


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
