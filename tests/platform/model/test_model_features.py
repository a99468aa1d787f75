"""The encoder of numbers: its layers by hand, padding, whole groups of samples with weights of their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fogtune.platform.config import FeaturesEncoder as FeaturesConfig
from fogtune.platform.errors import InputError
from fogtune.platform.model.features import FeaturesEncoder
from fogtune.platform.model.rows import Places


def build(channels: int = 2, hidden: tuple[int, ...] = (), width: int = 3) -> FeaturesEncoder:
    torch.manual_seed(0)
    return FeaturesEncoder(FeaturesConfig(channels=channels, hidden=hidden), width, "model.encoders.scale")


def encoded(encoder: FeaturesEncoder, values: Tensor) -> Tensor:
    with torch.no_grad():
        tokens: Tensor = encoder(values, torch.ones(values.shape[:2], dtype=torch.int64))[0]
    return tokens


def test_each_step_goes_through_each_layer_and_a_relu() -> None:
    encoder = build(hidden=(2,))
    state = {
        "layers.0.weight": torch.tensor([[1.0, 1.0], [1.0, -1.0]]),
        "layers.0.bias": torch.tensor([0.0, 1.0]),
        "layers.1.weight": torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0]]),
        "layers.1.bias": torch.tensor([0.0, -1.0, 3.0]),
    }
    encoder.load_state_dict(state)
    # (1, 2) -> 3, 0 -> 3, -1, 0; (3, 1) -> 4, 3 -> 4, 5, 2; (-1, -2) -> -3, 2 -> 0, 3, 5
    tokens = encoded(encoder, torch.tensor([[[1.0, 2.0], [3.0, 1.0]], [[-1.0, -2.0], [1.0, 2.0]]]))
    assert tokens.tolist() == [[[3.0, 0.0, 0.0], [4.0, 5.0, 2.0]], [[0.0, 3.0, 5.0], [3.0, 0.0, 0.0]]]


@pytest.mark.parametrize(("hidden", "parameters"), [((), 64 * 128 + 128), ((32, 16), 65 * 32 + 33 * 16 + 17 * 128)])
def test_parameters(hidden: tuple[int, ...], parameters: int) -> None:
    assert sum(parameter.numel() for parameter in build(64, hidden, 128).parameters()) == parameters


def test_a_vector_is_one_step_and_of_one_channel_all_steps() -> None:
    assert build(3).prefix(np.array([1, 2, 3], np.float32)).tolist() == [[1, 2, 3]]
    assert build(3).prefix(np.array([[1, 2, 3], [4, 5, 6]], np.float32)).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert build(1).prefix(np.array([1, 2, 3], np.float32)).tolist() == [[1], [2], [3]]


@pytest.mark.parametrize("shape", [(4,), (0,), (5, 4), (0, 3), (1, 5, 3), ()])
def test_other_channels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError) as caught:
        build(3).prefix(np.zeros(shape, np.float32))
    assert caught.value.where == "model.encoders.scale.channels"
    assert caught.value.problem == f"3, but numbers of shape {shape} were read; allowed: their channels"


def test_padding_changes_nothing() -> None:
    encoder = build()
    values = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    tokens, kept = encoder(values * mask.unsqueeze(-1), mask)
    assert kept is mask
    torch.testing.assert_close(tokens[1, :2], encoder(values[1:, :2], mask[1:, :2])[0][0])


def test_groups_of_samples_have_their_own_weights() -> None:
    """Three groups of two samples each."""
    encoder = build(hidden=(5,))
    there = Places(encoder, {"it": dict(encoder.named_parameters())})
    generator = torch.Generator().manual_seed(1)
    lent = {name: torch.randn(3, *one.shape, generator=generator) for name, one in encoder.named_parameters()}
    values = torch.randn(6, 4, 2, generator=generator)
    with there.lent({"it": lent}):
        together = encoded(encoder, values)
    for group in range(3):
        with there.lent({"it": {name: tensor[group] for name, tensor in lent.items()}}):
            mine = slice(2 * group, 2 * group + 2)
            torch.testing.assert_close(together[mine], encoded(encoder, values[mine]))


def test_every_parameter_learns() -> None:
    encoder = build(hidden=(8,))
    values = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(1))
    encoder(values, torch.ones(4, 3, dtype=torch.int64))[0].sum().backward()
    gradients = {name: parameter.grad for name, parameter in encoder.named_parameters()}
    assert all(gradient is not None and bool(gradient.any()) for gradient in gradients.values())
    assert all(isinstance(layer, nn.Linear) for layer in encoder.layers)
