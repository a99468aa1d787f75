"""The fused LoRA layer: PEFT's own layer says what it has to give."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from fogtune.platform.model.frozen_linear import FrozenLinear
from fogtune.platform.model.fused_lora import FusedLora


def adapted(fused: bool, bias: bool = True) -> nn.Module:
    """A linear layer 24 -> 40 with an adapter that is some way from its start."""
    torch.manual_seed(0)
    linear = nn.Linear(24, 40, bias=bias)
    model = nn.Sequential(FrozenLinear(linear) if fused else linear)
    config = LoraConfig(r=4, lora_alpha=12, target_modules=["0"])
    if fused:
        config._register_custom_module({FrozenLinear: FusedLora})
    inject_adapter_in_model(config, model)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 24), (3, 5, 24), (0, 24)])
def test_outputs_and_all_gradients_are_those_of_peft(shape: tuple[int, ...], bias: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    given, upstream = torch.randn(shape, generator=generator), torch.randn(*shape[:-1], 40, generator=generator)
    found: list[list[Tensor | None]] = []
    for fused in (True, False):
        model, x = adapted(fused, bias), given.clone().requires_grad_()
        assert isinstance(model[0], FusedLora) == fused  # type: ignore[index]
        y = model(x)
        y.backward(upstream)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        assert [tuple(parameter.shape) for parameter in trained] == [(4, 24), (40, 4)]
        found.append([y, x.grad, *(parameter.grad for parameter in trained)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_names_are_those_of_peft() -> None:
    assert list(adapted(fused=True).state_dict()) == list(adapted(fused=False).state_dict())


def test_inputs_without_a_gradient_and_strided_ones() -> None:
    x = torch.randn(24, 6, generator=torch.Generator().manual_seed(3)).t()
    torch.testing.assert_close(adapted(True)(x), adapted(False)(x), atol=1e-4, rtol=1e-4)
    model = adapted(True)
    model(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
