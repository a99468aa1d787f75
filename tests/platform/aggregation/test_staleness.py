"""Late updates, by hand: the weight of a change that is three rounds old is 1/2 with a = 1/2, as (1 + 3)^(1/2) = 2."""

from __future__ import annotations

import pytest
import torch

from fogtune.platform.aggregation import ModuleSum
from fogtune.platform.aggregation.staleness import Missed


def tensors(*values: float) -> dict[str, torch.Tensor]:
    return {"weight": torch.tensor(values)}


@pytest.mark.parametrize(
    ("rounds", "exponent", "weight"), [(3, 0.5, 0.5), (1, 1.0, 0.5), (7, 0.0, 1.0), (3, 1.0, 0.25)]
)
def test_a_change_is_made_smaller_and_added_to_the_newest(rounds: int, exponent: float, weight: float) -> None:
    missed = Missed({"head/x": rounds}, {"head/x": tensors(10.0, 20.0)}, exponent)
    found = missed.catch_up("head/x", tensors(5.0, 0.0), tensors(1.0, 4.0))
    assert found["weight"].tolist() == [10 + weight * 4, 20 - weight * 4]


def test_the_mean_over_a_buffer_is_fedbuffs_step() -> None:
    """From 10, a device has learned +2 with 3 samples, one three rounds late +4 with 1: 10 + (3*2 + 1*2) / 4."""
    missed = Missed({"head/x": 3}, {"head/x": tensors(10.0)}, 0.5)
    late = missed.catch_up("head/x", tensors(5.0), tensors(1.0))
    total = ModuleSum.of(tensors(12.0), 3) + ModuleSum.of(late, 1)
    assert total.mean()["weight"].item() == 12.0


def test_a_sum_catches_up_by_its_mean() -> None:
    total = ModuleSum.of(tensors(5.0), 2) + ModuleSum.of(tensors(9.0), 2)  # mean 7
    missed = Missed({"head/x": 3}, {"head/x": tensors(10.0)}, 0.5)
    found = missed.catch_up_sum("head/x", total, tensors(1.0))
    assert found.mean()["weight"].item() == 13.0
    assert (found.weight, found.contributors) == (4, 2)
