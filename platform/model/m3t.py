"""The M3T model: encoders by modality -> prompt of the task -> fusion backbone with adapters and experts -> head.

Its trained parameters, and the statistics of its inputs, are named by module (`encoder/image`, `statistics/image`,
`expert/3`, ...); only they are ever read out, sent or loaded. Knows nothing about devices or rounds.
Legend: B samples, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fogtune.platform.aggregation.sums import Tensors
from fogtune.platform.config import Config
from fogtune.platform.data.table import Raw
from fogtune.platform.modules import module_names, statistics_of
from fogtune.platform.rng import torch_seed

from .adapters import attach_adapter
from .backbone import Backbone
from .encoders import Encoder, build_encoder
from .experts import MixtureLayer
from .frozen import best_matmul
from .heads import build_head
from .pooling import BilinearPooling
from .prompts import Prompt
from .statistics import Standardise

TEXT = "text"


@dataclass(frozen=True)
class Batch:
    """Samples of one task, padded: modality -> (values (B, T, C), mask (B, T)). Missing modalities are left out."""

    task: str
    inputs: Mapping[str, tuple[Tensor, Tensor]]
    targets: Tensor


@dataclass(frozen=True)
class Output:
    """What a forward pass gives."""

    outputs: Tensor
    """(B, O) of the task's head."""
    routed: Tensor
    """(E,) int64: samples that used each expert, in the fusion block where most did; empty without experts."""
    balance: Tensor
    """Load-balancing loss, the mean over the fusion blocks; 0 without experts."""


class M3TModel(nn.Module):
    """The whole model, every module included; which of them matter is the caller's business."""

    def __init__(self, config: Config, labels: Mapping[str, tuple[str, ...]]) -> None:
        """Load the backbone and initialise every module from the run's seed.

        Args:
            config: the run's configuration.
            labels: task -> label names (empty for regression).

        Raises:
            InputError: backbone, trunk or adapter targets cannot be used.
            AssetMissing: embedded weights are not installed.
        """
        super().__init__()
        model, seed = config.model, config.seed
        matmul = config.execution.matmul
        self.backbone = Backbone(model.backbone, best_matmul() if matmul == "auto" else matmul)
        self.num_experts = model.experts.count if model.experts else 0
        width = self.backbone.width
        tensors: dict[str, dict[str, Tensor]] = {}

        self.standardise = nn.ModuleDict()
        self.encoders = nn.ModuleDict()
        for modality, encoder in model.encoders.items():
            with torch_seed(seed, "init", f"encoder/{modality}"):
                built = build_encoder(encoder, width, f"model.encoders.{modality}")
            self.encoders[modality] = built
            tensors[f"encoder/{modality}"] = dict(built.named_parameters())
            self.standardise[modality] = Standardise(built.channels)
            tensors[statistics_of(modality)] = dict(self.standardise[modality].named_buffers())

        self.prompts = nn.ModuleDict()
        self.pooling = nn.ModuleDict()
        """Of the tasks with several inputs; part of their heads."""
        self.heads = nn.ModuleDict()
        for name, task in config.tasks.items():
            if model.prompts:
                with torch_seed(seed, "init", f"prompt/{name}"):
                    self.prompts[name] = Prompt(model.prompts.tokens, width)
                tensors[f"prompt/{name}"] = dict(self.prompts[name].named_parameters())
            with torch_seed(seed, "init", f"head/{name}"):
                pooled_width = width
                if model.interaction_rank and len(task.inputs) > 1:
                    self.pooling[name] = pooling = BilinearPooling(task.inputs, width, model.interaction_rank)
                    pooled_width = pooling.width
                self.heads[name] = build_head(task.head, labels[name], pooled_width)
            tensors[f"head/{name}"] = dict(self.heads[name].named_parameters())
            if name in self.pooling:
                tensors[f"head/{name}"] |= dict(self.pooling[name].named_parameters(prefix="pooling"))

        mixtures: list[MixtureLayer] = []
        if model.experts:
            with torch_seed(seed, "init", "experts"):
                mixtures = [MixtureLayer(model.experts, width) for _ in self.backbone.fusion_blocks]
            tensors["router/fusion"] = {f"blocks.{i}": layer.router for i, layer in enumerate(mixtures)}
            for k in range(model.experts.count):
                tensors[f"expert/{k}"] = {
                    f"blocks.{i}.{name}": parameter
                    for i, layer in enumerate(mixtures)
                    for name, parameter in layer.experts[k].named_parameters()
                }
        self.mixtures = nn.ModuleList(mixtures)
        """One a fusion block; empty without experts."""

        self.adapter_config: dict[str, Any] | None = None
        if model.adapter:
            with torch_seed(seed, "init", "adapter/fusion"):
                adapter, self.adapter_config = attach_adapter(self.backbone, model.adapter)
            tensors["adapter/fusion"] = dict(adapter)
        self.tensors_of = {name: tensors[name] for name in module_names(config)}
        """Module -> its tensors by name: trained parameters, but for statistics, which are measured."""
        self.eval()  # no dropout: a device's update is a function of its data and its key alone

    def tensors(self, module: str) -> Tensors:
        """A copy of a module's tensors."""
        return {name: tensor.detach().clone() for name, tensor in self.tensors_of[module].items()}

    @torch.no_grad()
    def load(self, module: str, tensors: Mapping[str, Tensor]) -> None:
        """Copy tensors into a module; what else the mapping holds (control variates) is not read."""
        for name, tensor in self.tensors_of[module].items():
            tensor.copy_(tensors[name])

    def prefix(self, modality: str, raw: Raw) -> Tensor:
        """The frozen part of one sample's encoding, (T, C): a pure function of the sample."""
        if modality == TEXT:
            return self.backbone.text_tokens(cast(str, raw))
        return cast(Encoder, self.encoders[modality]).prefix(raw)

    def forward(self, batch: Batch, held_experts: Sequence[int] | None = None) -> Output:
        """Predict a batch, with routing among `held_experts` (all by default)."""
        tokens, masks, origins = [], [], []
        for i, (modality, (values, mask)) in enumerate(batch.inputs.items()):
            if modality != TEXT:
                values, mask = self.encoders[modality](self.standardise[modality](values, mask), mask)
            tokens.append(values)
            masks.append(mask)
            origins.append(torch.full_like(mask, i))
        x, mask, origin = _in_front(torch.cat(tokens, 1), torch.cat(masks, 1), torch.cat(origins, 1))
        if batch.task in self.prompts:
            x = self.prompts[batch.task](x)
        held = tuple(range(self.num_experts)) if held_experts is None else held_experts
        routed, balances = [], []

        def mix(i: int, hidden: Tensor) -> Tensor:
            hidden, samples, balance = self.mixtures[i](hidden, mask, held)
            routed.append(samples)
            balances.append(balance)
            return hidden

        x = self.backbone.fuse(x, mask, mix if self.mixtures else None)
        if batch.task in self.pooling:
            pools = {modality: _pool(x, mask * (origin == i)) for i, modality in enumerate(batch.inputs)}
            pooled = self.pooling[batch.task](pools)
        else:
            pooled = _pool(x, mask)
        return Output(
            self.heads[batch.task](pooled),
            torch.stack(routed).amax(0) if routed else torch.zeros(0, dtype=torch.int64),
            torch.stack(balances).mean() if balances else torch.zeros(()),
        )


def _pool(x: Tensor, mask: Tensor) -> Tensor:
    """x (B, T, D), mask (B, T) -> (B, D), the mean of the tokens that are there, at the scale of one token."""
    weight = mask.to(x.dtype).unsqueeze(-1)
    return F.layer_norm((x * weight).sum(1) / weight.sum(1), x.shape[-1:])


def _in_front(x: Tensor, mask: Tensor, origin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Move the tokens that are there to the front, in order: x (B, T, D), mask and origin (B, T) -> the same, T as few
    as it can.

    Between two modalities of a batch there is padding. For a backbone with relative positions (rotary, windows) it
    would be distance, so that a sample's result would depend on its batch.
    """
    order = mask.argsort(dim=1, descending=True, stable=True)[:, : int(mask.sum(1).max())]  # (B, T')
    return x.gather(1, order.unsqueeze(-1).expand(-1, -1, x.shape[2])), mask.gather(1, order), origin.gather(1, order)
