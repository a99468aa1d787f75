"""Forward and backward passes of devices that train together. Legend: V devices, B samples, O outputs, E experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fogtune.platform.aggregation.sums import Tensors
from fogtune.platform.data.table import Indices
from fogtune.platform.model.device import moved
from fogtune.platform.model.experts import Routing
from fogtune.platform.model.rows import Index, Versions
from fogtune.platform.model.segments import Batch

from .batches import collate
from .pupil import Pupil
from .stack import Stack, side_by_side
from .workbench import Part, Workbench


class Passes:
    """Forward and backward passes of the members' batches."""

    def __init__(self, bench: Workbench, pupils: Sequence[Pupil], stack: Stack) -> None:
        self._bench = bench
        self._pupils = pupils
        self._stack = stack
        self._balance = bench.config.model.experts.balance if bench.config.model.experts else 0.0
        self._offsets = (
            [{task: _logit_offset(bench, task, part) for task, part in pupil.parts.items()} for pupil in pupils]
            if bench.config.local.logit_adjustment
            else []
        )
        self._is_cheap = not bench.model.backbone.fusion_blocks
        """Whether a row more costs less than rows that are not alike."""
        self._taken: list[tuple[Sequence[_Lot], Sequence[Tensor], Tensor]] = []
        """Of each step: its lots, the mean losses of the members of each, and samples by member and expert."""
        self._device = bench.model.device
        self._statistics = {
            module: self._all_statistics(module)
            for module in dict.fromkeys(module for pupil in pupils for module in pupil.statistics)
        }
        self._held = torch.zeros(len(pupils), bench.model.num_experts, dtype=torch.bool)
        for v, pupil in enumerate(pupils):
            self._held[v, list(pupil.member.experts)] = True
        self._held = moved(self._held, self._device)

    def step(self, i: int, active: Sequence[int]) -> None:
        """Let the stack have the gradients of step `i` of the active members."""
        batches: dict[tuple[str, tuple[str, ...]], list[tuple[int, Indices]]] = {}
        for v in active:
            task, rows = self._pupils[v].steps[i]
            batches.setdefault((task, self._pupils[v].parts[task].modalities), []).append((v, rows))
        lots = [_Lot.of(task, some, self._is_cheap, self._device) for (task, _), some in batches.items()]
        segments = [self._collated(lot) for lot in lots]
        outputs, routed, balance = self._forward(segments, Index(v for lot in lots for v in lot.of_row))
        total, losses = self._balance * balance.sum(), []
        for lot, segment, said in zip(lots, segments, outputs, strict=True):
            means = self._means(lot, said, segment.targets)
            total = total + means.sum()
            losses.append(means.detach())
        self._stack.differentiate(total)
        self._taken.append((lots, losses, routed))

    def note(self) -> None:
        """Tell the members of the steps that they have taken: once at the end, as it waits for what is computed."""
        for lots, losses, routed in self._taken:
            counts = routed.tolist()
            for lot, means in zip(lots, losses, strict=True):
                for v, samples, mean in zip(lot.members, lot.samples, means.tolist(), strict=True):
                    self._pupils[v].count(lot.task, samples, counts[v] if counts else ())
                    total, before = self._pupils[v].losses.get(lot.task, (0.0, 0))
                    self._pupils[v].losses[lot.task] = (total + mean * samples, before + samples)

    def _all_statistics(self, module: str) -> Tensors:
        shapes = {name: tensor.shape for name, tensor in self._bench.model.tensors_of[module].items()}
        found = side_by_side([pupil.statistics.get(module) for pupil in self._pupils], shapes)
        return {name: moved(tensor, self._device) for name, tensor in found.items()}

    def _collated(self, lot: _Lot) -> Batch:
        part = self._pupils[lot.members[0]].parts[lot.task]
        targets = self._bench.targets[lot.task]
        return collate(self._bench.prefixes, lot.task, part.source, part.modalities, lot.rows, targets)

    def _forward(self, segments: Sequence[Batch], devices: Index) -> tuple[list[Tensor], Tensor, Tensor]:
        """Outputs of each segment, routed (V, E), balance (V,)."""
        model, stack = self._bench.model, self._stack
        if stack.count == 1:
            with model.holding({**stack.tensors, **self._pupils[0].statistics}):
                result = model(segments[0], self._pupils[0].member.experts)
            return [result.outputs], result.routed.unsqueeze(0), result.balance.unsqueeze(0)
        versions = {m: Versions(tensors, devices) for m, tensors in {**stack.tensors, **self._statistics}.items()}
        routing = Routing(moved(torch.tensor(devices), self._device), self._held) if model.num_experts else None
        outputs, routed, balance = model.of_devices(segments, versions, routing)
        return outputs, routed, balance

    def _means(self, lot: _Lot, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of each member's samples, in order."""
        if self._offsets:
            offsets = torch.stack([self._offsets[v][lot.task] for v in lot.members])  # (members, O)
            outputs = outputs + offsets[lot.place]
        losses = self._bench.head_of(lot.task).losses(outputs, targets)
        return losses.new_zeros(len(lot.members)).index_add(0, lot.place, losses * lot.weight)


@dataclass(frozen=True)
class _Lot:
    """Batches of several members that go side by side: of one task and of the same modalities."""

    task: str
    members: tuple[int, ...]
    samples: tuple[int, ...]
    """Of each member."""
    rows: Indices
    """Of all of them, member by member."""
    of_row: tuple[int, ...]
    """Row -> its member."""
    place: Tensor
    """Row -> its member's place among them, (B,)."""
    weight: Tensor
    """Row -> its weight in its member's mean loss, (B,)."""

    @classmethod
    def of(cls, task: str, some: Sequence[tuple[int, Indices]], fill: bool, device: torch.device) -> _Lot:
        """Args: the task; member and rows of each batch; whether shorter ones get some of their rows again, which weigh
        nothing, to be as long as the longest; where to put it."""
        members, batches = zip(*some, strict=True)
        samples = tuple(map(len, batches))
        longest = max(samples)
        sizes = [longest if fill else n for n in samples]
        weight = [1 / n if i < n else 0.0 for n, size in zip(samples, sizes, strict=True) for i in range(size)]
        return cls(
            task,
            members,
            samples,
            np.concatenate([np.resize(rows, longest) if fill and len(rows) < longest else rows for rows in batches]),
            tuple(v for v, size in zip(members, sizes, strict=True) for _ in range(size)),
            moved(torch.arange(len(members)).repeat_interleave(torch.tensor(sizes)), device),
            moved(torch.tensor(weight), device),
        )


def _logit_offset(bench: Workbench, task: str, part: Part) -> Tensor:
    """What is added to a task's logits in the loss, (O,)."""
    outputs = bench.head_of(task).outputs(bench.dataset.labels[task])
    prior = bench.head_of(task).log_prior(bench.targets[task][torch.from_numpy(part.train)], outputs)
    return (bench.config.local.logit_adjustment * prior).to(bench.model.device)
