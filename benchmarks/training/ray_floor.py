"""Ray's floor under clients that return what they got: one put, a pre-sum in each of two actors, the sum of both.

    python ray_floor.py FOLDER ROUNDS

Less cannot be done with Ray by anybody who adds up float32 updates on two processors: a client is one addition.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import numpy as np
import ray
from exchange import Arrays, Shared, Stopwatch

ACTORS = 2


@ray.remote
class Host:
    """Half of the clients."""

    def round(self, arrays: Arrays, clients: int) -> Arrays:
        """The sum of what so many clients return."""
        total = {name: np.zeros_like(array) for name, array in arrays.items()}
        for _ in range(clients):
            for name, array in arrays.items():
                total[name] += array
        return total


def main(folder: Path, rounds: int) -> None:
    """Run the rounds, measure and report."""
    watch = Stopwatch()
    shared = Shared(folder)
    state = shared.initial
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    ray.init(address="local", log_to_driver=False, logging_level=logging.ERROR)
    hosts = [Host.remote() for _ in range(ACTORS)]
    watch.begin()
    for number in range(1, rounds + 1):
        clients = len(shared.orders.clients(number))
        shares = [clients * (i + 1) // ACTORS - clients * i // ACTORS for i in range(ACTORS)]
        given = ray.put(state)
        sums = ray.get([host.round.remote(given, count) for host, count in zip(hosts, shares, strict=True)])
        state = {name: sum(part[name] for part in sums) / clients for name in state}
        watch.round_ended()
    watch.report(folder, "floor", float("nan"), state)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
