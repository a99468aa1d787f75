"""The workbench: who has which rows, the same in every process."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fogtune.platform.config import Config
from fogtune.platform.errors import InputError
from fogtune.platform.learning.workbench import Dataset, Workbench
from fogtune.platform.topology_build import build_tree

MakeConfig = Callable[..., Config]


def test_no_row_is_in_two_places(tiny: MakeConfig) -> None:
    bench = Workbench(tiny())
    for task, source in (("exercise", "watch"), ("topic", "news")):
        parts = [bench.parts(d)[task] for d in bench.tree.devices if task in bench.ownership.tasks_of(d)]
        assert len(parts) == 3
        rows = [*bench.held_out(task), *(row for part in parts for row in (*part.train, *part.test))]
        assert len(rows) == len(set(rows))
        assert all(part.source == source for part in parts)
        assert len(bench.targets[task]) == len(bench.dataset.tables[source])
    assert bench.parts("watch-0").keys() == {"exercise"}
    assert bench.parts("coach-0").keys() == {"exercise", "topic"}
    assert bench.parts("coach-0")["exercise"].modalities == ("imu",)


def test_the_division_is_a_function_of_the_configuration(tiny: MakeConfig) -> None:
    config = tiny()
    ours, again = (Dataset.load(config, build_tree(config)) for _ in range(2))
    other = Dataset.load(tiny("seed=1"), build_tree(config))
    same = [np.array_equal(ours.splits["news"].devices[d].train, x.splits["news"].devices[d].train)
            for x in (again, other) for d in ("reader-0", "coach-0")]  # fmt: skip
    assert same == [True, True, False, False]
    assert ours.labels["topic"] == ("business", "entertainment", "politics", "sports", "tech")


def test_a_device_that_would_never_train_is_refused(tiny: MakeConfig) -> None:
    config = tiny("local.epochs=0.01")  # in 4 rounds
    with pytest.raises(InputError) as caught:
        Dataset.load(config, build_tree(config))
    assert str(caught.value) == (
        "local.epochs: 0.01 given, but watch-0 has 10 samples of watch; allowed: at least 0.025, to train on one"
    )
    Dataset.load(tiny("local.epochs=0.04"), build_tree(config))  # news: 4 rounds of 8 samples


def test_so_is_one_that_would_never_train_once_it_has_joined(tiny: MakeConfig) -> None:
    config = tiny("devices.1.joins=4", "tasks.topic.epochs=0.03")  # 8 samples in its only round
    with pytest.raises(InputError) as caught:
        Dataset.load(config, build_tree(config))
    assert str(caught.value) == (
        "tasks.topic.epochs: 0.03 given, but reader-0 has 8 samples of news; allowed: at least 0.125, to train on one"
    )
