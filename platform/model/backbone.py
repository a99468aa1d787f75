"""The frozen pretrained transformer, used in two parts: lower blocks encode text, upper blocks fuse all modalities.

Any Hugging Face text transformer serves: its own `forward` runs both parts (so its attention masks, rotary positions
and norms stay its own business), with its list of blocks cut to the part in question, and the hidden states caught or
put in at the boundary. Knows nothing about adapters, experts or tasks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fogtune.platform.config import Backbone as BackboneConfig
from fogtune.platform.errors import InputError

from .frozen import freeze_linears


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
    """Legend: B samples, T tokens, D = `width`."""

    def __init__(self, config: BackboneConfig, matmul: str) -> None:
        """Load the weights in fp32, freeze them, cut the blocks.

        Args:
            config: which transformer, and how many of its blocks fuse.
            matmul: `onednn` or `default`, the library of products with frozen weights.

        Raises:
            InputError: the name leads nowhere, or the model has too few blocks.
        """
        super().__init__()
        where = resolve(config.name)
        self.model, self._tokenizer = _load(config.name, where)
        self.model.requires_grad_(False).eval()
        if getattr(self.model, "pooler", None) is not None:
            self.model.pooler = None
        self.path, self._parent, self._attribute = _find_blocks(self.model)
        blocks: nn.ModuleList = getattr(self._parent, self._attribute)
        if config.fusion_blocks > len(blocks):
            raise InputError(
                "model.backbone.fusion_blocks", f"{config.fusion_blocks} of {config.name!r}; at most {len(blocks)}"
            )
        if matmul == "onednn":
            freeze_linears(blocks)
        self.first_fused = len(blocks) - config.fusion_blocks
        self.width: int = self.model.config.hidden_size
        self._max_text_tokens = config.max_text_tokens
        self._blocks = list(blocks)
        self._layer_types: list[str] | None = getattr(self.model.config, "layer_types", None)
        self._fused_in: Tensor | None = None
        self._blocks[self.first_fused].register_forward_pre_hook(self._put_in, with_kwargs=True)

    @property
    def fusion_blocks(self) -> list[nn.Module]:
        """The upper blocks, lowest first."""
        return self._blocks[self.first_fused :]

    def block_linears(self) -> dict[str, list[str]]:
        """Full name of each fusion block -> names of the linear layers in it, relative to it."""
        return {
            f"{self.path}.{self.first_fused + i}": [n for n, m in block.named_modules() if isinstance(m, nn.Linear)]
            for i, block in enumerate(self.fusion_blocks)
        }

    @torch.no_grad()
    def text_tokens(self, text: str) -> Tensor:
        """Tokens of one text at the boundary, (T, D). Alone and unpadded: a pure function of the text."""
        encoded = self._tokenizer(text, truncation=True, max_length=self._max_text_tokens, return_tensors="pt")
        self._arrange(self._blocks[: self.first_fused], [_Boundary()], 0)
        try:
            self.model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"])
        except _Reached as reached:
            return reached.hidden_states[0]
        finally:
            self._arrange(self._blocks, [], 0)
        raise RuntimeError("the backbone ended before its boundary")

    def fuse(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Run the upper blocks. tokens (B, T, D), mask (B, T) with 1 where a token is -> (B, T, D)."""
        self._arrange(self.fusion_blocks, [], self.first_fused)
        self._fused_in = tokens
        try:
            # The embeddings see a placeholder; what they make of it is replaced at the first fusion block.
            output = self.model(inputs_embeds=tokens.detach(), attention_mask=mask)
        finally:
            self._fused_in = None
            self._arrange(self._blocks, [], 0)
        return output.last_hidden_state  # type: ignore[no-any-return]

    def _put_in(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._fused_in is None:
            return None
        if args:
            return (self._fused_in, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self._fused_in}

    def _arrange(self, blocks: list[nn.Module], then: list[nn.Module], first: int) -> None:
        setattr(self._parent, self._attribute, nn.ModuleList([*blocks, *then]))
        if self._layer_types is not None:
            kinds = self._layer_types[first : first + len(blocks)]
            self.model.config.layer_types = kinds + [kinds[-1] if kinds else "full_attention"] * len(then)


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


def _load(name: str, where: str) -> tuple[Any, Callable[..., Any]]:
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model = AutoModel.from_pretrained(where, dtype=torch.float32, use_safetensors=True)
        return model, AutoTokenizer.from_pretrained(where)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            "model.backbone.name", f"{name!r} cannot be loaded ({reason}); give embedded:minilm, a hub name or a path"
        ) from error


def _find_blocks(model: nn.Module) -> tuple[str, nn.Module, str]:
    """Full name, parent and attribute of the list of transformer blocks."""
    count = model.config.num_hidden_layers  # type: ignore[union-attr]
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            parent, _, attribute = name.rpartition(".")
            return name, model.get_submodule(parent), attribute
    raise InputError("model.backbone.name", f"{type(model).__name__} has no list of {count} blocks; give another model")
