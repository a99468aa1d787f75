"""Devices that train together: what they train, side by side, so that one pass and one optimizer serve them all.

To train, a module is one matrix of a row a device, which its tensors are views of; so are their gradients.
Legend: V devices, n values of a module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fogtune.platform.aggregation.sums import Tensors
from fogtune.platform.model.device import moved

Shapes = Mapping[str, Mapping[str, torch.Size]]
"""Module -> name of a trained tensor -> its shape."""


class Stack:
    """The values of some devices, and their gradients. What a device does not have is zero in its row."""

    values: dict[str, Tensor]
    """Module -> (V, n), its tensors one behind the other. This and what follows is there while they train."""
    grads: dict[str, Tensor]
    """Module -> (V, n), of the last loss."""
    tensors: dict[str, Tensors]
    """Module -> name -> (V, ...), or without the first dimension of a single device: for autograd."""

    def __init__(self, starts: Sequence[Mapping[str, Tensors]], shapes: Shapes) -> None:
        """What each device starts from; what all share is there once until they train.

        Args:
            starts: module -> version, of each device; what `shapes` lacks is not read.
            shapes: of all that any of them trains.
        """
        self.count = len(starts)
        self.shapes = shapes
        self._named = {m: side_by_side([start.get(m) for start in starts], named) for m, named in shapes.items()}
        """Module -> name -> (V, ...), before and after."""

    def begin(self, where: torch.device) -> None:
        """Make ready to train."""
        self.values = {module: moved(self._matrix(module), where) for module in self.shapes}
        self.grads = {module: torch.empty_like(values) for module, values in self.values.items()}
        self.tensors = {module: self._leaves(module) for module in self.shapes}

    def end(self) -> None:
        """All steps have been taken."""
        self._named = {module: split(values.cpu(), self.shapes[module]) for module, values in self.values.items()}
        self.values, self.grads, self.tensors = {}, {}, {}

    def of(self, row: int, module: str) -> Tensors:
        """A device's tensors of a module, as views."""
        return {name: tensor[row] for name, tensor in self._named[module].items()}

    def rows(self, module: str) -> Tensors:
        """A module of all devices, name -> (V, ...); in one place where it is the same."""
        return self._named[module]

    def differentiate(self, loss: Tensor) -> None:
        """Put the gradients of a sum of the devices' losses in the place of the last ones."""
        leaves = [leaf for named in self.tensors.values() for leaf in named.values()]
        found = iter(torch.autograd.grad(loss, leaves, materialize_grads=True))
        for module, named in self.tensors.items():
            torch.cat([next(found).reshape(self.count, -1) for _ in named], 1, out=self.grads[module])

    def clip(self, norm: float) -> None:
        """Scale each device's gradients down to a norm, as `torch.nn.utils.clip_grad_norm_` does."""
        norms = torch.stack([torch.linalg.vector_norm(grads, dim=1) for grads in self.grads.values()])  # (M, V)
        scale = (norm / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp(max=1.0).unsqueeze(1)
        for grads in self.grads.values():
            grads.mul_(scale)

    def _matrix(self, module: str) -> Tensor:
        """(V, n), in the place of a module's tensors."""
        named = self._named.pop(module)
        matrix = torch.empty(self.count, sum(shape.numel() for shape in self.shapes[module].values()))
        for name, place in split(matrix, self.shapes[module]).items():
            place.copy_(named[name])
        return matrix

    def _leaves(self, module: str) -> dict[str, Tensor]:
        values = self.values[module][0] if self.count == 1 else self.values[module]
        return {name: leaf.requires_grad_() for name, leaf in split(values, self.shapes[module]).items()}


def split(flat: Tensor, shapes: Mapping[str, torch.Size]) -> Tensors:
    """(..., n) -> name -> (..., *shape), as views."""
    parts = torch.split(flat, [shape.numel() for shape in shapes.values()], dim=-1)
    return {
        name: part.view(*flat.shape[:-1], *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def side_by_side(versions: Sequence[Tensors | None], shapes: Mapping[str, torch.Size]) -> Tensors:
    """Of several devices, zeros where one has none: name -> (V, ...); of a version that all have, there is no copy."""
    first = versions[0]
    if first is not None and all(version is first for version in versions):
        return {name: first[name].expand(len(versions), *shape) for name, shape in shapes.items()}
    return {
        name: torch.stack([torch.zeros(shape) if version is None else version[name] for version in versions])
        for name, shape in shapes.items()
    }
