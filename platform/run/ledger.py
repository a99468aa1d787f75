"""The ledger: every transfer and computation of a run, in parquet parts of one round or several, merged at the end.

A part is sealed before the checkpoint that stands for its rounds; a resumed run drops what comes after its checkpoint
and books that anew. At most `ROWS_HELD` rows are held in memory; what else waits for its seal is in an unfinished part.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .atomic import commit, replacing, temporary_beside
from .record import LedgerRow

if TYPE_CHECKING:
    import pyarrow as pa

    from .rows import LedgerRows

ROWS_HELD = 50_000


class Ledger:
    """Books rows round by round below a run's directory."""

    def __init__(self, run: Path) -> None:
        self._merged = run / "ledger.parquet"
        self._parts = run / "checkpoints" / "ledger"
        self._last: int | None = None
        """Round of the newest row that is not sealed."""
        self._held: list[LedgerRows] = []
        self._writer: Any = None
        self._unfinished = temporary_beside(self._parts / "round.parquet")

    def book(self, rows: Iterable[LedgerRow]) -> None:
        """Adds rows of one round. ValueError if they are of several, or of an earlier one than rows that wait for their
        seal."""
        from .rows import LedgerRows

        found = rows if isinstance(rows, LedgerRows) else LedgerRows.of(rows)
        if not found:
            return
        if self._last is not None and found.round < self._last:
            raise ValueError(f"rows of round {found.round} after those of round {self._last}")
        self._last = found.round
        self._held.append(found)
        if sum(map(len, self._held)) >= ROWS_HELD:
            self._spill()

    def seal(self) -> None:
        """Writes the rows since the last seal as a part, whole or not at all; without rows there is none."""
        if self._last is None:
            return
        self._spill()
        self._writer.close()
        commit(self._unfinished, self._part(self._last))
        self._writer, self._last = None, None

    def drop_after(self, round_number: int) -> None:
        """Forgets later rounds, and what an interrupted process left unfinished; seals what is left."""
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        self.seal()
        for path in self._parts.glob("*"):
            if path.suffix == ".tmp":
                path.unlink()
            elif _last_of(path) > round_number:
                kept = pq.read_table(path).filter(pc.field("round") <= round_number)
                path.unlink()
                if kept.num_rows:
                    with replacing(self._part(round_number)) as temporary:
                        pq.write_table(kept, temporary, compression="zstd")

    def merge(self) -> None:
        """Writes `ledger.parquet` from the sealed parts, which stay: the run may be resumed."""
        import pyarrow.parquet as pq

        parts = sorted(self._parts.glob("round-*.parquet"), key=_last_of)
        with replacing(self._merged) as temporary, pq.ParquetWriter(temporary, _schema(), compression="zstd") as writer:
            for part in parts:
                for batch in pq.ParquetFile(part).iter_batches(ROWS_HELD):
                    writer.write_batch(batch)

    def discard_parts(self) -> None:
        """Removes the parts of a run that is over: what they hold is in `ledger.parquet`."""
        for part in self._parts.glob("round-*.parquet"):
            part.unlink()
        if self._parts.exists():
            self._parts.rmdir()

    def _part(self, round_number: int) -> Path:
        """Of the rounds until this one, since the part before."""
        return self._parts / f"round-{round_number:06d}.parquet"

    def _spill(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._writer is None:
            self._parts.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._unfinished, _schema(), compression="zstd")
        if self._held:
            tables = [_table(rows) for rows in self._held]
            self._writer.write_table(pa.concat_tables(tables).unify_dictionaries())
            self._held.clear()


def _table(rows: LedgerRows) -> pa.Table:
    """The rows as parquet has them."""
    import numpy as np
    import pyarrow as pa

    from .rows import COSTS, KINDS

    names = {"kind": KINDS, "source": rows.nodes, "target": rows.nodes, "module": rows.modules}
    columns: dict[str, Any] = {"round": np.full(len(rows), rows.round, np.int32)}
    for name, values in rows.columns.items():
        if name in names:
            columns[name] = pa.DictionaryArray.from_arrays(
                pa.array(values, pa.int32()), pa.array(names[name], pa.string())
            )
        else:
            columns[name] = pa.array(values, mask=np.isnan(values) if name in COSTS else None)
    return pa.table(columns, schema=_schema())


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


def _last_of(part: Path) -> int:
    """The last round of a part."""
    return int(part.stem.removeprefix("round-"))
