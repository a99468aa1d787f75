"""Hugging Face datasets, offline: saved by the test, loaded as a table."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image as PillowImage

from fogtune.platform.config import HeldOut, HuggingFaceSource
from fogtune.platform.data.sources import load_table
from fogtune.platform.errors import InputError

RED = (255, 0, 0)
COLUMNS = {"text": "question", "image": "picture", "imu": "series"}
LABELS = {"answer": "answer", "tags": "tags", "score": "score", "age": "age"}


def rows(questions: list[str]) -> datasets.Dataset:
    count = len(questions)
    features = datasets.Features(
        {
            "question": datasets.Value("string"),
            "picture": datasets.Image(),
            "series": datasets.List(datasets.List(datasets.Value("float32"))),
            "trace": datasets.List(datasets.Value("float64")),
            "answer": datasets.ClassLabel(names=["no", "yes"]),
            "tags": datasets.List(datasets.ClassLabel(names=["a", "b", "c"])),
            "score": datasets.Value("float64"),
            "age": datasets.Value("int32"),
            "site": datasets.Value("int64"),
        }
    )
    data = {
        "question": questions,
        "picture": [PillowImage.new("RGB", (4, 3), RED)] * count,
        "series": [[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]] * count,
        "trace": [[1.0, 2.0]] * count,
        "answer": [row % 2 for row in range(count)],
        "tags": [[2, 0] if row % 2 else [] for row in range(count)],
        "score": [row + 0.5 for row in range(count)],
        "age": [30 + row for row in range(count)],
        "site": [row // 2 for row in range(count)],
    }
    return datasets.Dataset.from_dict(data, features=features)


@pytest.fixture
def saved(tmp_path: Path) -> str:
    splits = {"train": rows(["a?", "b?", "c?"]), "validation": rows(["d?", "e?"])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    return str(tmp_path / "saved")


def source(path: str, **changes: Any) -> HuggingFaceSource:
    fields: dict[str, Any] = {"kind": "huggingface", "path": path, "columns": COLUMNS, "labels": LABELS, **changes}
    return HuggingFaceSource(**fields)


def test_a_saved_dataset_becomes_a_table(saved: str) -> None:
    table = load_table(source(saved, held_out=HeldOut(split="validation"), group="site"))
    assert len(table) == 5
    assert {name: split.tolist() for name, split in table.splits.items()} == {"train": [0, 1, 2], "validation": [3, 4]}
    assert list(table.modalities["text"]) == ["a?", "b?", "c?", "d?", "e?"]
    assert table.labels["answer"] == ["no", "yes", "no", "no", "yes"]
    assert table.labels["tags"] == [(), ("c", "a"), (), (), ("c", "a")]
    assert table.labels["score"] == [0.5, 1.5, 2.5, 0.5, 1.5]
    assert table.labels["age"] == ["30", "31", "32", "30", "31"]
    assert table.groups == ["0", "0", "1", "0", "0"]


def test_images_and_series_are_decoded_at_the_access(saved: str) -> None:
    table = pickle.loads(pickle.dumps(load_table(source(saved))))
    image = table.modalities["image"][-1]
    assert (image.shape, image.dtype) == ((3, 4, 3), np.uint8)
    assert (image == RED).all()
    series = table.modalities["imu"][np.int64(1)]
    assert series.dtype == np.float32
    assert series.tolist() == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]


def test_only_the_named_splits_are_read(saved: str) -> None:
    assert set(load_table(source(saved)).splits) == {"train"}
    assert len(load_table(source(saved, train_split="validation"))) == 2


def test_a_single_dataset_is_the_train_split(tmp_path: Path) -> None:
    rows(["a?", "b?"]).save_to_disk(tmp_path / "one")
    table = load_table(source(str(tmp_path / "one"), columns={"imu": "trace"}))
    assert table.splits["train"].tolist() == [0, 1]
    series = table.modalities["imu"][0]
    assert isinstance(series, np.ndarray)
    assert series.tolist() == [1.0, 2.0]  # a vector to one encoder, a series of one channel to another


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "/no/such/directory"}, r"^sources.x.path: /no/such/directory does not exist; allowed: a directory"),
        ({"train_split": "test"}, r"^sources.x.train_split: .* 'test'; allowed: train, validation$"),
        ({"held_out": {"split": "test"}}, r"^sources.x.held_out.split: .* 'test' to hold out; allowed: validation$"),
        ({"held_out": {"split": "train"}}, r"^sources.x.held_out.split: .* allowed: validation$"),
        ({"columns": {"text": "q"}}, r"^sources.x.columns.text: .* 'q'; allowed: question, picture, series, trace, "),
        ({"labels": {"y": "q"}}, r"^sources.x.labels.y: split 'train' has no column 'q'"),
        ({"group": "q"}, r"^sources.x.group: split 'train' has no column 'q'"),
        ({"columns": {"text": "age"}}, r"^sources.x.columns.text: column 'age' is Value.*allowed: text, images, lists"),
        ({"configuration": "sub"}, r"^sources.x.configuration: 'sub', but .* is a directory"),
    ],
)
def test_what_is_missing_is_named_with_what_is_there(saved: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_table(source(**{"path": saved, **changes}), "sources.x")
    assert "\n" not in str(caught.value)


def test_a_directory_that_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no dataset that save_to_disk wrote"):
        load_table(source(str(tmp_path)), "sources.x")


@pytest.mark.parametrize(
    ("column", "values", "label", "message"),
    [
        ("text", ["a", None], False, r"columns.m: row 1 of column 'c' is missing"),
        ("series", [[[1.0, 2.0]], [[1.0]]], False, r"columns.m: row 1 .* has 1 channels; allowed: 2"),
        ("series", [[[1.0]], [[float("nan")]]], False, r"columns.m: row 1 .* holds nan at \[0, 0\]"),
        ("series", [[[1.0]], []], False, r"columns.m: row 1 of column 'c' has shape \(0,\)"),
        ("label", ["a", None], True, r"labels.y: row 1 of column 'c' is missing"),
        ("label", [1.0, float("inf")], True, r"labels.y: row 1 of column 'c' is inf"),
    ],
)
def test_bad_values_are_refused(tmp_path: Path, column: str, values: list[Any], label: bool, message: str) -> None:
    datasets.Dataset.from_dict({"c": values, "t": ["a", "b"]}).save_to_disk(tmp_path / "bad")
    columns, labels = ({"m": "t"}, {"y": "c"}) if label else ({"m": "c"}, {"y": "t"})
    with pytest.raises(InputError, match=message):
        list(load_table(source(str(tmp_path / "bad"), columns=columns, labels=labels)).modalities["m"])


def test_a_class_that_is_not_labelled_is_refused(tmp_path: Path) -> None:
    features = datasets.Features({"t": datasets.Value("string"), "c": datasets.ClassLabel(names=["no", "yes"])})
    datasets.Dataset.from_dict({"t": ["a", "b"], "c": [0, -1]}, features=features).save_to_disk(tmp_path / "d")
    with pytest.raises(InputError, match="row 1 of column 'c' is missing"):
        load_table(source(str(tmp_path / "d"), columns={"text": "t"}, labels={"y": "c"}))


def test_a_hub_name_goes_to_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def load_dataset(path: str, name: str | None) -> datasets.DatasetDict:
        asked.append((path, name))
        return datasets.DatasetDict({"train": rows(["a?"])})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(load_table(source("owner/name", configuration="sub"))) == 1
    assert asked == [("owner/name", "sub")]


def test_a_hub_that_does_not_answer_gives_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(path: str, name: str | None) -> datasets.DatasetDict:
        raise ConnectionError("Couldn't reach 'owner/name'\non the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(InputError, match=r"the hub does not give it: Couldn't reach 'owner/name'$"):
        load_table(source("owner/name"))
