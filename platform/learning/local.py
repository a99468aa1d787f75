"""Local training: one device's part in a round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fogtune.platform.aggregation.rules import control_name
from fogtune.platform.aggregation.sums import Tensors
from fogtune.platform.config import Config, Local
from fogtune.platform.model.statistics import known
from fogtune.platform.modules import statistics_of

from .batches import collate, epochs, mixed_batches, rows_of_round
from .correction import Correction
from .workbench import Part, Workbench


@dataclass(frozen=True)
class Trained:
    """What a device has learned in a round."""

    modules: dict[str, Tensors]
    """Module -> trained (or measured) tensors; under SCAFFOLD with the change of the control variates beside."""
    samples: dict[str, int]
    """Module -> samples that passed through it, or were measured: its weight in the mean. Only modules with any."""
    losses: dict[str, tuple[float, int]]
    """Task -> (sum of the batch losses weighted by samples, samples)."""
    controls: dict[str, Tensors]
    """Module -> the device's new control variates (SCAFFOLD)."""


def train(
    bench: Workbench,
    device: str,
    round_number: int,
    start: Mapping[str, Tensors],
    held_experts: Sequence[int],
    controls: Mapping[str, Tensors],
) -> Trained:
    """Train a device's modules on its data of the round from `start`; its statistics are those of all its data.

    It standardises by the statistics that it started from; where there are none yet, by its own. The result depends on
    the arguments alone; the bench's model is left holding the trained modules.

    Args:
        bench: the process's model and data.
        device: id of the device.
        round_number: 1-based; keys the order of the samples and places the learning rate.
        start: module -> the version that it starts from (with the server's control variates under SCAFFOLD).
        held_experts: experts that the device holds.
        controls: module -> the device's own control variates (SCAFFOLD; zero where absent).
    """
    config, model = bench.config, bench.model
    local = config.local
    parts = bench.parts(device, round_number)
    rows = {
        task: rows_of_round(part.train, epochs(config, task), round_number, config.seed, device)
        for task, part in parts.items()
    }
    measured = {statistics_of(modality): statistics for modality, statistics in bench.statistics(device).items()}
    for module, tensors in start.items():
        model.load(module, tensors if module not in measured or known(tensors) else measured[module].tensors)
    named = {(m, n): p for m in start for n, p in model.tensors_of[m].items() if isinstance(p, nn.Parameter)}
    correction = Correction(config, named, start, controls)
    optimizer = _optimizer(local, list(named.values()))
    offsets = {task: _logit_offset(bench, task, part) for task, part in parts.items()}
    passed: dict[str, int] = {}
    losses: dict[str, tuple[float, int]] = {}
    steps = mixed_batches(rows, local.batch_size, config.seed, round_number, device)
    for i, (task, batch_rows) in enumerate(steps):
        part = parts[task]
        batch = collate(bench.prefixes, task, part.source, part.modalities, batch_rows, bench.targets[task])
        result = model(batch, held_experts)
        loss = bench.head_of(task).loss(result.outputs + offsets[task], batch.targets)
        weight = config.model.experts.balance if config.model.experts else 0.0
        optimizer.zero_grad(set_to_none=True)
        (loss + weight * result.balance).backward()
        if local.clip_norm is not None:
            nn.utils.clip_grad_norm_(list(named.values()), local.clip_norm)
        correction.apply()
        rate = learning_rate(config, round_number - 1 + i / len(steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        correction.note_step(rate)
        _count(passed, task, part, len(batch_rows), result.routed, start)
        total, samples = losses.get(task, (0.0, 0))
        losses[task] = (total + loss.item() * len(batch_rows), samples + len(batch_rows))
    _forget_rare_experts(config, passed)
    passed |= {module: statistics.samples for module, statistics in measured.items()}
    trained = {
        module: measured[module].tensors if module in measured else model.tensors(module)
        for module in start
        if passed.get(module)
    }
    changes = correction.control_changes(trained)
    return Trained(
        modules={m: trained[m] | {control_name(n): t for n, t in changes.get(m, {}).items()} for m in trained},
        samples={m: passed[m] for m in trained},
        losses=losses,
        controls={m: correction.new_controls(m, changes[m]) for m in changes},
    )


def learning_rate(config: Config, progress: float) -> float:
    """Step size after `progress` rounds: linear warm-up, then constant or cosine down to a tenth."""
    local = config.local
    scale = min(1.0, (progress + 1e-3) / local.warmup_rounds) if local.warmup_rounds else 1.0
    if local.schedule == "cosine":
        scale *= 0.55 + 0.45 * math.cos(math.pi * progress / config.rounds)
    return local.learning_rate * scale


def _logit_offset(bench: Workbench, task: str, part: Part) -> Tensor | float:
    """What is added to a task's logits in the loss."""
    weight = bench.config.local.logit_adjustment
    if not weight:
        return 0.0
    outputs = bench.head_of(task).outputs(bench.dataset.labels[task])
    return weight * bench.head_of(task).log_prior(bench.targets[task][torch.from_numpy(part.train)], outputs)


def _optimizer(local: Local, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if local.optimizer == "adamw":
        return torch.optim.AdamW(parameters, local.learning_rate, weight_decay=local.weight_decay, fused=True)
    return torch.optim.SGD(parameters, local.learning_rate, weight_decay=local.weight_decay)


def _count(
    passed: dict[str, int], task: str, part: Part, samples: int, routed: Tensor, owned: Mapping[str, Tensors]
) -> None:
    through = [f"prompt/{task}", f"head/{task}", "adapter/fusion", "router/fusion"]
    through += [f"encoder/{modality}" for modality in part.modalities]
    for module in through:
        if module in owned:
            passed[module] = passed.get(module, 0) + samples
    for k, count in enumerate(routed.tolist()):
        if count and f"expert/{k}" in owned:
            passed[f"expert/{k}"] = passed.get(f"expert/{k}", 0) + count


def _forget_rare_experts(config: Config, passed: dict[str, int]) -> None:
    """Drop all but the most used experts from the modules that the device has trained; ties go to lower numbers."""
    experts = config.model.experts
    if experts:
        used = [module for k in range(experts.count) if (module := f"expert/{k}") in passed]
        for module in sorted(used, key=lambda module: -passed[module])[experts.per_device :]:
            del passed[module]
