"""Task heads: what a kind of task predicts, its loss, and its metrics.

A new kind of task is a class here, its name in `HEADS` and in `Task.head` (platform/config/data.py). Metrics come from
exact integer sums (`tally`), so that they do not depend on how samples were spread over processes.
Legend: B samples, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from fogtune.platform.aggregation.update import fixed, unfixed
from fogtune.platform.data.labels import Head

from .rows import RowLinear


class HeadKind(Protocol):
    """A kind of task over a linear head."""

    labels: Head
    """How the label column becomes targets: as classes, sets of classes or numbers (platform/data/labels.py)."""
    metric: str
    """The metric to look at first; greater is better."""

    def outputs(self, names: tuple[str, ...]) -> int:
        """Outputs O of the head, given the label names (empty for numbers)."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(B, O) outputs and their targets -> the loss of each sample, (B,)."""

    def log_prior(self, targets: Tensor, outputs: int) -> Tensor:
        """What logits (O,) would say from these labels alone, each counted once more than seen; 0 for numbers."""

    def scores(self, outputs: Tensor) -> Tensor:
        """(B, O) as people read it: probabilities of classes or labels, or the number."""

    def tally(self, outputs: Tensor, targets: Tensor) -> dict[str, int]:
        """Exact sums over the samples; they add up over batches."""

    def metrics(self, sums: Mapping[str, int]) -> dict[str, float]:
        """Metrics of added-up sums."""


class Classification:
    """One of several classes; targets (B,) int64."""

    labels: Head = "classification"
    metric = "accuracy"

    def outputs(self, names: tuple[str, ...]) -> int:
        return len(names)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, reduction="none")

    def log_prior(self, targets: Tensor, outputs: int) -> Tensor:
        counts = torch.bincount(targets, minlength=outputs) + 1.0
        return (counts / counts.sum()).log()

    def scores(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(-1)

    def tally(self, outputs: Tensor, targets: Tensor) -> dict[str, int]:
        return {"samples": len(targets), "correct": int((outputs.argmax(-1) == targets).sum())}

    def metrics(self, sums: Mapping[str, int]) -> dict[str, float]:
        return {"accuracy": sums["correct"] / sums["samples"]}


class MultiLabel:
    """Any subset of several labels; targets (B, O) of 0 and 1."""

    labels: Head = "multilabel"
    metric = "f1"

    def outputs(self, names: tuple[str, ...]) -> int:
        return len(names)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs, targets, reduction="none").mean(-1)

    def log_prior(self, targets: Tensor, outputs: int) -> Tensor:
        said = targets.sum(0)
        return ((said + 1) / (len(targets) - said + 1)).log()

    def scores(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()

    def tally(self, outputs: Tensor, targets: Tensor) -> dict[str, int]:
        said, true = outputs > 0, targets > 0.5
        return {
            "samples": len(targets),
            "hits": int((said & true).sum()),
            "false": int((said & ~true).sum()),
            "missed": int((~said & true).sum()),
        }

    def metrics(self, sums: Mapping[str, int]) -> dict[str, float]:
        """`f1`: micro-averaged; 1 where there is nothing to find and nothing was said."""
        denominator = 2 * sums["hits"] + sums["false"] + sums["missed"]
        return {"f1": 2 * sums["hits"] / denominator if denominator else 1.0}


class Regression:
    """A number; targets (B,) float32."""

    labels: Head = "regression"
    metric = "r2"

    def outputs(self, names: tuple[str, ...]) -> int:
        return 1

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs.squeeze(-1), targets, reduction="none")

    def log_prior(self, targets: Tensor, outputs: int) -> Tensor:
        return torch.zeros(outputs)

    def scores(self, outputs: Tensor) -> Tensor:
        return outputs

    def tally(self, outputs: Tensor, targets: Tensor) -> dict[str, int]:
        # A sum over a batch in float depends on the batch; sample by sample in fixed point it does not.
        pairs = list(zip(outputs.squeeze(-1).tolist(), targets.tolist(), strict=True))
        return {
            "samples": len(pairs),
            "squared_error": sum(fixed((said - true) ** 2) for said, true in pairs),
            "sum": sum(fixed(true) for _, true in pairs),
            "squares": sum(fixed(true**2) for _, true in pairs),
        }

    def metrics(self, sums: Mapping[str, int]) -> dict[str, float]:
        """`rmse`, and `r2`: 1 - squared error / variance, 0 where the targets vary by rounding errors only."""
        n = sums["samples"]
        error, mean, square = (unfixed(sums[name]) / n for name in ("squared_error", "sum", "squares"))
        variance = square - mean**2
        return {"r2": 1 - error / variance if variance > 1e-9 * (1 + square) else 0.0, "rmse": error**0.5}


HEADS: dict[str, HeadKind] = {
    "classification": Classification(),
    "multilabel": MultiLabel(),
    "regression": Regression(),
}


def build_head(kind: str, names: tuple[str, ...], width: int) -> RowLinear:
    """The linear head of a task, (B, width) -> (B, O)."""
    return RowLinear(width, HEADS[kind].outputs(names))
