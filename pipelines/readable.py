"""Numbers as people read them: decimal units, few digits."""

from __future__ import annotations

import math

UNKNOWN = "–"
"""What tables show for a value that there is not."""


def size(count: float | None) -> str:
    """Bytes: `845 B`, `12.3 kB`, `1.20 GB`."""
    return _scaled(count, ("B", "kB", "MB", "GB", "TB"), whole=True)


def energy(joules: float | None) -> str:
    """Joules: `12.3 J`, `4.56 kJ`."""
    return _scaled(joules, ("J", "kJ", "MJ", "GJ"))


def rate(bits_per_s: float | None) -> str:
    """Bits a second: `845 bit/s`, `12.3 Mbit/s`."""
    return _scaled(bits_per_s, ("bit/s", "kbit/s", "Mbit/s", "Gbit/s"))


def duration(seconds: float | None) -> str:
    """Seconds: `0.42 s`, `12.3 s`, `4 min 05 s`, `2 h 07 min`."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    if seconds < 59.95:
        return f"{_digits(seconds)} s"
    if seconds < 3599.5:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def value(metric: float | None) -> str:
    """A metric or a loss: three decimals, or three digits if it is large."""
    if metric is None or not math.isfinite(metric):
        return UNKNOWN
    return f"{metric:.3f}" if abs(metric) < 100 else f"{metric:.3g}"


def _scaled(amount: float | None, units: tuple[str, ...], *, whole: bool = False) -> str:
    if amount is None or not math.isfinite(amount):
        return UNKNOWN
    step = 0
    while abs(amount) >= 999.5 and step < len(units) - 1:
        amount, step = amount / 1000, step + 1
    return f"{amount:.0f} {units[0]}" if whole and step == 0 else f"{_digits(amount)} {units[step]}"


def _digits(amount: float) -> str:
    return f"{amount:.2f}" if abs(amount) < 9.995 else f"{amount:.1f}" if abs(amount) < 99.95 else f"{amount:.0f}"
