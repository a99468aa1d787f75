"""`fogtune reproduce`: its rows, its table, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fogtune import preset
from fogtune.pipelines import reproduce
from fogtune.pipelines.cli import app
from fogtune.pipelines.hf_fm import METHODS as METHOD_CONFIGS
from fogtune.pipelines.hf_fm import corrected_network
from fogtune.platform.config import Config
from fogtune.platform.config.check import check
from fogtune.platform.network.sites import find_sites
from fogtune.platform.run.directory import list_runs
from fogtune.platform.topology_build import build_tree

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
        (
            ("hf-fm", "--costs-only", "--set", "rounds=2"),
            "error: --set: 'rounds=2' given with --costs-only; allowed: one of the two, it runs nothing\n",
        ),
        (
            ("hf-fm", "--set", "network=null"),
            "error: network: null given; allowed with reproduce: a network\n",
        ),
        (("fedavg", "--costs-only"), "error: PAPER: 'fedavg' is no paper that can be reproduced; allowed: hf-fm\n"),
    ],
)
def test_what_is_refused(arguments: tuple[str, ...], problem: str) -> None:
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", problem)


def test_methods_are_the_papers_over_one_network() -> None:
    configs = {method: make() for method, make in METHOD_CONFIGS.items()}
    assert list(configs) == METHODS
    for method, config in configs.items():
        check(config)
        assert config.network is not None
        assert (config.network.d2d is not None) == method.endswith("-d2d")
        assert config.network.model_copy(update={"d2d": None}) == corrected_network()
    sites = [find_sites(config, build_tree(config), config.network) for config in configs.values() if config.network]
    devices = [{d: found.position_m[d] for d in found.access} for found in sites]
    assert all(positions == devices[0] for positions in devices)  # the star's too


def test_measured_rows_are_those_of_runs_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small() -> Config:
        return preset("smoke", "network={}", "execution.runner=local", f"output.directory={tmp_path}")

    monkeypatch.setattr(reproduce, "METHODS", {"hierarchical-e2": small})
    first = invoke("hf-fm", "--json", "--set", "rounds=1")
    assert first.exit_code == 0
    rows = {row["method"]: row["measured"] for row in json.loads(first.stdout)["rows"]}
    assert [method for method, measured in rows.items() if measured] == ["hierarchical-e2"]
    measured = rows["hierarchical-e2"]
    (run,) = list_runs(tmp_path)
    summary = run.info.summary
    assert measured["run"] == str(run.path)
    assert (measured["rounds"], measured["latency_s"]) == (1, summary.virtual_time_s)
    assert (measured["energy"], measured["bytes"]) == (summary.energy_j, sum(summary.bytes.values()))
    accuracies = {task: metrics["accuracy"] for task, metrics in summary.tasks.items()}
    assert measured["accuracy"] == accuracies
    assert measured["mean_accuracy"] == pytest.approx(sum(accuracies.values()) / 2)
    again = invoke("hf-fm", "--set", "rounds=1")
    assert again.exit_code == 0
    assert len(list_runs(tmp_path)) == 1
    table = [line.split() for line in again.stdout.splitlines() if line.strip().startswith("hierarchical-e2 ")]
    assert f"{summary.energy_j:.1f}" in table[-1]
