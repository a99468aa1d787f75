"""The aggregating nodes, as the coordinator has them: an actor each, but for the cloud, whose state lies here.

A node's versions are asked for once for all who need them, by reference, until they change. Knows nothing of hosts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import ray

from fogtune.platform.aggregation import Tensors, Update
from fogtune.platform.aggregation.tier import Step, TierLogic, TierState
from fogtune.platform.config import Config
from fogtune.platform.federation.handing_on import digests
from fogtune.platform.federation.messages import RoundPlan
from fogtune.platform.ownership import Ownership
from fogtune.platform.topology import CLOUD, Tree

from .aggregators import Aggregator
from .answers import get
from .packing import actor_name

Modules = Mapping[str, tuple[str, ...]]
"""Aggregating node -> some modules."""


class Nodes:
    """Carries sums and versions between the nodes of a tree. Methods raise RunFailed where an actor has died."""

    def __init__(
        self, config: Config, namespace: str, tree: Tree, ownership: Ownership, initial: Mapping[str, Tensors]
    ) -> None:
        """Start the actors.

        Args:
            config: the run's configuration.
            namespace: Ray's, in which actors have their names.
            tree: of the configuration.
            ownership: of the configuration on its tree.
            initial: module -> version 0.
        """
        self._tree = tree
        self._number = 0
        self._cloud = TierLogic(config, tree, ownership, CLOUD)
        self._cloud_state = self._cloud.initial(initial)
        self._arrived = Update.empty()
        self._version_refs: dict[str, Any] = {}
        self._actors: dict[str, Any] = {}
        initial_ref = ray.put(initial)
        for node in tree.aggregators:
            if node != CLOUD:
                name = actor_name(tree, node)
                options = Aggregator.options(name=name, namespace=namespace, num_cpus=0)
                self._actors[node] = options.remote(name, config, node, initial_ref)

    def begin(self, plan: RoundPlan) -> None:
        """Nodes forget what they may have of a round that failed, and are given what they lack."""
        self._number, self._arrived = plan.round, Update.empty()
        self._get([actor.begin.remote() for actor in self._actors.values()])
        receipts = []
        for node, modules in plan.first.items():
            receipts.append(self._actors[node].receive.remote(modules, self.versions(self._tree[node].parent or "")))
            self._version_refs.pop(node, None)
        self._get(receipts)

    def versions(self, node: str) -> Any:
        """Reference to a node's versions."""
        if node not in self._version_refs:
            self._version_refs[node] = (
                ray.put(dict(self._cloud_state.versions)) if node == CLOUD else self._actors[node].versions.remote()
            )
        return self._version_refs[node]

    def digests(self, asked: Mapping[str, Collection[str]]) -> dict[tuple[str, str], str]:
        """(node, module) -> sha256 of its version, of these modules of these nodes."""
        known = digests(CLOUD, self._cloud_state.versions, asked.get(CLOUD, ()))
        others = [(node, tuple(modules)) for node, modules in asked.items() if node != CLOUD]
        for answer in self._get([self._actors[node].digests.remote(modules) for node, modules in others]):
            known |= answer
        return known

    def add(self, node: str, update: Any) -> list[Any]:
        """Give an update (by reference) to a node. Returns the receipt to wait for; the cloud gives none."""
        if node != CLOUD:
            return [self._actors[node].add.remote(update)]
        self._arrived = self._arrived + self._get(update)
        return []

    def close(self, plan: RoundPlan) -> tuple[Step, Modules, Modules]:
        """Close the round tier by tier. Returns the cloud's step, new versions, and what went upward."""
        tree = self._tree
        changed: dict[str, tuple[str, ...]] = {}
        upward: dict[str, tuple[str, ...]] = {}
        self._version_refs.clear()
        for tier in tree.tiers[-2:0:-1]:
            told = {}
            receipts: list[Any] = []
            for node in (n for n in tree.aggregators if tree[n].tier == tier):
                close = self._actors[node].close.options(num_returns=2)
                update, told[node] = close.remote(plan.round, plan.held_back.get(tier, ()))
                receipts += self.add(tree[node].parent or "", update)
            self._get(receipts)
            for node, (sent, made) in zip(told, self._get(list(told.values())), strict=True):
                upward[node], changed[node] = sent, made
        step = self._cloud.step(self._cloud_state, plan.round, self._arrived)
        self._cloud_state, changed[CLOUD] = step.state, step.changed
        return step, changed, upward

    def descend(self, adopted: Mapping[str, Sequence[str]]) -> None:
        """New versions go down, from the top: a parent is asked for its versions after it was given new ones."""
        receipts = []
        for node, modules in adopted.items():
            if modules:
                versions = self.versions(self._tree[node].parent or "")
                receipts.append(self._actors[node].adopt.remote(self._number, tuple(modules), versions))
        self._get(receipts)

    def states(self) -> dict[str, TierState]:
        """All that the nodes know between two rounds."""
        states = self._get([actor.state.remote() for actor in self._actors.values()])
        return {CLOUD: self._cloud_state, **dict(zip(self._actors, states, strict=True))}

    def restore(self, states: Mapping[str, TierState]) -> list[Any]:
        """Continue from other states. Returns the receipts to wait for."""
        self._cloud_state = states[CLOUD]
        self._version_refs.clear()
        return [actor.restore.remote(states[node]) for node, actor in self._actors.items()]

    def _get(self, refs: Any) -> Any:
        return get(refs, self._number)
