"""Columns of a table whose values are made when somebody asks for the row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import index
from typing import SupportsIndex, overload

from .table import Raw


class LazyColumn(Sequence[Raw]):
    """A column of `length` rows; `read(row)` makes a value. Nothing is kept. Pickles if `read` does."""

    def __init__(self, length: int, read: Callable[[int], Raw]) -> None:
        self._length = length
        self._read = read

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
