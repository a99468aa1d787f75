"""Served predictions equal those of the model with a variant's modules in it, alone and in mixed batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fogtune.platform.data.sources import load_table
from fogtune.platform.data.table import Raw
from fogtune.platform.learning.batches import padded
from fogtune.platform.model.heads import HEADS
from fogtune.platform.model.m3t import M3TModel
from fogtune.platform.model.segments import Segment
from fogtune.serve.predictor import Predictor
from fogtune.serve.registry import Registry, read_module
from fogtune.serve.rows import Row
from fogtune.serve.settings import Settings
from fogtune.serve.variants import resolve, variants_of


@pytest.fixture(scope="module")
def registry(served: Path) -> Registry:
    return Registry(served)


@pytest.fixture(scope="module")
def predictor(registry: Registry) -> Predictor:
    return Predictor(registry, Settings(run=str(registry.run), max_batch_rows=16))


@pytest.fixture(scope="module")
def samples(registry: Registry) -> dict[str, list[dict[str, Raw]]]:
    """Task -> some samples; those of vqa with and without an image."""
    config = registry.config
    found: dict[str, list[dict[str, Raw]]] = {}
    for name, task in config.tasks.items():
        table = load_table(config.sources[task.source], "source")
        found[name] = [{m: table.modalities[m][row] for m in task.inputs} for row in (0, 5, 17)]
    found["vqa"].append({"text": found["vqa"][0]["text"]})
    found["exercise"].append({"imu": np.asarray(found["exercise"][0]["imu"])[:50]})
    return found


@pytest.fixture(scope="module")
def rows(registry: Registry, samples: dict[str, list[dict[str, Raw]]]) -> list[Row]:
    """Every task, version, variant, in an order that mixes them."""
    made = [
        Row(task, variant, number, samples[task][i % len(samples[task])])
        for number in registry.versions()
        for task in samples
        for i, variant in enumerate(variants_of(registry.tree, registry.read(number), task))
    ]
    return [made[i] for i in np.random.default_rng(7).permutation(len(made))]


def offline(registry: Registry, rows: list[Row]) -> list[NDArray[np.float32]]:
    """What training's own model says of each row, one at a time."""
    tasks = registry.read(2).tasks
    model = M3TModel(registry.config, {name: task.labels for name, task in tasks.items()})
    initial = {module: model.tensors(module) for module in model.tensors_of}
    found = []
    for row in rows:
        modules = resolve(registry.config, registry.tree, registry.read(row.version), row.task, row.variant, row.inputs)
        for module, entry in modules.items():
            model.load(module, read_module(entry) if entry else initial[module])
        inputs = {modality: padded([model.prefix(modality, raw)]) for modality, raw in row.inputs.items()}
        with torch.inference_mode():
            outputs = model(Segment(row.task, inputs)).outputs
        found.append(HEADS[tasks[row.task].head].scores(outputs)[0].numpy())
    return found


def test_each_row_alone_and_all_together(registry: Registry, predictor: Predictor, rows: list[Row]) -> None:
    assert len({(row.task, row.variant, row.version) for row in rows}) == len(rows) > 30
    expected = offline(registry, rows)
    together = predictor.predict(rows)
    alone = [predictor.predict([row])[0] for row in rows]
    for row, mixed, single, wanted in zip(rows, together, alone, expected, strict=True):
        assert not isinstance(mixed, str), (row, mixed)
        assert not isinstance(single, str), (row, single)
        np.testing.assert_allclose(mixed, wanted, rtol=0, atol=1e-5, err_msg=f"{row.task} {row.variant} mixed")
        np.testing.assert_allclose(single, wanted, rtol=0, atol=1e-5, err_msg=f"{row.task} {row.variant} alone")


def test_variants_and_versions_do_differ(
    registry: Registry, predictor: Predictor, samples: dict[str, list[dict[str, Raw]]]
) -> None:
    """Or the test above would say nothing."""
    text = samples["topic"][0]
    asked = [("fog:fog-0", 2), ("fog:fog-1", 2), ("device:reader-0", 2), ("fog:fog-0", 1)]
    said = [np.asarray(predictor.predict([Row("topic", variant, number, text)])[0]) for variant, number in asked]
    for i in range(len(said)):
        for j in range(i):
            assert np.abs(said[i] - said[j]).max() > 1e-4, (asked[i], asked[j])


def test_a_row_that_cannot_be_answered_does_not_concern_the_others(
    copied: Path, samples: dict[str, list[dict[str, Raw]]]
) -> None:
    predictor = Predictor(Registry(copied), Settings(run=str(copied)))
    good = [Row("topic", "fog:fog-0", 2, sample) for sample in samples["topic"]]
    before = [np.asarray(outcome) for outcome in predictor.predict(good)]
    file = copied / "modules/v1/fog-1/head/topic.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    bad = Row("topic", "fog:fog-1", 1, samples["topic"][0])
    first, refused, *rest = predictor.predict([good[0], bad, *good[1:]])
    assert isinstance(refused, str)
    assert "does not match the sha256" in refused
    for outcome, wanted in zip([first, *rest], before, strict=True):
        np.testing.assert_allclose(np.asarray(outcome), wanted, rtol=0, atol=1e-6)


def test_equal_inputs_are_encoded_once(registry: Registry, samples: dict[str, list[dict[str, Raw]]]) -> None:
    """And as few modules as fit still give each row its own."""
    settings = Settings(run=str(registry.run), max_batch_rows=4, prefix_memory_bytes=0)
    small = Predictor(registry, settings)
    roomy = Predictor(registry, settings.model_copy(update={"prefix_memory_bytes": 2**26}))
    rows = [Row("vqa", "global", 2, sample) for sample in samples["vqa"]] * 2
    for _ in range(2):
        for a, b in zip(small.predict(rows), roomy.predict(rows), strict=True):
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=1e-5)
