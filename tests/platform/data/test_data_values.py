"""Images of every mode become RGB; lazy columns behave as sequences; messages stay on one line."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fogtune.platform.data.columns import LazyColumn
from fogtune.platform.data.values import image_pixels


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_common_mode_becomes_rgb(mode: str) -> None:
    pixels = image_pixels(Image.new("RGB", (3, 2), "white").convert(mode))
    assert pixels.shape == (2, 3, 3)
    assert pixels.dtype == np.uint8
    assert pixels.min() > 250


def test_a_palette_with_transparency_becomes_rgb() -> None:
    image = Image.new("P", (2, 2))
    image.putpalette([10, 20, 30])
    image.info["transparency"] = b"\x00"
    assert (image_pixels(image) == [10, 20, 30]).all()


def test_sixteen_bit_greys_keep_their_upper_bits() -> None:
    image = Image.fromarray(np.array([[0, 255, 256, 65535]], dtype=np.uint16))
    assert image_pixels(image)[0].tolist() == [[0] * 3, [0] * 3, [1] * 3, [255] * 3]


def test_floats_have_no_agreed_range() -> None:
    with pytest.raises(ValueError, match="mode F; allowed: 8 or 16 bits"):
        image_pixels(Image.new("F", (2, 2)))


def test_photos_are_turned_upright() -> None:
    image = Image.new("RGB", (3, 2))
    image.getexif()[0x0112] = 6  # rotated by 90 degrees
    assert image_pixels(image).shape == (3, 2, 3)


def test_a_lazy_column_is_a_sequence() -> None:
    column = LazyColumn(3, str)
    assert list(column) == ["0", "1", "2"]
    assert (column[-1], column[np.int64(1)], column[1:]) == ("2", "1", ["1", "2"])
    for row in (3, -4):
        with pytest.raises(IndexError):
            column[row]
