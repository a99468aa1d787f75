"""The frozen pretrained transformer, used in two parts: lower blocks encode text, upper blocks fuse all modalities.

Any Hugging Face text transformer serves: its own `forward` runs both parts (so its attention masks, rotary positions
and norms stay its own business), with its list of blocks cut to the part in question, and the hidden states caught or
put in at the boundary. Knows nothing about adapters, experts or tasks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fogtune.platform.config import Backbone as BackboneConfig
from fogtune.platform.errors import InputError

from .attention import use_small_products
from .fingerprint import described_config, fingerprint
from .frozen_linear import FrozenLinear
from .pretrained import first_line, load_model, loading
from .same_bits import SameBits
from .tokens import passes

AfterBlock = Callable[[int, Tensor], Tensor]
"""(number of the fusion block, its output (B, T, D)) -> what takes its place."""

SUITABLE = "allowed: an encoder or a decoder of text"


class _Reached(Exception):
    """The hidden states have come to the boundary; the rest of the forward pass is not needed."""

    def __init__(self, hidden_states: Tensor) -> None:
        self.hidden_states = hidden_states


class _Boundary(nn.Module):
    """Stands after the lower blocks and ends the forward pass there."""

    attention_type = "full_attention"

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        raise _Reached(hidden_states)


class Backbone(nn.Module):
    """One forward pass at a time: it is not for several threads. Legend: B samples, T tokens, D = `width`."""

    def __init__(self, config: BackboneConfig) -> None:
        """Load the weights in fp32, freeze them, cut the blocks.

        Args:
            config: which transformer, and how many of its blocks fuse.

        Raises:
            InputError: the name leads nowhere, the model has too few blocks, or it cannot be cut into two parts.
        """
        super().__init__()
        self.model, self._tokenizer = _load(config.name)
        self.model.config.use_cache = False  # keys and values of earlier calls are for generation
        if getattr(self.model, "pooler", None) is not None:
            self.model.pooler = None
        use_small_products(self.model)
        self._path = _find_blocks(self.model)
        self._blocks: list[nn.Module] = list(self.model.get_submodule(self._path))
        if config.fusion_blocks > len(self._blocks):
            problem = f"{config.fusion_blocks} of {config.name!r}; allowed: 1 to {len(self._blocks)}"
            raise InputError("model.backbone.fusion_blocks", problem)
        self.first_fused = len(self._blocks) - config.fusion_blocks
        for layer in (layer for block in self._blocks[: self.first_fused] for layer in block.modules()):
            if isinstance(layer, nn.Linear):  # by column: products that have no backward pass are faster so
                layer.weight.data = layer.weight.data.t().contiguous().t()
        for block in self._blocks[self.first_fused :]:
            for name, layer in list(block.named_modules()):
                if type(layer) is nn.Linear:  # a subclass computes something else
                    block.set_submodule(name, FrozenLinear(layer))
        self.width: int = self.model.config.hidden_size
        self._embedding_width: int = self.model.get_input_embeddings().weight.shape[1]
        self._layer_types: list[str] | None = getattr(self.model.config, "layer_types", None)
        self.max_tokens: int | None = getattr(self.model.config, "max_position_embeddings", None)
        longest = (config.max_text_tokens, self._tokenizer.model_max_length, self.max_tokens)
        self._max_text_tokens = min(length for length in longest if length is not None)
        self._autocast = False
        self._same_bits = SameBits()
        self._fused_in: Tensor | None = None
        self._after: AfterBlock | None = None
        self._blocks[self.first_fused].register_forward_pre_hook(self._put_in, with_kwargs=True)
        # Hooks, not wrappers: a Hugging Face model may read attributes of its blocks.
        for i, block in enumerate(self.fusion_blocks):
            block.register_forward_hook(partial(self._put_out, i))
        self._try()

    @property
    def fusion_blocks(self) -> list[nn.Module]:
        """The upper blocks, lowest first."""
        return self._blocks[self.first_fused :]

    def use_bf16(self) -> None:
        """Let the fusion blocks take products in bf16; what is trained, sums and norms stay fp32."""
        self._autocast = True
        for layer in (layer for block in self.fusion_blocks for layer in block.modules()):
            if isinstance(layer, FrozenLinear):
                layer.to(torch.bfloat16)

    def block_linears(self) -> dict[str, list[str]]:
        """Full name of each fusion block -> names of the linear layers in it, relative to it."""
        from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer

        linear = (nn.Linear, Conv1D)
        return {
            f"{self._path}.{self.first_fused + i}": [n for n, m in block.named_modules() if isinstance(m, linear)]
            for i, block in enumerate(self.fusion_blocks)
        }

    def text_tokens(self, text: str) -> Tensor:
        """Tokens of one text at the boundary, (T, D). Alone and unpadded: a pure function of the text."""
        return self.texts_tokens([text])[0]

    def texts_tokens(self, texts: Sequence[str]) -> list[Tensor]:
        """Tokens of each text at the boundary, (T, D): as if each were alone, but for rounding.

        Texts of about one length share a pass.
        """
        ids = [self._ids(text) for text in texts]
        found: dict[int, Tensor] = {}
        for some in passes([(1, len(one)) for one in ids]):
            found |= zip(some, self._encode([ids[i] for i in some]), strict=True)
        return [found[i] for i in range(len(texts))]

    def texts_tokens_exactly(self, texts: Sequence[str]) -> list[Tensor]:
        """`texts_tokens` with the bits of `text_tokens`: texts of equal length share a pass where that is exact."""
        device = self.model.get_input_embeddings().weight.device
        return self._same_bits([self._ids(text) for text in texts], lambda ids: (len(ids), device), self._encode)

    def fingerprint(self) -> str | None:
        """Of all that tokens at the boundary are computed with; None of a tokenizer that cannot be read out."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        above = tuple(f"{self._path}.{i}." for i in range(self.first_fused, len(self._blocks)))
        weights = {name: tensor for name, tensor in self.model.state_dict().items() if not name.startswith(above)}
        tokenizer = json.loads(backend.to_str())
        tokenizer |= {"truncation": self._max_text_tokens, "padding": None}  # which are as they were in the last call
        described = [str(type(self.model)), described_config(self.model.config), tokenizer, self.first_fused]
        return fingerprint(weights, described)

    @torch.no_grad()
    def _encode(self, ids: list[list[int]]) -> list[Tensor]:
        """Numbers of tokens of each text -> hidden states at the boundary, (T, D) of each."""
        lengths = [len(one) for one in ids]
        longest = max(lengths)
        # Zeros behind a text: any token does where the mask says that there is none.
        input_ids = torch.tensor([one + [0] * (longest - len(one)) for one in ids])
        mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).to(input_ids.dtype)
        device = self.model.get_input_embeddings().weight.device
        self._arrange(self._blocks[: self.first_fused], [_Boundary()], 0)
        try:
            self.model(input_ids=input_ids.to(device), attention_mask=mask.to(device))
        except _Reached as reached:
            return [hidden[:length].clone() for hidden, length in zip(reached.hidden_states, lengths, strict=True)]
        finally:
            self._arrange(self._blocks, [], 0)
        raise RuntimeError("the backbone ended before its boundary")

    def fuse(self, tokens: Tensor, mask: Tensor, after: AfterBlock | None = None) -> Tensor:
        """Run the upper blocks.

        Args:
            tokens: (B, T, D).
            mask: (B, T), 1 where a token is; those are in front, or positions would count what is not there.
            after: (i, output of fusion block i) -> what takes its place, both (B, T, D).

        Returns:
            The hidden states after the last block and the model's own final norm, (B, T, D).

        Raises:
            InputError: more tokens than the model has positions for.
        """
        batch, length, _ = tokens.shape
        if self.max_tokens is not None and length > self.max_tokens:
            problem = f"{length} tokens a sample; allowed: {self.max_tokens}, the backbone's positions"
            raise InputError("model.encoders", problem)
        # The embeddings see a placeholder; what they make of it is replaced at the first fusion block.
        placeholder = tokens.new_zeros(batch, length, self._embedding_width)
        self._arrange(self.fusion_blocks, [], self.first_fused)
        self._fused_in, self._after = tokens, after
        try:
            with torch.autocast(tokens.device.type, torch.bfloat16, enabled=self._autocast):
                output = self.model(inputs_embeds=placeholder, attention_mask=mask)
        finally:
            self._fused_in = self._after = None
            self._arrange(self._blocks, [], 0)
        return output.last_hidden_state.to(tokens.dtype)  # type: ignore[no-any-return]

    def _ids(self, text: str) -> list[int]:
        ids = self._tokenizer(text, truncation=True, max_length=self._max_text_tokens)["input_ids"]
        return ids or [_empty_text(self._tokenizer)]

    def _put_in(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (self._fused_in, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self._fused_in}

    def _put_out(self, i: int, _: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        if self._after is None or self._fused_in is None:
            return None
        hidden = output if isinstance(output, Tensor) else output[0]
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = self._after(i, hidden.to(self._fused_in.dtype))
        return hidden if isinstance(output, Tensor) else (hidden, *output[1:])

    def _arrange(self, blocks: list[nn.Module], then: list[nn.Module], first: int) -> None:
        """Let the model have these blocks alone, of which the first was number `first`."""
        arranged = [*blocks, *then]
        self.model.set_submodule(self._path, nn.ModuleList(arranged))
        if self._layer_types is not None:
            self.model.config.layer_types = self._layer_types[first : first + len(arranged)]

    def _try(self) -> None:
        """Run both parts once: a model of an unsuitable kind is refused here, not in a device's first step."""
        try:
            width = self.text_tokens("text").shape[-1]
            with torch.no_grad():
                fused = self.fuse(torch.zeros(1, 2, width), torch.ones(1, 2, dtype=torch.int64))
            reason = "" if fused.shape == (1, 2, self.width) else f"hidden states of shape {tuple(fused.shape)}"
        except Exception as error:  # of any kind: these are models that nobody has tried here
            reason = f"{type(error).__name__}: {first_line(error)}"
        if reason:
            problem = f"{type(self.model).__name__} cannot be cut into two parts ({reason}); {SUITABLE}"
            raise InputError("model.backbone.name", problem)


def resolve(name: str) -> str:
    """Turn `embedded:minilm` into the directory of the installed package; leave hub names and paths as they are."""
    if name.startswith("embedded:"):
        from fogtune.platform.data.assets import minilm_directory

        if name != "embedded:minilm":
            raise InputError("model.backbone.name", f"{name!r}; embedded is only 'embedded:minilm'")
        return str(minilm_directory())
    return name


def backbone_hash(name: str) -> str:
    """sha256 over the weights' files of a local backbone, or over the hub name: how manifests name the backbone."""
    directory = Path(resolve(name))
    digest = hashlib.sha256()
    files = sorted(directory.glob("*.safetensors")) if directory.is_dir() else []
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    if not files:
        digest.update(name.encode())
    return digest.hexdigest()


def _load(name: str) -> tuple[Any, Any]:
    """The model and its tokenizer."""
    from transformers import AutoTokenizer

    where = resolve(name)
    with loading("model.backbone.name", name, "embedded:minilm, a hub name or a path"):
        tokenizer = AutoTokenizer.from_pretrained(where)
        if len(tokenizer) <= len(tokenizer.all_special_tokens):  # what transformers makes up where there are no files
            raise ValueError("it has no tokenizer")
        return load_model(where), tokenizer


def _find_blocks(model: nn.Module) -> str:
    """Full name of the list of transformer blocks."""
    config: Any = model.config
    if not config.is_encoder_decoder:
        count = getattr(config, "num_hidden_layers", None)
        for name, module in model.named_modules():
            if isinstance(module, nn.ModuleList) and len(module) == count:
                return name  # type: ignore[no-any-return]
    problem = f"{type(model).__name__} has no single list of transformer blocks; {SUITABLE}"
    raise InputError("model.backbone.name", problem)


def _empty_text(tokenizer: Any) -> int:
    """What stands for an empty text with a tokenizer that puts nothing around texts."""
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return next((i for i in ids if i is not None), 0)
