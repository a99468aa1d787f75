"""Latency and energy of the seven methods of the HF-FM paper, as its code computes them and corrected.

The paper is arXiv 2509.03695, its code https://github.com/payamsiabd/M3T-FFM. Both ways share every formula and every
draw here; they differ in `Assumptions` alone. No computation, no downlink and no contention between users is counted,
as in the paper. Energies are joules throughout: the paper prints these very figures as "kJ".
"""

from __future__ import annotations

from dataclasses import dataclass

from ..rng import numpy_generator
from .hf_fm_channel import CLUSTERS, SEED, USERS, Floats, Links, draw_links, rate_bits_per_s
from .hf_fm_relay import Relay, relay

_UPLINK_W = 1.0
_UPLINK_HZ = 1e6
_D2D_W = 0.2
_D2D_HZ = 8e6
_BACKHAUL_W = 0.8
_BACKHAUL_BITS_PER_S = 4e6
_BACKHAUL_DELAY_S = 0.1

_CADENCES = (2, 8)  # E, edge rounds per cloud round
_EDGE_ONLY_CADENCE = 200  # all rounds of a run: the cloud hears of it once


@dataclass(frozen=True)
class Assumptions:
    """What the paper's figures and the corrected ones differ in."""

    update_bits: float
    """Size of one update."""
    noise_share: float
    """Part of the bandwidth whose noise is counted."""
    mean_fading: float
    """Mean of the fading's power; 1 keeps the mean received power that of the path loss."""
    uplink_billed_w: float
    """What energy takes for a user's power to its edge server; rates take 1 W."""
    d2d_billed_w: float
    """What energy takes for a user's power to another user; rates take 0.2 W."""
    star_over_radio: bool
    """Whether star's updates pass the user's radio link before the backhaul, as all others do."""

    @property
    def backhaul_s(self) -> float:
        """T, one update from user or edge server to the cloud."""
        return _BACKHAUL_DELAY_S + self.update_bits / _BACKHAUL_BITS_PER_S

    def uplink_s(self, links: Links) -> Floats:
        """u, one update from each user to its edge server, (10, 4)."""
        return self._radio_s(links.uplink_m, links.uplink_fading, _UPLINK_W, _UPLINK_HZ)

    def d2d_s(self, links: Links) -> Floats:
        """One update from user to user, (10, 4 senders, 4 receivers); nan from a user to itself."""
        return self._radio_s(links.d2d_m, links.d2d_fading, _D2D_W, _D2D_HZ)

    def _radio_s(self, distance_m: Floats, fading: Floats, power_w: float, bandwidth_hz: float) -> Floats:
        scaled = fading * (self.mean_fading / 2)  # as drawn, the mean is 2
        noise_hz = self.noise_share * bandwidth_hz
        rate = rate_bits_per_s(distance_m, scaled, power_w=power_w, bandwidth_hz=bandwidth_hz, noise_hz=noise_hz)
        return self.update_bits / rate


PAPER = Assumptions(
    update_bits=48e6,
    noise_share=1e-3,  # kHz where the noise density asks for Hz
    mean_fading=2.0,
    uplink_billed_w=0.6,
    d2d_billed_w=0.6,
    star_over_radio=False,
)
"""Those of the paper's code, defects included: they give the published figures."""

CORRECTED = Assumptions(
    update_bits=9_461_760 * 32,  # all parameters of its adapters, in fp32
    noise_share=1.0,
    mean_fading=1.0,
    uplink_billed_w=_UPLINK_W,
    d2d_billed_w=_D2D_W,
    star_over_radio=True,
)
"""Units that agree with each other, and the size that the paper's adapters really have."""


@dataclass(frozen=True)
class Cost:
    """What one edge round of a method costs, its share of the cloud's included."""

    latency_s: float
    energy_j: float


def method_costs(assumptions: Assumptions, seed: int = SEED) -> dict[str, Cost]:
    """The costs of all methods, by name, in the order of the paper's table.

    Args:
        assumptions: `PAPER`, `CORRECTED` or what is between them.
        seed: Decides who aggregates in each cluster of the D2D methods, and nothing else. The paper's code draws that
            without a seed, so its published D2D figures are one draw of many.
    """
    links = draw_links()
    uplink_s = assumptions.uplink_s(links)
    relays = _relays(assumptions.d2d_s(links), links, seed)
    costs = {
        "star": _star(assumptions, uplink_s),
        "edge-only": _edge_only(assumptions, uplink_s),
        "edge-only-d2d": _relayed(assumptions, uplink_s, relays, _EDGE_ONLY_CADENCE, backhaul_w=0.0),
    }
    for cadence in _CADENCES:
        costs[f"hierarchical-e{cadence}"] = _hierarchical(assumptions, uplink_s, cadence)
    for cadence in _CADENCES:
        costs[f"hierarchical-e{cadence}-d2d"] = _relayed(assumptions, uplink_s, relays, cadence, _BACKHAUL_W)
    return costs


def _star(assumptions: Assumptions, uplink_s: Floats) -> Cost:
    """Every user's update goes to the cloud by itself: nothing is added up on the way."""
    latency_s = assumptions.backhaul_s
    energy_j = CLUSTERS * USERS * _BACKHAUL_W * assumptions.backhaul_s
    if assumptions.star_over_radio:
        latency_s += float(uplink_s.max())
        energy_j += assumptions.uplink_billed_w * float(uplink_s.sum())
    return Cost(latency_s, energy_j)


def _edge_only(assumptions: Assumptions, uplink_s: Floats) -> Cost:
    """As in the paper, the one message to the cloud takes time but no energy."""
    return Cost(
        latency_s=assumptions.backhaul_s / _EDGE_ONLY_CADENCE + float(uplink_s.max()),
        energy_j=assumptions.uplink_billed_w * float(uplink_s.sum()),
    )


def _hierarchical(assumptions: Assumptions, uplink_s: Floats, cadence: int) -> Cost:
    backhaul_j = CLUSTERS * _BACKHAUL_W * assumptions.backhaul_s / cadence
    return Cost(
        latency_s=assumptions.backhaul_s / cadence + float(uplink_s.max()),
        energy_j=backhaul_j + assumptions.uplink_billed_w * float(uplink_s.sum()),
    )


def _relayed(assumptions: Assumptions, uplink_s: Floats, relays: list[Relay], cadence: int, backhaul_w: float) -> Cost:
    """Of `cadence` rounds all but the last stay among devices; the last goes to the edge server and the cloud.

    As in the paper, that one uplink costs what the cluster's mean user takes, whoever aggregates.
    """
    latencies_s = []
    energy_j = 0.0
    for mean_uplink_s, one in zip(uplink_s.mean(axis=1).tolist(), relays, strict=True):
        within_s = (cadence - 1) * (one.up_s + one.down_s) + one.up_s
        airtime_s = (cadence - 1) * (one.up_airtime_s + one.down_airtime_s) + one.up_airtime_s
        latencies_s.append((assumptions.backhaul_s + within_s + mean_uplink_s) / cadence)
        uplink_j = assumptions.uplink_billed_w * mean_uplink_s
        backhaul_j = backhaul_w * assumptions.backhaul_s
        energy_j += (backhaul_j + assumptions.d2d_billed_w * airtime_s + uplink_j) / cadence
    return Cost(max(latencies_s), energy_j)


def _relays(d2d_s: Floats, links: Links, seed: int) -> list[Relay]:
    aggregators = (
        int(numpy_generator(seed, "network/hf-fm-aggregator", number).integers(USERS)) for number in range(CLUSTERS)
    )
    return [relay(*cluster) for cluster in zip(d2d_s, links.d2d_m, aggregators, strict=True)]
