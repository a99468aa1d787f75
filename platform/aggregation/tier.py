"""What an aggregating node does in a round: apply what its children sent, or pass it upward. Pure: state in, state out.

A module averaged at this tier, or not yet due upward, becomes a new version here. A module that is due goes upward as
the exact sum itself, without a division between, so a hierarchy of cadence 1 equals the star bit for bit. Where a
subtree is silent in a due round but has averaged since it last sent, its latest sum goes up instead: nothing that was
learned between two cloud rounds is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fogtune.platform.config import Config, FedAvg, Rule, TrimmedMean
from fogtune.platform.modules import is_statistics
from fogtune.platform.ownership import Ownership
from fogtune.platform.topology import Tree

from .robust import HeldUpdates, coordinate_median, trimmed_mean
from .rules import RuleState, apply_rule, average_rule, initial_state
from .sums import ModuleSum, Tensors
from .update import Update


@dataclass(frozen=True)
class TierState:
    """All that a node knows between two rounds."""

    versions: Mapping[str, Tensors]
    """Module -> what the node's subtree starts from."""
    pending: Mapping[str, ModuleSum] = field(default_factory=dict)
    """Module -> the latest sum averaged here since the module last went up."""
    rules: Mapping[str, RuleState] = field(default_factory=dict)
    """Module -> the server rule's state, for modules averaged here for good."""


@dataclass(frozen=True)
class Step:
    """What a round did to a node."""

    state: TierState
    upward: Update
    """To the parent: sums of the modules that are due, and all metrics."""
    changed: tuple[str, ...]
    """Modules that have a new version here."""


@dataclass(frozen=True)
class TierLogic:
    """The fixed surroundings of one node; its methods are pure functions of state and input."""

    config: Config
    tree: Tree
    ownership: Ownership
    node: str

    def initial(self, tensors: Mapping[str, Tensors]) -> TierState:
        """The state before round 1: the modules that the subtree owns, but for personal ones.

        Args:
            tensors: module -> its initial version, of the modules of this subtree at least.
        """
        tier = self.tree[self.node].tier
        kept = [m for m in self.ownership.subtree_modules(self.node) if self.ownership.reaches(m, tier)]
        return TierState(
            versions={module: tensors[module] for module in kept},
            rules={m: initial_state(self._rule(m), tensors[m]) for m in kept if self.ownership.scope(m) == tier},
        )

    def step(self, state: TierState, round_number: int, update: Update) -> Step:
        """Close a round: `update` is the sum of what the children sent."""
        tier = self.tree[self.node].tier
        versions, pending, rules = dict(state.versions), dict(state.pending), dict(state.rules)
        upward: dict[str, ModuleSum | HeldUpdates] = {}
        changed = []
        for module in self.ownership.subtree_modules(self.node):
            if module not in versions:  # personal
                continue
            arrived = update.modules.get(module)
            total = self._reduced(arrived) if isinstance(arrived, HeldUpdates) else arrived
            if self.ownership.goes_up(module, tier, round_number):
                late = pending.pop(module, None)
                if total is not None or late is not None:
                    upward[module] = total or late  # type: ignore[assignment]
                continue
            if total is None:
                continue
            rule = self._rule(module)
            if self.ownership.scope(module) != tier:
                rule = average_rule(rule)
                pending[module] = total
            owners = set(self.ownership.owners_of[module]).intersection(self.tree.leaves(self.node))
            share = total.contributors / len(owners)
            versions[module], rule_state = apply_rule(
                rule, versions[module], total.mean(), rules.get(module, {}), share
            )
            if module in rules:
                rules[module] = rule_state
            changed.append(module)
        return Step(TierState(versions, pending, rules), Update(upward, update.metrics), tuple(changed))

    def adopt(self, state: TierState, versions: Mapping[str, Tensors]) -> TierState:
        """Take over the parent's new versions of the modules that this subtree owns."""
        mine = {module: tensors for module, tensors in versions.items() if module in state.versions}
        return TierState({**state.versions, **mine}, state.pending, state.rules)

    def _rule(self, module: str) -> Rule:
        """The server rule; what is measured, not trained, is taken as it is."""
        return FedAvg() if is_statistics(module) else self.config.federation.rule

    def _reduced(self, held: HeldUpdates) -> ModuleSum:
        """The robust statistic, as a sum of all its contributors' weight."""
        rule = self.config.federation.rule
        mean = trimmed_mean(held, rule.trim) if isinstance(rule, TrimmedMean) else coordinate_median(held)
        return ModuleSum.of(mean, held.weight, held.contributors)
