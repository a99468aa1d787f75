"""What a single value must look like before it enters a table, whichever source it comes from.

All functions raise ValueError with the words that follow the name of the row and the column; the sources, which know
that name, turn it into an InputError.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..wording import quoted
from .table import Label


def image_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """RGB pixels, (H, W, 3), upright by the EXIF orientation; 16-bit greys keep their upper 8 bits.

    Transparency is dropped, not blended. Raises ValueError for pixels of 32-bit integers or floats, which have no
    agreed range, and OSError for files that are cut short.
    """
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ValueError(f"has pixels of mode {image.mode}; allowed: 8 or 16 bits a channel")
    upright = ImageOps.exif_transpose(image)
    if "transparency" in upright.info:
        upright = upright.convert("RGBA")  # Pillow's own advice for palettes with transparency
    return np.array(upright.convert("RGB"))


def series_values(value: Any, channels: int | None = None) -> NDArray[np.float32]:
    """A series as (T, C) float32, or a plain list as (N,); `channels` is the C that it must have, None for any."""
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError("has rows of unequal length; allowed: T x C numbers") from None
    if array.dtype.kind not in "fiu":
        raise ValueError(f"holds {array.dtype} values; allowed: T x C numbers")
    if array.ndim not in (1, 2) or 0 in array.shape:
        raise ValueError(f"has shape {array.shape}; allowed: (T, C) or (N,), none of them 0")
    if channels is not None and array.ndim == 2 and array.shape[1] != channels:
        raise ValueError(f"has {array.shape[1]} channels; allowed: {channels}, as in the first row")
    with np.errstate(over="ignore"):
        series = array.astype(np.float32)
    if not np.isfinite(series).all():
        where = np.argwhere(~np.isfinite(series))[0].tolist()
        raise ValueError(f"holds {array[tuple(where)]} at {where}; allowed: finite 32-bit numbers")
    return series


def as_series(values: NDArray[Any], channels: int | None) -> NDArray[Any]:
    """What `channels` make of a plain list (N,): one step, or N steps of one channel; of other shapes nothing."""
    if values.ndim != 1:
        return values
    return values[:, None] if channels == 1 else values[None]


def channels_of(series: NDArray[np.float32]) -> int | None:
    """C of a series (T, C); None of a plain list, whose length may be anything."""
    return series.shape[1] if series.ndim == 2 else None


def label_value(value: Any) -> Label:
    """A label from a JSON-like value: text and whole numbers are classes, other numbers numbers, lists label sets.

    Whole numbers become text, so that a class reads alike from CSV and JSON; a regression head reads it as a number.
    """
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case int():
            return str(value)
        case float():
            if not math.isfinite(value):
                raise ValueError(f"is {value}; allowed: finite numbers")
            return value
        case list() | tuple():
            if not all(isinstance(item, str | int) for item in value):
                raise ValueError(f"is {quoted(value)}; allowed in a list of labels: text and whole numbers")
            return tuple(dict.fromkeys(str(label_value(item)) for item in value))
        case None:
            raise ValueError("is missing; allowed: text, a number, or a list of labels")
        case _:
            raise ValueError(f"is {quoted(value)}; allowed: text, a number, or a list of labels")
