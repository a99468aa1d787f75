"""Exact sums: by hand, then for any values, order and tree."""

from __future__ import annotations

import pickle
from fractions import Fraction
from functools import reduce
from operator import add

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fogtune.platform.aggregation.sums import (
    LARGEST_TOTAL,
    LARGEST_VALUE,
    SCALE,
    ModuleSum,
    SumOverflow,
    UpdateRejected,
)

values = st.floats(-100, 100, width=32)
contributions = st.tuples(st.tuples(values, values, values), st.integers(1, 10**6)).map(
    lambda drawn: ModuleSum.of({"w": torch.tensor(drawn[0][:2]), "b": torch.tensor(drawn[0][2])}, drawn[1])
)


def test_weighted_mean_of_two_by_hand() -> None:
    ours = ModuleSum.of({"w": torch.tensor([[1.0, 2.0]]), "b": torch.tensor(-3.0)}, weight=1)
    theirs = ModuleSum.of({"b": torch.tensor(1.0), "w": torch.tensor([[5.0, -2.0]])}, weight=3)
    both = ours + theirs
    assert (both.weight, both.contributors) == (4, 2)
    assert both.bound == (1 * 3 + 3 * 5) * SCALE
    assert both.total["w"].tolist() == [[16 * SCALE, -4 * SCALE]]
    assert both.total["b"].item() == 0
    assert list(both.total) == ["b", "w"]
    mean = both.mean()
    assert mean["w"].tolist() == [[4.0, -1.0]]
    assert mean["b"].item() == 0.0
    assert {tensor.dtype for tensor in mean.values()} == {torch.float32}
    assert both.nbytes == 3 * 8


def test_inputs_are_neither_changed_nor_shared() -> None:
    tensor = torch.tensor([1.5, -2.5], requires_grad=True)
    held = ModuleSum.of({"w": tensor}, 2)
    together = held + held
    with torch.no_grad():
        tensor.zero_()
    together.total["w"].zero_()
    assert held.mean()["w"].tolist() == [1.5, -2.5]
    assert not held.mean()["w"].requires_grad


def test_resolution() -> None:
    smallest = 2.0**-32
    kept = ModuleSum.of({"w": torch.tensor([smallest, smallest * 0.75, smallest * 0.5, smallest * 1.5])}, 7).mean()
    assert kept["w"].tolist() == [smallest, smallest, 0.0, 2 * smallest]  # Ties go to even.
    small = ModuleSum.of({"w": torch.tensor([1e-4])}, 7).mean()["w"].item()
    assert small == pytest.approx(1e-4, rel=1.3e-6)


@settings(deadline=None)
@given(st.lists(values.filter(lambda x: abs(x) >= 2**-9), min_size=1), st.lists(st.integers(1, 10**5), min_size=1))
def test_equal_contributions_give_back_their_bits(entries: list[float], weights: list[int]) -> None:
    tensor = torch.tensor(entries)
    mean = reduce(add, [ModuleSum.of({"w": tensor}, weight) for weight in weights]).mean()["w"]
    assert torch.equal(mean, tensor)


@settings(deadline=None)
@given(contributions, contributions, contributions)
def test_addition_is_associative_and_commutative(a: ModuleSum, b: ModuleSum, c: ModuleSum) -> None:
    assert (a + b) + c == a + (b + c)
    assert a + b == b + a


@settings(deadline=None)
@given(contributions, contributions)
def test_addition_in_place_gives_the_same_in_the_same_memory(a: ModuleSum, b: ModuleSum) -> None:
    expected, theirs = a + b, pickle.loads(pickle.dumps(b))
    ours = pickle.loads(pickle.dumps(a))
    memory = ours.total["w"].data_ptr()
    ours += b
    assert ours == expected
    assert ours.total["w"].data_ptr() == memory
    assert b == theirs


@settings(deadline=None)
@given(st.lists(contributions, min_size=1, max_size=8), st.data())
def test_any_order_and_any_tree_give_the_same_bits(leaves: list[ModuleSum], data: st.DataObject) -> None:
    star = reduce(add, leaves)
    forest = data.draw(st.permutations(leaves))
    while len(forest) > 1:  # Join any two nodes until one tree is left.
        first = forest.pop(data.draw(st.integers(0, len(forest) - 1)))
        second = forest.pop(data.draw(st.integers(0, len(forest) - 1)))
        forest.append(first + second)
    assert forest[0] == star
    for name, tensor in star.mean().items():
        assert torch.equal(forest[0].mean()[name], tensor)


@settings(deadline=None)
@given(st.lists(st.tuples(values, st.integers(1, 10**6)), min_size=1, max_size=8))
def test_bound_holds_and_mean_is_close(drawn: list[tuple[float, int]]) -> None:
    whole = reduce(add, [ModuleSum.of({"w": torch.tensor([x])}, weight) for x, weight in drawn])
    assert abs(int(whole.total["w"])) <= whole.bound <= LARGEST_TOTAL
    exact = float(sum(Fraction(x) * weight for x, weight in drawn) / sum(weight for _, weight in drawn))
    assert whole.mean()["w"].item() == pytest.approx(exact, rel=2.0**-23, abs=2.0**-32)


def test_the_mean_of_a_tensor_too_large_for_a_processors_cache() -> None:
    tensor = torch.arange(3.0 * (2**18 + 1)).reshape(3, -1).t()  # taken in parts, of a view
    whole = ModuleSum.of({"w": tensor}, 3) + ModuleSum.of({"w": -tensor}, 1)
    assert torch.equal(whole.mean()["w"], tensor / 2)


def test_equality_sees_every_bit() -> None:
    one = ModuleSum.of({"w": torch.tensor([1.0])}, 1)
    assert one == ModuleSum.of({"w": torch.tensor([1.0])}, 1)
    assert one != ModuleSum.of({"w": torch.tensor([1.0 + 2**-23])}, 1)
    assert one != ModuleSum.of({"v": torch.tensor([1.0])}, 1)
    assert one != ModuleSum.of({"w": torch.tensor([1.0])}, 1, contributors=2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_not_finite_is_rejected(bad: float) -> None:
    with pytest.raises(UpdateRejected, match="1 of 2 values") as caught:
        ModuleSum.of({"a": torch.zeros(3), "w": torch.tensor([1.0, bad])}, 1)
    assert (caught.value.reason, caught.value.tensor) == ("not finite", "w")


def test_too_large_is_rejected() -> None:
    edge = torch.tensor([-LARGEST_VALUE])
    assert ModuleSum.of({"w": edge}, 2047).mean()["w"].item() == -LARGEST_VALUE
    with pytest.raises(UpdateRejected) as caught:
        ModuleSum.of({"a": torch.zeros(1), "w": torch.nextafter(edge, edge * 2)}, 1)
    assert (caught.value.reason, caught.value.tensor) == ("too large", "w")
    with pytest.raises(UpdateRejected) as caught:
        ModuleSum.of({"a": torch.zeros(1), "w": edge}, 2048)  # 2**20 * 2**11 * 2**32 = 2**63
    assert (caught.value.reason, caught.value.tensor) == ("too large", "w")


def test_bad_weights_are_rejected() -> None:
    for weight, contributors in ((0, 1), (-1, 1), (1 << 63, 1), (1, 0)):
        with pytest.raises(UpdateRejected) as caught:
            ModuleSum.of({"w": torch.zeros(1)}, weight, contributors)
        assert (caught.value.reason, caught.value.tensor) == ("bad weight", None)


@pytest.mark.parametrize(
    "other", [{"v": torch.zeros(2)}, {"w": torch.zeros(1)}, {"w": torch.zeros(2), "v": torch.zeros(2)}]
)
def test_other_names_or_shapes_are_rejected(other: dict[str, torch.Tensor]) -> None:
    with pytest.raises(UpdateRejected) as caught:
        ModuleSum.of({"w": torch.zeros(2)}, 1) + ModuleSum.of(other, 1)
    assert caught.value.reason == "layout differs"


def test_overflow_is_detected_before_it_happens() -> None:
    half = ModuleSum.of({"w": torch.tensor([LARGEST_VALUE])}, 1024)  # 2**62
    less = ModuleSum.of({"w": torch.tensor([LARGEST_VALUE])}, 1023)
    assert (half + less).mean()["w"].item() == LARGEST_VALUE
    with pytest.raises(SumOverflow, match=r"2 updates over 2048 samples may reach 2.15e\+09"):
        half + half


def test_whether_it_overflows_does_not_depend_on_the_order() -> None:
    plus = ModuleSum.of({"w": torch.tensor([LARGEST_VALUE])}, 1024)
    minus = ModuleSum.of({"w": torch.tensor([-LARGEST_VALUE])}, 1024)
    small = ModuleSum.of({"w": torch.tensor([1.0])}, 1)
    for order in ((plus, minus, small), (plus, small, minus), (small, plus, minus)):
        with pytest.raises(SumOverflow):
            reduce(add, order)


def test_module_without_entries() -> None:
    empty = ModuleSum.of({"w": torch.zeros(0, 3)}, 5)
    assert (empty + empty).mean()["w"].shape == (0, 3)
    assert (empty + empty).weight == 10


def test_sums_and_errors_survive_pickling() -> None:
    whole = ModuleSum.of({"w": torch.tensor([1.0, 2.0])}, 3)
    assert pickle.loads(pickle.dumps(whole)) == whole
    rejected = pickle.loads(pickle.dumps(UpdateRejected("not finite", "w", "1 of 2")))
    assert (rejected.reason, rejected.tensor, rejected.detail) == ("not finite", "w", "1 of 2")
    assert str(rejected) == "update rejected: not finite in tensor 'w': 1 of 2"
    overflow = pickle.loads(pickle.dumps(SumOverflow(1 << 64, 5, 2)))
    assert (overflow.bound, overflow.weight, overflow.contributors) == (1 << 64, 5, 2)
