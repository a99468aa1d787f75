"""A federation of small models without a backbone: vectors from a table, a run, its versions, what they predict."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

import fogtune
from fogtune.pipelines.cli import app
from fogtune.pipelines.predicting import predict_offline
from fogtune.platform.config import Config
from fogtune.platform.config.load import load_config
from fogtune.platform.model.m3t import M3TModel
from fogtune.platform.model.segments import Segment
from fogtune.serve.local import local_service
from fogtune.serve.registry import Registry, read_module
from fogtune.serve.settings import Settings

CLASSES, PIXELS, STEPS = 3, 4, 5


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[np.float32], NDArray[np.float32]]:
    """A saved dataset, its vectors (N, 4) and its series (N, 5, 2): the class is the largest pixel, and how far away
    from zero the series is."""
    generator = np.random.default_rng(0)
    labels = np.arange(90) % CLASSES
    pixels = generator.normal(2 * np.eye(CLASSES, PIXELS)[labels], 0.5).astype(np.float32)
    series = generator.normal(30 + 9 * labels[:, None, None], 3, (90, STEPS, 2)).astype(np.float32)
    path = tmp_path_factory.mktemp("table") / "saved"
    columns = {"pixels": pixels, "series": list(series), "label": [f"c{label}" for label in labels]}
    datasets.Dataset.from_dict(columns).save_to_disk(path)
    return path, pixels, series


@pytest.fixture(scope="module")
def make(table: tuple[Path, Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Config]:
    runs = tmp_path_factory.mktemp("runs")
    config = {
        "rounds": 3,
        "topology": {"kind": "counted", "tiers": [{"name": "fog", "count": 2}]},
        "devices": [{"name": "meter", "count": 4, "modalities": ["pixels", "imu"], "tasks": ["kind"]}],
        "sources": {
            "saved": {
                "kind": "huggingface",
                "path": str(table[0]),
                "columns": {"pixels": "pixels", "imu": "series"},
                "labels": {"kind": "label"},
                "partition": {"kind": "dirichlet", "label": "kind", "alpha": 1.0},
            }
        },
        "tasks": {"kind": {"source": "saved", "inputs": ["pixels", "imu"], "label": "kind"}},
        "model": {
            "backbone": None,
            "width": 16,
            "adapter": None,
            "prompts": {"tokens": 2},
            "interaction_rank": 4,
            "encoders": {
                "pixels": {"kind": "features", "channels": PIXELS, "standardise": False},
                "imu": {"kind": "features", "channels": 2, "hidden": [8]},
            },
        },
        "local": {"learning_rate": 0.02, "epochs": 2, "batch_size": 4},
        "execution": {"runner": "local"},
        "output": {"directory": str(runs)},
    }
    return lambda *overrides: load_config(config, overrides)


@pytest.fixture(scope="module")
def run(make: Callable[..., Config]) -> Path:
    done = fogtune.run(make())
    assert done.status == "completed"
    assert done.directory.info.summary.tasks["kind"]["accuracy"] > 0.9
    return done.directory.path


def test_a_version_says_that_there_is_no_backbone(run: Path) -> None:
    manifest = json.loads((run / "modules/v3/manifest.json").read_text())
    assert manifest["backbone"] is None
    assert [entry["module"] for entry in manifest["modules"]] == [
        "encoder/pixels",
        "encoder/imu",
        "statistics/imu",
        "prompt/kind",
        "head/kind",
    ]


def test_served_predictions_are_the_models(run: Path, table: tuple[Path, Any, Any]) -> None:
    registry = Registry(run)
    version = registry.read(3)
    model = M3TModel(registry.config, {"kind": version.tasks["kind"].labels})
    modules = {module: read_module(entry) for (_, module), entry in version.entries.items()}
    _, pixels, series = table
    rows = (0, 1, 2)
    ones = torch.ones(3, STEPS, dtype=torch.int64)
    inputs = {
        "pixels": (torch.from_numpy(pixels[:3, None]), ones[:, :1]),
        "imu": (torch.from_numpy(series[:3]), ones),
    }
    with torch.no_grad(), model.holding(modules):
        expected = model(Segment("kind", inputs)).outputs.softmax(-1)
    service = local_service(Settings(run=str(run)))
    samples = [{"pixels": pixels[row], "imu": series[row]} for row in rows]
    answer = asyncio.run(service.predict("kind", samples, "global", None))
    np.testing.assert_allclose(answer.scores, expected, atol=1e-5)
    assert expected.argmax(-1).tolist() == [0, 1, 2]


def test_a_vector_is_predicted_from_a_file_or_from_a_row_of_one(
    run: Path, table: tuple[Path, Any, Any], tmp_path: Path
) -> None:
    vector = table[1][1]
    np.save(tmp_path / "one.npy", vector)
    (tmp_path / "one.csv").write_text(",".join(map(str, vector.tolist())))
    answers = [
        predict_offline(run, "kind", [f"pixels={tmp_path / name}"], "global", None) for name in ("one.npy", "one.csv")
    ]
    assert answers[0] == answers[1]
    assert answers[0]["predictions"][0]["label"] == "c1"


def test_commands_take_the_run(run: Path) -> None:
    for command in ("show", "report"):
        done = CliRunner().invoke(app, [command, str(run)])
        assert done.exit_code == 0, done.output


def test_costs_on_a_network_are_counted(make: Callable[..., Config]) -> None:
    done = fogtune.run(make("rounds=1", "network={}", "name=priced"))
    record = done.directory.records()[0]
    assert record.virtual_time_s is not None
    assert record.virtual_time_s > 0
    assert record.bytes["uplink"] > 0
