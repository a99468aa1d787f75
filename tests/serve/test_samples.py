"""The samples that the page offers are held-out rows of public data, as `:predict` takes them."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from fogtune.platform.config import Config, FolderSource
from fogtune.platform.data import embedded
from fogtune.platform.data.partition import split_table
from fogtune.platform.data.sources import load_table
from fogtune.platform.data.table import Indices, Table
from fogtune.platform.errors import AssetMissing
from fogtune.platform.topology_build import build_tree
from fogtune.serve.samples import COUNT, Sample, Samples

MakeConfig = Callable[..., Config]


def held_out(config: Config, task: str) -> tuple[Table, Indices]:
    """A task's table, and the rows that the federation holds out."""
    name = config.tasks[task].source
    source = config.sources[name]
    table = load_table(source)
    groups = {group.name for group in config.devices if task in group.tasks}
    tree = build_tree(config)
    users = [device for device in tree.devices if tree[device].group in groups]
    return table, split_table(name, source, table, users, config.seed).held_out


def test_series_are_held_out_rows_with_their_labels(tiny: MakeConfig) -> None:
    config = tiny()
    table, rows = held_out(config, "exercise")
    known = {np.asarray(table.modalities["imu"][row]).tobytes(): table.labels["exercise"][row] for row in rows}
    samples = Samples(config).of("exercise")
    assert len(samples) == COUNT
    for sample in samples:
        series = np.array(sample.inputs["imu"], np.float32)
        assert series.shape == (128, 6)
        assert known[series.tobytes()] == sample.label


def test_numbers_are_the_shortest_that_are_the_same_float32(tiny: MakeConfig) -> None:
    rows = Samples(tiny()).of("exercise")[0].inputs["imu"]
    assert isinstance(rows, list)
    assert max(len(repr(value)) for row in rows for value in row) <= len("-0.0001234567")


def test_images_are_png_of_the_same_pixels(tiny: MakeConfig, images: tuple[str, ...]) -> None:
    config = tiny(*images)
    table, rows = held_out(config, "vqa")
    known = {
        (table.modalities["text"][row], np.asarray(table.modalities["image"][row]).tobytes()): table.labels["answer"][
            row
        ]
        for row in rows
    }
    for sample in Samples(config).of("vqa"):
        text, encoded = sample.inputs["text"], sample.inputs["image"]
        assert isinstance(encoded, str)
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
            assert (image.format, image.mode) == ("PNG", "RGB")
            assert known[text, np.asarray(image).tobytes()] == sample.label


def test_they_are_spread_over_the_labels(tiny: MakeConfig) -> None:
    config = tiny("sources.news.held_out.limit=100")
    labels = [sample.label for sample in Samples(config).of("topic")]
    assert set(labels[:5]) == {"business", "entertainment", "politics", "sports", "tech"}
    assert len(set(labels[5:])) == COUNT - 5


def test_where_fewer_are_held_out_fewer_are_offered(tiny: MakeConfig) -> None:
    config = tiny("sources.news.held_out.limit=3")
    table, rows = held_out(config, "topic")
    assert sorted(str(sample.inputs["text"]) for sample in Samples(config).of("topic")) == sorted(
        table.modalities["text"][row] for row in rows
    )


def test_the_runs_seed_chooses_them(tiny: MakeConfig) -> None:
    def choose(seed: int) -> tuple[Sample, ...]:
        return Samples(tiny(f"seed={seed}")).of("topic")

    assert choose(1) == choose(1)
    assert choose(1) != choose(2)


def test_sources_that_may_be_private_give_none(tiny: MakeConfig) -> None:
    config = tiny()
    mine = FolderSource(kind="folder", path="/nowhere", columns={"text": "t"}, labels={"topic": "l"})
    private = config.model_copy(update={"sources": {**config.sources, "news": mine}})
    assert Samples(private).of("topic") == ()
    assert Samples(private).of("exercise") != ()


def test_a_source_whose_package_is_missing_gives_none(tiny: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> None:
        raise AssetMissing(package, "not installed")

    monkeypatch.setattr(embedded, "asset_directory", missing)
    assert Samples(tiny()).of("topic") == ()


def test_a_task_that_the_run_has_not(tiny: MakeConfig) -> None:
    with pytest.raises(KeyError):
        Samples(tiny()).of("nonsense")
