"""An encoder of numbers: a vector, or each step of a series, through linear layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from fogtune.platform.config import FeaturesEncoder as FeaturesConfig
from fogtune.platform.data.table import Raw
from fogtune.platform.data.values import as_series
from fogtune.platform.errors import InputError

from .encoder import Encoder
from .rows import RowLinear


class FeaturesEncoder(Encoder):
    """Linear layers, each with a ReLU: a token a step, which knows of no other step and of no position.

    Groups of samples may have their own weights (platform/model/rows.py).
    Legend: B samples, T steps, C channels, D width.
    """

    grouped = True

    def __init__(self, config: FeaturesConfig, width: int, field: str) -> None:
        """`width` is that of the tokens; `field` is where `config` stands in the configuration, for messages."""
        super().__init__()
        self.channels = config.channels
        self._field = field
        self.layers = nn.ModuleList([RowLinear(a, b) for a, b in pairwise((config.channels, *config.hidden, width))])

    def prefixes(self, raws: Sequence[Raw]) -> list[Tensor]:
        """(T, C) float32, as they are, or a vector (C,).

        Raises:
            InputError: a vector or a series does not have the configured channels.
        """
        return [self._checked(raw) for raw in raws]

    def _checked(self, raw: Raw) -> Tensor:
        values = as_series(np.asarray(raw, np.float32), self.channels)
        if values.ndim != 2 or values.shape[1] != self.channels or values.shape[0] == 0:
            problem = f"{self.channels}, but numbers of shape {np.shape(raw)} were read; allowed: their channels"
            raise InputError(f"{self._field}.channels", problem)
        return torch.as_tensor(values, device=next(self.parameters()).device)

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        for layer in self.layers:
            values = torch.relu(layer(values))
        return values, mask
