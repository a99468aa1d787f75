"""What an aggregating node does in a round: apply what its children sent, or pass it upward. Pure: state in, state out.

A module averaged at this tier, or not yet due upward, becomes a new version here. A module that is due goes upward as
the exact sum itself, without a division between, so a hierarchy of cadence 1 equals the star bit for bit. Where a
subtree is silent in a due round but has averaged since it last sent, its latest sum goes up instead: nothing that was
learned between two cloud rounds is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from fogtune.platform.config import Config, FedAvg, Rule, TrimmedMean
from fogtune.platform.modules import is_statistics
from fogtune.platform.ownership import Ownership
from fogtune.platform.topology import Tree

from .requantise import announced, of_sums, requantised
from .robust import HeldUpdates, coordinate_median, trimmed_mean
from .rules import RuleState, apply_rule, average_rule, initial_state
from .staleness import NOTHING_MISSED, Missed
from .sums import ModuleSum, Tensors, in_parts
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
    references: Mapping[str, Tensors] = field(default_factory=dict)
    """Module -> the version that the parent gave last, where sums on their way up are told as changes of it."""


@dataclass(frozen=True)
class Step:
    """What a round did to a node."""

    state: TierState
    upward: Update
    """To the parent: sums of the modules that are due, and all metrics."""
    changed: tuple[str, ...]
    """Modules that have a new version here."""
    moved: Mapping[str, float]
    """Module averaged here for good -> norm of its change over its norm."""


@dataclass(frozen=True)
class TierLogic:
    """The fixed surroundings of one node; its methods are pure functions of state and input."""

    config: Config
    tree: Tree
    ownership: Ownership
    node: str

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """Those that the node has versions of: what its subtree owns, but for personal ones, in order."""
        tier = self.tree[self.node].tier
        return tuple(m for m in self.ownership.subtree_modules(self.node) if self.ownership.reaches(m, tier))

    def initial(self, tensors: Mapping[str, Tensors]) -> TierState:
        """The state before round 1: the modules that the subtree owns, but for personal ones.

        Args:
            tensors: module -> its initial version; modules that are not among them do not lie here.
        """
        tier = self.tree[self.node].tier
        kept = [module for module in self.modules if module in tensors]
        return TierState(
            versions={module: tensors[module] for module in kept},
            rules={m: initial_state(self._rule(m), tensors[m]) for m in kept if self.ownership.scope(m) == tier},
            references={m: tensors[m] for m in kept if self._is_referred_to(m)},
        )

    def step(
        self,
        state: TierState,
        round_number: int,
        update: Update,
        held_back: Collection[str] = frozenset(),
        missed: Missed = NOTHING_MISSED,
    ) -> Step:
        """Close a round.

        Args:
            state: the node's; of modules that only pass through, it need not have the versions.
            round_number: decides with the modules' cadences which of them go up.
            update: the sum of what the children sent.
            held_back: modules that do not go up all the same.
            missed: of its parent's versions since the node began.
        """
        tier = self.tree[self.node].tier
        versions, pending, rules = dict(state.versions), dict(state.pending), dict(state.rules)
        upward: dict[str, ModuleSum | HeldUpdates] = {}
        changed = []
        moved: dict[str, float] = {}
        for module in self.modules:
            arrived = update.modules.get(module)
            total = self._reduced(arrived) if isinstance(arrived, HeldUpdates) else arrived
            if self.ownership.goes_up(module, tier, round_number) and module not in held_back:
                late = pending.pop(module, None)
                if total is not None or late is not None:
                    upward[module] = self._sent(state, round_number, module, total or late, missed)
                continue
            if total is None:
                continue
            rule = self._rule(module)
            if self.ownership.scope(module) != tier:
                rule = average_rule(rule)
                pending[module] = total
            share = total.contributors / self.ownership.owners_below(self.node, module, round_number)
            versions[module], rule_state = apply_rule(
                rule, versions[module], total.mean(), rules.get(module, {}), share
            )
            versions[module] = self._announced(state, versions[module], module, round_number)
            if module in rules:
                rules[module] = rule_state
                moved[module] = _relative_change(state.versions[module], versions[module])
            changed.append(module)
        after = TierState(versions, pending, rules, state.references)
        return Step(after, Update(upward, update.metrics), tuple(changed), moved)

    def adopt(self, state: TierState, round_number: int, versions: Mapping[str, Tensors]) -> TierState:
        """Take over the parent's new versions of the modules that this subtree owns."""
        mine = {module: tensors for module, tensors in versions.items() if module in state.versions}
        own = {module: self._announced(state, tensors, module, round_number) for module, tensors in mine.items()}
        references = {module: mine.get(module, known) for module, known in state.references.items()}
        return TierState({**state.versions, **own}, state.pending, state.rules, references)

    def receive(self, state: TierState, versions: Mapping[str, Tensors]) -> TierState:
        """Take over modules that this node lacked, whole: there is no version here that the parent's is a change of."""
        references = {module: versions.get(module, known) for module, known in state.references.items()}
        return TierState({**state.versions, **versions}, state.pending, state.rules, references)

    def _announced(self, state: TierState, version: Tensors, module: str, round_number: int) -> Tensors:
        """What this node and its children go on from."""
        if not self.config.federation.compress_down:
            return version
        transforms, where = self.ownership.compression(module), (round_number, self.node, module)
        return announced(version, state.versions[module], transforms, self.config.seed, *where)

    def _is_referred_to(self, module: str) -> bool:
        above = self.ownership.scope(module) != self.tree[self.node].tier
        return above and bool(of_sums(self.ownership.compression(module)))

    def _sent(
        self, state: TierState, round_number: int, module: str, total: ModuleSum | None, missed: Missed
    ) -> ModuleSum:
        """What arrives at the parent of a sum."""
        assert total is not None
        if module in state.references:
            transforms, where = self.ownership.compression(module), (round_number, self.node, module)
            total = requantised(total, state.references[module], transforms, self.config.seed, *where)
        if module in missed.behind:
            total = missed.catch_up_sum(module, total, state.versions[module])
        return total

    def _rule(self, module: str) -> Rule:
        """The server rule; what is measured, not trained, is taken as it is."""
        return FedAvg() if is_statistics(module) else self.config.federation.rule

    def _reduced(self, held: HeldUpdates) -> ModuleSum:
        """The robust statistic, as a sum of all its contributors' weight."""
        rule = self.config.federation.rule
        mean = trimmed_mean(held, rule.trim) if isinstance(rule, TrimmedMean) else coordinate_median(held)
        return ModuleSum.of(mean, held.weight, held.contributors)


def _relative_change(before: Tensors, after: Tensors) -> float:
    """||after - before|| / ||after||, over all tensors; 0 of zeros."""
    pairs = [pair for name in after for pair in zip(in_parts(before[name]), in_parts(after[name]), strict=True)]
    change = math.fsum(float((new - old).double().square().sum()) for old, new in pairs)
    size = math.fsum(float(new.double().square().sum()) for _, new in pairs)
    return math.sqrt(change / size) if size else 0.0
