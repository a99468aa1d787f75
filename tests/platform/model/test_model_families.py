"""Any family of transformers can be the backbone: tiny random ones, saved as Hugging Face saves them, end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn

from fogtune.platform.config import Config
from fogtune.platform.errors import InputError
from fogtune.platform.model.adapters import write_adapter_config
from fogtune.platform.model.m3t import M3TModel
from fogtune.platform.model.segments import Batch
from fogtune.platform.modules import is_statistics

WORDS = ("red", "green", "blue", "is", "the", "circle", "square", "what", "colour")
LONG, SHORT = "what colour is the blue square", "red circle"
BLOCKS = 4

BERT = {
    "hidden_size": 32,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 16,
    "initializer_range": 0.3,  # wide, so that a wrong position or mask shows
    "bos_token_id": 2,
    "eos_token_id": 3,
    "pad_token_id": 0,
}
LLAMA = BERT | {"num_key_value_heads": 2, "head_dim": 8}
GPT2 = {"n_embd": 32, "n_layer": BLOCKS, "n_head": 4, "vocab_size": 16, "bos_token_id": 2, "eos_token_id": 3}
DISTILBERT = {"dim": 32, "n_layers": BLOCKS, "n_heads": 4, "hidden_dim": 48, "vocab_size": 16, "initializer_range": 0.3}
WINDOWS = {
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"],
}
GATED = {"q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}

FAMILIES: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "bert": ("bert", BERT, {"query", "value", "dense"}),
    "roberta": ("roberta", BERT, {"query", "value", "dense"}),
    "distilbert": ("distilbert", DISTILBERT, {"q_lin", "v_lin", "out_lin", "lin1", "lin2"}),
    "embeddings narrower than the blocks": ("electra", BERT | {"embedding_size": 16}, {"query", "value", "dense"}),
    "relative positions": ("mpnet", BERT, {"q", "v", "o", "dense"}),
    "rotary positions": ("llama", LLAMA, GATED),
    "blocks of two kinds": ("qwen2", LLAMA | WINDOWS | {"use_sliding_window": True}, GATED),
    "scaled embeddings": ("gemma3_text", LLAMA | WINDOWS, GATED),
    "transposed linear layers": ("gpt2", GPT2 | {"initializer_range": 0.3}, {"c_attn", "c_proj", "c_fc"}),
}


@pytest.fixture(params=FAMILIES, scope="module")
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Name of a family, and a directory with one of it."""
    kind, values, _ = FAMILIES[request.param]
    path = tmp_path_factory.mktemp(kind)
    save(path, transformers.AutoConfig.for_model(kind, **values))
    return request.param, str(path)


def save(path: Path, config: Any, *, around_text: bool = True) -> None:
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(path)
    vocabulary = {word: i for i, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if around_text:
        special = [("[CLS]", 2), ("[SEP]", 3)]
        tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    fast = transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", eos_token="[SEP]"
    )
    fast.save_pretrained(path)


def build(path: str, fusion_blocks: int = 2, **model: Any) -> M3TModel:
    backbone = {"name": path, "fusion_blocks": fusion_blocks}
    config = {
        "devices": [{"name": "d", "count": 1, "modalities": ["text", "imu"], "tasks": ["colour"]}],
        "sources": {"s": {"kind": "embedded", "asset": "bbc-news"}},
        "tasks": {"colour": {"source": "s", "inputs": ["text", "imu"], "label": "topic"}},
        "model": {"backbone": backbone, "encoders": {"imu": {"kind": "series", "channels": 3}}, **model},
    }
    return M3TModel(Config.model_validate(config), {"colour": ("red", "blue")})


def batch(model: M3TModel, texts: list[str], series: Tensor | None = None) -> Batch:
    """Texts padded to the longest; behind them a series, which then stands behind the padding."""
    prefixes = [model.prefix("text", text) for text in texts]
    mask = nn.utils.rnn.pad_sequence([torch.ones(len(p), dtype=torch.int64) for p in prefixes], batch_first=True)
    inputs = {"text": (nn.utils.rnn.pad_sequence(prefixes, batch_first=True), mask)}
    if series is not None:
        inputs["imu"] = (series, torch.ones(series.shape[:2], dtype=torch.int64))
    return Batch("colour", inputs, torch.arange(len(texts)) % 2)


def train_a_step(model: M3TModel, data: Batch) -> None:
    parameters = [p for named in model.tensors_of.values() for p in named.values()]
    optimizer = torch.optim.AdamW(parameters, lr=0.01)
    result = model(data)
    (nn.functional.cross_entropy(result.outputs, data.targets) + result.balance).backward()
    optimizer.step()


@pytest.mark.parametrize("fusion_blocks", [1, 2, BLOCKS])
def test_both_parts_are_the_whole(family: tuple[str, str], fusion_blocks: int) -> None:
    path = family[1]
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    reference = transformers.AutoModel.from_pretrained(path).eval()
    ids = tokenizer(LONG, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        whole = reference(input_ids=ids, output_hidden_states=True)
    backbone = build(path, fusion_blocks).backbone
    (tokens,) = backbone.texts_tokens([LONG])
    torch.testing.assert_close(tokens, whole.hidden_states[BLOCKS - fusion_blocks][0], atol=1e-5, rtol=1e-5)
    fused = backbone.fuse(tokens[None], torch.ones(1, len(tokens), dtype=torch.int64))
    torch.testing.assert_close(fused, whole.last_hidden_state, atol=1e-5, rtol=1e-5)


def test_a_sample_does_not_feel_its_batch(family: tuple[str, str]) -> None:
    model = build(family[1], experts={"count": 4})
    series = torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(1))
    train_a_step(model, batch(model, [LONG, SHORT], series))  # so that adapters, experts and prompts do something
    together = model(batch(model, [LONG, SHORT], series)).outputs
    alone = [model(batch(model, [text], series[i : i + 1])).outputs[0] for i, text in enumerate([LONG, SHORT])]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-5, rtol=1e-5)


def test_a_step_trains_every_module(family: tuple[str, str]) -> None:
    model = build(family[1], experts={"count": 2, "top_k": 2})
    data = batch(model, [LONG, SHORT], torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(1)))
    before = {module: model.tensors(module) for module in model.tensors_of if not is_statistics(module)}
    outputs = model(data).outputs
    train_a_step(model, data)
    for module, tensors in before.items():
        after = model.tensors(module)
        assert any(not torch.equal(after[name], tensor) for name, tensor in tensors.items()), module
    assert not torch.allclose(model(data).outputs, outputs)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT asks transformers for it
def test_the_adapter_is_on_all_but_keys_and_peft_loads_it(family: tuple[str, str], tmp_path: Path) -> None:
    name, path = family
    model = build(path, prompts=None)
    tensors = model.tensors_of["adapter/fusion"]
    assert {name.split(".")[-3] for name in tensors} == FAMILIES[name][2]

    train_a_step(model, batch(model, [LONG, SHORT]))
    save_file(model.tensors("adapter/fusion"), tmp_path / "adapter_model.safetensors")
    assert model.adapter_config is not None
    write_adapter_config(model.adapter_config, path, tmp_path)
    loaded = PeftModel.from_pretrained(transformers.AutoModel.from_pretrained(path), tmp_path).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    with torch.no_grad():
        expected = loaded(input_ids=tokenizer(LONG, return_tensors="pt")["input_ids"]).last_hidden_state
    tokens = model.prefix("text", LONG)[None]
    fused = model.backbone.fuse(tokens, torch.ones(tokens.shape[:2], dtype=torch.int64))
    torch.testing.assert_close(fused, expected, atol=1e-5, rtol=1e-5)


UNSUITABLE: dict[str, tuple[str, dict[str, Any], str]] = {
    "encoder and decoder": (
        "bart",
        {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "vocab_size": 16},
        "list",
    ),
    "one block used again and again": ("albert", BERT | {"embedding_size": 16}, "list"),
    "time first": ("xlnet", {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48, "vocab_size": 16}, "two parts"),
}


@pytest.mark.parametrize("kind", UNSUITABLE)
def test_what_cannot_be_cut_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    model_type, values, words = UNSUITABLE[kind]
    save(tmp_path, transformers.AutoConfig.for_model(model_type, **values))
    with pytest.raises(InputError, match=words) as caught:
        build(str(tmp_path))
    assert caught.value.where == "model.backbone.name"
    assert "\n" not in str(caught.value)


def test_an_empty_text_is_a_token(tmp_path: Path) -> None:
    save(tmp_path, transformers.AutoConfig.for_model("llama", **LLAMA), around_text=False)
    model = build(str(tmp_path))
    assert model.prefix("text", "").shape == (1, 32)
    assert model.prefix("text", "red circle").shape == (2, 32)


def test_a_saved_adapter_description_is_plain_json(tmp_path: Path) -> None:
    save(tmp_path, transformers.AutoConfig.for_model("bert", **BERT))
    model = build(str(tmp_path), adapter={"rank": 4, "alpha": 8, "targets": ["query", "output.dense"]})
    assert model.adapter_config is not None
    write_adapter_config(model.adapter_config, "here", tmp_path)
    content = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (content["peft_type"], content["r"], content["lora_alpha"]) == ("LORA", 4, 8)
    assert content["base_model_name_or_path"] == "here"
    assert content["target_modules"] == [
        f"encoder.layer.{block}.{name}"
        for block in (2, 3)
        for name in ("attention.output.dense", "attention.self.query", "output.dense")
    ]
