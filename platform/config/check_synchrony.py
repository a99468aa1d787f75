"""Checks of whom nodes wait for: what rests on all devices being at the same round does not go with stragglers."""

from __future__ import annotations

from itertools import pairwise

from ..errors import InputError
from ..modules import module_names
from ..ownership import resolve_cadence
from ..topology_build import tier_names
from .describe import listed
from .federation import Scaffold
from .root import Config
from .synchrony import Asynchronous, Synchronous


def synchrony_tiers_exist(config: Config) -> None:
    """Only aggregating nodes wait."""
    tiers = tier_names(config.topology)[:-1]
    for tier in config.federation.synchrony:
        if tier not in tiers:
            raise InputError(f"federation.synchrony.{tier}", f"{tier!r} does not aggregate; allowed: {listed(tiers)}")


def synchrony_has_a_clock(config: Config) -> None:
    """Who is late is known by the time that the network takes."""
    for tier, synchrony in config.federation.synchrony.items():
        if config.network is None and not isinstance(synchrony, Synchronous):
            where = f"federation.synchrony.{tier}.kind"
            raise InputError(where, f"{synchrony.kind!r} given, but there is no network; allowed: synchronous")


def stragglers_are_on_their_own(config: Config) -> None:
    """A device under way neither cooperates with others nor meets a deadline."""
    tiers = [t for t, s in config.federation.synchrony.items() if isinstance(s, Asynchronous)]
    if not tiers or config.network is None:
        return
    d2d = config.network.d2d
    refused = {
        "federation.rule.kind": isinstance(config.federation.rule, Scaffold),
        "network.deadline_s": config.network.deadline_s is not None,
        "network.d2d.heads": d2d is not None and d2d.heads,
        "network.d2d.share": d2d is not None and d2d.share,
        "network.d2d.gossip_steps": d2d is not None and d2d.gossip_steps > 0,
    }
    allowed = {"federation.rule.kind": "another rule than scaffold", "network.deadline_s": "null"}
    for where, given in refused.items():
        if given:
            problem = f"does not go with federation.synchrony.{tiers[0]} asynchronous; allowed: "
            raise InputError(where, problem + allowed.get(where, "none of it"))


def nodes_under_way_meet_every_round(config: Config) -> None:
    """Nodes whose sums come in a later round send in every round, whole versions go down to them."""
    federation, tiers = config.federation, tier_names(config.topology)
    for upper, lower in pairwise(tiers[:-1]):
        if not isinstance(federation.synchrony.get(upper), Asynchronous):
            continue
        given = f"does not go with federation.synchrony.{upper} asynchronous; allowed: "
        if any(resolve_cadence(federation, module).get(lower, 1) != 1 for module in module_names(config)):
            raise InputError(f"federation.cadence.{lower}", f"{given}1 for all modules")
        if federation.adaptive is not None:
            raise InputError("federation.adaptive", f"{given}null")
        if federation.compress_down:
            raise InputError("federation.compress_down", f"{given}false")
