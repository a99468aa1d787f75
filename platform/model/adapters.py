"""LoRA adapters on the fusion blocks, by PEFT; the tensors keep PEFT's names, so that PEFT loads what is published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from fogtune.platform.config import Adapter
from fogtune.platform.errors import InputError

from .backbone import Backbone

PREFIX = "base_model.model."


def attach_adapter(backbone: Backbone, config: Adapter) -> tuple[dict[str, nn.Parameter], dict[str, Any]]:
    """Put LoRA on the fusion blocks of `backbone`, in place. B starts at zero: the function does not change.

    Returns:
        The trained parameters by PEFT's names, and PEFT's `adapter_config.json` as a dict.

    Raises:
        InputError: a target that no fusion block has.
    """
    from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model

    linears = backbone.block_linears()
    names = next(iter(linears.values()))
    for target in config.targets or ():
        if not any(name == target or name.endswith("." + target) for name in names):
            raise InputError("model.adapter.targets", f"{target!r} is no linear layer of a block; allowed: {names}")
    chosen = [
        f"{block}.{name}"
        for block, layers in linears.items()
        for name in layers
        if (
            any(name == target or name.endswith("." + target) for target in config.targets)
            if config.targets
            else name.rpartition(".")[2] not in ("key", "k_proj", "k_lin")
        )
    ]
    lora = LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=chosen, lora_dropout=0.0)
    inject_adapter_in_model(lora, backbone.model)
    parameters = dict(backbone.model.named_parameters())
    state = get_peft_model_state_dict(backbone.model)
    tensors = {
        PREFIX + name: parameters[name.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default.")]
        for name in state
    }
    values: dict[str, Any] = lora.to_dict()  # type: ignore[no-untyped-call]
    description = values | {"target_modules": sorted(chosen), "inference_mode": True}
    return tensors, description


def write_adapter_config(description: dict[str, Any], backbone_name: str, directory: Path) -> None:
    """Write PEFT's `adapter_config.json`."""
    content = description | {"base_model_name_or_path": backbone_name}
    text = json.dumps(content, indent=2, sort_keys=True, default=str)
    (directory / "adapter_config.json").write_text(text + "\n")
