"""Statistics of a modality: mean and mean square of each channel of its frozen prefixes, over all devices' samples.

Features of a pretrained trunk, and raw sensor channels, differ in mean and scale; an encoder learns several times
faster on standardised ones. No device has enough samples to know the statistics, so they are a module of their own,
`statistics/<modality>`: each owner measures its training part, and the mean over owners, weighted by samples, is that
of all samples together. Legend: B samples, T tokens or steps, C channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

LARGEST_RMS = 100.0
"""Root mean square of a channel beyond which devices' statistics cannot be added up: sums have a bounded range."""

_LEAST_SPREAD = 0.01  # of a channel's root mean square; below, float32 cannot tell it from rounding
_LARGEST = 8.0  # standard deviations; a channel that is nearly always silent would else shout


class Standardise(nn.Module):
    """Subtracts the mean and divides by the standard deviation; changes nothing while they are unknown (all zero)."""

    mean: Tensor
    square: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))  # (C,)
        self.register_buffer("square", torch.zeros(channels))  # (C,)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """values (B, T, C), zeros where mask (B, T) is 0 -> the same, standardised.

        Rows may have their own statistics, (B, C), some of them unknown.
        """
        if not known({"square": self.square}):
            return values
        deviation = (self.square - self.mean**2).clamp(min=0).sqrt()
        scale = torch.maximum(deviation, _LEAST_SPREAD * self.square.sqrt())
        scale = torch.where(scale > 0, scale, 1.0)
        scaled = (values - self.mean.unsqueeze(-2)).div_(scale.unsqueeze(-2)).clamp_(-_LARGEST, _LARGEST)
        scaled = scaled.mul_(mask.unsqueeze(-1))
        measured = self.square.any(-1)
        return scaled if bool(measured.all()) else torch.where(measured[:, None, None], scaled, values)


class AsTheyAre(nn.Module):
    """Stands in the place of `Standardise` for a modality without statistics."""

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        return values


def known(tensors: Mapping[str, Tensor]) -> bool:
    """Whether anybody has measured these statistics yet."""
    return bool(tensors["square"].any())


def measure(prefixes: Iterable[Tensor]) -> dict[str, Tensor]:
    """`mean` and `square` (C,) over all tokens of the prefixes (T, C), of which there must be one; on the processor."""
    count = 0
    total = squares = torch.zeros((), dtype=torch.float64)
    for prefix in prefixes:
        values = prefix.double()
        count += len(values)
        total = total + values.sum(0)
        squares = squares + (values**2).sum(0)
    return {"mean": (total / count).float().cpu(), "square": (squares / count).float().cpu()}
