"""What travels up the tree: sums by module, and metrics as exact integers.

An update is a monoid: `Update.empty()` is its zero, `sum(updates, start=Update.empty())` has the same bits for every
order and grouping. A device's update, a host's, a fog node's and the cloud's are the same type.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from .robust import HeldUpdates
from .sums import SCALE, ModuleSum, UpdateRejected


@dataclass(frozen=True, slots=True)
class Update:
    """What some devices together have learned and measured in a round. Names are in sorted order after `+`."""

    modules: dict[str, ModuleSum | HeldUpdates]
    """Module name -> its sum, or its single contributions where a robust rule needs them."""
    metrics: dict[str, int]
    """Metric name -> sum over devices: counts, and real numbers as `fixed` makes them."""

    @classmethod
    def empty(cls) -> Update:
        """The update of no device."""
        return cls({}, {})

    def __add__(self, other: Update) -> Update:
        """The update of both: modules and metrics that only one side has are kept as they are.

        Raises UpdateRejected (what the two sides hold of a module cannot be added) and SumOverflow.
        """
        return self._with(other, operator.add)

    def __iadd__(self, other: Update) -> Update:
        """`+` in the memory of the left side's sums, as `ModuleSum` does it."""
        return self._with(other, operator.iadd)

    def _with(self, other: Update, join: Callable[[Any, Any], Any]) -> Update:
        modules = dict(self.modules)
        for name, theirs in other.modules.items():
            modules[name] = _join(name, modules[name], theirs, join) if name in modules else theirs
        names = sorted(self.metrics.keys() | other.metrics.keys())
        metrics = {name: self.metrics.get(name, 0) + other.metrics.get(name, 0) for name in names}
        return Update({name: modules[name] for name in sorted(modules)}, metrics)


def fixed(x: float) -> int:
    """x * 2**32 as the nearest integer, ties to even; exact integers add up to the same in any order.

    Raises UpdateRejected for NaN and infinity.
    """
    if not math.isfinite(x):
        raise UpdateRejected("not finite", None, f"a metric is {x}")
    return round(Fraction(x) * SCALE)


def unfixed(n: int) -> float:
    """The number that `fixed` stored, or the sum of several: n / 2**32, correctly rounded."""
    return n / SCALE


def _join(
    name: str, ours: ModuleSum | HeldUpdates, theirs: ModuleSum | HeldUpdates, join: Callable[[Any, Any], Any]
) -> ModuleSum | HeldUpdates:
    if type(ours) is not type(theirs):
        problem = f"module {name!r} is a sum on one side, single updates on the other"
        raise UpdateRejected("forms differ", None, problem)
    joined: ModuleSum | HeldUpdates = join(ours, theirs)
    return joined
