"""A sparse mixture of experts after each fusion block: bottleneck experts and a top-k router.

A sample is routed as a whole, by the mean of its tokens: samples of one kind meet in the same few experts, so a device
needs, trains and sends only those (task-level routing: Kudugunta et al., arXiv 2110.03742). The up-projections start
at zero: the function does not change. Load-balancing loss: Fedus et al., arXiv 2101.03961, eq. 4-6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fogtune.platform.config import Experts as ExpertsConfig


class Expert(nn.Module):
    """x (B, T, D) -> gelu(x down) up, with `up` zero at start. Legend: D width, H bottleneck."""

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(width, bottleneck) * width**-0.5)  # (D, H)
        self.up = nn.Parameter(torch.zeros(bottleneck, width))  # (H, D)


class MixtureLayer(nn.Module):
    """The mixture after one fusion block."""

    def __init__(self, config: ExpertsConfig, width: int) -> None:
        super().__init__()
        self.router = nn.Parameter(torch.randn(width, config.count) * width**-0.5)  # (D, E)
        self.experts = nn.ModuleList([Expert(width, config.width) for _ in range(config.count)])
        self.top_k = config.top_k

    def forward(self, x: Tensor, mask: Tensor, held: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Add the experts' outputs to x.

        Args:
            x: (B, T, D).
            mask: (B, T), 1 where a token is.
            held: the experts at hand, ascending; routing is among these only.

        Returns:
            x plus the gated outputs (B, T, D); samples routed to each expert (E,) int64; load-balancing loss, 1 when
            even and E when all samples go to one expert.
        """
        index = torch.tensor(held)
        weight = mask.to(x.dtype).unsqueeze(-1)  # (B, T, 1)
        mean = (x * weight).sum(1) / weight.sum(1)  # (B, D)
        probabilities = torch.softmax(mean @ self.router[:, index], dim=-1)  # (B, held)
        gates, chosen = probabilities.topk(min(self.top_k, len(held)), dim=-1)  # (B, k)
        gates = gates / gates.sum(-1, keepdim=True)
        experts = [cast(Expert, self.experts[k]) for k in held]
        down = torch.stack([expert.down for expert in experts])[chosen]  # (B, k, D, H)
        up = torch.stack([expert.up for expert in experts])[chosen]  # (B, k, H, D)
        hidden = F.gelu(torch.einsum("btd,bkdh->btkh", x, down)) * gates[:, None, :, None]
        out = x + torch.einsum("btkh,bkhd->btd", hidden, up)
        samples = torch.bincount(chosen.flatten(), minlength=len(held))  # (held,)
        routed = torch.zeros(self.router.shape[1], dtype=torch.int64)
        routed[index] = samples
        balance = (samples / chosen.numel() * probabilities.mean(0)).sum() * len(held)
        return out, routed, balance
