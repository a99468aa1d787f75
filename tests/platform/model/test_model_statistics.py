"""Statistics: what is measured, that means of them are those of all samples, and what standardising makes of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fogtune.platform.aggregation import ModuleSum
from fogtune.platform.model.statistics import Standardise, known, measure


def standardised(statistics: dict[str, Tensor], values: Tensor) -> Tensor:
    """values (N, C) -> (N, C)."""
    standardise = Standardise(values.shape[1])
    standardise.load_state_dict(statistics)
    result: Tensor = standardise(values[None], torch.ones(1, len(values), dtype=torch.int64))[0]
    return result


def test_mean_and_mean_square_over_all_tokens_by_hand() -> None:
    found = measure([torch.tensor([[1.0, 5.0], [3.0, 5.0]]), torch.tensor([[8.0, 5.0]])])
    assert found["mean"].tolist() == [4.0, 5.0]
    assert found["square"].tolist() == pytest.approx([(1 + 9 + 64) / 3, 25.0])


def test_what_devices_measure_adds_up_to_what_one_would_have_measured() -> None:
    generator = torch.Generator().manual_seed(0)
    # Each device's channel is somewhere else: most of the spread is between devices.
    parts = [torch.randn(n, 1, 2, generator=generator) + 10 * i for i, n in enumerate((3, 7, 5))]
    sums = [ModuleSum.of(measure(part), len(part)) for part in parts]
    together = (sums[0] + sums[1] + sums[2]).mean()
    for name, tensor in measure(torch.cat(parts)).items():
        torch.testing.assert_close(together[name], tensor)


def test_unknown_statistics_change_nothing() -> None:
    standardise = Standardise(4)
    values, mask = torch.randn(2, 3, 4), torch.ones(2, 3, dtype=torch.int64)
    assert torch.equal(standardise(values, mask), values)
    assert not known(dict(standardise.named_buffers()))
    assert known(measure([torch.full((1, 4), 1e-3)]))


def test_channels_of_any_scale_are_brought_to_mean_zero_and_deviation_one() -> None:
    generator = torch.Generator().manual_seed(0)
    scale, offset = torch.tensor([1e-3, 1.0, 30.0]), torch.tensor([0.01, 0.0, -50.0])
    values = torch.randn(1000, 3, generator=generator) * scale + offset
    found = standardised(measure([values]), values)
    assert found.mean(0).abs().max() < 1e-3
    torch.testing.assert_close(found.std(0, correction=0), torch.ones(3), atol=1e-3, rtol=0)


def test_a_channel_that_does_not_vary_is_not_blown_up() -> None:
    values = torch.full((9, 1), 100 / 3)
    assert standardised(measure([values]), values).abs().max() < 0.01
    assert standardised(measure([torch.zeros(2, 1), torch.zeros(2, 1)]), torch.ones(1, 1)).item() == 1.0  # unknown
    silent = {"mean": torch.zeros(2), "square": torch.tensor([1.0, 0.0])}
    assert standardised(silent, torch.tensor([[1.0, 3.0]])).tolist() == [[1.0, 3.0]]


def test_a_channel_that_is_nearly_always_silent_does_not_shout() -> None:
    values = torch.zeros(10_000, 1)
    values[0] = 5.0
    assert standardised(measure([values]), values).max() == 8.0


def test_what_is_not_there_stays_zero() -> None:
    standardise = Standardise(1)
    standardise.load_state_dict({"mean": torch.tensor([3.0]), "square": torch.tensor([10.0])})
    found = standardise(torch.tensor([[[4.0], [0.0]]]), torch.tensor([[1, 0]]))
    assert found.flatten().tolist() == pytest.approx([1.0, 0.0])
