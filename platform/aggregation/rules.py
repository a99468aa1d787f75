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

from collections.abc import Callable, Iterator
from typing import assert_never

import torch

from ..config import FedAdam, FedAvg, FedAvgM, FedProx, FedYogi, Median, Rule, Scaffold, TrimmedMean
from .sums import Tensors, in_parts, require_same_layout

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
    def step(w: torch.Tensor, mean: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, ...]:
        v = rule.momentum * v + (mean - w)
        return v, w + rule.learning_rate * v

    tensors: Tensors = {}
    moments: RuleState = {}
    for name, tensor in current.items():
        v = _momentum(name)
        moments[v], tensors[name] = _elementwise(step, tensor, mean[name], state[v])
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

    def step(w: torch.Tensor, mean: torch.Tensor, m: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, ...]:
        delta = mean - w
        m = rule.beta1 * m + (1 - rule.beta1) * delta
        v = second_moment(v, delta * delta, rule.beta2)
        return m, v, w + rule.learning_rate * m / (v.sqrt() + rule.tau)

    tensors: Tensors = {}
    moments: RuleState = {}
    for name, tensor in current.items():
        m, v = _first(name), _second(name)
        moments[m], moments[v], tensors[name] = _elementwise(step, tensor, mean[name], state[m], state[v])
    return tensors, moments


def _scaffold_step(rule: Scaffold, current: Tensors, mean: Tensors, participation: float) -> Tensors:
    def step(w: torch.Tensor, mean: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (w + rule.learning_rate * (mean - w),)

    def control_step(c: torch.Tensor, change: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (c + participation * change,)

    tensors: Tensors = {}
    for name, tensor in current.items():
        if rule.learning_rate == 1 and not is_control(name):
            tensors[name] = _copy(mean[name])
        else:
            (tensors[name],) = _elementwise(control_step if is_control(name) else step, tensor, mean[name])
    return tensors


def _elementwise(step: Callable[..., tuple[torch.Tensor, ...]], *tensors: torch.Tensor) -> Iterator[torch.Tensor]:
    """What a step makes of tensors of one shape: float64 within, float32 without, a part after the other."""
    made = [
        [result.float() for result in step(*(part.double() for part in parts))]
        for parts in zip(*map(in_parts, tensors), strict=True)
    ]
    return (torch.cat(parts).view(tensors[0].shape) for parts in zip(*made, strict=True))


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to(torch.float32, copy=True)


def _momentum(name: str) -> str:
    return f"momentum/{name}"


def _first(name: str) -> str:
    return f"m/{name}"


def _second(name: str) -> str:
    return f"v/{name}"
