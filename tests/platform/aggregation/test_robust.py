"""Median and trimmed mean, by hand and against a liar."""

from __future__ import annotations

import pickle
from functools import reduce
from operator import add

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fogtune.platform.aggregation.robust import HeldUpdates, coordinate_median, trimmed_mean
from fogtune.platform.aggregation.sums import UpdateRejected


def held(*rows: list[float]) -> HeldUpdates:
    """Contributions of d-0, d-1, ... with tensor `w`."""
    return reduce(add, [HeldUpdates.of(f"d-{i}", {"w": torch.tensor(row)}, i + 1) for i, row in enumerate(rows)])


def test_median_by_hand() -> None:
    odd = held([1.0, 30.0], [2.0, 10.0], [9.0, 20.0])
    assert coordinate_median(odd)["w"].tolist() == [2.0, 20.0]
    even = odd + HeldUpdates.of("x", {"w": torch.tensor([3.0, 21.0])}, 100)
    assert coordinate_median(even)["w"].tolist() == [2.5, 20.5]
    assert coordinate_median(even)["w"].dtype == torch.float32
    assert coordinate_median(held([4.0]))["w"].tolist() == [4.0]
    assert coordinate_median(held([4.0], [5.0]))["w"].tolist() == [4.5]


def test_trimmed_mean_by_hand() -> None:
    five = held([1.0], [2.0], [3.0], [6.0], [100.0])
    assert trimmed_mean(five, 0.0)["w"].item() == pytest.approx(22.4)
    assert trimmed_mean(five, 0.19)["w"].item() == pytest.approx(22.4)  # floor(0.95) = 0
    assert trimmed_mean(five, 0.2)["w"].item() == pytest.approx(11 / 3)  # 2, 3, 6
    assert trimmed_mean(five, 0.49)["w"].item() == 3.0  # floor(2.45) = 2 at either end
    assert trimmed_mean(held([7.0]), 0.49)["w"].item() == 7.0


def test_trim_counts_what_is_written_in_decimal() -> None:
    squares = [float(i * i) for i in range(100)]
    hundred = held(*([square] for square in squares))
    # 29 at either end, though 0.29 * 100 is 28.999999999999996 in binary; leaving out 28 gives another mean.
    assert trimmed_mean(hundred, 0.29)["w"].item() == pytest.approx(sum(squares[29:71]) / 42)
    assert sum(squares[29:71]) / 42 != pytest.approx(sum(squares[28:72]) / 44)


@pytest.mark.parametrize("trim", [-0.1, 0.5, float("nan")])
def test_trim_that_could_leave_nothing(trim: float) -> None:
    with pytest.raises(ValueError, match="trim"):
        trimmed_mean(held([1.0], [2.0]), trim)


def test_nothing_to_aggregate() -> None:
    with pytest.raises(ValueError, match="no contributions"):
        coordinate_median(HeldUpdates(()))


@settings(deadline=None)
@given(
    st.lists(st.floats(-1, 1, width=32), min_size=4, max_size=8),
    st.floats(-1e6, 1e6, width=32),
    st.integers(1, 10**6),
)
def test_one_outlier_cannot_pull_them_out_of_the_honest_range(honest: list[float], lie: float, weight: int) -> None:
    liar = HeldUpdates.of("a-liar", {"w": torch.tensor([lie])}, weight)
    together = held(*([x] for x in honest)) + liar
    for robust in (coordinate_median(together)["w"].item(), trimmed_mean(together, 0.25)["w"].item()):
        assert min(honest) <= robust <= max(honest)


@settings(deadline=None)
@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=7), st.data())
def test_any_order_gives_the_same_value(entries: list[float], data: st.DataObject) -> None:
    leaves = [HeldUpdates.of(f"d-{i}", {"w": torch.tensor([x])}, i + 1) for i, x in enumerate(entries)]
    star = reduce(add, leaves)
    shuffled = data.draw(st.permutations(leaves))
    cut = data.draw(st.integers(1, len(shuffled) - 1))
    tree = reduce(add, shuffled[:cut]) + reduce(add, shuffled[cut:])
    assert tree == star
    assert torch.equal(trimmed_mean(tree, 0.2)["w"], trimmed_mean(star, 0.2)["w"])
    assert (star.weight, star.contributors) == (sum(range(1, len(entries) + 1)), len(entries))
    assert star.nbytes == 4 * len(entries)


def test_contributions_are_copies() -> None:
    tensor = torch.tensor([1.0], requires_grad=True)
    mine = HeldUpdates.of("d", {"w": tensor}, 1)
    with torch.no_grad():
        tensor.fill_(5.0)
    assert mine.contributions[0].tensors["w"].tolist() == [1.0]
    assert not mine.contributions[0].tensors["w"].requires_grad


def test_rejections() -> None:
    one = held([1.0], [2.0])
    with pytest.raises(UpdateRejected, match="'d-1' contributed before") as caught:
        one + HeldUpdates.of("d-1", {"w": torch.tensor([3.0])}, 1)
    assert caught.value.reason == "duplicate sender"
    with pytest.raises(UpdateRejected) as caught:
        one + HeldUpdates.of("x", {"w": torch.tensor([3.0, 4.0])}, 1)
    assert (caught.value.reason, caught.value.tensor) == ("layout differs", "w")
    with pytest.raises(UpdateRejected) as caught:
        HeldUpdates.of("x", {"w": torch.tensor([float("nan")])}, 1)
    assert (caught.value.reason, caught.value.tensor) == ("not finite", "w")
    with pytest.raises(UpdateRejected) as caught:
        HeldUpdates.of("x", {"w": torch.tensor([1.0])}, 0)
    assert caught.value.reason == "bad weight"


def test_pickling_and_equality() -> None:
    one = held([1.0], [2.0])
    assert pickle.loads(pickle.dumps(one)) == one
    assert one != held([1.0], [2.5])
    assert one + HeldUpdates(()) == one
