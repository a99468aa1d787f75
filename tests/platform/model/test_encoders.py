"""Every kind of encoder that a configuration may name has its class."""

from __future__ import annotations

from typing import get_args

from fogtune.platform.config import Encoder as EncoderConfig
from fogtune.platform.config import SeriesEncoder as SeriesConfig
from fogtune.platform.model.encoders import ENCODERS, build_encoder
from fogtune.platform.model.series import SeriesEncoder


def test_every_section_has_its_encoder() -> None:
    union = get_args(EncoderConfig)[0]  # Annotated[A | B, ...]
    assert set(ENCODERS) == set(get_args(union))
    built = build_encoder(SeriesConfig(kind="series", channels=2), 24, "model.encoders.imu")
    assert isinstance(built, SeriesEncoder)
