"""Whom nodes wait for in a round (`federation.synchrony`), by when what their children send would come.

Decided before the round, from its script as it was played with all who may take part. A node that waits for some of its
children closes its round when the last of these has come. The others are late: what they did is in vain, or they stay
under way. Nothing of a child under way is computed before its sum is waited for; until then it keeps what it has begun
with, so nobody holds updates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter

from fogtune.platform.aggregation import Tensors
from fogtune.platform.aggregation.staleness import Missed
from fogtune.platform.config import Asynchronous, Config, SemiSynchronous, Synchrony
from fogtune.platform.topology import Tree

from .messages import Decision, RoundPlan


def missed_by(
    config: Config, tree: Tree, child: str, behind: Mapping[str, int], newest: Mapping[str, Tensors]
) -> Missed:
    """What a device or aggregating node has missed of its parent's versions.

    Args:
        config: the run's configuration.
        tree: of the configuration.
        child: the device or node.
        behind: module -> by how many rounds its parent's version is newer.
        newest: module -> that version.
    """
    synchrony = _above(config, tree, child)
    return Missed(behind, newest, synchrony.staleness_exponent if isinstance(synchrony, Asynchronous) else 0.0)


def waits_for_all(config: Config) -> bool:
    """Whether no node goes on without a child."""
    return not any(isinstance(s, SemiSynchronous | Asynchronous) for s in config.federation.synchrony.values())


@dataclass(frozen=True)
class Arrival:
    """When something comes to a node from a child, by the virtual clock, and which modules."""

    at_s: float
    modules: frozenset[str]


@dataclass(frozen=True)
class Late:
    """Of a child that is not waited for."""

    until_s: float
    """Virtual time at which its parent goes on."""
    why: str
    """In one line."""


def late_children(
    config: Config,
    tree: Tree,
    arrivals: Mapping[str, Arrival],
    sends: Callable[[str, frozenset[str]], tuple[frozenset[str], float]],
    ready_s: Mapping[str, float],
) -> dict[str, Late]:
    """The children that are not waited for.

    Args:
        config: the run's configuration.
        tree: of the configuration.
        arrivals: device -> when what it sends would come to its parent.
        sends: (node, modules that come to it) -> those that it sends up, and the seconds until they are there.
        ready_s: node -> virtual time at which it begins the round.
    """
    late: dict[str, Late] = {}
    coming = dict(arrivals)
    for node in tree.aggregators:
        came = _came(tree, node, coming)
        if not came:
            continue
        begins_s = ready_s.get(node, 0.0)
        closes_s = _closes_s(config.federation.synchrony.get(tree[node].tier), came, begins_s)
        in_time = [child for at_s, child in came if at_s <= closes_s]
        goes_on = f"{node} goes on at {closes_s:.4g} s with {len(in_time)} of {len(came)}"
        for at_s, child in came[len(in_time) :]:
            late[child] = Late(closes_s, f"it would come at {at_s:.4g} s, {goes_on}")
        modules, seconds = sends(node, frozenset().union(*(coming[child].modules for child in in_time)))
        if modules:
            coming[node] = Arrival(closes_s + seconds, modules)
    for node in reversed(tree.aggregators):  # who is cut off stops, and so do those below
        if node in late and not isinstance(_above(config, tree, node), Asynchronous):
            for at_s, child in _came(tree, node, coming):
                if at_s > late[node].until_s:
                    late[child] = late[node]
    return late


def _came(tree: Tree, node: str, coming: Mapping[str, Arrival]) -> list[tuple[float, str]]:
    """When something comes to a node, and from which child, one after the other."""
    return sorted(((coming[child].at_s, child) for child in tree.children[node] if child in coming), key=itemgetter(0))


def _closes_s(synchrony: Synchrony | None, came: Sequence[tuple[float, str]], begins_s: float) -> float:
    """When a node has waited long enough: not before it begins, for what has come by then is there."""
    closes_s = came[-1][0]
    if isinstance(synchrony, SemiSynchronous | Asynchronous):
        wanted = math.ceil(round(synchrony.share * len(came), 9))  # in floats 0.28 * 25 is more than 7
        closes_s = came[wanted - 1][0]
    if isinstance(synchrony, SemiSynchronous) and synchrony.deadline_s is not None:
        closes_s = min(closes_s, max(begins_s + synchrony.deadline_s, came[0][0]))
    return max(closes_s, begins_s)


def without_late(config: Config, tree: Tree, plan: RoundPlan, late: Mapping[str, Late]) -> RoundPlan:
    """The plan in which nobody waits for those who are late.

    Args:
        config: the run's configuration.
        tree: of the configuration.
        plan: with orders of all who may take part.
        late: the children that are not waited for.
    """
    stay = {child for child in late if isinstance(_above(config, tree, child), Asynchronous)}
    away = _below(tree, (child for child in stay if not tree.is_device(child)))
    late = {child: one for child, one in late.items() if tree[child].parent not in away}
    here = [order for order in plan.orders if tree[order.device].parent not in away]
    cut_off = {child: one.until_s for child, one in late.items() if child not in stay}
    what = {child: "is too late" if child in cut_off else "is late" for child in late}
    return replace(
        plan,
        orders=tuple(order for order in here if order.device not in late),
        late=tuple(o._replace(until_s=cut_off[o.device]) for o in here if o.device in cut_off),
        beginning=tuple(order for order in here if order.device in stay and order.begun is None),
        cut_off=frozenset(child for child in cut_off if not tree.is_device(child)),
        away=frozenset(away),
        decisions=(*plan.decisions, *(Decision(child, what[child], one.why) for child, one in late.items())),
    )


def latest_s(plan: RoundPlan, ready_s: Mapping[str, float], before_s: float) -> float:
    """Virtual time at which the latest node can go on after a round, but for devices that nobody has waited for.

    Args:
        plan: the round's.
        ready_s: node that took part -> when it can go on.
        before_s: the same before the round.
    """
    apart = {order.device for order in (*plan.late, *plan.beginning)}
    return max([before_s, *(at_s for node, at_s in ready_s.items() if node not in apart)])


def _above(config: Config, tree: Tree, child: str) -> Synchrony | None:
    """How the parent of a device or node waits; the cloud has none."""
    parent = tree[child].parent
    return config.federation.synchrony.get(tree[parent].tier) if parent else None


def _below(tree: Tree, nodes: Iterable[str]) -> set[str]:
    """Aggregating nodes: these, and all of those below them."""
    found: set[str] = set()
    for node in nodes:
        if not tree.is_device(node):
            found |= {node, *_below(tree, tree.children[node])}
    return found
