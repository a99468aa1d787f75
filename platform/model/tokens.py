"""Padded tokens: moved to the front, put together, pooled. Legend: B samples, T tokens, D width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

_A_PASS = 128
"""What a pass through transformer blocks costs beside its tokens, in tokens: measured with MiniLM on a processor."""


class Tokens(NamedTuple):
    """Samples of one task at the entrance of the backbone."""

    x: Tensor
    """(B, T, D)."""
    mask: Tensor
    """(B, T), 1 where a token is."""
    origin: Tensor
    """(B, T), the number of the input that a token comes from."""


def in_front(tokens: Tokens) -> Tokens:
    """Move the tokens that are there to the front, in order, T as few as it can.

    Between two modalities of a batch there is padding. For a backbone with relative positions (rotary, windows) it
    would be distance, so that a sample's result would depend on its batch.
    """
    x, mask, origin = tokens
    if bool(mask.all()):
        return tokens
    order = mask.argsort(dim=1, descending=True, stable=True)[:, : int(mask.sum(1).max())]  # (B, T')
    x = x.gather(1, order.unsqueeze(-1).expand(-1, -1, x.shape[2]))
    return Tokens(x, mask.gather(1, order), origin.gather(1, order))


def together(parts: Sequence[Tensor]) -> Tensor:
    """[(B_i, T_i, ...)] -> (sum of B_i, max T_i, ...), zeros behind; a single one as it is."""
    if len(parts) == 1:
        return parts[0]
    padded = parts[0].new_zeros(sum(map(len, parts)), max(part.shape[1] for part in parts), *parts[0].shape[2:])
    start = 0
    for part in parts:
        padded[start : start + len(part), : part.shape[1]] = part
        start += len(part)
    return padded


def passes(shapes: Sequence[tuple[int, int]]) -> list[list[int]]:
    """[(B_i, T_i)] -> which of them go through the blocks together, padded to the longest.

    Many small passes cost as much as much padding: each takes the next shorter ones for as long as all padding in it
    costs less than a further pass.
    """
    result: list[list[int]] = []
    longest = padding = 0
    for i in sorted(range(len(shapes)), key=lambda i: -shapes[i][1]):
        rows, length = shapes[i]
        padding += rows * (longest - length)
        if not result or padding > _A_PASS:
            result.append([])
            longest, padding = length, 0
        result[-1].append(i)
    return result


def pool(x: Tensor, mask: Tensor) -> Tensor:
    """x (B, T, D), mask (B, T) -> (B, D), the mean of the tokens that are there, at the scale of one token."""
    weight = mask.to(x.dtype).unsqueeze(-1)
    return F.layer_norm((x * weight).sum(1) / weight.sum(1), x.shape[-1:])
