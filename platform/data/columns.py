"""Columns of a table whose values are made when somebody asks for the row."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from operator import index
from typing import SupportsIndex, overload

from .table import Raw


class LazyColumn(Sequence[Raw]):
    """A column whose values are read. Nothing is kept. Pickles if what reads does."""

    def __init__(
        self, length: int, read: Callable[[int], Raw], read_many: Callable[[Sequence[int]], Sequence[Raw]] | None = None
    ) -> None:
        """Args: its rows; what makes the value of one; what makes those of several, if that is faster."""
        self._length = length
        self._read = read
        self._read_many = read_many

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, row: SupportsIndex) -> Raw: ...
    @overload
    def __getitem__(self, row: slice) -> list[Raw]: ...
    def __getitem__(self, row: SupportsIndex | slice) -> Raw | list[Raw]:
        if isinstance(row, slice):
            return [self._read(number) for number in range(*row.indices(self._length))]
        number = index(row)
        if not -self._length <= number < self._length:
            raise IndexError(f"row {number} of a column of {self._length}")
        return self._read(number % self._length)

    def take(self, rows: Sequence[int]) -> Sequence[Raw]:
        """The values of these rows, each from 0 up, in order."""
        return [self[row] for row in rows] if self._read_many is None else self._read_many(rows)


def taken(column: Sequence[Raw], rows: Sequence[int]) -> Sequence[Raw]:
    """The values of these rows of any column."""
    return column.take(rows) if isinstance(column, LazyColumn) else [column[row] for row in rows]


def joined(columns: Sequence[Sequence[Raw]]) -> Sequence[Raw]:
    """Columns, at least one, one after the other; values that are read when asked for stay so."""
    if not any(isinstance(column, LazyColumn) for column in columns):
        return [value for column in columns for value in column]
    ends = list(accumulate(map(len, columns)))
    return LazyColumn(ends[-1], partial(_read_joined, columns, ends))


def _read_joined(columns: Sequence[Sequence[Raw]], ends: Sequence[int], row: int) -> Raw:
    number = bisect_right(ends, row)
    return columns[number][row - ends[number]]  # counted from the column's end
