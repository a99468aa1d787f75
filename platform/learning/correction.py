"""What server rules add to devices' gradients: FedProx's pull to the start, SCAFFOLD's variance reduction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from fogtune.platform.aggregation.rules import control_name
from fogtune.platform.aggregation.sums import Tensors
from fogtune.platform.config import Config, FedProx, Scaffold

from .stack import Stack


class Correction:
    """Of the devices of a stack in one round. Papers: arXiv 1812.06127 (FedProx), arXiv 1910.06378 (SCAFFOLD)."""

    def __init__(
        self,
        config: Config,
        stack: Stack,
        starts: Sequence[Mapping[str, Tensors]],
        controls: Sequence[Mapping[str, Tensors]],
    ) -> None:
        """Args: the run's configuration, then of each device what it starts from and its own control variates."""
        rule = config.federation.rule
        self._mu = rule.mu if isinstance(rule, FedProx) else 0.0
        self._scaffold = isinstance(rule, Scaffold)
        self._stack = stack
        self._starts = starts
        self._controls = controls
        self._begin = {m: values.clone() for m, values in stack.values.items()} if self._mu else {}
        self._shift = {m: self._shifts(m) for m in stack.values} if self._scaffold else {}
        """Module -> c - c_i, (V, n)."""
        self._steps: dict[tuple[str, int], float] = {}
        """(Module, device) -> sum of the step sizes taken on it (K eta in the paper)."""

    def apply(self) -> None:
        """Change the gradients in place."""
        for module, begin in self._begin.items():
            self._stack.grads[module].add_(self._stack.values[module] - begin, alpha=self._mu)
        for module, shift in self._shift.items():
            self._stack.grads[module].add_(shift)

    def note_step(self, device: int, modules: Sequence[str], learning_rate: float) -> None:
        """Remember a step that a device has taken on some modules."""
        if self._scaffold:
            for module in modules:
                self._steps[module, device] = self._steps.get((module, device), 0.0) + learning_rate

    def control_changes(self, device: int, trained: Mapping[str, Tensors]) -> dict[str, Tensors]:
        """c_i+ - c_i = -c + (x - y_i) / (K eta) for each trained module (option II of the paper's eq. 4)."""
        if not self._scaffold:
            return {}
        start = self._starts[device]
        return {
            module: {
                name: (start[module][name] - tensor) / self._steps[module, device] - start[module][control_name(name)]
                for name, tensor in tensors.items()
            }
            for module, tensors in trained.items()
            if (module, device) in self._steps and self._has_control(device, module)
        }

    def new_controls(self, device: int, module: str, change: Tensors) -> Tensors:
        """The device's control variates after the round."""
        old = self._controls[device].get(module)
        return {name: delta if old is None else old[name] + delta for name, delta in change.items()}

    def _has_control(self, device: int, module: str) -> bool:
        """Whether the server has control variates of a module that a device has: of personal ones it has none."""
        start = self._starts[device].get(module, {})
        return all(control_name(name) in start for name in self._stack.shapes[module])

    def _shifts(self, module: str) -> torch.Tensor:
        shifts = torch.zeros_like(self._stack.values[module])
        for device, start in enumerate(self._starts):
            if self._has_control(device, module):
                own = self._controls[device].get(module, {})
                parts = [start[module][control_name(name)] - own.get(name, 0.0) for name in self._stack.shapes[module]]
                shifts[device] = torch.cat([part.flatten() for part in parts])
        return shifts
