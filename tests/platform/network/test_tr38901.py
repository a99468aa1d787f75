"""The TR 38.901 channel: path loss by hand, states and shadowing over many links, keyed draws, link adaptation."""

import subprocess
import sys
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest

from fogtune.platform.errors import InputError
from fogtune.platform.network.tr38901 import Tr38901

Floats = npt.NDArray[np.float64]
Scenario = Literal["umi", "uma", "inf"]

CARRIER_HZ = 3.5e9
MANY = 4000


def links(across_m: float, station_m: float, *, count: int = 1, terminal_m: float = 1.5) -> tuple[Floats, Floats]:
    """`count` times the same link: terminals at the origin, stations in the direction (3, 4)."""
    terminals = np.tile([0.0, 0.0, terminal_m], (count, 1))
    return terminals, np.tile([0.6 * across_m, 0.8 * across_m, station_m], (count, 1))


def path_loss_db(scenario: Scenario, across_m: float, station_m: float, *, line_of_sight: bool) -> float:
    channel = Tr38901(scenario, CARRIER_HZ, seed=1)
    return float(channel.path_loss_db(*links(across_m, station_m), np.array([line_of_sight]))[0])


def gains_db(scenario: Scenario, across_m: float, station_m: float) -> Floats:
    """Of `MANY` links of one length, which differ in their keys alone."""
    keys = [f"device-{index}" for index in range(MANY)]
    gain = Tr38901(scenario, CARRIER_HZ, seed=1).mean_gain(*links(across_m, station_m, count=MANY), keys)
    assert np.all(gain < 1)
    decibels: Floats = 10 * np.log10(gain)
    return decibels


# Expectations are Table 7.4.1-1 at f = 3.5 GHz, d3D = sqrt(d2D^2 + (hBS - 1.5 m)^2). log10(3.5) = 0.544068.


def test_path_loss_of_umi() -> None:
    # d2D = 100 m, hBS = 10 m: d3D = 100.3606 m, log10 = 2.001563.
    # PL1 = 32.4 + 21 * 2.001563 + 20 * 0.544068; breakpoint 4 * 9 * 0.5 * 3.5e9 / 299792458 = 210 m.
    assert path_loss_db("umi", 100, 10, line_of_sight=True) == pytest.approx(85.3142, abs=1e-3)
    # 22.4 + 35.3 * 2.001563 + 21.3 * 0.544068 - 0.3 * 0
    assert path_loss_db("umi", 100, 10, line_of_sight=False) == pytest.approx(104.6438, abs=1e-3)
    # Beyond the breakpoint, d2D = 1000 m: d3D = 1000.0361 m, log10 = 3.0000157.
    # PL2 = 32.4 + 40 * 3.0000157 + 20 * 0.544068 - 9.5 * log10(210.145^2 + 8.5^2)
    assert path_loss_db("umi", 1000, 10, line_of_sight=True) == pytest.approx(119.1474, abs=1e-3)


def test_path_loss_of_uma() -> None:
    # d2D = 100 m, hBS = 25 m: d3D = 102.7241 m, log10 = 2.011672.
    # PL1 = 28 + 22 * 2.011672 + 20 * 0.544068
    assert path_loss_db("uma", 100, 25, line_of_sight=True) == pytest.approx(83.1382, abs=1e-3)
    # 13.54 + 39.08 * 2.011672 + 20 * 0.544068 - 0.6 * 0
    assert path_loss_db("uma", 100, 25, line_of_sight=False) == pytest.approx(103.0375, abs=1e-3)


def test_path_loss_of_inf() -> None:
    # d2D = 50 m, hBS = 8 m: d3D = 50.4207 m, log10 = 1.702609.
    # 31.84 + 21.5 * 1.702609 + 19 * 0.544068
    assert path_loss_db("inf", 50, 8, line_of_sight=True) == pytest.approx(78.7834, abs=1e-3)
    # 33.63 + 21.9 * 1.702609 + 20 * 0.544068
    assert path_loss_db("inf", 50, 8, line_of_sight=False) == pytest.approx(81.7985, abs=1e-3)


@pytest.mark.parametrize(("scenario", "nearest_m"), [("umi", 10.0), ("uma", 10.0), ("inf", 1.0)])
def test_short_distances_count_as_the_nearest(scenario: Scenario, nearest_m: float) -> None:
    at_nearest = path_loss_db(scenario, nearest_m, 8, line_of_sight=True)
    assert path_loss_db(scenario, 0.0, 8, line_of_sight=True) == at_nearest
    assert path_loss_db(scenario, nearest_m + 1, 8, line_of_sight=True) > at_nearest


def test_heights_are_moved_into_range() -> None:
    channel = Tr38901("uma", CARRIER_HZ, seed=1)
    blocked = np.array([False])

    def loss_db(terminal_m: float, station_m: float) -> float:
        return float(channel.path_loss_db(*links(100, station_m, terminal_m=terminal_m), blocked)[0])

    assert loss_db(0.0, 25) == loss_db(1.5, 25)
    assert loss_db(20.0, 25) == loss_db(13.0, 25) < loss_db(1.5, 25)
    assert loss_db(1.5, 0.0) == loss_db(1.5, 1.5)


@pytest.mark.parametrize(
    ("scenario", "across_m", "station_m", "probability"),
    [
        ("umi", 17.9, 10.0, 1.0),
        ("umi", 100.0, 10.0, 0.2310),  # 18/100 + exp(-100/36) (1 - 18/100)
        ("uma", 100.0, 25.0, 0.3477),  # 18/100 + exp(-100/63) (1 - 18/100); C' is 0 below 13 m
        ("inf", 5.0, 8.0, 0.2048),  # exp(-5/k), k = -2/ln(1 - 0.6) * (8 - 1.5)/(6 - 1.5) = 3.1529
    ],
)
def test_line_of_sight_probability(scenario: Scenario, across_m: float, station_m: float, probability: float) -> None:
    channel = Tr38901(scenario, CARRIER_HZ, seed=1)
    assert channel.line_of_sight_probability(*links(across_m, station_m)) == pytest.approx(probability, abs=1e-4)


@pytest.mark.parametrize(
    ("scenario", "across_m", "station_m", "line_of_sight", "sigma_db"),
    [
        ("umi", 15, 10, True, 4.0),
        ("uma", 15, 25, True, 4.0),
        ("inf", 100, 8, False, 4.0),
    ],
)
def test_shadowing_where_the_state_is_certain(
    scenario: Scenario, across_m: float, station_m: float, line_of_sight: bool, sigma_db: float
) -> None:
    shadowing_db = gains_db(scenario, across_m, station_m)
    shadowing_db += path_loss_db(scenario, across_m, station_m, line_of_sight=line_of_sight)
    assert shadowing_db.mean() == pytest.approx(0, abs=4 * sigma_db / np.sqrt(MANY))
    assert shadowing_db.std() == pytest.approx(sigma_db, rel=0.05)


def test_share_of_links_in_sight() -> None:
    seen, blocked = (path_loss_db("umi", 100, 10, line_of_sight=state) for state in (True, False))
    # The mean loss lies between those of the two states as their shares say.
    share = (blocked + gains_db("umi", 100, 10).mean()) / (blocked - seen)
    assert share == pytest.approx(0.231, abs=0.03)


def test_a_link_is_the_same_alone_and_in_a_batch() -> None:
    channel = Tr38901("umi", CARRIER_HZ, seed=1)
    generator = np.random.default_rng(1)
    terminals, stations = generator.uniform(0, 500, size=(2, 5, 3))
    keys = ["a>fog", "b>fog", "c>fog", "d>fog", "e>fog"]
    together = channel.mean_gain(terminals, stations, keys)
    for index, key in enumerate(keys):
        alone = channel.mean_gain(terminals[[index]], stations[[index]], [key])
        assert alone[0] == together[index]
    assert np.all(channel.mean_gain(terminals[::-1], stations[::-1], keys[::-1]) == together[::-1])
    assert np.all(Tr38901("umi", CARRIER_HZ, seed=2).mean_gain(terminals, stations, keys) != together)
    assert channel.mean_gain(terminals[:0], stations[:0], []).shape == (0,)


def test_spectral_efficiency() -> None:
    snr_db = np.arange(-20, 40.01, 0.05)
    snr = 10 ** (snr_db / 10)
    reached = Tr38901.spectral_efficiency(snr)
    assert np.all(np.diff(reached) >= 0)
    assert np.all(reached <= np.log2(1 + snr))
    # TS 38.214 Table 5.1.3.1-1: scheme 3 is QPSK at a rate of 251/1024, scheme 28 is 64-QAM at 948/1024.
    assert np.unique(reached)[:2] == pytest.approx([0, 2 * 251 / 1024])
    assert reached[0] == 0
    assert reached[snr_db >= 30] == pytest.approx(6 * 948 / 1024)
    assert Tr38901.spectral_efficiency(np.zeros((2, 3))).tolist() == [[0] * 3] * 2


def test_sionna_is_imported_late_and_leaves_torch_seeded() -> None:
    code = """
import sys, torch
from fogtune.platform.network.tr38901 import Tr38901
assert "sionna" not in sys.modules
torch.manual_seed(1)
before = torch.get_rng_state()
Tr38901("umi", 3.5e9, seed=1)
assert "sionna" in sys.modules
assert torch.equal(torch.get_rng_state(), before)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_sionna_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sionna.phy.channel", None)
    with pytest.raises(InputError, match=r"network\.channel\.kind: .*pip install 'fogtune\[tr38901\]'"):
        Tr38901("umi", CARRIER_HZ, seed=1)
