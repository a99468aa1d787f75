"""Which aggregating nodes share an actor. Has no influence on results, only on speed and memory."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from fogtune.platform.topology import Tree

from .packing import actor_name


@dataclass(frozen=True)
class PackedNodes:
    """An aggregators' process to be."""

    name: str
    """`fog/3` for a single node, else with those that it serves: `fog/0+2`, or `fog/0..24` where they are many."""
    nodes: tuple[str, ...]


def pack_nodes(tree: Tree, per_actor: int | Literal["auto"], processors: int) -> tuple[PackedNodes, ...]:
    """The nodes between cloud and devices, those of a tier and machine in actors of equal size, children of one parent
    together.

    Args:
        tree: of the configuration.
        per_actor: nodes an actor, at most; `auto`: one each while they are at most twice as many as the processors,
            else so many that there are about as many actors as processors.
        processors: of the cluster.
    """
    count = sum(len(tree.of_tier[tier]) for tier in tree.tiers[1:-1])
    if per_actor == "auto":
        per_actor = 1 if count <= 2 * processors else -(-count // processors)
    packed = []
    for above in tree.tiers[-3::-1]:
        of_machine: dict[str | None, list[str]] = {}
        for parent in tree.of_tier[above]:
            for child in tree.children[parent]:
                of_machine.setdefault(tree[child].machine, []).append(child)
        for nodes in of_machine.values():
            actors = -(-len(nodes) // per_actor)
            bounds = [len(nodes) * i // actors for i in range(actors + 1)]
            packed += [PackedNodes(_name(tree, nodes[a:b]), tuple(nodes[a:b])) for a, b in pairwise(bounds)]
    return tuple(packed)


def _name(tree: Tree, nodes: list[str]) -> str:
    tier, first = actor_name(tree, nodes[0]).split("/")
    others = [actor_name(tree, node).partition("/")[2] for node in nodes[1:]]
    return f"{tier}/{'+'.join([first, *others]) if len(nodes) <= 3 else f'{first}..{others[-1]}'}"
