"""The propagation model of 3GPP TR 38.901 and the link adaptation of 5G NR, both through Sionna.

Sionna (https://github.com/NVlabs/sionna, the package `sionna-no-rt`) gives the line-of-sight probability, the path
loss, the standard deviation of shadowing (its tables of TR 38.901 v19.2), the block error rates and the choice of the
modulation and coding scheme. Only the two draws of a link, its state and its shadowing, are made here: Sionna draws
from one stream, so a link would depend on those drawn before it. For the same reason shadowing is independent from
link to link, without its correlation over distance (clause 7.4.4). Users are outdoors, or in the factory for InF.

Sionna takes seconds to import, so that happens when it is first needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from fogtune.platform.errors import InputError
from fogtune.platform.rng import numpy_generator

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

_NEAREST_M = {"umi": 10.0, "uma": 10.0, "inf": 1.0}  # the least distances of Table 7.4.1-1
_LOWEST_M = 1.5  # of users, of the same table
_HIGHEST_M = 13.0  # above it UMa has an environment height to draw (note 1 of that table), which Sionna draws unkeyed

_SHADOWING = 3  # where it stands among Sionna's large-scale parameters

_BLOCK_ERRORS = 0.1  # the target of link adaptation
_RESOURCE_ELEMENTS = 50 * 12 * 14  # of a transport block: a slot of 50 resource blocks
_MCS_TABLE = {"mcs_table_index": 1, "mcs_category": 1}  # Sionna's category 1 is PDSCH


@dataclass(frozen=True)
class Tr38901:
    """Links of one scenario between user terminals and base stations.

    Positions are (x, y, height) in metres, `low` of the terminals and `high` of the stations, both (n, 3), a link a
    row. What lies outside the range of the model is moved to its edge: the distance over ground to at least 10 m
    (InF: 1 m), a terminal's height to 1.5 to 13 m, a station's to at least its terminal's.
    """

    scenario: Literal["umi", "uma", "inf"]
    """Urban micro (stations at 10 m), urban macro (25 m), or indoor factory: InF-DH, dense clutter 6 m tall that
    covers 60 % of the floor, and stations above it (8 m; Table 7.8-7)."""
    carrier_hz: float
    """Carrier frequency; TR 38.901 holds for 0.5 to 100 GHz."""
    seed: int
    """Of all draws, together with a link's key."""

    def __post_init__(self) -> None:
        _sionna()  # where it is missing, that is said before a run begins

    def mean_gain(self, low: Floats, high: Floats, keys: Sequence[str]) -> Floats:
        """Mean linear power gain of each link, fast fading averaged out, (n,).

        Path loss (clause 7.4.1) in the state drawn by the line-of-sight probability (7.4.2), and lognormal shadowing
        with the standard deviation of that state (Table 7.4.1-1).

        Args:
            low: Terminals.
            high: Base stations.
            keys: Of the links, n; a link's draws depend on the seed and its key alone.
        """
        # Of each link's generator the first draw is for its state, the second for its shadowing.
        generators = [numpy_generator(self.seed, "tr38901", key) for key in keys]
        chance = np.array([generator.uniform() for generator in generators])
        deviation = np.array([generator.standard_normal() for generator in generators])
        line_of_sight = chance < self.line_of_sight_probability(low, high)
        links = self._links(low, high, line_of_sight)
        shadowing_db = 10 * _per_link(links.lsp_log_std[..., _SHADOWING]) * deviation
        gain: Floats = 10 ** ((shadowing_db - _per_link(links.basic_pathloss)) / 10)
        return gain

    def line_of_sight_probability(self, low: Floats, high: Floats) -> Floats:
        """Of each link, (n,); Table 7.4.2-1."""
        return _per_link(self._links(low, high, np.ones(len(low), dtype=bool)).los_probability)

    def path_loss_db(self, low: Floats, high: Floats, line_of_sight: Bools) -> Floats:
        """Path loss of each link in the state of `line_of_sight` (n,), without shadowing, (n,); Table 7.4.1-1."""
        return _per_link(self._links(low, high, line_of_sight).basic_pathloss)

    @staticmethod
    def spectral_efficiency(snr: Floats) -> Floats:
        """Bit/s/Hz that link adaptation reaches at linear signal-to-noise ratios, elementwise.

        A staircase: the rate of the highest scheme of TS 38.214 Table 5.1.3.1-1 (up to 64-QAM; uplink and downlink
        alike) whose transport blocks fail at most one time in ten over an AWGN channel; 0 where none does. Sionna has
        no error rates for the three lowest schemes, so that is below -2.8 dB. Neither retransmissions nor pilots and
        control channels are taken off.
        """
        thresholds, efficiencies = _staircase()
        reached: Floats = efficiencies[np.searchsorted(thresholds, snr, side="right")]
        return reached

    def _links(self, low: Floats, high: Floats, line_of_sight: Bools) -> Any:
        """Sionna's scenario object with each link in a batch entry of its own: its tensors are (n, 1, 1)."""
        model, _ = _sionna()
        place = {"precision": "double", "device": "cpu"}
        antenna = model.Antenna("single", "V", "omni", self.carrier_hz, **place)  # has no say in path loss
        kind, variant = {  # the variant of UMi and UMa is for users in buildings, of which there are none
            "umi": (model.UMiScenario, "low"),
            "uma": (model.UMaScenario, "low"),
            "inf": (model.InFScenario, "DH"),
        }[self.scenario]
        links = kind(self.carrier_hz, variant, antenna, antenna, "uplink", **place)

        # Nothing but distance and heights matters: each station over the origin, its terminal along the x axis.
        count = len(low)
        terminals, stations = np.zeros((2, count, 1, 3))
        across_m = np.linalg.norm(low[:, :2] - high[:, :2], axis=1)
        terminals[:, 0, 0] = np.maximum(across_m, _NEAREST_M[self.scenario])
        terminals[:, 0, 2] = np.clip(low[:, 2], _LOWEST_M, _HIGHEST_M)
        stations[:, 0, 2] = np.maximum(high[:, 2], terminals[:, 0, 2])
        still = torch.zeros((count, 1, 3), dtype=torch.float64)
        links.set_topology(
            ut_loc=torch.from_numpy(terminals),
            bs_loc=torch.from_numpy(stations),
            ut_orientations=still,
            bs_orientations=still,
            ut_velocities=still,
            in_state=torch.full((count, 1), self.scenario == "inf"),
            los=torch.from_numpy(line_of_sight).reshape(count, 1, 1),
        )
        return links


def _per_link(values: torch.Tensor) -> Floats:
    """(n, 1, 1) to (n,)."""
    flat: Floats = values[:, 0, 0].numpy()
    return flat


@cache
def _staircase() -> tuple[Floats, Floats]:
    """Linear SNRs where steps may be, (t,), and the bit/s/Hz below the first of them and from each on, (1 + t,)."""
    _, system = _sionna()
    snr = 10 ** (np.arange(-50, 301) / 100)  # -5 to 30 dB by 0.1 dB, the grid of Sionna's block error rates
    link = {
        "sinr_eff": torch.from_numpy(snr),
        "num_allocated_re": torch.full(snr.shape, _RESOURCE_ELEMENTS),
        **_MCS_TABLE,
    }
    abstraction = system.PHYAbstraction(device="cpu")
    scheme = system.InnerLoopLinkAdaptation(abstraction, bler_target=_BLOCK_ERRORS, device="cpu")(**link)
    *_, block_errors, _ = abstraction(scheme, **link)  # of the lowest scheme where none meets the target
    decoder = system.phy_abstraction.MCSDecoderNR(device="cpu")
    bits_per_symbol, code_rate = decoder(scheme, **_MCS_TABLE)
    reached = torch.where(block_errors <= _BLOCK_ERRORS, bits_per_symbol * code_rate, 0.0).numpy().astype(np.float64)
    # Scheme 17 carries slightly less than 16, so the highest scheme is not everywhere the fastest.
    return snr, np.maximum.accumulate(np.concatenate([[0.0], reached]))


def _sionna() -> tuple[ModuleType, ModuleType]:
    """Sionna's modules for TR 38.901 and for link adaptation; InputError where Sionna is not installed."""
    # Its import seeds torch's default generators afresh, at random: we put back what they were.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            from sionna import sys as system
            from sionna.phy.channel import tr38901 as model
        except ImportError as error:
            raise InputError(
                "network.channel.kind",
                "'tr38901' needs Sionna; allowed: log-distance, paper, or pip install 'fogtune[tr38901]'",
            ) from error
    return model, system
