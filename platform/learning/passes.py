"""Forward and backward passes of devices that train together. Legend: V devices, B samples, O outputs, E experts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fogtune.platform.aggregation.sums import Tensors
from fogtune.platform.data.table import Indices
from fogtune.platform.model.experts import Routing
from fogtune.platform.model.rows import Index, Versions
from fogtune.platform.model.segments import Batch

from .batches import collate
from .pupil import Pupil
from .stack import Stack
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
        self._losses: list[tuple[str, list[tuple[int, int]], Tensor]] = []
        """Of each segment: its task, (member, samples), and the members' mean losses."""
        self._statistics = {
            module: _side_by_side([pupil.statistics.get(module) for pupil in pupils])
            for module in dict.fromkeys(module for pupil in pupils for module in pupil.statistics)
        }
        self._held = torch.zeros(len(pupils), bench.model.num_experts, dtype=torch.bool)
        for v, pupil in enumerate(pupils):
            self._held[v, list(pupil.member.experts)] = True

    def step(self, i: int, active: Sequence[int]) -> None:
        """Let the stack have the gradients of step `i` of the active members."""
        batches: dict[tuple[str, tuple[str, ...]], list[tuple[int, Indices]]] = {}
        for v in active:
            task, rows = self._pupils[v].steps[i]
            batches.setdefault((task, self._pupils[v].parts[task].modalities), []).append((v, rows))
        segments = [self._collated(task, some) for (task, _), some in batches.items()]
        devices = Index(v for some in batches.values() for v, rows in some for _ in rows)
        outputs, routed, balance = self._forward(segments, devices)
        total = self._balance * balance.sum()
        for (task, _), some, segment, said in zip(batches, batches.values(), segments, outputs, strict=True):
            means = self._means(task, some, said, segment.targets)
            total = total + means.sum()
            self._losses.append((task, [(v, len(rows)) for v, rows in some], means.detach()))
        self._stack.differentiate(total)
        counts = routed.tolist()
        for (task, _), some in batches.items():
            for v, rows in some:
                self._pupils[v].count(task, len(rows), counts[v] if counts else ())

    def note_losses(self) -> None:
        """Tell the members what they have lost: once at the end, as it waits for what has been computed."""
        for task, some, means in self._losses:
            for (v, samples), mean in zip(some, means.tolist(), strict=True):
                total, before = self._pupils[v].losses.get(task, (0.0, 0))
                self._pupils[v].losses[task] = (total + mean * samples, before + samples)

    def _collated(self, task: str, some: Sequence[tuple[int, Indices]]) -> Batch:
        part = self._pupils[some[0][0]].parts[task]
        rows = np.concatenate([rows for _, rows in some])
        return collate(self._bench.prefixes, task, part.source, part.modalities, rows, self._bench.targets[task])

    def _forward(self, segments: Sequence[Batch], devices: Index) -> tuple[list[Tensor], Tensor, Tensor]:
        """Outputs of each segment, routed (V, E), balance (V,)."""
        model, stack = self._bench.model, self._stack
        if stack.count == 1:
            with model.holding({**stack.tensors, **self._pupils[0].statistics}):
                result = model(segments[0], self._pupils[0].member.experts)
            return [result.outputs], result.routed.unsqueeze(0), result.balance.unsqueeze(0)
        versions = {m: Versions(tensors, devices) for m, tensors in {**stack.tensors, **self._statistics}.items()}
        routing = Routing(torch.tensor(devices), self._held) if model.num_experts else None
        outputs, routed, balance = model.of_devices(segments, versions, routing)
        return outputs, routed, balance

    def _means(self, task: str, some: Sequence[tuple[int, Indices]], outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of each member's samples, in order."""
        sizes = [len(rows) for _, rows in some]
        if self._offsets:
            offsets = torch.stack([self._offsets[v][task] for v, _ in some])  # (members, O)
            outputs = outputs + offsets.repeat_interleave(torch.tensor(sizes), 0)
        losses = self._bench.head_of(task).losses(outputs, targets)
        if len(set(sizes)) == 1:
            return losses.view(len(sizes), -1).mean(1)
        return torch.stack([part.mean() for part in torch.split(losses, sizes)])


def _side_by_side(some: Sequence[Tensors | None]) -> Tensors:
    """Of several devices, zeros where one has none: name -> (V, ...)."""
    (first, *_) = (tensors for tensors in some if tensors is not None)
    return {n: torch.stack([t[n] if t else torch.zeros_like(first[n]) for t in some]) for n in first}


def _logit_offset(bench: Workbench, task: str, part: Part) -> Tensor:
    """What is added to a task's logits in the loss, (O,)."""
    outputs = bench.head_of(task).outputs(bench.dataset.labels[task])
    prior = bench.head_of(task).log_prior(bench.targets[task][torch.from_numpy(part.train)], outputs)
    return bench.config.local.logit_adjustment * prior
