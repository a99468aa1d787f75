"""The cache of frozen prefixes: exact, bounded, one entry for equal contents."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from fogtune.platform.config import Config
from fogtune.platform.data.table import Table
from fogtune.platform.learning.prefixes import PrefixCache
from fogtune.platform.learning.workbench import Workbench
from fogtune.platform.model.m3t import M3TModel

MakeConfig = Callable[..., Config]


@pytest.fixture(scope="module")
def model(tiny: MakeConfig) -> M3TModel:
    return Workbench(tiny()).model


def table(texts: list[str], series: list[np.ndarray[tuple[int, int], np.dtype[np.float32]]]) -> dict[str, Table]:
    labels = {"label": ["a"] * len(texts)}
    return {"made-up": Table({"text": texts, "imu": series}, labels, None, {"train": np.arange(len(texts))})}


@pytest.fixture(scope="module")
def tables() -> dict[str, Table]:
    texts = ["a red circle", "the economy grew", "a red circle", "no"]
    series = [np.full((16, 6), value, np.float32) for value in (0, 1, 0, 2)]
    return table(texts, series)


def test_what_is_cached_is_what_is_computed(model: M3TModel, tables: dict[str, Table]) -> None:
    cache = PrefixCache(model, tables, 2**30)
    for modality in ("text", "imu"):
        for row in range(4):
            expected = model.prefix(modality, tables["made-up"].modalities[modality][row])
            assert torch.equal(cache.get("made-up", modality, row), expected)
            assert torch.equal(cache.get("made-up", modality, row), expected)


def test_equal_contents_share_an_entry(model: M3TModel, tables: dict[str, Table]) -> None:
    cache = PrefixCache(model, tables, 2**30)
    first, other, again = (cache.get("made-up", "text", row) for row in (0, 1, 2))
    assert again is first
    assert other is not first
    assert cache.nbytes == first.nbytes + other.nbytes
    assert cache.get("made-up", "imu", 2) is cache.get("made-up", "imu", 0)


def test_the_bound_is_kept(model: M3TModel, tables: dict[str, Table]) -> None:
    size = 16 * 6 * 4
    cache = PrefixCache(model, tables, 2 * size + 1)
    kept = [cache.get("made-up", "imu", row) for row in range(4)]
    assert cache.nbytes == 2 * size
    assert cache.get("made-up", "imu", 1) is kept[1]
    beyond = cache.get("made-up", "imu", 3)
    assert torch.equal(beyond, kept[3])
    assert cache.nbytes == 2 * size
    assert PrefixCache(model, tables, 0).get("made-up", "text", 0).shape == (5, 384)  # [CLS] a red circle [SEP]


def test_modalities_and_shapes_are_told_apart(model: M3TModel) -> None:
    same_bytes = [np.zeros((16, 6), np.float32), np.zeros((8, 12), np.float32)]
    long = "x" * 40
    tables = {"made-up": Table({f"{long}1": same_bytes, f"{long}2": same_bytes}, {"l": ["a"] * 2}, None, {})}

    class Counting:
        calls = 0

        def prefix(self, modality: str, raw: object) -> torch.Tensor:
            self.calls += 1
            return torch.tensor([float(self.calls)])

    counting = Counting()
    cache = PrefixCache(counting, tables, 2**20)  # type: ignore[arg-type]
    found = {float(cache.get("made-up", modality, row)) for modality in tables["made-up"].modalities for row in (0, 1)}
    assert found == {1, 2, 3, 4}
