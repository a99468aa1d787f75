"""A run whose processes die goes on by itself, from its newest checkpoint, to the same bits."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import ray

import fogtune
from fogtune.pipelines import rounds
from fogtune.platform.config import Config
from fogtune.platform.errors import InputError, ProcessLost
from fogtune.platform.federation.local_runner import LocalRunner, RoundResult
from fogtune.platform.run import RoundRecord, RunDirectory

MakeConfig = Callable[..., Config]
Left = Callable[[RunDirectory], object]


@pytest.fixture
def breaks(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[int]], None]:
    """Let runs lose their processes in these rounds, one after the other; in round 0, as they start."""

    def set_up(numbers: Sequence[int]) -> None:
        left = list(numbers)

        class Runner(LocalRunner):
            def __init__(self, config: Config, *_: object) -> None:
                if left[:1] == [0]:
                    raise ProcessLost(left.pop(0), "devices/0/0 died")
                super().__init__(config)

            def round(self, number: int) -> RoundResult:
                if left[:1] == [number]:
                    raise ProcessLost(left.pop(0), "coordinator died:\nkilled")
                return super().round(number)

        monkeypatch.setattr(rounds, "LocalRunner", Runner)

    return set_up


@pytest.fixture(scope="module")
def undisturbed(watches: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run of four rounds."""
    return fogtune.run(watches("rounds=4", f"output.directory={tmp_path_factory.mktemp('runs')}")).directory


@pytest.mark.parametrize(
    ("broken", "restarts", "every"),
    [
        ([2], 1, 1),
        ([0, 1], 2, 1),  # before there is a checkpoint
        ([1, 2, 3, 4], 1, 1),  # each after a new checkpoint
        ([2, 2, 4], 2, 2),  # round 1 has none: made again
    ],
)
def test_it_goes_on_to_the_same_bits(
    watches: MakeConfig,
    breaks: Any,
    tmp_path: Path,
    undisturbed: RunDirectory,
    left: Left,
    broken: list[int],
    restarts: int,
    every: int,
) -> None:
    changes = ("rounds=4", f"output.checkpoint_every={every}", f"execution.restarts={restarts}")
    breaks(broken)
    done = fogtune.run(watches(*changes, f"output.directory={tmp_path}"))
    assert done.status == "completed"
    assert left(done.directory) == left(undisturbed)
    assert len(done.directory.info.restarts) == len(broken)
    if broken[-1]:
        line = f"round {broken[-1]}: coordinator died: killed"
        assert done.directory.info.restarts[-1] == line
        assert f"<p>Processes were started again: {line}.</p>" in (done.directory.path / "report.html").read_text()


@pytest.mark.parametrize(("broken", "every"), [([2, 2], 1), ([2, 2], 4)])
def test_without_a_new_checkpoint_it_does_not_try_for_ever(
    watches: MakeConfig, breaks: Any, tmp_path: Path, broken: list[int], every: int
) -> None:
    changes = ("rounds=4", f"output.checkpoint_every={every}", "execution.restarts=1")
    breaks(broken)
    failed = fogtune.run(watches(*changes, f"output.directory={tmp_path}"))
    assert failed.status == "failed"
    assert failed.directory.info.error == "round 2: coordinator died: killed"
    assert fogtune.resume(failed.directory.path).status == "completed"


def test_a_cluster_that_is_gone_fails_the_run(
    watches: MakeConfig, breaks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks([2])
    runner = vars(rounds)["LocalRunner"]
    starts = []

    def start(config: Config, *_: object) -> LocalRunner:
        starts.append(config)
        if len(starts) > 1:
            raise InputError("execution.address", "'head:6379' cannot be reached")
        started: LocalRunner = runner(config)
        return started

    monkeypatch.setattr(rounds, "LocalRunner", start)
    failed = fogtune.run(watches("rounds=3", f"output.directory={tmp_path}"))
    assert failed.status == "failed"
    error = failed.directory.info.error
    assert error == "round 2: nothing could be started again: execution.address: 'head:6379' cannot be reached"
    assert [record.round for record in failed.directory.records()] == [1]


@pytest.mark.usefixtures("shared_ray")
def test_killed_actors_of_all_kinds_change_no_bit(watches: MakeConfig, tmp_path: Path, left: Left) -> None:
    fog = ("topology.tiers.0.count=1", "federation.cadence={fog: 2}")
    changes = ("rounds=5", "evaluation.every=1", "execution.fused_devices=2", *fog)
    kills = {1: "coordinator", 2: "fog/0", 3: "devices/0/0", 4: "coordinator"}

    def on_event(record: RoundRecord) -> None:
        if name := kills.pop(record.round, None):
            (run_id,) = os.listdir(tmp_path / "ray")
            actor: Any = ray.get_actor(name, namespace=run_id)
            os.kill(ray.get(actor.__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)

    config = watches(*changes, f"output.directory={tmp_path / 'ray'}", "execution.runner=ray")
    done = fogtune.run(config, on_event=on_event)
    assert done.status == "completed"
    assert not kills
    why = done.directory.info.restarts
    assert [line.partition(" died")[0] for line in why] == [
        "round 2: coordinator",
        "round 3: fog/0",
        "round 5: coordinator",
    ]
    assert done.directory.info.summary.updates_lost == 0
    undisturbed = fogtune.run(watches(*changes, f"output.directory={tmp_path / 'local'}"))
    assert left(done.directory) == left(undisturbed.directory)
