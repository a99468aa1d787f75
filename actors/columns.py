"""Named tuples on their way between actors: by column, as plain tuples, which Ray packs without a call of Python each.

For the orders and reports of a thousand devices those calls take as long as the devices where these have little to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

Row = TypeVar("Row", bound=tuple[Any, ...])


class ByColumn(tuple[Row, ...]):
    """Named tuples of one type. What comes out on the other side is a plain tuple of them."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rows, (type(self[0]), *zip(*self, strict=True))) if self else (tuple, ())


def _rows(kind: Any, *columns: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(map(kind._make, zip(*columns, strict=True)))
