"""Frozen linear layers: torch's own bits, from whichever library."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from fogtune.platform.model.frozen_linear import FrozenLinear
from fogtune.platform.model.matmul import onednn_is_exact, using

ONEDNN = pytest.param("onednn", marks=pytest.mark.skipif(not onednn_is_exact(), reason="oneDNN is not exact here"))

EXACTLY_ONEDNN = pytest.param(
    "onednn",
    marks=pytest.mark.skipif(
        not onednn_is_exact() or torch.backends.cpu.get_cpu_capability() != "AVX512",
        reason="oneDNN's bits depend on the layout here",
    ),
)


def layers(inputs: int, outputs: int, bias: bool) -> tuple[nn.Linear, FrozenLinear]:
    """torch's, and ours of the same parameters."""
    torch.manual_seed(inputs)
    layer = nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)
    return layer, FrozenLinear(layer)


def with_gradient(layer: nn.Module, x: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """Output, and gradient of the input."""
    x = x.clone().requires_grad_()
    y = layer(x)
    (grad,) = torch.autograd.grad(y, x, upstream)
    return y.detach(), grad


@pytest.mark.parametrize("library", ["default", ONEDNN])
@given(rows=st.integers(0, 70), bias=st.booleans(), flat=st.booleans())
@settings(max_examples=30, deadline=None)
def test_outputs_and_gradients_are_those_of_torch(
    library: Literal["default", "onednn"], rows: int, bias: bool, flat: bool
) -> None:
    theirs, ours = layers(384, 512, bias)
    shape = (rows,) if flat else (2, rows)
    x, upstream = torch.randn(*shape, 384), torch.randn(*shape, 512)
    with using(library):
        for expected, found in zip(with_gradient(theirs, x, upstream), with_gradient(ours, x, upstream), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("library", ["default", EXACTLY_ONEDNN])
@pytest.mark.parametrize("rows", [2, 16, 100, 1000])
def test_bits_are_those_of_torch(library: Literal["default", "onednn"], rows: int) -> None:
    theirs, ours = layers(384, 1536, True)
    x, upstream = torch.randn(4, rows, 384), torch.randn(4, rows, 1536)
    strided = torch.randn(384, rows).t()
    with using(library):
        assert all(map(torch.equal, with_gradient(theirs, x, upstream), with_gradient(ours, x, upstream)))
        assert torch.equal(theirs(strided), ours(strided))


@pytest.mark.parametrize("library", ["default", ONEDNN])
@pytest.mark.parametrize("kept", [torch.float32, torch.bfloat16])
def test_autocast_gives_what_it_gives_torch(library: Literal["default", "onednn"], kept: torch.dtype) -> None:
    theirs, ours = (layer.to(kept) for layer in layers(384, 512, True))
    x, upstream = torch.randn(2, 40, 384), torch.randn(2, 40, 512, dtype=torch.bfloat16)
    with using(library), torch.autocast("cpu", torch.bfloat16):
        expected, found = (with_gradient(layer, x, upstream) for layer in (theirs, ours))
    assert [tensor.dtype for tensor in found] == [torch.bfloat16, torch.float32]
    if kept == torch.float32:  # there is no layout of it that bf16 products could use
        assert all(map(torch.equal, expected, found))
    # Matrix units (AMX) add up in another order where the weight lies as they read it: neither is the nearer one.
    weight, bias = (tensor.bfloat16().double() for tensor in (theirs.weight, theirs.bias))
    true = F.linear(x.bfloat16().double(), weight, bias), upstream.double() @ weight
    for ours_, theirs_, truth in zip(found, expected, true, strict=True):
        assert (ours_ - truth).norm() < 1.02 * (theirs_ - truth).norm() < 0.01 * truth.norm()


@pytest.mark.skipif(not onednn_is_exact(), reason="oneDNN is not exact here")
def test_a_layer_that_moves_or_changes_its_type_is_packed_anew() -> None:
    _, ours = layers(64, 64, True)
    x = torch.randn(5, 64)
    with using("onednn"):
        ours(x)
        halved = ours.to(torch.bfloat16)
        expected = F.linear(x.bfloat16(), halved.weight, halved.bias)
        assert torch.equal(halved(x.bfloat16()), expected)
        again = halved.to(torch.float32)
        torch.testing.assert_close(again(x), F.linear(x, again.weight, again.bias))


def test_it_holds_the_layers_own_parameters() -> None:
    theirs, ours = layers(8, 4, True)
    assert ours.weight is theirs.weight
    assert ours.bias is theirs.bias
    assert list(ours.state_dict()) == ["weight", "bias"]
