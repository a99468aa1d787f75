"""Sums and versions sent as quantised changes: right on average, within a step, and nothing else is touched."""

from __future__ import annotations

import pytest
import torch

from fogtune.platform.aggregation import ModuleSum
from fogtune.platform.aggregation.requantise import announced, of_sums, requantised
from fogtune.platform.config import Quantise, Skip, TopK

KNOWN = {"w": torch.tensor([1.0, -2.0, 0.5, 0.0])}
NEW = {"w": torch.tensor([1.7, -2.33, 0.5, 0.05])}
BITS4 = (Quantise(kind="quantise", bits=4),)
STEP = 0.7 / 7  # the largest change over the 7 levels of 4 bits


def test_only_quantisation_applies_to_sums() -> None:
    chain = (Skip(kind="skip", threshold=0.1), TopK(kind="top-k", share=0.5), *BITS4)
    assert of_sums(chain) == BITS4
    assert of_sums(chain[:2]) == ()


def test_without_quantisation_all_of_it_arrives() -> None:
    total = ModuleSum.of(NEW, 3)
    assert requantised(total, KNOWN, (TopK(kind="top-k", share=0.1),), 0, 1) is total
    assert announced(NEW, KNOWN, (), 0, 1) is NEW


def test_a_sum_keeps_its_weight_and_its_mean_is_within_a_step() -> None:
    total = ModuleSum.of(NEW, 3) + ModuleSum.of(NEW, 4)
    arrived = requantised(total, KNOWN, BITS4, 0, 1, "fog-0", "head/x")
    assert (arrived.weight, arrived.contributors) == (7, 2)
    assert float((arrived.mean()["w"] - NEW["w"]).abs().max()) <= STEP * 1.001
    assert float(arrived.mean()["w"][2]) == 0.5  # what has not changed


def test_what_is_announced_is_right_on_average() -> None:
    draws = torch.stack([announced(NEW, KNOWN, BITS4, 0, number)["w"] for number in range(2000)])
    # Between two levels the standard deviation is at most half a step.
    assert (draws.mean(0) - NEW["w"]).abs().max() < 5 * 0.5 * STEP / 2000**0.5
    assert float((draws - NEW["w"]).abs().max()) <= STEP * 1.001


def test_rounding_is_keyed() -> None:
    one, same = (announced(NEW, KNOWN, BITS4, 0, 1, "fog-0")["w"] for _ in range(2))
    assert torch.equal(one, same)
    draws = {tuple(announced(NEW, KNOWN, BITS4, 0, 1, f"fog-{i}")["w"].tolist()) for i in range(20)}
    assert len(draws) == 4  # two values between levels, each up or down


@pytest.mark.parametrize("bits", [4, 8])
def test_a_closed_loop_does_not_drift(bits: int) -> None:
    # Each change is against what was announced before, so errors do not add up over rounds.
    have = dict(KNOWN)
    target = NEW
    transforms = (Quantise.model_validate({"kind": "quantise", "bits": bits}),)
    for number in range(30):
        have = announced(target, have, transforms, 0, number)
    torch.testing.assert_close(have["w"], target["w"], atol=1e-6, rtol=0)
