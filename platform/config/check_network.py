"""Checks of the network: its nodes can be placed, and its channel suits the federation."""

from __future__ import annotations

from ..topology import Tree
from .root import Config


def network_can_be_built(config: Config, tree: Tree) -> None:
    """Positions that do not fit, a channel of other nodes or one that is not installed: told by building it."""
    if config.network is not None:
        from ..network.model import NetworkModel  # its generators bring torch along

        NetworkModel(config, config.network, tree)
