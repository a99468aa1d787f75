"""Updates join by module and metric."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fogtune.platform.aggregation.robust import HeldUpdates
from fogtune.platform.aggregation.sums import ModuleSum, UpdateRejected
from fogtune.platform.aggregation.update import Update, fixed, unfixed


def module(value: float, weight: int) -> ModuleSum:
    return ModuleSum.of({"w": torch.tensor([value])}, weight)


def held(sender: str, value: float) -> HeldUpdates:
    return HeldUpdates.of(sender, {"w": torch.tensor([value])}, 1)


def test_union_of_modules_and_metrics_by_hand() -> None:
    camera = Update({"head/vqa": module(2.0, 1), "adapter/fusion": module(1.0, 1)}, {"vqa.count": 4})
    watch = Update({"adapter/fusion": module(5.0, 3)}, {"exercise.count": 7, "vqa.count": 1})
    both = camera + watch
    assert list(both.modules) == ["adapter/fusion", "head/vqa"]
    adapter, head = both.modules["adapter/fusion"], both.modules["head/vqa"]
    assert isinstance(adapter, ModuleSum)
    assert isinstance(head, ModuleSum)
    assert adapter.mean()["w"].tolist() == [4.0]
    assert (adapter.contributors, adapter.weight) == (2, 4)
    assert (head.contributors, head.mean()["w"].tolist()) == (1, [2.0])
    assert both.metrics == {"exercise.count": 7, "vqa.count": 5}
    assert (list(camera.modules), camera.metrics) == (["head/vqa", "adapter/fusion"], {"vqa.count": 4})


def test_monoid() -> None:
    a = Update({"m": module(0.1, 3), "r": held("a", 1.0)}, {"loss": fixed(0.1)})
    b = Update({"m": module(0.2, 5), "n": module(1.0, 1)}, {"loss": fixed(0.2), "count": 1})
    c = Update({"m": module(0.3, 7), "r": held("c", 2.0)}, {"count": 2})
    assert (a + b) + c == a + (b + c) == c + b + a == sum([b, c, a], start=Update.empty())
    assert a + Update.empty() == Update.empty() + a == a
    # Dictionaries are equal in any order; the same bytes need the same order too.
    assert list((c + b + a).modules) == list((a + b + c).modules) == ["m", "n", "r"]
    assert list((c + b + a).metrics) == list((a + b + c).metrics) == ["count", "loss"]


def test_two_forms_of_a_module_are_rejected() -> None:
    with pytest.raises(UpdateRejected, match="'m'") as caught:
        Update({"m": module(1.0, 1)}, {}) + Update({"m": held("a", 1.0)}, {})
    assert caught.value.reason == "forms differ"


def test_pickling() -> None:
    update = Update({"m": module(0.1, 3), "r": held("a", 1.0)}, {"loss": fixed(0.1), "count": 3})
    assert pickle.loads(pickle.dumps(update)) == update


def test_fixed_by_hand() -> None:
    assert fixed(1.5) == 3 << 31
    assert fixed(-2.0) == -(2 << 32)
    assert fixed(2.0**-33) == 0  # A tie goes to even.
    assert fixed(3 * 2.0**-33) == 2
    assert unfixed(3 << 31) == 1.5
    assert fixed(1e300) == int(1e300) << 32
    assert unfixed(sum([fixed(0.1)] * 10)) == pytest.approx(1.0, abs=10 * 2.0**-33)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_fixed_rejects_what_is_not_finite(bad: float) -> None:
    with pytest.raises(UpdateRejected) as caught:
        fixed(bad)
    assert caught.value.reason == "not finite"


@settings(deadline=None)
@given(st.lists(st.floats(-1e9, 1e9)))
def test_fixed_sums_do_not_depend_on_order(values: list[float]) -> None:
    assert unfixed(sum(map(fixed, sorted(values)))) == unfixed(sum(map(fixed, values)))


@settings(deadline=None)
@given(st.floats(-1e12, 1e12))
def test_round_trip(x: float) -> None:
    assert abs(unfixed(fixed(x)) - x) <= 2.0**-33
