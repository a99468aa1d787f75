"""How updates travel from device to device in a cluster of the HF-FM paper: to one aggregator and back.

users --shortest paths over D2D links--> aggregator --broadcast along a tree--> users
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, pairwise

import networkx as nx  # type: ignore[import-untyped]

from .hf_fm_channel import Floats

_NEIGHBOURS_M = 30.0


@dataclass(frozen=True)
class Relay:
    """What one exchange in a cluster takes. Airtime is what senders are billed for: transmissions, added up."""

    up_s: float
    """Until the farthest user's update has arrived."""
    up_airtime_s: float
    """Every update pays its whole path: nothing is added up on the way."""
    down_s: float
    """Until the farthest user has the result."""
    down_airtime_s: float
    """A link that leads to several users is paid once."""


def relay(latency_s: Floats, distance_m: Floats, aggregator: int) -> Relay:
    """One exchange between an aggregator and the other users of its cluster.

    Links are the pairs within 30 m if these connect all users, else a minimum spanning tree on the faster of a pair's
    two directions. Updates take the shortest paths in time.

    Args:
        latency_s: Of one update from sender to receiver, (users, users); the diagonal is not read.
        distance_m: Between users, (users, users).
        aggregator: Its index.
    """
    users = range(len(latency_s))
    pairs = list(combinations(users, 2))
    undirected = nx.Graph()
    undirected.add_nodes_from(users)
    undirected.add_edges_from(pair for pair in pairs if distance_m[pair] <= _NEIGHBOURS_M)
    if not nx.is_connected(undirected):
        faster_s = ((*pair, min(latency_s[pair], latency_s[pair[::-1]])) for pair in pairs)
        undirected.add_weighted_edges_from(faster_s)
        undirected = nx.minimum_spanning_tree(undirected)
    links = nx.DiGraph()
    for one, other in undirected.edges:
        links.add_edge(one, other, weight=float(latency_s[one, other]))
        links.add_edge(other, one, weight=float(latency_s[other, one]))
    up_s, _ = nx.single_source_dijkstra(links.reverse(), aggregator)
    down_s, paths = nx.single_source_dijkstra(links, aggregator)
    broadcast = {link for path in paths.values() for link in pairwise(path)}
    return Relay(
        up_s=max(up_s.values()),
        up_airtime_s=sum(up_s.values()),
        down_s=max(down_s.values()),
        down_airtime_s=sum(links.edges[link]["weight"] for link in sorted(broadcast)),
    )
