"""Where the nodes of a tree stand, and through which node's radio each device reaches the others.

A device's *access node* is its parent, a node of the lowest tier; directly under the cloud it is an access point,
which forwards and adds nothing up. Access points stand where the nodes of a lowest tier of as many would stand, and so
do the devices around them: a star and a hierarchy of the same seed have the same radio links.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from fogtune.platform.config import Config, Network, PaperChannel, PlacedTopology, Placement
from fogtune.platform.errors import InputError
from fogtune.platform.placement import Point, spread
from fogtune.platform.rng import numpy_generator
from fogtune.platform.topology import CLOUD, Tree

from .paper_channel import paper_positions


@dataclass(frozen=True)
class Sites:
    """Positions and radio access of all nodes."""

    position_m: Mapping[str, Point]
    """Node or access point -> x and y."""
    access: Mapping[str, str]
    """Device -> access node."""
    cells: Mapping[str, tuple[str, ...]]
    """Access node -> its devices, in the tree's order."""

    @cached_property
    def radio_name(self) -> Mapping[str, str]:
        """Access node -> name under which its links are drawn: fog nodes and access points of one place share it."""
        return {access: f"access-{i}" for i, access in enumerate(self.cells)}

    def distance_m(self, one: str, other: str) -> float:
        """Between two nodes."""
        return math.dist(self.position_m[one], self.position_m[other])


def find_sites(config: Config, tree: Tree, network: Network) -> Sites:
    """Sites of a tree: those of the paper for its channel, of a placed topology its own, else drawn at random.

    Raises:
        InputError: a tier's nodes do not fit as far apart as they should, or they are not those of the paper.
    """
    placement = network.placement
    inner = [[node.id for node in tree if node.tier == tier] for tier in tree.tiers[1:-1]]
    access = {device: tree[device].parent or "" for device in tree.devices}
    if not inner:
        points = [f"ap-{i}" for i in range(placement.access_points)]
        if taken := [point for point in points if point in tree.nodes]:
            raise InputError("devices", f"{taken[0]!r} is the name of an access point; allowed: other names of groups")
        access = {device: points[i % len(points)] for i, device in enumerate(tree.devices)}
        inner = [points]
    cells: dict[str, tuple[str, ...]] = {
        node: tuple(d for d in tree.devices if access[d] == node) for node in dict.fromkeys(access.values())
    }
    if isinstance(network.channel, PaperChannel):
        return Sites(paper_positions(cells), access, cells)
    if isinstance(config.topology, PlacedTopology):
        placed = {node.id: (node.x_m or 0.0, node.y_m or 0.0) for node in tree}
        return Sites(placed, access, cells)
    positions: dict[str, Point] = {CLOUD: (placement.side_m / 2, placement.side_m / 2)}
    for depth, ids in enumerate(inner):
        positions |= _spread(placement, ids, len(inner) - depth, config.seed)
    for i, node in enumerate(inner[-1]):
        positions |= _gather(positions[node], cells.get(node, ()), placement, i, config.seed)
    return Sites(positions, access, cells)


def _spread(placement: Placement, ids: Sequence[str], level: int, seed: int) -> dict[str, Point]:
    """Nodes of a tier, `level` tiers above the devices."""
    generator = numpy_generator(seed, "placement", "level", level)
    where = "network.placement.separation_m"
    points = spread(len(ids), placement.side_m, placement.separation_m, generator, where)
    return dict(zip(ids, points, strict=True))


def _gather(home: Point, devices: Sequence[str], placement: Placement, cell: int, seed: int) -> dict[str, Point]:
    """The devices of a cell, around a centre of their own."""
    centre = _in_disc(home, placement.radius_m, seed, "centre", cell)
    return {device: _in_disc(centre, placement.spread_m, seed, "device", device) for device in devices}


def _in_disc(middle: Point, radius_m: float, seed: int, *key: str | int) -> Point:
    """Uniform in a disc; it may reach beyond the square."""
    radius, angle = numpy_generator(seed, "placement", *key).uniform(size=2).tolist()
    distance_m = radius_m * math.sqrt(radius)
    return middle[0] + distance_m * math.cos(math.tau * angle), middle[1] + distance_m * math.sin(math.tau * angle)
