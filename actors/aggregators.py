"""The actor around an aggregating node: a fog node, or a node of any tier between devices and cloud."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import ray

from fogtune.platform.aggregation import Tensors, Update
from fogtune.platform.aggregation.tier import TierLogic, TierState
from fogtune.platform.config import Config
from fogtune.platform.federation.handing_on import digests
from fogtune.platform.ownership import own
from fogtune.platform.topology_build import build_tree


class AggregatorActor:
    """Adds updates as they come, so its memory does not grow with the number of its children."""

    def __init__(self, name: str, config: Config, node: str, initial: dict[str, Tensors]) -> None:
        self._name = name
        self._node = node
        tree = build_tree(config)
        self._logic = TierLogic(config, tree, own(config, tree), node)
        self._children = len(tree.children[node])
        self._state = self._logic.initial(initial)
        self._arrived = Update.empty()

    def __repr__(self) -> str:
        return f"{self._name} ({self._children} children)"

    @ray.method
    def begin(self) -> None:
        """Forget what has arrived in a round that was not closed."""
        self._arrived = Update.empty()

    @ray.method
    def add(self, update: Update) -> None:
        """Add what a host or a child node sent. Raises SumOverflow."""
        self._arrived = self._arrived + update

    @ray.method
    def close(self, round_number: int, held_back: Collection[str]) -> Any:
        """Apply or pass on the round's sum; modules that are held back do not go up.

        Returns:
            To be called with `num_returns=2`: the update for the parent, and (names of the modules in it, names of the
            modules with a new version here).
        """
        step = self._logic.step(self._state, round_number, self._arrived, held_back)
        self._state, self._arrived = step.state, Update.empty()
        return step.upward, (tuple(step.upward.modules), step.changed)

    @ray.method
    def adopt(self, round_number: int, modules: tuple[str, ...], versions: dict[str, Tensors]) -> None:
        """Take over these modules from the parent's versions."""
        self._state = self._logic.adopt(self._state, round_number, {module: versions[module] for module in modules})

    @ray.method
    def receive(self, modules: tuple[str, ...], versions: dict[str, Tensors]) -> None:
        """Take over modules that this node lacked from the parent's versions."""
        self._state = self._logic.receive(self._state, {module: versions[module] for module in modules})

    @ray.method
    def versions(self) -> dict[str, Tensors]:
        """What the node's subtree starts from."""
        return dict(self._state.versions)

    @ray.method
    def digests(self, modules: tuple[str, ...]) -> dict[tuple[str, str], str]:
        """Of these modules' versions."""
        return digests(self._node, self._state.versions, modules)

    @ray.method
    def state(self) -> TierState:
        """All that the node knows between two rounds."""
        return self._state

    @ray.method
    def restore(self, state: TierState) -> None:
        """Continue from another state."""
        self._state = state


Aggregator = ray.remote(AggregatorActor)
