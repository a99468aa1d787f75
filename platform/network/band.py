"""Sharing a band: how much of it each sender gets, and how many bits a second that makes.

A link is known by its `quality_hz` q = P g / N0: received power over noise density. In b Hz its signal-to-noise ratio
is q / b, so a sender that puts its power into less band is heard better there; Shannon's rate is b log2(1 + q / b), at
most q / ln 2. Splits always follow Shannon's rate; what a link really carries may be less (link adaptation).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

Split = Callable[[Floats, Floats, float], Floats]
"""(quality_hz (n,), bits left (n,), band_hz) -> Hz of each sender (n,), together at most the band."""

_STEPS = 40  # halvings of an interval: 1e-12 of it is left
_THERMAL_W_PER_HZ = 10**-20.4
"""-174 dBm/Hz."""


def quality_hz(power_w: float, gain: float, noise_figure_db: float) -> float:
    """Received power over noise density, in Hz."""
    return power_w * gain / (_THERMAL_W_PER_HZ * 10 ** (noise_figure_db / 10))


def shannon(snr: Floats) -> Floats:
    """log2(1 + snr), bit/s/Hz."""
    efficiency: Floats = np.log1p(snr) / math.log(2)  # precise where the ratio is tiny
    return efficiency


def shannon_bits_per_s(quality: Floats, band_hz: Floats) -> Floats:
    """b log2(1 + q / b), elementwise; `band_hz` above zero."""
    rate: Floats = band_hz * shannon(quality / band_hz)
    return rate


def equal(quality: Floats, bits: Floats, band_hz: float) -> Floats:
    """The same for all."""
    return np.full(len(quality), band_hz / len(quality))


def proportional_fair(quality: Floats, bits: Floats, band_hz: float) -> Floats:
    """The largest sum of the logarithms of the rates (Kelly, 1997): one Hz more adds the same share to every rate."""

    def gain(hz: Floats) -> Floats:  # d log(rate) / d hz, falling in hz
        snr = quality / hz
        share: Floats = 1 / hz - snr / (1 + snr) / (hz * np.log1p(snr))
        return share

    def wanted(price: float) -> Floats:
        return _first(lambda hz: gain(hz) <= price, len(quality), band_hz)

    low, high = 1e-9 / band_hz, 1e9 / band_hz
    for _ in range(_STEPS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if wanted(middle).sum() <= band_hz else (middle, high)
    return _within(wanted(high), band_hz)


def min_max_latency(quality: Floats, bits: Floats, band_hz: float) -> Floats:
    """All end at once, as early as the band allows: the least T for which the bands that send `bits` in T fit in."""

    def needed(seconds: float) -> Floats:
        rate = bits / seconds
        if np.any(most * (1 + 1e-12) < rate):
            return np.full(len(quality), np.inf)
        return _first(lambda hz: shannon_bits_per_s(quality, hz) >= rate, len(quality), band_hz)

    most = shannon_bits_per_s(quality, np.full(len(quality), band_hz))
    high = float((bits / shannon_bits_per_s(quality, equal(quality, bits, band_hz))).max())
    low = 0.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if needed(middle).sum() <= band_hz else (middle, high)
    return _within(needed(high), band_hz)


SPLITS: dict[str, Split] = {
    "equal": equal,
    "proportional-fair": proportional_fair,
    "min-max-latency": min_max_latency,
}
"""`network.radio.split` -> its rule."""


def _first(enough: Callable[[Floats], NDArray[np.bool_]], count: int, band_hz: float) -> Floats:
    """The least Hz, up to the band, at which `enough` is true for each sender; it stays true above."""
    low, high = np.full(count, 1e-9 * band_hz), np.full(count, band_hz)
    for _ in range(_STEPS):
        middle = np.sqrt(low * high)
        there = enough(middle)
        low, high = np.where(there, low, middle), np.where(there, middle, high)
    return high


def _within(hz: Floats, band_hz: float) -> Floats:
    """Scaled down where rounding has made the sum larger than the band."""
    scaled: Floats = hz * min(1.0, band_hz / hz.sum())
    return scaled
