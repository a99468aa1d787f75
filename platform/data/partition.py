"""How a table is divided: held-out rows first, then a shard a device, then each shard into train and test part.

    table --held_out--> held-out rows
       `----pool--partition--> rows of a device --samples_per_device, test_fraction--> Shard(train, test)

Every draw has a generator of its own, keyed by the run's seed, the purpose, the source's name and, where a device is
concerned, its id. No row is in two places. A row is in none only where that is asked for: beyond `held_out.limit` or
`samples_per_device`, in natural groups beyond the number of devices, in natural groups of a single row, or in splits
of the source that are neither `train` nor held out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from ..config import DirichletPartition, HeldOut, IidPartition, NaturalPartition, ShardPartition, Source
from ..errors import InputError
from ..rng import numpy_generator
from ..wording import listed
from .labels import class_name
from .own_folders import HELD_OUT
from .table import Indices, Shard, Split, Table

_Draw = Callable[..., np.random.Generator]
"""Purpose and device id, if any -> generator."""

_LEAST = 2  # rows of a device: one to train on, one to test on
_TURNS = 20  # in which a device draws its rows under Dirichlet label skew


def split_table(name: str, source: Source, table: Table, devices: Sequence[str], seed: int) -> Split:
    """Divide a source among devices and held-out rows.

    Args:
        name: The source's name in the configuration.
        source: Its configuration: `held_out`, `partition`, `samples_per_device`, `test_fraction`.
        table: Its rows.
        devices: Ids of the devices that execute a task of this source, in order.
        seed: The run's seed.

    Returns:
        A shard for each device, both parts of it non-empty, and the held-out rows. Depends on the arguments alone.

    Raises:
        InputError: The table lacks the split, group or label that is named, or has too few rows for the devices.
    """
    where = f"sources.{name}"

    def draw(purpose: str, *device: str) -> np.random.Generator:
        return numpy_generator(seed, f"data/{purpose}", name, *device)

    held_out, pool = _hold_out(source.held_out, table, f"{where}.held_out", draw)
    parts = _partition(source, table, pool, devices, f"{where}.partition", draw) if devices else []
    shards = {}
    for device, rows in zip(devices, parts, strict=True):
        if source.samples_per_device is not None and len(rows) > source.samples_per_device:
            rows = draw("samples", device).choice(rows, source.samples_per_device, replace=False)
        shards[device] = _shard(rows, source.test_fraction, draw("test", device))
    return Split(devices=shards, held_out=held_out)


def _hold_out(held_out: HeldOut, table: Table, where: str, draw: _Draw) -> tuple[Indices, Indices]:
    """Held-out rows, and the pool that devices share.

    With `split` the pool is the split `train`; with `groups` and `fraction` it is all other rows, whatever the split;
    with `path` it is what lies in the devices' own folders.
    """
    rows = np.arange(len(table))
    if held_out.path is not None:
        held, pool = table.splits[HELD_OUT], table.splits["train"]
    elif held_out.split is not None:
        allowed = sorted(set(table.splits) - {"train"})
        if held_out.split not in allowed:
            problem = f"{held_out.split!r} is no split to hold out; allowed: {listed(allowed)}, or groups or fraction"
            raise InputError(f"{where}.split", problem)
        held = np.sort(table.splits[held_out.split])
        pool = np.setdiff1d(table.splits["train"], held)
    elif held_out.groups is not None:
        if table.groups is None:
            raise InputError(f"{where}.groups", "the source has no groups; allowed: split or fraction")
        unknown = sorted(set(held_out.groups) - set(table.groups))
        if unknown:
            allowed = sorted(set(table.groups), key=_counting_order)
            raise InputError(f"{where}.groups", f"no group is named {listed(unknown)}; allowed: {listed(allowed)}")
        inside = np.isin(np.array(table.groups, dtype=str), held_out.groups)
        held, pool = rows[inside], rows[~inside]
    else:
        assert held_out.fraction is not None
        order = draw("held_out").permutation(rows)
        count = max(1, round(held_out.fraction * len(rows)))
        held, pool = np.sort(order[:count]), np.sort(order[count:])
    if not len(held) and held_out.path is None:  # which may lie on another machine
        raise InputError(where, "no sample is held out; allowed: at least 1")
    if held_out.limit is not None and len(held) > held_out.limit:
        held = np.sort(draw("limit").choice(held, held_out.limit, replace=False))
    return held, pool


def _partition(
    source: Source, table: Table, pool: Indices, devices: Sequence[str], where: str, draw: _Draw
) -> list[Indices]:
    """Rows of each device, before `samples_per_device` and in any order."""
    count = len(devices)
    if source.held_out.path is not None:
        return _own(table, devices, where)
    if isinstance(source.partition, NaturalPartition):
        return _natural(table, pool, count, where)
    if len(pool) < _LEAST * count:
        problem = f"{len(pool)} samples to share among {count} devices; allowed: at least {_LEAST} a device"
        raise InputError(where, problem)
    match source.partition:
        case DirichletPartition():
            classes = _classes(table, source.partition.label, pool, where)
            generators = [draw("dirichlet", device) for device in devices]
            sizes = [len(part) for part in np.array_split(pool, count)]
            if source.samples_per_device is not None:
                sizes = [min(size, source.samples_per_device) for size in sizes]
            return _dirichlet(source.partition.alpha, classes, draw("order").permutation(pool), sizes, generators)
        case ShardPartition():
            return _shards(source.partition, table, pool, count, where, draw("shards"))
        case IidPartition():
            return list(np.array_split(draw("iid").permutation(pool), count))
        case _:
            assert_never(source.partition)


def _own(table: Table, devices: Sequence[str], where: str) -> list[Indices]:
    """What lies in a device's own folder."""
    parts = [np.flatnonzero(np.array(table.groups, dtype=str) == device) for device in devices]
    for device, rows in zip(devices, parts, strict=True):
        if len(rows) < _LEAST:
            raise InputError(where, f"{device} has {len(rows)} sample in its folder; allowed: at least {_LEAST}")
    return parts


def _natural(table: Table, pool: Indices, count: int, where: str) -> list[Indices]:
    """The first `count` groups in counting order ("2" before "10"); further groups stay unused."""
    if table.groups is None:
        problem = "natural, but the source has no groups; allowed: a source with groups, or dirichlet, shards or iid"
        raise InputError(where, problem)
    members: dict[str, list[int]] = {}
    for row in pool.tolist():
        members.setdefault(table.groups[row], []).append(row)
    groups = sorted((group for group, rows in members.items() if len(rows) >= _LEAST), key=_counting_order)
    if count > len(groups):
        problem = (
            f"natural, but {count} devices share {len(groups)} groups of at least {_LEAST} samples that are not held "
            f"out; allowed: at most {len(groups)} devices, or dirichlet, shards or iid"
        )
        raise InputError(where, problem)
    return [np.array(members[group]) for group in groups[:count]]


def _dirichlet(
    alpha: float,
    classes: NDArray[np.int64],
    shuffled: Indices,
    sizes: Sequence[int],
    generators: Sequence[np.random.Generator],
) -> list[Indices]:
    """Label skew of Hsu et al. (arXiv 1909.06335, section 3): a device's proportions q ~ Dirichlet(alpha p).

    p are the label's proportions in the pool, so that a large alpha gives IID data also where labels are unbalanced.
    All devices get equal amounts; a label that has run out leaves q, which is renormalised. Devices take turns, a
    twentieth of their amount each, so that what is left over when labels run out is shared by all of them.

    Args:
        alpha: Concentration.
        classes: Class id of every row of the table that is in the pool, (rows of the table,).
        shuffled: The pool in random order.
        sizes: Rows that each device gets; together at most the pool.
        generators: One for each device.
    """
    order = shuffled[np.argsort(classes[shuffled], kind="stable")]
    amounts = np.bincount(classes[order])
    wishes = [generator.dirichlet(alpha * amounts / len(order)) for generator in generators]
    taken = np.zeros((len(sizes), len(amounts)), np.int64)
    left = amounts.copy()
    missing = list(sizes)
    while any(missing):
        for device, size in enumerate(sizes):
            turn = min(missing[device], -(-size // _TURNS))
            counts = _draw_counts(wishes[device], left, turn, generators[device])
            taken[device] += counts
            left -= counts
            missing[device] -= turn
    starts = np.cumsum(amounts) - amounts + np.cumsum(taken, axis=0) - taken
    return [
        np.concatenate([order[start : start + many] for start, many in zip(*device, strict=True)])
        for device in zip(starts.tolist(), taken.tolist(), strict=True)
    ]


def _draw_counts(
    proportions: NDArray[np.float64], left: NDArray[np.int64], size: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """How many rows of each class: `size` in all, drawn by proportion, none above what is left (sum(left) >= size)."""
    taken = np.zeros_like(left)
    while missing := size - int(taken.sum()):
        weights = np.where(taken < left, proportions, 0.0)
        if weights.sum() == 0.0:  # all that the device wants has run out
            weights = (left - taken).astype(np.float64)
        drawn = generator.multinomial(missing, weights / weights.sum())
        taken += np.minimum(drawn, left - taken)  # each pass is the last or empties a class
    return taken


def _shards(
    partition: ShardPartition, table: Table, pool: Indices, count: int, where: str, generator: np.random.Generator
) -> list[Indices]:
    """McMahan et al. (arXiv 1602.05629, section 3): sort by label, cut, deal `per_device` shards to each device."""
    total = count * partition.per_device
    if len(pool) < total:
        problem = f"{len(pool)} samples are too few for {total} shards; allowed: at least 1 sample a shard"
        raise InputError(f"{where}.per_device", problem)
    classes = _classes(table, partition.label, pool, where)
    shards = np.array_split(pool[np.argsort(classes[pool], kind="stable")], total)
    dealt = generator.permutation(total).reshape(count, partition.per_device)
    return [np.concatenate([shards[number] for number in numbers]) for numbers in dealt.tolist()]


def _classes(table: Table, label: str, pool: Indices, where: str) -> NDArray[np.int64]:
    """Class id of each row in the pool, ids in the order of the sorted names; a set of labels counts as one class."""
    if label not in table.labels:
        problem = f"the source has no label {label!r}; allowed: {listed(sorted(table.labels))}"
        raise InputError(f"{where}.label", problem)
    column = table.labels[label]
    names = []
    for row in pool.tolist():
        value = column[row]
        try:
            names.append("|".join(sorted(value)) if isinstance(value, tuple) else class_name(value))
        except ValueError as error:
            raise InputError(f"{where}.label", f"row {row} of column {label!r}: {error}") from None
    classes = np.zeros(len(table), np.int64)
    classes[pool] = np.unique(names, return_inverse=True)[1]
    return classes


def _shard(rows: Indices, test_fraction: float, generator: np.random.Generator) -> Shard:
    """At least one row in either part."""
    order = generator.permutation(np.sort(rows))
    count = min(max(1, round(test_fraction * len(rows))), len(rows) - 1)
    return Shard(train=np.sort(order[count:]), test=np.sort(order[:count]))


def _counting_order(group: str) -> tuple[list[str | int], str]:
    """Sorts "2" before "10" and "site9" before "site10"."""
    parts = re.split(r"(\d+)", group)  # text and digits take turns, so like is compared with like
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], group
