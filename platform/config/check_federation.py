"""Checks of averaging and local learning: policies meet modules and tiers, rules meet what they rely on."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from itertools import pairwise

from ..errors import InputError
from ..modules import module_names
from ..ownership import deciding_policy, resolve_cadence, resolve_compression, resolve_scope
from ..topology import CLOUD, DEVICE, Tree
from ..topology_build import tier_names
from .compression import Quantise, require_chain
from .describe import listed, shown
from .federation import Median, Scaffold, TrimmedMean
from .root import Config


def warmup_ends(config: Config) -> None:
    """A warm-up longer than the run never reaches the learning rate."""
    if config.local.warmup_rounds > config.rounds:
        problem = f"{config.local.warmup_rounds:g} given; allowed: 0 to {config.rounds}, the run's rounds"
        raise InputError("local.warmup_rounds", problem)


def policies_match(config: Config) -> None:
    """A policy that no module meets is a misspelt one."""
    modules = module_names(config)
    for i, policy in enumerate(config.federation.modules):
        if not any(fnmatchcase(module, policy.match) for module in modules):
            problem = f"{shown(policy.match)} matches no module; allowed: {listed(_short(modules))}"
            raise InputError(f"federation.modules.{i}.match", problem)


def _short(modules: tuple[str, ...]) -> list[str]:
    """The modules, the experts as one entry."""
    experts = [module for module in modules if module.startswith("expert/")]
    rest = [module for module in modules if module not in experts]
    return [*rest, f"expert/0 to {experts[-1]}"] if experts else rest


def scopes_exist(config: Config) -> None:
    """A scope is a tier of this tree."""
    tiers = tier_names(config.topology)
    for i, policy in enumerate(config.federation.modules):
        if policy.scope is not None and policy.scope not in tiers:
            problem = f"{policy.scope!r} is no tier; allowed: {listed(tiers)}"
            raise InputError(f"federation.modules.{i}.scope", problem)


def cadence_tiers_exist(config: Config) -> None:
    """A cadence belongs to a tier that has another above it."""
    sending = tier_names(config.topology)[1:]
    for where, cadence in _given_cadences(config).items():
        for tier in cadence:
            if tier not in sending:
                why = "the cloud sends nothing upward" if tier == CLOUD else f"{tier!r} is no tier"
                raise InputError(f"{where}.{tier}", f"{why}; allowed: {listed(sending)}")


def cadences_are_multiples(config: Config) -> None:
    """What a tier sends on must have come in: its rounds are among those of the tier below."""
    federation, tiers = config.federation, tier_names(config.topology)
    for module in module_names(config):
        cadence = resolve_cadence(federation, module)
        below_scope = tiers[tiers.index(resolve_scope(federation, module)) + 1 :]
        for lower, upper in pairwise(reversed(below_scope)):
            if cadence.get(upper, 1) % cadence.get(lower, 1):
                i = deciding_policy(federation, module, "cadence")
                where = "federation.cadence" if i is None else f"federation.modules.{i}.cadence"
                problem = (
                    f"{cadence.get(upper, 1)} for {module}; allowed: multiples of {cadence[lower]}, "
                    f"the cadence of {lower} below"
                )
                raise InputError(f"{where}.{upper}", problem)


def scaffold_uses_sgd(config: Config) -> None:
    """SCAFFOLD's control variates are made of plain SGD steps."""
    if isinstance(config.federation.rule, Scaffold) and config.local.optimizer != "sgd":
        raise InputError("local.optimizer", f"{config.local.optimizer!r} given; allowed with rule scaffold: sgd")


def scaffold_meets_every_round(config: Config) -> None:
    """SCAFFOLD's server variate is the mean of the devices' of the same round."""
    if not isinstance(config.federation.rule, Scaffold):
        return
    for where, cadence in _given_cadences(config).items():
        for tier, rounds in cadence.items():
            if rounds != 1:
                raise InputError(f"{where}.{tier}", f"{rounds} given; allowed with rule scaffold: 1")


def adaptive_tier_sends(config: Config) -> None:
    """Adaptive cadences are of a tier between devices and cloud: a device's are fixed."""
    adaptive, tiers = config.federation.adaptive, tier_names(config.topology)[1:-1]
    if adaptive is not None and adaptive.tier not in tiers:
        raise InputError("federation.adaptive.tier", f"{adaptive.tier!r} given; allowed: {listed(tiers)}")


def compressions_are_chains(config: Config) -> None:
    """Whether to send, which values, how finely: in this order."""
    federation = config.federation
    given = {"federation.compression": federation.compression}
    given |= {f"federation.modules.{i}.compression": p.compression or () for i, p in enumerate(federation.modules)}
    for where, transforms in given.items():
        try:
            require_chain(transforms)
        except ValueError as error:
            raise InputError(where, str(error)) from None


def what_goes_down_is_quantised(config: Config) -> None:
    """Without a quantised module nothing would be made smaller."""
    federation = config.federation
    chains = (resolve_compression(federation, module) for module in module_names(config))
    if federation.compress_down and not any(isinstance(t, Quantise) for chain in chains for t in chain):
        problem = "true given, but no module is quantised; allowed: false, or quantise in federation.compression"
        raise InputError("federation.compress_down", problem)


def compressed_meet_every_round(config: Config) -> None:
    """A change is sent against the version that its receiver has, so nobody may have moved on alone meanwhile."""
    federation = config.federation
    for module in module_names(config):
        if not resolve_compression(federation, module):
            continue
        if isinstance(federation.rule, Scaffold):
            raise InputError("federation.compression", "not with rule scaffold; allowed: none, or another rule")
        if (cadence := resolve_cadence(federation, module).get(DEVICE, 1)) != 1:
            i = deciding_policy(federation, module, "cadence")
            where = "federation.cadence" if i is None else f"federation.modules.{i}.cadence"
            raise InputError(f"{where}.{DEVICE}", f"{cadence} for {module}, which is compressed; allowed: 1")


def robust_rule_fits(config: Config, tree: Tree) -> None:
    """A median holds every update, so the number of devices under a node is bounded."""
    rule = config.federation.rule
    if not isinstance(rule, Median | TrimmedMean):
        return
    for node_id in dict.fromkeys(str(tree[device].parent) for device in tree.devices):
        children = len(tree.children[node_id])
        if children > rule.max_held:
            problem = f"{rule.max_held} given, but {node_id} has {children} devices; allowed: at least {children}"
            raise InputError("federation.rule.max_held", problem)


def sampling_has_what_it_needs(config: Config) -> None:
    """A way to draw devices needs some to be left out; costs need a network."""
    federation = config.federation
    if federation.sampling != "uniform" and federation.participation == 1.0:
        problem = f"{federation.sampling!r} given, but all devices take part; allowed: uniform"
        raise InputError("federation.sampling", f"{problem}, or federation.participation below 1")
    if federation.sampling == "cost" and config.network is None:
        raise InputError("federation.sampling", "'cost' given, but there is no network; allowed: uniform, data, loss")


def traces_can_be_read(config: Config, tree: Tree) -> None:
    """Told by reading them."""
    if config.federation.availability is not None:
        from ..federation.availability import availability  # its generators bring torch along

        availability(config, tree)


def _given_cadences(config: Config) -> dict[str, Mapping[str, int]]:
    """Field -> the cadences given there."""
    federation = config.federation
    given: dict[str, Mapping[str, int]] = {"federation.cadence": federation.cadence}
    for i, policy in enumerate(federation.modules):
        if policy.cadence is not None:
            given[f"federation.modules.{i}.cadence"] = policy.cadence
    return given
