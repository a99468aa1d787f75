"""A folder of the user's own as a table: `metadata.jsonl` or `metadata.csv`, one sample a row, files below the folder.

A modality's column is of one kind, which its first row tells by the file's suffix: images (.png, .jpg, .jpeg; decoded
at each access), series (.npy; .csv without a header line; read at once and kept), or else text. Rows are counted from
1 in messages, the header of a CSV file and empty lines not counted. Paths use `/` and stay below the folder, links
followed.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..config import FolderSource
from ..errors import InputError
from ..wording import listed, quoted
from .columns import LazyColumn
from .table import Label, Raw, Table
from .values import channels_of, image_pixels, label_value, series_values

_T = TypeVar("_T")
_Row = dict[str, Any]
_Kind = Literal["image", "series", "text"]
_SUFFIXES: dict[_Kind, tuple[str, ...]] = {"image": (".png", ".jpg", ".jpeg"), "series": (".npy", ".csv")}


def load_folder(source: FolderSource, where: str) -> Table:
    """Load a folder. `where` is how messages name the source: `sources.imu`. All rows are in the split `train`.

    Raises:
        InputError: The folder, its metadata, a column or a file does not exist; a path leaves the folder; an image or
            a series cannot be read; series have other shapes than (T, C) with one C or (N,), or numbers that are not
            finite; a value is missing. Pixels are decoded at the access, so a damaged image with an intact header
            raises then.
    """
    folder = Path(source.path).expanduser()
    if not folder.is_dir():
        raise InputError(f"{where}.path", f"{source.path} is no folder; allowed: a folder with metadata.jsonl or .csv")
    metadata = [name for name in ("metadata.jsonl", "metadata.csv") if (folder / name).is_file()]
    if len(metadata) != 1:
        problem = f"{source.path} has {listed(metadata)}; allowed: one of metadata.jsonl, metadata.csv"
        raise InputError(f"{where}.path", problem)
    at = f"{where}.path {folder / metadata[0]}"
    text = _read_text(folder / metadata[0], at)
    rows = list(_json_rows(text, at) if metadata[0] == "metadata.jsonl" else _csv_rows(text, at))
    if not rows:
        raise InputError(at, "has no rows; allowed: at least 1")

    root = folder.resolve()
    modalities = {
        name: _modality(root, _column(rows, column, f"{where}.columns.{name}"), f"{where}.columns.{name}")
        for name, column in source.columns.items()
    }
    labels = {
        name: _labels(_column(rows, column, f"{where}.labels.{name}"), metadata[0], f"{where}.labels.{name}")
        for name, column in source.labels.items()
    }
    groups = None if source.group is None else _groups(_column(rows, source.group, f"{where}.group"), f"{where}.group")
    return Table(modalities, labels, groups, {"train": np.arange(len(rows))})


def _read_text(path: Path, at: str) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")  # spreadsheets put a byte order mark in front
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(at, f"cannot be read as UTF-8 text: {error}") from None


def _json_rows(text: str, at: str) -> Iterator[_Row]:
    lines = [line for line in text.split("\n") if line.strip()]
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(at, f"row {number} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise InputError(at, f"row {number} is {quoted(row)}; allowed: a JSON object")
        yield row


def _csv_rows(text: str, at: str) -> Iterator[_Row]:
    """Rows with the header's names; rows of another length are refused, empty lines skipped."""
    try:
        table = [cells for cells in csv.reader(io.StringIO(text, newline=""), strict=True) if cells]
    except csv.Error as error:
        raise InputError(at, f"is not CSV: {error}") from None
    if not table:
        return
    header, *body = table
    if len(set(header)) < len(header):
        raise InputError(at, f"names a column twice: {listed(header)}; allowed: names that differ")
    for number, cells in enumerate(body, 1):
        if len(cells) != len(header):
            raise InputError(at, f"row {number} has {len(cells)} values; allowed: {len(header)}, as in the header")
        yield dict(zip(header, cells, strict=True))


def _column(rows: Sequence[_Row], column: str, where: str) -> list[Any]:
    names = {name: None for row in rows for name in row}
    if column not in names:
        raise InputError(where, f"the metadata has no column {column!r}; allowed: {listed(names)}")
    return [row.get(column) for row in rows]


def _labels(values: Sequence[Any], metadata: str, where: str) -> list[Label]:
    if metadata == "metadata.csv" and any("|" in value for value in values):
        values = [value.split("|") if value else [] for value in values]
    labels = []
    for number, value in enumerate(values, 1):
        try:
            labels.append(label_value(value))
        except ValueError as error:
            raise InputError(where, f"row {number} {error}") from None
    return labels


def _groups(values: Sequence[Any], where: str) -> list[str]:
    for number, value in enumerate(values, 1):
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise InputError(where, f"row {number} is {quoted(value)}; allowed: text or a whole number")
    return [str(value) for value in values]


def _modality(root: Path, values: Sequence[Any], where: str) -> Sequence[Raw]:
    for number, value in enumerate(values, 1):
        if not isinstance(value, str):
            raise InputError(where, f"row {number} is {quoted(value)}; allowed: text or a path below the folder")
    kind = _kind(values[0])
    if kind == "text":
        return list(values)
    paths = []
    for number, value in enumerate(values, 1):
        if _kind(value) != kind:
            problem = f"row {number} is {quoted(value)}; allowed: {listed(_SUFFIXES[kind])} files, as in row 1"
            raise InputError(where, problem)
        paths.append(_below(root, value, f"row {number}", where))
    if kind == "series":
        return _all_series(paths, values, where)
    for number, path in enumerate(paths, 1):
        _explained(partial(_open_image, path), number, values[number - 1], where)
    return LazyColumn(len(paths), partial(_pixels, paths, list(values), where))


def _kind(value: str) -> _Kind:
    lower = value.lower()
    return next((kind for kind, suffixes in _SUFFIXES.items() if lower.endswith(suffixes)), "text")


def _below(root: Path, value: str, row: str, where: str) -> Path:
    """The file that a value names, which must lie below the folder, also after following links."""
    try:
        path = (root / value).resolve()
        inside, exists = path.is_relative_to(root), path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a zero byte, a circle of links
        raise InputError(where, f"{row} is {quoted(value)}: {error}; allowed: a path below the folder") from None
    if not inside:
        raise InputError(where, f"{row} is {quoted(value)}, outside of the folder; allowed: a path below it")
    if not exists:
        raise InputError(where, f"{row} is {quoted(value)}, which does not exist; allowed: files below {root}")
    return path


def _all_series(paths: Sequence[Path], values: Sequence[str], where: str) -> list[Raw]:
    channels: int | None = None
    series: list[Raw] = []
    for number, path in enumerate(paths, 1):
        one = _explained(partial(_read_series, path, channels), number, values[number - 1], where)
        channels = channels_of(one)
        series.append(one)
    return series


def _read_series(path: Path, channels: int | None) -> NDArray[np.float32]:
    if path.suffix.lower() == ".npy":
        return series_values(np.load(path, allow_pickle=False), channels)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [[float(cell) for cell in cells] for cells in csv.reader(file) if cells]
    return series_values(rows, channels)


def _open_image(path: Path) -> None:
    """Reads the header only, so that a large folder loads in little time."""
    with Image.open(path, formats=("PNG", "JPEG")):
        pass


def _pixels(paths: Sequence[Path], values: Sequence[str], where: str, row: int) -> NDArray[np.uint8]:
    def read() -> NDArray[np.uint8]:
        with Image.open(paths[row], formats=("PNG", "JPEG")) as image:
            return image_pixels(image)

    return _explained(read, row + 1, values[row], where)


def _explained(read: Callable[[], _T], number: int, value: str, where: str) -> _T:
    """What `read` returns; its errors as an InputError that names the row and the file."""
    try:
        return read()
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(where, f"row {number}, {quoted(value)}: {error}") from None
