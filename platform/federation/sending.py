"""What a device sends of what it has trained: contributions to sums, made smaller where that is configured."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch

from fogtune.platform.aggregation import HeldUpdates, ModuleSum, Tensors, UpdateRejected, compress, decompress
from fogtune.platform.aggregation.staleness import Missed
from fogtune.platform.config import Config, Median, TrimmedMean
from fogtune.platform.learning.local import Trained
from fogtune.platform.ownership import Ownership
from fogtune.platform.rng import key


class Sending(NamedTuple):
    """A device's part of the round's sums."""

    sums: dict[str, ModuleSum | HeldUpdates]
    """Module -> what its receiver adds up: what arrives, with the loss of compression."""
    skipped: frozenset[str]
    """Modules that have changed too little to be sent; their change waits in the residuals."""
    residuals: Mapping[str, Tensors]
    """Module -> what compression has left out so far."""


def prepare(
    config: Config,
    ownership: Ownership,
    device: str,
    round_number: int,
    trained: Trained,
    modules: Collection[str],
    start: Mapping[str, Tensors],
    upward: Collection[str],
    residuals: Mapping[str, Tensors],
    missed: Missed,
) -> Sending:
    """What a device sends.

    Args:
        config: the run's configuration.
        ownership: of the federation.
        device: id of the device.
        round_number: keys the rounding of quantised values, as `device` does.
        trained: what it has learned.
        modules: those of its modules that are to be looked at.
        start: module -> the version that it started from.
        upward: modules that it is to send.
        residuals: module -> what compression has left out before.
        missed: what has become newer since it began.

    Raises:
        UpdateRejected: a module cannot be used, sent or not.
    """
    robust = isinstance(config.federation.rule, Median | TrimmedMean)
    sums: dict[str, ModuleSum | HeldUpdates] = {}
    left, skipped = dict(residuals), set()
    for module in modules:
        tensors = trained.modules[module]
        transforms = ownership.compression(module) if module in upward else ()
        try:
            if transforms:
                change = {name: tensor - start[module][name] for name, tensor in tensors.items()}
                generator = torch.Generator().manual_seed(key(config.seed, "compress", round_number, device, module))
                packed = compress(change, start[module], dict(residuals.get(module, {})), transforms, generator)
                left[module] = packed.residual
                if packed.message is None:
                    skipped.add(module)
                    continue
                sent = decompress(packed.message, transforms)
                tensors = {name: start[module][name] + sent[name] for name in tensors}
            if module in missed.behind:
                tensors = missed.catch_up(module, tensors, start[module])
            samples = trained.samples[module]
            found = HeldUpdates.of(device, tensors, samples) if robust else ModuleSum.of(tensors, samples)
        except UpdateRejected as error:
            raise UpdateRejected(error.reason, f"{module}/{error.tensor}", error.detail) from error
        if module in upward:
            sums[module] = found
    return Sending(sums, frozenset(skipped), left)
