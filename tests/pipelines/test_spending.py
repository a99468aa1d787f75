"""Sums over a ledger, whatever the batches in which it is read."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow.parquet as pq
import pytest

from fogtune.pipelines import spending
from fogtune.pipelines.spending import Spent, by_kind, spent, spent_on_links
from fogtune.platform.errors import InputError
from fogtune.platform.run import Ledger, LedgerRow, RunDirectory

MakeRun = Callable[..., RunDirectory]

ROWS = [
    LedgerRow(1, "compute", "a", "a", "*", 0, 1, 0.0, 4.0, 2.0),
    LedgerRow(1, "uplink", "a", "fog", "head", 100, 1, 4.0, 1.0, 0.5, lost=True),
    LedgerRow(1, "uplink", "a", "fog", "head", 100, 1, 5.0, 1.0, 0.5),
    LedgerRow(2, "uplink", "b", "fog", "head", 300, 1, 6.0, 2.0, 0.25),
    LedgerRow(2, "uplink", "a", "fog", "body", 50, 1, 6.0, 0.5, 0.125),
]


@pytest.fixture
def run(make_run: MakeRun) -> RunDirectory:
    made = make_run()
    ledger = Ledger(made.path)
    for number in (1, 2):
        ledger.book(row for row in ROWS if row.round == number)
        ledger.seal()
    ledger.merge()
    return made


@pytest.mark.parametrize("batch_rows", [1, 2, 3, 100])
def test_sums_do_not_depend_on_batches(run: RunDirectory, batch_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spending, "BATCH_ROWS", batch_rows)
    assert by_kind(run) == {"uplink": Spent(550, 100, 4.5, 1.375), "compute": Spent(0, 0, 4.0, 2.0)}
    assert list(by_kind(run)) == ["uplink", "compute"]
    assert spent(run, "round", "source") == {
        (1, "a"): Spent(200, 100, 6.0, 3.0),
        (2, "b"): Spent(300, 0, 2.0, 0.25),
        (2, "a"): Spent(50, 0, 0.5, 0.125),
    }
    assert spent_on_links(run, ["a", "b", "fog"], most=1) == {("uplink", "b", "fog"): Spent(300, 0, 2.0, 0.25)}
    assert list(spent_on_links(run, ["a", "fog"], most=9)) == [("uplink", "a", "fog")]


def test_without_a_network_there_are_bytes_alone(make_run: MakeRun) -> None:
    made = make_run()
    ledger = Ledger(made.path)
    ledger.book([LedgerRow(1, "uplink", "a", "fog", "head", 100, 1, None, None, None)])
    ledger.seal()
    ledger.merge()
    assert by_kind(made) == {"uplink": Spent(100, 0, None, None)}


def test_a_ledger_of_an_older_run_has_lost_nothing(run: RunDirectory) -> None:
    path = run.path / "ledger.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["lost"]), path)
    assert by_kind(run)["uplink"] == Spent(550, 0, 4.5, 1.375)


def test_no_ledger_is_nothing_and_a_damaged_one_bad_input(make_run: MakeRun) -> None:
    made = make_run()
    assert spent(made, "kind") == {}
    (made.path / "ledger.parquet").write_bytes(b"PAR1 is not enough")
    with pytest.raises(InputError, match=r"ledger\.parquet: damaged"):
        by_kind(made)
