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
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from ..errors import FogTuneError

Tensors = dict[str, torch.Tensor]
"""Tensors of a module by name: CPU, float32, any shape."""

FRACTION_BITS = 32
"""Bits after the binary point of a fixed-point value."""
SCALE = 1 << FRACTION_BITS
LARGEST_VALUE = float(1 << 20)
"""Largest magnitude of a value in a contribution."""
LARGEST_TOTAL = (1 << 63) - 1
"""Largest magnitude of an entry of a sum: int64."""

AT_ONCE = 2**18
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
                torch.mul(fixed_point(values).long(), weight, out=part)
        return cls(total, weight, contributors, bound)

    def __add__(self, other: ModuleSum) -> ModuleSum:
        """Sum of both. Raises UpdateRejected where names or shapes differ, SumOverflow beyond the range of int64."""
        sizes = self.sizes_with(other.total, other.weight, other.contributors, other.bound)
        return ModuleSum({name: tensor + other.total[name] for name, tensor in self.total.items()}, *sizes)

    def __iadd__(self, other: ModuleSum) -> ModuleSum:
        """`+` in the memory of the left side's totals, for who has made them and shows them to nobody yet: the left
        side itself is no sum any more."""
        sizes = self.sizes_with(other.total, other.weight, other.contributors, other.bound)
        return ModuleSum({name: tensor.add_(other.total[name]) for name, tensor in self.total.items()}, *sizes)

    def sizes_with(
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


def fixed_point(values: torch.Tensor) -> torch.Tensor:
    """float32 -> the integers nearest to value * 2**32, ties to even, as float32. Exact: beyond 2**24 every
    float32 is an integer."""
    return (values * float(SCALE)).round_()


def in_parts(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Its values, as many at once as stay in a processor's cache: what is made of them takes no memory to speak of."""
    return torch.split(tensor.reshape(-1), AT_ONCE)


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
