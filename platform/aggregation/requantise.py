"""Sums on their way up and versions on their way down, made smaller: where devices quantise a module, nodes do too.

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


def announced(
    version: Tensors, known: Tensors, transforms: Sequence[Compression], seed: int, *where: str | int
) -> Tensors:
    """What children get of a new version: its change since the version that they have, rounded at random.

    The node goes on from what its children got, so what rounding left out is not owed to anybody.

    Args:
        version: the new one.
        known: the one that children have.
        transforms: of the module; without any for sums, all of it arrives.
        seed: of the run.
        *where: round, node and module; with the seed they key the rounding.
    """
    if not of_sums(transforms):
        return version
    return _as_a_change(version, known, transforms, key(seed, "announced", *where))


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
    if not of_sums(transforms):
        return total
    arrived = _as_a_change(total.mean(), known, transforms, key(seed, "requantised", *where))
    return ModuleSum.of(arrived, total.weight, total.contributors)


def _as_a_change(value: Tensors, known: Tensors, transforms: Sequence[Compression], seed: int) -> Tensors:
    """What arrives of a value that is sent as its quantised change since one that the receiver knows."""
    transforms = of_sums(transforms)
    change = {name: tensor - known[name] for name, tensor in value.items()}
    message = compress(change, known, {}, transforms, torch.Generator().manual_seed(seed)).message or {}
    return {name: known[name] + tensor for name, tensor in decompress(message, transforms).items()}
