"""Which class encodes which kind of modality.

A new kind is an `Encoder` (.encoder), a line here, and a section in platform/config/model.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fogtune.platform.config import Encoder as EncoderConfig
from fogtune.platform.config import FeaturesEncoder as FeaturesConfig
from fogtune.platform.config import ImageEncoder as ImageConfig
from fogtune.platform.config import SeriesEncoder as SeriesConfig

from .encoder import Encoder
from .features import FeaturesEncoder
from .image import ImageEncoder
from .series import SeriesEncoder

ENCODERS: dict[type[EncoderConfig], Callable[[Any, int, str], Encoder]] = {
    ImageConfig: ImageEncoder,
    SeriesConfig: SeriesEncoder,
    FeaturesConfig: FeaturesEncoder,
}
"""Section of the configuration -> what builds its encoder."""


def build_encoder(config: EncoderConfig, width: int, field: str) -> Encoder:
    """The encoder of a configuration section, with tokens of `width`; `field` names the section in messages."""
    return ENCODERS[type(config)](config, width, field)
