"""`fogtune reproduce`: its rows, its table, what it refuses."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner, Result

from fogtune.pipelines.cli import app

METHODS = [
    "star",
    "edge-only",
    "edge-only-d2d",
    "hierarchical-e2",
    "hierarchical-e8",
    "hierarchical-e2-d2d",
    "hierarchical-e8-d2d",
]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["reproduce", *arguments])


def test_json_has_a_row_a_method() -> None:
    result = invoke("hf-fm", "--costs-only", "--json")
    assert result.exit_code == 0
    (key, rows), *others = json.loads(result.stdout).items()
    assert (key, others) == ("rows", [])
    assert [row["method"] for row in rows] == METHODS
    for row in rows:
        assert list(row) == ["method", "published", "paper", "corrected", "measured"]
        assert row["measured"] is None
        for kind in ("published", "paper", "corrected"):
            assert list(row[kind]) == ["latency_s", "energy"]
    assert rows[2]["published"] == {"latency_s": 2.00, "energy": 14.75}
    assert rows[3]["published"] == {"latency_s": 9.58, "energy": 107.65}
    assert rows[3]["paper"]["energy"] == pytest.approx(107.65, abs=0.005)
    assert max(rows, key=lambda row: float(row["corrected"]["latency_s"]))["method"] == "star"
    assert all(row["corrected"][cost] > row["paper"][cost] for row in rows for cost in ("latency_s", "energy"))


def test_the_table_repeats_the_published_digits_and_says_what_is_corrected() -> None:
    result = invoke("hf-fm", "--costs-only")
    assert result.exit_code == 0
    rows = {words[0]: words[1:] for line in result.stdout.splitlines() if (words := line.split())}
    assert [name for name in rows if name in METHODS] == METHODS
    for method in ("star", "edge-only", "hierarchical-e2", "hierarchical-e8"):
        published_s, paper_s, _, published_j, paper_j, _ = rows[method]
        assert (paper_s, paper_j) == (published_s, published_j)
    assert sum(line.startswith("corrected: ") for line in result.stdout.splitlines()) == 1
    assert "labelled kJ but are J" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("hf-fm",), "error: reproduce hf-fm: the measured rows are not there yet; allowed: --costs-only\n"),
        (("hf-fm", "--json"), "error: reproduce hf-fm: the measured rows are not there yet; allowed: --costs-only\n"),
        (("fedavg", "--costs-only"), "error: PAPER: 'fedavg' is no paper that can be reproduced; allowed: hf-fm\n"),
    ],
)
def test_what_is_refused(arguments: tuple[str, ...], problem: str) -> None:
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", problem)
