"""The ledger: parts, resuming, merging."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from fogtune.platform.run import Ledger, LedgerRow, ledger


def row(round_number: int, kind: Any = "uplink", module: str = "head/vqa", count: int = 10) -> LedgerRow:
    return LedgerRow(round_number, kind, "camera-0", "fog-0", module, count, 1, None, None, None)


def rounds_of(path: Path) -> list[int]:
    found: list[int] = pq.read_table(path)["round"].to_pylist()
    return found


def test_a_part_appears_when_its_round_is_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "ROWS_HELD", 2)
    book = Ledger(tmp_path)
    book.book(row(1) for _ in range(5))
    part = tmp_path / "checkpoints" / "ledger" / "round-000001.parquet"
    assert not part.exists()
    book.seal()
    assert rounds_of(part) == [1] * 5
    assert [path.name for path in part.parent.iterdir()] == [part.name]


def test_two_rounds_cannot_be_open_at_once(tmp_path: Path) -> None:
    book = Ledger(tmp_path)
    book.book([row(1)])
    with pytest.raises(ValueError, match="seal it first"):
        book.book([row(2)])


def test_a_resumed_run_books_later_rounds_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Ledger(tmp_path)
    for number in (1, 2, 3):
        first.book([row(number)])
        first.seal()
    monkeypatch.setattr(ledger, "ROWS_HELD", 1)
    first.book([row(4)])  # killed here: an unfinished part is left
    assert len(list((tmp_path / "checkpoints" / "ledger").iterdir())) == 4

    resumed = Ledger(tmp_path)
    resumed.drop_after(1)
    assert [path.name for path in (tmp_path / "checkpoints" / "ledger").iterdir()] == ["round-000001.parquet"]
    resumed.book([row(2), row(2)])
    resumed.seal()
    resumed.merge(keep_parts=True)
    assert rounds_of(tmp_path / "ledger.parquet") == [1, 2, 2]
    resumed.merge(keep_parts=False)
    assert rounds_of(tmp_path / "ledger.parquet") == [1, 2, 2]
    assert not (tmp_path / "checkpoints" / "ledger").exists()


def test_rows_keep_their_values_and_an_empty_ledger_its_columns(tmp_path: Path) -> None:
    book = Ledger(tmp_path)
    book.merge(keep_parts=False)
    empty = pq.read_table(tmp_path / "ledger.parquet")
    assert empty.num_rows == 0
    book.book([LedgerRow(1, "d2d", "a", "b", "expert/1", 7, 3, 0.5, 0.25, 2.0, True)])
    book.seal()
    book.merge(keep_parts=False)
    table = pq.read_table(tmp_path / "ledger.parquet")
    assert table.schema.names == empty.schema.names
    assert table.to_pylist() == [
        {
            "round": 1, "kind": "d2d", "source": "a", "target": "b", "module": "expert/1", "bytes": 7, "hops": 3,
            "start_s": 0.5, "seconds": 0.25, "joules": 2.0, "lost": True,
        }
    ]  # fmt: skip
