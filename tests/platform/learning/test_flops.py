"""Counted operations: worked out by hand for small layers and for a whole model; no trace left, nothing remembered."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fogtune.platform.config import Config
from fogtune.platform.learning.flops import counter, sample_flops
from fogtune.platform.learning.local import train
from fogtune.platform.learning.pupil import Member
from fogtune.platform.learning.workbench import Workbench
from fogtune.platform.model.matmul import onednn_is_exact

MakeConfig = Callable[..., Config]

onednn = pytest.mark.skipif(not onednn_is_exact(), reason="oneDNN is not exact here")
matmul = pytest.mark.parametrize("matmul", ["default", pytest.param("onednn", marks=onednn)])

WIDTH, INNER, BLOCKS = 384, 1536, 6  # of MiniLM


def linears(tokens: int) -> int:
    """Products with the frozen weights of one block: query, key, value, output; up and down."""
    return 2 * tokens * (4 * WIDTH * WIDTH + 2 * WIDTH * INNER)


def attention(tokens: int) -> int:
    """One product of a block's attention; forward takes two, backward five."""
    return 2 * tokens * tokens * WIDTH


class TestByHand:
    def test_a_frozen_layer_has_a_gradient_of_its_input_alone(self) -> None:
        layer = nn.Linear(3, 5).requires_grad_(False)
        x = torch.randn(2, 4, 3, requires_grad=True)
        with counter() as counted:
            y = layer(x)
        assert counted.get_total_flops() == 2 * 8 * 3 * 5
        with counter() as counted:
            y.sum().backward()
        assert counted.get_total_flops() == 2 * 8 * 3 * 5

    def test_a_trained_layer_has_one_of_its_weight_too(self) -> None:
        x = torch.randn(8, 3, requires_grad=True)
        with counter() as counted:
            nn.Linear(3, 5)(x).sum().backward()
        assert counted.get_total_flops() == 3 * (2 * 8 * 3 * 5)

    def test_sums_in_place(self) -> None:
        with counter() as counted:
            torch.zeros(2, 5).addmm_(torch.ones(2, 3), torch.ones(3, 5), alpha=2.0)
        assert counted.get_total_flops() == 2 * 2 * 3 * 5

    def test_attention(self) -> None:
        query, key, value = (torch.randn(2, 3, n, 4, requires_grad=True) for n in (5, 7, 7))
        product = 2 * (2 * 3) * 5 * 7 * 4
        with counter() as counted:
            found = F.scaled_dot_product_attention(query, key, value)
        assert counted.get_total_flops() == 2 * product
        with counter() as counted:
            found.sum().backward()  # type: ignore[no-untyped-call]
        assert counted.get_total_flops() == 5 * product

    @matmul
    def test_a_whole_model(self, tiny: MakeConfig, matmul: str) -> None:
        """Eight tokens of news, four blocks below and two above, a prompt, LoRA of rank 4 on two layers a block."""
        bench = Workbench(tiny("model.experts=null", f"execution.matmul={matmul}"))
        found = sample_flops(bench, "reader-0", "topic")
        assert found.prefix == 4 * (linears(8) + 2 * attention(8))
        blocks = 2 * (2 * linears(8) + (2 + 5) * attention(8))
        lora = 2 * 2 * (3 * 2 * (2 * 8 * WIDTH * 4))  # two small products each, with gradients of inputs and weights
        prompt = (2 + 3) * (2 * 8 * 4 * WIDTH)  # four tokens, used twice; the text needs no gradient
        head = 3 * (2 * WIDTH * 5)
        assert found.training == blocks + lora + prompt + head


@onednn
@pytest.mark.parametrize(("device", "task"), [("coach-0", "exercise"), ("coach-0", "topic")])
def test_the_library_of_products_makes_no_difference(tiny: MakeConfig, device: str, task: str) -> None:
    default, other = (
        sample_flops(Workbench(tiny(f"execution.matmul={matmul}")), device, task) for matmul in ("default", "onednn")
    )
    assert default == other


def test_what_a_modality_adds(tiny: MakeConfig, images: tuple[str, ...]) -> None:
    bench = Workbench(tiny(*images, "topology.tiers=[]"))
    both, text = sample_flops(bench, "camera-0", "vqa"), sample_flops(bench, "reader-0", "vqa")
    assert both.training > text.training
    assert both.prefix > text.prefix > 0


def test_series_have_no_frozen_prefix(tiny: MakeConfig) -> None:
    found = sample_flops(Workbench(tiny()), "watch-0", "exercise")
    assert found.prefix == 0
    assert found.training > 2 * linears(1)


def test_no_trace_is_left(tiny: MakeConfig) -> None:
    bench = Workbench(tiny())
    before = {name: tensor.clone() for name, tensor in bench.model.state_dict().items()}
    sample_flops(bench, "coach-0", "exercise")
    after = bench.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in bench.model.parameters())


def test_nothing_before_makes_a_difference(tiny: MakeConfig) -> None:
    """Neither what the caches hold and the model has learned, nor having counted before."""
    bench = Workbench(tiny())
    first = [sample_flops(bench, "coach-0", task) for task in ("exercise", "topic")]
    start = {module: bench.model.tensors(module) for module in bench.ownership.modules_of["coach-0"]}
    train(bench, [Member("coach-0", start, tuple(range(bench.model.num_experts)))], 1)
    assert [sample_flops(bench, "coach-0", task) for task in ("exercise", "topic")] == first
    fresh = Workbench(tiny("execution.prefix_cache_bytes=0"))
    assert [sample_flops(fresh, "coach-0", task) for task in ("topic", "exercise")] == first[::-1]
