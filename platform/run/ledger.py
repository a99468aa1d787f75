"""The ledger: every transfer and computation of a run, in parquet parts of one round or several, merged at the end.

A part is sealed before the checkpoint that stands for its rounds; a resumed run drops what comes after its checkpoint
and books that anew. At most `ROWS_HELD` rows are held in memory; what else waits for its seal is in an unfinished part.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .atomic import commit, replacing, temporary_beside
from .record import LedgerRow

if TYPE_CHECKING:
    import pyarrow as pa

    from .rows import LedgerRows

log = logging.getLogger(__name__)

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
        self._commit(self._last)
        self._writer, self._last = None, None

    def drop_after(self, round_number: int) -> None:
        """Forgets later rounds, and what an interrupted process left unfinished; seals what is left."""
        self.seal()
        for path in self._parts.glob("*.tmp"):
            path.unlink()
        if not self._sealed() and self._merged.exists():  # the run was complete, and its parts are there no more
            self._keep(self._merged, round_number)
        before = 0
        for path in self._sealed():
            last = _last_of(path)
            if last > round_number:
                if before < round_number:
                    self._keep(path, round_number)
                path.unlink()
            before = last

    def whole_until(self) -> float:
        """The last round before the first sealed part that is damaged, which is logged; infinite if none is."""
        before = 0
        for path in self._sealed():
            digest = path.stem.split("-")[2:]
            if digest and digest != [_digest(path)]:  # parts of before had none
                log.warning("%s: damaged (the content does not match the name)", path)
                return before
            before = _last_of(path)
        return math.inf

    def merge(self) -> None:
        """Writes `ledger.parquet` from the sealed parts, which stay: the run may be resumed."""
        import pyarrow.parquet as pq

        with replacing(self._merged) as temporary, pq.ParquetWriter(temporary, _schema(), compression="zstd") as writer:
            for part in self._sealed():
                for batch in pq.ParquetFile(part).iter_batches(ROWS_HELD):
                    writer.write_batch(batch)

    def discard_parts(self) -> None:
        """Removes the parts of a run that is over: what they hold is in `ledger.parquet`."""
        for part in self._sealed():
            part.unlink()
        if self._parts.exists():
            self._parts.rmdir()

    def _keep(self, source: Path, round_number: int) -> None:
        """Writes the rows until a round as a part."""
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        kept = pq.read_table(source).filter(pc.field("round") <= round_number)
        if kept.num_rows:
            self._parts.mkdir(parents=True, exist_ok=True)
            pq.write_table(kept, self._unfinished, compression="zstd")
            self._commit(round_number)

    def _sealed(self) -> list[Path]:
        """The parts, in the order of their rounds."""
        return sorted(self._parts.glob("round-*.parquet"), key=_last_of)

    def _commit(self, last: int) -> None:
        """What was unfinished becomes the part of the rounds until this one, since the part before."""
        commit(self._unfinished, self._parts / f"round-{last:06d}-{_digest(self._unfinished)}.parquet")

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
    return int(part.stem.split("-")[1])


def _digest(part: Path) -> str:
    """The beginning of its sha256, which is in its name."""
    with part.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]
