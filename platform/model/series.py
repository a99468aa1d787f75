"""The encoder of series: sensors' readings, or sound as a log-mel spectrogram."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fogtune.platform.config import SeriesEncoder as SeriesConfig
from fogtune.platform.data.table import Raw
from fogtune.platform.data.values import as_series
from fogtune.platform.errors import InputError

from .encoder import Encoder
from .rows import RowLayerNorm, linear, scaled

STRIDE = 2
SHRINK = 8  # by three convolutions


class SeriesEncoder(Encoder):
    """Three strided 1-D convolutions, each with group norm over the whole sample: T steps -> T/8 tokens with positions.

    Groups of samples may have their own weights (platform/model/rows.py).
    Legend: B samples, G groups of them, T steps, C channels, K width of the kernel, O channels that come out.
    """

    grouped = True

    def __init__(self, config: SeriesConfig, width: int, field: str) -> None:
        """`width` is that of the tokens; `field` is where `config` stands in the configuration, for messages."""
        super().__init__()
        self.channels = config.channels
        self._field = field
        widths = (config.channels, config.width, 2 * config.width, width)
        self.convolutions = nn.ModuleList([_Convolution(a, b, config.kernel) for a, b in pairwise(widths)])
        self.norms = nn.ModuleList([_SampleNorm(1, b) for b in widths[1:]])
        self.norm = RowLayerNorm(width)

    def prefixes(self, raws: Sequence[Raw]) -> list[Tensor]:
        """(T, C) float32, as they are, or a plain list (`as_series`).

        Raises:
            InputError: a series does not have the configured channels.
        """
        return [self._checked(raw) for raw in raws]

    def _checked(self, raw: Raw) -> Tensor:
        values = as_series(np.asarray(raw), self.channels)
        series = torch.as_tensor(values, dtype=torch.float32, device=self.norm.weight.device)
        if series.dim() != 2 or series.shape[1] != self.channels or series.shape[0] == 0:
            problem = f"{self.channels}, but a series of shape {np.shape(raw)} was read; allowed: its channels"
            raise InputError(f"{self._field}.channels", problem)
        return series

    def num_tokens(self, length: int) -> int:
        return -(-length // SHRINK)

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        x, there = values, None if bool(mask.all()) else mask.unsqueeze(-1).to(values.dtype)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            # Behind the end are zeros, as the convolution's own padding has them behind the longest series.
            x = convolution(x if there is None else x * there)
            there = None if there is None else there[:, ::STRIDE]
            x = F.gelu(norm(x, there))
        return self.norm(x + _sinusoids(x.shape[1], x.shape[2], x.device)), mask[:, ::SHRINK]


class _Convolution(nn.Conv1d):
    """torch's, of every other step: (B, T, C) -> (B, T', O), with weights (O, C, K) or those of groups, (G, O, C, K).

    Windows of steps, side by side, in one product: with few steps a sample, torch's convolution takes three times as
    long, most of it for gradients.
    """

    def __init__(self, channels: int, width: int, kernel: int) -> None:
        super().__init__(channels, width, kernel, stride=STRIDE, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight.shape[-1]
        windows = F.pad(x, (0, 0, kernel // 2, kernel // 2)).unfold(1, kernel, STRIDE)  # (B, T', C, K)
        return linear(windows.flatten(-2), self.weight.flatten(-2), self.bias)


class _SampleNorm(nn.GroupNorm):
    """torch's group norm of one group, over all steps that are there: (B, T, C), `there` (B, T, 1) -> (B, T, C)."""

    def forward(self, x: Tensor, there: Tensor | None) -> Tensor:  # type: ignore[override]
        """`there` is 1 where a step is, else 0; None where all are."""
        if there is None:
            return scaled(F.layer_norm(x, x.shape[1:], eps=self.eps), self.weight, self.bias)
        count = there.sum(1, keepdim=True) * x.shape[2]  # (B, 1, 1)
        centred = x - (x * there).sum((1, 2), keepdim=True) / count
        variance = ((centred * there) ** 2).sum((1, 2), keepdim=True) / count
        return scaled(centred * (variance + self.eps).rsqrt(), self.weight, self.bias)


def _sinusoids(length: int, width: int, device: torch.device) -> Tensor:
    """Positions of Vaswani et al. (arXiv 1706.03762), (length, width)."""
    rates = torch.exp(torch.arange(0, width, 2, device=device) * (-np.log(10000.0) / width))
    angle = torch.arange(length, device=device)[:, None] * rates
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :width]
