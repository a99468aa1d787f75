"""Ledger rows by column: the same rows, and the same sums, as one by one."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogtune.platform.run import LINKS, LedgerRow
from fogtune.platform.run.rows import KINDS, LedgerRows, RowsWriter

names = st.sampled_from(["cloud", "fog-0", "camera-0", "camera-1"])
modules = st.sampled_from(["head/vqa", "adapter/fusion", "encoder/image", "*"])
costs = st.none() | st.floats(0, 1e6, allow_nan=False)
rows = st.lists(
    st.builds(
        LedgerRow,
        st.just(3),
        st.sampled_from(KINDS),
        names,
        names,
        modules,
        st.integers(0, 2**53),
        st.integers(1, 9),
        costs,
        costs,
        costs,
        st.booleans(),
    ),
    min_size=1,
    max_size=12,
)


@given(some=rows)
def test_rows_come_back_as_they_were(some: list[LedgerRow]) -> None:
    found = LedgerRows.of(some)
    assert list(found) == some
    assert found == some
    assert (found[0], found[-1], found[1:]) == (some[0], some[-1], some[1:])
    assert pickle.loads(pickle.dumps(found)) == found
    assert found != some[:-1]


@given(some=rows)
def test_sums_are_those_of_the_rows_one_by_one(some: list[LedgerRow]) -> None:
    of_kind, of_module = LedgerRows.of(some).sums(LINKS)
    carried = [row for row in some if row.kind in LINKS]
    assert of_kind == {kind: sum(row.bytes for row in carried if row.kind == kind) for kind in LINKS}
    assert of_module == {
        module: sum(row.bytes for row in carried if row.module == module) for module in {row.module for row in carried}
    }


def test_a_transfer_is_a_row_a_receiver_and_module() -> None:
    writer = RowsWriter(2)
    shares = [(float(i), 0.5, math.nan) for i in range(4)]
    writer.add("downlink", ("fog-0", "fog-0"), ("a", "b"), {"head/x": 3, "head/y": 5}, costs=shares)
    writer.add("compute", ("a",), ("a",), {"*": 0}, costs=[(9.0, 1.0, 2.0)])
    assert [(r.kind, r.source, r.target, r.module, r.bytes, r.start_s, r.joules) for r in writer.rows()] == [
        ("downlink", "fog-0", "a", "head/x", 3, 0.0, None),
        ("downlink", "fog-0", "a", "head/y", 5, 1.0, None),
        ("downlink", "fog-0", "b", "head/x", 3, 2.0, None),
        ("downlink", "fog-0", "b", "head/y", 5, 3.0, None),
        ("compute", "a", "a", "*", 0, 9.0, 2.0),
    ]


def test_no_rows_are_rows_too() -> None:
    nothing = RowsWriter(1).rows()
    assert (list(nothing), len(nothing)) == ([], 0)
    assert nothing == []
    assert nothing.sums(LINKS) == (dict.fromkeys(LINKS, 0), {})
    none: list[Any] = []
    with pytest.raises(ValueError, match="rows of 0 rounds"):
        LedgerRows.of(none)
