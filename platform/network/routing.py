"""Ways of updates from devices to their parent: direct, over other devices, or added up by a cluster head.

All are decided a cell from what a bit costs on each link this round (`NetworkModel.bit_cost`), with whole bands: who
will share them is only known once all ways are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import networkx as nx  # type: ignore[import-untyped]

from .model import NetworkModel


@dataclass(frozen=True)
class Way:
    """How a device's update gets up, and its downloads down."""

    relays: tuple[str, ...]
    """Devices between it and its access node (or its head), from its side."""
    head: str | None
    """Device that adds the update to its own; null if it goes up by itself."""
    cost: float
    """Of a bit, up to the access node or the head."""


Ways = dict[str, Way]
"""Device -> its way; devices that cannot get anything up are left out."""


@dataclass(frozen=True)
class Cell:
    """The radio links of a cell in a round, as a graph."""

    access: str
    links: nx.DiGraph
    """Sender -> receiver, with the `cost` of a bit; only links that can be used."""
    hears: frozenset[str]
    """Devices that the access node reaches."""

    @classmethod
    def of(cls, model: NetworkModel, round_number: int, access: str, awake: Sequence[str]) -> Cell:
        """The links of the devices that are awake."""
        links = nx.DiGraph()
        links.add_nodes_from((access, *awake))

        def connect(sender: str, receiver: str) -> None:
            cost = model.bit_cost(round_number, sender, receiver)
            if math.isfinite(cost):
                links.add_edge(sender, receiver, cost=cost)

        hears = frozenset(device for device in awake if model.rate_bits_per_s(round_number, access, device))
        for device in (device for device in awake if device in hears):
            connect(access, device)
        for device in awake:
            if device in hears:  # else it cannot be told when to send
                connect(device, access)
            for other in model.neighbours(device, awake):
                connect(device, other)
        return cls(access, links, hears)

    @cached_property
    def down(self) -> dict[str, tuple[str, ...]]:
        """Device -> devices over which the access node reaches it, from its side; who is out of reach is left out."""
        _, paths = nx.single_source_dijkstra(self.links, self.access, weight="cost")
        found = {device: tuple(reversed(path[1:-1])) for device, path in paths.items() if device != self.access}
        return found | dict.fromkeys(self.hears, ())


def ways_up(cell: Cell, relay: bool) -> Ways:
    """The cheapest way of every device to the access node; with `relay` over other devices too."""
    if not relay:
        return {device: Way((), None, link["cost"]) for device, _, link in cell.links.in_edges(cell.access, data=True)}
    costs, paths = nx.single_source_dijkstra(cell.links.reverse(copy=False), cell.access, weight="cost")
    return {
        device: Way(tuple(reversed(paths[device][1:-1])), None, cost)
        for device, cost in costs.items()
        if device != cell.access
    }


def _to(head: str, links: nx.DiGraph, relay: bool) -> tuple[Mapping[str, float], Mapping[str, Sequence[str]]]:
    """Device -> cost of a bit to the head, and the path from the head's side; without `relay` only direct links."""
    if relay:
        costs, paths = nx.single_source_dijkstra(links.reverse(copy=False), head, weight="cost")
        return costs, paths
    direct = {device: link["cost"] for device, _, link in links.in_edges(head, data=True)}
    return direct, {device: (head, device) for device in direct}


def elect_heads(
    cell: Cell,
    direct: Ways,
    bits: Mapping[str, float],
    sum_bits: Callable[[Collection[str]], float],
    worn: Mapping[str, float],
    relay: bool,
) -> Ways:
    """Ways in which clusters of devices have a head, where that costs less than each of them going up by itself.

    A cluster is a set of devices that reach each other. Of its members each is tried as the head: the others' updates
    come to it the cheapest way, and it sends the sum. The cost of a candidate counts times its wear; the cheapest is
    elected.

    Args:
        cell: the links.
        direct: each device's way up by itself.
        bits: participant -> bits of its update.
        sum_bits: bits of the sum of some devices' updates.
        worn: device -> how often it has served, over the charge that it has left; 0 where absent.
        relay: whether a member's update may go over other devices on its way to the head.
    """
    ways = dict(direct)
    among = cell.links.subgraph([device for device in cell.links if device != cell.access])
    for cluster in map(sorted, nx.strongly_connected_components(among)):
        members = [device for device in cluster if bits.get(device)]
        alone = sum(direct[device].cost * bits[device] if device in direct else math.inf for device in members)
        best: tuple[float, str, Ways] | None = None
        for head in members:
            if head not in direct or direct[head].relays:  # another device is nearer to the access node
                continue
            costs, paths = _to(head, among, relay)
            found = {
                device: Way(tuple(reversed(paths[device][1:-1])), head, costs[device])
                for device in members
                if device != head and device in costs
            }
            if len(found) < len(members) - 1:
                continue
            total = sum(way.cost * bits[device] for device, way in found.items())
            total += direct[head].cost * sum_bits(members)
            score = total * (1 + worn.get(head, 0.0))
            if total < alone and (best is None or (score, head) < best[:2]):
                best = (score, head, found)
        if best is not None:
            ways |= best[2]
    return ways
