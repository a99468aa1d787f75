"""The backbone: the embedded model cut at any block is the model that Hugging Face runs; bad names are one line."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer

from fogtune.platform.config import Backbone as BackboneConfig
from fogtune.platform.data.assets import minilm_directory
from fogtune.platform.errors import InputError
from fogtune.platform.model.backbone import Backbone, backbone_hash
from fogtune.platform.model.matmul import onednn_is_exact, using

TEXT = "What colour is the small circle left of the square?"
BLOCKS = 6


@pytest.mark.parametrize("fusion_blocks", range(1, BLOCKS + 1))
def test_text_tokens_are_the_hidden_states_at_the_boundary(fusion_blocks: int) -> None:
    encoded = AutoTokenizer.from_pretrained(minilm_directory())(TEXT, return_tensors="pt")
    with torch.no_grad(), using("default"):
        model = AutoModel.from_pretrained(minilm_directory())
        whole = model(**encoded, output_hidden_states=True)
        backbone = Backbone(BackboneConfig(fusion_blocks=fusion_blocks))
        tokens = backbone.text_tokens(TEXT)
        torch.testing.assert_close(tokens, whole.hidden_states[BLOCKS - fusion_blocks][0], atol=1e-5, rtol=1e-5)
        for layer in (layer for layer in model.encoder.modules() if isinstance(layer, nn.Linear)):
            layer.weight.data = layer.weight.data.t().contiguous().t()
        # By the same library of products, and the same layout of the weights, to the bit.
        assert torch.equal(tokens, model(**encoded, output_hidden_states=True).hidden_states[BLOCKS - fusion_blocks][0])
        fused = backbone.fuse(tokens[None], torch.ones(1, len(tokens), dtype=torch.int64))
    torch.testing.assert_close(fused, whole.last_hidden_state, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone(BackboneConfig(fusion_blocks=2, max_text_tokens=12))


def test_the_libraries_of_products_agree(backbone: Backbone) -> None:
    if not onednn_is_exact():
        pytest.skip("oneDNN is not exact here")
    with using("onednn"):
        ours = backbone.text_tokens(TEXT)
    with using("default"):
        theirs = backbone.text_tokens(TEXT)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    if torch.backends.cpu.get_cpu_capability() == "AVX512":  # elsewhere both may take the same kernel
        assert not torch.equal(ours, theirs)


def test_nothing_of_it_trains(backbone: Backbone) -> None:
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not any(module.training for module in backbone.modules() if isinstance(module, nn.Dropout))


def test_long_texts_are_cut(backbone: Backbone) -> None:
    assert backbone.text_tokens(TEXT * 10).shape == (12, 384)
    assert backbone.text_tokens("").shape == (2, 384)  # what stands around every text


def test_texts_are_cut_to_the_positions_that_there_are() -> None:
    patient = Backbone(BackboneConfig(fusion_blocks=6, max_text_tokens=10_000))
    assert patient.text_tokens("word " * 3000).shape == (512, 384)


def test_what_follows_a_block_takes_the_place_of_its_output(backbone: Backbone) -> None:
    tokens = torch.randn(2, 5, 384, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 5, dtype=torch.int64)
    seen: list[int] = []

    def after(i: int, hidden: torch.Tensor) -> torch.Tensor:
        seen.append(i)
        return torch.full_like(hidden, i)

    assert torch.equal(backbone.fuse(tokens, mask, after), torch.ones(2, 5, 384))
    assert seen == [0, 1]
    assert not torch.equal(backbone.fuse(tokens, mask), torch.ones(2, 5, 384))


def test_gradients_reach_what_was_put_in(backbone: Backbone) -> None:
    tokens = torch.randn(1, 5, 384, generator=torch.Generator().manual_seed(0)).requires_grad_()
    backbone.fuse(tokens, torch.tensor([[1, 1, 1, 0, 0]]))[0, 0].sum().backward()  # type: ignore[no-untyped-call]
    assert tokens.grad is not None
    assert bool((tokens.grad[0, :3].abs().sum(-1) > 0).all())
    assert torch.equal(tokens.grad[0, 3:], torch.zeros(2, 384))


def test_the_model_is_whole_after_an_error(backbone: Backbone) -> None:
    before = backbone.text_tokens(TEXT)

    def fail(i: int, hidden: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("expert lost")

    with pytest.raises(RuntimeError, match="expert lost"):
        backbone.fuse(torch.zeros(1, 2, 384), torch.ones(1, 2, dtype=torch.int64), fail)
    assert len(backbone.model.encoder.layer) == BLOCKS
    assert torch.equal(backbone.text_tokens(TEXT), before)


def test_more_tokens_than_positions_are_refused(backbone: Backbone) -> None:
    with pytest.raises(InputError) as caught:
        backbone.fuse(torch.zeros(1, 513, 384), torch.ones(1, 513, dtype=torch.int64))
    assert str(caught.value) == "model.encoders: 513 tokens a sample; allowed: 512, the backbone's positions"


def test_linear_layers_by_block(backbone: Backbone) -> None:
    linears = backbone.block_linears()
    assert list(linears) == ["encoder.layer.4", "encoder.layer.5"]
    assert linears["encoder.layer.5"] == [
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    ]


def linked_minilm(path: Path, *names: str) -> Path:
    """A directory with some files of the embedded model."""
    path.mkdir()
    for name in names:
        (path / name).symlink_to(minilm_directory() / name)
    return path


def test_bad_names_are_one_line(tmp_path: Path) -> None:
    empty = linked_minilm(tmp_path / "empty")
    no_weights = linked_minilm(tmp_path / "no-weights", "config.json", "tokenizer.json", "tokenizer_config.json")
    no_tokenizer = linked_minilm(tmp_path / "no-tokenizer", "config.json", "model.safetensors")
    damaged = linked_minilm(tmp_path / "damaged", "config.json", "tokenizer.json", "tokenizer_config.json")
    (damaged / "model.safetensors").write_bytes(b"\x00" * 100)
    paths = [str(path) for path in (tmp_path / "nowhere", empty, no_weights, no_tokenizer, damaged)]
    for name in [*paths, "no-one/nothing"]:
        with pytest.raises(InputError) as caught:
            Backbone(BackboneConfig(name=name))
        assert caught.value.where == "model.backbone.name"
        assert repr(name) in caught.value.problem
        assert "allowed: embedded:minilm, a hub name or a path" in caught.value.problem
        assert "\n" not in str(caught.value)


def test_other_embedded_names_are_refused() -> None:
    with pytest.raises(InputError, match="'embedded:bert'; embedded is only 'embedded:minilm'"):
        Backbone(BackboneConfig(name="embedded:bert"))


def test_too_few_blocks() -> None:
    with pytest.raises(InputError) as caught:
        Backbone(BackboneConfig(fusion_blocks=7))
    assert str(caught.value) == "model.backbone.fusion_blocks: 7 of 'embedded:minilm'; allowed: 1 to 6"


def test_the_hash_names_the_weights(tmp_path: Path) -> None:
    linked = linked_minilm(tmp_path / "linked", "model.safetensors")
    assert backbone_hash(str(linked)) == backbone_hash("embedded:minilm")
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.safetensors").write_bytes(b"weights")
    assert backbone_hash(str(other)) != backbone_hash(str(linked))
    (other / "model-2.safetensors").write_bytes(b"more weights")
    assert backbone_hash(str(other)) != hashlib.sha256(hashlib.sha256(b"weights").digest()).hexdigest()
    assert backbone_hash("google-bert/bert-base-uncased") != backbone_hash("google-bert/bert-large-uncased")
