"""Robust aggregation: coordinate-wise median and trimmed mean of the devices' tensors.

Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", arXiv 1803.01498, options I and
II of algorithm 1. Both statistics are unweighted, as in the paper: a weight is a sender's own claim, and a liar would
claim a large one.

Neither can be computed from a running sum, so a node that takes one holds every contribution: its memory grows
linearly with its children, which is why the rules' `max_held` limits them. Above that node the result travels as an
ordinary sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch

from .sums import Tensors, UpdateRejected, require_same_layout, require_usable, same_tensors


@dataclass(frozen=True, slots=True, eq=False)
class Contribution:
    """What one sender contributes to one module."""

    sender: str
    """Id of the node."""
    weight: int
    """Its samples."""
    tensors: Tensors

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Contribution):
            return NotImplemented
        ours, theirs = (self.sender, self.weight), (other.sender, other.weight)
        return ours == theirs and same_tensors(self.tensors, other.tensors)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class HeldUpdates:
    """Contributions to one module, kept apart: made by `of`, joined by `+`, read by the functions below.

    Sorted by sender, so the value does not depend on the order of arrival.
    """

    contributions: tuple[Contribution, ...]

    @classmethod
    def of(cls, sender: str, tensors: Mapping[str, torch.Tensor], weight: int) -> HeldUpdates:
        """One contribution; the tensors are copied, for a device host trains its next device in the same memory.

        Raises UpdateRejected: a value is NaN, infinite or too large, or the weight is out of range.
        """
        weight = require_usable(tensors, weight)
        copies = {name: tensors[name].detach().to(torch.float32, copy=True) for name in sorted(tensors)}
        return cls((Contribution(sender, weight, copies),))

    def __add__(self, other: HeldUpdates) -> HeldUpdates:
        """Both together. Raises UpdateRejected where names or shapes differ, or for two contributions of a sender."""
        if self.contributions and other.contributions:
            require_same_layout(self.contributions[0].tensors, other.contributions[0].tensors)
        twice = {c.sender for c in self.contributions} & {c.sender for c in other.contributions}
        if twice:
            raise UpdateRejected("duplicate sender", None, f"{min(twice)!r} contributed before")
        return HeldUpdates(tuple(sorted(self.contributions + other.contributions, key=lambda c: c.sender)))

    @property
    def weight(self) -> int:
        """Samples behind the contributions."""
        return sum(contribution.weight for contribution in self.contributions)

    @property
    def contributors(self) -> int:
        """Number of contributions."""
        return len(self.contributions)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors held."""
        return sum(tensor.nbytes for one in self.contributions for tensor in one.tensors.values())


def coordinate_median(held: HeldUpdates) -> Tensors:
    """Median of every coordinate, float32; of an even number, the mean of the two in the middle."""
    count = held.contributors
    return _mean_of_ranks(held, (count - 1) // 2, count // 2 + 1)


def trimmed_mean(held: HeldUpdates, trim: float) -> Tensors:
    """Mean of every coordinate without its floor(trim * n) smallest and as many largest values, float32.

    `trim` is in [0, 0.5), so at least one value remains; ValueError otherwise.
    """
    if not 0 <= trim < 0.5:
        raise ValueError(f"trim is {trim}, it must be at least 0 and less than 0.5")
    count = held.contributors
    cut = int(Fraction(repr(trim)) * count)  # As written: in binary, 0.29 * 100 is less than 29.
    return _mean_of_ranks(held, cut, count - cut)


def _mean_of_ranks(held: HeldUpdates, first: int, stop: int) -> Tensors:
    """Every coordinate's mean over the values of rank first..stop-1 among the contributions, in ascending order."""
    if not held.contributions:
        raise ValueError("no contributions to aggregate")
    means: Tensors = {}
    for name in held.contributions[0].tensors:
        ranked = torch.stack([one.tensors[name] for one in held.contributions]).sort(dim=0).values  # (n, ...)
        # Row by row, because the order in which torch adds along a dimension depends on the shape.
        total = ranked[first].double()
        for row in ranked[first + 1 : stop]:
            total = total + row
        means[name] = (total / (stop - first)).float()
    return means
