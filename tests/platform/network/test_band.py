"""Splits of a band: within it, above zero, and each the best at what it is there for."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogtune.platform.network.band import (
    SPLITS,
    Floats,
    Split,
    equal,
    min_max_latency,
    proportional_fair,
    shannon,
    shannon_bits_per_s,
)

BAND_HZ = 10e6

Senders = list[tuple[float, float]]
"""Of each sender: quality in Hz and bits, as powers of 10. From -30 dB to 50 dB over the band."""

SENDERS = st.lists(st.tuples(st.floats(4, 12), st.floats(4, 8)), min_size=1, max_size=6)
SEEDS = st.integers(0, 2**32)
RULES = pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS.keys())


def arrays(senders: Senders) -> tuple[Floats, Floats]:
    """Qualities and bits."""
    quality, bits = 10.0 ** np.array(senders).T
    return quality, bits


def others(hz: Floats, seed: int) -> Iterator[Floats]:
    """Splits of the whole band: some near `hz`, some far away."""
    for near in (0.999, 0.9, 0.0):
        for share in np.random.default_rng(seed).dirichlet(np.ones(len(hz)), size=20):
            yield near * hz + (1 - near) * BAND_HZ * np.maximum(share, 1e-9)


def test_shannons_rate_by_hand() -> None:
    # Signal over noise: 3 MHz / 1 MHz = 3 and 21 MHz / 3 MHz = 7; log2(1 + 3) = 2, log2(1 + 7) = 3.
    rates = shannon_bits_per_s(np.array([3e6, 21e6]), np.array([1e6, 3e6]))
    assert rates == pytest.approx([2e6, 9e6])
    assert shannon(np.array([0.0, 1.0, 15.0])) == pytest.approx([0, 1, 4])
    # However much band there is, a rate stays below q / ln 2.
    assert shannon_bits_per_s(np.array([1e6]), np.array([1e9])) == pytest.approx(1e6 / math.log(2), rel=1e-3)


@RULES
@given(senders=SENDERS)
def test_a_split_gives_everyone_something_and_no_more_than_the_band(split: Split, senders: Senders) -> None:
    hz = split(*arrays(senders), BAND_HZ)
    assert hz.shape == (len(senders),)
    assert np.all(hz > 0)
    assert hz.sum() <= BAND_HZ * (1 + 1e-12)


@RULES
@given(senders=SENDERS, seed=SEEDS)
def test_a_share_goes_with_its_sender(split: Split, senders: Senders, seed: int) -> None:
    quality, bits = arrays(senders)
    order = np.random.default_rng(seed).permutation(len(senders))
    assert split(quality[order], bits[order], BAND_HZ) == pytest.approx(split(quality, bits, BAND_HZ)[order])


@RULES
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("quality_hz", [1e5, 1e7, 1e11])
def test_equal_senders_have_equal_shares_of_the_whole_band(split: Split, count: int, quality_hz: float) -> None:
    hz = split(np.full(count, quality_hz), np.full(count, 1e6), BAND_HZ)
    assert hz == pytest.approx([BAND_HZ / count] * count)


def test_equal_shares_do_not_look_at_links_or_bits() -> None:
    assert equal(np.array([1e4, 1e9, 1e7, 1.0]), np.array([1e9, 1.0, 2.0, 3.0]), 8.0).tolist() == [2, 2, 2, 2]


@given(senders=SENDERS, seed=SEEDS)
def test_no_split_has_a_larger_sum_of_log_rates_than_the_proportionally_fair(senders: Senders, seed: int) -> None:
    quality, bits = arrays(senders)
    hz = proportional_fair(quality, bits, BAND_HZ)
    largest = np.log(shannon_bits_per_s(quality, hz)).sum()
    for other in (equal(quality, bits, BAND_HZ), *others(hz, seed)):
        assert np.log(shannon_bits_per_s(quality, other)).sum() <= largest + 1e-7


def test_for_the_proportionally_fair_one_more_hz_is_worth_the_same_to_all() -> None:
    # ln rate grows by 1/b - (q / b^2) / ((1 + s) ln(1 + s)) a Hz, with s = q / b.
    quality = np.array([1e4, 1e11])
    hz = proportional_fair(quality, np.ones(2), BAND_HZ)
    snr = quality / hz
    worth = (1 - snr / ((1 + snr) * np.log(1 + snr))) / hz
    assert worth[0] == pytest.approx(worth[1], rel=1e-6)
    assert hz[0] < hz[1]  # at -30 dB more band hardly raises the rate
    assert hz.sum() == pytest.approx(BAND_HZ)


def test_min_max_latency_by_hand() -> None:
    # As above: with 1 MHz and 3 MHz the rates are 2 and 9 Mbit/s, so 2 and 9 Mbit both take a second; 4 and 18 take 2.
    for seconds in (1, 2):
        hz = min_max_latency(np.array([3e6, 21e6]), np.array([2e6, 9e6]) * seconds, 4e6)
        assert hz == pytest.approx([1e6, 3e6])


@given(senders=SENDERS, seed=SEEDS)
def test_min_max_latency_ends_all_at_once_and_no_split_ends_earlier(senders: Senders, seed: int) -> None:
    quality, bits = arrays(senders)
    hz = min_max_latency(quality, bits, BAND_HZ)
    ends_s = bits / shannon_bits_per_s(quality, hz)
    assert ends_s == pytest.approx(np.full(len(senders), ends_s.max()))
    for other in (equal(quality, bits, BAND_HZ), *others(hz, seed)):
        assert (bits / shannon_bits_per_s(quality, other)).max() >= ends_s.max() * (1 - 1e-7)
