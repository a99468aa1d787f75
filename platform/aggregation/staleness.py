"""What a late update is worth: a change of an older version, made smaller by its age and added to the newest.

    w_newest + (1 + t)^-a (w_trained - w_start)        FedBuff (Nguyen et al., arXiv 2106.06639)

where t is how many rounds older than the newest version the one is that was started from. The mean of such values over
a buffer is FedBuff's step: the newest version and the mean of the discounted changes, weighted by samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .sums import ModuleSum, Tensors


@dataclass(frozen=True)
class Missed:
    """What a sender has missed since it began."""

    behind: Mapping[str, int] = field(default_factory=dict)
    """Module -> by how many rounds its parent has a newer version than the one that it started from."""
    newest: Mapping[str, Tensors] = field(default_factory=dict)
    """Module -> that version."""
    exponent: float = 0.0
    """a."""

    def catch_up(self, module: str, trained: Tensors, start: Tensors) -> Tensors:
        """What is to be averaged of a module in place of values that were trained from `start`."""
        weight, newest = (1 + self.behind[module]) ** -self.exponent, self.newest[module]
        return {name: newest[name] + weight * (tensor - start[name]) for name, tensor in trained.items()}

    def catch_up_sum(self, module: str, total: ModuleSum, start: Tensors) -> ModuleSum:
        """The same of a sum, by its mean: a sum of the same weight and contributors."""
        return ModuleSum.of(self.catch_up(module, total.mean(), start), total.weight, total.contributors)


NOTHING_MISSED = Missed()
"""Of a sender that started from its parent's newest version."""
