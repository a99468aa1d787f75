"""The network of a run: which medium carries an action, how long that takes and which power it draws.

A cell has an uplink and a downlink band of its own, split by whoever sends at once; a wire leads from each node (and
access point) to its parent, with a rate of its own in either direction. What keeps actions apart is what they wait for
and the media that they share; any node may compute and send at the same time.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from fogtune.platform.config import Config, Network, Power
from fogtune.platform.rng import numpy_generator
from fogtune.platform.topology import Tree

from .actions import Action, Cost, Script
from .band import SPLITS, quality_hz
from .channel import build_channel
from .clock import Activity, Band, Load, Medium, Wire, simulate
from .sites import find_sites


class NetworkModel:
    """Costs of actions. Keeps nothing from round to round."""

    def __init__(self, config: Config, network: Network, tree: Tree) -> None:
        """Place the nodes and build the channel.

        Raises:
            InputError: nodes cannot be placed, or the channel does not suit the federation.
        """
        self.network = network
        self.sites = find_sites(config, tree, network)
        self._seed = config.seed
        self._tree = tree
        self._channel = build_channel(config, network, self.sites)
        groups = {group.name: network.classes[group.device_class] for group in config.devices}
        self._classes = {device: groups[str(tree[device].group)] for device in tree.devices}

    def costs(self, round_number: int, script: Script, ready_s: Mapping[str, float]) -> list[Cost]:
        """What each action of a round takes.

        Args:
            round_number: keys the fading.
            script: the round's actions.
            ready_s: node -> virtual time at which it may begin the round; 0 where absent.
        """
        actions = script.actions
        spans = simulate([self._activity(round_number, a, self._not_before_s(a, ready_s)) for a in actions])
        costs = []
        for action, span in zip(actions, spans, strict=True):
            start_s = min(span.start_s, action.until_s)
            seconds = min(span.end_s, action.until_s) - start_s
            received_j = {target: seconds * self._receiver_w(action, target) for target in action.targets}
            costs.append(Cost(start_s, seconds, seconds * self._sender_w(action), received_j))
        return costs

    def compute_s(self, device: str, flops: float) -> float:
        """What a device's processor takes for so many floating-point operations."""
        processor = self._classes[device].processor
        if isinstance(processor, Power):
            return flops / (processor.flops_per_s * self._speed(device))
        return flops / (processor.flops_per_cycle * processor.frequency_hz * self._speed(device))

    def snr(self, round_number: int, sender: str, receiver: str) -> float:
        """Signal-to-noise ratio (linear) of a radio link that has its whole band to itself."""
        return self._quality_hz(round_number, sender, receiver) / self._band_hz(sender, receiver)

    def rate_bits_per_s(self, round_number: int, sender: str, receiver: str) -> float:
        """Of a radio link that has its whole band to itself; 0 if it cannot be used this round."""
        band_hz, snr = self._band_hz(sender, receiver), self.snr(round_number, sender, receiver)
        if snr < 10 ** (self.network.radio.least_snr_db / 10):
            return 0.0
        return band_hz * float(self._channel.efficiency(np.array([snr]))[0])

    def bit_cost(self, round_number: int, sender: str, receiver: str) -> float:
        """(1 - w) seconds + w joules of a bit's airtime on a radio link; infinite if it cannot be used."""
        rate = self.rate_bits_per_s(round_number, sender, receiver)
        if not rate:
            return math.inf
        weight = self.network.energy_weight
        watts = self._transmit_w(sender, receiver) + (
            self._classes[receiver].receive_w if receiver in self._classes else 0.0
        )
        return ((1 - weight) + weight * watts) / rate

    def neighbours(self, device: str, others: Iterable[str]) -> list[str]:
        """Of other devices of its cell, those within range."""
        d2d = self.network.d2d
        if d2d is None:
            return []
        return [o for o in others if o != device and self.sites.distance_m(device, o) <= d2d.range_m]

    def pairs(self, round_number: int, devices: Collection[str]) -> list[tuple[str, str]]:
        """Devices of one cell that hear each other this round, both ways."""

        def hear(one: str, other: str) -> bool:
            return all(self.rate_bits_per_s(round_number, *ends) > 0 for ends in ((one, other), (other, one)))

        cells = [[device for device in cell if device in devices] for cell in self.sites.cells.values()]
        near = ((one, other) for cell in cells for one in cell for other in self.neighbours(one, cell) if one < other)
        return [pair for pair in near if hear(*pair)]

    def battery_j(self, device: str) -> float | None:
        """Charge of a device at the start; none of those on the mains."""
        return self._classes[device].battery_j

    def attempts(self, round_number: int, action: Action) -> int:
        """At which attempt a transfer over a radio link reaches all of its targets, from 1."""
        loss = self.network.radio.loss
        modules = action.modules if action.kind == "downlink" else ()  # one after the other
        key = ("loss", round_number, action.kind, action.source, action.origin, *modules)
        draws = (numpy_generator(self._seed, *key, target).geometric(1 - loss) for target in action.targets)
        return max(int(draw) for draw in draws)

    def _not_before_s(self, action: Action, ready_s: Mapping[str, float]) -> float:
        """When the action's node is ready, and its devices have done with the round before."""
        devices = [node for node in (action.source, *action.targets) if node in self._classes]
        return max(ready_s.get(node, 0.0) for node in (action.home, *devices))

    def _activity(self, round_number: int, action: Action, not_before_s: float) -> Activity:
        if action.kind == "compute":
            return Activity(self.compute_s(action.source, action.flops), None, action.after, not_before_s)
        medium = self._medium(action)
        bits = 8.0 * sum(action.modules.values())
        channel_of = round_number if action.begun is None else action.begun
        if isinstance(medium, Wire):
            return Activity(self.network.backhaul.delay_s, Load(medium, bits), action.after, not_before_s)
        # All receivers of a broadcast must hear it: it goes at the rate of the worst.
        quality = min(self._quality_hz(channel_of, action.source, target) for target in action.targets)
        return Activity(0.0, Load(medium, bits, quality), action.after, not_before_s)

    def _medium(self, action: Action) -> Medium:
        source, (target, *_) = action.source, action.targets
        radio, efficiency = self.network.radio, self._channel.efficiency
        match action.kind:
            case "uplink":
                return Band(f"{target} uplink", radio.uplink_hz, SPLITS[radio.split], efficiency)
            case "downlink":
                return Band(f"{source} downlink", radio.downlink_hz, SPLITS["equal"], efficiency)
            case "d2d":
                return Band(
                    f"{self.sites.access[source]} d2d", self._band_hz(source, target), SPLITS["equal"], efficiency
                )
            case _:
                upward = target == self._tree.nodes[source].parent if source in self._tree.nodes else True
                name = f"{source} up" if upward else f"{target} down"
                return Wire(name, self.network.backhaul.bits_per_s)

    def _sender_w(self, action: Action) -> float:
        match action.kind:
            case "compute":
                return self._compute_w(action.source)
            case "backhaul":
                return self.network.backhaul.power_w
            case _:
                return self._transmit_w(action.source, action.targets[0])

    def _transmit_w(self, sender: str, receiver: str) -> float:
        if sender not in self._classes:
            return self.network.radio.transmit_w
        d2d_w = self.network.d2d.transmit_w if self.network.d2d and receiver in self._classes else None
        return d2d_w or self._classes[sender].transmit_w

    def _band_hz(self, sender: str, receiver: str) -> float:
        if sender in self.sites.cells:
            return self.network.radio.downlink_hz
        if receiver in self.sites.cells or self.network.d2d is None:
            return self.network.radio.uplink_hz
        return self.network.d2d.band_hz

    def _receiver_w(self, action: Action, target: str) -> float:
        receives = action.kind != "compute" and target in self._classes
        return self._classes[target].receive_w if receives else 0.0

    def _compute_w(self, device: str) -> float:
        processor = self._classes[device].processor
        if isinstance(processor, Power):
            return processor.power_w
        return processor.kappa * (processor.frequency_hz * self._speed(device)) ** 3

    def _speed(self, device: str) -> float:
        """Of a device over that of its class."""
        return float(numpy_generator(self._seed, "speed", device).lognormal(sigma=self._classes[device].speed_spread))

    def _quality_hz(self, round_number: int, sender: str, receiver: str) -> float:
        gain = self._channel.gain(round_number, sender, receiver)
        return quality_hz(self._transmit_w(sender, receiver), gain, self.network.radio.noise_figure_db)
