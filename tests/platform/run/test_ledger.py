"""The ledger: parts, resuming, merging."""

from __future__ import annotations

import math
import re
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
    parts = tmp_path / "checkpoints" / "ledger"
    assert not list(parts.glob("round-*"))
    book.seal()
    (part,) = parts.iterdir()
    assert re.fullmatch(r"round-000001-[0-9a-f]{16}.parquet", part.name)
    assert rounds_of(part) == [1] * 5


def test_a_part_holds_the_rounds_since_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "ROWS_HELD", 3)
    book = Ledger(tmp_path)
    for rounds in ((1, 2, 3), (4, 5)):
        for number in rounds:
            book.book([row(number), row(number)])
        book.seal()
    book.seal()  # nothing is left to seal
    parts = tmp_path / "checkpoints" / "ledger"
    assert {path.name[:12]: rounds_of(path) for path in parts.iterdir()} == {
        "round-000003": [1, 1, 2, 2, 3, 3],
        "round-000005": [4, 4, 5, 5],
    }
    book.merge()
    assert rounds_of(tmp_path / "ledger.parquet") == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


@pytest.mark.parametrize("held", [1, 100])
@pytest.mark.parametrize(
    ("last", "left"), [(0, []), (2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 3, 4]), (9, [1, 2, 3, 4, 5])]
)
def test_what_is_dropped_may_lie_within_a_part_or_not_be_sealed_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int, last: int, left: list[int]
) -> None:
    monkeypatch.setattr(ledger, "ROWS_HELD", held)
    book = Ledger(tmp_path)
    for number in (1, 2, 3, 4, 5):
        book.book([row(number)])
        if number == 3:
            book.seal()
    book.drop_after(last)
    book.merge()
    assert rounds_of(tmp_path / "ledger.parquet") == left
    book.book([row(last + 1)])
    book.seal()
    book.merge()
    book.discard_parts()
    assert rounds_of(tmp_path / "ledger.parquet") == [*left, last + 1]


def test_rounds_do_not_go_back_nor_come_together(tmp_path: Path) -> None:
    book = Ledger(tmp_path)
    book.book([row(2)])
    with pytest.raises(ValueError, match="round 1 after those of round 2"):
        book.book([row(1)])
    with pytest.raises(ValueError, match="rows of 2 rounds"):
        book.book([row(3), row(4)])


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
    assert [path.name[:13] for path in (tmp_path / "checkpoints" / "ledger").iterdir()] == ["round-000001-"]
    resumed.book([row(2), row(2)])
    resumed.seal()
    resumed.merge()
    assert rounds_of(tmp_path / "ledger.parquet") == [1, 2, 2]
    resumed.merge()
    resumed.discard_parts()
    assert rounds_of(tmp_path / "ledger.parquet") == [1, 2, 2]
    assert not (tmp_path / "checkpoints" / "ledger").exists()


def test_whatever_bit_of_a_part_is_flipped_it_is_seen(tmp_path: Path) -> None:
    book = Ledger(tmp_path)
    for number in (1, 3, 4):
        book.book([row(number)])
        book.seal()
    assert book.whole_until() == math.inf
    (part,) = (tmp_path / "checkpoints" / "ledger").glob("round-000004*")
    content = part.read_bytes()
    for place in range(0, len(content), 97):
        part.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert book.whole_until() == 3


def test_a_ledger_whose_parts_were_merged_and_removed_is_cut(tmp_path: Path) -> None:
    book = Ledger(tmp_path)
    for number in (1, 2, 3):
        book.book([row(number)])
        book.seal()
    book.merge()
    book.discard_parts()
    again = Ledger(tmp_path)
    again.drop_after(2)
    again.book([row(3), row(3)])
    again.seal()
    again.merge()
    assert rounds_of(tmp_path / "ledger.parquet") == [1, 2, 3, 3]


def test_rows_keep_their_values_and_an_empty_ledger_its_columns(tmp_path: Path) -> None:
    book = Ledger(tmp_path)
    book.merge()
    book.discard_parts()
    empty = pq.read_table(tmp_path / "ledger.parquet")
    assert empty.num_rows == 0
    book.book([LedgerRow(1, "d2d", "a", "b", "expert/1", 7, 3, 0.5, 0.25, 2.0, True)])
    book.seal()
    book.merge()
    book.discard_parts()
    table = pq.read_table(tmp_path / "ledger.parquet")
    assert table.schema.names == empty.schema.names
    assert table.to_pylist() == [
        {
            "round": 1, "kind": "d2d", "source": "a", "target": "b", "module": "expert/1", "bytes": 7, "hops": 3,
            "start_s": 0.5, "seconds": 0.25, "joules": 2.0, "lost": True,
        }
    ]  # fmt: skip
