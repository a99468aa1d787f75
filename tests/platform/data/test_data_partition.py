"""Division of a table: by property for any table, by hand for small ones."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fogtune.platform.config import EmbeddedSource, HeldOut
from fogtune.platform.data.partition import split_table
from fogtune.platform.data.table import Label, Shard, Split, Table
from fogtune.platform.errors import InputError

IID = {"kind": "iid"}
SHARDS = {"kind": "shards", "label": "y"}
SKEWED = {"kind": "dirichlet", "label": "y", "alpha": 0.1}


def make(labels: list[Any], groups: list[str] | None = None, splits: dict[str, list[int]] | None = None) -> Table:
    every = {"train": list(range(len(labels)))}
    column: list[Label] = list(labels)
    rows = {name: np.array(split, np.int64) for name, split in (splits or every).items()}
    return Table({"text": ["-"] * len(labels)}, {"y": column}, groups, rows)


def source(partition: dict[str, Any], held_out: dict[str, Any] | None = None, **changes: Any) -> EmbeddedSource:
    held = HeldOut(**(held_out or {"fraction": 0.2}))
    fields: dict[str, Any] = {"asset": "bbc-news", "partition": partition, "held_out": held, **changes}
    return EmbeddedSource(**fields)


def ids(count: int) -> list[str]:
    return [f"d{number}" for number in range(count)]


def rows_of(shard: Shard) -> list[int]:
    return sorted([*shard.train.tolist(), *shard.test.tolist()])


def plain(split: Split) -> Any:
    devices = {device: (shard.train.tolist(), shard.test.tolist()) for device, shard in split.devices.items()}
    return devices, split.held_out.tolist()


@st.composite
def cases(draw: st.DrawFn) -> tuple[EmbeddedSource, Table, list[str], int]:
    """Any source, table, devices and seed that go together."""
    devices = draw(st.integers(1, 6))
    held_rows = draw(st.integers(1, 5))
    pool_rows = draw(st.integers(2 * devices, 60))
    total = pool_rows + held_rows
    classes = draw(st.lists(st.sampled_from("abcde"), min_size=total, max_size=total))
    kind = draw(st.sampled_from(["natural", "iid", "shards", "dirichlet"]))
    partition: dict[str, Any] = {"kind": kind}
    if kind in ("shards", "dirichlet"):
        partition["label"] = "y"
    if kind == "shards":
        partition["per_device"] = draw(st.integers(1, pool_rows // devices))
    if kind == "dirichlet":
        partition["alpha"] = draw(st.floats(1e-6, 1e3))
    order = draw(st.permutations(range(total)))
    splits = {"train": order[:pool_rows], "test": order[pool_rows:]}
    groups = [""] * total
    for place, row in enumerate(order):
        groups[row] = f"g{place % devices}" if place < pool_rows else "held"
    ways: list[dict[str, Any]] = [{"split": "test"}, {"groups": ("held",)}]
    held_out = draw(st.sampled_from(ways))
    chosen = source(
        partition,
        {**held_out, "limit": draw(st.none() | st.integers(1, 5))},
        samples_per_device=draw(st.none() | st.integers(2, 20)),
        test_fraction=draw(st.floats(0.01, 0.99)),
    )
    return chosen, make(list(classes), groups, splits), ids(devices), draw(st.integers(0, 2**31))


@settings(deadline=None, max_examples=200)
@given(cases())
def test_no_row_is_in_two_places_or_lost_and_no_part_is_empty(
    case: tuple[EmbeddedSource, Table, list[str], int],
) -> None:
    chosen, table, devices, seed = case
    split = split_table("s", chosen, table, devices, seed)
    placed = Counter(split.held_out.tolist())
    pool = set(table.splits["train"].tolist())
    for shard in split.devices.values():
        assert len(shard.train) >= 1
        assert len(shard.test) >= 1
        assert shard.train.tolist() == sorted(shard.train.tolist())
        assert shard.test.tolist() == sorted(shard.test.tolist())
        assert set(rows_of(shard)) <= pool
        assert chosen.samples_per_device is None or len(rows_of(shard)) <= chosen.samples_per_device
        placed.update(rows_of(shard))
    assert max(placed.values()) == 1
    assert tuple(split.devices) == tuple(devices)
    assert set(split.held_out.tolist()) <= set(table.splits["test"].tolist())
    held = len(table.splits["test"])
    assert len(split.held_out) == (held if chosen.held_out.limit is None else min(held, chosen.held_out.limit))
    if chosen.samples_per_device is None:
        assert {row for shard in split.devices.values() for row in rows_of(shard)} == pool
    else:
        sizes = [len(rows_of(shard)) for shard in split.devices.values()]
        assert min(sizes) >= min(chosen.samples_per_device, len(pool) // len(devices))


@settings(deadline=None, max_examples=50)
@given(cases(), st.integers(0, 2**32 - 1))
def test_the_result_depends_on_the_arguments_alone(
    case: tuple[EmbeddedSource, Table, list[str], int], other: int
) -> None:
    chosen, table, devices, seed = case
    first = split_table("s", chosen, table, devices, seed)
    np.random.seed(other)  # noqa: NPY002
    assert plain(split_table("s", chosen, table, devices, seed)) == plain(first)


def test_seed_name_and_device_matter() -> None:
    table = make(["a", "b"] * 50)
    first = plain(split_table("s", source(SKEWED), table, ["d0", "d1"], 0))
    assert plain(split_table("s", source(SKEWED), table, ["d0", "d1"], 1)) != first
    assert plain(split_table("t", source(SKEWED), table, ["d0", "d1"], 0)) != first
    assert plain(split_table("s", source(SKEWED), table, ["d0", "e1"], 0)) != first


def test_natural_gives_a_group_to_each_device_in_counting_order() -> None:
    groups = ["10"] * 3 + ["2"] * 4 + ["1"] * 2 + ["30"] * 5
    table = make(["x"] * 14, groups)
    split = split_table("s", source({"kind": "natural"}, {"groups": ["30"]}), table, ids(3), 0)
    assert [rows_of(split.devices[device]) for device in ids(3)] == [[7, 8], [3, 4, 5, 6], [0, 1, 2]]
    assert split.held_out.tolist() == [9, 10, 11, 12, 13]
    fewer = split_table("s", source({"kind": "natural"}, {"groups": ["30"]}), table, ids(2), 0)
    assert [rows_of(fewer.devices[device]) for device in ids(2)] == [[7, 8], [3, 4, 5, 6]]


def test_natural_passes_over_groups_of_one_row() -> None:
    table = make(["x"] * 5, ["a", "b", "b", "h", "h"])
    split = split_table("s", source({"kind": "natural"}, {"groups": ["h"]}), table, ids(1), 0)
    assert rows_of(split.devices["d0"]) == [1, 2]


def test_shards_of_one_label_when_there_are_as_many() -> None:
    """Four labels of 5 rows, 2 devices with 2 shards each: every shard is one label, none is shared."""
    table = make([*"abcd" * 5, "h"], splits={"train": list(range(20)), "test": [20]})
    split = split_table("s", source({**SHARDS, "per_device": 2}, {"split": "test"}), table, ids(2), 0)
    labels = [Counter(table.labels["y"][row] for row in rows_of(split.devices[device])) for device in ids(2)]
    assert all(list(counts.values()) == [5, 5] for counts in labels)
    assert not set(labels[0]) & set(labels[1])


@pytest.mark.parametrize(("alpha", "least", "most"), [(0.01, 0.85, 1.0), (1000.0, 0.2, 0.4)])
def test_alpha_sets_the_skew(alpha: float, least: float, most: float) -> None:
    """The share of a device's commonest label, of 5 equally frequent ones; the pool is ample."""
    table = make([*"abcde"] * 2000)
    chosen = source({"kind": "dirichlet", "label": "y", "alpha": alpha}, samples_per_device=100)
    split = split_table("s", chosen, table, ids(20), 0)
    shares = []
    for shard in split.devices.values():
        counts = Counter(table.labels["y"][row] for row in rows_of(shard))
        shares.append(max(counts.values()) / counts.total())
    assert least <= float(np.mean(shares)) <= most


def test_a_large_alpha_keeps_unbalanced_proportions() -> None:
    table = make(["a"] * 9000 + ["b"] * 1000)
    chosen = source({"kind": "dirichlet", "label": "y", "alpha": 1e6}, samples_per_device=400)
    for shard in split_table("s", chosen, table, ids(5), 0).devices.values():
        share = sum(table.labels["y"][row] == "b" for row in rows_of(shard)) / 400
        assert 0.05 < share < 0.15  # 0.1, standard deviation 0.015


def test_the_test_part_is_the_fraction() -> None:
    split = split_table("s", source(IID, test_fraction=0.25), make(["a"] * 50), ids(2), 0)  # 40 in the pool
    assert {device: len(shard.test) for device, shard in split.devices.items()} == {"d0": 5, "d1": 5}


def test_held_out_by_fraction_takes_rows_of_all_splits() -> None:
    table = make(["a"] * 10, splits={"train": [0, 1, 2, 3, 4, 5], "test": [6, 7, 8, 9]})
    split = split_table("s", source(IID, {"fraction": 0.3}), table, ids(1), 0)
    assert len(split.held_out) == 3
    assert sorted([*split.held_out.tolist(), *rows_of(split.devices["d0"])]) == list(range(10))


def test_held_out_by_split_leaves_the_train_split() -> None:
    table = make(["a"] * 10, splits={"train": [0, 1, 2, 3], "test": [6, 7], "validation": [8, 9]})
    split = split_table("s", source(IID, {"split": "test"}), table, ids(1), 0)
    assert split.held_out.tolist() == [6, 7]
    assert rows_of(split.devices["d0"]) == [0, 1, 2, 3]


def test_without_devices_there_are_held_out_rows_only() -> None:
    split = split_table("s", source({"kind": "natural"}), make(["a"] * 10), [], 0)
    assert split.devices == {}
    assert len(split.held_out) == 2


@pytest.mark.parametrize(
    ("chosen", "count", "message"),
    [
        (source({"kind": "natural"}, {"groups": ["3"]}), 3,
         r"sources.s.partition: natural, but 3 devices share 2 groups .*; allowed: at most 2 devices, or dirichlet"),
        (source(IID), 5, r"sources.s.partition: 8 samples to share among 5 devices; allowed: at least 2 a device"),
        (source({**SKEWED, "label": "z"}), 2,
         r"sources.s.partition.label: the source has no label 'z'; allowed: y"),
        (source({**SHARDS, "per_device": 5}), 2,
         r"sources.s.partition.per_device: 8 samples are too few for 10 shards"),
        (source(IID, {"split": "test"}), 1,
         r"sources.s.held_out.split: 'test' is no split to hold out; allowed: nothing, or groups or fraction"),
        (source(IID, {"split": "train"}), 1, r"sources.s.held_out.split: 'train' is no split to hold out"),
        (source(IID, {"groups": ["3", "9"]}), 1,
         r"sources.s.held_out.groups: no group is named 9; allowed: 1, 2, 3"),
        (source(IID, {"groups": []}), 1, r"sources.s.held_out: no sample is held out"),
    ],
)  # fmt: skip
def test_what_cannot_be_divided_is_refused(chosen: EmbeddedSource, count: int, message: str) -> None:
    table = make([*"abababab", "a", "b"], ["1"] * 4 + ["2"] * 4 + ["3"] * 2)
    with pytest.raises(InputError, match="^" + message):
        split_table("s", chosen, table, ids(count), 0)


def test_a_source_without_groups_has_no_natural_partition() -> None:
    with pytest.raises(InputError, match=r"^sources.s.partition: natural, but the source has no groups; allowed: "):
        split_table("s", source({"kind": "natural"}), make(["a"] * 10), ids(1), 0)
    with pytest.raises(InputError, match=r"^sources.s.held_out.groups: the source has no groups; allowed: split or"):
        split_table("s", source(IID, {"groups": ["1"]}), make(["a"] * 10), ids(1), 0)


def test_numbers_cannot_be_skewed_by() -> None:
    with pytest.raises(InputError, match=r"^sources.s.partition.label: row \d of column 'y': 0.5 is no class"):
        split_table("s", source(SKEWED), make([0.5] * 10), ids(1), 0)


def test_label_sets_are_skewed_by_as_wholes() -> None:
    table = make([("a", "b"), ("b", "a"), ("a",), ()] * 5)
    assert len(split_table("s", source(SHARDS), table, ids(2), 0).devices) == 2
