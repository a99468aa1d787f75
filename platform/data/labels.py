"""Label columns as targets: the vocabulary of a task, and its rows as numbers."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..wording import listed, quoted
from .table import Label, Table

_LARGEST = float(np.finfo(np.float32).max)

Head = Literal["classification", "multilabel", "regression"]

Targets = NDArray[np.int64] | NDArray[np.float32]
"""A row a sample: class ids (N,) int64, multi-hot (N, K) float32, or numbers (N,) float32."""


def class_name(value: Label) -> str:
    """The class that a label names: text itself, whole numbers in digits.

    Raises ValueError for sets of labels, numbers with a fraction and empty text.
    """
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if not isinstance(value, str) or not value:
        raise ValueError(f"{quoted(value)} is no class; allowed: text or whole numbers")
    return value


def label_names(table: Table, label: str, head: Head, task: str) -> tuple[str, ...]:
    """The K class names of a task in sorted order, over all rows of its source; () for regression.

    Args:
        table: The task's source.
        label: Label column.
        head: Kind of the task's head.
        task: Name of the task, for messages.

    Raises:
        InputError: The column does not exist, does not suit the head, or names fewer classes than a head needs (two
            for classification, one for multi-label).
    """
    if head == "regression":
        _column(table, label, task)
        return ()
    names = sorted({name for row in _class_names(table, label, head, task) for name in row})
    least = 2 if head == "classification" else 1
    if len(names) < least:
        problem = f"column {label!r} has {len(names)} class(es): {listed(names)}; allowed: at least {least}"
        raise InputError(f"tasks.{task}.label", problem)
    return tuple(names)


def encode_labels(table: Table, label: str, head: Head, names: tuple[str, ...], task: str) -> Targets:
    """Targets of all N rows of a table; K is the length of `names`.

    Args:
        table: The task's source.
        label: Label column.
        head: Kind of the task's head.
        names: The task's vocabulary, as `label_names` gives it; a class's id is its place here.
        task: Name of the task, for messages.

    Returns:
        Class ids (N,) int64; multi-hot (N, K) float32; or numbers (N,) float32.

    Raises:
        InputError: The column does not exist, does not suit the head, or holds a class that `names` lacks.
    """
    if head == "regression":
        return np.array(
            [_number(value, row, label, task) for row, value in enumerate(_column(table, label, task))], np.float32
        )
    ids = {name: number for number, name in enumerate(names)}
    rows = _class_names(table, label, head, task)
    for row, present in enumerate(rows):
        if unknown := [name for name in present if name not in ids]:
            problem = f"row {row} of column {label!r} is {quoted(unknown[0])}; allowed: {listed(names)}"
            raise InputError(f"tasks.{task}.label", problem)
    if head == "classification":
        return np.array([ids[name] for (name,) in rows], np.int64)
    hot = np.zeros((len(rows), len(names)), np.float32)
    for row, present in enumerate(rows):
        hot[row, [ids[name] for name in present]] = 1.0
    return hot


def _column(table: Table, label: str, task: str) -> list[Label]:
    if label not in table.labels:
        problem = f"the source has no label {label!r}; allowed: {listed(sorted(table.labels))}"
        raise InputError(f"tasks.{task}.label", problem)
    return list(table.labels[label])


def _class_names(table: Table, label: str, head: Head, task: str) -> list[tuple[str, ...]]:
    """The names that hold in each row: one for classification, any number for multi-label."""
    rows = []
    for row, value in enumerate(_column(table, label, task)):
        if head == "multilabel" and isinstance(value, tuple):
            rows.append(value)
        elif head == "multilabel" and value == "":
            rows.append(())
        else:
            try:
                rows.append((class_name(value),))
            except ValueError as error:
                hint = "; head: multilabel takes sets of labels" if isinstance(value, tuple) else ""
                problem = f"row {row} of column {label!r}: {error}{hint}"
                raise InputError(f"tasks.{task}.label", problem) from None
    return rows


def _number(value: Label, row: int, label: str, task: str) -> float:
    number = math.nan
    if not isinstance(value, tuple):
        try:
            number = float(value)
        except ValueError:
            number = math.nan
    if not abs(number) <= _LARGEST:
        problem = f"row {row} of column {label!r} is {quoted(value)}; allowed for regression: finite numbers"
        raise InputError(f"tasks.{task}.label", problem)
    return number
