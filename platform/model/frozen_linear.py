"""Frozen linear layers whose weights lie as oneDNN's kernels read them: 2 to 20 % sooner.

oneDNN rearranges a weight in every product that it lies in rows for. A weight that stays as it is can be rearranged
once, for x W' + b and, where gradients pass through it, for y W: each takes the weight's memory again. Products in fp32
keep their bits with AVX-512. Those in bf16 are oneDNN's wherever the processor has them, those in fp32 where it is
chosen (matmul.py).
"""

from __future__ import annotations

from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .matmul import chosen, computes_bf16

_ROWS = 1024
"""Of a typical product; the layout of the weight is the same for any number of them."""


class FrozenLinear(nn.Linear):
    """torch's linear layer, of parameters that nobody changes. Legend: I inputs, O outputs."""

    def __init__(self, layer: nn.Linear) -> None:
        """Share the parameters of `layer`."""
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self._packed: dict[bool, Tensor] = {}
        """Transposed or not -> the weight as oneDNN's."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) -> (..., O)."""
        if not self._is_packable(x):
            return super().forward(x)
        return cast(Tensor, _Product.apply(x.to(self.weight.dtype), self))  # type: ignore[no-untyped-call]

    def product(self, x: Tensor) -> Tensor:
        """x W' + b, (..., I) -> (..., O), without a gradient."""
        if not self._is_packable(x):
            return F.linear(x, self.weight, self.bias)
        return _product(x, self._pack(transposed=False), self.bias)

    def product_back(self, y: Tensor) -> Tensor:
        """y W, (..., O) -> (..., I), without a gradient."""
        if not self._is_packable(y):
            return y @ self.weight
        return _product(y, self._pack(transposed=True), None)

    def _is_packable(self, x: Tensor) -> bool:
        computed_in = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        if x.device.type != "cpu" or computed_in != self.weight.dtype:
            return False
        return computes_bf16() if computed_in == torch.bfloat16 else chosen() == "onednn"

    def _pack(self, transposed: bool) -> Tensor:
        if transposed not in self._packed:
            weight = self.weight.detach().t() if transposed else self.weight.detach()
            packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS)
            self._packed[transposed] = packed
        return self._packed[transposed]

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        self._packed.clear()  # it moves, or changes its type
        return cast(Self, super()._apply(*args, **kwargs))  # type: ignore[no-untyped-call]


class _Product(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FrozenLinear) -> Tensor:
        ctx.layer = layer
        return layer.product(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.layer.product_back(grads[0]), None


def _product(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], ""))
