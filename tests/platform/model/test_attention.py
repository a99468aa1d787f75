"""Attention with another library of products than the rest of a model."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, BertConfig, GPT2Config, LlamaConfig, PretrainedConfig

from fogtune.platform.model import attention
from fogtune.platform.model.attention import use_small_products
from fogtune.platform.model.matmul import chosen, onednn_is_exact, using

SMALL: dict[str, Any] = {"vocab_size": 11, "max_position_embeddings": 16}
CONFIGS = {
    "both directions": BertConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, **SMALL
    ),
    "causal": GPT2Config(n_embd=8, n_layer=2, n_head=2, vocab_size=11, n_positions=16),
    "fewer keys than queries": LlamaConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=16, **SMALL
    ),
}
LIBRARIES = ["default", pytest.param("onednn", marks=pytest.mark.skipif(not onednn_is_exact(), reason="not exact"))]


def _model(config: PretrainedConfig, attends: str) -> Any:
    return AutoModel.from_config(config, attn_implementation=attends).eval()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_it_is_what_the_model_computes_itself(config: PretrainedConfig, library: Literal["default", "onednn"]) -> None:
    torch.manual_seed(0)
    model = _model(config, "sdpa")
    ids = torch.randint(0, 11, (3, 7))
    mask = (torch.arange(7) < torch.tensor([7, 4, 1])[:, None]).long()

    def gradients() -> list[Tensor | None]:
        output = model(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]
        named = [p for p in model.parameters() if p.requires_grad]
        return [output.detach(), *torch.autograd.grad(output.square().sum(), named, allow_unused=True)]

    expected = gradients()
    use_small_products(model)
    assert model.config._attn_implementation != "sdpa"
    with using(library):
        found = gradients()
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_those_of_torchs_own_library_and_in_fp32_forward_and_backward(
    library: Literal["default", "onednn"], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.integrations import sdpa_attention

    seen = []

    class Spy(torch.autograd.Function):
        """Says with which library it is computed."""

        @staticmethod
        def forward(_: object, x: Tensor) -> Tensor:
            seen.append((chosen(), x.dtype))
            return x.clone()

        @staticmethod
        def backward(_: object, grad: Tensor) -> Tensor:
            seen.append((chosen(), grad.dtype))
            return grad

    def _spied(_: object, query: Tensor, key: Tensor, value: Tensor, *__: object, **___: object) -> tuple[Tensor, None]:
        return Spy.apply(query) + key + value, None  # type: ignore[no-untyped-call]

    monkeypatch.setattr(sdpa_attention, "sdpa_attention_forward", _spied)
    query = torch.randn(2, 2, 3, 4, dtype=dtype, requires_grad=True)
    with using(library):
        result, _ = attention.attention(torch.nn.Identity(), query, query.detach(), query.detach(), None)
        result.sum().backward()  # type: ignore[no-untyped-call]
        assert chosen() == library
    assert seen == [("default", torch.float32)] * 2
    assert result.dtype == dtype


def test_a_model_that_attends_in_another_way_is_left_alone() -> None:
    model = _model(CONFIGS["both directions"], "eager")
    use_small_products(model)
    assert model.config._attn_implementation == "eager"
