"""Label columns as targets, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fogtune.platform.data.labels import Head, encode_labels, label_names
from fogtune.platform.data.table import Label, Table
from fogtune.platform.errors import InputError


def table(*values: Label) -> Table:
    return Table({"text": ["-"] * len(values)}, {"y": values}, None, {"train": np.arange(len(values))})


def test_classes_are_sorted_and_numbered() -> None:
    data = table("no", "yes", "maybe", "no")
    names = label_names(data, "y", "classification", "vqa")
    assert names == ("maybe", "no", "yes")
    targets = encode_labels(data, "y", "classification", names, "vqa")
    assert targets.dtype == np.int64
    assert targets.tolist() == [1, 2, 0, 1]


def test_whole_numbers_are_classes() -> None:
    assert label_names(table(2.0, "1", 1.0), "y", "classification", "t") == ("1", "2")


def test_label_sets_become_multi_hot_rows() -> None:
    data = table(("b", "a"), (), "c", "")
    names = label_names(data, "y", "multilabel", "t")
    assert names == ("a", "b", "c")
    targets = encode_labels(data, "y", "multilabel", names, "t")
    assert targets.dtype == np.float32
    assert targets.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_numbers_are_read_also_from_text() -> None:
    data = table(0.5, "2", "-1e3")
    assert label_names(data, "y", "regression", "t") == ()
    targets = encode_labels(data, "y", "regression", (), "t")
    assert targets.dtype == np.float32
    assert targets.tolist() == [0.5, 2.0, -1000.0]


@pytest.mark.parametrize(
    ("values", "head", "message"),
    [
        (["a", "a"], "classification", r"column 'y' has 1 class\(es\): a; allowed: at least 2"),
        (["a", 0.5], "classification", r"row 1 of column 'y': 0.5 is no class; allowed: text or whole numbers"),
        (["a", ""], "classification", r"row 1 of column 'y': '' is no class"),
        (["a", ("a", "b")], "classification", r"row 1 .*; head: multilabel takes sets of labels"),
        ([0.5], "multilabel", r"row 0 of column 'y': 0.5 is no class"),
        ([(), ()], "multilabel", r"column 'y' has 0 class\(es\): nothing; allowed: at least 1"),
    ],
)
def test_what_does_not_suit_the_head_is_refused(values: list[Any], head: Head, message: str) -> None:
    with pytest.raises(InputError, match=r"^tasks.topic.label: " + message):
        label_names(table(*values), "y", head, "topic")


@pytest.mark.parametrize("value", ["tall", "nan", "inf", "1e39", ("1",), ""])
def test_regression_needs_finite_numbers(value: Label) -> None:
    with pytest.raises(InputError, match=r"^tasks.t.label: row 1 .* allowed for regression: finite numbers"):
        encode_labels(table(1.0, value), "y", "regression", (), "t")


def test_a_missing_column_is_named_with_what_is_there() -> None:
    for head in ("classification", "multilabel", "regression"):
        with pytest.raises(InputError, match=r"^tasks.t.label: the source has no label 'z'; allowed: y$"):
            label_names(table("a", "b"), "z", head, "t")
        with pytest.raises(InputError, match=r"^tasks.t.label: the source has no label 'z'; allowed: y$"):
            encode_labels(table("a", "b"), "z", head, ("a", "b"), "t")


def test_a_class_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(InputError, match=r"row 1 of column 'y' is 'b'; allowed: a, c$"):
        encode_labels(table("a", "b"), "y", "classification", ("a", "c"), "t")
