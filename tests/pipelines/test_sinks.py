"""Numbers of a run as the tools read them that they were written for: every round once, whatever happened meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

import fogtune
from fogtune.pipelines import rounds, sinks
from fogtune.pipelines.cli import app
from fogtune.platform.config import Config
from fogtune.platform.errors import ProcessLost
from fogtune.platform.federation.local_runner import LocalRunner, RoundResult
from fogtune.platform.run import RoundRecord, RunDirectory

MakeConfig = Callable[..., Config]
TENSORBOARD = "output.sinks=[tensorboard]"


def drawn(run: RunDirectory) -> EventAccumulator:
    found = EventAccumulator(str(run.path / "tensorboard"))
    found.Reload()
    return found


def scalars(found: EventAccumulator, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in found.Scalars(name)]


def assert_same_as_the_rounds(run: RunDirectory) -> None:
    found, records = drawn(run), run.records()
    assert {*found.Tags()["scalars"]} == {name for record in records for name in sinks.numbers(record)}
    for name in found.Tags()["scalars"]:
        told = [(one.round, sinks.numbers(one)[name]) for one in records if name in sinks.numbers(one)]
        steps, values = zip(*told, strict=True)
        assert [step for step, _ in scalars(found, name)] == [*steps]
        assert [value for _, value in scalars(found, name)] == pytest.approx([*values], rel=1e-5)


def test_numbers_are_those_that_there_are(record: Callable[..., RoundRecord]) -> None:
    found = sinks.numbers(record(2))
    assert found["bytes/uplink"] == 1_000_000
    assert found["loss/topic"] == 0.5
    assert found["accuracy/topic"] == 0.5
    assert found["participants"] == 4
    assert found["updates_lost"] == 1
    assert found["virtual_time_s"] == 20
    assert "energy_j" not in found


def test_tensorboard_has_every_round_once_after_restarts_and_resuming(
    watches: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounds 1 and 2 are written, and made again after a restart; then the run is stopped after round 3."""
    breaks = [3]

    class Runner(LocalRunner):
        def round(self, number: int) -> RoundResult:
            if breaks[:1] == [number]:
                raise ProcessLost(breaks.pop(), "coordinator died")
            return super().round(number)

    def on_event(record: RoundRecord) -> None:
        if record.round == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(rounds, "LocalRunner", Runner)
    config = watches("rounds=4", "network={}", "output.checkpoint_every=4", TENSORBOARD, f"output.directory={tmp_path}")
    stopped = fogtune.run(config, on_event=on_event)
    assert (stopped.status, breaks) == ("stopped", [])
    assert_same_as_the_rounds(stopped.directory)
    resumed = fogtune.resume(stopped.directory.path).directory
    assert len(resumed.records()) == 4
    assert_same_as_the_rounds(resumed)
    assert "configuration/text_summary" in drawn(resumed).Tags()["tensors"]


def test_a_missing_package_is_bad_input_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sinks, "find_spec", lambda name: None)
    arguments = ["run", "smoke", "--local", "--set", TENSORBOARD, "--set", f"output.directory={tmp_path / 'runs'}"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert result.stderr == (
        "error: output.sinks: 'tensorboard' needs a package that is not installed; pip install 'fogtune[tensorboard]'\n"
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("where", ["open", "round", "close"])
def test_one_that_fails_is_left_out_and_logged_once(
    watches: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    asked: list[str] = []

    class Failing:
        def __init__(self, *_: Any) -> None:
            self._at("open")

        def round(self, number: int, values: Mapping[str, float]) -> None:
            self._at("round")

        def close(self, status: str) -> None:
            self._at("close")

        def _at(self, now: str) -> None:
            asked.append(now)
            if now == where:
                raise OSError("No space left\non device")

    monkeypatch.setattr(sinks, "_OPEN", {"tensorboard": Failing})
    done = fogtune.run(watches("rounds=2", TENSORBOARD, f"output.directory={tmp_path}"))
    assert done.status == "completed"
    expected = {"open": ["open"], "round": ["open", "round"], "close": ["open", "round", "round", "close"]}
    assert asked == expected[where]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    told = "output.sinks: tensorboard is left out from here on: OSError: No space left on device"
    assert warnings == [told]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's own, in its use of SQLAlchemy
def test_mlflow_has_every_round_once_after_resuming(
    watches: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")

    def on_event(record: RoundRecord) -> None:
        if record.round == 3:
            raise KeyboardInterrupt

    changes = (
        "rounds=4",
        "output.checkpoint_every=2",
        "output.sinks=[mlflow]",
        f"output.directory={tmp_path / 'runs'}",
    )
    stopped = fogtune.run(watches(*changes), on_event=on_event).directory
    client = mlflow.MlflowClient()
    (experiment,) = client.search_experiments(filter_string="name = 'fogtune'")
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == (stopped.id, "KILLED")
    assert found.data.params["sources.watch.kind"] == "embedded"
    assert found.data.params["devices.0.count"] == "5"
    resumed = fogtune.resume(stopped.path).directory
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    records = resumed.records()
    for name in ("loss/exercise", "bytes/uplink", "accuracy/exercise", "participants"):
        history = [(one.step, one.value) for one in client.get_metric_history(found.info.run_id, name)]
        assert history == [(one.round, sinks.numbers(one)[name]) for one in records]
