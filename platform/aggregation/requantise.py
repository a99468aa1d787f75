"""Sums made smaller on their way up: where devices quantise a module, heads and nodes quantise its mean change.

An exact sum takes eight bytes a value. Of a module with quantisation the sender of a sum sends the mean's change since
the version that its receiver knows too, rounded at random, and the samples behind it: again an unbiased update. Other
transforms need a memory, and stay with the devices.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fogtune.platform.config.compression import Compression, Quantise
from fogtune.platform.rng import key

from .compression import compress, decompress
from .sums import ModuleSum, Tensors


def of_sums(transforms: Sequence[Compression]) -> tuple[Compression, ...]:
    """Of a module's transforms those that apply to sums."""
    return tuple(transform for transform in transforms if isinstance(transform, Quantise))


def requantised(
    total: ModuleSum, known: Tensors, transforms: Sequence[Compression], seed: int, *where: str | int
) -> ModuleSum:
    """What arrives of a sum.

    Args:
        total: the sum.
        known: the version that the receiver has too.
        transforms: of the module; without any for sums, all of it arrives.
        seed: of the run.
        *where: round, node and module; with the seed they key the rounding.
    """
    transforms = of_sums(transforms)
    if not transforms:
        return total
    change = {name: tensor - known[name] for name, tensor in total.mean().items()}
    generator = torch.Generator().manual_seed(key(seed, "requantise", *where))
    message = compress(change, known, {}, transforms, generator).message or {}
    arrived = {name: known[name] + tensor for name, tensor in decompress(message, transforms).items()}
    return ModuleSum.of(arrived, total.weight, total.contributors)
