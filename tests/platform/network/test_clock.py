"""The virtual clock: what waits, what overlaps, what shares a medium; by hand, and for random activities."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fogtune.platform.network.band import Floats, equal, min_max_latency, proportional_fair, shannon
from fogtune.platform.network.clock import Activity, Band, Load, Medium, Span, Wire, simulate

WIRE = Wire("wire", 6.0)


def send(bits: float, *, medium: Medium = WIRE, quality_hz: float = 1.0) -> Load:
    return Load(medium, bits, quality_hz)


def starts_s(*activities: Activity) -> list[float]:
    return [span.start_s for span in simulate(activities)]


def ends_s(*activities: Activity) -> list[float]:
    return [span.end_s for span in simulate(activities)]


def test_a_chain_goes_on_one_after_the_other() -> None:
    chain = Activity(2), Activity(3, after=(0,)), Activity(4, after=(1,))
    assert simulate(chain) == [Span(0, 2), Span(2, 5), Span(5, 9)]
    assert [span.seconds for span in simulate(chain)] == [2, 3, 4]
    assert simulate([]) == []


def test_what_does_not_wait_overlaps() -> None:
    both = Activity(2), Activity(5), Activity(1, after=(0, 1, 1)), Activity(1, after=(0,))
    assert simulate(both) == [Span(0, 2), Span(0, 5), Span(5, 6), Span(2, 3)]


def test_an_activity_starts_no_earlier_than_it_may() -> None:
    # The second may at 1 but waits until 7; the third waits until 7 but may only at 9.
    some = Activity(3, not_before_s=4), Activity(1, after=(0,), not_before_s=1), Activity(1, None, (0,), 9)
    assert simulate(some) == [Span(4, 7), Span(7, 8), Span(9, 10)]


def test_two_who_arrive_at_different_times_share_a_wire() -> None:
    # 6 bit/s. Until 1 s the first sends 6 of its 12 bits alone; then 3 bit/s each: it ends at 1 + 6 / 3 = 3 s. The
    # second has sent 6 of 12 bits by then, and sends the others alone in 1 s.
    assert ends_s(Activity(load=send(12)), Activity(load=send(12), not_before_s=1)) == pytest.approx([3, 4])


def test_fixed_seconds_come_first_and_take_nothing_of_the_wire() -> None:
    pair = Activity(load=send(12)), Activity(seconds=1, load=send(12))
    assert starts_s(*pair) == [0, 0]
    assert ends_s(*pair) == pytest.approx([3, 4])
    assert ends_s(Activity(seconds=2, load=send(12), not_before_s=5)) == [9]


def test_equal_media_are_one_and_others_are_not() -> None:
    names = "wire", "wire", "other"
    assert ends_s(*(Activity(load=send(12, medium=Wire(name, 6))) for name in names)) == pytest.approx([4, 4, 2])


def flat(snr: Floats) -> Floats:
    """1 bit/s/Hz at any signal-to-noise ratio."""
    return np.ones_like(snr)


def test_a_round_of_three_devices_by_hand() -> None:
    # Training takes 1, 2 and 4 s, then each sends 12 bits in a band of 6 bit/s:
    # 1-2 s: the first alone, 6 of 12 bits. 2-4 s: two at 3 bit/s, the first ends, the second has sent 6. 4-6 s: the
    # second and third at 3 bit/s, the second ends. 6-7 s: the third alone, its other 6. A wire of 2 s follows the last.
    uplink = Band("uplink", 6, equal, flat)
    training = [Activity(seconds) for seconds in (1, 2, 4)]
    uplinks = [Activity(load=send(12, medium=uplink), after=(i,)) for i in range(3)]
    wire = Activity(seconds=1, load=send(6), after=(3, 4, 5))
    assert ends_s(*training, *uplinks, wire) == pytest.approx([1, 2, 4, 4, 6, 7, 9])
    assert starts_s(*training, *uplinks, wire) == pytest.approx([0, 0, 0, 1, 2, 4, 7])


def test_a_band_carries_what_its_links_allow() -> None:
    # Halves of 2 Hz: 1 Hz at SNRs of 3 and 15 carries 2 and 4 bit/s. The second's 8 bits take 2 s; by then the first
    # has sent 4 of 4 + 2 log2(1 + 3 / 2) bits, and the others take 1 s in the whole band.
    band = Band("band", 2, equal, shannon)
    first = send(4 + 2 * float(np.log2(2.5)), medium=band, quality_hz=3)
    second = send(8, medium=band, quality_hz=15)
    assert ends_s(Activity(load=first), Activity(load=second)) == pytest.approx([3, 2])


def test_a_band_may_be_split_by_the_bits_that_are_left() -> None:
    # 4 Hz of 2 bit/s each, split in proportion to the bits: 3 and 9 bits go at 2 and 6 bit/s. At 1 s they have 1 and 3
    # bits left and 4 more come in: 8 bits at 8 bit/s, so that all end a second later.
    band = Band("band", 4, lambda quality_hz, bits, hz: hz * bits / bits.sum(), lambda snr: 2 * flat(snr))
    loads = [send(bits, medium=band) for bits in (3, 9, 4)]
    late = Activity(load=loads[2], not_before_s=1)
    assert ends_s(Activity(load=loads[0]), Activity(load=loads[1]), late) == pytest.approx([2, 2, 2])


def test_no_bits_take_no_time_and_no_rate() -> None:
    some = Activity(load=send(12)), Activity(seconds=1, load=send(0)), Activity(load=send(0), after=(1,))
    assert simulate((*some, Activity(2, after=(2,)))) == [Span(0, 2), Span(0, 1), Span(1, 1), Span(1, 3)]


@pytest.mark.parametrize("circle", [[(0,)], [(1,), (0,)], [(), (0, 3), (1,), (2,)]])
def test_a_circle_is_refused(circle: list[tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="wait for each other in a circle"):
        simulate([Activity(1, after=after) for after in circle])


def test_the_order_of_activities_does_not_matter() -> None:
    some = [Activity(1), Activity(load=send(12)), Activity(2, send(9), (0,)), Activity(0, send(3), (1, 0), 4)]
    expected = ends_s(*some)
    for order in permutations(range(4)):
        place = {old: new for new, old in enumerate(order)}
        moved = [
            Activity(one.seconds, one.load, tuple(place[i] for i in one.after), one.not_before_s)
            for one in (some[i] for i in order)
        ]
        assert ends_s(*moved) == pytest.approx([expected[i] for i in order])


MEDIA: list[Medium] = [
    WIRE,
    Band("equal", 3.0, equal, shannon),
    Band("fair", 3.0, proportional_fair, shannon),
    Band("at once", 3.0, min_max_latency, shannon),
]
LOADS = st.none() | st.builds(Load, st.sampled_from(MEDIA), st.integers(0, 20), st.integers(1, 30))


@st.composite
def graphs(draw: st.DrawFn) -> list[Activity]:
    """Activities that wait for some of the earlier ones."""
    seconds = st.integers(0, 3)
    return [
        Activity(
            draw(seconds), draw(LOADS), tuple(draw(st.sets(st.sampled_from(range(i)))) if i else ()), draw(seconds)
        )
        for i in range(draw(st.integers(1, 8)))
    ]


@given(graphs())
def test_an_activity_starts_when_all_that_it_waits_for_has_ended(activities: list[Activity]) -> None:
    spans = simulate(activities)
    for one, span in zip(activities, spans, strict=True):
        assert span.start_s == max(one.not_before_s, *(spans[i].end_s for i in one.after), 0)
        assert span.seconds >= one.seconds - 1e-9


def on_medium(activities: Sequence[Activity], medium: Medium) -> dict[int, tuple[float, float, Load]]:
    """Of all that send on a medium: since when, until when, and what."""
    found = {}
    for i, (one, span) in enumerate(zip(activities, simulate(activities), strict=True)):
        if one.load and one.load.medium == medium and one.load.bits > 0:
            found[i] = (span.start_s + one.seconds, span.end_s, one.load)
    return found


@pytest.mark.parametrize("medium", MEDIA, ids=lambda medium: medium.name)
@given(activities=graphs())
def test_rates_add_up_to_the_bits(medium: Medium, activities: list[Activity]) -> None:
    """Between two events rates are constant; summed over an activity's time they are its bits, no more and no fewer."""
    busy = on_medium(activities, medium)
    left = {i: load.bits for i, (_, _, load) in busy.items()}
    for begin_s, end_s in pairwise(sorted({moment for since, until, _ in busy.values() for moment in (since, until)})):
        there = [i for i, (since, until, _) in busy.items() if since <= begin_s and end_s <= until]
        if there:
            quality = np.array([busy[i][2].quality_hz for i in there])
            rates = medium.rates(quality, np.array([max(left[i], 1e-6) for i in there]))
            for i, rate in zip(there, rates.tolist(), strict=True):
                left[i] -= rate * (end_s - begin_s)
    assert left == pytest.approx(dict.fromkeys(left, 0), abs=1e-4)


@given(graphs())
def test_a_wire_never_carries_more_than_its_rate(activities: list[Activity]) -> None:
    busy = on_medium(activities, WIRE).values()
    for begin_s, _, _ in busy:
        for _, end_s, _ in busy:
            within = sum(load.bits for since, until, load in busy if begin_s <= since and until <= end_s)
            assert within <= 6 * max(end_s - begin_s, 0) + 1e-4
