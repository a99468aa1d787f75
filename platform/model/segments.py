"""What goes into the model and what comes out. Legend: B samples, T tokens, C channels, O outputs, E experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """Samples of one task, padded: modality -> (values (B, T, C), mask (B, T)). Missing modalities are left out."""

    task: str
    inputs: Mapping[str, tuple[Tensor, Tensor]]

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values()))[1])


@dataclass(frozen=True)
class Batch(Segment):
    """Samples to learn from."""

    targets: Tensor


@dataclass(frozen=True)
class Output:
    """What a forward pass gives."""

    outputs: Tensor
    """(B, O) of the task's head."""
    routed: Tensor
    """(E,) int64: samples that used each expert, in the fusion block where most did; empty without experts."""
    balance: Tensor
    """Load-balancing loss, the mean over the fusion blocks; 0 without experts."""
