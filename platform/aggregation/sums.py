"""Exact running sums: the monoid in which device updates are added on their way up the tree.

A value x of weight w (samples) enters as the integer w * round(x * 2**32); sums are int64. Integer addition is
associative and commutative, so a sum has the same bits for every order of arrival, every packing of devices into
processes and every shape of the tree, and it takes the same memory however many updates are in it.

Resolution: 2**-32 = 2.3e-10 a value, that is an error of at most 2**-33 = 1.2e-10 in a mean, besides its rounding to
float32. A float32 of magnitude 2**-9 = 0.002 or more enters exactly; 1e-4 keeps a relative error of 1.2e-6, 1e-6 one
of 1.2e-4; below 2**-33 it is zero.

Range: the sum of w * max|x| over the updates must stay below 2**31 = 2.1e9: 1e7 samples at |x| <= 214, 1e9 samples at
|x| <= 2.1. A scale of 2**36 would leave 13 for 1e7 samples, which biases and norms of a network do reach. A single
value beyond 2**20 = 1e6 has diverged; it is refused where it enters, before it uses up the range of all others.

    FogTuneError
    |-- UpdateRejected  one contribution cannot be used: its sender failed, the others go on
    `-- SumOverflow     the whole sum left the range: whoever came last is not to blame, the round fails
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from ..errors import FogTuneError

Tensors = dict[str, torch.Tensor]
"""Tensors of a module by name: CPU, float32, any shape."""
Rows = Mapping[str, torch.Tensor]
"""Contributions side by side: tensor name -> (K, ...)."""

FRACTION_BITS = 32
"""Bits after the binary point of a fixed-point value."""
SCALE = 1 << FRACTION_BITS
LARGEST_VALUE = float(1 << 20)
"""Largest magnitude of a value in a contribution."""
LARGEST_TOTAL = (1 << 63) - 1
"""Largest magnitude of an entry of a sum: int64."""

_AT_ONCE = 2**18
"""Values that are added at once: so many stay in a processor's cache."""

Reason = Literal["not finite", "too large", "bad weight", "layout differs", "duplicate sender", "forms differ"]


class UpdateRejected(FogTuneError):
    """A contribution cannot be added. `tensor` names the culprit, or is None where it is no tensor."""

    def __init__(self, reason: Reason, tensor: str | None, detail: str) -> None:
        super().__init__(reason, tensor, detail)
        self.reason: Reason = reason
        self.tensor = tensor
        self.detail = detail

    def __str__(self) -> str:
        where = "" if self.tensor is None else f" in tensor {self.tensor!r}"
        return f"update rejected: {self.reason}{where}: {self.detail}"


class SumOverflow(FogTuneError):
    """A sum would leave the range of int64; it was not computed."""

    def __init__(self, bound: int, weight: int, contributors: int) -> None:
        super().__init__(bound, weight, contributors)
        self.bound = bound
        self.weight = weight
        self.contributors = contributors

    def __str__(self) -> str:
        return (
            f"the sum of {self.contributors} updates over {self.weight} samples may reach {self.bound / SCALE:.3g}, "
            f"the exact sum holds less than {LARGEST_TOTAL / SCALE:.3g}"
        )


class RowsRejected(FogTuneError):
    """Some of several contributions cannot be added; `ModuleSum.of` says of each why."""

    def __init__(self, rows: Sequence[int]) -> None:
        super().__init__(rows)
        self.rows = tuple(rows)


@dataclass(frozen=True, slots=True, eq=False)
class ModuleSum:
    """Exact weighted sum of one module over contributors; made by `of`, joined by `+`, read by `mean`."""

    total: dict[str, torch.Tensor]
    """Tensor name -> sum of weight * round(value * 2**32), int64, the module's shapes; names in sorted order."""
    weight: int
    """Samples behind the sum."""
    contributors: int
    """Devices behind the sum."""
    bound: int
    """No entry of `total` is larger in magnitude: the sum over contributions of weight * largest entry. Like the
    totals it is independent of order, so whether a set of updates overflows is too."""

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor], weight: int, contributors: int = 1) -> ModuleSum:
        """The sum of one contribution of `weight` samples; `contributors` > 1 for a mean of several devices.

        Raises UpdateRejected: a value is NaN, infinite or too large, or the weight or the count is out of range.
        """
        weight = require_usable(tensors, weight)
        if contributors < 1:
            raise UpdateRejected("bad weight", None, f"{contributors} contributors, at least 1 is needed")
        largest = {name: round(_magnitude(tensors[name]) * SCALE) for name in sorted(tensors)}
        bound = weight  # At least the weight, so that the weight too always fits int64.
        for name, magnitude in largest.items():
            if magnitude * weight > LARGEST_TOTAL:
                detail = f"magnitude {magnitude / SCALE:.3g} at a weight of {weight} samples leaves the exact range"
                raise UpdateRejected("too large", name, detail)
            bound = max(bound, magnitude * weight)
        total = {name: torch.empty(tensors[name].shape, dtype=torch.int64) for name in largest}
        for name, whole in total.items():
            for part, values in zip(in_parts(whole), in_parts(tensors[name].detach()), strict=True):
                torch.mul(_fixed_point(values).long(), weight, out=part)
        return cls(total, weight, contributors, bound)

    @classmethod
    def of_rows(cls, rows: Rows, weights: Sequence[int], onto: ModuleSum | None = None) -> ModuleSum:
        """The sum of several contributions at once: the very bits of the sum of `of` each.

        Args:
            rows: the contributions. Where they lie in one place they are multiplied, not added up.
            weights: samples of each.
            onto: a sum to add them to, in its memory, as `+=` does.

        Raises RowsRejected, and what `+` raises; then nothing has been added.
        """
        weights = [operator.index(weight) for weight in weights]
        largest = _largest_entries(rows, len(weights))
        if bad := _too_large(largest, weights):
            raise RowsRejected(bad)
        bound = sum(max(int(at) * weight, weight) for at, weight in zip(largest, weights, strict=True))
        onto = onto or cls({n: torch.zeros(rows[n].shape[1:], dtype=torch.int64) for n in sorted(rows)}, 0, 0, 0)
        sizes = onto._with({name: tensor[0] for name, tensor in rows.items()}, sum(weights), len(weights), bound)
        factors = [sum(weights)] if _are_one(rows, len(weights)) else weights
        for name, tensor in rows.items():
            total = onto.total[name].view(-1)
            for part, some in _parts(tensor[: len(factors)]):
                total[part].add_(_weighted_sum(_fixed_point(some), factors, bound))
        return cls(onto.total, *sizes)

    def __add__(self, other: ModuleSum) -> ModuleSum:
        """Sum of both. Raises UpdateRejected where names or shapes differ, SumOverflow beyond the range of int64."""
        sizes = self._with(other.total, other.weight, other.contributors, other.bound)
        return ModuleSum({name: tensor + other.total[name] for name, tensor in self.total.items()}, *sizes)

    def __iadd__(self, other: ModuleSum) -> ModuleSum:
        """`+` in the memory of the left side's totals, for who has made them and shows them to nobody yet: the left
        side itself is no sum any more."""
        sizes = self._with(other.total, other.weight, other.contributors, other.bound)
        return ModuleSum({name: tensor.add_(other.total[name]) for name, tensor in self.total.items()}, *sizes)

    def _with(
        self, layout: Mapping[str, torch.Tensor], weight: int, contributors: int, bound: int
    ) -> tuple[int, int, int]:
        """Weight, contributors and bound of the sum of this one and of another, if there can be one."""
        require_same_layout(self.total, layout)
        weight, contributors, bound = self.weight + weight, self.contributors + contributors, self.bound + bound
        if bound > LARGEST_TOTAL:
            raise SumOverflow(bound, weight, contributors)
        return weight, contributors, bound

    def __eq__(self, other: object) -> bool:
        """Bit for bit."""
        if not isinstance(other, ModuleSum):
            return NotImplemented
        ours = (self.weight, self.contributors, self.bound)
        theirs = (other.weight, other.contributors, other.bound)
        return ours == theirs and same_tensors(self.total, other.total)

    __hash__ = None  # type: ignore[assignment]

    def mean(self) -> Tensors:
        """The weighted mean, float32; a function of `total` and `weight` alone, so of no grouping."""
        return {name: self._mean(tensor) for name, tensor in self.total.items()}

    def _mean(self, total: torch.Tensor) -> torch.Tensor:
        mean = torch.empty(total.shape)
        for part, whole in zip(in_parts(mean), in_parts(total), strict=True):
            # Two roundings at 2**-53 before the one to float32: equal contributions give back their own bits.
            part.copy_(whole.double().div_(self.weight).div_(SCALE))
        return mean

    @property
    def nbytes(self) -> int:
        """Bytes of the totals."""
        return sum(tensor.nbytes for tensor in self.total.values())


def require_usable(tensors: Mapping[str, torch.Tensor], weight: int) -> int:
    """The weight as a Python int. Raises UpdateRejected unless it and all values are in range."""
    weight = operator.index(weight)  # A NumPy integer would wrap around in the bounds.
    if not 1 <= weight <= LARGEST_TOTAL:
        raise UpdateRejected("bad weight", None, f"{weight} samples, it must be from 1 to 2**63 - 1")
    for name, tensor in tensors.items():
        finite = torch.isfinite(tensor)
        if not bool(finite.all()):
            detail = f"{tensor.numel() - int(finite.sum())} of {tensor.numel()} values are NaN or infinite"
            raise UpdateRejected("not finite", name, detail)
        magnitude = _magnitude(tensor)
        if magnitude > LARGEST_VALUE:
            raise UpdateRejected(
                "too large", name, f"magnitude {magnitude:.3g}, at most {LARGEST_VALUE:.3g} is allowed"
            )
    return weight


def refused(rows: Rows, weights: Sequence[int]) -> list[int]:
    """Which of several contributions of these weights `ModuleSum.of` refuses."""
    return _too_large(_largest_entries(rows, len(weights)), weights)


def _too_large(largest: Sequence[float], weights: Sequence[int]) -> list[int]:
    """Which contributions do not fit, by their largest entries in fixed point."""
    if weights and min(weights) >= 1 and _fits(sum(largest), max(weights)):
        return []  # a sum is at least as large as each, and NaN if one is
    return [i for i, (at, weight) in enumerate(zip(largest, weights, strict=True)) if not _fits(at, weight)]


def _fits(magnitude: float, weight: int) -> bool:
    """Whether `ModuleSum.of` takes a contribution whose largest entry is this, in fixed point; false for NaN."""
    most = min(LARGEST_VALUE * SCALE, LARGEST_TOTAL // max(1, weight))
    return 1 <= weight <= LARGEST_TOTAL and magnitude <= most


def _largest_entries(rows: Rows, count: int) -> list[float]:
    """Of each contribution the largest magnitude, in fixed point; NaN if it has one."""
    different = 1 if _are_one(rows, count) else count
    largest = torch.zeros(different)
    for tensor in rows.values():
        for _, some in _parts(tensor[:different]):
            largest = torch.maximum(largest, some.abs().amax(1))
    return _fixed_point(largest).expand(count).tolist()  # what is largest before rounding is so after it


def _are_one(rows: Rows, count: int) -> bool:
    """Whether several contributions lie in one place."""
    return count > 1 and all(tensor.stride(0) == 0 for tensor in rows.values())


def _parts(rows: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """(K, ...) -> columns, and their values (K, columns)."""
    flat = rows.reshape(len(rows), rows[0].numel())
    width = max(1, _AT_ONCE // len(flat))
    for start in range(0, flat.shape[1], width):
        part = slice(start, start + width)
        yield part, flat[:, part]


def _fixed_point(values: torch.Tensor) -> torch.Tensor:
    """float32 -> the integers nearest to value * 2**32, ties to even, as float32. Exact: beyond 2**24 every
    float32 is an integer."""
    return (values * float(SCALE)).round_()


def _weighted_sum(rows: torch.Tensor, weights: Sequence[int], bound: int) -> torch.Tensor:
    """Whole numbers (K, n), float32 -> (n,), int64."""
    if bound < 2**53:  # then every partial sum is an integer that float64 holds, in whatever order it is added up
        return torch.mv(rows.double().t(), torch.tensor(weights, dtype=torch.float64)).long()
    return (rows.long() * torch.tensor(weights).unsqueeze(1)).sum(0)


def in_parts(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Its values, as many at once as stay in a processor's cache: what is made of them takes no memory to speak of."""
    return torch.split(tensor.reshape(-1), _AT_ONCE)


def require_same_layout(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> None:
    """Raises UpdateRejected unless both have the same names with the same shapes: broadcasting would hide it."""
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in theirs or name not in ours:
            raise UpdateRejected("layout differs", name, "one side has it, the other has not")
        if ours[name].shape != theirs[name].shape:
            detail = f"shapes {tuple(ours[name].shape)} and {tuple(theirs[name].shape)}"
            raise UpdateRejected("layout differs", name, detail)


def same_tensors(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> bool:
    """Same names, shapes and values."""
    return ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def _magnitude(tensor: torch.Tensor) -> float:
    """Largest absolute value; zero for a tensor without entries."""
    return float(tensor.detach().abs().max()) if tensor.numel() else 0.0
