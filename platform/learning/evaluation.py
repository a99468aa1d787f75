"""Evaluation: a task's exact metric sums over rows, with whatever modules the bench's model holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from fogtune.platform.data.table import Indices

from .batches import collate
from .workbench import Workbench


@torch.inference_mode()
def evaluate(
    bench: Workbench,
    task: str,
    modalities: Sequence[str],
    rows: Indices,
    held_experts: Sequence[int] | None = None,
) -> dict[str, int]:
    """The head's tally over these rows of the task's source.

    Rows are cut into batches of `evaluation.batch_size` in the order given; the caller keeps the cuts independent of
    the number of processes.
    """
    source = bench.config.tasks[task].source
    size = bench.config.evaluation.batch_size
    sums: dict[str, int] = {}
    for i in range(0, len(rows), size):
        batch = collate(bench.prefixes, task, source, modalities, rows[i : i + size], bench.targets[task])
        tally = bench.head_of(task).tally(bench.model(batch, held_experts).outputs, batch.targets)
        sums = add_tallies(sums, tally)
    return sums


def add_tallies(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    """Add up sums by name."""
    return {name: a.get(name, 0) + b.get(name, 0) for name in (*a, *(n for n in b if n not in a))}
