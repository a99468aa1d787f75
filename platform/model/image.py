"""The encoder of images: a frozen vision trunk, and a trained projector of what it makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fogtune.platform.config import ImageEncoder as ImageConfig
from fogtune.platform.data.table import Raw
from fogtune.platform.errors import InputError

from .encoder import Encoder
from .fingerprint import described_config, fingerprint
from .pretrained import first_line, load_model, loading
from .rows import RowLayerNorm, RowLinear
from .same_bits import SameBits

EMBEDDED_TRUNK = "embedded:efficientnet-lite0"


class ImageEncoder(Encoder):
    """A frozen vision trunk's feature map, then a linear projector with learned positions.

    The projector is LLaVA's (Liu et al., arXiv 2304.08485); what it adds is the position, for a backbone that has no
    notion of two dimensions. Legend: B samples, G groups of them, T tokens, C channels of the map, D width.
    """

    grouped = True

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
        self._same_bits = SameBits()
        try:
            tokens, self.channels = self.prefix(np.zeros((8, 8, 3), np.uint8)).shape
        except Exception as error:  # of any kind: a model that nobody has tried here, maybe not one of images
            problem = f"{config.trunk!r} does not take images of size_px {config.size_px} ({first_line(error)})"
            raise InputError(field, f"{problem}; allowed: a vision model and the size that it takes") from error
        self.project = RowLinear(self.channels, width)
        self.position = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.norm = RowLayerNorm(width)

    @torch.no_grad()
    def prefixes(self, raws: Sequence[Raw]) -> list[Tensor]:
        """(H, W, 3) uint8, each of its own size -> (T, C), the trunk's maps, row by row."""
        return self._maps([self._resized(raw) for raw in raws])

    @torch.no_grad()
    def prefixes_exactly(self, raws: Sequence[Raw]) -> list[Tensor]:
        """`prefixes` with the bits of `prefix`."""
        pixels = [self._resized(raw) for raw in raws]
        return self._same_bits(pixels, lambda one: (one.shape, one.device), self._maps)

    def fingerprint(self) -> str:
        """Of the trunk and the size of its images."""
        trunk = self._trunk[0]
        described = [self._size_px, str(trunk), described_config(getattr(trunk.network, "config", None))]
        return fingerprint(trunk.state_dict(), described)

    def _maps(self, pixels: Sequence[Tensor]) -> list[Tensor]:
        """(1, 3, S, S) of each -> (T, C) of each."""
        maps = self._trunk[0](torch.cat(list(pixels)))
        return [tokens.clone() for tokens in maps]  # so that none keeps all in memory

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
        x = self.project(values)
        if self.position.dim() == 3:  # (G, T, D), of groups
            x = (x.view(len(self.position), -1, *x.shape[1:]) + self.position.unsqueeze(1)).view_as(x)
            return self.norm(x), mask
        return self.norm(x + self.position), mask


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


def _efficientnet() -> _Trunk:
    from efficientnet_lite_pytorch import EfficientNet

    from fogtune.platform.data.assets import efficientnet_weights

    from .efficientnet import FoldedEfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(efficientnet_weights(), map_location="cpu", weights_only=True))
    return _Trunk(FoldedEfficientNet(network), [0.498] * 3, [0.502] * 3)  # (x - 127) / 128, of pixels in 0..255


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
