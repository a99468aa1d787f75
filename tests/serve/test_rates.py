"""The token bucket: whatever the arrivals, never more than the burst and what the time since gained."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fogtune.serve.rates import Bucket


@given(
    st.integers(1, 5),
    st.sampled_from([0.25, 0.5, 1.0, 4.0]),
    st.lists(st.integers(0, 12).map(lambda quarters: quarters / 4), max_size=40),
)
def test_no_schedule_gets_more_than_its_rate_and_the_wait_is_exact(
    burst: int, per_s: float, pauses_s: list[float]
) -> None:
    # Binary fractions throughout, so that all sums are exact.
    bucket, now_s, taken = Bucket(per_s, burst, 0.0), 0.0, 0
    for pause_s in pauses_s:
        now_s += pause_s
        wait_s = bucket.take(now_s)
        taken += wait_s == 0
        assert taken <= burst + now_s * per_s
        if wait_s:
            assert bucket.take(now_s + wait_s / 2) == wait_s / 2
            now_s += wait_s
            assert bucket.take(now_s) == 0
            taken += 1
