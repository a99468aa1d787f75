"""Encoders: what a sample becomes depends on nothing but the sample, least of all on how far its batch is padded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn

from fogtune.platform.config import Encoder as EncoderConfig
from fogtune.platform.config import ImageEncoder as ImageConfig
from fogtune.platform.config import SeriesEncoder as SeriesConfig
from fogtune.platform.errors import InputError
from fogtune.platform.model.encoders import ENCODERS, ImageEncoder, SeriesEncoder, build_encoder

WIDTH = 24
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 32,
    "patch_size": 8,
}


def series_encoder(channels: int = 3, kernel: int = 7) -> SeriesEncoder:
    torch.manual_seed(0)
    config = SeriesConfig(kind="series", channels=channels, width=8, kernel=kernel)
    return SeriesEncoder(config, WIDTH, "model.encoders.imu")


def pad(series: list[Tensor], behind: float = 0.0) -> tuple[Tensor, Tensor]:
    values = nn.utils.rnn.pad_sequence(series, batch_first=True, padding_value=behind)
    lengths = torch.tensor([len(one) for one in series])
    return values, (torch.arange(values.shape[1]) < lengths[:, None]).to(torch.int64)


def gradients(encoder: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}


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


# Series


@pytest.mark.parametrize("kernel", [3, 7, 11])
@pytest.mark.parametrize("behind", [0.0, 1e4])
def test_padding_changes_no_token(kernel: int, behind: float) -> None:
    encoder = series_encoder(kernel=kernel)
    generator = torch.Generator().manual_seed(1)
    series = [torch.randn(length, 3, generator=generator) for length in (1, 2, 7, 8, 9, 40, 128)]
    tokens, mask = encoder(*pad(series, behind))
    assert mask.sum(1).tolist() == [1, 1, 1, 1, 2, 5, 16]  # T/8, rounded up
    for i, one in enumerate(series):
        alone, whole = encoder(*pad([one]))
        assert bool(whole.all())
        torch.testing.assert_close(tokens[i, mask[i] == 1], alone[0], atol=1e-5, rtol=1e-5)


def test_padding_changes_no_gradient() -> None:
    encoder = series_encoder()
    generator = torch.Generator().manual_seed(1)
    series = [torch.randn(length, 3, generator=generator) for length in (5, 24, 64)]
    tokens, mask = encoder(*pad(series))
    (tokens**3 * mask.unsqueeze(-1)).sum().backward()
    padded = gradients(encoder)
    encoder.zero_grad()
    for one in series:
        (encoder(*pad([one]))[0] ** 3).sum().backward()
    torch.testing.assert_close(padded, gradients(encoder), atol=1e-3, rtol=1e-4)


def test_every_parameter_learns_and_order_matters() -> None:
    encoder = series_encoder()
    values, mask = pad([torch.randn(64, 3, generator=torch.Generator().manual_seed(1))])
    tokens = encoder(values, mask)[0]
    (tokens**3).sum().backward()
    learned = {name for name, gradient in gradients(encoder).items() if gradient.abs().sum() > 0}
    assert learned == {name for name, _ in encoder.named_parameters()}
    constant = encoder(torch.ones(1, 400, 3), torch.ones(1, 400, dtype=torch.int64))[0][0]
    assert not torch.allclose(constant[20], constant[25], atol=1e-3)  # the same input at another time


@pytest.mark.parametrize("shape", [(10, 4), (10, 2), (10,), (0, 3), (10, 3, 1)])
def test_other_channels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError) as caught:
        series_encoder().prefix(np.zeros(shape, np.float32))
    assert caught.value.where == "model.encoders.imu.channels"
    assert f"3, but a series of shape {shape} was read" in caught.value.problem


# Images


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
    learned = {name for name, gradient in gradients(encoder).items() if gradient.abs().sum() > 0}
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


def test_every_section_has_its_encoder() -> None:
    union = get_args(EncoderConfig)[0]  # Annotated[A | B, ...]
    assert set(ENCODERS) == set(get_args(union))
    built = build_encoder(SeriesConfig(kind="series", channels=2), WIDTH, "model.encoders.imu")
    assert isinstance(built, SeriesEncoder)
