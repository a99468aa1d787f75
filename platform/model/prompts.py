"""Prompt tokens of a task: they stand in front of the input, and every token attends to them through a gate.

With the gate at zero the pretrained function is unchanged, and training opens it: the zero-initialised attention of
LLaMA-Adapter (Zhang et al., arXiv 2303.16199, eq. 4-6), here at the entrance of the fusion blocks. Plain prompt tokens
inside the softmax would take attention away from the input from the first step on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Prompt(nn.Module):
    """Legend: B samples, G groups of them, T tokens, P prompt tokens, D width."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(tokens, width) * 0.5)  # (P, D), the scale of normalised hidden states
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D) -> x + tanh(gate) * attention of x over the prompt tokens.

        Groups may have their own: tokens (G, P, D), gate (G, 1).
        """
        flat = x if self.tokens.dim() == 2 else x.reshape(len(self.tokens), -1, x.shape[-1])
        weights = torch.softmax(flat @ self.tokens.mT * x.shape[-1] ** -0.5, dim=-1)  # (..., P)
        return x + (torch.tanh(self.gate).unsqueeze(-1) * (weights @ self.tokens)).view_as(x)
