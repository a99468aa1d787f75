"""Checks of the network: its nodes can be placed, and its channel suits the federation."""

from __future__ import annotations

from ..errors import InputError
from ..modules import is_statistics, module_names
from ..ownership import resolve_cadence, resolve_scope
from ..topology import DEVICE, Tree
from .root import Config


def gossip_has_modules(config: Config) -> None:
    """Neighbours can only average what they keep for a while and what is not personal."""
    d2d = config.network.d2d if config.network else None
    if d2d is None or not d2d.gossip_steps:
        return
    federation = config.federation
    for module in module_names(config):
        personal = is_statistics(module) or resolve_scope(federation, module) == DEVICE
        if not personal and resolve_cadence(federation, module).get(DEVICE, 1) > 1:
            return
    problem = f"{d2d.gossip_steps} given, but devices send up every round what is not personal"
    raise InputError("network.d2d.gossip_steps", f"{problem}; allowed: 0, or a cadence of device above 1")


def sharing_has_ways(config: Config) -> None:
    """What devices hand on may go over others."""
    d2d = config.network.d2d if config.network else None
    if d2d is not None and d2d.share and not d2d.relay:
        raise InputError(
            "network.d2d.share", "true given, but network.d2d.relay is false; allowed: false, or both true"
        )


def network_can_be_built(config: Config, tree: Tree) -> None:
    """Positions that do not fit, a channel of other nodes or one that is not installed: told by building it."""
    if config.network is not None:
        from ..network.model import NetworkModel  # its generators bring torch along

        NetworkModel(config, config.network, tree)
