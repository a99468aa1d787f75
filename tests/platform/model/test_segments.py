"""Rows of any tasks and versions together: each is predicted as by a model that holds its versions, alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn

from fogtune.platform.config import Config
from fogtune.platform.model.image import ImageEncoder
from fogtune.platform.model.m3t import M3TModel
from fogtune.platform.model.matmul import onednn_is_exact
from fogtune.platform.model.rows import Index, Versions
from fogtune.platform.model.segments import Segment
from fogtune.platform.model.tokens import passes, together
from fogtune.platform.modules import kind_and_name

TASKS = {"topic": ["text"], "exercise": ["imu"], "vqa": ["text", "image"], "both": ["text", "imu"]}
LABELS = {"topic": ("a", "b", "c"), "exercise": ("a", "b"), "vqa": ("a", "b", "c", "d"), "both": ("a", "b")}
TEXTS = ("what colour is the blue square", "red", "is the circle green", "", "what is red what is blue " * 4)
MIXED: tuple[tuple[str, tuple[str, ...], int], ...] = (
    ("topic", ("text",), 3),
    ("vqa", ("text", "image"), 2),
    ("exercise", ("imu",), 3),
    ("vqa", ("image",), 2),  # without its question
    ("both", ("text", "imu"), 2),
    ("topic", ("text",), 1),
)
KINDS = ("encoder", "statistics", "prompt", "adapter", "router", "expert", "head")
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 16,
}
WIDE: dict[str, Any] = {"initializer_range": 0.3, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", SMALL | WIDE),
    "roberta": ("roberta", SMALL | WIDE),  # counts positions by the tokens that are no padding
    "mpnet": ("mpnet", SMALL | WIDE),
    "llama": ("llama", SMALL | WIDE | {"num_key_value_heads": 2, "head_dim": 8}),
    "windows": (
        "qwen2",
        SMALL
        | WIDE
        | {
            "num_key_value_heads": 2,
            "use_sliding_window": True,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        },
    ),
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 4, "n_head": 4, "vocab_size": 16, "initializer_range": 0.3}),
}


def build(name: str, **parts: Any) -> M3TModel:
    encoders: dict[str, Any] = {
        "image": {"kind": "image", "size_px": 64},
        "imu": {"kind": "series", "channels": 3, "width": 8},
    }
    config = {
        "devices": [{"name": "d", "count": 1, "modalities": ["text", *encoders], "tasks": list(TASKS)}],
        "sources": {"s": {"kind": "embedded", "asset": "bbc-news"}},
        "tasks": {name: {"source": "s", "label": "topic", "inputs": inputs} for name, inputs in TASKS.items()},
        "model": {
            "backbone": {"name": name},
            "encoders": encoders,
            **{k: v for k, v in parts.items() if k != "matmul"},
        },
        "execution": {"matmul": parts.get("matmul", "auto")},
    }
    model = M3TModel(Config.model_validate(config), LABELS)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # some way from its start, where experts and prompts do nothing
        for tensor in (p for tensors in model.tensors_of.values() for p in tensors.values() if p.requires_grad):
            tensor += 0.05 * torch.randn(tensor.shape, generator=generator)
    return model


@pytest.fixture(params=FAMILIES, scope="module")
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory with a tiny random model."""
    kind, values = FAMILIES[request.param]
    path = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    network = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **values))  # type: ignore[no-untyped-call]
    network.save_pretrained(path)
    words = ("[PAD]", "[UNK]", "red", "green", "blue", "is", "the", "circle", "square", "what", "colour")
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[UNK]"
    )
    fast.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module", params=["onednn", "default"])
def model(request: pytest.FixtureRequest) -> M3TModel:
    """A model on MiniLM; tests leave its modules as they were."""
    if request.param == "onednn" and not onednn_is_exact():
        pytest.skip("oneDNN is not exact here")
    return build("embedded:minilm", matmul=request.param, experts={"count": 4, "width": 8})


def pad(values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    mask = [torch.ones(len(one), dtype=torch.int64) for one in values]
    return nn.utils.rnn.pad_sequence(list(values), batch_first=True), nn.utils.rnn.pad_sequence(mask, batch_first=True)


def samples(model: M3TModel) -> list[tuple[str, list[dict[str, Tensor]]]]:
    """Task -> samples of a segment, modality -> prefix; several segments."""
    generator = torch.Generator().manual_seed(0)

    def prefix(modality: str, i: int) -> Tensor:
        if modality == "text":
            return model.prefix("text", TEXTS[i % len(TEXTS)])
        shape = (4, 1280) if modality == "image" else ((128, 3), (40, 3), (7, 3))[i % 3]
        return torch.randn(shape, generator=generator)

    return [(task, [{m: prefix(m, i + n) for m in inputs} for i in range(n)]) for task, inputs, n in MIXED]


def segment(task: str, rows: Sequence[Mapping[str, Tensor]]) -> Segment:
    return Segment(task, {modality: pad([one[modality] for one in rows]) for modality in rows[0]})


def versions_of(model: M3TModel, kinds: Sequence[str], count: int, rows: int) -> dict[str, Versions]:
    """Random versions of all modules of these kinds; of statistics, the first is unknown."""
    generator = torch.Generator().manual_seed(1)
    result = {}
    for i, (module, tensors) in enumerate(model.tensors_of.items()):
        kind, _ = kind_and_name(module)
        if kind not in kinds:
            continue
        slabs = {n: t.detach() + 0.1 * torch.randn(count, *t.shape, generator=generator) for n, t in tensors.items()}
        if kind == "statistics":
            slabs["square"] = slabs["mean"] ** 2 + torch.rand(slabs["mean"].shape, generator=generator)
            for tensor in slabs.values():
                tensor[0] = 0
        result[module] = Versions(slabs, Index((row + i) % count for row in range(rows)))
    return result


@torch.no_grad()
def check(model: M3TModel, kinds: Sequence[str], count: int = 3) -> None:
    """Every row of mixed segments is as alone, in a model that holds its versions."""
    mixed = samples(model)
    versions = versions_of(model, kinds, count, sum(len(rows) for _, rows in mixed))
    found = torch.cat([one.flatten() for one in model.predict([segment(*one) for one in mixed], versions)])
    expected = []
    for i, (task, one) in enumerate((task, one) for task, rows in mixed for one in rows):
        own = {
            module: {n: slab[some.index[i]] for n, slab in some.tensors.items()} for module, some in versions.items()
        }
        with model.holding(own):
            expected.append(model(segment(task, [one])).outputs.flatten())
    torch.testing.assert_close(found, torch.cat(expected), atol=1e-5, rtol=1e-5)
    if versions:  # which do something
        assert not torch.allclose(found, torch.cat([o.flatten() for o in model.predict([segment(*m) for m in mixed])]))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_with_their_own_of_one_kind(model: M3TModel, kind: str) -> None:
    check(model, [kind])


@pytest.mark.parametrize("count", [1, 2, 13])
def test_rows_with_their_own_of_everything(model: M3TModel, count: int) -> None:
    check(model, KINDS, count)


@pytest.mark.parametrize("experts", [None, {"count": 4, "width": 4}])
def test_rows_through_any_family(family: str, experts: dict[str, Any] | None) -> None:
    check(build(family, experts=experts), KINDS)


def test_rows_without_prompts_adapter_or_bilinear_pooling() -> None:
    check(build("embedded:minilm", prompts=None, adapter=None, interaction_rank=0), KINDS)


def test_rows_without_versions_take_the_models_own(model: M3TModel) -> None:
    check(model, [])


@torch.no_grad()
def test_one_segment_is_a_forward_pass_to_the_bit(model: M3TModel) -> None:
    for task, rows in samples(model):
        own = segment(task, rows)
        assert torch.equal(model.predict([own])[0], model(own).outputs)
        versions = {
            module: Versions({name: tensor.detach()[None] for name, tensor in tensors.items()}, Index([0] * len(rows)))
            for module, tensors in model.tensors_of.items()
        }
        assert torch.equal(model.predict([own], versions)[0], model(own).outputs)


def test_what_rows_have_learns(model: M3TModel) -> None:
    mixed = samples(model)
    versions = versions_of(model, ("prompt", "adapter", "head", "encoder"), 3, sum(len(rows) for _, rows in mixed))
    for some in versions.values():
        for tensor in some.tensors.values():
            tensor.requires_grad_()
    outputs = model.predict([segment(*one) for one in mixed], versions)
    (outputs[0][1] ** 2).sum().backward()  # type: ignore[no-untyped-call]  # of topic: row 1 of all
    for module, some in versions.items():
        used = [bool(any(t.grad is not None and t.grad[v].any() for t in some.tensors.values())) for v in range(3)]
        through = module in ("prompt/topic", "adapter/fusion", "head/topic")
        assert used == [through and v == some.index[1] for v in range(3)], module
    own = [tensor for module in versions for tensor in model.tensors_of[module].values()]
    assert all(tensor.grad is None for tensor in own)
    model.zero_grad(set_to_none=True)


# Prefixes


def test_texts_together_are_as_alone(family: str) -> None:
    model = build(family)
    found = model.prefixes("text", TEXTS)
    for text, tokens in zip(TEXTS, found, strict=True):
        alone = model.prefix("text", text)
        torch.testing.assert_close(tokens, alone, atol=1e-5, rtol=1e-5)
        assert tokens.untyped_storage().nbytes() == alone.untyped_storage().nbytes()  # holds no one else's in memory


def test_texts_that_need_several_passes_come_back_in_order(model: M3TModel) -> None:
    texts = ["a long text of many words " * 8, "short", *["one of a good many words " * 6] * 3, *["a"] * 9]
    for text, tokens in zip(texts, model.prefixes("text", texts), strict=True):
        torch.testing.assert_close(tokens, model.prefix("text", text), atol=1e-5, rtol=1e-5)


def test_images_of_any_sizes_together_are_as_alone(model: M3TModel) -> None:
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 256, (h, w, 3)).astype(np.uint8) for h, w in ((64, 64), (20, 50), (90, 9))]
    for picture, tokens in zip(pictures, model.prefixes("image", pictures), strict=True):
        alone = model.prefix("image", picture)
        torch.testing.assert_close(tokens, alone, atol=1e-5, rtol=1e-4)
        assert tokens.untyped_storage().nbytes() == alone.untyped_storage().nbytes()


def test_series_together_are_as_they_are(model: M3TModel) -> None:
    series = [np.ones((n, 3), np.float32) for n in (3, 9)]
    assert [tokens.shape for tokens in model.prefixes("imu", series)] == [(3, 3), (9, 3)]


# Passes


@given(st.lists(st.tuples(st.integers(1, 32), st.integers(1, 64)), min_size=1, max_size=12))
def test_every_segment_has_one_pass_and_none_has_much_padding(shapes: list[tuple[int, int]]) -> None:
    found = passes(shapes)
    assert sorted(i for some in found for i in some) == list(range(len(shapes)))
    for some in found:
        longest = max(shapes[i][1] for i in some)
        assert sum(shapes[i][0] * (longest - shapes[i][1]) for i in some) <= 128


def test_segments_of_one_length_share_a_pass_and_small_ones_do() -> None:
    assert passes([(8, 16), (32, 16), (1, 16)]) == [[0, 1, 2]]
    assert passes([(1, 48), (1, 16)]) == [[0, 1]]
    assert passes([(8, 16), (8, 48)]) == [[1], [0]]


def test_together_pads_with_zeros_behind() -> None:
    found = together([torch.ones(1, 2), torch.full((2, 3), 2.0)])
    assert found.tolist() == [[1, 1, 0], [2, 2, 2], [2, 2, 2]]
    alone = torch.ones(1, 2)
    assert together([alone]) is alone


# Moving


def test_all_of_it_moves() -> None:
    """To another type, as to another device: both go by the same way."""
    model = build("embedded:minilm", matmul="default", experts={"count": 4, "width": 8})
    task, rows = samples(model)[1]
    before = model(segment(task, rows)).outputs
    model.double()
    assert all(tensor.dtype == torch.float64 for tensors in model.tensors_of.values() for tensor in tensors.values())
    assert model.tensors_of["statistics/imu"]["mean"] is dict(model.standardise["imu"].named_buffers())["mean"]
    moved = [{modality: prefix.double() for modality, prefix in one.items()} for one in rows]
    torch.testing.assert_close(model(segment(task, moved)).outputs.float(), before, atol=1e-4, rtol=1e-4)
    image = model.encoders["image"]
    assert isinstance(image, ImageEncoder)
    assert all(tensor.dtype == torch.float64 for tensor in image._trunk[0].parameters())


def test_a_moved_model_can_hold_others_modules() -> None:
    model = build("embedded:minilm", matmul="default").double()
    values = torch.ones(1, 2, 3, dtype=torch.float64)
    with model.holding({"statistics/imu": {"mean": values[0, 0], "square": 2 * values[0, 0]}}):
        assert not model.standardise["imu"](values, torch.ones(1, 2, dtype=torch.int64)).any()
