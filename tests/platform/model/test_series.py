"""The encoder of series: what a sample becomes depends on nothing but the sample, least of all on padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fogtune.platform.config import SeriesEncoder as SeriesConfig
from fogtune.platform.errors import InputError
from fogtune.platform.model.rows import Places
from fogtune.platform.model.series import SeriesEncoder

WIDTH = 24


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


@pytest.mark.parametrize("length", [1, 2, 7, 8, 64])
def test_it_is_torchs_convolutions_and_group_norms(length: int) -> None:
    encoder = series_encoder()
    values = torch.randn(4, length, 3, generator=torch.Generator().manual_seed(1))
    x = values.mT
    for convolution, norm in zip(encoder.convolutions, encoder.norms, strict=True):
        assert isinstance(convolution, nn.Conv1d)
        assert isinstance(norm, nn.GroupNorm)
        x = F.conv1d(x, convolution.weight, convolution.bias, stride=2, padding=3)
        x = F.gelu(F.group_norm(x, 1, norm.weight, norm.bias))
    at = torch.arange(x.shape[2])[:, None] * 10000 ** (-torch.arange(0, WIDTH, 2) / WIDTH)
    position = torch.stack([at.sin(), at.cos()], -1).flatten(1)
    expected = F.layer_norm(x.mT + position, (WIDTH,), encoder.norm.weight, encoder.norm.bias)
    tokens, _ = encoder(values, torch.ones(4, length, dtype=torch.int64))
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lengths", [(24, 24, 24, 24), (5, 24, 17, 9)])
def test_groups_with_their_own_weights_are_as_if_alone(lengths: tuple[int, ...]) -> None:
    """Two samples a group; tokens, and the gradients of every weight."""
    generator = torch.Generator().manual_seed(1)
    values, mask = pad([torch.randn(length, 3, generator=generator) for length in lengths])
    encoder = series_encoder()
    weights = {
        name: torch.randn(2, *tensor.shape, generator=generator).requires_grad_()
        for name, tensor in encoder.named_parameters()
    }
    places = Places(encoder, {"encoder/imu": dict(encoder.named_parameters())})
    with places.lent({"encoder/imu": weights}):
        together = encoder(values, mask)[0] * mask[:, ::8, None]
    alone = []
    for group, rows in enumerate((slice(0, 2), slice(2, 4))):
        with places.lent({"encoder/imu": {name: tensor[group] for name, tensor in weights.items()}}):
            alone.append(encoder(values[rows], mask[rows])[0] * mask[rows, ::8, None])
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)
    gradients_together = torch.autograd.grad((together**3).sum(), list(weights.values()))
    gradients_alone = torch.autograd.grad((torch.cat(alone) ** 3).sum(), list(weights.values()))
    torch.testing.assert_close(gradients_together, gradients_alone, atol=1e-3, rtol=1e-4)
