"""One value of a request -> what the model reads of it: a text, an image's pixels, a series. Limits come first.

A value comes from JSON (a string, nested lists) or out of a tensor (bytes, an array). What it says of its size is
checked before anything of that size is made, so that a small request cannot ask for much memory.
Nothing is ever fetched. Knows nothing about HTTP but the status of a refusal.
"""

from __future__ import annotations

import binascii
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fogtune.platform.data.table import Raw
from fogtune.platform.data.values import as_series, image_pixels, series_values
from fogtune.platform.wording import listed, quoted

from .problems import Problem
from .registry import Input, TaskInfo
from .settings import Settings

FORMATS = ("PNG", "JPEG", "WEBP")
_BASE64 = "allowed: base64 of a PNG, JPEG or WebP file"
_NUMBERS = frozenset((int, float))


class Decoder:
    """Decodes the values of one request: all its images have `max_pixels` together, its series `max_series_values`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pixels = 0
        self._numbers = 0

    def sample(self, task: TaskInfo, sample: Mapping[str, Any], field: str) -> dict[str, Raw]:
        """A sample of a task, by modality in the task's order; null is the same as missing.

        Raises:
            Problem: 422 for a modality that the task does not read, or none at all; else as `value`.
        """
        inputs = {declared.name: declared for declared in task.inputs}
        for name in sample:
            if name not in inputs:
                raise _refused(field, f"names {_shown(name)}; allowed of {task.name}: {listed(inputs)}")
        given = [name for name in inputs if sample.get(name) is not None]
        if not given:
            raise _refused(field, f"is empty; allowed: at least one of {listed(inputs)}")
        return {name: self.value(inputs[name], sample[name], f"{field}.{name}") for name in given}

    def value(self, declared: Input, value: Any, field: str) -> Raw:
        """One value.

        Args:
            declared: what the task reads.
            value: text: str, or bytes in UTF-8; image: str in base64, or bytes of a PNG, JPEG or WebP file, or pixels
                (H, W, 3) uint8; series: nested lists or an array, (T, C), or a plain list, which is
                one step, or, of a series of one channel, all steps.
            field: names the value to whoever sent it.

        Raises:
            Problem: 422 for what it is not, 413 for what is too large; one line.
        """
        match declared.kind:
            case "text":
                return _text(value, self._settings.max_text_chars, field)
            case "image":
                return self._image(value, field)
            case "series":
                most = self._settings.max_series_values
                series = _series(value, declared.channels, most - self._numbers, field)
                self._numbers += series.size
                return series

    def _image(self, value: Any, field: str) -> NDArray[np.uint8]:
        if isinstance(value, np.ndarray):
            self._count(value.shape[1], value.shape[0], field)
            return value
        file = value if isinstance(value, bytes) else _from_base64(value, field)
        try:
            with Image.open(io.BytesIO(file), formats=FORMATS) as image:  # reads the header, and the first frame's
                self._count(image.width, image.height, field)
                return image_pixels(image)
        except Problem:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise _too_large(field, "is an image of far more pixels", self._settings.max_pixels) from None
        except UnidentifiedImageError:
            raise _refused(field, f"is no image file ({len(file)} bytes); allowed: PNG, JPEG, WebP") from None
        except ValueError as error:
            raise _refused(field, " ".join(str(error).split())) from None
        except Exception as error:  # Pillow's readers raise of every kind for files that are cut short or made up
            words = " ".join(str(error).split())[:80] or type(error).__name__
            raise _refused(field, f"is a damaged image ({words}); allowed: a whole file") from None

    def _count(self, width: int, height: int, field: str) -> None:
        """Before anything of the size is made. Small files may be large images, and a request may hold many."""
        before, self._pixels = self._pixels, self._pixels + width * height
        if self._pixels > self._settings.max_pixels:
            beside = f" beside others of {before}" if before else ""
            raise _too_large(field, f"is an image of {width} x {height} pixels{beside}", self._settings.max_pixels)


def _text(value: Any, max_chars: int, field: str) -> str:
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise _refused(field, f"is no UTF-8 at byte {error.start}; allowed: text") from None
    if not isinstance(value, str):
        raise _refused(field, f"is {_shown(value)}; allowed: text")
    if len(value) > max_chars:
        raise _too_large(field, f"has {len(value)} characters", max_chars)
    try:
        value.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can escape and no tokenizer takes
        raise _refused(field, f"holds {value[error.start]!a} at {error.start}; allowed: Unicode text") from None
    return value


def _from_base64(value: Any, field: str) -> bytes:
    if not isinstance(value, str):
        raise _refused(field, f"is {_shown(value)}; {_BASE64}")
    start = value[:8].lower()
    if start.startswith(("http://", "https:/")):
        raise _refused(field, f"is a URL, and URLs are not fetched; {_BASE64}")
    if start.startswith("data:"):
        raise _refused(field, f"is a data: URL; {_BASE64}, which is the part after the comma")
    try:
        return binascii.a2b_base64(value, strict_mode=True)
    except ValueError as error:  # binascii.Error, or characters beyond ASCII
        raise _refused(field, f"is no base64 ({error}); {_BASE64}") from None


def _series(value: Any, channels: int | None, max_values: int, field: str) -> NDArray[np.float32]:
    allowed = f"allowed: (T, {channels or 'C'}) finite numbers"
    if isinstance(value, np.ndarray):
        if value.size > max_values:
            raise _too_large(field, f"has {value.size} numbers", max_values)
    else:
        plain = isinstance(value, list) and bool(value) and type(value[0]) in _NUMBERS
        value = [value] if plain else value
        # Looked through before NumPy does: of one long text among many empty ones it would make a huge array.
        if not isinstance(value, list) or not value or not all(type(row) is list for row in value):
            raise _refused(field, f"is {_shown(value)}; {allowed}, as a list of rows")
        if (count := sum(map(len, value))) > max_values:
            raise _too_large(field, f"has {count} numbers", max_values)
        for time, row in enumerate(value):
            if len(row) != len(value[0]):
                raise _refused(field, f"has {len(row)} numbers at {time}, but {len(value[0])} at 0; {allowed}")
            if not _NUMBERS.issuperset(map(type, row)):
                other = next(item for item in row if type(item) not in _NUMBERS)
                raise _refused(field, f"holds {_shown(other)} at {time}; {allowed}")
        try:
            value = np.asarray(value[0] if plain else value, np.float64)
        except OverflowError:
            raise _refused(field, f"holds a whole number beyond all floats; {allowed}") from None
    value = as_series(value, channels)
    if channels is not None and value.ndim == 2 and value.shape[1] != channels:
        raise _refused(field, f"has {value.shape[1]} channels; allowed: {channels}")
    try:
        return series_values(value)
    except ValueError as error:
        raise _refused(field, str(error)) from None


def _shown(value: Any) -> str:
    """A JSON value of whatever size in a few words."""
    match value:
        case list():
            return f"a list of {len(value)}"
        case dict():
            return f"an object of {len(value)}"
        case str():
            return quoted(value[:60])
        case _:
            return "null" if value is None else quoted(value)


def _refused(field: str, problem: str) -> Problem:
    return Problem(422, f"{field} {problem}", field)


def _too_large(field: str, problem: str, limit: int) -> Problem:
    return Problem(413, f"{field} {problem}; allowed: at most {limit}", field)
