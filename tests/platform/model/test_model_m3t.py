"""The whole model: it starts as the pretrained one, no sample feels its batch, every trained tensor has a module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from fogtune.platform.config import Config
from fogtune.platform.data.assets import minilm_directory
from fogtune.platform.model.backbone import Backbone
from fogtune.platform.model.heads import HEADS
from fogtune.platform.model.m3t import M3TModel
from fogtune.platform.model.segments import Batch
from fogtune.platform.modules import is_statistics, module_names

TEXTS = ("What colour is the small circle left of the square?", "Is it red?")
TASKS: dict[str, dict[str, Any]] = {
    "topic": {"inputs": ["text"]},
    "exercise": {"inputs": ["imu"]},
    "both": {"inputs": ["text", "imu"]},
    "tags": {"inputs": ["text"], "head": "multilabel"},
    "length": {"inputs": ["text"], "head": "regression"},
}
LABELS = {"topic": ("a", "b"), "exercise": ("a", "b"), "both": ("a", "b"), "tags": ("a", "b", "c"), "length": ()}
NOTHING: dict[str, Any] = {"adapter": None, "prompts": None, "experts": None}
ADAPTER: dict[str, Any] = {"adapter": {"rank": 4}}
EXPERTS: dict[str, Any] = {"experts": {"count": 4, "width": 8}}
PROMPTS: dict[str, Any] = {"prompts": {"tokens": 4}}
ALL = ADAPTER | EXPERTS | PROMPTS


def configuration(seed: int = 0, encoders: Mapping[str, Any] | None = None, **model: Any) -> Config:
    encoders = encoders or {"imu": {"kind": "series", "channels": 3, "width": 8}}
    config = {
        "seed": seed,
        "devices": [{"name": "d", "count": 1, "modalities": ["text", *encoders], "tasks": list(TASKS)}],
        "sources": {"s": {"kind": "embedded", "asset": "bbc-news"}},
        "tasks": {name: {"source": "s", "label": "topic", **task} for name, task in TASKS.items()},
        "model": {"encoders": encoders, **model},
    }
    return Config.model_validate(config)


def build(seed: int = 0, **model: Any) -> M3TModel:
    return M3TModel(configuration(seed, **model), LABELS)


@pytest.fixture(scope="module")
def model() -> M3TModel:
    """With everything, some steps away from its start; tests do not train it further."""
    trained = build(**ALL)
    for task in ("topic", "exercise", "both"):
        train(trained, batch(trained, task, TEXTS, series(30, 64), torch.tensor([0, 1])), 3)
    return trained


def series(*lengths: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(length, 3, generator=generator) for length in lengths]


def pad(values: list[Tensor]) -> tuple[Tensor, Tensor]:
    mask = [torch.ones(len(one), dtype=torch.int64) for one in values]
    return nn.utils.rnn.pad_sequence(values, batch_first=True), nn.utils.rnn.pad_sequence(mask, batch_first=True)


def batch(
    model: M3TModel,
    task: str,
    texts: tuple[str, ...] = (),
    movements: list[Tensor] | None = None,
    targets: Tensor | None = None,
) -> Batch:
    inputs = {}
    if "text" in TASKS[task]["inputs"] and texts:
        inputs["text"] = pad([model.prefix("text", text) for text in texts])
    if "imu" in TASKS[task]["inputs"] and movements:
        inputs["imu"] = pad(movements)
    return Batch(task, inputs, torch.zeros(len(texts)) if targets is None else targets)


def train(model: M3TModel, data: Batch, steps: int) -> list[float]:
    """Loss before each step."""
    parameters = [p for named in model.tensors_of.values() for p in named.values()]
    optimizer = torch.optim.AdamW(parameters, lr=0.003)
    head = HEADS[TASKS[data.task].get("head", "classification")]
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        result = model(data)
        loss = head.losses(result.outputs, data.targets).mean()
        (loss + 0.01 * result.balance).backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def fused(model: M3TModel, data: Batch) -> Tensor:
    """What the backbone puts out within a whole forward pass, (B, T, D)."""
    seen: list[Tensor] = []
    assert isinstance(model.backbone, Backbone)
    hook = model.backbone.model.register_forward_hook(lambda _, __, output: seen.append(output.last_hidden_state))
    with torch.no_grad():
        model(data)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("parts", [ADAPTER, EXPERTS, PROMPTS, ALL], ids=["adapter", "experts", "prompts", "all"])
def test_it_starts_as_the_pretrained_model(parts: dict[str, Any]) -> None:
    encoded = AutoTokenizer.from_pretrained(minilm_directory())(list(TEXTS), padding=True, return_tensors="pt")
    kept = encoded["attention_mask"] == 1
    with torch.no_grad():
        pretrained = AutoModel.from_pretrained(minilm_directory())(**encoded).last_hidden_state
    model = build(**NOTHING | parts)
    data = batch(model, "topic", TEXTS, targets=torch.tensor([0, 1]))
    torch.testing.assert_close(fused(model, data)[kept], pretrained[kept], atol=1e-5, rtol=1e-5)
    train(model, data, 1)
    assert (fused(model, data)[kept] - pretrained[kept]).abs().max() > 1e-3


def test_the_head_sees_the_mean_of_the_tokens_at_the_scale_of_one() -> None:
    model = build(**NOTHING)
    data = batch(model, "topic", TEXTS)
    hidden, mask = fused(model, data), data.inputs["text"][1]
    means = torch.stack([one[kept == 1].mean(0) for one, kept in zip(hidden, mask, strict=True)])
    result = model(data)
    expected = model.heads["topic"](nn.functional.layer_norm(means, means.shape[-1:]))
    torch.testing.assert_close(result.outputs, expected, atol=1e-5, rtol=1e-5)
    assert (result.routed.tolist(), result.balance.item()) == ([], 0.0)


@pytest.mark.parametrize("task", ["topic", "exercise", "both"])
def test_a_sample_does_not_feel_its_batch(model: M3TModel, task: str) -> None:
    movements = series(30, 128)
    together = model(batch(model, task, TEXTS, movements)).outputs
    for i, text in enumerate(TEXTS):
        alone = model(batch(model, task, (text,), movements[i : i + 1])).outputs
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-5)


def test_a_missing_modality_is_left_out(model: M3TModel) -> None:
    outputs = [
        model(batch(model, "both", texts, movements)).outputs
        for texts, movements in ((TEXTS, series(30, 64)), (TEXTS, []), ((), series(30, 64)))
    ]
    assert all(one.shape == (2, 2) for one in outputs)
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-3)
    assert not torch.allclose(outputs[0], outputs[2], atol=1e-3)


def test_only_held_experts_are_used(model: M3TModel) -> None:
    data = batch(model, "topic", TEXTS)
    held = model(data, (0, 2))
    assert held.routed.tolist() == [2, 0, 2, 0]  # top 2 of 2: both samples, both experts
    assert not torch.equal(held.outputs, model(data, (1, 3)).outputs)
    assert torch.equal(model(data).outputs, model(data, (0, 1, 2, 3)).outputs)


def test_a_prefix_does_not_depend_on_what_is_trained(model: M3TModel) -> None:
    fresh = build(seed=5, **NOTHING)
    assert torch.equal(model.prefix("text", TEXTS[0]), fresh.prefix("text", TEXTS[0]))
    movement = series(20)[0].numpy()
    assert torch.equal(model.prefix("imu", movement), fresh.prefix("imu", movement))
    assert not model.prefix("text", TEXTS[0]).requires_grad


def test_every_trained_tensor_has_one_module() -> None:
    config = configuration(encoders={"image": {"kind": "image"}, "imu": {"kind": "series", "channels": 3}}, **ALL)
    model = M3TModel(config, LABELS)
    assert tuple(model.tensors_of) == module_names(config)
    named = [
        parameter
        for module, tensors in model.tensors_of.items()
        for parameter in tensors.values()
        if not is_statistics(module)
    ]
    assert len({id(parameter) for parameter in named}) == len(named)
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert {id(parameter) for parameter in named} == trained


def test_modules_leave_and_come_back(model: M3TModel) -> None:
    data = batch(model, "both", TEXTS, series(30, 64))
    other = build(seed=1, **ALL)
    assert not torch.equal(other(data).outputs, model(data).outputs)
    before = other(data).outputs
    control = {"control": torch.zeros(1)}  # what else there is, is not read
    with other.holding({module: model.tensors(module) | control for module in model.tensors_of}):
        assert torch.equal(other(data).outputs, model(data).outputs)
    assert torch.equal(other(data).outputs, before)


def test_tensors_are_copies(model: M3TModel) -> None:
    before = model.tensors("head/topic")
    before["weight"].zero_()
    assert bool((model.tensors("head/topic")["weight"] != 0).any())


def test_incomplete_modules_are_noticed(model: M3TModel) -> None:
    with pytest.raises(KeyError), model.holding({"head/topic": {"weight": torch.zeros(2, 384)}}):
        pass


def test_a_module_starts_from_the_seed_and_its_name_alone() -> None:
    state = torch.get_rng_state()
    full = build(**ALL)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    lean = build(**NOTHING | PROMPTS)
    other = build(seed=1, **NOTHING)
    for module in lean.tensors_of:
        for name, tensor in lean.tensors(module).items():
            assert torch.equal(tensor, full.tensors(module)[name]), module
    assert not torch.equal(other.tensors("head/topic")["weight"], lean.tensors("head/topic")["weight"])
    assert not torch.equal(full.tensors("head/topic")["weight"], full.tensors("head/exercise")["weight"])


def test_training_has_no_chance_in_it(model: M3TModel) -> None:
    data = batch(model, "both", TEXTS, series(30, 64))
    assert torch.equal(model(data).outputs, model(data).outputs)


SENTENCES = (
    "one apple",
    "two pears",
    "three green plums",
    "apple and pear",
    "a ship at sea",
    "the old harbour",
    "rain",
)
TAGS = [[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 0], [0, 0, 1], [0, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    ("task", "targets"),
    [("tags", torch.tensor(TAGS).float()), ("length", torch.tensor([len(text) / 10 for text in SENTENCES]))],
)
def test_other_heads_train_through_the_whole_model(task: str, targets: Tensor) -> None:
    model = build(**ALL)
    head = HEADS[TASKS[task]["head"]]
    data = batch(model, task, SENTENCES, targets=targets)
    first = head.metrics(head.tally(model(data).outputs, targets))[head.metric]
    losses = train(model, data, 40)
    last = head.metrics(head.tally(model(data).outputs, targets))[head.metric]
    assert losses[-1] < losses[0] / 10
    assert first < 0.8 < 0.95 < last
