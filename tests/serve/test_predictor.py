"""Served predictions equal those of the model with a variant's modules in it, alone and in mixed batches."""

from __future__ import annotations

import os
import shutil
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
from fogtune.serve.rows import Refusal, Row
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
    found = []
    for row in rows:
        modules = resolve(registry.config, registry.tree, registry.read(row.version), row.task, row.variant, row.inputs)
        inputs = {modality: padded([model.prefix(modality, raw)]) for modality, raw in row.inputs.items()}
        trained = {module: read_module(entry) for module, entry in modules.items() if entry}
        with torch.inference_mode(), model.holding(trained):
            outputs = model(Segment(row.task, inputs)).outputs
        found.append(HEADS[tasks[row.task].head].scores(outputs)[0].numpy())
    return found


def test_each_row_alone_and_all_together(registry: Registry, predictor: Predictor, rows: list[Row]) -> None:
    assert len({(row.task, row.variant, row.version) for row in rows}) == len(rows) > 30
    expected = offline(registry, rows)
    together = predictor.predict(rows)
    alone = [predictor.predict([row])[0] for row in rows]
    for row, mixed, single, wanted in zip(rows, together, alone, expected, strict=True):
        assert not isinstance(mixed, Refusal), (row, mixed)
        assert not isinstance(single, Refusal), (row, single)
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
    assert isinstance(refused, Refusal)
    assert refused.status == 503
    assert "does not match the sha256" in refused.reason
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


def test_a_row_that_is_too_long_does_not_concern_the_others(
    registry: Registry, predictor: Predictor, samples: dict[str, list[dict[str, Raw]]]
) -> None:
    good = [Row("exercise", "global", 2, sample) for sample in samples["exercise"]]
    expected = [np.asarray(outcome) for outcome in predictor.predict(good)]
    long = Row("exercise", "global", 2, {"imu": np.zeros((8 * 512 + 1, 6), np.float32)})
    most = Row("exercise", "global", 2, {"imu": np.ones((8 * 512, 6), np.float32)})
    first, refused, longest, *rest = predictor.predict([good[0], long, most, *good[1:]])
    assert refused == Refusal(422, "inputs: 513 tokens of imu; allowed: 512, the backbone's positions")
    assert not isinstance(longest, Refusal)
    for outcome, wanted in zip([first, *rest], expected, strict=True):
        np.testing.assert_allclose(np.asarray(outcome), wanted, rtol=0, atol=1e-5)


def test_what_the_model_itself_cannot_take_does_not_concern_the_others(
    predictor: Predictor, samples: dict[str, list[dict[str, Raw]]], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it is: the gateway should have refused it."""
    good = Row("exercise", "global", 2, samples["exercise"][0])
    bad = Row("exercise", "global", 2, {"imu": np.zeros((50, 7), np.float32)})  # seven channels
    first, refused, last = predictor.predict([good, bad, good])
    assert refused == Refusal(503, "the model failed; the server's log says more")
    assert "a row of exercise cannot be predicted" in caplog.text
    np.testing.assert_array_equal(np.asarray(first), np.asarray(last))


def test_a_damaged_newest_version_does_not_keep_it_from_starting(
    copied: Path, samples: dict[str, list[dict[str, Raw]]]
) -> None:
    (copied / "modules/v9").mkdir()
    (copied / "modules/v9/manifest.json").write_text("{")
    predictor = Predictor(Registry(copied), Settings(run=str(copied)))
    assert not isinstance(predictor.predict([Row("topic", "fog:fog-0", 2, samples["topic"][0])])[0], Refusal)


def test_a_version_that_is_published_again_is_read_again(
    copied: Path, samples: dict[str, list[dict[str, Raw]]]
) -> None:
    """By a resumed run, when it gets there again."""
    predictor = Predictor(Registry(copied), Settings(run=str(copied)))
    row = Row("topic", "fog:fog-0", 2, samples["topic"][0])
    before = np.asarray(predictor.predict([row])[0])
    shutil.rmtree(copied / "modules/v2")
    shutil.copytree(copied / "modules/v1", copied / "modules/v2")
    os.utime(copied / "modules/v2/manifest.json", (1e9, 1e9))
    after = np.asarray(predictor.predict([row])[0])
    assert np.abs(before - after).max() > 1e-4
    of_first = Row("topic", "fog:fog-0", 1, samples["topic"][0])
    np.testing.assert_allclose(after, np.asarray(predictor.predict([of_first])[0]), rtol=0, atol=1e-6)


def test_a_run_that_publishes_later(copied: Path, samples: dict[str, list[dict[str, Raw]]]) -> None:
    shutil.move(copied / "modules", copied / "later")
    predictor = Predictor(Registry(copied), Settings(run=str(copied)))
    shutil.move(copied / "later", copied / "modules")
    assert not isinstance(predictor.predict([Row("topic", "fog:fog-0", 2, samples["topic"][0])])[0], Refusal)
