"""Memory of all of a federation's processes does not grow with the number of devices that train in a round."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
from datasets import Dataset

from fogtune.actors.ray_runner import RayRunner
from fogtune.platform.config import Config

DEVICES, WIDTH = 96, 1000
UPDATE_MB = WIDTH**2 * 4 / 1e6
"""Of a device, about; its sum takes twice as much."""


def federation(folder: Path) -> Config:
    """Devices with a million values each, four at a time together."""
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(4 * DEVICES, 16)).astype(np.float32), np.arange(4 * DEVICES) % 3
    Dataset.from_dict({"input": list(x), "label": y}).save_to_disk(str(folder / "data"))
    return Config.model_validate(
        {
            "name": "memory",
            "rounds": 5,
            "topology": {"kind": "counted", "tiers": [{"name": "fog", "count": 2}]},
            "devices": [{"name": "client", "count": DEVICES, "modalities": ["vector"], "tasks": ["label"]}],
            "sources": {
                "rows": {
                    "kind": "huggingface",
                    "path": str(folder / "data"),
                    "columns": {"vector": "input"},
                    "labels": {"label": "label"},
                    "held_out": {"fraction": 0.1},
                    "partition": {"kind": "iid"},
                }
            },
            "tasks": {"label": {"source": "rows", "inputs": ["vector"], "label": "label"}},
            "model": {
                "backbone": None,
                "width": WIDTH,
                "encoders": {"vector": {"kind": "features", "channels": 16, "hidden": [WIDTH], "standardise": False}},
                "adapter": None,
                "prompts": None,
                "interaction_rank": 0,
            },
            "local": {"optimizer": "sgd", "clip_norm": None},
            "evaluation": {"every": 5, "personal": False},
            "execution": {"fused_devices": 4},
        }
    )


def of_ray_mb() -> float:
    """PSS of the processes that this one has started, and they: what they share counts once."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        try:
            total += next(int(line.split()[1]) for line in rollup(process.pid) if line.startswith("Pss:"))
        except OSError:  # it has ended meanwhile
            continue
    return total * 1024 / 1e6


def rollup(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()


def test_updates_are_added_up_where_they_are_made(shared_ray: None, tmp_path: Path) -> None:
    runner = RayRunner(federation(tmp_path), "memory")
    try:
        runner.round(1)
        before, seen, over = of_ray_mb(), [], threading.Event()

        def look() -> None:
            while not over.wait(0.02):
                seen.append(of_ray_mb())

        watching = threading.Thread(target=look)
        watching.start()
        try:
            for number in (2, 3, 4):
                runner.round(number)
        finally:
            over.set()
            watching.join()
    finally:
        runner.close()
    assert len(seen) >= 3
    assert max(seen) - before < 0.75 * DEVICES * UPDATE_MB
