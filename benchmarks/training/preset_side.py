"""The default preset as a user runs it, with everything that a run writes.

python preset_side.py FOLDER
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import psutil


def main(folder: Path) -> None:
    """Run, measure and report."""
    began_s = psutil.Process().create_time()
    import fogtune

    run = fogtune.run(fogtune.preset("default", f"output.directory={folder}"))
    info = run.directory.info
    said = {
        "status": info.status,
        "rounds": info.summary.rounds,
        "rounds_s": info.summary.wall_s,
        "whole_s": time.time() - began_s,
        "updates_lost": info.summary.updates_lost,
        "tasks": {task: dict(metrics) for task, metrics in info.summary.tasks.items()},
    }
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
