"""Who trains which module, up to which tier it is averaged, and in which rounds it goes up.

Devices own modules by their modalities and tasks. Scope and cadence come from `federation.modules`: of the policies
whose pattern matches a module, the last that gives the field wins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Literal

from .config import Compression, Config, DeviceGroup, Federation
from .modules import is_statistics, kind_and_name, module_names
from .topology import CLOUD, Tree


@dataclass(frozen=True)
class Kind:
    """What the devices of a group own; all of them the same."""

    modules: tuple[str, ...]
    """The modules that a device trains, in order."""
    begins: Mapping[str, int]
    """Module -> round from which a device trains it."""
    inputs: Mapping[str, tuple[str, ...]]
    """Task that a device executes -> the task's inputs that it collects, in the task's order."""


@dataclass(frozen=True)
class Ownership:
    """Owners, scopes and cadences of all modules of a configuration on a tree; made by `own`.

    Devices of a group are alike, so what is asked of a node is told by the groups below it: nothing here walks over the
    devices but `modules_of`, `begins_of` and `owners_of`, which are made when they are first asked for.
    """

    tree: Tree
    modules: tuple[str, ...]
    """All modules, in order."""
    kinds: Mapping[str, Kind]
    """Device group -> what its devices own."""
    scopes: Mapping[str, str]
    """Module -> highest tier at which it is averaged."""
    cadences: Mapping[str, Mapping[str, int]]
    """Module -> tier -> every how many rounds that tier's nodes send it to their parents; 1 for absent tiers."""
    compressions: Mapping[str, tuple[Compression, ...]]
    """Module -> what makes its updates smaller."""

    @property
    def tiers(self) -> tuple[str, ...]:
        """From the top: `("cloud", "fog", "device")`."""
        return self.tree.tiers

    @cached_property
    def modules_of(self) -> dict[str, tuple[str, ...]]:
        """Device -> the modules that it trains, in order."""
        return {device: self.kind_of(device).modules for device in self.tree.devices}

    @cached_property
    def begins_of(self) -> dict[str, Mapping[str, int]]:
        """Device -> module -> round from which the device trains it."""
        return {device: self.kind_of(device).begins for device in self.tree.devices}

    @cached_property
    def owners_of(self) -> dict[str, tuple[str, ...]]:
        """Module -> the devices that train it, in the tree's order."""
        owners: dict[str, list[str]] = {module: [] for module in self.modules}
        for device, modules in self.modules_of.items():
            for module in modules:
                owners[module].append(device)
        return {module: tuple(devices) for module, devices in owners.items()}

    @cached_property
    def begins_below(self) -> dict[str, dict[str, int]]:
        """Aggregating node -> module that any device below it trains, in order -> round from which one does."""
        known: dict[frozenset[str], dict[str, int]] = {}  # most nodes have the same groups below
        found = {}
        for node_id, groups in self.tree.groups_below.items():
            below = frozenset(groups)
            if below not in known:
                begins = [self.kinds[group].begins for group in groups]
                first = {
                    module: min(some[module] for some in begins if module in some) for some in begins for module in some
                }
                known[below] = {module: first[module] for module in self.modules if module in first}
            found[node_id] = known[below]
        return found

    def kind_of(self, device: str) -> Kind:
        """What a device owns."""
        return self.kinds[str(self.tree[device].group)]

    def scope(self, module: str) -> str:
        """The highest tier at which a module is averaged: `cloud`, a tier between, or `device` (personal)."""
        return self.scopes[module]

    def cadence(self, module: str, tier: str) -> int:
        """Every how many rounds nodes of `tier` send the module to their parents, if it goes up from there at all."""
        return self.cadences[module].get(tier, 1)

    def compression(self, module: str) -> tuple[Compression, ...]:
        """What makes updates of the module smaller; empty for as they are."""
        return self.compressions[module]

    def goes_up(self, module: str, tier: str, round_number: int) -> bool:
        """Whether nodes of `tier` send the module to their parents in this round; rounds count from 1."""
        if self.tiers.index(tier) <= self.tiers.index(self.scopes[module]):
            return False
        return round_number % self.cadence(module, tier) == 0

    def reaches(self, module: str, tier: str) -> bool:
        """Whether nodes of `tier` hold a version of the module: its scope is this tier or one above."""
        return self.tiers.index(tier) >= self.tiers.index(self.scopes[module])

    def tasks_of(self, device: str) -> tuple[str, ...]:
        """The tasks that a device executes, in its group's order."""
        return tuple(self.kind_of(device).inputs)

    def subtree_modules(self, node_id: str) -> tuple[str, ...]:
        """The modules trained by any device below a node (by itself, if it is a device), in order."""
        return tuple(self.begins_below[node_id]) if node_id in self.begins_below else self.kind_of(node_id).modules

    def owners_below(self, node_id: str, module: str, round_number: int) -> int:
        """How many devices below an aggregating node train a module in this round, if all take part."""
        groups = self.tree.groups_below[node_id].items()
        return sum(n for group, n in groups if self.kinds[group].begins.get(module, math.inf) <= round_number)

    def inputs_of(self, device: str, task: str) -> tuple[str, ...]:
        """The inputs of a task that a device collects, in the task's order; KeyError if it does not execute it."""
        return self.kind_of(device).inputs[task]

    def inputs_below(self, node_id: str, task: str) -> frozenset[str]:
        """The inputs of a task that any device below a node collects (itself, if it is a device)."""
        kinds = [self.kinds[g] for g in self.tree.groups_below.get(node_id, (str(self.tree[node_id].group),))]
        return frozenset(modality for kind in kinds for modality in kind.inputs.get(task, ()))


def own(config: Config, tree: Tree) -> Ownership:
    """Ownership of the configuration's modules on its tree."""
    modules = module_names(config)
    return Ownership(
        tree=tree,
        modules=modules,
        kinds={
            group.name: Kind(group_modules(config, group), group_begins(config, group), group_inputs(config, group))
            for group in config.devices
        },
        scopes={module: resolve_scope(config.federation, module) for module in modules},
        cadences={module: resolve_cadence(config.federation, module) for module in modules},
        compressions={module: resolve_compression(config.federation, module) for module in modules},
    )


def group_inputs(config: Config, group: DeviceGroup) -> dict[str, tuple[str, ...]]:
    """Task of a device group -> the task's inputs that its devices collect, in the task's order."""
    return {
        task: tuple(modality for modality in config.tasks[task].inputs if modality in group.modalities)
        for task in group.tasks
    }


def group_modules(config: Config, group: DeviceGroup) -> tuple[str, ...]:
    """The modules that a group's devices train: statistics and encoders of the inputs that they feed, prompts and heads
    of their tasks, and what all tasks share."""
    fed = {modality for inputs in group_inputs(config, group).values() for modality in inputs}
    names_of = {"statistics": fed, "encoder": fed, "prompt": set(group.tasks), "head": set(group.tasks)}

    def trains(module: str) -> bool:
        kind, name = kind_and_name(module)
        return kind not in names_of or name in names_of[kind]

    return tuple(module for module in module_names(config) if trains(module))


def group_begins(config: Config, group: DeviceGroup) -> dict[str, int]:
    """Module of a group -> round from which its devices train it: when they have joined and a task that needs it has
    begun."""
    of_task = {t: set(group_modules(config, group.model_copy(update={"tasks": (t,)}))) for t in group.tasks}
    return {
        module: min(task_begins(config, group, task) for task, needed in of_task.items() if module in needed)
        for module in group_modules(config, group)
    }


def task_begins(config: Config, group: DeviceGroup, task: str) -> int:
    """Round from which devices of a group execute one of their tasks."""
    return max(group.joins, config.tasks[task].begins)


def deciding_policy(
    federation: Federation, module: str, field: Literal["scope", "cadence", "compression"]
) -> int | None:
    """Index in `federation.modules` of the last policy that matches a module and gives the field; None if none."""
    giving = [
        i
        for i, policy in enumerate(federation.modules)
        if fnmatchcase(module, policy.match) and getattr(policy, field) is not None
    ]
    return giving[-1] if giving else None


def resolve_scope(federation: Federation, module: str) -> str:
    """The scope of a module: the deciding policy's, else the cloud."""
    i = deciding_policy(federation, module, "scope")
    return CLOUD if i is None else federation.modules[i].scope or CLOUD


def resolve_cadence(federation: Federation, module: str) -> Mapping[str, int]:
    """Tier -> cadence of a module: the whole mapping of the deciding policy, else the federation's; 1 where absent."""
    i = deciding_policy(federation, module, "cadence")
    return federation.cadence if i is None else federation.modules[i].cadence or {}


def resolve_compression(federation: Federation, module: str) -> tuple[Compression, ...]:
    """The compression of a module: the deciding policy's, else the federation's; statistics have none."""
    if is_statistics(module):
        return ()
    i = deciding_policy(federation, module, "compression")
    return federation.compression if i is None else federation.modules[i].compression or ()
