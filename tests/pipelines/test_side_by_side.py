"""Two runs on one cluster: the one does not feel the other, nor its end; and nothing of them is left there."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
import ray.util

import fogtune
from fogtune.platform.config import Config
from fogtune.platform.config.load import dump_config
from fogtune.platform.run import RoundRecord, RunDirectory

COMMAND = [sys.executable, "-c", "from fogtune.pipelines.cli import main; main()"]
# Rounds long enough for the one to be killed in between.
CHANGES = (
    "rounds=5",
    "topology.tiers.0.count=1",
    "federation.cadence={fog: 2}",
    "evaluation.every=5",
    "execution.runner=ray",
    "local.epochs=60",
)

pytestmark = pytest.mark.usefixtures("shared_ray")


def test_one_is_killed_and_resumed_with_more_hosts_and_both_come_to_the_same_bits(
    watches: Callable[..., Config], tmp_path: Path, left: Callable[[RunDirectory], object]
) -> None:
    address = ray.get_runtime_context().gcs_address
    for name in ("killed", "unharmed", "whole"):
        (tmp_path / name).mkdir()
    (tmp_path / "killed/watches.yaml").write_text(dump_config(watches(*CHANGES, "execution.devices_per_actor=5")))
    killed: list[int] = []
    with subprocess.Popen(
        [*COMMAND, "run", "watches.yaml", "--address", address],
        cwd=tmp_path / "killed",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as other:
        assert other.stdout is not None

        def on_event(record: RoundRecord) -> None:
            if not killed and other.stdout is not None:
                assert any(line.startswith("round 1/5") for line in other.stdout)
                other.kill()
                killed.append(record.round)

        unharmed = fogtune.run(watches(*CHANGES, f"output.directory={tmp_path / 'unharmed'}"), on_event=on_event)
    assert unharmed.status == "completed"
    assert killed == [1]
    assert not unharmed.directory.info.restarts

    (path,) = (tmp_path / "killed/runs").iterdir()
    config = (path / "config.yaml").read_text()
    assert "devices_per_actor: 5" in config
    (path / "config.yaml").write_text(config.replace("devices_per_actor: 5", "devices_per_actor: 2"))
    resumed = fogtune.resume(path)
    assert resumed.status == "completed"
    whole = left(
        fogtune.run(watches(*CHANGES, "execution.runner=local", f"output.directory={tmp_path / 'whole'}")).directory
    )
    assert left(unharmed.directory) == whole
    assert left(resumed.directory) == whole

    ours = {path.name, unharmed.directory.id}
    deadline_s = time.monotonic() + 60
    while here := [a for a in ray.util.list_named_actors(all_namespaces=True) if a["namespace"] in ours]:
        assert time.monotonic() < deadline_s, here
        time.sleep(0.1)
