"""Consensus among neighbours: every member of a neighbourhood moves towards the average, without a node above them.

In a step every member replaces its value by a weighted mean of its own and its direct neighbours': X <- W X, with a row
of X a member. Weights that are symmetric and sum to one keep the average, and a step shrinks the distance from it at
least by the factor ||W - 11'/n|| (Xiao and Boyd, Fast linear iterations for distributed averaging, 2004: the per-step
convergence factor). The weights are Metropolis's, which need to know no more than the neighbours' degrees (Xiao, Boyd
and Lall, A scheme for robust distributed sensor fusion based on average consensus, 2005).

Arithmetic is float64, one elementwise operation at a time in the sorted order of members, so the values are alike on
every machine; they are float32 before and after. Graphs are undirected: a link carries both ways. The module knows
nothing of rounds, of samples behind a value (all members count alike) or of what a step costs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import networkx as nx  # type: ignore[import-untyped]
import numpy as np
import torch

from ..aggregation.sums import Tensors, require_same_layout
from .band import Floats


@dataclass(frozen=True)
class Mixed:
    """What steps of consensus made of a module."""

    values: dict[str, Tensors]
    """Member -> its new value; members and tensors in sorted order."""
    before: float
    """Disagreement at the start: the sum over members of ||x_i - mean||^2."""
    after: float
    """Disagreement of `values`."""
    bound: float
    """`after` is at most contraction**(2 * steps) * before, but for the rounding of `values` to float32."""


def neighbourhoods(graph: nx.Graph, holders: Collection[str]) -> list[tuple[str, ...]]:
    """Holders that reach each other over holders alone, two or more together; sorted, and sorted within."""
    groups = nx.connected_components(_among(graph, holders))
    return sorted(tuple(sorted(group)) for group in groups if len(group) > 1)


def metropolis_weights(graph: nx.Graph, members: Sequence[str]) -> Floats:
    """W (n, n), rows in the order of `members`: 1 / (1 + max(d_i, d_j)) for neighbours, the rest of 1 for oneself.

    Neighbours and degrees are those among the members. W is symmetric, its rows and columns sum to 1 (to rounding), no
    entry is negative and none on the diagonal zero.

    Raises ValueError if the graph is directed, networkx.NetworkXError for members that it lacks or that come twice.
    """
    linked = nx.to_numpy_array(_among(graph, members), nodelist=members, weight=None) > 0  # (n, n)
    np.fill_diagonal(linked, False)
    degree = linked.sum(axis=1)  # (n,)
    weights: Floats = np.where(linked, 1 / (1 + np.maximum.outer(degree, degree)), 0.0)
    np.fill_diagonal(weights, 1 - weights.sum(axis=1))
    return weights


def contraction(weights: Floats) -> float:
    """||W - 11'/n||, the second largest magnitude of an eigenvalue of W (n, n), symmetric with rows that sum to 1.

    Below 1 if the members are connected, 0 (to rounding) if each is a neighbour of all others.
    """
    return float(np.linalg.norm(weights - 1 / len(weights), 2))


def mix(values: Mapping[str, Tensors], graph: nx.Graph, steps: int) -> Mixed:
    """`steps` of consensus on one module: member i gets the sum over j of (W^steps)_ij x_j.

    `values` are of the members of one neighbourhood, finite (`require_usable` tells), with the same names and shapes.
    Nothing given is changed, nothing returned shares memory.

    Raises ValueError for fewer than no steps or members that are not connected, UpdateRejected where layouts differ.
    """
    members = sorted(values)
    linked = _among(graph, members)
    if steps < 0:
        raise ValueError(f"steps is {steps}, it must not be negative")
    if not members or len(linked) < len(members) or not nx.is_connected(linked):
        raise ValueError(f"no connected neighbourhood: {', '.join(members) or 'nobody'}")
    for member in members[1:]:
        require_same_layout(values[members[0]], values[member])

    weights = metropolis_weights(graph, members)
    power = _power(weights, steps)
    mixed: dict[str, Tensors] = {member: {} for member in members}
    before = after = 0.0
    for name in sorted(values[members[0]]):
        old = torch.stack([values[member][name].detach().flatten() for member in members]).double().numpy()
        new = np.stack([_weighted(shares, old) for shares in power]).astype(np.float32)  # (n, entries), as is `old`
        before += _disagreement(old)
        after += _disagreement(new.astype(np.float64))
        for member, row in zip(members, new, strict=True):
            mixed[member][name] = torch.from_numpy(row).reshape(values[member][name].shape)
    return Mixed(mixed, before, after, bound=contraction(weights) ** (2 * steps) * before)


def _among(graph: nx.Graph, members: Collection[str]) -> nx.Graph:
    """The members that the graph knows, with the links among them. Raises ValueError if the graph is directed."""
    if graph.is_directed():
        raise ValueError("the graph is directed, links between neighbours must carry both ways")
    return graph.subgraph(members)


def _power(weights: Floats, steps: int) -> Floats:
    """W^steps; a matrix product of a library would add in an order of its own, which differs between machines."""
    power: Floats = np.eye(len(weights))
    for _ in range(steps):
        power = np.stack([_weighted(shares, weights) for shares in power])
    return power


def _weighted(shares: Floats, rows: Floats) -> Floats:
    """The sum of shares (n,) times rows (n, entries), in order: (entries,)."""
    total: Floats | None = None
    for share, row in zip(shares, rows, strict=True):
        if share:  # who is too many steps away adds nothing, not even the sign of a zero
            total = share * row if total is None else total + share * row
    assert total is not None  # shares sum to 1
    return total


def _disagreement(rows: Floats) -> float:
    """The sum over rows of ||row - mean||^2."""
    return float(np.square(rows - rows.mean(axis=0)).sum())
