"""Server rules over two rounds of two clients, small integers, expectations by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from fogtune.platform.aggregation.rules import (
    RuleState,
    apply_rule,
    average_rule,
    control_name,
    initial_state,
    is_control,
)
from fogtune.platform.aggregation.sums import ModuleSum, Tensors, UpdateRejected
from fogtune.platform.config import (
    FedAdam,
    FedAvg,
    FedAvgM,
    FedProx,
    FedYogi,
    Median,
    Rule,
    Scaffold,
    TrimmedMean,
)

PLAIN: list[Rule] = [FedAvg(), FedProx(kind="fedprox"), Median(kind="median"), TrimmedMean(kind="trimmed-mean")]
WITH_STATE: list[Rule] = [FedAvgM(kind="fedavgm"), FedAdam(kind="fedadam"), FedYogi(kind="fedyogi")]
ALL: list[Rule] = [*PLAIN, *WITH_STATE, Scaffold(kind="scaffold"), Scaffold(kind="scaffold", learning_rate=0.5)]


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values)


def mean_of_two(first: float, second: float) -> Tensors:
    """What two clients with 1 and 3 samples send as `w`."""
    return (ModuleSum.of({"w": vector(first)}, 1) + ModuleSum.of({"w": vector(second)}, 3)).mean()


def two_rounds(rule: Rule) -> tuple[float, float, RuleState]:
    """From w = 10: clients send 14 and 6 (mean 8), then, whatever they got, 1 and 9 (mean 7)."""
    start = {"w": vector(10.0)}
    first, state = apply_rule(rule, start, mean_of_two(14.0, 6.0), initial_state(rule, start), 1.0)
    second, state = apply_rule(rule, first, mean_of_two(1.0, 9.0), state, 1.0)
    return first["w"].item(), second["w"].item(), state


@pytest.mark.parametrize("rule", PLAIN)
def test_plain_rules_take_the_mean(rule: Rule) -> None:
    assert two_rounds(rule) == (8.0, 7.0, {})


@pytest.mark.parametrize("rule", [*PLAIN, Scaffold(kind="scaffold")])
@settings(deadline=None)
@given(st.floats(-1e3, 1e3, width=32), st.floats(-1e3, 1e3, width=32))
def test_plain_rules_keep_the_bits_of_the_mean(rule: Rule, current: float, mean: float) -> None:
    after, _ = apply_rule(rule, {"w": vector(current)}, {"w": vector(mean)}, {}, 1.0)
    assert torch.equal(after["w"], vector(mean))


def test_momentum_carries_over() -> None:
    # delta = 8 - 10 = -2, v = -2, w = 10 + 0.5 * -2 = 9.
    # delta = 7 - 9 = -2, v = 0.5 * -2 - 2 = -3, w = 9 + 0.5 * -3 = 7.5.
    first, second, state = two_rounds(FedAvgM(kind="fedavgm", learning_rate=0.5, momentum=0.5))
    assert (first, second) == (9.0, 7.5)
    assert {name: tensor.tolist() for name, tensor in state.items()} == {"momentum/w": [-3.0]}


def test_momentum_of_zero_is_fedavg() -> None:
    assert two_rounds(FedAvgM(kind="fedavgm", momentum=0.0))[:2] == (8.0, 7.0)


def test_fedadam() -> None:
    # delta = -2: m = 0.5 * 0 + 0.5 * -2 = -1, v = 0.75 * 1 + 0.25 * 4 = 1.75.
    first = 10 - 3 / (math.sqrt(1.75) + 1)
    delta = 7 - first
    m, v = 0.5 * -1 + 0.5 * delta, 0.75 * 1.75 + 0.25 * delta**2
    second = first + 3 * m / (math.sqrt(v) + 1)
    got = two_rounds(FedAdam(kind="fedadam", learning_rate=3.0, beta1=0.5, beta2=0.75, tau=1.0))
    assert got[:2] == pytest.approx((first, second))
    assert {name: tensor.item() for name, tensor in got[2].items()} == {
        "m/w": pytest.approx(m),
        "v/w": pytest.approx(v),
    }


def test_fedyogi() -> None:
    # delta = -2: m = -1; v = 1 - 0.25 * 4 * sign(1 - 4) = 2, where Adam would have 1.75.
    first = 10 - 3 / (math.sqrt(2.0) + 1)
    delta = 7 - first  # -1.757..., so its square 3.08... is above v = 2 again.
    m, v = 0.5 * -1 + 0.5 * delta, 2 + 0.25 * delta**2
    second = first + 3 * m / (math.sqrt(v) + 1)
    got = two_rounds(FedYogi(kind="fedyogi", learning_rate=3.0, beta1=0.5, beta2=0.75, tau=1.0))
    assert got[:2] == pytest.approx((first, second))
    assert {name: tensor.item() for name, tensor in got[2].items()} == {
        "m/w": pytest.approx(m),
        "v/w": pytest.approx(v),
    }


def test_fedyogi_lowers_its_second_moment_slowly() -> None:
    # delta = 1, v = 4: v - 0.25 * 1 * sign(4 - 1) = 3.75; Adam would have 3.25. An unchanged coordinate keeps v.
    rule = FedYogi(kind="fedyogi", beta1=0.5, beta2=0.75, tau=2.0)
    start = {"w": vector(0.0, 0.0)}
    _, state = apply_rule(rule, start, {"w": vector(1.0, 0.0)}, initial_state(rule, start), 1.0)
    assert state["v/w"].tolist() == [3.75, 4.0]


def test_adaptive_rules_start_at_tau_squared() -> None:
    tensors = {"w": torch.ones(2, 3), "b": torch.ones(())}
    for rule in (FedAdam(kind="fedadam", tau=0.5), FedYogi(kind="fedyogi", tau=0.5)):
        state = initial_state(rule, tensors)
        assert sorted(state) == ["m/b", "m/w", "v/b", "v/w"]
        assert torch.equal(state["v/w"], torch.full((2, 3), 0.25))
        assert torch.equal(state["m/w"], torch.zeros(2, 3))


def scaffold_rounds(rule: Scaffold) -> tuple[tuple[float, float], tuple[float, float]]:
    """(w, c) after each of two rounds in which two of four owners take part; both weigh the same."""
    c = control_name("w")
    tensors = {"w": vector(10.0), c: vector(0.0)}
    after: list[tuple[float, float]] = []
    for clients in (((6.0, 4.0), (8.0, 8.0)), ((5.0, -2.0), (3.0, 4.0))):  # (w_i, change of c_i)
        one, two = (ModuleSum.of({"w": vector(w), c: vector(change)}, 5) for w, change in clients)
        tensors, state = apply_rule(rule, tensors, (one + two).mean(), {}, participation=2 / 4)
        assert state == {}
        after.append((tensors["w"].item(), tensors[c].item()))
    return after[0], after[1]


def test_scaffold() -> None:
    # Means of w: 7, 4. Mean changes of c: 6, 1; half of the owners take part: c = 3, then 3.5.
    assert scaffold_rounds(Scaffold(kind="scaffold")) == ((7.0, 3.0), (4.0, 3.5))
    # With a step of one half: 10 + (7 - 10) / 2 = 8.5; 8.5 + (4 - 8.5) / 2 = 6.25.
    assert scaffold_rounds(Scaffold(kind="scaffold", learning_rate=0.5)) == ((8.5, 3.0), (6.25, 3.5))


def test_names_of_controls() -> None:
    assert control_name("lora.A") == "control/lora.A"
    assert is_control(control_name("lora.A"))
    assert not is_control("lora.A")


def test_tiers_below_the_scope_average() -> None:
    for rule in [*PLAIN, *WITH_STATE]:
        assert average_rule(rule) == FedAvg()
    below = average_rule(Scaffold(kind="scaffold", learning_rate=0.5))
    assert isinstance(below, Scaffold)
    assert scaffold_rounds(below) == ((7.0, 3.0), (4.0, 3.5))


@pytest.mark.parametrize("rule", ALL)
def test_nothing_given_is_changed_or_shared(rule: Rule) -> None:
    current: dict[str, Any] = {"w": vector(1.0, 2.0), "control/w": vector(0.5, 0.5)}
    mean = {"w": vector(3.0, 1.0), "control/w": vector(0.25, -1.0)}
    state = initial_state(rule, current)
    before = [{name: tensor.clone() for name, tensor in given.items()} for given in (current, mean, state)]
    tensors, after = apply_rule(rule, current, mean, state, 0.5)
    assert sorted(after) == sorted(state)
    assert all(tensor.dtype == torch.float32 for tensor in (*tensors.values(), *after.values()))
    for tensor in (*tensors.values(), *after.values()):
        tensor.fill_(77.0)
    for given_dict, expected in zip((current, mean, state), before, strict=True):
        for name, tensor in given_dict.items():
            assert torch.equal(tensor, expected[name])


@pytest.mark.parametrize("rule", ALL)
def test_wrong_layout_and_participation(rule: Rule) -> None:
    current = {"w": vector(1.0, 2.0)}
    state = initial_state(rule, current)
    with pytest.raises(UpdateRejected) as caught:
        apply_rule(rule, current, {"w": vector(1.0)}, state, 1.0)  # Would broadcast.
    assert (caught.value.reason, caught.value.tensor) == ("layout differs", "w")
    with pytest.raises(UpdateRejected):
        apply_rule(rule, current, {}, state, 1.0)
    with pytest.raises(ValueError, match=r"participation is 1\.5"):
        apply_rule(rule, current, current, state, 1.5)


def test_every_configurable_rule_is_known() -> None:
    kinds = set(TypeAdapter(Rule).json_schema()["discriminator"]["mapping"])
    assert kinds == {rule.kind for rule in ALL}
