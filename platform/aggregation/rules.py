"""Server rules: what a tier makes of the mean of a module. Pure functions with an explicit, serialisable state.

    state = initial_state(rule, tensors)
    tensors, state = apply_rule(rule, tensors, mean, state, participation)      # once an aggregation

FedAvg, FedProx       w <- mean, the very bits                                          1602.05629, 1812.06127
Median, TrimmedMean   the same; `mean` then is the robust statistic, taken before       1803.01498
FedAvgM               v <- beta v + delta;  w <- w + lr v                               1909.06335
FedAdam, FedYogi      m, v from delta;  w <- w + lr m / (sqrt(v) + tau)                 2003.00295, algorithm 2
SCAFFOLD              w <- w + lr delta;  c <- c + participation * mean change of c_i   1910.06378, algorithm 1

with delta = mean - w; the numbers are arXiv's. Rules know one module at a time and nothing of tiers, rounds or
senders. Arithmetic is float64, one elementwise operation at a time (each correctly rounded by IEEE 754, so alike on
every machine); what is kept is float32. FedProx's proximal term and SCAFFOLD's corrected gradients belong to local
learning.

SCAFFOLD keeps the server's control variate c beside each parameter `p`, as the tensor `control/p` of the same module,
so that it goes down to the devices with it. In what comes up, `control/p` is the change of the device's own variate
c_i. The paper's 1/N sum over participants S is |S|/N times their mean; the mean here is weighted by samples, as is the
objective.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

import torch

from ..config import FedAdam, FedAvg, FedAvgM, FedProx, FedYogi, Median, Rule, Scaffold, TrimmedMean
from .sums import Tensors, require_same_layout

RuleState = dict[str, torch.Tensor]
"""What a rule carries from one aggregation of a module to the next: float32, `<moment>/<tensor name>` -> its shape."""

_CONTROL = "control/"


def control_name(parameter: str) -> str:
    """Name of the tensor that holds a parameter's control variate."""
    return _CONTROL + parameter


def is_control(name: str) -> bool:
    """Whether a tensor of this name is a control variate."""
    return name.startswith(_CONTROL)


def average_rule(rule: Rule) -> Rule:
    """The rule of the tiers below a module's scope: the plain mean, without state.

    For SCAFFOLD it is SCAFFOLD with a step of one, as a control variate must take up changes, not be replaced by one.
    """
    return Scaffold(kind="scaffold", learning_rate=1.0) if isinstance(rule, Scaffold) else FedAvg()


def initial_state(rule: Rule, tensors: Tensors) -> RuleState:
    """The state before the first aggregation of a module; empty for rules without one."""
    match rule:
        case FedAvgM():
            return {_momentum(name): torch.zeros_like(tensor) for name, tensor in tensors.items()}
        case FedAdam() | FedYogi():
            first = {_first(name): torch.zeros_like(tensor) for name, tensor in tensors.items()}
            second = {_second(name): torch.full_like(tensor, rule.tau**2) for name, tensor in tensors.items()}
            return first | second
        case FedAvg() | FedProx() | Scaffold() | Median() | TrimmedMean():
            return {}
        case _:
            assert_never(rule)


def apply_rule(
    rule: Rule, current: Tensors, mean: Tensors, state: RuleState, participation: float
) -> tuple[Tensors, RuleState]:
    """The module's next tensors and the rule's next state. Nothing given is changed, nothing returned shares memory.

    `mean` is the weighted mean of what the devices sent, with the names and shapes of `current`; `participation` is
    contributors / owners of the module, in [0, 1].

    Raises UpdateRejected where names or shapes of `mean` and `current` differ, ValueError for a wrong participation.
    """
    require_same_layout(current, mean)
    if not 0 <= participation <= 1:
        raise ValueError(f"participation is {participation}, it must be in [0, 1]")
    match rule:
        case FedAvg() | FedProx() | Median() | TrimmedMean():
            return {name: _copy(tensor) for name, tensor in mean.items()}, {}
        case FedAvgM():
            return _momentum_step(rule, current, mean, state)
        case FedAdam():
            return _adaptive_step(rule, current, mean, state, _adam_second_moment)
        case FedYogi():
            return _adaptive_step(rule, current, mean, state, _yogi_second_moment)
        case Scaffold():
            return _scaffold_step(rule, current, mean, participation), {}
        case _:
            assert_never(rule)


def _momentum_step(rule: FedAvgM, current: Tensors, mean: Tensors, state: RuleState) -> tuple[Tensors, RuleState]:
    tensors: Tensors = {}
    moments: RuleState = {}
    for name, tensor in current.items():
        v = rule.momentum * state[_momentum(name)].double() + _delta(tensor, mean[name])
        moments[_momentum(name)] = v.float()
        tensors[name] = (tensor.double() + rule.learning_rate * v).float()
    return tensors, moments


SecondMoment = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
"""(v, delta squared, beta2) -> the next v."""


def _adam_second_moment(v: torch.Tensor, squared: torch.Tensor, beta2: float) -> torch.Tensor:
    return beta2 * v + (1 - beta2) * squared


def _yogi_second_moment(v: torch.Tensor, squared: torch.Tensor, beta2: float) -> torch.Tensor:
    return v - (1 - beta2) * squared * torch.sign(v - squared)


def _adaptive_step(
    rule: FedAdam | FedYogi, current: Tensors, mean: Tensors, state: RuleState, second_moment: SecondMoment
) -> tuple[Tensors, RuleState]:
    """No bias correction: v starts at tau**2, as in the paper."""
    tensors: Tensors = {}
    moments: RuleState = {}
    for name, tensor in current.items():
        delta = _delta(tensor, mean[name])
        m = rule.beta1 * state[_first(name)].double() + (1 - rule.beta1) * delta
        v = second_moment(state[_second(name)].double(), delta * delta, rule.beta2)
        moments[_first(name)], moments[_second(name)] = m.float(), v.float()
        tensors[name] = (tensor.double() + rule.learning_rate * m / (v.sqrt() + rule.tau)).float()
    return tensors, moments


def _scaffold_step(rule: Scaffold, current: Tensors, mean: Tensors, participation: float) -> Tensors:
    tensors: Tensors = {}
    for name, tensor in current.items():
        if is_control(name):
            tensors[name] = (tensor.double() + participation * mean[name].double()).float()
        elif rule.learning_rate == 1:
            tensors[name] = _copy(mean[name])
        else:
            tensors[name] = (tensor.double() + rule.learning_rate * _delta(tensor, mean[name])).float()
    return tensors


def _delta(tensor: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """The mean change, which the rules take for a negative gradient; float64."""
    return mean.double() - tensor.double()


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to(torch.float32, copy=True)


def _momentum(name: str) -> str:
    return f"momentum/{name}"


def _first(name: str) -> str:
    return f"m/{name}"


def _second(name: str) -> str:
    return f"v/{name}"
