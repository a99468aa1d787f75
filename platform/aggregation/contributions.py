"""Contributions of several devices to a module, side by side: which can be added, and the sums of some, at once.

The same are refused, and the sums have the same bits, as one by one (`ModuleSum.of` and `+`).
Legend: K contributions, R sums, n values.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch

from .sums import AT_ONCE, LARGEST_TOTAL, LARGEST_VALUE, SCALE, ModuleSum, fixed_point


class Contributions:
    """Contributions to a module."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], weights: Iterable[int]) -> None:
        """Look at all values once.

        Args:
            tensors: name -> (K, ...), float32. Where the contributions lie in one place, they are multiplied.
            weights: samples of each; those of none are in no sum.
        """
        self._tensors = {name: tensors[name] for name in sorted(tensors)}
        self._weights = [operator.index(weight) for weight in weights]
        count = len(self._weights)
        self._are_one = count > 1 and all(tensor.stride(0) == 0 for tensor in tensors.values())
        self._different = 1 if self._are_one else count
        largest = torch.zeros(self._different)
        for tensor in self._tensors.values():
            for _, some in self._parts(tensor):
                largest = torch.maximum(largest, some.abs().amax(1))
        # What is largest before rounding is so after it. NaN where a contribution has one.
        self._largest: list[float] = fixed_point(largest).expand(count).tolist()
        # A sum is at least as large as each, and NaN if one is.
        self._all_fit = min(self._weights, default=0) >= 1 and _fits(sum(self._largest), max(self._weights))

    def refused(self, some: Sequence[int]) -> list[int]:
        """Which of some contributions `ModuleSum.of` refuses."""
        return [] if self._all_fit else [i for i in some if not _fits(self._largest[i], self._weights[i])]

    def sums(self, groups: Sequence[Sequence[int]], onto: Sequence[ModuleSum | None]) -> list[ModuleSum]:
        """The sum of each group of contributions, none of which are refused.

        Args:
            groups: contributions by their place, at least one each.
            onto: a sum to add those of each group to, in its memory, as `+=` does.

        Raises what `+` raises; then nothing has been added.
        """
        assert not any(self.refused(some) for some in groups)
        one = {name: tensor[0] for name, tensor in self._tensors.items()}
        found = []
        for some, before in zip(groups, onto, strict=True):
            bound = sum(max(int(self._largest[row]) * self._weights[row], self._weights[row]) for row in some)
            weight = sum(self._weights[row] for row in some)
            start = before or ModuleSum({n: torch.zeros(t.shape, dtype=torch.int64) for n, t in one.items()}, 0, 0, 0)
            found.append(ModuleSum(start.total, *start.sizes_with(one, weight, len(some), bound)))
        factors = self._factors(groups)
        rows = factors.any(0).nonzero().flatten()  # no others: zero times what is not finite is not zero
        exact = torch.float64 if max(summed.bound for summed in found) < 2**53 else torch.int64
        factors = factors[:, rows].to(exact)
        for name, tensor in self._tensors.items():
            totals = [summed.total[name].view(-1) for summed in found]
            for part, values in self._parts(tensor):
                used = values if len(rows) == len(values) else values[rows]
                for total, added in zip(totals, _products(factors, fixed_point(used).to(exact)), strict=True):
                    total[part].add_(added)
        return found

    def _factors(self, groups: Sequence[Sequence[int]]) -> torch.Tensor:
        """How often each of the different contributions is in each sum, (R, K)."""
        factors = torch.zeros(len(groups), len(self._weights), dtype=torch.int64)
        for r, some in enumerate(groups):
            factors[r, list(some)] = torch.tensor([self._weights[row] for row in some])
        return factors.sum(1, keepdim=True) if self._are_one else factors

    def _parts(self, tensor: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
        """(K, ...) -> columns, and the values of the different ones there, (K, columns)."""
        rows = tensor[: self._different]
        flat = rows.reshape(len(rows), rows[0].numel())
        width = max(1, AT_ONCE // len(flat))
        for start in range(0, flat.shape[1], width):
            part = slice(start, start + width)
            yield part, flat[:, part]


def _fits(magnitude: float, weight: int) -> bool:
    """Whether `ModuleSum.of` takes a contribution whose largest entry is this, in fixed point; false for NaN."""
    most = min(LARGEST_VALUE * SCALE, LARGEST_TOTAL // max(1, weight))
    return 1 <= weight <= LARGEST_TOTAL and magnitude <= most


def _products(factors: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """(R, K) times whole numbers (K, n), both float64 or both int64: (R, n), int64.

    In float64 sums must stay below 2**53: then every partial sum is an integer that it holds, in whatever order.
    """
    if rows.dtype == torch.float64:
        return (factors @ rows).long()
    return torch.stack([(rows * some.unsqueeze(1)).sum(0) for some in factors])
