"""Which checkpoints of earlier rounds are kept, and a run that goes back to one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import fogtune
from fogtune.platform.config import Config, Output
from fogtune.platform.config.check import check
from fogtune.platform.errors import InputError
from fogtune.platform.run import RoundRecord, RunDirectory
from fogtune.platform.run.retention import Retention

MakeConfig = Callable[..., Config]


def checkpoints(run: RunDirectory) -> list[int]:
    names = os.listdir(run.path / "checkpoints")
    return sorted(int(name.removeprefix("round-")) for name in names if name != "ledger")


def test_the_best_round_has_the_best_mean_over_tasks_and_was_evaluated(record: Callable[..., RoundRecord]) -> None:
    """vqa is worth half of topic in every round of `record`; the first of two that are as good stays."""
    retention = Retention(Output(keep_best=True), [record(1), record(3), record(2)])
    assert [number for number in range(1, 9) if retention.keeps(number)] == [3]
    retention.note(record(1))
    retention.note(record(4))
    retention.note(record(4, rounds=9))
    assert [number for number in range(1, 9) if retention.keeps(number)] == [4]
    assert not any(Retention(Output(), [record(3)]).keeps(number) for number in range(9))


def test_the_best_stays_also_when_the_run_is_resumed(bare: MakeConfig, tmp_path: Path) -> None:
    def stop(record: RoundRecord) -> None:
        if record.round == 2:
            raise KeyboardInterrupt

    changes = ("output.keep_checkpoints=1", "output.keep_best=true", "local.learning_rate=0.1")
    config = bare("rounds=3", *changes, f"output.directory={tmp_path}")
    run = fogtune.resume(fogtune.run(config, on_event=stop).directory.path).directory

    def score(record: RoundRecord) -> float:
        return record.tasks["side"]["accuracy"] + record.tasks["exercise"]["accuracy"]

    best = max(run.records(), key=score).round
    assert checkpoints(run) == [best, 3]
    assert best < 3  # else this shows nothing; it is so for this seed


def test_a_complete_run_goes_back_and_comes_to_the_same_bits(
    watches: MakeConfig, tmp_path: Path, left: Callable[[RunDirectory], object]
) -> None:
    config = watches("rounds=5", "federation.cadence={fog: 2}", "output.keep_every=2", f"output.directory={tmp_path}")
    run = fogtune.run(config).directory
    before = left(run)
    with pytest.raises(InputError, match="--from: 3 given; allowed: 2, 4, 5"):
        fogtune.resume(run.path, from_round=3)
    assert left(run) == before

    def stop(record: RoundRecord) -> None:
        assert record.round == 3
        raise KeyboardInterrupt

    stopped = fogtune.resume(run.path, from_round=2, on_event=stop).directory
    assert [record.round for record in stopped.records()] == [1, 2, 3]
    assert checkpoints(stopped) == [2, 3]
    assert fogtune.resume(run.path).status == "completed"
    assert left(run) == before


def test_what_is_kept_for_good_is_written(tiny: MakeConfig) -> None:
    with pytest.raises(InputError, match=r"^output.keep_every: 3 given; allowed: multiples of "):
        check(tiny("output.checkpoint_every=2", "output.keep_every=3"))
