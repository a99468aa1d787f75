"""Several versions of a module in one pass: each row of a batch is computed with its own.

Where all rows have the same version, it is torch's own product that runs. Where they differ, the product is a batched
one: over groups of neighbouring rows where each version has equally many (devices that train together), else over
single rows, for each of which its version is gathered (as in S-LoRA, Sheng et al., arXiv 2311.03285). So what is lent
to a layer has no leading dimension, or one of G groups, B of them at most, of B / G rows each.
Legend: V versions, B rows, G groups, I inputs, O outputs, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .device import moved


class Index(tuple[int, ...]):
    """Row -> the version that it takes. Modules may share one."""

    @cached_property
    def groups(self) -> tuple[int, ...] | None:
        """The version of each group, in order, if rows come in groups of one version and of one size; else None."""
        versions, sizes = zip(*((version, len(list(rows))) for version, rows in groupby(self)), strict=True)
        return versions if len(set(sizes)) == 1 else None

    @cached_property
    def differ(self) -> bool:
        """Whether there are two rows of different versions."""
        return len(set(self)) > 1

    def of(self, rows: Sequence[int]) -> Index:
        """The same for some of the rows."""
        return self if list(rows) == list(range(len(self))) else Index([self[row] for row in rows])


@dataclass(frozen=True)
class Versions:
    """Versions of a module side by side, and which of them each row takes."""

    tensors: Mapping[str, Tensor]
    """Name -> (V, ...)."""
    index: Index
    """What a row has here that does not pass through the module is not read."""

    def taken(self, by_row: bool = False) -> dict[str, Tensor]:
        """Name -> (G, ...): what is lent. Without a copy if all rows take the same, or each group the next version.

        Args:
            by_row: a group is a row.
        """
        groups = None if by_row else self.index.groups
        if not self.index.differ:
            return {name: tensor[self.index[0]] for name, tensor in self.tensors.items()}
        if groups == tuple(range(len(next(iter(self.tensors.values()))))):
            return dict(self.tensors)
        device = next(iter(self.tensors.values())).device
        index = moved(torch.tensor(self.index if groups is None else groups), device)
        return {name: tensor.index_select(0, index) for name, tensor in self.tensors.items()}


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (B, ..., I) -> (B, ..., O); weight (O, I) and bias (O), or those of groups: (G, O, I) and (G, O)."""
    if weight.dim() == 2:
        return F.linear(x, weight, bias)
    flat = x.reshape(len(weight), -1, x.shape[-1])
    y = cast(Tensor, _Grouped.apply(flat, weight))  # type: ignore[no-untyped-call]
    return (y if bias is None else y + bias.unsqueeze(1)).view(*x.shape[:-1], y.shape[-1])


class _Grouped(Function):
    """x (G, N, I), weight (G, O, I) -> (G, N, O). Autograd alone would give the weight's gradient transposed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor]:
        x, weight = ctx.saved_tensors
        return grads[0] @ weight if ctx.needs_input_grad[0] else None, grads[0].mT @ x


def scaled(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (B, ..., D) times weight (D) plus bias (D), or those of groups, (G, D)."""
    if weight.dim() == 1:
        return torch.addcmul(bias, x, weight)
    flat = x.reshape(len(weight), -1, x.shape[-1])
    return torch.addcmul(bias.unsqueeze(1), flat, weight.unsqueeze(1)).view_as(x)


class RowLinear(nn.Linear):
    """torch's linear layer, which the weights of groups may be lent to."""

    @classmethod
    def of(cls, layer: nn.Linear) -> RowLinear:
        """Share the parameters of `layer`."""
        row = cls(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        row.weight, row.bias = layer.weight, layer.bias
        return row

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class RowLayerNorm(nn.LayerNorm):
    """torch's layer norm over the last dimension, which the weights of groups, (G, D), may be lent to."""

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.dim() == 1:
            return super().forward(x)
        return scaled(F.layer_norm(x, x.shape[-1:], eps=self.eps), self.weight, self.bias)


class Places:
    """Where the tensors of modules stand in a model, to lend it others: by module and by name."""

    def __init__(self, model: nn.Module, tensors_of: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Find every tensor of `tensors_of` in the model."""
        # nn.Module's own dicts: by them a tensor that is no parameter can stand where a parameter does.
        holders = [
            cast(dict[str, Tensor], held) for part in model.modules() for held in (part._parameters, part._buffers)
        ]
        found = {id(tensor): (holder, name) for holder in holders for name, tensor in holder.items()}
        self._places = {
            module: {name: found[id(tensor)] for name, tensor in tensors.items()}
            for module, tensors in tensors_of.items()
        }

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Module -> name -> what stands there now."""
        return {
            module: {name: holder[key] for name, (holder, key) in places.items()}
            for module, places in self._places.items()
        }

    @contextmanager
    def lent(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> Iterator[None]:
        """Within the block, these tensors stand in the place of the model's own: module -> name -> tensor."""
        lent = [(*place, tensors[module][name]) for module in tensors for name, place in self._places[module].items()]
        own = [holder[key] for holder, key, _ in lent]
        try:
            for holder, key, tensor in lent:
                holder[key] = tensor
            yield
        finally:
            for (holder, key, _), tensor in zip(lent, own, strict=True):
                holder[key] = tensor
