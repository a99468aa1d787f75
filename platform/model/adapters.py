"""LoRA adapters (Hu et al., arXiv 2106.09685) on the fusion blocks, by PEFT.

The tensors keep PEFT's names, so that PEFT loads what is published.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from torch import nn

from fogtune.platform.config import Adapter
from fogtune.platform.errors import InputError

from .backbone import Backbone
from .frozen_linear import FrozenLinear
from .rows import RowLinear

PREFIX = "base_model.model."

KEYS = ("k", "key", "k_lin", "k_proj", "key_proj")
"""What models call the projection to keys."""


def attach_adapter(backbone: Backbone, config: Adapter) -> tuple[dict[str, nn.Parameter], dict[str, Any]]:
    """Put LoRA on the fusion blocks of `backbone`, in place. B starts at zero: the function does not change.

    Returns:
        The trained parameters by PEFT's names, and PEFT's `adapter_config.json` as a dict.

    Raises:
        InputError: a target that no fusion block has, or blocks without linear layers.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    from .fused_lora import FusedLora

    linears = backbone.block_linears()
    names = next(iter(linears.values()))
    for target in config.targets or ():
        if not any(_is(name, target) for name in names):
            raise InputError("model.adapter.targets", f"{target!r} is no linear layer of a block; allowed: {names}")
    chosen = [f"{block}.{name}" for block, layers in linears.items() for name in layers if _chosen(name, config)]
    if not chosen:
        raise InputError("model.adapter", "the fusion blocks have no linear layers to adapt; allowed: null")
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules=chosen,
        lora_dropout=0.0,
        fan_in_fan_out=not isinstance(backbone.model.get_submodule(chosen[0]), nn.Linear),  # GPT-2's Conv1D
    )
    # PEFT's own way to bring a layer of one's own; it calls it experimental, and the tests of this module watch it.
    lora._register_custom_module({FrozenLinear: FusedLora})
    inject_adapter_in_model(lora, backbone.model)
    for layer in list(backbone.model.modules()):
        if isinstance(layer, LoraLayer):
            for matrices in (layer.lora_A, layer.lora_B):
                matrices["default"] = RowLinear.of(cast(nn.Linear, matrices["default"]))
    tensors = {
        # PEFT saves what it holds as lora_A.<adapter's name>.weight as lora_A.weight.
        PREFIX + name.replace(".default.weight", ".weight"): parameter
        for name, parameter in backbone.model.named_parameters()
        if parameter.requires_grad
    }
    values: dict[str, Any] = lora.to_dict()  # type: ignore[no-untyped-call]
    description = values | {"target_modules": sorted(chosen), "inference_mode": True}
    # Plain values: with PEFT's enums in it, every process that it is sent to would have to import PEFT.
    return tensors, json.loads(json.dumps(description, default=str))


def _chosen(name: str, config: Adapter) -> bool:
    """Whether a block's linear layer gets an adapter."""
    if config.targets:
        return any(_is(name, target) for target in config.targets)
    return name.rpartition(".")[2] not in KEYS


def _is(name: str, target: str) -> bool:
    """PEFT's rule: the whole name, or its end from a dot on."""
    return name == target or name.endswith("." + target)


def write_adapter_config(description: dict[str, Any], backbone_name: str, directory: Path) -> None:
    """Write PEFT's `adapter_config.json`."""
    content = description | {"base_model_name_or_path": backbone_name}
    text = json.dumps(content, indent=2, sort_keys=True)
    (directory / "adapter_config.json").write_text(text + "\n")
