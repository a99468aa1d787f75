"""Encoders: one sample of a modality -> tokens of the backbone's width.

An encoder has a frozen part, `prefix`, a pure function of the sample that is computed once and cached, and a trained
part, `forward`, over padded batches of prefixes. A new modality needs a class here and its section in the
configuration. Legend: B samples, T steps or tokens, C channels, D width of the backbone.
"""

from __future__ import annotations

import itertools
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fogtune.platform.config import Encoder as EncoderConfig
from fogtune.platform.config import ImageEncoder as ImageConfig
from fogtune.platform.config import SeriesEncoder as SeriesConfig
from fogtune.platform.data.table import Raw
from fogtune.platform.errors import InputError


class Encoder(nn.Module):
    """Base of all encoders; its parameters are the module `encoder/<modality>`."""

    def prefix(self, raw: Raw) -> Tensor:
        """One sample -> (T, C): what lies below the first trained parameter."""
        raise NotImplementedError

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """values (B, T, C), mask (B, T) -> tokens (B, T', D), mask (B, T')."""
        raise NotImplementedError


class ImageEncoder(Encoder):
    """A frozen vision trunk's feature map, then a linear projector with learned positions (as in LLaVA)."""

    def __init__(self, config: ImageConfig, width: int) -> None:
        super().__init__()
        self._size_px = config.size_px
        # In a list, so that the frozen trunk is no part of this module's parameters.
        self._trunk = [_efficientnet() if config.trunk.startswith("embedded:") else _vision_model(config.trunk)]
        tokens, channels = self.prefix(np.zeros((8, 8, 3), np.uint8)).shape
        self.project = nn.Linear(channels, width)
        self.position = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.norm = nn.LayerNorm(width)

    @torch.no_grad()
    def prefix(self, raw: Raw) -> Tensor:
        """(H, W, 3) uint8 -> (T, C), the trunk's map, row by row."""
        pixels = torch.tensor(np.asarray(raw), dtype=torch.float32).permute(2, 0, 1)[None] / 255.0
        size = (self._size_px, self._size_px)
        pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)
        tokens: Tensor = self._trunk[0](pixels)[0]
        return tokens

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.norm(self.project(values) + self.position), mask


class SeriesEncoder(Encoder):
    """Three strided 1-D convolutions with group norm: T steps -> T/8 tokens with sinusoidal positions.

    Serves sensor series, and sound as a log-mel spectrogram.
    """

    def __init__(self, config: SeriesConfig, width: int) -> None:
        super().__init__()
        self._channels = config.channels
        widths = (config.channels, config.width, 2 * config.width, width)
        pad = config.kernel // 2
        self.convolutions = nn.ModuleList(
            [nn.Conv1d(a, b, config.kernel, stride=2, padding=pad) for a, b in itertools.pairwise(widths)]
        )
        self.norms = nn.ModuleList([nn.GroupNorm(1, b) for b in widths[1:]])
        self.norm = nn.LayerNorm(width)

    def prefix(self, raw: Raw) -> Tensor:
        """(T, C) float32, as it is.

        Raises:
            InputError: the series does not have the configured channels.
        """
        series = torch.as_tensor(np.asarray(raw), dtype=torch.float32)
        if series.dim() != 2 or series.shape[1] != self._channels or series.shape[0] == 0:
            raise InputError(
                "model.encoders.*.channels", f"{self._channels}, but a series of shape {tuple(series.shape)} was read"
            )
        return series

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        x = values.transpose(1, 2)  # (B, C, T)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.gelu(norm(convolution(x)))
        tokens = x.transpose(1, 2)  # (B, T', D)
        tokens = self.norm(tokens + _sinusoids(tokens.shape[1], tokens.shape[2]))
        lengths = mask.sum(1)
        for _ in self.convolutions:
            lengths = (lengths + 1) // 2
        return tokens, (torch.arange(tokens.shape[1]) < lengths[:, None]).to(mask.dtype)


def build_encoder(config: EncoderConfig, width: int) -> Encoder:
    """The encoder of a configuration section, with tokens of `width`."""
    return ImageEncoder(config, width) if isinstance(config, ImageConfig) else SeriesEncoder(config, width)


def _sinusoids(length: int, width: int) -> Tensor:
    """Positions of Vaswani et al. (arXiv 1706.03762), (length, width)."""
    angle = torch.arange(length)[:, None] * torch.exp(torch.arange(0, width, 2) * (-np.log(10000.0) / width))
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :width]


class _Trunk(nn.Module):
    """A frozen network and the normalisation of its pixels; (B, 3, S, S) in 0..1 -> (B, T, C)."""

    def __init__(self, network: Any, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        output = self.network((pixels - cast(Tensor, self.mean)) / cast(Tensor, self.std))
        features = output if isinstance(output, Tensor) else output.last_hidden_state
        return features.flatten(2).transpose(1, 2) if features.dim() == 4 else features


class _EfficientNetMap(nn.Module):
    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network.extract_features(pixels)  # type: ignore[no-any-return]


def _efficientnet() -> _Trunk:
    from efficientnet_lite_pytorch import EfficientNet

    from fogtune.platform.data.assets import efficientnet_weights

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(efficientnet_weights(), map_location="cpu", weights_only=True))
    return _Trunk(_EfficientNetMap(network), [0.498] * 3, [0.502] * 3)


def _vision_model(name: str) -> _Trunk:
    from transformers import AutoModel
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        network = AutoModel.from_pretrained(name, dtype=torch.float32, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise InputError(
            "model.encoders.image.trunk",
            f"{name!r} cannot be loaded ({str(error).strip().splitlines()[0]}); "
            "give embedded:efficientnet-lite0, a hub name or a path",
        ) from error
    try:
        pixels, _ = ImageProcessingMixin.get_image_processor_dict(name)
    except OSError:
        pixels = {}  # published without a preprocessor: the common default
    return _Trunk(network, pixels.get("image_mean", [0.5] * 3), pixels.get("image_std", [0.5] * 3))
