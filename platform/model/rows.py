"""Several versions of a module in one pass: each row of a batch is computed with its own.

Where all rows have the same version, it is torch's own product that runs, the one that training uses; where they
differ, the versions are gathered row by row, and the product is a batched one (as in S-LoRA, Sheng et al.,
arXiv 2311.03285). Legend: V versions, B rows, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Versions:
    """Versions of a module side by side, and which of them each row takes."""

    tensors: Mapping[str, Tensor]
    """Name -> (V, ...)."""
    index: Sequence[int]
    """Row -> its version; what a row has here that does not pass through the module is not read."""

    def differ(self) -> bool:
        """Whether there are two rows of different versions."""
        return len(set(self.index)) > 1

    def of(self, rows: Sequence[int]) -> Versions:
        """The same for some of the rows."""
        return Versions(self.tensors, [self.index[row] for row in rows])

    def taken(self) -> dict[str, Tensor]:
        """Name -> (B, ...), row by row; without a leading dimension, and without a copy, if all rows take the same."""
        if not self.differ():
            return {name: tensor[self.index[0]] for name, tensor in self.tensors.items()}
        index = torch.tensor(self.index)
        return {name: tensor.index_select(0, index.to(tensor.device)) for name, tensor in self.tensors.items()}


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (B, ..., I) -> (B, ..., O); weight (O, I) and bias (O), or a row's own: (B, O, I) and (B, O)."""
    if weight.dim() == 2:
        return F.linear(x, weight, bias)
    flat = x.reshape(len(weight), -1, x.shape[-1])
    y = flat @ weight.mT if bias is None else torch.baddbmm(bias.unsqueeze(1), flat, weight.mT)
    return y.view(*x.shape[:-1], y.shape[-1])


class RowLinear(nn.Linear):
    """torch's linear layer, which a row's own weights may be lent to."""

    @classmethod
    def of(cls, layer: nn.Linear) -> RowLinear:
        """Share the parameters of `layer`."""
        row = cls(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        row.weight, row.bias = layer.weight, layer.bias
        return row

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


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
