"""The ledger: every transfer and computation of a run, a parquet part a round, merged into one file at the end.

A part is written when its round is sealed, so a resumed run drops the parts after its checkpoint and books anew. At
most `ROWS_HELD` rows are held in memory; the rest of the open round waits in its unfinished part.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .atomic import commit, replacing, temporary_beside
from .record import LedgerRow

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_HELD = 50_000


class Ledger:
    """Books rows round by round below a run's directory. One round is open at a time."""

    def __init__(self, run: Path) -> None:
        self._merged = run / "ledger.parquet"
        self._parts = run / "checkpoints" / "ledger"
        self._open: int | None = None
        self._held: list[LedgerRow] = []
        self._writer: Any = None

    def book(self, rows: Iterable[LedgerRow]) -> None:
        """Adds rows, all of the open round; the first row after a seal opens its round. ValueError for any other."""
        for row in rows:
            if self._open is None:
                self._open = row.round
            elif row.round != self._open:
                raise ValueError(f"a row of round {row.round} while round {self._open} is open; seal it first")
            self._held.append(row)
            if len(self._held) >= ROWS_HELD:
                self._spill()

    def seal(self) -> None:
        """Writes the part of the open round, whole or not at all; a round without rows has none."""
        if self._open is None:
            return
        self._spill()
        self._writer.close()
        commit(temporary_beside(self._part(self._open)), self._part(self._open))
        self._writer, self._open = None, None

    def drop_after(self, round_number: int) -> None:
        """Forgets later rounds: their parts, the open round, and what an interrupted process left unfinished."""
        if self._writer is not None:
            self._writer.close()
        self._held.clear()
        self._writer, self._open = None, None
        for path in self._parts.glob("*"):
            if path.suffix == ".tmp" or _round_of(path) > round_number:
                path.unlink()

    def merge(self, *, keep_parts: bool) -> None:
        """Writes `ledger.parquet` from the sealed parts. Keep them if the run may be resumed."""
        import pyarrow.parquet as pq

        parts = sorted(self._parts.glob("round-*.parquet"), key=_round_of)
        with replacing(self._merged) as temporary, pq.ParquetWriter(temporary, _schema(), compression="zstd") as writer:
            for part in parts:
                for batch in pq.ParquetFile(part).iter_batches(ROWS_HELD):
                    writer.write_batch(batch)
        if not keep_parts:
            for part in parts:
                part.unlink()
            if self._parts.exists():
                self._parts.rmdir()

    def _part(self, round_number: int) -> Path:
        return self._parts / f"round-{round_number:06d}.parquet"

    def _spill(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        assert self._open is not None
        if self._writer is None:
            self._parts.mkdir(parents=True, exist_ok=True)
            part = temporary_beside(self._part(self._open))
            self._writer = pq.ParquetWriter(part, _schema(), compression="zstd")
        if self._held:
            columns = {name: [getattr(row, name) for row in self._held] for name in _schema().names}
            self._writer.write_table(pa.table(columns, schema=_schema()))
            self._held.clear()


def _schema() -> pa.Schema:
    import pyarrow as pa

    name = pa.dictionary(pa.int32(), pa.string())
    return pa.schema(
        [
            ("round", pa.int32()),
            ("kind", name),
            ("source", name),
            ("target", name),
            ("module", name),
            ("bytes", pa.int64()),
            ("hops", pa.int16()),
            ("start_s", pa.float64()),
            ("seconds", pa.float64()),
            ("joules", pa.float64()),
            ("lost", pa.bool_()),
        ]
    )


def _round_of(part: Path) -> int:
    return int(part.stem.removeprefix("round-"))
