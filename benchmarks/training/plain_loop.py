"""The plain loop: what one writes without any framework, in one process or in several that add up what they have.

python plain_loop.py FOLDER ROUNDS PROCESSES
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from exchange import Shared, Stopwatch
from models import Rows, arrays, build, load, train, trained


def main(folder: Path, rounds: int, processes: int, rank: int) -> None:
    """Train; the first process measures and reports."""
    watch = Stopwatch()
    if processes > 1:
        torch.set_num_threads(1)
        store = f"file://{folder.resolve()}/plain.store"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=processes)
    shared = Shared(folder)
    model, rows, orders = build(shared), Rows(shared), shared.orders
    parameters = trained(model)
    state = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    watch.begin()
    for number in range(1, rounds + 1):
        total = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
        samples = {client: orders.samples(number, client) for client in orders.clients(number)}
        for client in share(samples, processes)[rank]:
            load(model, state)
            train(shared.settings, model, rows.batches(number, client))
            for name, parameter in parameters.items():
                total[name].add_(parameter.detach(), alpha=samples[client])
        if processes > 1:
            flat = torch.cat([tensor.view(-1) for tensor in total.values()])
            dist.all_reduce(flat)
            parts = flat.split([tensor.numel() for tensor in total.values()])
            total = {name: part.view_as(total[name]) for name, part in zip(total, parts, strict=True)}
        weight = sum(samples.values())
        state = {name: tensor / weight for name, tensor in total.items()}
        watch.round_ended()
    load(model, state)
    if rank == 0:
        watch.report(folder, f"plain-{processes}", rows.accuracy(model), arrays(state))


def share(samples: dict[int, int], processes: int) -> list[list[int]]:
    """The clients of each process: the heaviest first, each to who has least to do."""
    loads = [0] * processes
    result: list[list[int]] = [[] for _ in loads]
    for client in sorted(samples, key=lambda client: -samples[client]):
        least = loads.index(min(loads))
        result[least].append(client)
        loads[least] += samples[client]
    return result


if __name__ == "__main__":
    where, count, number_of = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    if len(sys.argv) > 4:
        main(where, count, number_of, int(sys.argv[4]))
    else:
        (where / "plain.store").unlink(missing_ok=True)
        os.environ |= {"OMP_NUM_THREADS": "1"} if number_of > 1 else {}
        others = [subprocess.Popen([sys.executable, *sys.argv, str(rank)]) for rank in range(1, number_of)]
        main(where, count, number_of, 0)
        for other in others:
            other.wait()
