"""Nodes placed at random in a square, each attached to the nearest node of the tier above."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from .config import PlacedTopology
from .errors import InputError
from .rng import numpy_generator
from .topology import CLOUD, DEVICE, Node

_TRIES = 10_000

Point = tuple[float, float]
"""x and y in metres; the square's corners are (0, 0) and (side_m, side_m)."""


def place(
    topology: PlacedTopology,
    tiers: Sequence[tuple[str, Sequence[str]]],
    devices: Sequence[tuple[str, str]],
    seed: int,
) -> Iterator[Node]:
    """All nodes with their positions, in the tree's order.

    `tiers` are (name, node ids) from the top, `devices` (id, group). The cloud is at the centre; nodes of a tier are
    uniform in the square at least `separation_m` apart; devices are dealt in turn to nodes of the lowest tier and
    are uniform in the part of the disc around them that lies in the square.

    Raises InputError if a tier's nodes do not fit that far apart.
    """
    centre = (topology.side_m / 2, topology.side_m / 2)
    yield Node(CLOUD, CLOUD, None, None, *centre)
    above = {CLOUD: centre}
    for i, (tier, ids) in enumerate(tiers):
        points = dict(zip(ids, _spread(topology, i, seed), strict=True))
        yield from (Node(node_id, tier, _nearest(point, above), None, *point) for node_id, point in points.items())
        above = points
    homes = list(above.values())
    for i, (device, group) in enumerate(devices):
        point = _around(homes[i % len(homes)], topology, device, seed)
        yield Node(device, DEVICE, _nearest(point, above), group, *point)


def _spread(topology: PlacedTopology, tier: int, seed: int) -> list[Point]:
    """Positions of a tier's nodes."""
    name, count = topology.tiers[tier].name, topology.tiers[tier].count
    generator = numpy_generator(seed, "placement", "tier", name)
    return spread(count, topology.side_m, topology.separation_m, generator, f"topology.tiers.{tier}.count")


def spread(count: int, side_m: float, separation_m: float, generator: np.random.Generator, where: str) -> list[Point]:
    """`count` points at random in a square, by rejection of those that come too close to an earlier one.

    Raises InputError, which names the field `where`, if they do not fit.
    """
    points: list[Point] = []
    for _ in range(_TRIES):
        x_m, y_m = generator.uniform(0, side_m, size=2).tolist()
        if all(math.dist((x_m, y_m), other) >= separation_m for other in points):
            points.append((x_m, y_m))
        if len(points) == count:
            return points
    problem = (
        f"{count} nodes do not fit {separation_m:g} m apart into a square of {side_m:g} m "
        f"({len(points)} did in {_TRIES} tries); allowed: fewer nodes, less separation_m, more side_m"
    )
    raise InputError(where, problem)


def _around(home: Point, topology: PlacedTopology, device: str, seed: int) -> Point:
    """Uniform in the disc around `home`, clipped to the square.

    Drawn in the disc's bounding box, clipped first: at least about half of the draws are then in the disc, however
    large its radius is.
    """
    generator = numpy_generator(seed, "placement", "device", device)
    radius_m = topology.radius_m
    low = [max(0.0, centre - radius_m) for centre in home]
    high = [min(topology.side_m, centre + radius_m) for centre in home]
    while True:
        x_m, y_m = generator.uniform(low, high).tolist()
        if math.dist((x_m, y_m), home) <= radius_m:
            return x_m, y_m


def _nearest(point: Point, nodes: dict[str, Point]) -> str:
    """The nearest node; of equally near ones the first."""
    return min(nodes, key=lambda node_id: math.dist(point, nodes[node_id]))
