"""pfl-research, as its guides advise: data in memory, a process a core.

    python pfl_side.py FOLDER ROUNDS PROCESSES

Processes find each other as in its guide "Fast distributed simulations": PFL_WORKER_ADDRESSES and PFL_WORKER_RANK.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

PORT = 8800


def main(folder: Path, rounds: int, side: str) -> None:
    """Train; the first process measures and reports."""
    from exchange import Shared, Stopwatch

    watch = Stopwatch()
    import torch
    from models import Rows, arrays, build, new_optimizer, trained
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.aggregate.weighting import WeightByDatapoints
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.pytorch import PyTorchTensorDataset
    from pfl.data.sampling import MinimizeReuseUserSampler
    from pfl.hyperparam.base import NNTrainHyperParams
    from pfl.metrics import Metrics
    from pfl.model.pytorch import PyTorchModel
    from torch.nn import functional as F

    shared = Shared(folder)
    settings, orders, rows = shared.settings, shared.orders, Rows(shared)

    class Batches(PyTorchTensorDataset):
        """A client's rows of a round, in FogTune's batches."""

        def __init__(self, user: tuple[int, int]) -> None:
            self._parts = rows.batches(*user)
            super().__init__(tuple(torch.cat(some) for some in zip(*self._parts, strict=True)), user_id=str(user))

        def iter(self, batch_size: int | None) -> Any:
            """The batches, whatever their size."""
            return iter(self._parts)

    class Watched(TrainingProcessCallback):
        """Notes when a round has ended."""

        def after_central_iteration(self, aggregate_metrics: Any, model: Any, *, central_iteration: int) -> Any:
            watch.round_ended()
            return False, Metrics()

    module = build(shared)
    module.loss = lambda x, y: F.cross_entropy(module(x), y)
    module.metrics = lambda x, y: {}
    model = PyTorchModel(
        module,
        local_optimizer_create=lambda parameters, lr: new_optimizer(settings, parameters),
        central_optimizer=torch.optim.SGD(module.parameters(), lr=1.0),
    )
    users = [(number, client) for number in range(1, rounds + 1) for client in orders.clients(number)]
    # Without weights to sort users by: all shards are of about one size, and the sorting takes a process more.
    data = partial(FederatedDataset, Batches, MinimizeReuseUserSampler(users))
    algorithm, backend = FederatedAveraging(), SimulatedBackend(data(), data(), postprocessors=[WeightByDatapoints()])
    watch.begin()
    algorithm.run(
        NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=rounds + 1,
            train_cohort_size=len(orders.clients(1)),
            val_cohort_size=0,
        ),
        backend,
        model,
        NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=settings.learning_rate, local_batch_size=settings.batch_size
        ),
        callbacks=[Watched()],
        send_metrics_to_platform=False,
    )
    if os.environ.get("PFL_WORKER_RANK", "0") == "0":
        watch.report(folder, side, rows.accuracy(module), arrays(trained(module)))


if __name__ == "__main__":
    where, count, processes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    if processes > 1 and "PFL_WORKER_RANK" not in os.environ:
        addresses = ",".join(f"localhost:{PORT + rank}" for rank in range(processes))
        os.environ |= {"PFL_WORKER_ADDRESSES": addresses, "PFL_WORKER_RANK": "0", "OMP_NUM_THREADS": "1"}
        others = [
            subprocess.Popen([sys.executable, *sys.argv], env=os.environ | {"PFL_WORKER_RANK": str(rank)})
            for rank in range(1, processes)
        ]
        main(where, count, f"pfl-{processes}")
        for other in others:
            other.wait()
    else:
        main(where, count, f"pfl-{processes}")
