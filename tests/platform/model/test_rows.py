"""Rows of a batch with modules of their own: each part of the model says, alone and by row, what has to come out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn import functional as F

from fogtune.platform.config import Experts
from fogtune.platform.model.experts import Expert, MixtureLayer
from fogtune.platform.model.frozen_linear import FrozenLinear
from fogtune.platform.model.fused_lora import FusedLora
from fogtune.platform.model.pooling import BilinearPooling
from fogtune.platform.model.prompts import Prompt
from fogtune.platform.model.rows import Index, Places, RowLinear, Versions, linear
from fogtune.platform.model.statistics import Standardise

ROWS = 5


def several(module: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Name -> (ROWS, ...): a version of the module's tensors for each row."""
    generator = torch.Generator().manual_seed(seed)
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: torch.randn(ROWS, *tensor.shape, generator=generator) for name, tensor in named.items()}


def places(module: nn.Module) -> Places:
    return Places(module, {"it": {**dict(module.named_parameters()), **dict(module.named_buffers())}})


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def row(inputs: tuple[Tensor, ...], i: int) -> tuple[Tensor, ...]:
    return tuple(given[i : i + 1] for given in inputs)


def check(module: nn.Module, *inputs: Tensor, tensors: dict[str, Tensor] | None = None) -> Tensor:
    """Row i of a batch is what a module that holds row i's tensors gives; the batch's result."""
    tensors = several(module) if tensors is None else tensors
    there = places(module)
    with torch.no_grad():
        with there.lent({"it": tensors}):
            together: Tensor = module(*inputs)
        for i in range(ROWS):
            with there.lent({"it": {name: tensor[i] for name, tensor in tensors.items()}}):
                close(together[i : i + 1], module(*row(inputs, i)))
    return together


# What is lent


def test_versions_are_taken_row_by_row() -> None:
    versions = Versions({"a": torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])}, Index([2, 0, 0]))
    assert versions.taken()["a"].tolist() == [[5.0, 6.0], [1.0, 2.0], [1.0, 2.0]]
    assert versions.index.of([1, 0]) == (0, 2)


def test_one_version_for_all_is_no_copy() -> None:
    slab = torch.randn(3, 4)
    taken = Versions({"a": slab}, Index([1, 1])).taken()["a"]
    assert taken.shape == (4,)
    assert taken.data_ptr() == slab[1].data_ptr()


def test_what_was_lent_goes_back_whatever_happens() -> None:
    layer = nn.Linear(2, 2)
    own = layer.weight

    def fail() -> None:
        with places(layer).lent({"it": several(layer)}):
            assert layer.weight.shape == (ROWS, 2, 2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert layer.weight is own


def test_an_incomplete_module_is_noticed_and_nothing_is_lent() -> None:
    layer = nn.Linear(2, 2)
    own = (layer.weight, layer.bias)
    with pytest.raises(KeyError), places(layer).lent({"it": {"weight": torch.zeros(ROWS, 2, 2)}}):
        pass
    assert (layer.weight, layer.bias) == own


# Linear layers


@given(st.lists(st.integers(1, 4), max_size=2), st.booleans())
def test_a_linear_layer_of_each_row(between: list[int], bias: bool) -> None:
    check(RowLinear(6, 3, bias=bias), torch.randn(ROWS, *between, 6))


def test_one_for_all_rows_is_torchs_own() -> None:
    x, layer = torch.randn(4, 7, 6), nn.Linear(6, 3)
    assert torch.equal(linear(x, layer.weight, layer.bias), layer(x))
    assert torch.equal(RowLinear.of(layer)(x), layer(x))


def test_every_row_learns_its_own() -> None:
    x = torch.randn(ROWS, 4, 6)
    weight, bias = torch.randn(ROWS, 3, 6, requires_grad=True), torch.randn(ROWS, 3, requires_grad=True)
    (linear(x, weight, bias)[2] ** 2).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert bias.grad is not None
    for gradient in (weight.grad, bias.grad):
        assert [bool(one.any()) for one in gradient] == [i == 2 for i in range(ROWS)]


def adapted(fused: bool) -> nn.Module:
    model = nn.Sequential(FrozenLinear(nn.Linear(24, 40)))
    config = LoraConfig(r=4, lora_alpha=12, target_modules=["0"])
    if fused:
        config._register_custom_module({FrozenLinear: FusedLora})
    inject_adapter_in_model(config, model)
    return model


@pytest.mark.parametrize("between", [(), (5,), (2, 3)])
def test_an_adapter_of_each_row(between: tuple[int, ...]) -> None:
    model = adapted(fused=True)
    x = torch.randn(ROWS, *between, 24)
    matrices = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    tensors = {name: torch.randn(ROWS, *parameter.shape) for name, parameter in matrices.items()}
    there = Places(model, {"it": matrices})
    with torch.no_grad(), there.lent({"it": tensors}):
        together = model(x)
    plain = adapted(fused=False)  # PEFT's own layer says what it has to be
    plain.load_state_dict({**model.state_dict()})
    for i in range(ROWS):
        with torch.no_grad():
            for name, parameter in plain.named_parameters():
                if name in tensors:
                    parameter.copy_(tensors[name][i])
            torch.testing.assert_close(together[i : i + 1], plain(x[i : i + 1]), atol=1e-4, rtol=1e-4)


# The other parts


def test_a_prompt_of_each_row() -> None:
    check(Prompt(4, 8), torch.randn(ROWS, 6, 8))


@pytest.mark.parametrize("there", [("text", "image"), ("image",)])
def test_a_pooling_of_each_row(there: tuple[str, ...]) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pooling = BilinearPooling(("text", "image"), width=8, rank=3)

        def forward(self, *pools: Tensor) -> Tensor:
            pooled: Tensor = self.pooling(dict(zip(there, pools, strict=True)))
            return pooled

    check(Named(), *(torch.randn(ROWS, 8) for _ in there))


def test_statistics_of_each_row_known_or_not() -> None:
    values = 20 * torch.randn(ROWS, 6, 3)
    mask = torch.ones(ROWS, 6, dtype=torch.int64)
    mask[1, 4:] = 0
    values[1, 4:] = 0
    mean = torch.randn(ROWS, 3)
    square = mean**2 + torch.rand(ROWS, 3)
    mean[2] = square[2] = 0  # unknown
    square[3, 1] = mean[3, 1] = 0  # a silent channel
    found = check(Standardise(3), values, mask, tensors={"mean": mean, "square": square})
    assert torch.equal(found[2], values[2])
    assert not found[1, 4:].any()


# Experts


def mixture(top_k: int = 2) -> MixtureLayer:
    torch.manual_seed(0)
    layer = MixtureLayer(Experts(count=4, top_k=top_k, width=3), 8)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer


@pytest.mark.parametrize("held", [(0, 1, 2, 3), (1, 3), (2,)])
@pytest.mark.parametrize("which", [(), (1,), (0, 1, 2, 3)])
def test_a_router_and_experts_of_each_row(held: tuple[int, ...], which: tuple[int, ...]) -> None:
    layer = mixture()
    x, mask = torch.randn(ROWS, 6, 8), torch.ones(ROWS, 6, dtype=torch.int64)
    routers = torch.randn(ROWS, 8, 4)
    slabs = {k: {"down": torch.randn(3, 8, 3), "up": torch.randn(3, 3, 8)} for k in which}
    index = [0, 2, 1, 0, 2]
    there = Places(layer, {"router": {"router": layer.router}})
    with torch.no_grad():
        with there.lent({"router": {"router": routers}}):
            together, routed, _ = layer(x, mask, held, {k: Versions(slab, Index(index)) for k, slab in slabs.items()})
        counts = torch.zeros(4, dtype=torch.int64)
        for i in range(ROWS):
            single = mixture()
            single.router.copy_(routers[i])
            for k, slab in slabs.items():
                for name, tensor in slab.items():
                    getattr(single.experts[k], name).copy_(tensor[index[i]])
            alone, count, _ = single(x[i : i + 1], mask[i : i + 1], held)
            close(together[i : i + 1], alone)
            counts += count
    assert routed.tolist() == counts.tolist()


def test_an_expert_that_no_row_chooses_may_have_anything() -> None:
    layer = mixture(top_k=1)
    x, mask = torch.ones(ROWS, 1, 8), torch.ones(ROWS, 1, dtype=torch.int64)
    with torch.no_grad():
        layer.router.zero_()[:, 0] = 1
    nothing = {"down": torch.full((2, 8, 3), torch.nan), "up": torch.full((2, 3, 8), torch.nan)}
    found = layer(x, mask, (0, 1, 2, 3), {3: Versions(nothing, Index([0, 1, 0, 1, 0]))})[0]
    assert torch.equal(found, layer(x, mask, (0, 1, 2, 3))[0])
    expert = layer.experts[0]
    assert isinstance(expert, Expert)
    close(found, x + F.gelu(x @ expert.down) @ expert.up)
