"""Evaluation: exact sums that are what the model says, in batches or not."""

from __future__ import annotations

from collections.abc import Callable

import torch

from fogtune.platform.config import Config
from fogtune.platform.learning.batches import collate
from fogtune.platform.learning.evaluation import add_tallies, evaluate
from fogtune.platform.learning.workbench import Workbench

MakeConfig = Callable[..., Config]


def test_the_count_is_of_the_models_answers(tiny: MakeConfig) -> None:
    bench = Workbench(tiny("evaluation.batch_size=5"))
    rows = bench.held_out("topic")
    sums = evaluate(bench, "topic", ("text",), rows)
    batch = collate(bench.prefixes, "topic", "news", ("text",), rows, bench.targets["topic"])
    with torch.no_grad():
        said = bench.model(batch).outputs.argmax(-1)
    assert sums == {"samples": 12, "correct": int((said == bench.targets["topic"][rows]).sum())}
    halves = [evaluate(bench, "topic", ("text",), part) for part in (rows[:5], rows[5:])]
    assert add_tallies(*halves) == sums
    assert evaluate(bench, "topic", ("text",), rows[:0]) == {}


def test_what_it_caches_serves_training_too(tiny: MakeConfig) -> None:
    """Tensors that are born in inference mode cannot take part in a backward pass; those of the cache must."""
    bench = Workbench(tiny())
    part = bench.parts("reader-0")["topic"]
    evaluate(bench, "topic", part.modalities, part.train)
    batch = collate(bench.prefixes, "topic", "news", part.modalities, part.train, bench.targets["topic"])
    bench.head_of("topic").losses(bench.model(batch).outputs, batch.targets).mean().backward()  # type: ignore[no-untyped-call]
    gradient = bench.model.tensors_of["head/topic"]["bias"].grad
    assert gradient is not None
    assert bool(gradient.any())


def test_tallies_add_up_by_name() -> None:
    assert add_tallies({"a": 1, "b": 2}, {"b": 3, "c": 4}) == {"a": 1, "b": 5, "c": 4}
    assert add_tallies({}, {"a": 1}) == {"a": 1}
