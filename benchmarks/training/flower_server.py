"""Flower with its Ray simulation engine: FedAvg, one processor a client, as its guide "Run simulations" advises.

python flower_server.py FOLDER ROUNDS
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path

from exchange import Shared, Stopwatch
from flower_client import app
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from models import Rows, build, load, trained


class Given(FedAvg):
    """FedAvg whose participants are given, not drawn. Notes when rounds end, and how many updates did not arrive."""

    def __init__(self, shared: Shared, watch: Stopwatch) -> None:
        super().__init__(fraction_evaluate=0.0)
        self._shared = shared
        self._watch = watch
        self.lost = 0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """A message to each participant's node."""
        if server_round == 1:
            self._watch.begin()
        while len(nodes := sorted(grid.get_node_ids())) < self._shared.settings.clients:
            time.sleep(0.1)
        told = {"server-round": server_round, "folder": str(self._shared.folder)}
        for client in self._shared.orders.clients(server_round):
            record = RecordDict({"arrays": arrays, "config": ConfigRecord({**told, "client": client})})
            yield Message(content=record, message_type="train", dst_node_id=nodes[client])

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The mean, as FedAvg has it."""
        replies = list(replies)
        arrived = sum(not reply.has_error() for reply in replies)
        self.lost += len(self._shared.orders.clients(server_round)) - arrived
        result = super().aggregate_train(server_round, replies)
        self._watch.round_ended()
        return result


def main(folder: Path, rounds: int) -> None:
    """Train, measure and report."""
    watch = Stopwatch()
    shared = Shared(folder)
    server = ServerApp()

    @server.main()
    def run(grid: Grid, context: Context) -> None:
        model, strategy = build(shared), Given(shared, watch)
        found = strategy.start(grid, ArrayRecord(trained(model)), num_rounds=rounds).arrays
        load(model, found.to_torch_state_dict())
        final = {name: tensor.numpy() for name, tensor in found.to_torch_state_dict().items()}
        watch.report(folder, "flower", Rows(shared).accuracy(model), final, updates_lost=strategy.lost)

    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server, app, num_supernodes=shared.settings.clients, backend_config=resources)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
