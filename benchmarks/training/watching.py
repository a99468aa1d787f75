"""A command run to its end under watch: its last line, the memory of all its processes, and bounds to both.

Memory is PSS (proportional set size): what processes share is counted once, split among them.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

LEAST_FREE_BYTES = 2e9
"""Of the machine; with less, the command is ended."""
COORDINATOR = "ray::CoordinatorActor"
"""FogTune's coordinator, as Ray names its process."""


@dataclass
class Watched:
    """What came of a command."""

    said: dict[str, Any] | None = None
    """The JSON object of its last line of output; None if it ended without."""
    problem: str = ""
    """Why there is none, in a line."""
    peak_mb: float = 0.0
    """Largest PSS of all its processes together that was seen."""
    peak_of_mb: dict[str, float] = field(default_factory=dict)
    """The same for those whose command begins so."""


def watch(
    command: Sequence[str | Path], environment: Mapping[str, str], every_s: float, limit_s: float, limit_mb: float
) -> Watched:
    """Run a command.

    Args:
        command: what to run.
        environment: changes to this process's environment.
        every_s: time between looks at its memory.
        limit_s: after so long it is ended.
        limit_mb: with more memory than this it is ended.
    """
    found, seen = Watched(), dict[int, psutil.Process]()
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        began_s = time.monotonic()
        process = subprocess.Popen(command, env=os.environ | dict(environment), stdout=output, stderr=errors)
        try:
            while not found.problem:
                try:
                    process.wait(every_s)
                    break
                except subprocess.TimeoutExpired:
                    _look(process.pid, seen, found)
                if found.peak_mb > limit_mb:
                    found.problem = f"ended at {found.peak_mb / 1e3:.1f} GB"
                elif psutil.virtual_memory().available < LEAST_FREE_BYTES:
                    found.problem = f"ended with the machine out of memory, at {found.peak_mb / 1e3:.1f} GB"
                elif time.monotonic() - began_s > limit_s:
                    found.problem = f"ended after {limit_s:g} s"
        finally:
            _end(process, seen)
        for stream in (output, errors):
            stream.seek(0)
        lines = [line for line in output.read().splitlines() if line.startswith("{")]
        if lines and not found.problem:
            found.said = json.loads(lines[-1])
        elif not found.problem:
            last = next(iter(reversed(errors.read().strip().splitlines())), "nothing said")
            found.problem = f"exit status {process.returncode}: {last[:200]}"
    return found


def _look(pid: int, seen: dict[int, psutil.Process], found: Watched) -> None:
    """Note what memory the processes below one have."""
    try:
        root = psutil.Process(pid)
        some = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    total, named = 0.0, dict[str, float]()
    for process in some:
        seen[process.pid] = process
        try:
            mb = _pss_mb(process.pid)
            name = " ".join(process.cmdline())
        except (OSError, psutil.Error):  # it has ended meanwhile
            continue
        total += mb
        if name.startswith(COORDINATOR):
            named[COORDINATOR] = mb
    found.peak_mb = max(found.peak_mb, total)
    for name, mb in named.items():
        found.peak_of_mb[name] = max(found.peak_of_mb.get(name, 0.0), mb)


def _pss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def _end(process: subprocess.Popen[bytes], seen: Mapping[int, psutil.Process]) -> None:
    """End what is left of a command: Ray's processes outlive one that is killed."""
    if process.poll() is None:
        process.kill()
        process.wait()
    for other in seen.values():
        if other.is_running():
            other.kill()
