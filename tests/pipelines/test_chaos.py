"""Chaos: processes of all kinds are killed at random moments, and the run ends with the bits of an undisturbed one.

The command runs in a process of its own: first with a Ray of its own, then, resumed, on a cluster of two machines,
which are two raylets here. Whenever it ends before the run is complete, it is resumed. A game takes minutes, so none is
played unless asked for: `make chaos` plays one of each kind, `FOGTUNE_CHAOS=8 make chaos` eight.
"""

from __future__ import annotations

import json
import os
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil  # type: ignore[import-untyped]
import pytest

import fogtune
from fogtune.platform.config import Config
from fogtune.platform.config.load import dump_config
from fogtune.platform.run import RunDirectory

COMMAND = [sys.executable, "-c", "from fogtune.pipelines.cli import main; main()"]
ROUNDS, ALONE = 20, 7
"""Rounds of the run, and those of them in which it has a Ray of its own."""
CHANGES = (
    f"rounds={ROUNDS}",
    "topology.tiers.0.count=2",
    "federation.cadence={fog: 2}",
    "network={}",
    "evaluation.every=5",
    f"execution={{runner: ray, host_retries: {ROUNDS}, restarts: {ROUNDS}}}",
)
ASYNCHRONOUS = ("federation.synchrony={fog: {kind: asynchronous, share: 0.6}}",)
GAMES = [*range(int(os.environ.get("FOGTUNE_CHAOS", "0")))]

HOST, FOG, COORDINATOR = "ray::HostActor", "ray::AggregatorActor", "ray::CoordinatorActor"
GCS, RAYLET, DRIVER = "gcs/gcs_server ", "raylet/raylet ", "driver"
"""What the command line of a process of a kind has in it."""
OF_ITS_OWN = (HOST, COORDINATOR, GCS, RAYLET)
ON_A_CLUSTER = (*[HOST] * 9, *[FOG] * 2, COORDINATOR, *[RAYLET] * 2, DRIVER)

# So that who has lost the GCS or a raylet knows it in seconds.
PATIENCE = {
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


class Kill(NamedTuple):
    """A process of a kind is killed so many seconds after the round before this one has ended, or after that."""

    round: int
    kind: str
    after_s: float
    which: float
    """Of the processes of this kind, as a share of their number."""


def schedule(draw: random.Random) -> list[Kill]:
    """At least twenty kills of all kinds; the one that ends the first part is the command's."""
    alone = [*draw.sample(OF_ITS_OWN, len(OF_ITS_OWN)), DRIVER]
    joined = draw.sample(ON_A_CLUSTER, len(ON_A_CLUSTER))
    rounds = sorted(draw.randint(2, ALONE) for _ in alone) + sorted(draw.randint(ALONE + 1, ROUNDS - 1) for _ in joined)
    return [
        Kill(number, kind, draw.uniform(0, 1.5), draw.random())
        for number, kind in zip(rounds, [*alone, *joined], strict=True)
    ]


class Machines:
    """A cluster on this machine: a head, and a worker that may be lost."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as free:
            client = free.getsockname()[1]
        self.address = f"127.0.0.1:{self._port}"
        self._folder = folder
        self._head = self._start(
            "--head", f"--port={self._port}", "--include-dashboard=false", f"--ray-client-server-port={client}"
        )
        self._worker: subprocess.Popen[bytes] | None = None

    def complete(self) -> None:
        """Wait until the head is there, and start the worker."""
        while True:
            assert self._head.poll() is None, (self._folder / "out").read_text()
            with suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1):
                break
            time.sleep(0.1)
        self._worker = self._start(f"--address={self.address}")

    def processes(self) -> list[psutil.Process]:
        """What runs on the two; not the head's own processes, which no run survives."""
        machines = [machine for machine in (self._head, self._worker) if machine is not None]
        return [child for machine in machines for child in children(machine.pid)]

    def lose(self) -> None:
        """The worker's raylet is killed, and with it goes all that it runs; another machine comes."""
        assert self._worker is not None
        for process in children(self._worker.pid):
            if is_a(RAYLET, process):
                process.kill()
        self._worker.wait(60)
        self._worker = self._start(f"--address={self.address}")

    def stop(self) -> None:
        for machine in (self._worker, self._head):
            if machine is not None:
                machine.terminate()
                machine.wait(60)

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--node-ip-address=127.0.0.1"]
        with (self._folder / "out").open("a") as out:
            return subprocess.Popen([*command, "--num-cpus=1", *arguments], stdout=out, stderr=out)


@pytest.fixture
def machines(ray_folder: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    for name, value in PATIENCE.items():
        monkeypatch.setenv(name, value)
    folder = ray_folder()
    monkeypatch.setenv("RAY_TMPDIR", str(folder))  # also of the address that `auto` stands for
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    started = Machines(folder)
    try:
        yield started
    finally:
        started.stop()


def children(pid: int) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return found


def is_a(kind: str, process: psutil.Process) -> bool:
    try:
        return kind in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def life(arguments: list[str], folder: Path, kills: list[Kill], machines: Machines | None) -> list[str]:
    """The command until it ends, while the processes of kills that fall due are killed. Returns what it printed."""
    printed = []
    out = subprocess.Popen(
        [*COMMAND, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
    )
    with out as running:
        assert running.stdout is not None
        for line in running.stdout:
            printed.append(line)
            found = re.match(r"round (\d+)/", line)
            while found and kills and kills[0].round <= int(found[1]) + 1 and running.poll() is None:
                strike(kills.pop(0), running, machines)
    return printed


def strike(kill: Kill, running: subprocess.Popen[str], machines: Machines | None) -> None:
    """Kill a process as soon as there is one of its kind, unless the command ends before."""
    time.sleep(kill.after_s)
    if kill.kind == DRIVER:
        running.kill()
        return
    if kill.kind == RAYLET and machines is not None:
        machines.lose()
        return
    while running.poll() is None:
        of_run = machines.processes() if machines is not None else children(running.pid)
        if victims := [process for process in of_run if is_a(kill.kind, process)]:
            victims[int(kill.which * len(victims))].kill()
            return
        time.sleep(0.1)


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("synchrony", [ASYNCHRONOUS, ()], ids=["asynchronous", "synchronous"])
def test_whatever_is_killed_the_run_ends_with_the_same_bits(
    tiny: Callable[..., Config],
    tmp_path: Path,
    machines: Machines,
    left: Callable[[RunDirectory], object],
    game: int,
    synchrony: tuple[str, ...],
) -> None:
    (tmp_path / "tiny.yaml").write_text(dump_config(tiny(*CHANGES, *synchrony)))
    kills = schedule(random.Random(game))
    assert len(kills) >= 20
    alone, joined = ([kill for kill in kills if (kill.round <= ALONE) is early] for early in (True, False))
    printed = life(["run", "tiny.yaml"], tmp_path, alone, None)
    (path,) = (tmp_path / "runs").iterdir()
    while alone:
        printed += life(["resume", str(path)], tmp_path, alone, None)
    lives = 0
    machines.complete()
    while json.loads((path / "run.json").read_text())["status"] != "completed":
        lives += 1
        assert lives < 10, "".join(printed)
        printed += life(["resume", str(path), "--address", machines.address], tmp_path, joined, machines)
    assert not joined, "".join(printed)
    done = RunDirectory.open(path)
    assert done.info.summary.updates_lost == 0
    whole = fogtune.run(tiny(*CHANGES, *synchrony, "execution.runner=local", f"output.directory={tmp_path / 'whole'}"))
    assert left(done) == left(whole.directory)
