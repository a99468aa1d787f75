"""Where bytes, seconds and joules went: sums over a run's ledger.

A ledger may have millions of rows. They are read in batches, and of what was read only sums are held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fogtune.platform.errors import InputError
from fogtune.platform.run.directory import RunDirectory
from fogtune.platform.run.record import LINKS

if TYPE_CHECKING:
    import pyarrow as pa

KINDS = (*LINKS, "compute")
"""Kinds of ledger rows, in the order in which tables and charts list them."""
BATCH_ROWS = 100_000


_SUMS = ("bytes", "lost_bytes", "seconds", "joules")
_LINK = ("kind", "source", "target")


@dataclass(frozen=True)
class Spent:
    """Sums of ledger rows. Of seconds and joules null without a network.

    Rows run side by side and a broadcast has one for each receiver: seconds add up to more than the time that passed.
    """

    bytes: int
    lost_bytes: int
    """Of those, what did not arrive."""
    seconds: float | None
    joules: float | None


def by_kind(run: RunDirectory) -> dict[str, Spent]:
    """Kind, in the order of `KINDS` -> sums of a run's rows of that kind. InputError if the ledger is damaged."""
    sums = spent(run, "kind")
    return {kind: sums[(kind,)] for kind in KINDS if (kind,) in sums}


def spent(run: RunDirectory, *keys: str) -> dict[tuple[Any, ...], Spent]:
    """Sums of the rows that agree in these columns, by their values there; nothing if there is no ledger yet.

    InputError if the ledger is damaged.
    """
    sums = reduced(ledger(run), keys, dict.fromkeys(_SUMS, "sum"))
    return {} if sums is None else _by(keys, sums)


def spent_on_links(run: RunDirectory, nodes: Iterable[str], most: int) -> dict[tuple[str, str, str], Spent]:
    """(kind, source, target) -> sums of what went between these nodes, those with the most bytes, at most so many.

    InputError if the ledger is damaged.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    names = pa.array(nodes, pa.string())
    between = (
        table.filter(
            pc.and_(
                pc.not_equal(table["kind"], "compute"),
                pc.and_(pc.is_in(table["source"], names), pc.is_in(table["target"], names)),
            )
        )
        for table in ledger(run)
    )
    sums = reduced(between, _LINK, dict.fromkeys(_SUMS, "sum"))
    return {} if sums is None else _by(_LINK, sums.sort_by([("bytes", "descending")])[:most])


def ledger(run: RunDirectory) -> Iterator[pa.Table]:
    """The ledger, a batch at a time, with names as plain strings and `lost_bytes`; nothing if there is none yet."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    path = run.path / "ledger.parquet"
    if not path.exists():
        return
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH_ROWS):
                columns = dict(zip(batch.schema.names, batch.columns, strict=True))
                plain = {n: c.cast(pa.string()) if pa.types.is_dictionary(c.type) else c for n, c in columns.items()}
                plain.setdefault("lost", pa.repeat(False, len(batch)))  # which older runs have not
                yield pa.table({**plain, "lost_bytes": pc.if_else(plain["lost"], plain["bytes"], 0)})
    except (pa.ArrowInvalid, OSError) as error:
        problem = " ".join(str(error).split())
        raise InputError(str(path), f"damaged ({type(error).__name__}: {problem})") from None


def reduced(tables: Iterable[pa.Table], keys: Sequence[str], how: Mapping[str, str]) -> pa.Table | None:
    """Groups of the rows of all tables, in the order in which they came up; null without any table.

    Args:
        tables: parts, of which one is held at a time.
        keys: columns in which the rows of a group agree.
        how: column -> `sum`, `min` or `max`.
    """
    import pyarrow as pa

    parts: list[pa.Table] = []  # the first holds all that was brought together
    for table in tables:
        parts.append(_grouped(table, keys, how))
        if sum(map(len, parts[1:])) >= len(parts[0]):  # so that each row is brought together few times
            parts = [_grouped(pa.concat_tables(parts), keys, how)]
    return _grouped(pa.concat_tables(parts), keys, how) if parts else None


def _by(keys: Sequence[str], sums: pa.Table) -> dict[tuple[Any, ...], Spent]:
    return {tuple(row[key] for key in keys): Spent(*(row[column] for column in _SUMS)) for row in sums.to_pylist()}


def _grouped(table: pa.Table, keys: Sequence[str], how: Mapping[str, str]) -> pa.Table:
    # On one thread, so that the order of rows, and with it the last bits of sums, is always the same.
    found = table.group_by(list(keys), use_threads=False).aggregate(list(how.items()))
    names = {**{key: key for key in keys}, **{f"{column}_{function}": column for column, function in how.items()}}
    return found.select(list(names)).rename_columns(list(names.values()))
