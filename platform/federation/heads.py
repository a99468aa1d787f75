"""What a cluster head sends: the sum of its cluster's updates, or, where their module is compressed, its mean change.

An exact sum takes eight bytes a value, twice as many as a version. Where devices quantise what they send, their head
does the same with the mean of what it got, and sends the samples behind it along: again an unbiased update.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from fogtune.platform.aggregation import HeldUpdates, ModuleSum, Tensors, Update, compress, decompress
from fogtune.platform.config import Compression, Quantise
from fogtune.platform.ownership import Ownership
from fogtune.platform.rng import key


def heads_transforms(transforms: Sequence[Compression]) -> tuple[Compression, ...]:
    """Of a module's transforms those that a head applies: a head changes too often to remember what it left out."""
    return tuple(transform for transform in transforms if isinstance(transform, Quantise))


def head_update(
    total: Update, versions: Mapping[str, Tensors], ownership: Ownership, seed: int, round_number: int, head: str
) -> Update:
    """What a head sends upward.

    Args:
        total: the sum of what its cluster and itself have.
        versions: module -> the version that they started from, and that its receiver has.
        ownership: of the federation.
        seed: of the run.
        round_number: keys the rounding, as `head` does.
        head: id of the head.
    """
    modules: dict[str, ModuleSum | HeldUpdates] = {}
    for module, summed in total.modules.items():
        transforms = heads_transforms(ownership.compression(module))
        if not transforms or isinstance(summed, HeldUpdates) or summed.contributors == 1:
            modules[module] = summed
            continue
        start = versions[module]
        change = {name: tensor - start[name] for name, tensor in summed.mean().items()}
        generator = torch.Generator().manual_seed(key(seed, "head", round_number, head, module))
        message = compress(change, start, {}, transforms, generator).message or {}
        mean = {name: start[name] + tensor for name, tensor in decompress(message, transforms).items()}
        modules[module] = ModuleSum.of(mean, summed.weight, summed.contributors)
    return Update(modules, total.metrics)
