"""Batches: rows of a source become padded tensors of one task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fogtune.platform.config import Config
from fogtune.platform.model.device import moved
from fogtune.platform.model.segments import Batch
from fogtune.platform.rng import numpy_generator

from .prefixes import PrefixCache

_SORTED_BATCHES = 8


def collate(
    cache: PrefixCache, task: str, source: str, modalities: Sequence[str], rows: NDArray[np.int64], targets: Tensor
) -> Batch:
    """The batch of these rows; `targets` holds the targets of the whole source."""
    inputs = {m: padded(cache.get_many(source, m, rows)) for m in modalities}
    return Batch(task, inputs, moved(targets[torch.from_numpy(rows)], cache.device))


def epochs(config: Config, task: str) -> float:
    """Passes of a round over a device's samples for a task."""
    return config.tasks[task].epochs or config.local.epochs


def rows_of_round(
    rows: NDArray[np.int64], epochs: float, round_number: int, seed: int, *key: str | int
) -> NDArray[np.int64]:
    """The rows of a round, 1-based: its window on an endless row of passes, each in a random order of its own.

    Rounds lie end to end, so with half an epoch a round every row comes once in two rounds. A function of the arguments
    alone.
    """
    n = len(rows)
    if n == 0:
        return rows
    first, last = window(n, epochs, round_number)
    passes = range(first // n, -(-last // n))
    stream = [numpy_generator(seed, "pass", *key, number).permutation(rows) for number in passes]
    return np.concatenate([rows[:0], *stream])[first - passes.start * n :][: last - first]


def by_length(rows: NDArray[np.int64], lengths: NDArray[np.int64], batch_size: int) -> NDArray[np.int64]:
    """The rows in an order in which those of a batch are of about one length, and meet others in another pass.

    They are sorted among so many as make eight batches, the longest first; `lengths` are theirs, in the same order.
    """
    size = _SORTED_BATCHES * batch_size
    starts = range(0, len(rows), size)
    orders = [start + np.argsort(-lengths[start : start + size], kind="stable") for start in starts]
    return rows[np.concatenate(orders)] if orders else rows


def window(samples: int, epochs: float, round_number: int) -> tuple[int, int]:
    """Where a round begins and ends on the endless row of passes over `samples`."""
    return round((round_number - 1) * epochs * samples), round(round_number * epochs * samples)


def mixed_batches(
    parts: Mapping[str, NDArray[np.int64]], batch_size: int, seed: int, *key: str | int
) -> list[tuple[str, NDArray[np.int64]]]:
    """The rows of each task cut into batches, the tasks' batches mixed.

    Returns:
        (task, rows) a step; the last batch of a task may be smaller. A function of the arguments alone.
    """
    steps = [(task, rows[i : i + batch_size]) for task, rows in parts.items() for i in range(0, len(rows), batch_size)]
    return [steps[i] for i in numpy_generator(seed, "batches", *key).permutation(len(steps))]


def padded(prefixes: list[Tensor]) -> tuple[Tensor, Tensor]:
    """[(T_i, C)] -> values (B, max T, C) with zeros behind, mask (B, max T) int64."""
    lengths, device = [prefix.shape[0] for prefix in prefixes], prefixes[0].device
    longest = max(lengths)
    if min(lengths) == longest:
        return torch.stack(prefixes), torch.ones(len(prefixes), longest, dtype=torch.int64, device=device)
    mask = moved((torch.arange(longest) < torch.tensor(lengths)[:, None]).to(torch.int64), device)
    return torch.nn.utils.rnn.pad_sequence(prefixes, batch_first=True), mask
