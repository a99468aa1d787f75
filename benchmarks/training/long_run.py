"""What a long run holds on to: memory, open files, objects and temporary files after 100, 300 and 1,000 rounds.

    python benchmarks/training/long_run.py --out docs/benchmarks.md

Twenty devices under two fog nodes with something to hold (cadence 2), without a backbone, on a Ray of its own, with a
checkpoint and all that a run writes in every round. Takes a few minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import ray
from datasets import Dataset
from ray.util.state import list_actors, list_objects

import fogtune
from fogtune.platform.config import Config
from fogtune.platform.run import RoundRecord

sys.path.append(str(Path(__file__).parents[1]))
from tables import write_between_marks

MARKS = (100, 300, 1000)
KINDS = {"coordinator": "ray::Coordinator", "fog actors": "ray::Aggregator", "hosts": "ray::Host"}
"""Processes by what their command lines begin with."""


def main() -> None:
    """Run once, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="Markdown file to write; by default the table is only printed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ray.init(address="local", num_cpus=2, log_to_driver=False, _temp_dir=f"{folder}/ray")
        found = watched(config(Path(folder)), Path(folder) / "runs")
        ray.shutdown()
    rows = ["| | " + " | ".join(f"round {mark:,}" for mark in MARKS) + " |", "|---|" + "---|" * len(MARKS)]
    rows += [f"| {name} | " + " | ".join(f"{found[mark][name]:,.0f}" for mark in MARKS) + " |" for name in found[100]]
    table = "\n".join(rows) + "\n"
    print(table)
    if options.out:
        write_between_marks(options.out, "benchmarks/training/long_run.py", table)


def config(folder: Path) -> Config:
    """The federation; its data is written to the folder."""
    generator = np.random.default_rng(0)
    rows = {"input": list(generator.normal(size=(400, 16)).astype(np.float32)), "label": np.arange(400) % 3}
    Dataset.from_dict(rows).save_to_disk(str(folder / "data"))
    source = {"kind": "huggingface", "path": str(folder / "data"), "columns": {"vector": "input"}}
    source |= {"labels": {"label": "label"}, "held_out": {"fraction": 0.1}, "partition": {"kind": "iid"}}
    encoder = {"kind": "features", "channels": 16, "hidden": [64], "standardise": False}
    model = {"backbone": None, "width": 64, "encoders": {"vector": encoder}}
    return Config.model_validate(
        {
            "name": "long",
            "rounds": MARKS[-1],
            "topology": {"kind": "counted", "tiers": [{"name": "fog", "count": 2}]},
            "devices": [{"name": "client", "count": 20, "modalities": ["vector"], "tasks": ["label"]}],
            "sources": {"rows": source},
            "tasks": {"label": {"source": "rows", "inputs": ["vector"], "label": "label"}},
            "model": model | {"adapter": None, "prompts": None, "interaction_rank": 0},
            "federation": {"cadence": {"fog": 2}},
            "local": {"optimizer": "sgd", "clip_norm": None},
            "evaluation": {"every": 10, "personal": False},
            "output": {"directory": str(folder / "runs"), "publish_every": 100},
        }
    )


def watched(config: Config, runs: Path) -> dict[int, dict[str, float]]:
    """Round -> what was seen then."""
    found: dict[int, dict[str, float]] = {}

    def on_event(record: RoundRecord) -> None:
        if record.round in MARKS:
            found[record.round] = seen(runs)

    done = fogtune.run(config, on_event=on_event)
    if done.status != "completed":
        raise SystemExit(done.directory.info.error)
    return found


def seen(runs: Path) -> dict[str, float]:
    """Figures by name, of the processes of this run, their Ray, and their files."""
    here, address = psutil.Process(), ray.get_runtime_context().gcs_address  # there may be other clusters
    processes = {"driver": [here]}
    children = here.children(recursive=True)
    for name, begin in KINDS.items():
        processes[name] = [child for child in children if " ".join(child.cmdline()).startswith(begin)]
    figures = {f"{name}, MB": sum(p.memory_full_info().uss for p in some) / 1e6 for name, some in processes.items()}
    for name, some in processes.items():
        figures[f"{name}, open files"] = sum(process.num_fds() for process in some)
    figures["objects in the store"] = len(list_objects(address, limit=10_000))
    figures["actors alive"] = len(list_actors(address, filters=[("state", "=", "ALIVE")]))
    (run,) = runs.iterdir()
    figures["temporary files in the run's directory"] = len(list(run.rglob("*.tmp")))
    session = (runs.parent / "ray/session_latest").resolve()
    figures["files of Ray's session"] = sum(len(names) for _, _, names in os.walk(session))
    return figures


if __name__ == "__main__":
    main()
