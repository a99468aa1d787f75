"""What server rules add to a device's gradients: FedProx's pull to the start, SCAFFOLD's variance reduction."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from fogtune.platform.aggregation.rules import control_name
from fogtune.platform.aggregation.sums import Tensors
from fogtune.platform.config import Config, FedProx, Scaffold


class Correction:
    """Of one device in one round. Papers: arXiv 1812.06127 (FedProx), arXiv 1910.06378 (SCAFFOLD)."""

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
