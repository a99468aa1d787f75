"""The cache of frozen prefixes: exact, bounded in memory and on disk, one entry for equal contents, never stale."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fogtune.platform.config import Config
from fogtune.platform.data.assets import minilm_directory
from fogtune.platform.data.table import Raw, Table
from fogtune.platform.learning.prefixes import PrefixCache
from fogtune.platform.learning.workbench import Workbench
from fogtune.platform.model.encoder import Encoder
from fogtune.platform.model.m3t import M3TModel
from fogtune.platform.model.matmul import onednn_is_exact

MakeConfig = Callable[..., Config]

LIMIT = 2**30
TEXTS = ["a red circle", "the economy grew", "a red circle", "no"]


class Counting(Encoder):
    """Repeats an image's first number; counts the images that it is given."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__()
        self.seen: list[float] = []
        self._name = name

    def prefixes(self, raws: Sequence[Raw]) -> list[Tensor]:
        self.seen += [float(np.ravel(raw)[0]) for raw in raws]
        return [torch.full((2, 3), float(np.ravel(raw)[0])).t() for raw in raws]

    def fingerprint(self) -> str | None:
        return self._name


def counting(columns: dict[str, list[Any]], encoder: Counting, limit: int = LIMIT, disk: int = 0) -> PrefixCache:
    model = SimpleNamespace(encoders=dict.fromkeys(columns, encoder), device=torch.device("cpu"))
    return PrefixCache(model, {"s": table(columns)}, limit, disk)  # type: ignore[arg-type]


def table(columns: dict[str, list[Any]]) -> Table:
    rows = len(next(iter(columns.values())))
    return Table(columns, {"label": ["a"] * rows}, None, {"train": np.arange(rows)})


def series(*values: float) -> list[Any]:
    return [np.full((16, 6), value, np.float32) for value in values]


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test alone."""
    monkeypatch.setenv("FOGTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prefixes"


@pytest.fixture(scope="module")
def model(tiny: MakeConfig, images: tuple[str, ...]) -> M3TModel:
    return Workbench(tiny(*images)).model


@pytest.fixture(scope="module")
def tables() -> dict[str, Table]:
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 256, (64, 64, 3)).astype(np.uint8) for _ in TEXTS]
    return {"made-up": table({"text": TEXTS, "image": pictures})}


# Exact, whatever the tier


@pytest.mark.parametrize("limit", [0, 200_000, LIMIT])
@pytest.mark.parametrize("disk", [0, LIMIT])
def test_what_is_cached_is_what_is_computed(
    model: M3TModel, tables: dict[str, Table], directory: Path, limit: int, disk: int
) -> None:
    for run in range(2):
        cache = PrefixCache(model, tables, limit, disk)
        for modality in ("text", "image"):
            expected = [model.prefix(modality, raw) for raw in tables["made-up"].modalities[modality]]
            for rows in ([3], [0, 1, 2, 3], [2, 2, 1]):
                found = cache.get_many("made-up", modality, rows)
                assert all(torch.equal(one, expected[row]) for one, row in zip(found, rows, strict=True)), run
                assert all(one.is_contiguous() for one in found)
        assert cache.nbytes <= limit
    assert directory.exists() == (disk > 0)


def test_a_second_run_computes_nothing(directory: Path) -> None:
    first, second = Counting("one"), Counting("one")
    columns = {"image": series(*range(200))}
    expected = counting(columns, first, disk=LIMIT).get_many("s", "image", range(200))
    cache = counting(columns, second, disk=LIMIT)
    found = cache.get_many("s", "image", range(200))
    assert first.seen == list(range(200))
    assert second.seen == []
    assert all(map(torch.equal, found, expected))
    assert [one.stride() for one in found] == [one.stride() for one in expected]
    assert cache.get("s", "image", 7) is found[7]


def test_processes_of_a_run_share_what_they_compute(directory: Path) -> None:
    encoders = [Counting("one"), Counting("one")]
    columns = {"image": series(*range(6))}
    one, other = (counting(columns, encoder, disk=LIMIT) for encoder in encoders)
    one.get_many("s", "image", [0, 1, 2])
    other.get_many("s", "image", [2, 3, 4])
    one.get_many("s", "image", [3, 4, 5])
    assert [encoder.seen for encoder in encoders] == [[0, 1, 2, 5], [3, 4]]


def test_in_inference_mode_what_is_cached_can_be_trained_on(model: M3TModel, tables: dict[str, Table]) -> None:
    cache = PrefixCache(model, tables, LIMIT)
    with torch.inference_mode():
        cache.get("made-up", "text", 0)
    weight = torch.ones(384, requires_grad=True)
    (cache.get("made-up", "text", 0) * weight).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None


# Entries


def test_equal_contents_share_an_entry(model: M3TModel, tables: dict[str, Table]) -> None:
    cache = PrefixCache(model, tables, LIMIT)
    first, other, again = cache.get_many("made-up", "text", [0, 1, 2])
    assert again is first
    assert other is not first
    assert cache.get("made-up", "text", 2) is first
    assert cache.nbytes == first.nbytes + other.nbytes


def test_equal_contents_are_computed_once() -> None:
    encoder = Counting()
    cache = counting({"image": series(1, 2, 1, 1, 3)}, encoder, limit=0)
    assert [float(one[0, 0]) for one in cache.get_many("s", "image", [0, 1, 2, 3, 1, 4])] == [1, 2, 1, 1, 2, 3]
    assert encoder.seen == [1, 2, 3]


def test_the_bound_is_kept() -> None:
    encoder = Counting()
    cache = counting({"image": series(0, 1, 2, 3)}, encoder, limit=2 * 24 + 1)
    kept = cache.get_many("s", "image", range(4))
    assert cache.nbytes == 2 * 24
    assert cache.get("s", "image", 1) is kept[1]
    beyond = cache.get("s", "image", 3)
    assert torch.equal(beyond, kept[3])
    assert encoder.seen == [0, 1, 2, 3, 3]
    assert cache.nbytes == 2 * 24


def test_modalities_shapes_and_kinds_are_told_apart() -> None:
    alike = [np.zeros((16, 6), np.float32), np.zeros((8, 12), np.float32), np.zeros((16, 6), np.int32)]
    long = "x" * 40
    encoder = Counting()
    cache = counting({f"{long}1": alike, f"{long}2": alike}, encoder)
    found = {id(cache.get("s", modality, row)) for modality in (f"{long}1", f"{long}2") for row in range(3)}
    assert len(found) == len(encoder.seen) == 6


# On disk


def test_what_costs_nothing_is_not_on_disk(directory: Path) -> None:
    encoder = Counting(None)
    counting({"image": series(1, 2)}, encoder, disk=LIMIT).get_many("s", "image", [0, 1])
    assert not directory.exists()


def test_no_disk_is_touched_without_a_bound_for_it(directory: Path) -> None:
    counting({"image": series(1, 2)}, Counting("one"), disk=0).get_many("s", "image", [0, 1])
    assert not directory.exists()


def test_without_a_disk_it_goes_on_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no directory")
    monkeypatch.setenv("FOGTUNE_CACHE", str(tmp_path / "file"))
    cache = counting({"image": series(1, 2, 3), "other": series(1, 2, 3)}, Counting("one"), disk=LIMIT)
    with caplog.at_level(logging.WARNING):
        for modality in ("image", "other"):
            for row in range(3):
                assert float(cache.get("s", modality, row)[0, 0]) == row + 1
    assert len(caplog.messages) == 1
    assert "not kept on disk" in caplog.messages[0]


def test_a_damaged_entry_is_computed_again(directory: Path) -> None:
    columns = {"image": series(1, 2, 3)}
    expected = counting(columns, Counting("one"), disk=LIMIT).get_many("s", "image", range(3))
    (shard,) = directory.glob("*/*.shard")
    content = bytearray(shard.read_bytes())
    content[70] ^= 1  # in the values of the first
    shard.write_bytes(content)
    again, later = Counting("one"), Counting("one")
    for encoder, seen in ((again, [1]), (later, [])):
        found = counting(columns, encoder, disk=LIMIT).get_many("s", "image", range(3))
        assert all(map(torch.equal, found, expected))
        assert encoder.seen == seen


# Never stale


def fingerprints(config: Config) -> tuple[str | None, str | None]:
    """Of texts and of images."""
    model = M3TModel(config, {"vqa": ("no", "yes")})
    return model.backbone.fingerprint(), model.encoders["image"].fingerprint()  # type: ignore[operator]


def test_what_computes_prefixes_names_them(tiny: MakeConfig, images: tuple[str, ...], tmp_path: Path) -> None:
    """Each change of what decides over a prefix, and nothing else, gives it another name."""
    text, image = fingerprints(tiny(*images))
    assert (text, image) == fingerprints(tiny(*images, "seed=7", "model.adapter.rank=2", "local.learning_rate=0.5"))

    def changed(*overrides: str) -> tuple[bool, bool]:
        other = fingerprints(tiny(*images, *overrides))
        return other[0] != text, other[1] != image

    assert changed("model.backbone.fusion_blocks=3") == (True, False)
    assert changed("model.backbone.max_text_tokens=9") == (True, False)
    assert changed('model.encoders={"image": {"kind": "image", "size_px": 96}}') == (False, True)
    if onednn_is_exact():
        both = {matmul: fingerprints(tiny(*images, f"execution.matmul={matmul}")) for matmul in ("default", "onednn")}
        assert all(one != other for one, other in zip(*both.values(), strict=True))

    copy = tmp_path / "minilm"
    shutil.copytree(minilm_directory(), copy)
    here = f"model.backbone.name={copy}"
    assert changed(here) == (False, False)  # the same weights in another place
    weights = load_file(copy / "model.safetensors")
    lower, upper = (f"encoder.layer.{i}.output.dense.bias" for i in (0, 5))
    save_file({**weights, upper: weights[upper] + 1}, copy / "model.safetensors")
    assert changed(here) == (False, False)  # above the boundary
    save_file({**weights, lower: weights[lower] + 1e-3}, copy / "model.safetensors")
    assert changed(here) == (True, False)
    shutil.copy(minilm_directory() / "model.safetensors", copy)
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["red"], vocabulary["blue"] = vocabulary["blue"], vocabulary["red"]
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert changed(here) == (True, False)


def test_after_a_change_of_weights_nothing_old_is_served(
    tiny: MakeConfig, images: tuple[str, ...], directory: Path, tmp_path: Path, tables: dict[str, Table]
) -> None:
    copy = tmp_path / "minilm"
    shutil.copytree(minilm_directory(), copy)

    def found() -> Tensor:
        model = M3TModel(tiny(*images, f"model.backbone.name={copy}"), {"vqa": ("no", "yes")})
        prefix = PrefixCache(model, tables, 0, LIMIT).get("made-up", "text", 0)
        assert torch.equal(prefix, model.prefix("text", TEXTS[0]))
        return prefix

    before = found()
    weights = load_file(copy / "model.safetensors")
    name = "encoder.layer.1.output.dense.bias"
    save_file({**weights, name: weights[name] + 0.1}, copy / "model.safetensors")
    assert not torch.equal(found(), before)
    assert len(list(directory.glob("*/"))) == 2
