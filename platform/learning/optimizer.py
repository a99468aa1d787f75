"""The optimizer of devices that train together: torch's own, over what lies in a stack.

It steps the matrices of the stack where all devices take every step with all that they have, else their rows, of which
those that a step has not used are left out, as torch leaves out what has no gradient. torch's functions are called, not
its classes: with the first of those a process would import torch's compiler, for which it takes a second and more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from fogtune.platform.config import Local

from .stack import Stack

_sgd = partial(sgd, fused=True, momentum=0.0, dampening=0.0, nesterov=False, maximize=False)
_adamw = partial(adamw, fused=True, beta1=0.9, beta2=0.999, eps=1e-8, amsgrad=False, maximize=False)
"""With what torch's classes have by default."""


@dataclass(frozen=True)
class _Lot:
    """What takes its steps at one rate: modules of all devices, or of one."""

    values: Mapping[str, Tensor]
    grads: Mapping[str, Tensor]
    moments: dict[str, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)
    """Module -> both moments and the number of steps, of those that have taken any."""


class Optimizer:
    """Steps of all devices of a stack, each with its own rate."""

    def __init__(self, stack: Stack, local: Local, together: bool) -> None:
        """No step has been taken.

        Args:
            stack: what to train, ready for it.
            local: which optimizer.
            together: whether all devices take every step at one rate, with every module.
        """
        self._local = local
        self._together = together
        lots = [slice(None)] if together else list(range(stack.count))
        self._lots = [
            _Lot({m: values[lot] for m, values in stack.values.items()}, {m: g[lot] for m, g in stack.grads.items()})
            for lot in lots
        ]

    @torch.no_grad()
    def step(self, rates: Mapping[int, float], used: Mapping[int, Collection[str]]) -> None:
        """Take a step: device -> its rate, and the modules that its loss came through; of those that take one."""
        for v, lot in enumerate(self._lots):
            if active := [m for m in lot.values if v in rates and (self._together or m in used[v])]:
                self._step(lot, active, rates[v])

    def _step(self, lot: _Lot, active: Collection[str], rate: float) -> None:
        values, grads = [lot.values[m] for m in active], [lot.grads[m] for m in active]
        decay = self._local.weight_decay
        if self._local.optimizer == "sgd":
            _sgd(values, grads, [None] * len(values), lr=rate, weight_decay=decay)
            return
        for module in active:
            if module not in lot.moments:
                value = lot.values[module]
                lot.moments[module] = torch.zeros_like(value), torch.zeros_like(value), value.new_zeros(())
        first, second, steps = (list(some) for some in zip(*(lot.moments[m] for m in active), strict=True))
        _adamw(values, grads, first, second, [], steps, lr=rate, weight_decay=decay)
