"""Local training: what devices do with their data in a round, one alone or several together.

Devices that train together go through the frozen weights in one pass, each with its own adapters, prompts, experts and
heads (platform/model/rows.py), and through one optimizer (optimizer.py). What becomes of one is what becomes of it
alone, but for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from fogtune.platform.aggregation.rules import control_name
from fogtune.platform.aggregation.sums import Tensors
from fogtune.platform.config import Config
from fogtune.platform.modules import is_statistics

from .correction import Correction
from .optimizer import Optimizer
from .passes import Passes
from .pupil import Member, Pupil
from .stack import Stack
from .workbench import Workbench


class Trained(NamedTuple):
    """What a device has learned in a round."""

    modules: Mapping[str, Tensors]
    """Module -> trained (or measured) tensors; under SCAFFOLD with the change of the control variates beside. Views of
    what all that trained together have: who keeps some copies them."""
    samples: dict[str, int]
    """Module -> samples that passed through it, or were measured: its weight in the mean. Only modules with any."""
    losses: dict[str, tuple[float, int]]
    """Task -> (sum of the batch losses weighted by samples, samples)."""
    controls: dict[str, Tensors]
    """Module -> the device's new control variates (SCAFFOLD)."""
    model: Mapping[str, Tensors]
    """Module -> tensors, of all modules that the device started from: its own model as it is now."""


def train(bench: Workbench, members: Sequence[Member], round_number: int) -> tuple[list[Trained], Stack]:
    """Train devices on their data of the round; their statistics are those of all their data.

    What becomes of a device depends, but for rounding, on its own data and start alone; to the bit, on those of all
    members. The bench's model is left as it was.

    Args:
        bench: the process's model and data.
        members: one or more devices.
        round_number: 1-based; keys the order of the samples and places the learning rate.

    Returns:
        What each has learned, and where its trained values lie.
    """
    config, local = bench.config, bench.config.local
    pupils = [Pupil(bench, member, round_number) for member in members]
    stack = Stack([member.start for member in members], _shapes(bench, members))
    if local.optimizer == "none":
        for pupil in pupils:
            pupil.count_all()
        return [_trained(bench, pupil, stack, i, None) for i, pupil in enumerate(pupils)], stack
    stack.begin(bench.model.device)
    starts, controls = [m.start for m in members], [m.controls for m in members]
    correction = Correction(config, stack, starts, controls)
    # One task, so that every step takes all that it may take: which is all that anybody here has.
    together = len({(len(p.steps), *p.parts) for p in pupils}) == 1 and len(pupils[0].parts) == 1
    together = together and all(set(through) == stack.values.keys() for p in pupils for through in p.through.values())
    optimizer = Optimizer(stack, local, together)
    passes = Passes(bench, pupils, stack)
    for i in range(max(len(pupil.steps) for pupil in pupils)):
        active = [v for v, pupil in enumerate(pupils) if i < len(pupil.steps)]
        passes.step(i, active)
        if local.clip_norm is not None:
            stack.clip(local.clip_norm)
        correction.apply()
        rates = {v: learning_rate(config, round_number - 1 + i / len(pupils[v].steps)) for v in active}
        used = {v: pupils[v].through[pupils[v].steps[i][0]] for v in active}
        optimizer.step(rates, used)
        for v in active:
            correction.note_step(v, used[v], rates[v])
    passes.note()
    stack.end()
    return [_trained(bench, pupil, stack, i, correction) for i, pupil in enumerate(pupils)], stack


class Views(Mapping[str, Tensors]):
    """Modules of one of those that have trained together: views, which are made when somebody looks."""

    def __init__(self, modules: Collection[str], others: Mapping[str, Tensors], stack: Stack, row: int) -> None:
        """Args: names of the modules, those that are not in the stack, the stack, and the device's row in it."""
        self._modules = dict.fromkeys(modules)
        self._others = others
        self._stack = stack
        self._row = row

    def __getitem__(self, module: str) -> Tensors:
        if module not in self._modules:
            raise KeyError(module)
        return self._others[module] if module in self._others else self._stack.of(self._row, module)

    def __contains__(self, module: object) -> bool:
        return module in self._modules

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


def learning_rate(config: Config, progress: float) -> float:
    """Step size after `progress` rounds: linear warm-up, then constant or cosine down to a tenth."""
    local = config.local
    scale = min(1.0, (progress + 1e-3) / local.warmup_rounds) if local.warmup_rounds else 1.0
    if local.schedule == "cosine":
        scale *= 0.55 + 0.45 * math.cos(math.pi * progress / config.rounds)
    return local.learning_rate * scale


def _shapes(bench: Workbench, members: Sequence[Member]) -> dict[str, dict[str, torch.Size]]:
    """Of all that the members train."""
    trained = dict.fromkeys(m for member in members for m in member.start if not is_statistics(m))
    return {m: {name: tensor.shape for name, tensor in bench.model.tensors_of[m].items()} for m in trained}


def _trained(bench: Workbench, pupil: Pupil, stack: Stack, row: int, correction: Correction | None) -> Trained:
    measured = {module: found.tensors for module, found in pupil.measured.items()}
    passed = {**pupil.passed, **{module: found.samples for module, found in pupil.measured.items()}}
    _forget_rare_experts(bench.config, passed)
    trained = Views([m for m in pupil.member.start if passed.get(m)], measured, stack, row)
    changes = correction.control_changes(row, trained) if correction else {}
    told = {m: {**trained[m], **{control_name(n): t for n, t in change.items()}} for m, change in changes.items()}
    return Trained(
        modules={m: told.get(m) or trained[m] for m in trained} if told else trained,
        samples={m: passed[m] for m in trained},
        losses=pupil.losses,
        controls={m: correction.new_controls(row, m, changes[m]) for m in changes} if correction else {},
        model=Views(pupil.member.start, pupil.statistics, stack, row),
    )


def _forget_rare_experts(config: Config, passed: dict[str, int]) -> None:
    """Drop all but the most used experts from the modules that the device has trained; ties go to lower numbers."""
    experts = config.model.experts
    if experts:
        used = [module for k in range(experts.count) if (module := f"expert/{k}") in passed]
        for module in sorted(used, key=lambda module: -passed[module])[experts.per_device :]:
            del passed[module]
