"""Who is asked to take part in a round: of the devices that have joined and are there, a share, drawn by key.

Drawn without replacement, with weights by `federation.sampling`: alike; by samples; by the inverse of the seconds that
training and sending would take (the idea of FedCS, arXiv 1804.08333, without its cut-off); by the loss of the last
training (arXiv 2010.01243). Weights bias the mean towards those who are drawn more often; nothing corrects that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fogtune.platform.config import Config
from fogtune.platform.errors import RunFailed
from fogtune.platform.network.band import Floats
from fogtune.platform.rng import numpy_generator
from fogtune.platform.topology import Tree

from .availability import availability
from .costs import RoundCosts
from .holdings import Holdings
from .messages import Setup
from .state import CoordinatorState

_LEAST = 1e-9
"""Weight of a device that would never be done, beside one that needs a second."""


class Sampling:
    """Draws participants. Keeps nothing from round to round but what it would find again."""

    def __init__(self, config: Config, tree: Tree, setup: Setup, costs: RoundCosts, holdings: Holdings) -> None:
        self._config = config
        self._setup = setup
        self._costs = costs
        self._holdings = holdings
        self._there = availability(config, tree)

    def present(self, round_number: int) -> tuple[str, ...]:
        """Devices that have joined and are there, in the tree's order.

        Raises:
            RunFailed: there are none.
        """
        joined = self._holdings.joined(round_number)
        if self._there is None:
            return joined
        there = self._there
        present = tuple(device for device in joined if there(device, round_number))
        if not present:
            raise RunFailed(round_number, f"none of {len(joined)} devices is there, by federation.availability")
        return present

    def draw(self, round_number: int, state: CoordinatorState) -> tuple[str, ...]:
        """Of the devices that are not under way, as many as make up the share of all with those that are."""
        present = self.present(round_number)
        idle = tuple(device for device in present if device not in state.under_way) if state.under_way else present
        share = self._config.federation.participation
        if share == 1.0:
            return idle
        generator = numpy_generator(self._config.seed, "participants", round_number)
        size = min(len(idle), max(0, max(1, round(share * len(present))) - len(state.under_way)))
        weights = self._weights(idle, round_number, state)
        chosen = generator.choice(len(idle), size=size, replace=False, p=weights)
        chosen.sort()
        return tuple(idle[i] for i in chosen.tolist())

    def _weights(self, devices: Sequence[str], round_number: int, state: CoordinatorState) -> Floats | None:
        """A chance each; null if they are alike."""
        match self._config.federation.sampling:
            case "uniform":
                return None
            case "data":
                found = [float(self._setup.samples[device]) for device in devices]
            case "cost":
                trained: Mapping[str, Mapping[str, int]] = state.trained
                seconds = (self._costs.alone_s(d, round_number, trained.get(d, {})) for d in devices)
                found = [1.0 / max(one, _LEAST) for one in seconds]
            case "loss":
                most = max(state.losses.values(), default=1.0)
                found = [state.losses.get(device, most) for device in devices]
        weights: Floats = np.maximum(np.array(found), _LEAST)
        chances: Floats = weights / weights.sum()
        return chances
