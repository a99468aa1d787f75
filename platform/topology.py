"""The tree of nodes: devices are the leaves, the cloud is the root, any depth between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

CLOUD = "cloud"
DEVICE = "device"


@dataclass(frozen=True)
class Node:
    """One node of the tree. Positions, in metres, are known only where the topology places its nodes."""

    id: str
    tier: str
    parent: str | None
    group: str | None = None
    """The device group, of devices only."""
    x_m: float | None = None
    y_m: float | None = None
    machine: str | None = None
    """Label of the machine that it runs on; None where nodes are only simulated."""


@dataclass(frozen=True)
class Tree:
    """All nodes by id, in order: the cloud, then tier by tier downwards, devices last in the configuration's order."""

    nodes: dict[str, Node]
    tiers: tuple[str, ...]
    """From the top: `("cloud", "fog", "device")`."""

    def __getitem__(self, node_id: str) -> Node:
        return self.nodes[node_id]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    @cached_property
    def children(self) -> dict[str, tuple[str, ...]]:
        """Node id -> ids of its children, in order; devices have none."""
        lists: dict[str, list[str]] = {node_id: [] for node_id in self.nodes}
        for node in self:
            if node.parent is not None:
                lists[node.parent].append(node.id)
        return {node_id: tuple(ids) for node_id, ids in lists.items()}

    @cached_property
    def of_tier(self) -> dict[str, tuple[str, ...]]:
        """Tier, from the top -> ids of its nodes, in order."""
        lists: dict[str, list[str]] = {tier: [] for tier in self.tiers}
        for node in self:
            lists[node.tier].append(node.id)
        return {tier: tuple(ids) for tier, ids in lists.items()}

    @property
    def devices(self) -> tuple[str, ...]:
        """Ids of the devices, in order."""
        return self.of_tier[DEVICE]

    @cached_property
    def aggregators(self) -> tuple[str, ...]:
        """Ids of all other nodes, from the bottom tier upwards: the cloud is last."""
        return tuple(node.id for node in reversed(list(self)) if node.tier != DEVICE)

    @cached_property
    def groups_below(self) -> dict[str, dict[str, int]]:
        """Id of an aggregating node -> device group -> how many of its devices are below the node."""
        counts: dict[str, dict[str, int]] = {node_id: {} for node_id in self.aggregators}

        def add(node: Node, group: str, count: int) -> None:
            above = counts[node.parent or ""]
            above[group] = above.get(group, 0) + count

        for device in self.devices:
            add(self[device], str(self[device].group), 1)
        for node_id in self.aggregators[:-1]:
            for group, count in counts[node_id].items():
                add(self[node_id], group, count)
        return counts

    def is_device(self, node_id: str) -> bool:
        """Whether this is a device: not an aggregating node, nor an access point, which is no node of the tree."""
        return node_id in self.nodes and self[node_id].tier == DEVICE

    def leaves(self, node_id: str) -> tuple[str, ...]:
        """Ids of the devices below a node (itself, if it is a device)."""
        if self[node_id].tier == DEVICE:
            return (node_id,)
        return tuple(leaf for child in self.children[node_id] for leaf in self.leaves(child))

    def path_up(self, node_id: str) -> tuple[str, ...]:
        """Ids from a node to the cloud, both included."""
        parent = self[node_id].parent
        return (node_id, *self.path_up(parent)) if parent is not None else (node_id,)
