"""Batches: every row once a pass, in an order that a key decides, padded where samples differ in length."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fogtune.platform.config import Config
from fogtune.platform.learning.batches import by_length, collate, mixed_batches, rows_of_round
from fogtune.platform.learning.pupil import Member, Pupil
from fogtune.platform.learning.workbench import Workbench

MakeConfig = Callable[..., Config]
Steps = list[tuple[str, list[int]]]


def steps(parts: dict[str, list[int]], size: int, *key: str | int) -> Steps:
    rows = {task: np.array(some, dtype=np.int64) for task, some in parts.items()}
    return [(task, some.tolist()) for task, some in mixed_batches(rows, size, 0, *key)]


@given(
    parts=st.dictionaries(st.sampled_from(["vqa", "topic"]), st.lists(st.integers(0, 99), unique=True), min_size=1),
    size=st.integers(1, 20),
)
def test_a_pass_has_every_row_once(parts: dict[str, list[int]], size: int) -> None:
    found = steps(parts, size, 1, "device")
    for task, rows in parts.items():
        sizes = [len(some) for name, some in found if name == task]
        assert sorted(row for name, some in found if name == task for row in some) == sorted(rows)
        assert sorted(sizes, reverse=True)[:-1] == [size] * (len(sizes) - 1)  # but for the last, they are full


@given(n=st.integers(0, 40), epochs=st.sampled_from([0.1, 0.25, 0.3, 0.5, 1, 1.5, 2]), rounds=st.integers(1, 12))
def test_rounds_lie_end_to_end(n: int, epochs: float, rounds: int) -> None:
    """After any number of rounds every row has come as often as any other, or once more."""
    rows = np.arange(100, 100 + n)
    seen = [rows_of_round(rows, epochs, number, 0, "device").tolist() for number in range(1, rounds + 1)]
    flat = [row for some in seen for row in some]
    assert len(flat) == round(rounds * epochs * n)
    counts = [flat.count(row) for row in rows]
    assert not counts or max(counts) - min(counts) <= 1


@given(lengths=st.lists(st.integers(0, 9), max_size=60), size=st.integers(1, 5))
def test_by_length_neighbours_are_alike_among_eight_batches(lengths: list[int], size: int) -> None:
    rows = np.arange(100, 100 + len(lengths))
    found = by_length(rows, np.array(lengths, np.int64), size).tolist()
    for start in range(0, len(lengths), 8 * size):
        some = found[start : start + 8 * size]
        assert sorted(some) == rows[start : start + 8 * size].tolist()
        assert [lengths[row - 100] for row in some] == sorted(lengths[start : start + 8 * size], reverse=True)


def test_batches_by_length_have_less_padding(tiny: MakeConfig) -> None:
    def padding(*overrides: str) -> tuple[list[int], int]:
        """All rows of a pass, and the letters that samples lack of the longest in their batch."""
        bench = Workbench(tiny("local.batch_size=2", *overrides))
        pupil = Pupil(bench, Member("reader-0", {}), 1)
        part = pupil.parts["topic"]
        text = bench.dataset.tables[part.source].modalities["text"]
        batches = [rows.tolist() for _, rows in pupil.steps]
        lengths = [[len(text[row]) for row in rows] for rows in batches]
        assert [bench.lengths(part, rows).tolist() for _, rows in pupil.steps] == lengths
        return sorted(row for rows in batches for row in rows), sum(
            max(some) * len(some) - sum(some) for some in lengths
        )

    (rows, much), (same, less) = padding(), padding("local.group_by_length=true")
    assert rows == same
    assert less < much


def test_every_pass_has_an_order_of_its_own() -> None:
    rows = np.arange(50)
    whole = [rows_of_round(rows, 1, number, 0, "device").tolist() for number in (1, 2)]
    assert sorted(whole[0]) == sorted(whole[1]) == rows.tolist()
    assert whole[0] != whole[1]
    halves = [rows_of_round(rows, 0.5, number, 0, "device").tolist() for number in (1, 2)]
    assert halves[0] + halves[1] == whole[0]
    assert rows_of_round(rows, 1, 1, 0, "other").tolist() != whole[0]


def test_the_order_is_a_function_of_the_key() -> None:
    parts = {"vqa": list(range(50)), "topic": list(range(30))}
    orders = [steps(parts, 8, round_number, device, 0) for round_number in (1, 2) for device in ("a-0", "a-1")]
    assert orders == [steps(parts, 8, round_number, device, 0) for round_number in (1, 2) for device in ("a-0", "a-1")]
    assert all(ours != theirs for i, ours in enumerate(orders) for theirs in orders[:i])
    tasks = [task for task, _ in orders[0]]
    assert tasks != sorted(tasks)  # mixed
    assert tasks != sorted(tasks, reverse=True)


def test_shorter_samples_are_padded_behind(tiny: MakeConfig) -> None:
    bench = Workbench(tiny("model.backbone.max_text_tokens=500"))
    texts = bench.dataset.tables["news"].modalities["text"]
    order = np.argsort([len(str(texts[row])) for row in range(len(texts))], kind="stable")
    rows = order[[0, 40]].astype(np.int64)
    batch = collate(bench.prefixes, "topic", "news", ("text",), rows, bench.targets["topic"])
    values, mask = batch.inputs["text"]
    short, long = (bench.prefixes.get("news", "text", int(row)) for row in rows)
    assert len(short) < len(long)
    assert values.shape == (2, len(long), 384)
    assert torch.equal(values[0, : len(short)], short)
    assert not values[0, len(short) :].any()
    assert torch.equal(values[1], long)
    assert mask.sum(1).tolist() == [len(short), len(long)]
    assert mask[0, : len(short)].all()
    assert batch.targets.tolist() == bench.targets["topic"][torch.from_numpy(rows)].tolist()
