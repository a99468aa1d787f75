"""LoRA on a frozen linear layer as one autograd function: fewer passes over memory than PEFT's chain of small ones.

    y = x W' + b + s (x A') B'          (Hu et al., arXiv 2106.09685, eq. 3, with s = alpha / rank)

The same function and the same parameters as PEFT's layer, of which it is a subclass.
Where groups of samples have an A and a B of their own, the small products are batched ones. Products are of the layer's
own precision.
"""

from __future__ import annotations

from typing import Any, cast

from peft.tuners.lora import Linear
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .frozen_linear import FrozenLinear


class _LoraProduct(Function):
    """Legend: N rows, G groups with an A and a B of their own (or none, and A and B for all), I inputs, O outputs, R
    rank.

    What is R wide is computed R high: libraries are up to eight times as fast with few rows as with few columns.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, base: FrozenLinear, a: Tensor, b: Tensor, scale: float) -> Tensor:
        weight = base.weight
        rows = x.reshape(-1, x.shape[-1]).to(weight.dtype)  # (N, I)
        a, b = a.to(weight.dtype), b.to(weight.dtype)
        grouped = rows if a.dim() == 2 else rows.view(len(a), -1, rows.shape[-1])  # (N, I) or (G, N / G, I)
        inner = a @ grouped.mT  # (R, N) or (G, R, N / G)
        y = base.product(rows)  # (N, O)
        _add_product(y.view(*grouped.shape[:-1], y.shape[-1]), inner.mT, b.mT, scale)
        ctx.save_for_backward(grouped, inner, a, b)
        ctx.base, ctx.scale = base, scale
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, Tensor, Tensor, None]:
        rows, inner, a, b = ctx.saved_tensors
        flat = grads[0].reshape(-1, grads[0].shape[-1])  # (N, O)
        grad = flat.view(*rows.shape[:-1], flat.shape[-1])
        inner_grad = (b.mT.contiguous() @ grad.mT).mul_(ctx.scale)  # (R, N) or (G, R, N / G)
        x_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = ctx.base.product_back(flat)
            _add_product(x_grad.view_as(rows), inner_grad.mT, a, 1.0)
            x_grad = x_grad.view(*grads[0].shape[:-1], a.shape[-1])
        return x_grad, None, inner_grad @ rows, (inner @ grad).mul_(ctx.scale).mT, None


def _add_product(y: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    """y += scale * left right, of one product or of one a group."""
    if y.dim() == 2:
        y.addmm_(left, right, alpha=scale)
    else:
        y.baddbmm_(left, right, alpha=scale)


class FusedLora(Linear):
    """PEFT's LoRA layer over a linear layer, with its one adapter always on."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """x (..., I) -> (..., O); (B, ..., I) where groups of samples have an A (G, R, I) and a B (G, O, R)."""
        (name,) = self.active_adapters
        a, b = cast(Tensor, self.lora_A[name].weight), cast(Tensor, self.lora_B[name].weight)
        return cast(Tensor, _LoraProduct.apply(x, self.base_layer, a, b, self.scaling[name]))  # type: ignore[no-untyped-call]
