"""`topology.json`: where each node stands in the tree and in space, and which modules it owns."""

from __future__ import annotations

from fogtune.platform.config import Config
from fogtune.platform.network.sites import find_sites
from fogtune.platform.ownership import own
from fogtune.platform.run.directory import RunDirectory
from fogtune.platform.run.record import NodeEntry
from fogtune.platform.topology_build import build_tree


def write_topology(config: Config, directory: RunDirectory) -> None:
    """Write it into a run's directory."""
    tree = build_tree(config)
    ownership = own(config, tree)
    placed = {node.id: (node.x_m, node.y_m) for node in tree if node.x_m is not None and node.y_m is not None}
    points = dict(find_sites(config, tree, config.network).position_m) if config.network else placed
    groups = {group.name: group for group in config.devices}

    def entry(node_id: str) -> NodeEntry:
        node = tree[node_id]
        group = groups.get(node.group or "")
        x_m, y_m = points.get(node_id, (None, None))
        return NodeEntry(
            tier=node.tier,
            parent=node.parent,
            group=node.group,
            modalities=list(group.modalities) if group else [],
            tasks=list(group.tasks) if group else [],
            modules=list(ownership.subtree_modules(node_id)),
            x_m=x_m,
            y_m=y_m,
        )

    nodes = {node.id: entry(node.id) for node in tree}
    directory.write_topology(nodes, {name: point for name, point in points.items() if name not in nodes})
