"""Experts: who is asked, what comes out and what is learned, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fogtune.platform.config import Experts
from fogtune.platform.model.experts import Expert, MixtureLayer


def layer(router: list[list[float]], top_k: int, bottleneck: int = 1) -> MixtureLayer:
    """A layer with this router (D, E), and experts that do something."""
    torch.manual_seed(0)
    mixture = MixtureLayer(Experts(count=len(router[0]), top_k=top_k, width=bottleneck), len(router))
    with torch.no_grad():
        mixture.router.copy_(torch.tensor(router))
        for expert in experts(mixture):
            expert.up.normal_()
    return mixture


def experts(mixture: MixtureLayer) -> list[Expert]:
    return [expert for expert in mixture.experts if isinstance(expert, Expert)]


def one_by_one(*samples: list[float]) -> tuple[Tensor, Tensor]:
    """Samples of one token each."""
    return torch.tensor([[sample] for sample in samples]), torch.ones(len(samples), 1, dtype=torch.int64)


def test_fresh_experts_change_nothing() -> None:
    mixture = MixtureLayer(Experts(count=4, top_k=2, width=3), 8)
    x = torch.randn(3, 5, 8)
    assert torch.equal(mixture(x, torch.ones(3, 5, dtype=torch.int64), range(4))[0], x)


def test_by_hand() -> None:
    mixture = layer([[2.0, 0.0, -1.0], [0.0, 2.0, -1.0]], top_k=2)
    with torch.no_grad():
        for k, expert in enumerate(experts(mixture)):
            expert.down.copy_(torch.tensor([[1.0], [k]]))
            expert.up.copy_(torch.tensor([[10.0 * k, 1.0]]))
    x = torch.tensor([[[1.0, 0.0], [3.0, 2.0]]])  # mean (2, 1): scores (4, 2, -3), so experts 0 and 1
    out, routed, balance = mixture(x, torch.tensor([[1, 1]]), (0, 1, 2))

    scores = torch.tensor([4.0, 2.0, -3.0])
    gates = [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2))]
    first, second = F.gelu(torch.tensor([[1.0, 1.0], [3.0, 5.0]]))  # x down, of experts 0 and 1
    expected = x[0] + torch.stack(
        [
            torch.tensor([gates[1] * 10.0 * hidden[1], gates[0] * hidden[0] + gates[1] * hidden[1]])
            for hidden in (first, second)
        ]
    )
    torch.testing.assert_close(out[0], expected)
    assert routed.tolist() == [1, 1, 0]
    probabilities = scores.softmax(0)
    torch.testing.assert_close(balance, 3 * (probabilities[0] / 2 + probabilities[1] / 2))


def test_samples_are_counted() -> None:
    mixture = layer([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], top_k=1)
    _, routed, _ = mixture(*one_by_one([5.0, 0.0, 0.0], [0.0, 0.0, 5.0], [9.0, 0.0, 1.0], [0.0, 0.0, 7.0]), (0, 1, 2))
    assert routed.dtype == torch.int64
    assert routed.tolist() == [2, 0, 2]


def test_routing_is_among_held_experts() -> None:
    mixture = layer([[3.0, 2.0, 1.0, 0.0]], top_k=2)
    x, mask = one_by_one([1.0], [-1.0])
    assert mixture(x, mask, (0, 1, 2, 3))[1].tolist() == [1, 1, 1, 1]
    assert mixture(x, mask, (1, 2, 3))[1].tolist() == [0, 1, 2, 1]
    assert mixture(x, mask, (2,))[1].tolist() == [0, 0, 2, 0]  # fewer than top_k: all that there are


def test_a_held_subset_with_the_chosen_experts_is_the_whole() -> None:
    mixture = layer([[3.0, 2.0, 1.0, 0.0]], top_k=2, bottleneck=3)
    x, mask = one_by_one([1.0], [2.0])  # experts 0 and 1
    torch.testing.assert_close(mixture(x, mask, (0, 1, 3))[0], mixture(x, mask, (0, 1, 2, 3))[0])
    assert not torch.allclose(mixture(x, mask, (1, 2, 3))[0], mixture(x, mask, (0, 1, 2, 3))[0])


def test_only_the_chosen_learn() -> None:
    mixture = layer([[3.0, 2.0, 1.0, 0.0]], top_k=2)
    out, routed, _ = mixture(*one_by_one([1.0], [2.0]), (0, 1, 3))
    out.pow(2).sum().backward()
    learned = [
        all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in expert.parameters())
        for expert in experts(mixture)
    ]
    assert learned == [True, True, False, False] == [count > 0 for count in routed.tolist()]
    assert all(p.grad is None for p in experts(mixture)[2].parameters())  # not held: not even looked at
    assert mixture.router.grad is not None
    assert bool(mixture.router.grad[:, 0].abs().sum() > 0)
    assert torch.equal(mixture.router.grad[:, 2], torch.zeros(1))


@pytest.mark.parametrize("count", [2, 5])
def test_balance_is_1_when_even_and_the_count_when_all_go_to_one(count: int) -> None:
    mixture = layer((20 * torch.eye(count)).tolist(), top_k=1)
    even, mask = one_by_one(*torch.eye(count).tolist())
    torch.testing.assert_close(mixture(even, mask, range(count))[2], torch.tensor(1.0))
    one, mask = one_by_one(*[torch.eye(count)[0].tolist()] * 3)
    torch.testing.assert_close(mixture(one, mask, range(count))[2], torch.tensor(float(count)), atol=1e-3, rtol=0)


def test_what_is_masked_decides_nothing() -> None:
    mixture = layer([[3.0, 0.0], [0.0, 3.0]], top_k=1, bottleneck=3)
    short = torch.tensor([[[2.0, 1.0], [1.0, 0.0]]])
    padded = torch.cat([short, torch.tensor([[[0.0, 500.0]]])], 1)
    alone, routed, balance = mixture(short, torch.tensor([[1, 1]]), (0, 1))
    together, routed_padded, balance_padded = mixture(padded, torch.tensor([[1, 1, 0]]), (0, 1))
    torch.testing.assert_close(together[:, :2], alone)
    assert routed.tolist() == routed_padded.tolist() == [1, 0]
    torch.testing.assert_close(balance, balance_padded)
