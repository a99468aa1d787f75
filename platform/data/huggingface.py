"""Hugging Face datasets as tables: from the hub by name, or offline from a directory that `save_to_disk` wrote.

Samples stay in the dataset (memory-mapped Arrow) and are decoded when somebody asks for the row; labels and groups are
read at once. Columns may be text, images, or lists of numbers: T x C of a series; C of a vector, or T of a series of
one channel.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..config import HuggingFaceSource
from ..errors import InputError
from ..wording import listed
from .columns import LazyColumn
from .table import Label, Raw, Table
from .values import channels_of, image_pixels, label_value, series_values

if TYPE_CHECKING:
    from datasets import Dataset

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def load_huggingface(source: HuggingFaceSource, where: str) -> Table:
    """Load a Hugging Face dataset. `where` is how messages name the source: `sources.vqa`.

    The table's split `train` is the source's `train_split`; a split that `held_out` names is there besides. Images
    are (H, W, 3), series (T, C) and plain lists (N,) float32, class labels their names, other labels as `label_value`
    reads them.

    Raises:
        InputError: The dataset, a split or a column does not exist, a column is of a kind that cannot be used, or a
            value is missing. Values are checked when they are read, so images and series at the access.
    """
    from datasets import concatenate_datasets

    parts = _read(source, where)
    for split, dataset in parts.items():
        _require_columns(source, dataset, split, where)
    labels: dict[str, list[Label]] = {name: [] for name in source.labels}
    groups: list[str] = []
    splits = {}
    rows = 0
    for split, dataset in parts.items():
        splits[split] = np.arange(rows, rows + len(dataset))
        rows += len(dataset)
        for name, column in source.labels.items():
            labels[name] += _labels(dataset, column, f"{where}.labels.{name}")
        if source.group is not None:
            groups += map(str, _labels(dataset, source.group, f"{where}.group"))
    try:
        used = sorted(set(source.columns.values()))
        whole = concatenate_datasets([dataset.select_columns(used) for dataset in parts.values()])
    except ValueError as error:
        problem = f"its columns are of other kinds than in the train split: {_first_line(error)}"
        raise InputError(f"{where}.held_out.split", problem) from None
    modalities = {name: _modality(whole, column, f"{where}.columns.{name}") for name, column in source.columns.items()}
    return Table(modalities, labels, groups if source.group is not None else None, splits)


def _read(source: HuggingFaceSource, where: str) -> dict[str, Dataset]:
    """The split that devices share, as `train`, and the one to hold out, if one is named."""
    from datasets import Dataset

    loaded = _load(source, where)
    if isinstance(loaded, Dataset):
        # One dataset without a dictionary of splits around it; it may remember which split it was.
        loaded = {str(loaded.split or source.train_split): loaded}
    if source.train_split not in loaded:
        problem = f"{source.path} has no split {source.train_split!r}; allowed: {listed(loaded)}"
        raise InputError(f"{where}.train_split", problem)
    parts = {"train": loaded[source.train_split]}
    held_out = source.held_out.split
    if held_out is not None:
        allowed = sorted(set(loaded) - {source.train_split, "train"})
        if held_out not in allowed:
            problem = f"{source.path} has no split {held_out!r} to hold out; allowed: {listed(allowed)}"
            raise InputError(f"{where}.held_out.split", problem)
        parts[held_out] = loaded[held_out]
    return parts


def _load(source: HuggingFaceSource, where: str) -> Any:
    """A Dataset, or a DatasetDict: split -> Dataset."""
    from datasets import load_dataset, load_from_disk

    directory = Path(source.path).expanduser()
    if directory.is_dir():
        if source.configuration is not None:
            problem = f"{source.configuration!r}, but {source.path} is a directory; allowed: only with a hub name"
            raise InputError(f"{where}.configuration", problem)
        try:
            return load_from_disk(str(directory))
        except (OSError, ValueError, KeyError, TypeError) as error:
            problem = f"{source.path} is no dataset that save_to_disk wrote: {_first_line(error)}"
            raise InputError(f"{where}.path", problem) from None
    if not _HUB_NAME.fullmatch(source.path):
        problem = f"{source.path} does not exist; allowed: a directory that save_to_disk wrote, or a hub name"
        raise InputError(f"{where}.path", problem)
    try:
        return load_dataset(source.path, source.configuration)
    except Exception as error:  # whatever the hub, its client or the dataset's files may raise: the user's to see
        problem = f"{source.path} is no local directory, and the hub does not give it: {_first_line(error)}"
        raise InputError(f"{where}.path", problem) from error


def _require_columns(source: HuggingFaceSource, dataset: Dataset, split: str, where: str) -> None:
    asked = {f"columns.{name}": column for name, column in source.columns.items()}
    asked |= {f"labels.{name}": column for name, column in source.labels.items()}
    if source.group is not None:
        asked["group"] = source.group
    for field, column in asked.items():
        if column not in dataset.column_names:
            problem = f"split {split!r} has no column {column!r}; allowed: {listed(dataset.column_names)}"
            raise InputError(f"{where}.{field}", problem)
    if not len(dataset):
        raise InputError(where, f"split {split!r} is empty; allowed: at least 1 row")


def _labels(dataset: Dataset, column: str, where: str) -> list[Label]:
    from datasets import ClassLabel, List

    feature = dataset.features[column]
    if isinstance(feature, List):
        feature = feature.feature
    names = feature.names if isinstance(feature, ClassLabel) else None
    labels = []
    for row, value in enumerate(dataset.select_columns([column]).with_format(None)[column][:]):
        try:
            labels.append(label_value(value if names is None else _named(value, names)))
        except ValueError as error:
            raise InputError(where, f"row {row} of column {column!r} {error}") from None
    return labels


def _named(value: Any, names: list[str]) -> Any:
    """Class ids as their names, also in lists; -1 is the convention for 'not labelled'."""
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    return None if value is None or value < 0 else names[value]


def _modality(dataset: Dataset, column: str, where: str) -> LazyColumn:
    from datasets import Array2D, Image, LargeList, List, Value

    read: Callable[[Sequence[int]], Sequence[Raw]]
    one = dataset.select_columns([column])
    match dataset.features[column]:
        case Value(dtype="string" | "large_string"):
            read = partial(_texts, one.with_format(None), column, where)
        case Image():
            read = partial(_images, one.cast_column(column, Image(decode=True)).with_format(None), column, where)
        case List() | LargeList() | Array2D():
            numbers = one.with_format(None)
            channels = channels_of(_series(numbers, column, where, None, [0])[0])
            read = partial(_series, numbers, column, where, channels)
        case feature:
            problem = f"column {column!r} is {_first_line(feature)}; allowed: text, images, lists of numbers"
            raise InputError(where, problem)
    return LazyColumn(len(dataset), partial(_one, read), read)


def _one(read: Callable[[Sequence[int]], Sequence[Raw]], row: int) -> Raw:
    return read([row])[0]


def _values(dataset: Dataset, column: str, where: str, rows: Sequence[int]) -> list[Any]:
    try:
        values: list[Any] = dataset[list(rows)][column]
    except OSError as error:  # an image that cannot be decoded
        if len(rows) > 1:
            return [value for row in rows for value in _values(dataset, column, where, [row])]
        raise InputError(where, f"row {rows[0]} of column {column!r}: {_first_line(error)}") from None
    for row, value in zip(rows, values, strict=True):
        if value is None:
            raise InputError(where, f"row {row} of column {column!r} is missing; allowed: a value in every row")
    return values


def _texts(dataset: Dataset, column: str, where: str, rows: Sequence[int]) -> list[str]:
    return _values(dataset, column, where, rows)


def _images(dataset: Dataset, column: str, where: str, rows: Sequence[int]) -> list[NDArray[np.uint8]]:
    pixels = []
    for row, value in zip(rows, _values(dataset, column, where, rows), strict=True):
        try:
            pixels.append(image_pixels(value))
        except (OSError, ValueError) as error:
            raise InputError(where, f"row {row} of column {column!r} {_first_line(error)}") from None
    return pixels


def _series(
    dataset: Dataset, column: str, where: str, channels: int | None, rows: Sequence[int]
) -> list[NDArray[np.float32]]:
    series = []
    for row, value in zip(rows, _values(dataset, column, where, rows), strict=True):
        try:
            series.append(series_values(value, channels))
        except ValueError as error:
            raise InputError(where, f"row {row} of column {column!r} {error}") from None
    return series


def _first_line(value: object) -> str:
    return next(iter(str(value).splitlines()), type(value).__name__)
