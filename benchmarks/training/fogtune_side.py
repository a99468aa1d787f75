"""FogTune: the rounds of a run, without what a run writes on disk, as no other side writes anything.

python fogtune_side.py WORK FOLDER SIDE ROUNDS
"""

from __future__ import annotations

import sys
from pathlib import Path

from exchange import Stopwatch

CHANGES = {
    "fogtune": {},
    "fogtune-local": {"runner": "local"},
    "fogtune-bf16": {"precision": "bf16"},
}
"""Side -> fields of `execution`."""


def main(name: str, folder: Path, side: str, rounds: int) -> None:
    """Train, measure and report."""
    watch = Stopwatch()
    from works import LABEL, WORKS

    from fogtune.actors.ray_runner import RayRunner
    from fogtune.platform.federation.local_runner import LocalRunner
    from fogtune.platform.topology import CLOUD

    work = WORKS[name]
    execution = {"prefix_disk_bytes": 0, **CHANGES[side]}  # no turn finds what the one before has computed
    config = work.configure(str(folder / "data"), rounds=rounds, execution=execution)
    runner = LocalRunner(config) if config.execution.runner == "local" else RayRunner(config, "bench")
    try:
        lost = 0
        watch.begin()
        for number in range(1, rounds + 1):
            record = runner.round(number).record
            lost += record.updates_lost
            if number < rounds:  # the last one also evaluates, which the other sides do after it
                watch.round_ended()
        final = runner.snapshot().nodes[CLOUD].versions
        accuracy = record.tasks[LABEL]["accuracy"]
    finally:
        runner.close()
    from prepare import peers_names

    named = peers_names(final) if work.is_shared else {}
    watch.report(folder, side, accuracy, named, updates_lost=lost)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
