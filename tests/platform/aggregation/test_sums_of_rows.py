"""Sums of several contributions at once: the bits of the sum one by one, and the same contributions refused."""

from __future__ import annotations

from contextlib import suppress
from functools import reduce
from operator import add

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fogtune.platform.aggregation.sums import ModuleSum, RowsRejected, SumOverflow, UpdateRejected

SHAPES = {"w": torch.Size([2, 2]), "b": torch.Size([1])}
row = st.lists(st.floats(-(2.0**20), 2.0**20, width=32), min_size=5, max_size=5)
any_row = st.lists(st.floats(width=32), min_size=5, max_size=5)
weight = st.integers(1, 2**13)


def one(values: list[float], samples: int) -> ModuleSum:
    tensor = torch.tensor(values)
    return ModuleSum.of({"w": tensor[:4].view(2, 2), "b": tensor[4:]}, samples)


@given(st.lists(st.tuples(row, st.integers(1, 100)), min_size=1, max_size=6))
def test_they_are_the_sum_of_each(some: list[tuple[list[float], int]]) -> None:
    try:
        expected = reduce(add, [one(*each) for each in some])
    except SumOverflow:
        with pytest.raises(SumOverflow):
            ModuleSum.of_rows(torch.tensor([v for v, _ in some]), [w for _, w in some], SHAPES)
        return
    found = ModuleSum.of_rows(torch.tensor([v for v, _ in some]), [w for _, w in some], SHAPES)
    assert found == expected
    assert list(found.total) == ["b", "w"]


@given(st.lists(st.tuples(any_row, st.integers(-1, 2**40)), min_size=1, max_size=4))
def test_who_is_refused_alone_is_refused_here(some: list[tuple[list[float], int]]) -> None:
    bad = []
    for i, each in enumerate(some):
        try:
            one(*each)
        except UpdateRejected:
            bad.append(i)
    rows, weights = torch.tensor([v for v, _ in some]), [w for _, w in some]
    if bad:
        with pytest.raises(RowsRejected) as refused:
            ModuleSum.of_rows(rows, weights, SHAPES)
        assert list(refused.value.rows) == bad
    else:
        with suppress(SumOverflow):
            ModuleSum.of_rows(rows, weights, SHAPES)


def test_large_sums_are_exact_too() -> None:
    """Beyond 2**53 float64 would not be."""
    rows = torch.tensor([[2.0**20, 1.0, 2.0**-32, -1.0, 3.0], [2.0**-32, 2.0**20, 2.0**20, 1.0, 2.0**-32]])
    found = ModuleSum.of_rows(rows, [511, 511], SHAPES)
    assert found.total["w"].flatten().tolist() == [511 * (2**52 + 1), 511 * (2**52 + 2**32), 511 * (2**52 + 1), 0]


@given(any_row, st.lists(st.integers(-1, 2**40), min_size=2, max_size=4))
def test_equal_rows_in_one_place_are_what_they_are_apart(values: list[float], weights: list[int]) -> None:
    shared = torch.tensor([values]).expand(len(weights), -1)
    found, expected = (outcome(rows, weights) for rows in (shared, shared.clone(memory_format=torch.contiguous_format)))
    assert found == expected


def outcome(rows: torch.Tensor, weights: list[int]) -> ModuleSum | tuple[object, ...]:
    try:
        return ModuleSum.of_rows(rows, weights, SHAPES)
    except RowsRejected as error:
        return error.rows
    except SumOverflow as error:
        return error.args


def test_rows_that_share_their_memory_and_many_columns() -> None:
    shared = torch.randn(1, 300_000).expand(3, -1)
    expected = ModuleSum.of({"w": shared[0]}, 6, contributors=3)
    found = ModuleSum.of_rows(shared, [1, 2, 3], {"w": torch.Size([300_000])})
    assert found.total["w"].equal(expected.total["w"])
    assert (found.weight, found.contributors, found.bound) == (6, 3, expected.bound)


def test_a_module_without_entries() -> None:
    found = ModuleSum.of_rows(torch.zeros(2, 0), [1, 2], {})
    assert found == ModuleSum.of({}, 1) + ModuleSum.of({}, 2)
