"""A value of a request becomes what training saw, or is refused in one line, before it can cost anything."""

from __future__ import annotations

import base64
import io
import math
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fogtune.platform.data.table import Raw
from fogtune.platform.data.values import image_pixels
from fogtune.serve.decoding import Decoder
from fogtune.serve.problems import Problem
from fogtune.serve.registry import Input, TaskInfo
from fogtune.serve.settings import Settings

SETTINGS = Settings(run="run", max_pixels=200, max_series_values=12, max_text_chars=10)
TEXT = Input("text", "text", None)
IMAGE = Input("image", "image", None)
IMU = Input("imu", "series", 2)
TASK = TaskInfo("vqa", "classification", (TEXT, IMAGE, IMU), ("yes", "no"), {})


def picture(width: int = 10, height: int = 20, mode: str = "RGB") -> Image.Image:
    """No two rows and no two columns alike."""
    values = np.arange(width * height, dtype=np.uint8).reshape(height, width)
    return Image.fromarray(np.stack([values, values[::-1], values[:, ::-1]], -1)).convert(mode)


def file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be large."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


def refusal(declared: Input, value: Any, status: int = 422) -> str:
    field = f"inputs.0.{declared.name}"
    with pytest.raises(Problem) as refused:
        Decoder(SETTINGS).value(declared, value, field)
    assert refused.value.status == status
    assert refused.value.field == field
    assert refused.value.detail.startswith(f"{field} ")
    assert "\n" not in refused.value.detail
    assert len(refused.value.detail) < 200
    return refused.value.detail.removeprefix(f"{field} ")


def decoded_or_refused(declared: Input, value: Any) -> Raw | Problem:
    """Nothing else may happen."""
    try:
        return Decoder(SETTINGS).value(declared, value, "f")
    except Problem as problem:
        refused = problem
    assert refused.status in (413, 422)
    assert "\n" not in refused.detail
    assert len(refused.detail) < 300
    return refused


@pytest.mark.parametrize("value", ["ten chars!", "", "日本", b"ten chars!", "日本".encode()])
def test_text(value: str | bytes) -> None:
    assert Decoder(SETTINGS).value(TEXT, value, "f") == (value if isinstance(value, str) else value.decode())


def test_text_that_is_none() -> None:
    assert refusal(TEXT, "eleven char", 413) == "has 11 characters; allowed: at most 10"
    assert refusal(TEXT, 7) == "is 7; allowed: text"
    assert refusal(TEXT, ["a"] * 1000) == "is a list of 1000; allowed: text"
    assert refusal(TEXT, b"ab\xff") == "is no UTF-8 at byte 2; allowed: text"
    assert refusal(TEXT, "a\ud800") == r"holds '\ud800' at 1; allowed: Unicode text"


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "L"), ("JPEG", "RGB"), ("WEBP", "RGB")]
)
def test_pixels_are_those_that_training_saw(kind: str, mode: str) -> None:
    content = file(picture(mode=mode), kind)
    expected = image_pixels(Image.open(io.BytesIO(content)))
    assert expected.shape == (20, 10, 3)
    for value in (content, base64_of(content)):
        pixels = Decoder(SETTINGS).value(IMAGE, value, "f")
        assert isinstance(pixels, np.ndarray)
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, expected)


def test_png_is_lossless_and_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    turned = Decoder(SETTINGS).value(IMAGE, file(picture(), exif=exif), "f")
    np.testing.assert_array_equal(turned, np.rot90(np.asarray(picture()), -1))


def test_only_the_first_frame_is_read() -> None:
    first, second = picture(), Image.new("RGB", (10, 20), "red")
    for kind, lossless in (("PNG", {}), ("WEBP", {"lossless": True})):
        animation = file(first, kind, save_all=True, append_images=[second], **lossless)
        np.testing.assert_array_equal(Decoder(SETTINGS).value(IMAGE, animation, "f"), np.asarray(first))


def test_pixels_as_they_are() -> None:
    pixels = np.asarray(picture())
    assert Decoder(SETTINGS).value(IMAGE, pixels, "f") is pixels
    assert refusal(IMAGE, np.zeros((20, 11, 3), np.uint8), 413) == "is an image of 11 x 20 pixels; allowed: at most 200"


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        ("https://example.org/cat.png", "is a URL, and URLs are not fetched; "),
        ("HTTP://example.org", "is a URL, and URLs are not fetched; "),
        ("data:image/png;base64,AAAA", "is a data: URL; "),
        ("AAA", "is no base64 (Incorrect padding); "),
        ("AA==AA==", "is no base64 (Excess data after padding); "),
        ("AA\nAA", "is no base64 (Only base64 data is allowed); "),
        ("日本", "is no base64 (string argument should contain only ASCII characters); "),
        (7, "is 7; "),
        ({"b64": "AAAA"}, "is an object of 1; "),
        (base64_of(b"GIF89a" + bytes(50)), "is no image file (56 bytes); allowed: PNG, JPEG, WebP"),
        (base64_of(file(picture(), "GIF")), "is no image file"),
        ("", "is no image file (0 bytes); "),
    ],
)
def test_what_is_no_image(value: Any, detail: str) -> None:
    assert refusal(IMAGE, value).startswith(detail)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_files_that_are_cut_short(kind: str) -> None:
    content = file(picture(), kind)
    assert "allowed" in refusal(IMAGE, content[: len(content) * 3 // 4])


def test_large_images_are_refused_by_their_header() -> None:
    assert refusal(IMAGE, file(picture(11)), 413) == "is an image of 11 x 20 pixels; allowed: at most 200"
    assert refusal(IMAGE, file(picture(11, 20), "WEBP"), 413) == "is an image of 11 x 20 pixels; allowed: at most 200"
    assert refusal(IMAGE, bomb(5000, 5000), 413) == "is an image of 5000 x 5000 pixels; allowed: at most 200"
    for side in (10_000, 60_000):  # Pillow warns of the one, and refuses the other itself
        assert refusal(IMAGE, bomb(side, side), 413).endswith("allowed: at most 200")


def test_pixels_without_an_agreed_range() -> None:
    assert refusal(IMAGE, file(Image.new("I;16", (3, 3)), "TIFF")).startswith("is no image file")


@given(position=st.integers(0, 10_000), byte=st.integers(0, 255), kind=st.sampled_from(["PNG", "JPEG", "WEBP"]))
def test_damaged_files_never_surprise(position: int, byte: int, kind: str) -> None:
    content = bytearray(file(picture(), kind))
    content[position % len(content)] = byte
    pixels = decoded_or_refused(IMAGE, bytes(content))
    if not isinstance(pixels, Problem):
        assert isinstance(pixels, np.ndarray)
        assert pixels.shape[2] == 3
        assert pixels.size <= 600


def test_series() -> None:
    series = Decoder(SETTINGS).value(IMU, [[1, 2.5], [-3, 4]], "f")
    assert isinstance(series, np.ndarray)
    assert series.dtype == np.float32
    np.testing.assert_array_equal(series, [[1, 2.5], [-3, 4]])
    np.testing.assert_array_equal(Decoder(SETTINGS).value(IMU, np.array([[1, 2]], np.int64), "f"), [[1, 2]])
    np.testing.assert_array_equal(Decoder(SETTINGS).value(IMU, [1, 2.5], "f"), [[1, 2.5]])
    np.testing.assert_array_equal(Decoder(SETTINGS).value(Input("ecg", "series", 1), [1, 2.5], "f"), [[1], [2.5]])
    free = Decoder(SETTINGS).value(Input("any", "series", None), [[1, 2, 3]], "f")
    assert isinstance(free, np.ndarray)
    assert free.shape == (1, 3)


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        ("1 2", "is '1 2'; allowed: (T, 2) finite numbers, as a list of rows"),
        ([], "is a list of 0; "),
        ([1, 2, 3], "has 3 channels; allowed: 2"),
        ([1, [2]], "holds a list of 1 at 0; "),
        ([[1, 2], 3], "is a list of 2; "),
        ([[]], "has 0 channels; allowed: 2"),
        ([[1, 2], [3]], "has 1 numbers at 1, but 2 at 0; allowed: (T, 2) finite numbers"),
        ([[1, 2, 3]], "has 3 channels; allowed: 2"),
        ([[1, "2"]], "holds '2' at 0; "),
        ([[1, None]], "holds null at 0; "),
        ([[1, True]], "holds True at 0; "),
        ([[[1], [2]]], "holds a list of 1 at 0; "),
        ([[1, math.nan]], "holds nan at [0, 1]; allowed: finite 32-bit numbers"),
        ([[1, 1e39]], "holds 1e+39 at [0, 1]; allowed: finite 32-bit numbers"),
        ([[1, 10**400]], "holds a whole number beyond all floats; "),
        (np.zeros((3, 2), bool), "holds bool values; "),
        (np.zeros(3), "has 3 channels; allowed: 2"),
        (np.zeros((1, 3, 2)), "has shape (1, 3, 2); "),
    ],
)
def test_what_is_no_series(value: Any, detail: str) -> None:
    assert refusal(IMU, value).startswith(detail)


def test_long_series() -> None:
    assert refusal(IMU, [[0, 0]] * 7, 413) == "has 14 numbers; allowed: at most 12"
    assert refusal(IMU, [0] * 14, 413) == "has 14 numbers; allowed: at most 12"
    assert refusal(IMU, np.zeros((7, 2)), 413) == "has 14 numbers; allowed: at most 12"
    # As an array of texts these would take 8 TB.
    settings = Settings(run="run", max_series_values=2_000_000)
    with pytest.raises(Problem, match="holds 'xxxx"):
        Decoder(settings).value(IMU, [["x" * 1_000_000, ""], *[["", ""]] * 999_999], "f")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=3), values, max_size=3),
    max_leaves=20,
)


@given(declared=st.sampled_from([TEXT, IMAGE, IMU]), value=json_values)
def test_whatever_json_holds_is_decoded_or_refused(declared: Input, value: Any) -> None:
    decoded_or_refused(declared, value)


def test_samples_come_in_the_order_of_the_task() -> None:
    sample = Decoder(SETTINGS).sample(TASK, {"imu": [[1, 2]], "text": "what?", "image": None}, "inputs.0")
    assert list(sample) == ["text", "imu"]
    assert sample["text"] == "what?"


@pytest.mark.parametrize(
    ("sample", "detail"),
    [
        ({}, "inputs.3 is empty; allowed: at least one of text, image, imu"),
        ({"text": None}, "inputs.3 is empty; allowed: at least one of text, image, imu"),
        ({"text": "a", "audio": None}, "inputs.3 names 'audio'; allowed of vqa: text, image, imu"),
        ({"text": "a", "imu": 3}, "inputs.3.imu is 3; "),
    ],
)
def test_samples_that_the_task_does_not_read(sample: dict[str, Any], detail: str) -> None:
    with pytest.raises(Problem) as refused:
        Decoder(SETTINGS).sample(TASK, sample, "inputs.3")
    assert refused.value.detail.startswith(detail)
    assert refused.value.status == 422


def test_a_requests_images_have_their_pixels_together() -> None:
    """Or many small files would be gigabytes of pixels."""
    decoder = Decoder(SETTINGS.model_copy(update={"max_pixels": 100}))
    for _ in range(2):
        assert np.shape(decoder.value(IMAGE, file(picture(7, 7)), "f")) == (7, 7, 3)
    with pytest.raises(Problem, match="3 x 1 pixels beside others of 98; allowed: at most 100") as refused:
        decoder.value(IMAGE, np.zeros((1, 3, 3), np.uint8), "f")
    assert refused.value.status == 413


def test_a_requests_series_have_their_numbers_together() -> None:
    decoder = Decoder(SETTINGS)  # 12 numbers
    assert np.shape(decoder.value(IMU, [[1, 2]] * 4, "f")) == (4, 2)
    with pytest.raises(Problem, match="has 6 numbers; allowed: at most 4"):
        decoder.value(IMU, [[1, 2]] * 3, "f")
