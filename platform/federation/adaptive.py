"""Cadences chosen a module: seldom for what costs much and hardly moves.

A module sent every c rounds costs b / c a round and is stale by about a c, with b its bytes and a the relative change
that a round makes. The least total staleness under a budget of bytes has c proportional to sqrt(b / a) (Lagrange).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

_STEPS = 60  # halvings


def choose_cadences(
    moved: Mapping[str, float], size: Mapping[str, float], budget: float, longest: int
) -> dict[str, int]:
    """Module -> power of two, from 1 to `longest`.

    Args:
        moved: module -> its relative change a round.
        size: module -> bytes that it takes when it is sent.
        budget: share of the bytes of cadence 1 that all modules together may take; met unless `longest` forbids it.
        longest: no cadence is longer.
    """

    def cadences(scale: float) -> dict[str, int]:
        wanted = {m: scale * math.sqrt(size[m] / max(moved[m], 1e-12)) for m in moved}
        return {m: 2 ** min(max(0, round(math.log2(c))), int(math.log2(longest))) for m, c in wanted.items()}

    def spent(scale: float) -> float:
        return sum(size[m] / c for m, c in cadences(scale).items())

    if not moved:
        return {}
    low, high = 1e-12, 1e12
    for _ in range(_STEPS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if spent(middle) <= budget * sum(size[m] for m in moved) else (middle, high)
    return cadences(high)
