"""Which versions of python, ray and fogtune the machines of a cluster have: a tiny task on each."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def versions(timeout_s: float) -> dict[str, dict[str, str] | None]:
    """Machine -> `python`, `ray`, `fogtune` -> version, `none` where it is not installed; null where it did not say.

    A version of FogTune has eight digits of its source's hash: between releases that is where checkouts differ.

    Args:
        timeout_s: how long all of them may take.
    """

    # Within a function, so that it is sent as it is: a machine without FogTune runs it too.
    def told() -> dict[str, str]:
        import hashlib
        from importlib import metadata
        from importlib.util import find_spec
        from pathlib import Path
        from platform import python_version

        found = {"python": python_version()}
        for name in ("ray", "fogtune"):
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                found[name] = "none"
        spec = find_spec("fogtune")
        if spec and spec.submodule_search_locations:
            source = hashlib.sha256()
            (root,) = map(Path, spec.submodule_search_locations)
            for folder in sorted(path for path in root.iterdir() if path.is_dir()):
                for file in sorted(folder.rglob("*.py")):
                    source.update(file.read_bytes())
            found["fogtune"] += f" ({source.hexdigest()[:8]})"
        return found

    task: Any = ray.remote(told)
    asked = {}
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[node["NodeName"]] = task.options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote()
    done, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=timeout_s)
    found: dict[str, dict[str, str] | None] = {}
    for machine, ref in asked.items():
        try:
            found[machine] = ray.get(ref) if ref in done else None
        except RayError:
            found[machine] = None
    return found
