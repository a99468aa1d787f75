"""Sums of several contributions at once: the bits of the sum one by one, and the same contributions refused."""

from __future__ import annotations

from functools import reduce
from operator import add

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fogtune.platform.aggregation.contributions import Contributions
from fogtune.platform.aggregation.sums import ModuleSum, SumOverflow, Tensors, UpdateRejected

row = st.lists(st.floats(-(2.0**20), 2.0**20, width=32), min_size=5, max_size=5)
any_row = st.lists(st.floats(width=32), min_size=5, max_size=5)
weight = st.integers(1, 2**13)


def one(values: list[float], samples: int) -> ModuleSum:
    tensor = torch.tensor(values)
    return ModuleSum.of({"w": tensor[:4].view(2, 2), "b": tensor[4:]}, samples)


def side_by_side(rows: torch.Tensor) -> Tensors:
    """(K, 5) -> the tensors of `one`, of each."""
    return {"w": rows[:, :4].view(-1, 2, 2), "b": rows[:, 4:]}


def together(tensors: Tensors, weights: list[int], onto: ModuleSum | None = None) -> ModuleSum:
    """The sum of all."""
    (found,) = Contributions(tensors, weights).sums([range(len(weights))], [onto])
    return found


@given(st.lists(st.tuples(row, st.integers(1, 100)), min_size=1, max_size=6))
def test_they_are_the_sum_of_each(some: list[tuple[list[float], int]]) -> None:
    rows, weights = side_by_side(torch.tensor([v for v, _ in some])), [w for _, w in some]
    try:
        expected = reduce(add, [one(*each) for each in some])
    except SumOverflow:
        with pytest.raises(SumOverflow):
            together(rows, weights)
        return
    found = together(rows, weights)
    assert found == expected
    assert list(found.total) == ["b", "w"]


@given(row, st.lists(st.tuples(row, st.integers(1, 100)), min_size=1, max_size=6))
def test_they_are_added_to_a_sum_in_its_memory(first: list[float], some: list[tuple[list[float], int]]) -> None:
    rows, weights = side_by_side(torch.tensor([v for v, _ in some])), [w for _, w in some]
    sum_so_far, before = one(first, 7), one(first, 7)
    try:
        expected = before + together(rows, weights)
    except SumOverflow:
        with pytest.raises(SumOverflow):
            together(rows, weights, onto=sum_so_far)
        assert sum_so_far == before
        return
    found = together(rows, weights, onto=sum_so_far)
    assert found == expected
    assert all(found.total[name] is tensor for name, tensor in sum_so_far.total.items())


@pytest.mark.parametrize("scale", [1.0, 2.0**14])  # with float64, and beyond 2**53 with int64
@given(st.lists(st.tuples(row, st.integers(1, 100), st.integers(0, 3)), min_size=1, max_size=8))
def test_several_sums_at_once(scale: float, some: list[tuple[list[float], int, int]]) -> None:
    """Each contribution goes to receiver 0, 1 or 2, or to nobody, who sends nothing that a sum could be made of."""
    values = torch.tensor([v for v, _, _ in some]).clamp(-64, 64) * scale
    weights = [w for _, w, _ in some]
    values[[to == 3 for _, _, to in some]] = torch.nan
    groups = [[i for i, (_, _, to) in enumerate(some) if to == r] for r in range(3)]
    groups = [group for group in groups if group]
    if not groups:
        return
    so_far = [one([1.0] * 5, 7), *[None] * (len(groups) - 1)]
    alone = [[one(values[i].tolist(), weights[i]) for i in group] for group in groups]
    expected = [reduce(add, [one([1.0] * 5, 7), *alone[0]]), *(reduce(add, rest) for rest in alone[1:])]
    assert Contributions(side_by_side(values), weights).sums(groups, so_far) == expected


def test_nothing_is_added_to_any_sum_where_one_does_not_fit() -> None:
    so_far, before = one([1.0] * 5, 7), one([1.0] * 5, 7)
    found = Contributions(side_by_side(torch.tensor([[1.0] * 5, [2.0**20] * 5, [2.0**20] * 5])), [1, 2000, 2000])
    with pytest.raises(SumOverflow):
        found.sums([[0], [1, 2]], [so_far, None])
    with pytest.raises(UpdateRejected, match="layout differs"):
        Contributions({"w": torch.ones(2, 2, 2)}, [1, 1]).sums([[0, 1]], [so_far])
    assert so_far == before


@given(st.lists(st.tuples(any_row, st.integers(-1, 2**40)), min_size=1, max_size=4))
def test_who_is_refused_alone_is_refused_here(some: list[tuple[list[float], int]]) -> None:
    bad = []
    for i, each in enumerate(some):
        try:
            one(*each)
        except UpdateRejected:
            bad.append(i)
    found = Contributions(side_by_side(torch.tensor([v for v, _ in some])), [w for _, w in some])
    assert found.refused(range(len(some))) == bad
    assert found.refused([i for i in range(len(some)) if i not in bad]) == []


def test_large_sums_are_exact_too() -> None:
    """Beyond 2**53 float64 would not be."""
    rows = torch.tensor([[2.0**20, 1.0, 2.0**-32, -1.0, 3.0], [2.0**-32, 2.0**20, 2.0**20, 1.0, 2.0**-32]])
    found = together(side_by_side(rows), [511, 511])
    assert found.total["w"].flatten().tolist() == [511 * (2**52 + 1), 511 * (2**52 + 2**32), 511 * (2**52 + 1), 0]


@given(any_row, st.lists(st.integers(-1, 2**40), min_size=2, max_size=4))
def test_equal_rows_in_one_place_are_what_they_are_apart(values: list[float], weights: list[int]) -> None:
    shared = torch.tensor([values]).expand(len(weights), -1)
    found, expected = (outcome(rows, weights) for rows in (shared, shared.clone(memory_format=torch.contiguous_format)))
    assert found == expected


def outcome(rows: torch.Tensor, weights: list[int]) -> ModuleSum | list[int] | tuple[object, ...]:
    found = Contributions(side_by_side(rows), weights)
    if bad := found.refused(range(len(weights))):
        return bad
    try:
        return found.sums([range(len(weights))], [None])[0]
    except SumOverflow as error:
        return error.args


def test_rows_that_share_their_memory_and_many_columns() -> None:
    shared = torch.randn(1, 300_000).expand(3, -1)
    expected = ModuleSum.of({"w": shared[0]}, 6, contributors=3)
    found = together({"w": shared}, [1, 2, 3])
    assert found.total["w"].equal(expected.total["w"])
    assert (found.weight, found.contributors, found.bound) == (6, 3, expected.bound)


@pytest.mark.parametrize("shapes", [{}, {"w": (0,)}, {"w": (0, 3), "b": (1,)}])
def test_a_module_without_entries(shapes: dict[str, tuple[int, ...]]) -> None:
    found = together({name: torch.zeros(2, *shape) for name, shape in shapes.items()}, [1, 2])
    alone = {name: torch.zeros(shape) for name, shape in shapes.items()}
    assert found == ModuleSum.of(alone, 1) + ModuleSum.of(alone, 2)


def test_a_module_that_is_a_number() -> None:
    found = together({"scale": torch.tensor([2.0, 3.0])}, [1, 2])
    assert found.total["scale"].item() == 8 * 2**32
