"""LoRA on a frozen linear layer as one autograd function: fewer passes over memory than PEFT's chain of small ones.

    y = x W' + b + s (x A') B'          (Hu et al., arXiv 2106.09685, eq. 3, with s = alpha / rank)

The same function and the same parameters as PEFT's layer, of which it is a subclass; a quarter faster over oneDNN.
Where each row has an A and a B of its own, the small products are batched ones.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from peft.tuners.lora import Linear
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .frozen import FrozenLinear, product
from .rows import linear


class _LoraProduct(Function):
    """Legend: N rows, I inputs, O outputs, R rank."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, base: FrozenLinear, a: Tensor, b: Tensor, scale: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])  # (N, I)
        inner = rows @ a.t()  # (N, R)
        y = product(rows, base.weight, base.bias)  # (N, O)
        y.addmm_(inner, b.t(), alpha=scale)
        ctx.save_for_backward(rows, inner, base.weight_t, a, b)
        ctx.scale = scale
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, Tensor, Tensor, None]:
        rows, inner, weight_t, a, b = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])  # (N, O)
        inner_grad = (grad @ b).mul_(ctx.scale)  # (N, R)
        x_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = product(grad, weight_t, None).addmm_(inner_grad, a).view(*grads[0].shape[:-1], a.shape[1])
        return x_grad, None, inner_grad.t() @ rows, (grad.t() @ inner).mul_(ctx.scale), None


class FusedLora(Linear):
    """PEFT's LoRA layer over a `FrozenLinear`, with its one adapter always on."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """x (..., I) -> (..., O); (B, ..., I) where rows have their own."""
        (name,) = self.active_adapters
        a, b = cast(Tensor, self.lora_A[name].weight), cast(Tensor, self.lora_B[name].weight)
        scale = self.scaling[name]
        if a.dim() == 3:  # (B, R, I), and b (B, O, R)
            y = cast(FrozenLinear, self.base_layer)(x)
            inner = linear(x, a).view(len(a), -1, a.shape[1])
            return torch.baddbmm(y.view(len(b), -1, b.shape[1]), inner, b.mT, alpha=scale).view_as(y)
        return cast(Tensor, _LoraProduct.apply(x, self.base_layer, a, b, scale))  # type: ignore[no-untyped-call]
