"""Ctrl-C, `kill` and `kill -9` on the real command with a Ray of its own: nothing left, resumed to the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

import fogtune
from fogtune.platform.config import Config
from fogtune.platform.config.load import dump_config
from fogtune.platform.run import RunDirectory

CHANGES = ("topology.tiers=[]", "rounds=10", "evaluation.every=5", "local.epochs=30")
"""Rounds that take long enough to be interrupted."""
COMMAND = [sys.executable, "-c", "from fogtune.pipelines.cli import main; main()"]

Alive = Callable[[list[psutil.Process]], list[str]]
Left = Callable[[RunDirectory], object]


def start(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command in a process group of its own, as a shell starts it, with an ear for Ctrl-C."""
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # where the tests run in the background
    )


def stop(running: subprocess.Popen[str], after: str, send: Callable[[int], None], alive: Alive) -> str:
    """Send a signal once a line begins with `after`; returns what was printed, when nothing runs any more."""
    assert running.stdout is not None
    for line in running.stdout:
        if line.startswith(after):
            break
    started = psutil.Process(running.pid).children(recursive=True)
    assert any("ray::HostActor" in command for command in alive(started))
    send(running.pid)
    out, err = running.communicate(timeout=120)
    assert running.returncode == 130, err
    assert err == "stopped by the user\n"
    deadline = time.monotonic() + 60
    while left := alive(started):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    return out


@pytest.fixture(scope="module")
def whole(watches: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory, left: Left) -> object:
    """What the same run leaves that nobody stops."""
    return left(fogtune.run(watches(*CHANGES, f"output.directory={tmp_path_factory.mktemp('whole')}")).directory)


def test_a_run_is_stopped_and_resumed(
    watches: Callable[..., Config], tmp_path: Path, alive: Alive, left: Left, whole: object
) -> None:
    (tmp_path / "watches.yaml").write_text(dump_config(watches(*CHANGES, "execution.devices_per_actor=5")))
    # As a terminal does: to all that the command has started.
    out = stop(
        start(tmp_path, "run", "watches.yaml", "--set", "execution.runner=ray"),
        "round 1/10",
        lambda pid: os.killpg(pid, signal.SIGINT),
        alive,
    )
    (path,) = (tmp_path / "runs").iterdir()
    assert f"go on with: fogtune resume runs/{path.name}" in out
    info = json.loads((path / "run.json").read_text())
    assert (info["status"], info["error"]) == ("stopped", None)
    rounds = len((path / "rounds.jsonl").read_text().splitlines())
    assert 1 <= rounds < 10
    assert f"round-{rounds:06d}" in os.listdir(path / "checkpoints")

    # As a service manager does: to the command alone.
    stop(start(tmp_path, "resume", f"runs/{path.name}"), "round ", lambda pid: os.kill(pid, signal.SIGTERM), alive)
    rounds = len((path / "rounds.jsonl").read_text().splitlines())
    assert json.loads((path / "run.json").read_text())["status"] == "stopped"
    assert rounds < 10

    config = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(config.replace("runner: ray", "runner: local"))
    resumed = start(tmp_path, "resume", f"runs/{path.name}")
    out, err = resumed.communicate(timeout=300)
    assert (resumed.returncode, err) == (0, "")
    assert f"from round {rounds + 1}" in out
    assert json.loads((path / "run.json").read_text())["status"] == "completed"
    assert left(RunDirectory.open(path)) == whole


def test_a_command_that_is_killed_leaves_no_actor_and_can_be_resumed(
    watches: Callable[..., Config], tmp_path: Path, alive: Alive, left: Left, whole: object
) -> None:
    (tmp_path / "watches.yaml").write_text(dump_config(watches(*CHANGES, "execution.devices_per_actor=5")))
    with start(tmp_path, "run", "watches.yaml", "--set", "execution.runner=ray") as running:
        assert running.stdout is not None
        assert any(line.startswith("round 2/10") for line in running.stdout)
        started = psutil.Process(running.pid).children(recursive=True)
        assert any("ray::HostActor" in command for command in alive(started))
        running.kill()
    deadline_s = time.monotonic() + 60
    while remaining := [command for command in alive(started) if "Actor" in command or "raylet" in command]:
        assert time.monotonic() < deadline_s, remaining
        time.sleep(0.1)

    (path,) = (tmp_path / "runs").iterdir()
    assert json.loads((path / "run.json").read_text())["status"] == "running"
    assert 2 <= len((path / "rounds.jsonl").read_text().splitlines()) < 10
    config = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(config.replace("runner: ray", "runner: local"))
    resumed = fogtune.resume(path)
    assert resumed.status == "completed"
    assert left(resumed.directory) == whole
