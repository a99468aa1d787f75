"""What a round takes, before it is played or after: bytes always, seconds and joules where a network is configured."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from fogtune.platform.aggregation import message_size
from fogtune.platform.aggregation.requantise import of_sums
from fogtune.platform.config import Config, Median, TrimmedMean
from fogtune.platform.learning.batches import window
from fogtune.platform.network.actions import Cost, Script
from fogtune.platform.ownership import Ownership
from fogtune.platform.run.rows import LedgerRows
from fogtune.platform.topology import Tree

from .messages import DeviceOrder, Setup, Workload
from .script import Moves, ScriptWriter
from .sizes import message_bytes
from .transfers import Retries, Sizes
from .unpriced import unpriced_rows

if TYPE_CHECKING:
    from fogtune.platform.network.model import NetworkModel


class RoundCosts:
    """Writes the scripts of rounds and tells what they take. Keeps nothing from round to round."""

    def __init__(self, config: Config, tree: Tree, ownership: Ownership, setup: Setup) -> None:
        self.network = _network(config, tree)
        self._tree = tree
        self._workloads = setup.workloads
        self._ownership = ownership
        version = {module: message_bytes(tensors) for module, tensors in setup.initial.items()}
        total = {module: message_bytes(tensors, torch.int64) for module, tensors in setup.initial.items()}
        update = dict(version)
        for module, tensors in setup.initial.items():
            if transforms := ownership.compression(module):
                update[module] = message_size(tensors, transforms)
            if transforms := of_sums(ownership.compression(module)):
                total[module] = message_size(tensors, transforms)
        down = config.federation.compress_down
        change = {m: total[m] if down and of_sums(ownership.compression(m)) else version[m] for m in version}
        adds_up = not isinstance(config.federation.rule, Median | TrimmedMean)
        self._sizes = Sizes(version, update, total, change, adds_up)

    def rows(
        self, round_number: int, orders: Sequence[DeviceOrder], moves: Moves, first: Mapping[str, Sequence[str]]
    ) -> LedgerRows:
        """The ledger rows of a round without a network; arguments as for `script`."""
        return unpriced_rows(round_number, self._tree, self._sizes, orders, moves, first)

    def script(
        self,
        round_number: int,
        orders: Sequence[DeviceOrder],
        moves: Moves,
        first: Mapping[str, Sequence[str]],
        trained: Mapping[str, Mapping[str, int]],
    ) -> Script:
        """The script of a round, over the network.

        Args:
            round_number: keys the draws, and says which samples are trained on.
            orders: of all participants.
            moves: what nodes send.
            first: node -> modules that come down to it before anything else.
            trained: device -> task -> rounds in which it has trained it before; 0 where absent.
        """
        network = self.network
        assert network is not None  # who asks knows
        writer = ScriptWriter(self._tree, network.sites.access, self._sizes)
        flops = {o.device: self.flops(o.device, round_number, trained.get(o.device, {})) for o in orders}
        retries = Retries(lambda action: network.attempts(round_number, action), network.network.radio.attempts)
        return writer.write(orders, moves, first, flops, retries if network.network.radio.loss else None)

    def play(
        self, round_number: int, script: Script, ready_s: Mapping[str, float]
    ) -> tuple[list[Cost], dict[str, float]]:
        """What each action of a script takes over the network, and when each node that it reaches can begin the next
        round."""
        assert self.network is not None  # who asks knows
        costs = self.network.costs(round_number, script, ready_s)
        # What was under way may have come before its node was ready.
        ends = {
            node: max(ready_s.get(node, 0.0), *(costs[i].end_s for i in indices))
            for node, indices in script.reached.items()
            if indices
        }
        return costs, ends

    def alone_s(self, device: str, round_number: int, trained: Mapping[str, int]) -> float:
        """What training and sending would take a device that has its cell to itself; infinite if it is not heard."""
        if self.network is None:
            return 0.0
        rate = self.network.rate_bits_per_s(round_number, device, self.network.sites.access[device])
        bits = 8.0 * sum(self._sizes.update[module] for module in self._ownership.kind_of(device).modules)
        computing_s = self.network.compute_s(device, self.flops(device, round_number, trained))
        return computing_s + bits / rate if rate else math.inf

    def rise_s(self, modules: Iterable[str]) -> float:
        """What a node's sums of some modules take to its parent; 0 without a network."""
        if self.network is None:
            return 0.0
        backhaul = self.network.network.backhaul
        return backhaul.delay_s + 8.0 * sum(self._sizes.total[module] for module in modules) / backhaul.bits_per_s

    def as_changes(self, module: str) -> bool:
        """Whether new versions of the module go down as changes."""
        return self._sizes.change[module] != self._sizes.version[module]

    def round_trip_bytes(self, module: str) -> int:
        """A sum up and a version down again."""
        return self._sizes.total[module] + self._sizes.change[module]

    def update_bits(self, orders: Iterable[DeviceOrder]) -> dict[str, float]:
        """Device -> bits of all that it may send."""
        return {order.device: 8.0 * sum(self._sizes.update[m] for m in order.upward) for order in orders}

    def sum_bits(self, orders: Iterable[DeviceOrder]) -> Callable[[Collection[str]], float]:
        """Bits of what a head sends for some devices, as a function of the devices."""
        upward = {order.device: order.upward for order in orders}

        def bits(devices: Collection[str]) -> float:
            modules = Counter(module for device in devices for module in upward[device])
            return 8.0 * sum(self._sizes.of(module, count) for module, count in modules.items())

        return bits

    def flops(self, device: str, round_number: int, trained: Mapping[str, int]) -> float:
        """Operations of a device's local training in a round.

        `trained` is task -> rounds in which the device has trained it before: what is frozen is computed when a sample
        first comes.
        """
        return sum(_flops(load, round_number, trained.get(load.task, 0)) for load in self._workloads[device])


def _network(config: Config, tree: Tree) -> NetworkModel | None:
    if config.network is None:
        return None
    from fogtune.platform.network.model import NetworkModel  # and with it what knows graphs

    return NetworkModel(config, config.network, tree)


def _flops(load: Workload, round_number: int, trained: int) -> float:
    if round_number < load.begins:
        return 0.0
    first, last = window(load.samples, load.epochs, round_number)
    seen, _ = window(load.samples, load.epochs, trained + 1)  # in so many rounds, had they been the first
    new = min(last - first, max(0, load.samples - seen))
    return (last - first) * load.sample_flops + new * load.prefix_flops
