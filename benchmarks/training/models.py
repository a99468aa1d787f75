"""The models of the works as the other sides have them, in plain torch and PEFT: the same functions as FogTune's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from exchange import Arrays, Settings, Shared
from torch import Tensor, nn
from torch.nn import functional as F


class Mlp(nn.Module):
    """Linear, ReLU, layer norm without parameters, linear."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.encoder = nn.Linear(settings.channels, settings.width)
        self.norm = nn.LayerNorm(settings.width, elementwise_affine=False)
        self.head = nn.Linear(settings.width, settings.classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(torch.relu(self.encoder(x))))


class Lora(nn.Module):
    """A transformer with LoRA by PEFT, the mean of its tokens, layer norm without parameters, linear."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModel

        lora = LoraConfig(
            r=8, lora_alpha=16, target_modules=["query", "value"], layers_to_transform=settings.lora_blocks
        )
        bert = AutoModel.from_pretrained(settings.backbone, add_pooling_layer=False)
        self.backbone = get_peft_model(bert, lora)
        self.norm = nn.LayerNorm(settings.width, elementwise_affine=False)
        self.head = nn.Linear(settings.width, settings.classes)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.backbone(input_ids=x, attention_mask=torch.ones_like(x)).last_hidden_state
        return self.head(self.norm(hidden.mean(1)))


def build(shared: Shared) -> nn.Module:
    """The model of a work with its initial weights, without dropout, as FogTune trains it."""
    if shared.settings.backbone is None:
        torch.set_num_threads(1)  # products so small that threads would only wait for each other
    model = Lora(shared.settings) if shared.settings.backbone else Mlp(shared.settings)
    load(model, {name: torch.from_numpy(array) for name, array in shared.initial.items()})
    return model.eval()


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """What is trained and sent, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def load(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into all trained parameters."""
    for name, parameter in trained(model).items():
        parameter.copy_(tensors[name])


def arrays(tensors: Mapping[str, Tensor]) -> Arrays:
    """As numpy has them."""
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


def new_optimizer(settings: Settings, parameters: Any) -> torch.optim.Optimizer:
    """A client's optimizer, made anew each round."""
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, settings.learning_rate)
    return torch.optim.AdamW(parameters, settings.learning_rate, weight_decay=0.0, fused=True)


class Rows:
    """The rows of a work as tensors."""

    def __init__(self, shared: Shared) -> None:
        self._orders = shared.orders
        self._x, self._y = torch.from_numpy(shared.x), torch.from_numpy(shared.y)
        self._held_out = torch.from_numpy(shared.held_out)

    def batches(self, round_number: int, client: int) -> list[tuple[Tensor, Tensor]]:
        """Inputs and targets of each step of a client in a round."""
        rows = [torch.from_numpy(some) for some in self._orders.batches(round_number, client)]
        return [(self._x[some], self._y[some]) for some in rows]

    @torch.no_grad()
    def accuracy(self, model: nn.Module) -> float:
        """Of the held-out rows."""
        parts = self._held_out.split(64)
        return float(np.mean(torch.cat([model(self._x[some]).argmax(-1) == self._y[some] for some in parts]).numpy()))


def train(settings: Settings, model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    """A client's part of a round."""
    if settings.optimizer == "none":
        return
    optimizer = new_optimizer(settings, trained(model).values())
    for x, y in batches:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
