"""Prompts: nothing while the gate is shut, attention over the prompt's tokens once it is open."""

from __future__ import annotations

import math

import torch

from fogtune.platform.model.prompts import Prompt


def test_a_shut_gate_changes_nothing() -> None:
    x = torch.randn(2, 5, 8)
    assert torch.equal(Prompt(4, 8)(x), x)


def test_an_open_gate_adds_attention_over_the_prompt() -> None:
    prompt = Prompt(2, 4)
    with torch.no_grad():
        prompt.tokens.copy_(torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]]))
        prompt.gate.fill_(0.5)
    x = torch.tensor([[[4.0, 0.0, 0.0, 0.0], [0.0, 0.0, 3.0, 0.0]]])
    # Scores (4, 0) / sqrt(4) for the first token, (0, 0) for the second.
    first = math.exp(2) / (math.exp(2) + 1)
    added = torch.tensor([[[first, 2 * (1 - first), 0.0, 0.0], [0.5, 1.0, 0.0, 0.0]]])
    torch.testing.assert_close(prompt(x), x + math.tanh(0.5) * added)


def test_the_gate_opens_first_then_the_tokens_learn() -> None:
    torch.manual_seed(0)
    prompt = Prompt(3, 8)
    optimizer = torch.optim.SGD(prompt.parameters(), lr=0.1)
    x = torch.randn(2, 5, 8)
    moved = []
    for _ in range(2):
        optimizer.zero_grad()
        prompt(x).pow(3).sum().backward()
        assert prompt.gate.grad is not None
        assert prompt.tokens.grad is not None
        moved.append((prompt.gate.grad.abs().sum().item() > 0, prompt.tokens.grad.abs().sum().item() > 0))
        optimizer.step()
    assert moved == [(True, False), (True, True)]
