"""The M3T model: encoders by modality -> prompt of the task -> fusion backbone with adapters and experts -> head.

Its trained parameters, and the statistics of its inputs, are named by module (`encoder/image`, `statistics/image`,
`expert/3`, ...); only they are ever read out, sent or loaded. Knows nothing about devices or rounds.
Legend: B samples, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import accumulate
from typing import Any, cast

import torch
from torch import Tensor, nn

from fogtune.platform.aggregation.sums import Tensors
from fogtune.platform.config import Config
from fogtune.platform.data.table import Raw
from fogtune.platform.errors import InputError
from fogtune.platform.modules import ADAPTER, ROUTER, is_standardised, module_names, statistics_of
from fogtune.platform.rng import torch_seed

from .adapters import attach_adapter
from .backbone import Backbone
from .by_name import ByName
from .device import moved
from .encoder import Encoder
from .encoders import build_encoder
from .experts import MixtureLayer, Routing
from .heads import build_head
from .matmul import choose as choose_matmul
from .no_backbone import build_backbone
from .pooling import BilinearPooling
from .prompts import Prompt
from .rows import Places, Versions
from .segments import Output, Segment
from .statistics import AsTheyAre, Standardise
from .tokens import Tokens, in_front, passes, pool, together

TEXT = "text"


class M3TModel(nn.Module):
    """The whole model, every module included; which of them matter is the caller's business."""

    def __init__(self, config: Config, labels: Mapping[str, tuple[str, ...]]) -> None:
        """Load the backbone, if there is one, initialise every module from the run's seed, and choose this process's
        library of products.

        Args:
            config: the run's configuration.
            labels: task -> label names (empty for regression).

        Raises:
            InputError: backbone, trunk or adapter targets cannot be used.
            AssetMissing: embedded weights are not installed.
        """
        super().__init__()
        choose_matmul(config.execution.matmul, large=config.model.backbone is not None)
        model, seed = config.model, config.seed
        self.backbone = build_backbone(model)
        self.num_experts = model.experts.count if model.experts else 0
        width = self.backbone.width
        tensors: dict[str, dict[str, Tensor]] = {}

        self.standardise = ByName()
        self.encoders = ByName()
        for modality, encoder in model.encoders.items():
            with torch_seed(seed, "init", f"encoder/{modality}"):
                built = build_encoder(encoder, width, f"model.encoders.{modality}")
            self.encoders[modality] = built
            tensors[f"encoder/{modality}"] = dict(built.named_parameters())
            self.standardise[modality] = (
                Standardise(built.channels) if is_standardised(config, modality) else AsTheyAre()
            )
            tensors[statistics_of(modality)] = dict(self.standardise[modality].named_buffers())

        self.prompts = ByName()
        self.pooling = ByName()
        """Of the tasks with several inputs; part of their heads."""
        self.heads = ByName()
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
            assert isinstance(self.backbone, Backbone)  # platform/config/check_model.py
            with torch_seed(seed, "init", "adapter/fusion"):
                adapter, self.adapter_config = attach_adapter(self.backbone, model.adapter)
            tensors["adapter/fusion"] = dict(adapter)
        if config.execution.precision == "bf16":
            self.backbone.use_bf16()  # after the adapters, which would else be made in bf16
        self._places = Places(self, {name: tensors[name] for name in module_names(config)})
        self.tensors_of = self._places.tensors()
        """Module -> its tensors by name: trained parameters, but for statistics, which are measured."""
        self.eval()  # no dropout: a device's update is a function of its data and its key alone

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> M3TModel:
        """What `to(device)` and its kin come down to; it may put other tensors into the place of those that were."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.tensors_of = self._places.tensors()
        return self

    def tensors(self, module: str) -> Tensors:
        """A copy of a module's tensors, on the processor."""
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in self.tensors_of[module].items()}

    def share(self, values: Mapping[str, Tensors]) -> None:
        """Have the model's own tensors, where they are on the processor, in the memory of others with the same values:
        nobody writes to them."""
        for module, tensors in self.tensors_of.items():
            for name, tensor in tensors.items():
                if tensor.device.type == "cpu":
                    tensor.data = values[module][name]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(tensor.device for tensors in self.tensors_of.values() for tensor in tensors.values())

    def holding(self, tensors: Mapping[str, Tensors]) -> AbstractContextManager[None]:
        """Within the block, these tensors stand in the place of the model's own: module -> name -> tensor, anywhere.

        What else a module's mapping holds (control variates) is not read.
        """
        device = self.device
        return self._places.lent({m: {k: moved(tensor, device) for k, tensor in t.items()} for m, t in tensors.items()})

    def prefix(self, modality: str, raw: Raw) -> Tensor:
        """The frozen part of one sample's encoding, (T, C): a pure function of the sample."""
        return self.prefixes(modality, [raw])[0]

    def prefixes(self, modality: str, raws: Sequence[Raw]) -> list[Tensor]:
        """The frozen parts of several samples' encodings in one pass: `prefix` of each, but for rounding."""
        if modality == TEXT:
            return self.backbone.texts_tokens(cast(Sequence[str], raws))
        return cast(Encoder, self.encoders[modality]).prefixes(raws)

    def check_length(self, prefixes: Mapping[str, Tensor]) -> None:
        """InputError if a sample, modality -> prefix (T, C), has more tokens than the backbone has positions for."""
        tokens = sum(
            len(prefix) if modality == TEXT else cast(Encoder, self.encoders[modality]).num_tokens(len(prefix))
            for modality, prefix in prefixes.items()
        )
        most = self.backbone.max_tokens
        if most is not None and tokens > most:
            problem = f"{tokens} tokens of {' and '.join(prefixes)}; allowed: {most}, the backbone's positions"
            raise InputError("inputs", problem)

    def forward(self, batch: Segment, held_experts: Sequence[int] | None = None) -> Output:
        """Predict a batch, with routing among `held_experts` (all by default)."""
        (tokens,) = self._encode([batch], [range(len(batch))], {})
        (x,), routed, balance = self._fuse([tokens], {}, held_experts)
        return Output(self._read(batch, tokens, x, {}), routed, balance)

    def predict(self, segments: Sequence[Segment], modules: Mapping[str, Versions] | None = None) -> list[Tensor]:
        """Predict segments of any tasks and modalities, those of about one length in one pass through the backbone.

        Args:
            segments: one or more.
            modules: what rows take instead of the model's own. The rows are those of all segments, in order, for every
                module: `index[i]` is row i's version, whether or not the row passes through the module.

        Returns:
            Outputs (B, O) of each segment: row by row what `forward` gives of a model that holds the row's versions,
            but for rounding.
        """
        return self.of_devices(segments, modules or {}, None)[0]

    def of_devices(
        self, segments: Sequence[Segment], modules: Mapping[str, Versions], routing: Routing | None
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """`predict` for devices that train together, each with its own versions.

        Args:
            segments: one or more; all rows of a device are in one.
            modules: what rows take instead of the model's own.
            routing: of the rows of all segments; None for rows of nobody, among all experts.

        Returns:
            Outputs (B, O) of each segment; samples that used each expert, (V, E) int64, in the fusion block where most
            did; load-balancing loss of each device, (V,). The last two are of no use without `routing`.
        """
        starts = accumulate((len(segment) for segment in segments), initial=0)
        rows = [range(start, start + len(segment)) for start, segment in zip(starts, segments, strict=False)]
        own = [_of(modules, some) for some in rows]
        tokens = self._encode(segments, rows, modules)
        outputs: dict[int, Tensor] = {}
        told = []
        for fused in passes([(len(one.x), one.x.shape[1]) for one in tokens]):
            passing = [row for i in fused for row in rows[i]]
            some = own[fused[0]] if len(fused) == 1 else _of(modules, passing)
            mine = Routing(routing.devices[passing], routing.held) if routing else None
            fusion, *counts = self._fuse([tokens[i] for i in fused], some, None, mine)
            told.append(counts)
            for i, x in zip(fused, fusion, strict=True):
                outputs[i] = self._read(segments[i], tokens[i], x, own[i])
        routed, balance = (torch.stack(some).sum(0) for some in zip(*told, strict=True))
        return [outputs[i] for i in range(len(segments))], routed, balance

    def _encode(
        self, segments: Sequence[Segment], rows: Sequence[Sequence[int]], modules: Mapping[str, Versions]
    ) -> list[Tokens]:
        """What enters the backbone, of each segment; `rows` are its rows in `modules`."""
        inputs = [dict(segment.inputs) for segment in segments]
        for modality in dict.fromkeys(m for segment in segments for m in segment.inputs if m != TEXT):
            # One pass for all segments that have the modality: its encoder does not know of tasks.
            having = [i for i, segment in enumerate(segments) if modality in segment.inputs]
            values, mask = (together([inputs[i][modality][part] for i in having]) for part in (0, 1))
            some = _of(modules, [row for i in having for row in rows[i]])
            with self._lent(some, statistics_of(modality), by_row=True):
                values = self.standardise[modality](values, mask)
            values, mask = self._encode_input(modality, values, mask, some)
            ends = accumulate(len(segments[i]) for i in having)
            for i, end in zip(having, ends, strict=True):
                mine = slice(end - len(segments[i]), end)
                inputs[i][modality] = values[mine], mask[mine]
        return [
            self._prompted(segment.task, mine, _of(modules, some))
            for segment, mine, some in zip(segments, inputs, rows, strict=True)
        ]

    def _prompted(
        self, task: str, inputs: Mapping[str, tuple[Tensor, Tensor]], modules: Mapping[str, Versions]
    ) -> Tokens:
        """Encoded inputs one behind the other, and what the task's prompt makes of them."""
        origins = [torch.full_like(mask, i) for i, (_, mask) in enumerate(inputs.values())]
        values, masks = zip(*inputs.values(), strict=True)
        x, mask, origin = in_front(Tokens(torch.cat(values, 1), torch.cat(masks, 1), torch.cat(origins, 1)))
        if task in self.prompts:
            with self._lent(modules, f"prompt/{task}"):
                x = self.prompts[task](x)
        return Tokens(x, mask, origin)

    def _encode_input(
        self, modality: str, values: Tensor, mask: Tensor, modules: Mapping[str, Versions]
    ) -> tuple[Tensor, Tensor]:
        """Prefixes (B, T, C), standardised, to tokens (B, T', D) and their mask, group by group or version by version.

        An encoder has so many weights (a megabyte or two) that to gather them for each row takes longer than the
        products with them: about twice as long in all as version by version, even where no two rows share one.
        """
        encode = cast(Encoder, self.encoders[modality])
        module = f"encoder/{modality}"
        versions = modules.get(module)
        grouped = versions is not None and len(versions.index.groups or versions.index) < len(versions.index)
        if versions is None or not versions.index.differ or (encode.grouped and grouped):
            with self._lent(modules, module):
                return cast(tuple[Tensor, Tensor], encode(values, mask))
        index = moved(torch.tensor(versions.index), values.device)
        pieces = {name: tensor.unbind() for name, tensor in versions.tensors.items()}
        parts, rows = [], []
        for version in sorted(set(versions.index)):
            rows.append((index == version).nonzero().squeeze(1))
            with self._places.lent({module: {name: piece[version] for name, piece in pieces.items()}}):
                parts.append(encode(values[rows[-1]], mask[rows[-1]]))
        back = torch.cat(rows).argsort()
        return torch.cat([tokens for tokens, _ in parts])[back], torch.cat([mask for _, mask in parts])[back]

    def _fuse(
        self,
        tokens: Sequence[Tokens],
        modules: Mapping[str, Versions],
        held_experts: Sequence[int] | None = None,
        routing: Routing | None = None,
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """One pass through the backbone.

        Returns:
            What becomes of each of the tokens, (B, T, D); samples that used each expert; load-balancing loss; these
            two by device where there is a `routing`.
        """
        mask = together([one.mask for one in tokens])
        experts = {k: modules[name] for k in range(self.num_experts) if (name := f"expert/{k}") in modules}
        if routing:
            held_experts = tuple(experts)  # what none of the devices holds is not there
        held = tuple(range(self.num_experts)) if held_experts is None else held_experts
        differing = {k: versions for k, versions in experts.items() if routing or versions.index.differ}
        routed, balances = [], []

        def mix(i: int, hidden: Tensor) -> Tensor:
            versions = {k: _of_block(i, versions) for k, versions in differing.items()}
            hidden, samples, balance = self.mixtures[i](hidden, mask, held, versions, routing)
            routed.append(samples)
            balances.append(balance)
            return hidden

        with self._lent(modules, ADAPTER, ROUTER, *(f"expert/{k}" for k in experts if k not in differing)):
            x = self.backbone.fuse(together([one.x for one in tokens]), mask, mix if self.mixtures else None)
        ends = accumulate(len(one.x) for one in tokens)
        return (
            [x[end - len(one.x) : end, : one.x.shape[1]] for one, end in zip(tokens, ends, strict=True)],
            torch.stack(routed).amax(0) if routed else torch.zeros(0, dtype=torch.int64, device=x.device),
            torch.stack(balances).mean(0) if balances else torch.zeros((), device=x.device),
        )

    def _read(self, segment: Segment, tokens: Tokens, x: Tensor, modules: Mapping[str, Versions]) -> Tensor:
        """What has become of tokens in the backbone, x (B, T, D), to outputs (B, O)."""
        with self._lent(modules, f"head/{segment.task}"):
            if segment.task not in self.pooling:
                return cast(Tensor, self.heads[segment.task](pool(x, tokens.mask)))
            pools = {modality: pool(x, tokens.mask * (tokens.origin == i)) for i, modality in enumerate(segment.inputs)}
            return cast(Tensor, self.heads[segment.task](self.pooling[segment.task](pools)))

    def _lent(self, modules: Mapping[str, Versions], *names: str, by_row: bool = False) -> AbstractContextManager[None]:
        """Within the block, the model has each row's versions of these modules; its own where `modules` has none."""
        return self._places.lent({name: modules[name].taken(by_row) for name in names if name in modules})


def _of(modules: Mapping[str, Versions], rows: Sequence[int]) -> dict[str, Versions]:
    """The versions of some of the rows; modules that share an index go on to share one."""
    indices = {id(versions.index): versions.index for versions in modules.values()}
    some = {key: index.of(rows) for key, index in indices.items()}
    return {name: Versions(versions.tensors, some[id(versions.index)]) for name, versions in modules.items()}


def _of_block(i: int, versions: Versions) -> Versions:
    """Of an expert, its `down` and `up` after fusion block i."""
    return Versions({name: versions.tensors[f"blocks.{i}.{name}"] for name in ("down", "up")}, versions.index)
