"""Products with frozen weights, by the fastest exact fp32 library of the processor.

torch's default fp32 product (MKL) runs at less than half the speed of oneDNN on AMD processors, and both are in the
same wheel. A frozen weight needs no gradient, so one small autograd function over oneDNN's linear is enough.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def best_matmul() -> str:
    """`onednn` on AMD processors that have it, else `default`: a property of the machine, not a measurement, so that
    all processes of a machine decide alike."""
    cpuinfo = Path("/proc/cpuinfo")
    is_amd = cpuinfo.exists() and "AuthenticAMD" in cpuinfo.read_text()
    return "onednn" if is_amd and torch.backends.mkldnn.is_available() else "default"  # type: ignore[no-untyped-call]


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (..., I), weight (O, I), bias (O) -> (..., O), over oneDNN on a processor, and without a gradient."""
    if x.device.type != "cpu":
        return F.linear(x, weight, bias)
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""))


class _OneDnnProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, weight_t: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight_t)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (weight_t,) = ctx.saved_tensors
        return product(grads[0], weight_t, None), None, None, None


class FrozenLinear(nn.Linear):
    """A linear layer whose weight never trains, over oneDNN. Shapes as `nn.Linear`: (..., in) -> (..., out).

    A transposed copy of the weight serves the backward pass.
    """

    weight_t: Tensor

    @classmethod
    def of(cls, linear: nn.Linear) -> FrozenLinear:
        """Share the parameters of `linear`, frozen."""
        frozen = cls(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        frozen.weight, frozen.bias = linear.weight, linear.bias
        frozen.requires_grad_(False)
        frozen.register_buffer("weight_t", linear.weight.detach().t().contiguous(), persistent=False)
        return frozen

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, _OneDnnProduct.apply(x, self.weight, self.weight_t, self.bias))  # type: ignore[no-untyped-call]


def freeze_linears(module: nn.Module) -> None:
    """Replace every plain linear layer below `module` by a `FrozenLinear`."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, FrozenLinear.of(child))
