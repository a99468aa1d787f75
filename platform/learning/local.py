"""Local training: one device's part in a round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fogtune.platform.aggregation.rules import control_name
from fogtune.platform.aggregation.sums import Tensors
from fogtune.platform.config import Config, FedProx, Local, Scaffold

from .batches import collate, shuffled
from .workbench import Part, Workbench


@dataclass(frozen=True)
class Trained:
    """What a device has learned in a round."""

    modules: dict[str, Tensors]
    """Module -> trained tensors; under SCAFFOLD with the change of the control variates beside."""
    samples: dict[str, int]
    """Module -> samples that passed through it, over all epochs: its weight in the mean. Only modules with any."""
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
    """Train a device's modules on its data from `start`.

    The result depends on the arguments alone; the bench's model is left holding the trained modules.

    Args:
        bench: the process's model and data.
        device: id of the device.
        round_number: 1-based; keys the order of the samples and places the learning rate.
        start: module -> the version that it starts from (with the server's control variates under SCAFFOLD).
        held_experts: experts that the device holds.
        controls: module -> the device's own control variates (SCAFFOLD; zero where absent).
    """
    config, model = bench.config, bench.model
    for module, tensors in start.items():
        model.load(module, tensors)
    parts = bench.parts(device)
    named = {(m, n): p for m in start for n, p in model.parameters_of[m].items()}
    correction = _Correction(config, named, start, controls)
    optimizer = _optimizer(config.local, list(named.values()))
    passed: dict[str, int] = {}
    losses: dict[str, tuple[float, int]] = {}
    rows = {task: part.train for task, part in parts.items()}
    epochs = [
        shuffled(rows, config.local.batch_size, config.seed, round_number, device, epoch)
        for epoch in range(config.local.epochs)
    ]
    steps = [step for epoch in epochs for step in epoch]
    for i, (task, batch_rows) in enumerate(steps):
        part = parts[task]
        batch = collate(bench.prefixes, task, part.source, part.modalities, batch_rows, bench.targets[task])
        result = model(batch, held_experts)
        loss = bench.head_of(task).loss(result.outputs, batch.targets)
        weight = config.model.experts.balance if config.model.experts else 0.0
        optimizer.zero_grad(set_to_none=True)
        (loss + weight * result.balance).backward()
        if config.local.clip_norm is not None:
            nn.utils.clip_grad_norm_(list(named.values()), config.local.clip_norm)
        correction.apply()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, round_number - 1 + i / len(steps))
        optimizer.step()
        correction.note_step(learning_rate(config, round_number - 1 + i / len(steps)))
        _count(passed, task, part, len(batch_rows), result.routed, start)
        total, samples = losses.get(task, (0.0, 0))
        losses[task] = (total + loss.item() * len(batch_rows), samples + len(batch_rows))
    _forget_rare_experts(config, passed)
    trained = {module: model.tensors(module) for module in start if passed.get(module)}
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


class _Correction:
    """What server rules add to a device's gradients: FedProx's pull to the start, SCAFFOLD's variance reduction."""

    def __init__(
        self,
        config: Config,
        named: dict[tuple[str, str], nn.Parameter],
        start: Mapping[str, Tensors],
        controls: Mapping[str, Tensors],
    ) -> None:
        rule = config.federation.rule
        self._mu = rule.mu if isinstance(rule, FedProx) else 0.0
        self._scaffold = isinstance(rule, Scaffold)
        self._named = named
        self._start = start
        self._controls = controls
        self._steps: dict[tuple[str, str], float] = {}
        """Parameter -> sum of the step sizes taken on it (K eta in the paper)."""

    def apply(self) -> None:
        """Change the gradients in place, where there are any."""
        for (module, name), parameter in self._named.items():
            if parameter.grad is None:
                continue
            if self._mu:
                parameter.grad.add_(parameter.detach() - self._start[module][name], alpha=self._mu)
            if self._scaffold and control_name(name) in self._start[module]:  # personal modules have none
                parameter.grad.add_(self._start[module][control_name(name)])
                if module in self._controls:
                    parameter.grad.sub_(self._controls[module][name])

    def note_step(self, learning_rate: float) -> None:
        """Remember a step that was taken."""
        if self._scaffold:
            for key, parameter in self._named.items():
                if parameter.grad is not None:
                    self._steps[key] = self._steps.get(key, 0.0) + learning_rate

    def control_changes(self, trained: Mapping[str, Tensors]) -> dict[str, Tensors]:
        """c_i+ - c_i = -c + (x - y_i) / (K eta) for each trained module (option II of the paper's eq. 4)."""
        if not self._scaffold:
            return {}
        return {
            module: {
                name: (self._start[module][name] - tensor) / self._steps[module, name]
                - self._start[module][control_name(name)]
                if (module, name) in self._steps
                else torch.zeros_like(tensor)
                for name, tensor in tensors.items()
            }
            for module, tensors in trained.items()
            if all(control_name(name) in self._start[module] for name in tensors)
        }

    def new_controls(self, module: str, change: Tensors) -> Tensors:
        """The device's control variates after the round."""
        old = self._controls.get(module)
        return {name: delta if old is None else old[name] + delta for name, delta in change.items()}
