"""Radio links: budgets by hand, shadowing and fading over many draws, the links of the HF-FM paper."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from fogtune import preset
from fogtune.platform.config import LogDistance, Network, PaperChannel, Radio
from fogtune.platform.errors import InputError
from fogtune.platform.network.band import Floats, quality_hz, shannon_bits_per_s
from fogtune.platform.network.channel import Channel, build_channel, log_distance_gain
from fogtune.platform.network.hf_fm import PAPER
from fogtune.platform.network.hf_fm_channel import draw_links
from fogtune.platform.network.sites import Sites, find_sites
from fogtune.platform.topology_build import build_tree

CARRIER_HZ = 3.5e9
MANY = 4000
STILL = Radio(fading="none")


def db(ratio: float) -> float:
    return 10 * math.log10(ratio)


def channel(log_distance: LogDistance, radio: Radio = STILL, *, seed: int = 1, away_m: float = 500) -> Channel:
    """Of a node `fog` in the origin and devices `d0`, `d1`, ... all `away_m` from it, in the direction (3, 4)."""
    devices = tuple(f"d{i}" for i in range(MANY))
    positions = {"fog": (0.0, 0.0)} | dict.fromkeys(devices, (0.6 * away_m, 0.8 * away_m))
    sites = Sites(positions, dict.fromkeys(devices, "fog"), {"fog": devices})
    return build_channel(preset("smoke", f"seed={seed}"), Network(channel=log_distance, radio=radio), sites)


def test_free_space_at_one_metre() -> None:
    # (4 pi f / c)^2 = (4 pi * 3.5 GHz / 299.79 Mm/s)^2 = 146.7^2, 43.3 dB; nothing is nearer than that.
    gain = log_distance_gain(LogDistance(exponent=2), CARRIER_HZ, 1)
    assert db(gain) == pytest.approx(-43.33, abs=5e-3)
    assert log_distance_gain(LogDistance(), CARRIER_HZ, 0.01) == gain
    # Friis at 10 m: 20 dB more; a reference loss of one's own is that at 1 m, whatever the carrier.
    assert db(log_distance_gain(LogDistance(exponent=2), CARRIER_HZ, 10)) == pytest.approx(-63.33, abs=5e-3)
    assert db(log_distance_gain(LogDistance(exponent=4, reference_loss_db=30), 1e9, 100)) == pytest.approx(-30 - 80)


def test_the_noise_of_a_receiver() -> None:
    # -174 dBm/Hz is 10^-20.4 W/Hz; 10 dB of noise figure are ten times that.
    assert quality_hz(1.0, 1e-10, 0) == pytest.approx(10**10.4)
    assert quality_hz(2.0, 1e-10, 10) == pytest.approx(2 * 10**9.4)


def test_the_budget_of_a_device_500_m_away() -> None:
    # Sent 0.2 W = 23.01 dBm; loss 43.33 + 30 log10(500) = 43.33 + 80.97 = 124.30 dB; received -101.29 dBm.
    # Noise -174 + 7 = -167 dBm/Hz, so q is 65.71 dB Hz = 3.72 MHz: an SNR of 0.372 over 10 MHz.
    # 10 MHz * log2(1.372) = 4.56 Mbit/s.
    gain = channel(LogDistance(exponent=3, shadowing_db=0)).gain(1, "d0", "fog")
    assert db(gain) == pytest.approx(-124.30, abs=0.01)
    quality = quality_hz(0.2, gain, 7)
    assert db(quality) == pytest.approx(65.71, abs=0.01)
    assert shannon_bits_per_s(np.array([quality]), np.array([10e6])) == pytest.approx([4.56e6], abs=0.01e6)


def test_links_carry_what_shannon_says() -> None:
    assert channel(LogDistance()).efficiency(np.array([0.0, 3.0, 7.0])) == pytest.approx([0, 2, 3])


def gains(of: Channel, rounds: Sequence[int] = (1,), links: int = MANY) -> Floats:
    return np.array([of.gain(number, f"d{i}", "fog") for number in rounds for i in range(links)])


def test_shadowing_is_lognormal_a_link() -> None:
    decibels = 10 * np.log10(gains(channel(LogDistance(shadowing_db=6))))
    # Standard errors of 4000 draws: 6 / sqrt(4000) = 0.095 of the mean, 6 / sqrt(8000) = 0.067 of the deviation.
    assert decibels.mean() == pytest.approx(-124.30, abs=0.3)
    assert decibels.std() == pytest.approx(6, abs=0.2)
    # Normal: 68.3 % lie within one deviation, with a standard error of 0.7 %.
    assert np.mean(np.abs(decibels + 124.30) < 6) == pytest.approx(0.683, abs=0.025)


def test_without_fading_a_link_stays_as_it_is() -> None:
    of = channel(LogDistance(shadowing_db=6))
    assert gains(of, [1], 20).tolist() == gains(of, [2], 20).tolist()
    assert len(set(gains(of, [1], 20).tolist())) == 20
    assert not set(gains(of, [1], 20).tolist()) & set(gains(channel(LogDistance(), seed=2), [1], 20).tolist())
    # All devices stand in one place here: it is the pair of nodes that shadowing is of.
    assert len({of.gain(1, "d0", f"d{i}") for i in range(1, 20)}) == 19


@pytest.mark.parametrize(("rounds", "links"), [(range(MANY), 1), ([7], MANY)], ids=["rounds", "links"])
def test_rayleigh_fading_is_exponential_with_mean_1(rounds: Sequence[int], links: int) -> None:
    of = LogDistance(shadowing_db=0)
    power = gains(channel(of, Radio()), rounds, links) / channel(of).gain(1, "d0", "fog")
    # Mean and deviation are 1, each with a standard error of at most 3 %; exp(-x) of the draws are above x.
    assert (power.mean(), power.std()) == pytest.approx((1, 1), abs=0.08)
    for level in (0.1, 1.0, 2.0):
        assert np.mean(power > level) == pytest.approx(math.exp(-level), abs=0.025)
    assert len(np.unique(power)) == MANY
    assert not set(gains(channel(of, Radio()), rounds, links)) & set(gains(channel(of, Radio(), seed=2), rounds, links))


def test_both_directions_have_one_gain_whoever_asks_first() -> None:
    ahead, back = channel(LogDistance(), Radio()), channel(LogDistance(), Radio())
    for number in (1, 2):
        down = [back.gain(number, "fog", f"d{i}") for i in reversed(range(10))][::-1]
        assert gains(ahead, [number], 10).tolist() == down
    assert ahead.gain(1, "d0", "d1") == ahead.gain(1, "d1", "d0") != ahead.gain(2, "d0", "d1")


def paper_sites(*overrides: str) -> tuple[Sites, Channel]:
    """40 devices in 10 cells, if the overrides leave it at that."""
    config = preset(
        "smoke", "network.channel.kind=paper", "devices.0.count=37", "topology.tiers.0.count=10", *overrides
    )
    network = config.network or Network()
    assert isinstance(network.channel, PaperChannel)
    sites = find_sites(config, build_tree(config), network)
    return sites, build_channel(config, network, sites)


@pytest.mark.parametrize("topology", ["counted", "star"])
def test_the_papers_links_take_the_papers_seconds(topology: str) -> None:
    star = ["topology.tiers=[]", "network.placement.access_points=10"]
    sites, of = paper_sites(*(star if topology == "star" else []))
    links = draw_links()
    up_s, d2d_s = np.zeros((10, 4)), np.full((10, 4, 4), np.nan)
    for i, (access, devices) in enumerate(sites.cells.items()):
        for j, device in enumerate(devices):
            up_s[i, j] = 48e6 / rate_bits_per_s(of, device, access, power_w=1.0, band_hz=1e6)
            assert of.gain(1, device, access) == of.gain(2, access, device)  # one draw for all rounds
            assert sites.distance_m(device, access) == pytest.approx(float(links.uplink_m[i, j]))
            for k, other in enumerate(devices):
                if k != j:
                    d2d_s[i, j, k] = 48e6 / rate_bits_per_s(of, device, other, power_w=0.2, band_hz=8e6)
                    assert sites.distance_m(device, other) == pytest.approx(float(links.d2d_m[i, j, k]))
    assert up_s == pytest.approx(PAPER.uplink_s(links))
    assert d2d_s == pytest.approx(PAPER.d2d_s(links), nan_ok=True)


def rate_bits_per_s(of: Channel, sender: str, receiver: str, *, power_w: float, band_hz: float) -> float:
    quality = quality_hz(power_w, of.gain(1, sender, receiver), 0)
    return band_hz * float(of.efficiency(np.array([quality / band_hz]))[0])


@pytest.mark.parametrize(
    ("change", "cells"),
    [("devices.0.count=36", "4, 4, 4, 4, 4, 4, 4, 4, 4, 3"), ("topology.tiers.0.count=2", "20, 20")],
)
def test_a_federation_of_another_shape_has_not_the_papers_links(change: str, cells: str) -> None:
    with pytest.raises(InputError) as caught:
        paper_sites(change)
    assert str(caught.value) == (
        f"network.channel.kind: 'paper' has 10 cells of 4 devices, this federation cells of {cells}; "
        "allowed: log-distance, tr38901"
    )
