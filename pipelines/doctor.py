"""`fogtune doctor`: does this machine have what a run needs, and if not, what to do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from platform import platform, python_version
from typing import get_args

from fogtune.platform.errors import AssetMissing
from fogtune.platform.user_cache import user_cache

from . import doctor_ray, readable
from .checking import Check, free_memory_bytes

MEMORY_BYTES = 4_000_000_000
"""Free memory below which the default run, with its Ray processes, may not fit."""
DISK_BYTES = 2_000_000_000
"""Free disk below which checkpoints and Ray's spilled objects may not fit."""


def checks(address: str | None = None) -> Iterator[Check]:
    """All checks, one after the other; the last ones take seconds.

    Args:
        address: of a cluster, which is then looked at in place of whether Ray could be started here.
    """
    yield python()
    yield packages()
    yield cores()
    yield memory()
    yield disk()
    yield cache()
    yield doctor_ray.open_files()
    yield doctor_ray.shared_memory()
    yield from assets()
    if address is None:
        yield doctor_ray.ports()
        yield doctor_ray.start()
    else:
        yield from doctor_ray.cluster(address)


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
    free = free_memory_bytes()
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
