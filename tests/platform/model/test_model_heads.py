"""Heads: each kind's loss, sums and metrics by hand."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch

from fogtune.platform.aggregation.update import fixed
from fogtune.platform.config import Task
from fogtune.platform.data.labels import Head
from fogtune.platform.model.heads import HEADS, build_head


def add(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
    return {name: a[name] + b[name] for name in a}


def test_classification() -> None:
    head = HEADS["classification"]
    outputs = torch.tensor([[math.log(3), 0.0], [0.0, 0.0], [5.0, 1.0]])
    targets = torch.tensor([0, 1, 1])
    # Probabilities of the true classes: 3/4, 1/2, 1 / (1 + e^4).
    expected = (math.log(4 / 3) + math.log(2) + math.log(1 + math.exp(4))) / 3
    assert head.losses(outputs, targets).mean().item() == pytest.approx(expected, rel=1e-6)
    assert head.tally(outputs, targets) == {"samples": 3, "correct": 1}  # the tie goes to the first class
    assert head.metrics({"samples": 3, "correct": 1}) == {"accuracy": 1 / 3}
    assert head.outputs(("a", "b", "c")) == 3


def test_multilabel() -> None:
    head = HEADS["multilabel"]
    outputs = torch.tensor([[math.log(3), -1.0, 2.0], [-4.0, 1.0, -1.0]])
    targets = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    terms = [math.log(4 / 3), math.log(1 + math.exp(-1)), math.log(1 + math.exp(2))]
    terms += [math.log(1 + math.exp(-4)), math.log(1 + math.exp(-1)), math.log(1 + math.exp(1))]
    assert head.losses(outputs, targets).mean().item() == pytest.approx(sum(terms) / 6, rel=1e-6)
    sums = head.tally(outputs, targets)
    assert sums == {"samples": 2, "hits": 2, "false": 1, "missed": 1}
    assert head.metrics(sums) == {"f1": 2 * 2 / (2 * 2 + 1 + 1)}
    assert head.outputs(("a", "b", "c")) == 3


def test_nothing_to_find_and_nothing_said_is_right() -> None:
    head = HEADS["multilabel"]
    assert head.metrics(head.tally(torch.full((2, 3), -1.0), torch.zeros(2, 3))) == {"f1": 1.0}
    assert head.metrics(head.tally(torch.full((2, 3), 1.0), torch.zeros(2, 3))) == {"f1": 0.0}


def test_regression() -> None:
    head = HEADS["regression"]
    outputs = torch.tensor([[1.0], [2.0], [6.0]])
    targets = torch.tensor([1.0, 4.0, 4.0])
    assert head.losses(outputs, targets).mean().item() == pytest.approx(8 / 3)
    sums = head.tally(outputs, targets)
    assert sums == {"samples": 3, "squared_error": fixed(8.0), "sum": fixed(9.0), "squares": fixed(33.0)}
    # Mean 3, so the squares about it are 4 + 1 + 1.
    assert head.metrics(sums) == pytest.approx({"r2": 1 - 8 / 6, "rmse": math.sqrt(8 / 3)})
    assert head.outputs(()) == 1


@pytest.mark.parametrize("value", [-1.1857198476791382, 0.0003, 7.3, -1234.5678])
@pytest.mark.parametrize("samples", [1, 3])
def test_targets_that_do_not_vary_have_no_variance_to_explain(value: float, samples: int) -> None:
    # In fixed point, the mean square and the squared mean of equal numbers differ by rounding.
    head = HEADS["regression"]
    metrics = head.metrics(head.tally(torch.zeros(samples, 1), torch.full((samples,), value)))
    assert metrics["r2"] == 0.0
    assert metrics["rmse"] == pytest.approx(abs(value), rel=1e-2)


def test_little_variance_about_a_large_mean_counts() -> None:
    targets = torch.tensor([999.0, 1001.0])
    head = HEADS["regression"]
    assert head.metrics(head.tally(torch.tensor([[999.5], [1000.5]]), targets))["r2"] == pytest.approx(0.75)


@pytest.mark.parametrize("kind", HEADS)
def test_sums_do_not_depend_on_how_samples_are_cut(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    head = HEADS[kind]
    outputs = torch.randn(40, head.outputs(("a", "b", "c")), generator=generator)
    targets = {
        "classification": torch.randint(0, 3, (40,), generator=generator),
        "multilabel": torch.randint(0, 2, (40, 3), generator=generator).float(),
        "regression": torch.randn(40, generator=generator),
    }[kind]
    whole = head.tally(outputs, targets)
    for cut in (1, 13, 39):
        assert add(head.tally(outputs[:cut], targets[:cut]), head.tally(outputs[cut:], targets[cut:])) == whole
    metrics = head.metrics(whole)
    assert head.metric in metrics
    assert all(math.isfinite(value) for value in metrics.values())


def test_priors_by_hand() -> None:
    classes = HEADS["classification"].log_prior(torch.tensor([0, 2, 2]), 3).exp()
    assert classes.tolist() == pytest.approx([2 / 6, 1 / 6, 3 / 6])  # each counted once more than it was seen
    labels = HEADS["multilabel"].log_prior(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), 2)
    assert labels.tolist() == pytest.approx([math.log(3 / 1), math.log(2 / 2)])
    assert HEADS["regression"].log_prior(torch.tensor([5.0]), 1).tolist() == [0.0]


def test_configuration_names_every_kind() -> None:
    assert get_args(Task.model_fields["head"].annotation) == tuple(HEADS)
    assert {head.labels for head in HEADS.values()} == set(get_args(Head))


def test_a_head_is_linear() -> None:
    head = build_head("multilabel", ("a", "b"), 8)
    assert head(torch.zeros(5, 8)).shape == (5, 2)
    assert build_head("regression", (), 8)(torch.zeros(5, 8)).shape == (5, 1)
