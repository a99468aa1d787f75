"""A model without a backbone: encoders, pooling and heads, and nothing between."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fogtune.platform.config import Config
from fogtune.platform.model.m3t import M3TModel
from fogtune.platform.model.rows import Index, Versions
from fogtune.platform.model.segments import Segment

TASKS: dict[str, dict[str, Any]] = {"digit": {"inputs": ["pixels"]}, "both": {"inputs": ["pixels", "imu"]}}
LABELS = {"digit": tuple("0123456789"), "both": ("a", "b", "c")}
BARE: dict[str, Any] = {"backbone": None, "adapter": None, "prompts": None}
PIXELS: dict[str, Any] = {"kind": "features", "channels": 64, "standardise": False}
IMU: dict[str, Any] = {"kind": "features", "channels": 3, "hidden": [4]}


def build(tasks: tuple[str, ...] = ("digit",), **model: Any) -> M3TModel:
    encoders = {"pixels": PIXELS, "imu": IMU} if "both" in tasks else {"pixels": PIXELS}
    config = {
        "devices": [{"name": "d", "count": 1, "modalities": [*encoders], "tasks": list(tasks)}],
        "sources": {"s": {"kind": "embedded", "asset": "bbc-news"}},
        "tasks": {name: {"source": "s", "label": "topic", **TASKS[name]} for name in tasks},
        "model": BARE | {"width": 128, "encoders": encoders} | model,
    }
    return M3TModel(Config.model_validate(config), LABELS)


def whole(*values: Tensor) -> tuple[Tensor, Tensor]:
    return torch.stack(values), torch.ones(len(values), len(values[0]), dtype=torch.int64)


def vectors(count: int, seed: int = 1) -> Tensor:
    """(count, 1, 64)."""
    return torch.randn(count, 1, 64, generator=torch.Generator().manual_seed(seed))


def test_the_small_network_of_benchmarks_has_its_parameters() -> None:
    model = build(interaction_rank=0)
    assert {name: sum(t.numel() for t in tensors.values()) for name, tensors in model.tensors_of.items()} == {
        "encoder/pixels": 64 * 128 + 128,
        "head/digit": 128 * 10 + 10,
    }
    assert sum(parameter.numel() for parameter in model.parameters()) == 9610


def test_the_head_sees_the_mean_of_the_tokens_at_the_scale_of_one() -> None:
    """By hand: channels 64, of which two are not 0; width 2."""
    model = build(width=2)
    weight = torch.zeros(2, 64)
    weight[0, 0], weight[1, 5] = 2.0, 1.0
    encoder = {"layers.0.weight": weight, "layers.0.bias": torch.tensor([0.0, 1.0])}
    head = torch.zeros(10, 2)
    head[0, 0], head[3, 1], head[4, 0] = 4.0, 1.0, -1.0
    modules = {"encoder/pixels": encoder, "head/digit": {"weight": head, "bias": torch.arange(10.0)}}
    sample = torch.zeros(2, 64)
    sample[0, 0], sample[1, 0], sample[1, 5] = 5.0, -7.0, 3.0
    # Tokens (10, 1) and (0, 4), their mean (5, 2.5), at the scale of one (1, -1).
    with torch.no_grad(), model.holding(modules):
        result = model(Segment("digit", {"pixels": whole(sample)}))
    expected = torch.tensor([[4.0, 1, 2, 2, 3, 5, 6, 7, 8, 9]])
    torch.testing.assert_close(result.outputs, expected, atol=1e-4, rtol=0)
    assert (result.routed.tolist(), result.balance.item()) == ([], 0.0)


def test_no_sample_feels_its_batch() -> None:
    model = build(("digit", "both"), prompts={"tokens": 2}, interaction_rank=4)
    generator = torch.Generator().manual_seed(2)
    lengths = (1, 5, 3)
    series = [torch.randn(length, 3, generator=generator) for length in lengths]
    mask = (torch.arange(5) < torch.tensor(lengths)[:, None]).to(torch.int64)
    padded = torch.nn.utils.rnn.pad_sequence(series, batch_first=True)
    pixels = vectors(3)
    with torch.no_grad():
        together = model(Segment("both", {"pixels": whole(*pixels), "imu": (padded, mask)})).outputs
        for i, one in enumerate(series):
            alone = model(Segment("both", {"pixels": whole(pixels[i]), "imu": whole(one)})).outputs
            torch.testing.assert_close(together[i : i + 1], alone)


def test_statistics_are_of_what_is_standardised() -> None:
    model = build(("digit", "both"))
    assert [name for name in model.tensors_of if name.startswith("statistics/")] == ["statistics/imu"]
    values = 5 + vectors(2)
    with torch.no_grad():
        result = model(Segment("digit", {"pixels": whole(*values)})).outputs
        x = F.relu(F.linear(values.squeeze(1), *model.tensors("encoder/pixels").values()))
        expected = F.linear(F.layer_norm(x, (128,)), *model.tensors("head/digit").values())
    torch.testing.assert_close(result, expected)  # as they are


@pytest.mark.parametrize("index", [(0, 0, 1, 1), (0, 1, 0, 0)], ids=["groups", "rows"])
def test_rows_have_modules_of_their_own(index: tuple[int, ...]) -> None:
    model = build()
    generator = torch.Generator().manual_seed(3)
    two = {
        module: {name: torch.randn(2, *tensor.shape, generator=generator) for name, tensor in tensors.items()}
        for module, tensors in model.tensors_of.items()
    }
    pixels = vectors(4)
    versions = {module: Versions(tensors, Index(index)) for module, tensors in two.items()}
    with torch.no_grad():
        (found,) = model.predict([Segment("digit", {"pixels": whole(*pixels)})], versions)
        for i, version in enumerate(index):
            with model.holding({m: {name: tensor[version] for name, tensor in t.items()} for m, t in two.items()}):
                alone = model(Segment("digit", {"pixels": whole(pixels[i])})).outputs
            torch.testing.assert_close(found[i : i + 1], alone, atol=1e-4, rtol=1e-4)


def test_there_is_no_limit_on_tokens_and_no_text() -> None:
    model = build()
    model.check_length({"pixels": torch.zeros(100_000, 64)})
    with pytest.raises(RuntimeError, match="2 texts without a backbone"):
        model.prefixes("text", ["a", "b"])


def test_modalities_and_tasks_may_have_names_that_torch_keeps_for_itself() -> None:
    encoders = {"values": {"kind": "features", "channels": 1}, "b.c": {"kind": "features", "channels": 1}}
    config = {
        "devices": [{"name": "d", "count": 1, "modalities": [*encoders], "tasks": ["type"]}],
        "sources": {"s": {"kind": "embedded", "asset": "bbc-news"}},
        "tasks": {"type": {"source": "s", "label": "topic", "inputs": [*encoders]}},
        "model": {"backbone": None, "adapter": None, "width": 4, "encoders": encoders},
    }
    model = M3TModel(Config.model_validate(config), {"type": ("a", "b")})
    inputs = {modality: whole(torch.ones(2, 1)) for modality in encoders}
    assert model(Segment("type", inputs)).outputs.shape == (1, 2)
