"""The radio channel: which part of the sent power arrives, link by link and round by round.

Gain = mean gain (path loss and shadowing, which stay) times fading (one draw a link and round: block fading). Both are
keyed by the pair of nodes, so a link has the same gain in both directions and whoever asks first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np

from fogtune.platform.config import Config, LogDistance, Network, PaperChannel
from fogtune.platform.rng import numpy_generator

from .band import Floats, shannon
from .paper_channel import FromPaper
from .sites import Sites

if TYPE_CHECKING:
    from .tr38901 import Tr38901

_SPEED_OF_LIGHT_M_PER_S = 299_792_458.0
_NEAREST_M = 1.0  # where path loss begins

_TERMINAL_M = 1.5
_STATION_M = {"umi": 10.0, "uma": 25.0, "inf": 8.0}
"""Heights above the ground, as TR 38.901 has them in its scenarios (tables 7.2-1 to 7.2-4)."""


class Channel(Protocol):
    """A model of the radio channel."""

    def gain(self, round_number: int, sender: str, receiver: str) -> float:
        """Received over sent power."""

    def efficiency(self, snr: Floats) -> Floats:
        """bit/s/Hz that a link carries at a signal-to-noise ratio (linear)."""


_ROUNDS_KNOWN = 8

MeanGain = Callable[[str, str, str], float]
"""(node, node, key of the link's draws) -> mean gain."""


class KeyedChannel:
    """Mean gains from a path loss model, fading drawn by key."""

    def __init__(
        self,
        mean_gain: MeanGain,
        efficiency: Callable[[Floats], Floats],
        radio_name: Mapping[str, str],
        seed: int,
        rayleigh: bool,
    ) -> None:
        """`radio_name` is access node -> name under which its links are drawn."""
        self._mean_gain = mean_gain
        self._radio_name = radio_name
        self._seed = seed
        self._rayleigh = rayleigh
        self._known: dict[tuple[str, str], float] = {}
        self._faded: dict[int, dict[tuple[str, str], float]] = {}
        """Of the rounds that were asked for last: this one, and those in which devices under way have begun."""
        self.efficiency = efficiency

    def gain(self, round_number: int, sender: str, receiver: str) -> float:
        if round_number not in self._faded:
            if len(self._faded) == _ROUNDS_KNOWN:
                del self._faded[min(self._faded)]
            self._faded[round_number] = {}
        faded = self._faded[round_number]
        pair = (sender, receiver) if sender < receiver else (receiver, sender)
        if pair not in faded:
            key = sorted(self._radio_name.get(node, node) for node in pair)
            if pair not in self._known:
                self._known[pair] = self._mean_gain(*pair, " ".join(key))
            faded[pair] = self._known[pair] * self._fading(round_number, *key)
        return faded[pair]

    def _fading(self, round_number: int, *key: str) -> float:
        """Rayleigh amplitude: power exponential, of mean 1."""
        if not self._rayleigh:
            return 1.0
        return float(numpy_generator(self._seed, "fading", round_number, *key).exponential())


def log_distance_gain(channel: LogDistance, carrier_hz: float, distance_m: float) -> float:
    """Mean gain at a distance, without shadowing; below 1 m that of 1 m."""
    loss_db = channel.reference_loss_db
    if loss_db is None:  # Friis, isotropic antennas
        loss_db = 20 * math.log10(4 * math.pi * carrier_hz / _SPEED_OF_LIGHT_M_PER_S)
    return float(10 ** (-(loss_db + 10 * channel.exponent * math.log10(max(distance_m, _NEAREST_M))) / 10))


def build_channel(config: Config, network: Network, sites: Sites) -> Channel:
    """The channel that a configuration names.

    Raises:
        InputError: what it needs is not installed, or the federation is not the one that it is of.
    """
    channel, seed = network.channel, config.seed
    rayleigh = network.radio.fading == "rayleigh"
    if isinstance(channel, PaperChannel):
        return FromPaper(sites.cells)
    if isinstance(channel, LogDistance):
        mean_gain = _log_distance(channel, network.radio.carrier_hz, sites, seed)
        return KeyedChannel(mean_gain, shannon, sites.radio_name, seed, rayleigh)
    from .tr38901 import Tr38901  # Sionna comes with it

    model = Tr38901(channel.scenario, network.radio.carrier_hz, seed)
    return KeyedChannel(_three_gpp(model, sites), model.spectral_efficiency, sites.radio_name, seed, rayleigh)


def _log_distance(channel: LogDistance, carrier_hz: float, sites: Sites, seed: int) -> MeanGain:
    def mean_gain(one: str, other: str, key: str) -> float:
        shadowing_db = channel.shadowing_db * numpy_generator(seed, "shadowing", key).standard_normal()
        return log_distance_gain(channel, carrier_hz, sites.distance_m(one, other)) * float(10 ** (-shadowing_db / 10))

    return mean_gain


def _three_gpp(model: Tr38901, sites: Sites) -> MeanGain:
    """Between two devices the one is taken for a station at the height of a terminal."""

    def place(node: str) -> Floats:
        height_m = _STATION_M[model.scenario] if node in sites.cells else _TERMINAL_M
        return np.array([[*sites.position_m[node], height_m]])

    def mean_gain(one: str, other: str, key: str) -> float:
        low, high = (other, one) if one in sites.cells else (one, other)
        return float(model.mean_gain(place(low), place(high), [key])[0])

    return mean_gain
