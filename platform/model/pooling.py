"""What the head of a task with several inputs sees: each modality pooled for itself, and products between them.

A linear head on the mean of all tokens can add up what a question says and what an image shows, but not compare them.
Low-rank bilinear pooling (Kim et al., arXiv 1610.04325, eq. 8) multiplies them; multiplying the product by the question
once more (Kim et al., multimodal residual learning, arXiv 1606.01455) lets the question decide what the comparison
means, as "is there no circle?" does. Legend: B samples, D width, R rank.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .by_name import ByName
from .rows import RowLinear


class BilinearPooling(nn.Module):
    """The pools of a task's inputs side by side, then their product, read again by the first input, which asks."""

    def __init__(self, inputs: tuple[str, ...], width: int, rank: int) -> None:
        super().__init__()
        self._inputs = inputs
        self._rank = rank
        self.project = ByName()
        for modality in inputs:
            self.project[modality] = RowLinear(width, rank)
        self.again = RowLinear(width, rank)
        self.mix = RowLinear(rank, rank)
        self.width = width * len(inputs) + rank

    def forward(self, pools: Mapping[str, Tensor]) -> Tensor:
        """Modality -> (B, D), of at least one -> (B, `width`), zeros in place of what is missing and its product."""
        some = next(iter(pools.values()))
        product = some.new_zeros(len(some), self._rank)
        if pools.keys() >= set(self._inputs):
            product = _normed(torch.stack([torch.tanh(self.project[m](pools[m])) for m in self._inputs]).prod(0))
            product = _normed(torch.tanh(self.mix(product)) * torch.tanh(self.again(pools[self._inputs[0]])))
        return torch.cat([*(pools.get(m, torch.zeros_like(some)) for m in self._inputs), product], dim=-1)


def _normed(product: Tensor) -> Tensor:
    """(B, R) at the scale of the pools: products of numbers below one are small, and what is small learns slowly."""
    return F.layer_norm(product, product.shape[-1:])
