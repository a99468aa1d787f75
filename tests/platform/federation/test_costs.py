"""What devices send and compute, before it is known how long that takes."""

from __future__ import annotations

import torch

from fogtune import preset
from fogtune.platform.federation.costs import RoundCosts
from fogtune.platform.federation.messages import DeviceOrder, Setup, Workload
from fogtune.platform.modules import module_names
from fogtune.platform.ownership import own
from fogtune.platform.topology_build import build_tree


def costs(epochs: float, begins: int = 1) -> RoundCosts:
    """Of a reader with ten samples: 100 operations to train on one, 30 to compute what is frozen of it."""
    config = preset("smoke", "network={}")
    tree = build_tree(config)
    initial = {module: {"weight": torch.zeros(1)} for module in module_names(config)}
    setup = Setup(initial, {}, {}, None, {"reader-0": (Workload("topic", 10, 100, 30, epochs, begins),)})
    return RoundCosts(config, tree, own(config, tree), setup)


def flops(found: RoundCosts, round_number: int, trained: int) -> float:
    return found.flops("reader-0", round_number, {"topic": trained})


def test_what_is_frozen_is_computed_when_a_sample_first_comes() -> None:
    half = costs(0.5)
    assert [flops(half, number, number - 1) for number in (1, 2, 3, 4)] == [650, 650, 500, 500]
    assert flops(half, 3, 0) == half.flops("reader-0", 3, {}) == 650  # who sat out before has not computed it yet
    # In a pass and a half of 10 samples are 15, in the first round all of them for the first time.
    longer = costs(1.5)
    assert [flops(longer, number, number - 1) for number in (1, 2)] == [1800, 1500]


def test_a_task_that_begins_later_is_computed_from_then_on() -> None:
    late = costs(0.5, begins=3)
    assert [flops(late, number, max(0, number - 3)) for number in (1, 2, 3, 4, 5)] == [0, 0, 650, 650, 500]


def test_what_one_alone_contributes_is_no_sum() -> None:
    found, head = costs(1.0), "head/topic"
    one, other = DeviceOrder("reader-0", (head,), (), (), (head,)), DeviceOrder("reader-1", (head,), (), (), ())
    assert found.sum_bits([one, other])(["reader-0", "reader-1"]) == found.update_bits([one])["reader-0"] > 0
    both = DeviceOrder("reader-1", (head,), (), (), (head,))
    assert found.sum_bits([one, both])(["reader-0", "reader-1"]) > found.update_bits([one])["reader-0"]  # int64
