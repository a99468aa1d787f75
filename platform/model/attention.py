"""Attention of a Hugging Face model by torch's kernel for processors, in fp32 and by torch's own library of products.

The kernel takes many small products. Where those are oneDNN's (matmul.py), for each of which it has to be called,
attention takes up to eight times as long; in bf16 longer than in fp32, and its backward pass nine times as long on a
processor with matrix units (AMX). A model looks its way of attention up by name, in transformers' table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .matmul import chosen, using

_NAME = "sdpa_small_products"

Attend = Callable[..., Tensor]
"""(query, key, value) -> what attention makes of them."""


def use_small_products(model: Any) -> None:
    """Let a model attend so, if it attends by `torch.nn.functional.scaled_dot_product_attention`; else leave it."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(_NAME, attention)
        AttentionMaskInterface.register(_NAME, sdpa_mask)
        model.set_attn_implementation(_NAME)


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """What transformers' `sdpa_attention_forward` computes; query, key and value are (B, heads, T, width of a head)."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if query.device.type != "cpu" or (chosen() == "default" and query.dtype == torch.float32):
        return sdpa_attention_forward(module, query, key, value, mask, **options)[0], None
    scores = mask.float() if mask is not None and mask.is_floating_point() else mask
    given = (query.float(), key.float(), value.float())

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return sdpa_attention_forward(module, query, key, value, scores, **options)[0]

    with torch.autocast(query.device.type, enabled=False), using("default"):
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
            result = cast(Tensor, _SmallProducts.apply(attend, *given))  # type: ignore[no-untyped-call]
        else:
            result = attend(*given)
    return result.to(query.dtype), None


class _SmallProducts(Function):
    """A function that is differentiated with torch's own library as well."""

    @staticmethod
    def forward(ctx: Any, attend: Attend, *given: Tensor) -> Tensor:
        ctx.given = [tensor.detach().requires_grad_() for tensor in given]
        with torch.enable_grad():
            ctx.result = attend(*ctx.given)
        return cast(Tensor, ctx.result.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        with using("default"):
            return None, *torch.autograd.grad(ctx.result, ctx.given, grads[0])
