"""The encoder of images: maps of the trunk, seen as it was trained, become tokens row by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from fogtune.platform.config import ImageEncoder as ImageConfig
from fogtune.platform.errors import InputError
from fogtune.platform.model.image import ImageEncoder

WIDTH = 24
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 32,
    "patch_size": 8,
}


def save_vision(path: Path, kind: str, preprocessor: dict[str, Any] | None = None, **values: Any) -> str:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **values)
    transformers.AutoModel.from_config(config).save_pretrained(path)  # type: ignore[no-untyped-call]
    if preprocessor is not None:
        (path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return str(path)


def picture(side: int = 20) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3)).astype(np.uint8)


def image_encoder(trunk: str, size_px: int) -> ImageEncoder:
    return ImageEncoder(ImageConfig(trunk=trunk, size_px=size_px), WIDTH, "model.encoders.camera")


def test_efficientnet_gives_a_map_of_4_x_4() -> None:
    encoder = image_encoder("embedded:efficientnet-lite0", 128)
    prefix = encoder.prefix(picture(64))
    assert prefix.shape == (16, 1280)
    tokens, mask = encoder(torch.stack([prefix, prefix]), torch.ones(2, 16, dtype=torch.int64))
    assert tokens.shape == (2, 16, WIDTH)
    assert mask.sum().item() == 32
    assert not torch.allclose(prefix, encoder.prefix(255 - picture(64)), atol=0.1)


@pytest.mark.parametrize(
    ("preprocessor", "mean", "std"),
    [
        (None, [0.5] * 3, [0.5] * 3),
        ({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}, [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]),
    ],
)
def test_a_trunk_from_disk_sees_pixels_as_it_was_trained_on(
    tmp_path: Path, preprocessor: dict[str, Any] | None, mean: list[float], std: list[float]
) -> None:
    path = save_vision(tmp_path, "vit", preprocessor, **VISION)
    prefix = image_encoder(path, 32).prefix(picture(32))  # of the trunk's size: nothing is resized
    pixels = torch.from_numpy(picture(32)).permute(2, 0, 1) / 255
    pixels = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    with torch.no_grad():
        expected = transformers.AutoModel.from_pretrained(path)(pixels[None]).last_hidden_state[0]
    assert prefix.shape == (17, 16)  # 4 x 4 patches and the class token
    torch.testing.assert_close(prefix, expected, atol=1e-5, rtol=1e-5)


def test_a_map_becomes_tokens_row_by_row(tmp_path: Path) -> None:
    path = save_vision(
        tmp_path, "resnet", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_channels=3, layer_type="basic"
    )
    prefix = image_encoder(path, 64).prefix(picture(64))
    pixels = torch.from_numpy(picture(64)).permute(2, 0, 1) / 255 * 2 - 1
    with torch.no_grad():
        rows = transformers.AutoModel.from_pretrained(path).eval()(pixels[None]).last_hidden_state[0]  # (16, 8, 8)
    assert prefix.shape == (64, 16)
    torch.testing.assert_close(prefix[8], rows[:, 1, 0], atol=1e-5, rtol=1e-5)


def test_of_a_model_of_images_and_text_the_images_part_serves(tmp_path: Path) -> None:
    text: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    path = save_vision(tmp_path, "clip", vision_config=VISION, text_config=text | {"vocab_size": 16})
    assert image_encoder(path, 32).prefix(picture()).shape == (17, 16)


def test_the_trunk_is_no_part_of_the_module(tmp_path: Path) -> None:
    encoder = image_encoder(save_vision(tmp_path, "vit", **VISION), 32)
    assert {name for name, _ in encoder.named_parameters()} == {
        "project.weight",
        "project.bias",
        "position",
        "norm.weight",
        "norm.bias",
    }
    prefix = encoder.prefix(picture())
    assert not prefix.requires_grad
    tokens, _ = encoder(prefix[None], torch.ones(1, 17, dtype=torch.int64))
    (tokens**3).sum().backward()
    learned = {name for name, p in encoder.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert learned == {name for name, _ in encoder.named_parameters()}


def test_images_are_scaled_to_the_trunk(tmp_path: Path) -> None:
    encoder = image_encoder(save_vision(tmp_path, "vit", **VISION), 32)
    small = np.full((9, 5, 3), 200, np.uint8)
    large = np.full((90, 50, 3), 200, np.uint8)
    torch.testing.assert_close(encoder.prefix(small), encoder.prefix(large), atol=1e-4, rtol=1e-4)


def test_bad_trunks_are_one_line(tmp_path: Path) -> None:
    vision = save_vision(tmp_path / "vit", "vit", **VISION)
    text: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    words = save_vision(tmp_path / "bert", "bert", vocab_size=16, **text)
    cases = [
        (str(tmp_path / "nowhere"), 32, ".trunk", "cannot be loaded"),
        ("embedded:resnet", 32, ".trunk", "embedded is only 'embedded:efficientnet-lite0'"),
        (vision, 64, "", "does not take images of size_px 64"),
        (words, 32, "", "does not take images of size_px 32"),
    ]
    for trunk, size_px, field, problem in cases:
        with pytest.raises(InputError) as caught:
            image_encoder(trunk, size_px)
        assert caught.value.where == f"model.encoders.camera{field}"
        assert problem in caught.value.problem
        assert repr(trunk) in caught.value.problem
        assert "\n" not in str(caught.value)
