"""Encoders: one sample of a modality -> tokens of the backbone's width.

An encoder has a frozen part, `prefix`, a pure function of the sample that is computed once and cached, and a trained
part, `forward`, over padded batches of prefixes. A new kind is a class here, a line in `ENCODERS`, and a section in
platform/config/model.py. Legend: B samples, T steps or tokens, C channels, D width of the backbone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
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

from .pretrained import first_line, load_model, loading

EMBEDDED_TRUNK = "embedded:efficientnet-lite0"


class Encoder(nn.Module):
    """Base of all encoders; its parameters, all trained, are the module `encoder/<modality>`."""

    channels: int
    """C of its prefixes."""

    def prefix(self, raw: Raw) -> Tensor:
        """One sample -> (T, C): what lies below the first trained parameter."""
        return self.prefixes([raw])[0]

    def prefixes(self, raws: Sequence[Raw]) -> list[Tensor]:
        """Samples -> (T, C) of each; as if each were alone, but for rounding."""
        raise NotImplementedError

    def num_tokens(self, length: int) -> int:
        """Tokens of a prefix of `length`."""
        return length

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Prefixes, standardised, to tokens; what a sample becomes does not depend on its padding.

        Args:
            values: (B, T, C), zeros behind the end of a sample.
            mask: (B, T) int64, ones, then zeros.

        Returns:
            Tokens (B, T', D), anything where nothing is, and their mask (B, T') int64.
        """
        raise NotImplementedError


class ImageEncoder(Encoder):
    """A frozen vision trunk's feature map, then a linear projector with learned positions.

    The projector is LLaVA's (Liu et al., arXiv 2304.08485); what it adds is the position, for a backbone that has no
    notion of two dimensions.
    """

    def __init__(self, config: ImageConfig, width: int, field: str) -> None:
        """Load the trunk; `field` is where `config` stands in the configuration, for messages.

        Raises:
            InputError: the trunk cannot be loaded, or does not take images of the configured size.
            AssetMissing: the embedded trunk is not installed.
        """
        super().__init__()
        self._size_px = config.size_px
        # In a list, so that the frozen trunk is no part of this module's parameters.
        self._trunk = [_load_trunk(config.trunk, f"{field}.trunk")]
        try:
            tokens, self.channels = self.prefix(np.zeros((8, 8, 3), np.uint8)).shape
        except Exception as error:  # of any kind: a model that nobody has tried here, maybe not one of images
            problem = f"{config.trunk!r} does not take images of size_px {config.size_px} ({first_line(error)})"
            raise InputError(field, f"{problem}; allowed: a vision model and the size that it takes") from error
        self.project = nn.Linear(self.channels, width)
        self.position = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.norm = nn.LayerNorm(width)

    @torch.no_grad()
    def prefixes(self, raws: Sequence[Raw]) -> list[Tensor]:
        """(H, W, 3) uint8, each of its own size -> (T, C), the trunk's maps, row by row."""
        pixels = torch.cat([self._resized(raw) for raw in raws])
        return [tokens.clone() for tokens in self._trunk[0](pixels)]  # so that none keeps all in memory

    def _resized(self, raw: Raw) -> Tensor:
        """(H, W, 3) uint8 -> (1, 3, S, S) in 0..1."""
        device = cast(Tensor, self._trunk[0].mean).device
        pixels = torch.tensor(np.asarray(raw), dtype=torch.float32, device=device).permute(2, 0, 1)[None] / 255.0
        size = (self._size_px, self._size_px)
        return F.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ImageEncoder:
        """What `to(device)` and its kin come down to: the trunk, out of torch's sight in its list, goes along."""
        self._trunk[0]._apply(fn, recurse)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.norm(self.project(values) + self.position), mask


class SeriesEncoder(Encoder):
    """Three strided 1-D convolutions, each with group norm over the whole sample: T steps -> T/8 tokens with positions.

    Serves sensor series, and sound as a log-mel spectrogram.
    """

    def __init__(self, config: SeriesConfig, width: int, field: str) -> None:
        super().__init__()
        self.channels = config.channels
        self._field = field
        widths = (config.channels, config.width, 2 * config.width, width)
        pad = config.kernel // 2
        self.convolutions = nn.ModuleList(
            [nn.Conv1d(a, b, config.kernel, stride=2, padding=pad) for a, b in itertools.pairwise(widths)]
        )
        self.norms = nn.ModuleList([nn.GroupNorm(1, b) for b in widths[1:]])
        self.norm = nn.LayerNorm(width)

    def prefixes(self, raws: Sequence[Raw]) -> list[Tensor]:
        """(T, C) float32, as they are.

        Raises:
            InputError: a series does not have the configured channels.
        """
        return [self._checked(raw) for raw in raws]

    def _checked(self, raw: Raw) -> Tensor:
        series = torch.as_tensor(np.asarray(raw), dtype=torch.float32, device=self.norm.weight.device)
        if series.dim() != 2 or series.shape[1] != self.channels or series.shape[0] == 0:
            problem = f"{self.channels}, but a series of shape {tuple(series.shape)} was read; allowed: its channels"
            raise InputError(f"{self._field}.channels", problem)
        return series

    def num_tokens(self, length: int) -> int:
        return -(-length // 8)

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        x = values.transpose(1, 2)  # (B, C, T)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            # Behind the end are zeros, as the convolution's own padding has them behind the longest series.
            x = convolution(x * mask.unsqueeze(1))
            mask = mask[:, ::2]
            x = F.gelu(_group_norm(x, mask, cast(nn.GroupNorm, norm)))
        tokens = x.transpose(1, 2)  # (B, T', D)
        return self.norm(tokens + _sinusoids(tokens.shape[1], tokens.shape[2], tokens.device)), mask


ENCODERS: dict[type[EncoderConfig], Callable[[Any, int, str], Encoder]] = {
    ImageConfig: ImageEncoder,
    SeriesConfig: SeriesEncoder,
}
"""Section of the configuration -> what builds its encoder."""


def build_encoder(config: EncoderConfig, width: int, field: str) -> Encoder:
    """The encoder of a configuration section, with tokens of `width`; `field` names the section in messages."""
    return ENCODERS[type(config)](config, width, field)


def _group_norm(x: Tensor, mask: Tensor, norm: nn.GroupNorm) -> Tensor:
    """`norm`, of one group, over the steps that are there: x (B, C, T), mask (B, T) -> (B, C, T)."""
    if bool(mask.all()):
        return cast(Tensor, norm(x))  # the same, by a faster kernel
    there = mask.unsqueeze(1).to(x.dtype)  # (B, 1, T)
    count = there.sum(-1, keepdim=True) * x.shape[1]  # (B, 1, 1)
    centred = x - (x * there).sum((1, 2), keepdim=True) / count
    variance = ((centred * there) ** 2).sum((1, 2), keepdim=True) / count
    return centred * (variance + norm.eps).rsqrt() * norm.weight.unsqueeze(-1) + norm.bias.unsqueeze(-1)


def _sinusoids(length: int, width: int, device: torch.device) -> Tensor:
    """Positions of Vaswani et al. (arXiv 1706.03762), (length, width)."""
    rates = torch.exp(torch.arange(0, width, 2, device=device) * (-np.log(10000.0) / width))
    angle = torch.arange(length, device=device)[:, None] * rates
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
    return _Trunk(_EfficientNetMap(network), [0.498] * 3, [0.502] * 3)  # (x - 127) / 128, of pixels in 0..255


def _load_trunk(name: str, field: str) -> _Trunk:
    if name == EMBEDDED_TRUNK:
        return _efficientnet()
    if name.startswith("embedded:"):
        raise InputError(field, f"{name!r}; embedded is only {EMBEDDED_TRUNK!r}")
    with loading(field, name, f"{EMBEDDED_TRUNK}, a hub name or a path"):
        network = load_model(name)
    return _vision_model(name, network)


def _vision_model(name: str, network: Any) -> _Trunk:
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        pixels, _ = ImageProcessingMixin.get_image_processor_dict(name)
    except OSError:
        pixels = {}  # published without a preprocessor: the common default
    network = getattr(network, "vision_model", network)  # of CLIP and its kin, which have a tower of text beside it
    return _Trunk(network, pixels.get("image_mean") or [0.5] * 3, pixels.get("image_std") or [0.5] * 3)
