"""How often somebody may come: a token bucket. Knows nothing of keys or HTTP.

Own, because the libraries have no such one: `limits` 5.8 has windows alone and reads the wall clock, which may jump;
`throttled-py` 3.5 has a bucket that counts in whole seconds.
"""

from __future__ import annotations


class Bucket:
    """Holds up to `burst` tokens and gains `per_s` a second; it begins full."""

    def __init__(self, per_s: float, burst: float, now_s: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._tokens = burst
        self._at_s = now_s

    def take(self, now_s: float) -> float:
        """Takes one token and returns 0, or takes none and returns the seconds until there is one.

        `now_s` never runs backwards.
        """
        self._tokens = min(self._burst, self._tokens + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if self._tokens < 1:
            return (1 - self._tokens) / self._per_s
        self._tokens -= 1
        return 0.0
