"""Checkpoints every few rounds: what a run leaves on its way and at its end, and where it is resumed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import fogtune
from fogtune.platform.config import Config
from fogtune.platform.federation.local_runner import LocalRunner
from fogtune.platform.federation.snapshot import Snapshot
from fogtune.platform.run import RoundRecord, RunDirectory

MakeConfig = Callable[..., Config]


@pytest.fixture
def make(watches: MakeConfig, tmp_path: Path) -> MakeConfig:
    """The watches with personal heads: five rounds, a checkpoint after 2, 4 and 5."""
    return lambda *overrides: watches(
        f"output.directory={tmp_path / 'runs'}",
        "rounds=5",
        "evaluation.personal=false",
        "evaluation.every=5",
        "output.checkpoint_every=2",
        "output.publish_every=5",
        "output.keep_checkpoints=9",
        "federation.cadence.fog=2",
        'federation.modules=[{"match": "head/*", "scope": "device"}]',
        *overrides,
    )


def ledger(run: RunDirectory) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(run.path / "ledger.parquet").to_pylist()
    return rows


def checkpoints(run: RunDirectory) -> list[str]:
    return sorted(name for name in os.listdir(run.path / "checkpoints") if name != "ledger")


def stop_after(round_number: int) -> Callable[[RoundRecord], None]:
    def on_event(record: RoundRecord) -> None:
        if record.round == round_number:
            raise KeyboardInterrupt

    return on_event


def test_all_rounds_are_there_and_state_is_asked_for_only_where_it_is_written(
    make: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    snapshot = LocalRunner.snapshot

    def counted(runner: LocalRunner) -> Snapshot:
        asked.append(runner)
        return snapshot(runner)

    monkeypatch.setattr(LocalRunner, "snapshot", counted)
    done = fogtune.run(make("output.publish_every=4")).directory
    assert checkpoints(done) == ["round-000002", "round-000004", "round-000005"]
    assert sorted(os.listdir(done.path / "modules")) == ["v4", "v5"]
    assert len(asked) == 3
    assert [record.round for record in done.records()] == [1, 2, 3, 4, 5]
    assert {row["round"] for row in ledger(done)} == {1, 2, 3, 4, 5}
    assert done.info.summary.rounds == 5


@pytest.mark.parametrize(("last", "first"), [(1, 1), (2, 3), (3, 3)])
def test_a_stopped_run_goes_on_after_its_newest_checkpoint_to_the_same_bits(
    make: MakeConfig, left: Callable[[RunDirectory], object], last: int, first: int
) -> None:
    whole = fogtune.run(make("output.checkpoint_every=1")).directory
    stopped = fogtune.run(make(), on_event=stop_after(last)).directory
    assert (stopped.info.status, stopped.info.summary.rounds) == ("stopped", last)
    assert [record.round for record in stopped.records()] == list(range(1, last + 1))
    assert sorted({row["round"] for row in ledger(stopped)}) == list(range(1, last + 1))
    stages: list[str] = []
    resumed = fogtune.resume(stopped.path, on_stage=stages.append)
    assert resumed.status == "completed"
    assert f"run {stopped.id}, from round {first}" in stages
    assert left(resumed.directory) == left(whole)
