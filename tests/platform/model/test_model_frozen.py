"""Products with frozen weights over oneDNN: what `nn.Linear` and autograd give, to fp32 rounding."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fogtune.platform.model.frozen import FrozenLinear, best_matmul, freeze_linears

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
    reason="this build of torch has no oneDNN",
)


def pair(inputs: int, outputs: int, bias: bool) -> tuple[nn.Linear, FrozenLinear]:
    torch.manual_seed(0)
    plain = nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)
    return plain, FrozenLinear.of(plain)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 48), (3, 5, 48), (2, 3, 1, 48)])
def test_forward_and_backward(shape: tuple[int, ...], bias: bool) -> None:
    plain, frozen = pair(48, 80, bias)
    x = torch.randn(shape)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    upstream = torch.randn(*shape[:-1], 80)
    frozen(ours).backward(upstream)
    plain(theirs).backward(upstream)
    torch.testing.assert_close(frozen(x), plain(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-5)


def test_the_gradient_is_the_slope() -> None:
    # The function is affine, so a difference over any distance is its derivative.
    _, frozen = pair(16, 24, bias=True)
    x, direction, weights = torch.randn(4, 16), torch.randn(4, 16), torch.randn(4, 24)
    point = x.clone().requires_grad_()
    (frozen(point) * weights).sum().backward()
    assert point.grad is not None
    slope = ((frozen(x + direction) - frozen(x - direction)) / 2 * weights).sum()
    torch.testing.assert_close((point.grad * direction).sum(), slope, atol=1e-4, rtol=1e-4)


def test_strided_inputs_and_gradients() -> None:
    plain, frozen = pair(6, 10, bias=True)
    x = torch.randn(6, 4).t()  # (4, 6), not contiguous
    upstream = torch.randn(10, 4).t()
    ours, theirs = x.detach().requires_grad_(), x.detach().requires_grad_()
    frozen(ours).backward(upstream)
    plain(theirs).backward(upstream)
    torch.testing.assert_close(frozen(x), plain(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-5)


def test_freezing_shares_the_weights_and_takes_every_linear_layer() -> None:
    class Special(nn.Linear):
        """Somebody's own linear layer: what it does is unknown, so it stays."""

    inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.ModuleDict({"deep": nn.Linear(4, 4)}), Special(4, 4))
    weight = inner[0].weight
    names = list(inner.state_dict())
    freeze_linears(inner)
    assert type(inner[0]) is FrozenLinear
    assert type(inner[2].deep) is FrozenLinear
    assert type(inner[3]) is Special
    assert inner[0].weight is weight
    assert not weight.requires_grad
    assert list(inner.state_dict()) == names  # the transposed copy is nobody's business


def test_auto_is_one_of_the_libraries() -> None:
    assert best_matmul() in ("onednn", "default")
