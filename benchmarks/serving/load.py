"""Load: wrk's clients ask without a pause, each the next request when it has its answer."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from fogtune.platform.config import Config
from fogtune.serve.samples import Samples

SCRIPT = Path(__file__).with_name("load.lua")


@dataclass(frozen=True)
class Result:
    """What one window of load showed."""

    requests: int
    seconds: float
    failed: int
    """Answers other than 2xx, and connections that broke."""
    p50_ms: float
    p99_ms: float

    @property
    def per_s(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def write_samples(config: Config, path: Path) -> None:
    """A line a sample: held-out samples of all tasks."""
    samples = Samples(config)
    lines = [f"{task} {json.dumps({'inputs': [s.inputs]})}" for task in config.tasks for s in samples.of(task)]
    path.write_text("\n".join(lines) + "\n")


def load(url: str, samples: Path, seconds: int, variants: int = 0, task: str = "all", clients: int = 32) -> Result:
    """Ask for some seconds; `variants` 0 is the global one alone."""
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is missing: apt-get install wrk")
    clock = ["-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "30s"]
    command = ["wrk", *clock, "-s", str(SCRIPT), url, "--", str(samples), str(variants), task]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in said.splitlines() if line.startswith("RESULT ")]
    return Result(**json.loads(line.removeprefix("RESULT ")))
