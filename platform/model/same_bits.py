"""Frozen passes over several samples that give each the very bits that it has alone.

Which kernel a library takes, and so in which order it adds up, depends on the shapes of its arguments, never on their
values. So one trial tells for all passes of one shape: samples go together where a trial has found each sample's bits
to be those that it has alone, and one by one where it has not.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from .fingerprint import conditions

_T = TypeVar("_T")

SIZES = (8, 4, 2)
"""Samples of a pass; more of them are no faster on a processor, and each number takes a trial."""


class SameBits:
    """Remembers of one network which shapes of passes are exact."""

    def __init__(self) -> None:
        self._exact: dict[tuple[Hashable, ...], bool] = {}
        """By shape of a sample, number of samples, and conditions."""

    def __call__(
        self, samples: Sequence[_T], shape: Callable[[_T], Hashable], encode: Callable[[list[_T]], list[Tensor]]
    ) -> list[Tensor]:
        """Encode samples, in order.

        Args:
            samples: any number of them.
            shape: a sample's shape, and where it is computed; those of equal shape may share a pass.
            encode: one pass over samples of equal shape.
        """
        alike: dict[Hashable, list[int]] = {}
        for i, sample in enumerate(samples):
            alike.setdefault(shape(sample), []).append(i)
        found: dict[int, Tensor] = {}
        under = conditions()
        for kind, waiting in alike.items():
            while waiting:
                fitting = (n for n in SIZES if n <= len(waiting))
                size = next((n for n in fitting if self._exact.get((kind, n, under), True)), 1)
                some, waiting = waiting[:size], waiting[size:]
                found |= zip(some, self._pass((kind, size, under), [samples[i] for i in some], encode), strict=True)
        return [found[i] for i in range(len(samples))]

    def _pass(
        self, case: tuple[Hashable, ...], some: list[_T], encode: Callable[[list[_T]], list[Tensor]]
    ) -> list[Tensor]:
        if len(some) == 1 or case in self._exact:
            return encode(some)
        alone = [encode([sample])[0] for sample in some]
        self._exact[case] = all(map(torch.equal, alone, encode(some)))
        return alone
