"""`fogtune doctor`: does this machine have what a run needs, and if not, what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from platform import platform, python_version
from typing import Literal, get_args

from fogtune.platform.errors import AssetMissing
from fogtune.platform.user_cache import user_cache

from . import readable

MEMORY_BYTES = 4_000_000_000
"""Free memory below which the default run, with its Ray processes, may not fit."""
DISK_BYTES = 2_000_000_000
"""Free disk below which checkpoints and Ray's spilled objects may not fit."""
RAY_TIMEOUT_S = 120

_START_RAY = """
import ray
ray.init(num_cpus=1, include_dashboard=False, object_store_memory=80_000_000, log_to_driver=False)
assert ray.get(ray.remote(lambda: 7).remote(), timeout=60) == 7
ray.shutdown()
"""


@dataclass(frozen=True)
class Check:
    """One finding: `warning` may still run, `failure` will not."""

    what: str
    state: Literal["ok", "warning", "failure"]
    found: str
    remedy: str = ""


def checks() -> Iterator[Check]:
    """All checks, one after the other; the last ones take seconds."""
    yield python()
    yield packages()
    yield cores()
    yield memory()
    yield disk()
    yield cache()
    yield from assets()
    yield ray()


def python() -> Check:
    """Which Python on which system; that it is new enough, pip has seen to."""
    return Check("python", "ok", f"{python_version()} on {platform()}")


def packages() -> Check:
    """What FogTune's own metadata requires, in the versions it requires."""
    from packaging.requirements import Requirement

    problems = []
    try:
        required = [Requirement(line) for line in metadata.requires("fogtune") or ()]
    except metadata.PackageNotFoundError:
        return Check("packages", "failure", "fogtune is not installed", "pip install -e . from the repository's root")
    required = [item for item in required if item.marker is None or item.marker.evaluate({"extra": ""})]
    for item in required:
        try:
            version = metadata.version(item.name)
        except metadata.PackageNotFoundError:
            problems.append(f"{item.name} is missing")
            continue
        if not item.specifier.contains(version, prereleases=True):
            problems.append(f"{item.name} {version} is not {item.specifier}")
    if problems:
        return Check("packages", "failure", ", ".join(problems), "make setup, or pip install -e . again")
    names = ("torch", "ray", "transformers", "peft")
    return Check("packages", "ok", ", ".join(f"{name} {metadata.version(name)}" for name in names))


def cores() -> Check:
    """Processors that this process may use."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if count < 2:
        return Check("cores", "warning", str(count), "with one core, --local is as fast as Ray")
    return Check("cores", "ok", str(count))


def memory() -> Check:
    """Memory that is free here, within the limit of the container."""
    free = _free_memory_bytes()
    if free is None:
        remedy = f"make sure that {readable.size(MEMORY_BYTES)} are free"
        return Check("memory", "warning", "cannot be read here", remedy)
    if free < MEMORY_BYTES:
        remedy = f"free {readable.size(MEMORY_BYTES)}, or run with --local and fewer devices"
        return Check("memory", "warning", f"{readable.size(free)} free", remedy)
    return Check("memory", "ok", f"{readable.size(free)} free")


def disk() -> Check:
    """Disk that is free where runs are written by default."""
    free = shutil.disk_usage(Path.cwd()).free
    if free < DISK_BYTES:
        remedy = "free some, or set output.directory elsewhere"
        return Check("disk", "warning", f"{readable.size(free)} free here", remedy)
    return Check("disk", "ok", f"{readable.size(free)} free here")


def cache() -> Check:
    """What this user's runs keep for later ones; it may be deleted at any time."""
    if (root := user_cache()) is None:
        return Check("cache", "warning", "no home directory, nothing is kept for later runs", "set FOGTUNE_CACHE")
    taken = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    return Check("cache", "ok", f"{readable.size(taken)} in {root}")


def assets() -> Iterator[Check]:
    """Embedded weights and data: installed, and what they are pinned to be."""
    try:
        from fogtune.platform.config import EmbeddedSource
        from fogtune.platform.data.assets import efficientnet_weights, minilm_directory
        from fogtune.platform.data.embedded import load_embedded
    except ModuleNotFoundError as error:
        yield Check("assets", "failure", f"cannot be read: {error}", "first make the packages complete")
        return

    def rows(name: str) -> str:
        return f"{len(load_embedded(EmbeddedSource(asset=name)))} samples"  # type: ignore[arg-type]

    loads: dict[str, Callable[[], str]] = {
        "minilm": lambda: f"all-MiniLM-L6-v2 in {minilm_directory()}",
        "efficientnet": lambda: f"EfficientNet-Lite0 in {efficientnet_weights().parent}",
    }
    for name in get_args(EmbeddedSource.model_fields["asset"].annotation):
        loads[name] = lambda name=name: rows(name)  # type: ignore[misc]
    for name, load in loads.items():
        try:
            found = load()
        except AssetMissing as error:
            yield Check(name, "failure", *error.problem.split("; ", 1))
        else:
            yield Check(name, "ok", found)


def ray() -> Check:
    """Ray starts and runs a task, in a process of its own."""
    remedy = "use --local meanwhile; see the newest /tmp/ray/session_*/logs"
    try:
        # Out of the environment, so that a cluster named there is not joined.
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        command = [sys.executable, "-c", _START_RAY]
        done = subprocess.run(command, capture_output=True, text=True, timeout=RAY_TIMEOUT_S, env=environment)
    except subprocess.TimeoutExpired:
        return Check("ray", "failure", f"did not start within {RAY_TIMEOUT_S} s", remedy)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Check("ray", "failure", f"does not start: {last}", remedy)
    return Check("ray", "ok", "starts and runs a task")


def _free_memory_bytes() -> int | None:
    """The least of what the kernel says is available and what the cgroup still allows; none where neither is known."""
    free = [int(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemAvailable:")]
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        numbers = [*_lines(limit), *_lines(used)]
        if len(numbers) == 2 and all(number.isdigit() for number in numbers):
            free.append(int(numbers[0]) - int(numbers[1]))
    return min(free, default=None)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="ascii").splitlines()
    except OSError:
        return []
