"""A sparse mixture of experts after each fusion block: bottleneck experts and a top-k router.

A sample is routed as a whole, by the mean of its tokens: samples of one kind meet in the same few experts, so a device
needs, trains and sends only those (task-level routing: Kudugunta et al., arXiv 2110.03742). The up-projections start
at zero: the function does not change. Load-balancing loss: Fedus et al., arXiv 2101.03961, eq. 4-6. Devices that train
together, each with its own router and experts, are told their counts and losses apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fogtune.platform.config import Experts as ExpertsConfig

from .device import moved
from .rows import Versions, linear


@dataclass(frozen=True)
class Routing:
    """Whose rows a batch has. Legend: V devices."""

    devices: Tensor
    """(B,) int64, 0 to V - 1."""
    held: Tensor
    """(V, E), whether a device holds an expert."""

    def told(self, index: Tensor, chosen: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """Samples routed to each expert, (V, E) int64, and the load-balancing loss, (V,), of each device.

        Args:
            index: (held,), the number of each expert at hand.
            chosen: (B, k), places in `index`.
            probabilities: (B, held).
        """
        count, experts = self.held.shape
        rows = torch.bincount(self.devices, minlength=count).clamp(min=1)  # (V,)
        cells = self.devices.unsqueeze(1) * experts + index[chosen]
        routed = torch.bincount(cells.flatten(), minlength=count * experts).view(count, experts)
        mean = probabilities.new_zeros(count, len(index)).index_add(0, self.devices, probabilities) / rows[:, None]
        share = routed[:, index] / (rows * chosen.shape[1])[:, None]
        return routed, (share * mean).sum(-1) * self.held.sum(-1)


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

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        held: Sequence[int],
        versions: Mapping[int, Versions] | None = None,
        routing: Routing | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Add the experts' outputs to x. Groups of rows may have their own router, (G, D, E).

        Args:
            x: (B, T, D).
            mask: (B, T), 1 where a token is.
            held: the experts at hand, ascending; routing is among these only.
            versions: expert -> its `down` and `up` of several versions, where rows differ; with `routing` of all held.
            routing: whose rows they are; None if all are one device's, which holds all that are at hand.

        Returns:
            x plus the gated outputs (B, T, D); samples routed to each expert, (E,) int64 or (V, E) by device;
            load-balancing loss, 1 when even and E when all samples go to one expert, () or (V,).
        """
        index = moved(torch.tensor(held), x.device)
        weight = mask.to(x.dtype).unsqueeze(-1)  # (B, T, 1)
        mean = (x * weight).sum(1) / weight.sum(1)  # (B, D)
        router = self.router[..., index]
        scores = mean @ router if router.dim() == 2 else linear(mean, router.mT)
        if routing is not None:
            scores = scores.masked_fill(~routing.held[routing.devices][:, index], -torch.inf)
        probabilities = torch.softmax(scores, dim=-1)  # (B, held)
        gates, chosen = probabilities.topk(min(self.top_k, len(held)), dim=-1)  # (B, k)
        gates = gates / gates.sum(-1, keepdim=True)
        if versions and routing is not None:
            place = (routing.devices.unsqueeze(1), chosen)
            down, up = (torch.stack([versions[k].tensors[n] for k in held], 1)[place] for n in ("down", "up"))
        elif versions:
            down, up = self._of_rows(held, chosen, versions)
        else:
            experts = [cast(Expert, self.experts[k]) for k in held]
            down = torch.stack([expert.down for expert in experts])[chosen]  # (B, k, D, H)
            up = torch.stack([expert.up for expert in experts])[chosen]  # (B, k, H, D)
        hidden = F.gelu(torch.einsum("btd,bkdh->btkh", x, down)) * gates[:, None, :, None]
        out = x + torch.einsum("btkh,bkhd->btd", hidden, up)
        if routing is not None:
            return out, *routing.told(index, chosen, probabilities)
        samples = torch.bincount(chosen.flatten(), minlength=len(held))  # (held,)
        routed = torch.zeros(self.router.shape[-1], dtype=torch.int64, device=x.device)
        routed[index] = samples
        balance = (samples / chosen.numel() * probabilities.mean(0)).sum() * len(held)
        return out, routed, balance

    def _of_rows(self, held: Sequence[int], chosen: Tensor, versions: Mapping[int, Versions]) -> tuple[Tensor, Tensor]:
        """`down` (B, k, D, H) and `up` (B, k, H, D) of each row's chosen experts: no others are gathered."""
        down, up = [], []
        for row, places in enumerate(chosen.tolist()):
            for k in (held[place] for place in places):
                if k in versions:
                    tensors, version = versions[k].tensors, versions[k].index[row]
                    down.append(tensors["down"][version])
                    up.append(tensors["up"][version])
                else:
                    expert = cast(Expert, self.experts[k])
                    down.append(expert.down)
                    up.append(expert.up)
        shape = chosen.shape
        return torch.stack(down).view(*shape, *down[0].shape), torch.stack(up).view(*shape, *up[0].shape)
