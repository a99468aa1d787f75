"""`kill -9` of the command itself: its actors end with it, and the run can be resumed, to the same bits."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

import fogtune
from fogtune.platform.config import Config
from fogtune.platform.config.load import dump_config

CHANGES = ("rounds=8", "evaluation.every=4")
COMMAND = [sys.executable, "-c", "from fogtune.pipelines.cli import main; main()"]


def modules(run: Path) -> dict[str, Any]:
    """Hashes of what a run has published last."""
    manifest = json.loads((run / "modules/v8/manifest.json").read_text())
    return {entry["file"]: entry["sha256"] for entry in manifest["modules"]}


def test_it_is_resumed_from_what_is_on_disk(
    tiny: Callable[..., Config], tmp_path: Path, alive: Callable[[list[psutil.Process]], list[str]]
) -> None:
    (tmp_path / "tiny.yaml").write_text(dump_config(tiny(*CHANGES)))
    command = [*COMMAND, "run", "tiny.yaml", "--set", "execution.runner=ray"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as run:
        assert run.stdout is not None
        assert any(line.startswith("round 2/8") for line in run.stdout)
        started = psutil.Process(run.pid).children(recursive=True)
        assert any("ray::HostActor" in command for command in alive(started))
        run.kill()
    deadline_s = time.monotonic() + 60
    while left := [command for command in alive(started) if "Actor" in command or "raylet" in command]:
        assert time.monotonic() < deadline_s, left
        time.sleep(0.1)

    (path,) = (tmp_path / "runs").iterdir()
    assert json.loads((path / "run.json").read_text())["status"] == "running"
    rounds = len((path / "rounds.jsonl").read_text().splitlines())
    assert 2 <= rounds < 8
    text = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(text.replace("runner: ray", "runner: local"))
    resumed = fogtune.resume(path)
    assert resumed.status == "completed"
    whole = fogtune.run(tiny(*CHANGES, f"output.directory={tmp_path / 'whole'}"))
    assert modules(resumed.directory.path) == modules(whole.directory.path)
    told = [[line.tasks for line in one.directory.records()] for one in (resumed, whole)]
    assert told[0] == told[1]
