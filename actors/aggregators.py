"""The actor around aggregating nodes: fog nodes, or nodes of any tier between devices and cloud; one, or many."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray

from fogtune.platform.aggregation import Tensors, Update
from fogtune.platform.aggregation.tier import TierLogic, TierState
from fogtune.platform.config import Config
from fogtune.platform.federation.handing_on import digests
from fogtune.platform.federation.waiting import missed_by
from fogtune.platform.ownership import own
from fogtune.platform.topology_build import build_tree

from .logs import log_as_actor
from .parts import Bundle, Layout, Part, assembled
from .wire import share_tensors

log = logging.getLogger(__name__)

Modules = Mapping[str, tuple[str, ...]]
"""Node -> some modules."""


@dataclass(frozen=True)
class Closing:
    """What aggregating nodes are told at the end of a round; all in one, as Ray packs each argument for itself."""

    attempt: int
    """At the round."""
    round: int
    staying: Mapping[str, Collection[str]]
    """Node -> modules that it does not send upward."""
    slots: Mapping[str, Sequence[tuple[str, str]]]
    """Address of who adds up what goes up -> (node here, node that adds it up there)."""
    layout: Layout
    """Of the versions that the nodes take averages of, and that others have made."""
    parts: int
    """How many parts these have."""
    behind: Mapping[str, Mapping[str, int]]
    """Node that was away -> module -> by how many rounds its parent's version is newer."""
    newest: Layout
    """Of those versions."""


class AggregatorActor:
    """Adds updates as they come, so its memory does not grow with the number of its nodes' children.

    Of its nodes' versions it holds those that were made here; where a node needs another, it comes with the call.
    """

    def __init__(
        self, name: str, config: Config, nodes: Sequence[str], initial: Mapping[str, Tensors], run: str
    ) -> None:
        """Start.

        Args:
            name: its own.
            config: the run's configuration.
            nodes: that it serves.
            initial: version 0 of the modules that they are to hold.
            run: the run's id.
        """
        self._name = name
        tree = build_tree(config)
        ownership = own(config, tree)
        self._logic = {node: TierLogic(config, tree, ownership, node) for node in nodes}
        self._children = sum(len(tree.children[node]) for node in nodes)
        self._states = {node: logic.initial(initial) for node, logic in self._logic.items()}
        self._attempt = 0
        self._arrived: dict[str, Update] = {}
        share_tensors()
        log_as_actor(run, name)

    def __repr__(self) -> str:
        nodes = f"{len(self._logic)} nodes, " if len(self._logic) > 1 else ""
        return f"{self._name} ({nodes}{self._children} children)"

    @ray.method
    def add(self, attempt: int, bundle: Bundle) -> None:
        """Add what a host or children sent. Raises SumOverflow.

        What came in an earlier attempt at a round is forgotten.
        """
        for node, update in bundle.items():
            self._add(attempt, node, update)

    @ray.method
    def add_one(self, attempt: int, node: str, update: Update) -> None:
        """Add a single update to a node's. Raises SumOverflow."""
        self._add(attempt, node, update)

    @ray.method
    def close(self, asked: Closing, *parts: Part) -> Any:
        """Apply or pass on the round's sums.

        Args:
            asked: what to do.
            parts: with versions: those that the nodes take averages of and that others have made, then newer ones.

        Returns:
            To be called with `num_returns=1 + len(slots)`: node -> (names of the modules that it sends up, names of
            those that have a new version there); then a bundle an address.
        """
        self._begin(asked.attempt)
        given, newest = assembled(asked.layout, parts[: asked.parts]), assembled(asked.newest, parts[asked.parts :])
        told, upward = {}, {}
        for node, logic in self._logic.items():
            before = self._states[node]
            state = replace(before, versions={**given.get(node, {}), **before.versions})
            missed = missed_by(logic.config, logic.tree, node, asked.behind.get(node, {}), newest.get(node, {}))
            update = self._arrived.get(node, Update.empty())
            step = logic.step(state, asked.round, update, asked.staying[node], missed)
            mine = {*before.versions, *step.changed}
            versions = {module: version for module, version in step.state.versions.items() if module in mine}
            self._states[node] = replace(step.state, versions=versions)
            told[node], upward[node] = (tuple(step.upward.modules), step.changed), step.upward
        self._arrived = {}
        sent, made = (sum(len(modules[i]) for modules in told.values()) for i in (0, 1))
        log.info("%d modules sent up, %d averaged", sent, made, extra={"round": asked.round})
        bundles = []
        for pairs in asked.slots.values():
            bundle: dict[str, Update] = {}
            for node, target in pairs:
                bundle[target] = bundle[target] + upward[node] if target in bundle else upward[node]
            bundles.append(bundle)
        return (told, *bundles)

    @ray.method
    def adopt(self, round_number: int, taken: Modules, left: Modules, layout: Layout, *parts: Part) -> None:
        """Go on from versions that were made elsewhere.

        Args:
            round_number: the round.
            taken: modules that nodes here hold, and take over from their parents.
            left: modules of which nodes here give up their versions, as they go on from others'.
            layout: of the parents' versions.
            parts: with those versions.
        """
        given = assembled(layout, parts)
        for node, modules in left.items():
            versions = {m: version for m, version in self._states[node].versions.items() if m not in modules}
            self._states[node] = replace(self._states[node], versions=versions)
        for node, modules in taken.items():
            new = {module: given[node][module] for module in modules}
            self._states[node] = self._logic[node].adopt(self._states[node], round_number, new)

    @ray.method
    def receive(self, taken: Modules, layout: Layout, *parts: Part) -> None:
        """Take over modules that nodes here are to hold, and lacked, from their parents' versions."""
        given = assembled(layout, parts)
        for node, modules in taken.items():
            new = {module: given[node][module] for module in modules}
            self._states[node] = self._logic[node].receive(self._states[node], new)

    @ray.method
    def made(self) -> Part:
        """The versions that lie here."""
        return {node: dict(state.versions) for node, state in self._states.items() if state.versions}

    @ray.method
    def digests(self, asked: Modules) -> dict[tuple[str, str], str]:
        """(node, module) -> sha256 of its version, of versions that lie here."""
        found: dict[tuple[str, str], str] = {}
        for node, modules in asked.items():
            found |= digests(node, self._states[node].versions, modules)
        return found

    @ray.method
    def states(self) -> dict[str, TierState]:
        """All that the nodes know between two rounds, but for versions that were made elsewhere."""
        return self._states

    @ray.method
    def restore(self, states: Mapping[str, TierState]) -> None:
        """Continue from other states."""
        self._states, self._arrived = dict(states), {}

    def _add(self, attempt: int, node: str, update: Update) -> None:
        self._begin(attempt)
        self._arrived[node] = self._arrived[node] + update if node in self._arrived else update

    def _begin(self, attempt: int) -> None:
        if attempt != self._attempt:
            self._attempt, self._arrived = attempt, {}


Aggregator = ray.remote(AggregatorActor)
