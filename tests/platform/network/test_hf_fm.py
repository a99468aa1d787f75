"""The HF-FM paper's costs: its published digits, budgets of links by hand, relays by hand, what the corrections do."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from fogtune.platform.network.hf_fm import CORRECTED, PAPER, method_costs
from fogtune.platform.network.hf_fm_channel import Links, draw_links
from fogtune.platform.network.hf_fm_relay import relay


def cut(figure: float) -> str:
    """To two decimals without rounding, as the paper's table does: its code gives 9.587 where that says 9.58."""
    return f"{figure:.6f}"[:-4]


@pytest.mark.parametrize(
    ("method", "latency_s", "energy_j"),
    [
        ("star", "12.10", "387.20"),
        ("edge-only", "3.59", "59.25"),
        ("hierarchical-e2", "9.58", "107.65"),
        ("hierarchical-e8", "5.04", "71.35"),
    ],
)
def test_the_published_digits(method: str, latency_s: str, energy_j: str) -> None:
    cost = method_costs(PAPER)[method]
    assert (cut(cost.latency_s), cut(cost.energy_j)) == (latency_s, energy_j)


def test_uplink_times_are_those_of_the_papers_code() -> None:
    uplink_s = PAPER.uplink_s(draw_links())
    assert uplink_s.shape == (10, 4)
    assert float(uplink_s.sum()) == pytest.approx(98.756, abs=5e-4)
    assert (float(uplink_s.min()), float(uplink_s.mean())) == pytest.approx((1.46, 2.47), abs=5e-3)
    assert float(uplink_s.max()) == pytest.approx(3.537, abs=5e-4)


def test_d2d_figures_are_in_the_ranges_of_the_papers_code() -> None:
    # Lowest and highest of 4,000 draws of its aggregators. Those are not ours, and where a draw's clusters add up to
    # the energy, other draws reach a little farther.
    ranges = {
        "edge-only-d2d": ((1.51, 2.17), (13.1, 17.2)),
        "hierarchical-e2-d2d": ((8.39, 8.95), (66.0, 70.2)),
        "hierarchical-e8-d2d": ((3.17, 3.81), (26.3, 30.4)),
    }
    draws = [method_costs(PAPER, seed) for seed in range(300)]
    for method, ((least_s, most_s), (least_j, most_j)) in ranges.items():
        latencies_s = [draw[method].latency_s for draw in draws]
        energies_j = [draw[method].energy_j for draw in draws]
        assert least_s - 0.005 <= min(latencies_s) < max(latencies_s) <= most_s + 0.005
        assert least_j - 0.2 <= min(energies_j) < max(energies_j) <= most_j + 0.2
        # Whoever aggregates, it is one of four: 300 draws come near both ends.
        assert max(latencies_s) - min(latencies_s) > 0.8 * (most_s - least_s)
        assert max(energies_j) - min(energies_j) > 0.8 * (most_j - least_j)


def test_a_link_of_100_m_by_hand() -> None:
    # Path loss 30 + 30 log10(100) = 90 dB; fading as the mean is drawn, 2. With log2(10) = 3.321928:
    one = np.array([[100.0]])
    nowhere = np.empty((0, 2))
    links = Links(
        servers_m=nowhere,
        users_m=nowhere,
        uplink_m=one,
        uplink_fading=2 * one / 100,
        d2d_m=one[None],
        d2d_fading=2 * one[None] / 100,
    )
    # SNR = 10^3 mW * 2 * 10^-9 / (10^-17.4 mW/Hz * 10^3) = 2 * 10^8.4, log2 = 1 + 8.4 * 3.321928 = 28.9042;
    # 48 Mbit / (1 MHz * 28.9042) = 1.66066 s
    assert PAPER.uplink_s(links).item() == pytest.approx(1.66066, abs=1e-5)
    # SNR = 200 mW * 2 * 10^-9 / (10^-17.4 mW/Hz * 8 * 10^3) = 0.05 * 10^8.4, log2 = 27.9042 - log2(10) = 23.5823;
    # 48 Mbit / (8 MHz * 23.5823) = 0.25443 s
    assert PAPER.d2d_s(links).item() == pytest.approx(0.25443, abs=1e-5)
    # SNR = 1 W * 10^-9 / (10^-20.4 W/Hz * 10^6 Hz) = 10^5.4, log2 = 5.4 * 3.321928 = 17.9384;
    # 32 * 9,461,760 bit / (1 MHz * 17.9384) = 302.776 / 17.9384 = 16.8786 s
    assert CORRECTED.uplink_s(links).item() == pytest.approx(16.8786, abs=2e-4)
    # 0.025 * 10^5.4 in the 8 MHz of D2D: log2 = 17.9384 - log2(40) = 12.6165; 302.776 / (8 * 12.6165) = 2.9998 s
    assert CORRECTED.d2d_s(links).item() == pytest.approx(2.9998, abs=2e-4)


def test_only_the_noise_corrected_makes_the_hierarchy_slower_than_star() -> None:
    costs = method_costs(replace(PAPER, noise_share=1.0))
    assert round(costs["hierarchical-e2"].latency_s, 2) == 18.96
    assert round(costs["hierarchical-e8"].latency_s, 2) == 14.42
    assert round(costs["star"].latency_s, 2) == 12.10


def test_corrected_costs_by_hand() -> None:
    # T = 0.1 s + 302.776320 Mbit / 4 Mbit/s = 75.79408 s; energies bill 1 W for u and 0.8 W for T.
    uplink_s = CORRECTED.uplink_s(draw_links())
    slowest_s, total_s = float(uplink_s.max()), float(uplink_s.sum())
    costs = method_costs(CORRECTED)
    assert costs["star"].latency_s == pytest.approx(75.79408 + slowest_s)
    assert costs["star"].energy_j == pytest.approx(40 * 0.8 * 75.79408 + total_s)
    assert costs["hierarchical-e2"].latency_s == pytest.approx(75.79408 / 2 + slowest_s)
    assert costs["hierarchical-e2"].energy_j == pytest.approx(10 * 0.8 * 75.79408 / 2 + total_s)
    assert costs["edge-only"].latency_s == pytest.approx(75.79408 / 200 + slowest_s)
    assert costs["edge-only"].energy_j == pytest.approx(total_s)


LATENCY_S = np.array([[np.nan, 1, 9], [2, np.nan, 3], [2.5, 1, np.nan]])


def test_a_relay_along_the_spanning_tree_by_hand() -> None:
    # The faster directions take 0-1: 1 s, 1-2: 1 s, 0-2: 2.5 s, so 2 reaches 0 by way of 1.
    # Up: 1 -> 0 in 2 s, 2 -> 1 -> 0 in 1 + 2 s. Down: 0 -> 1 in 1 s, 0 -> 1 -> 2 in 1 + 3 s, 0 -> 1 paid once.
    one = relay(LATENCY_S, np.full((3, 3), 31.0), aggregator=0)
    assert (one.up_s, one.up_airtime_s, one.down_s, one.down_airtime_s) == (3, 2 + 3, 4, 1 + 3)


def test_neighbours_use_all_their_links() -> None:
    # All within 30 m: 2 -> 0 directly, in 2.5 s. Down 0 -> 1 -> 2 stays the fastest.
    one = relay(LATENCY_S, np.full((3, 3), 30.0), aggregator=0)
    assert (one.up_s, one.up_airtime_s, one.down_s, one.down_airtime_s) == (2.5, 2 + 2.5, 4, 1 + 3)


def test_a_seed_decides_the_aggregators_alone() -> None:
    first, again, other = method_costs(PAPER), method_costs(PAPER), method_costs(PAPER, seed=1)
    assert first == again
    assert {method for method in first if first[method] != other[method]} == {
        "edge-only-d2d",
        "hierarchical-e2-d2d",
        "hierarchical-e8-d2d",
    }


def test_nothing_global_is_drawn_from() -> None:
    python, numpy = random.getstate(), np.random.get_state(legacy=False)  # noqa: NPY002
    method_costs(CORRECTED)
    assert random.getstate() == python
    after = np.random.get_state(legacy=False)  # noqa: NPY002
    assert isinstance(numpy, dict)
    assert isinstance(after, dict)
    np.testing.assert_equal(after, numpy)


def test_links_fit_the_papers_placement() -> None:
    links = draw_links()
    assert float(links.uplink_m.max()) <= 1000 + 500
    assert np.nanmax(links.d2d_m) <= 2 * 500
    for one, other in product(range(4), repeat=2):
        assert np.isnan(links.d2d_m[:, one, other]).all() == (one == other)
        np.testing.assert_array_equal(links.d2d_m[:, one, other], links.d2d_m[:, other, one])
